"""What becomes of the memory of optimizers that are not torch's own, where units are replaced."""

from __future__ import annotations

import pytest
import torch
from small_networks import Problem, chain, learn
from torch import nn
from torch.optim import Optimizer

import cbp


def replaced_after(
    model: nn.Module, optimizer: Optimizer, updates: int = 20, reset: str = "moments"
) -> tuple[list[int], list[int]]:
    """The units that are replaced after so many updates, half of them, and the others."""
    method = cbp.ContinualBackprop(
        model, optimizer, replacement_rate=0.5, maturity_threshold=updates - 1, reset_optimizer=reset
    )
    problem, replaced = Problem(3, 2), []
    for _ in range(updates):
        learn(model, optimizer, *problem())
        (units,) = method.step()
        replaced += units.tolist()
    assert 0 < len(replaced) < 6
    return replaced, [i for i in range(6) if i not in replaced]


# Classes that derive from torch's


class OwnRprop(torch.optim.Rprop):
    pass


class OwnAdagrad(torch.optim.Adagrad):
    pass


class OwnLBFGS(torch.optim.LBFGS):
    pass


@pytest.mark.parametrize(
    ("kind", "options", "state", "beginning"),
    [
        (OwnRprop, {"lr": 0.02}, "step_size", 0.02),
        (OwnAdagrad, {"lr": 0.01, "initial_accumulator_value": 0.3}, "sum", 0.3),
    ],
)
def test_a_class_that_derives_from_torchs_begins_where_that_begins(kind, options, state, beginning):
    model = chain(3, 6, 2, activation=nn.Tanh)
    optimizer = kind(model.parameters(), **options)
    replaced, kept = replaced_after(model, optimizer)
    remembered = optimizer.state[model[0].weight][state]
    assert (remembered[replaced] == beginning).all()
    assert (remembered[kept] != beginning).any()


def test_a_class_that_derives_from_one_that_cannot_be_reset_is_refused_too():
    model = chain(3, 6, 2)
    with pytest.raises(TypeError, match=r"what test_optimizers\.OwnLBFGS remembers cannot be reset.*must be 'none'"):
        cbp.ContinualBackprop(model, OwnLBFGS(model.parameters()))
    cbp.ContinualBackprop(model, OwnLBFGS(model.parameters()), reset_optimizer="none")


class Signs(Optimizer):
    """An optimizer of nobody's: steps of one length along the sign of an average."""

    def __init__(self, params: object) -> None:
        super().__init__(params, {"length": 0.01})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 0.1)
                parameter.sub_(average.sign(), alpha=group["length"])


def test_what_an_unknown_optimizer_remembers_is_zeroed():
    model = chain(3, 6, 2, activation=nn.Tanh)
    optimizer = Signs(model.parameters())
    replaced, kept = replaced_after(model, optimizer)
    average = optimizer.state[model[0].weight]["average"]
    assert not average[replaced].any()
    assert average[kept].all()
