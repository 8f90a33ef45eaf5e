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


# Optimizers around others


class Around(Optimizer):
    """Hands every update on to another optimizer, as wrappers do that keep something of their own."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, {})
        self.param_groups = inner.param_groups

    def step(self) -> None:
        self.inner.step()


class Showing(Around):
    """As Accelerate's: what it shows as its state is that of the other."""

    @property
    def state(self) -> object:
        return self.inner.state

    @state.setter
    def state(self, value: object) -> None:
        pass


class Several(Optimizer):
    """One optimizer for matrices, another for vectors."""

    def __init__(self, *inner: Optimizer) -> None:
        self.all = inner
        super().__init__([group for one in inner for group in one.param_groups], {})

    def step(self) -> None:
        for one in self.all:
            one.step()


@pytest.mark.parametrize("wrap", [Around, Showing, lambda inner: Around(Showing(inner)), Several])
@pytest.mark.parametrize(
    ("kind", "state", "beginning"), [(torch.optim.Adam, "exp_avg", 0.0), (torch.optim.Rprop, "step_size", 0.02)]
)
def test_what_a_wrapped_optimizer_remembers_begins_anew(wrap, kind, state, beginning):
    model = chain(3, 6, 2, activation=nn.Tanh)
    inner = kind(model.parameters(), lr=0.02)
    replaced, kept = replaced_after(model, wrap(inner))
    remembered = inner.state[model[0].weight][state]
    assert (remembered[replaced] == beginning).all()
    assert (remembered[kept] != beginning).any()
    remembered = inner.state[model[2].weight][state]
    assert (remembered[:, replaced] == beginning).all()
    assert (remembered[:, kept] != beginning).any()


def test_what_a_wrapper_remembers_itself_begins_anew_too():
    model = chain(3, 6, 2, activation=nn.Tanh)
    inner = torch.optim.Adam(model.parameters())
    around = Around(inner)
    around.state[model[0].weight]["average"] = torch.ones_like(model[0].weight)
    replaced, kept = replaced_after(model, around)
    assert not around.state[model[0].weight]["average"][replaced].any()
    assert around.state[model[0].weight]["average"][kept].all()
    assert not inner.state[model[0].weight]["exp_avg"][replaced].any()


def test_a_wrapped_optimizer_that_cannot_be_reset_is_refused():
    model = chain(3, 6, 2)
    around = Around(torch.optim.LBFGS(model.parameters()))
    with pytest.raises(TypeError, match=r"torch\.optim\.lbfgs\.LBFGS remembers cannot be reset.*must be 'none'"):
        cbp.ContinualBackprop(model, around)
    cbp.ContinualBackprop(model, around, reset_optimizer="none")


def test_counts_of_steps_begin_anew_in_a_wrapped_optimizer_that_has_them_by_element():
    model = chain(3, 6, 2, activation=nn.Tanh)
    inner = cbp.Adam(model.parameters())
    replaced, kept = replaced_after(model, Around(inner), reset="moments_and_step")
    steps = inner.state[model[0].weight]["step"]
    assert not steps[replaced].any()
    assert steps[kept].all()
    with pytest.raises(TypeError, match=r"needs cbp\.Adam.*got torch\.optim\.adam\.Adam"):
        cbp.ContinualBackprop(model, Around(torch.optim.Adam(model.parameters())), reset_optimizer="moments_and_step")


def test_optimizers_that_know_each_other_are_followed_once():
    model = chain(3, 6, 2, activation=nn.Tanh)
    inner = torch.optim.Adam(model.parameters())
    inner.around = around = Around(inner)
    replaced, _ = replaced_after(model, around)
    assert not inner.state[model[0].weight]["exp_avg"][replaced].any()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # by the import
def test_the_part_that_zero_redundancy_keeps_begins_anew(tmp_path):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = chain(3, 6, 2, activation=nn.Tanh)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=0.01)
        replaced, kept = replaced_after(model, optimizer)
    finally:
        torch.distributed.destroy_process_group()
    assert not optimizer.optim.state[model[0].weight]["exp_avg"][replaced].any()
    assert optimizer.optim.state[model[0].weight]["exp_avg"][kept].any()
