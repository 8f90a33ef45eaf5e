"""ReDo against its equation, one unit and one number at a time."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from oracle import Layer, Oracle
from small_networks import Problem, begin_alike, by_hand, chain, learn, still, update
from torch import Tensor, nn

import cbp


class ReDoOracle(Oracle):
    """Replaces, every so many steps, every unit whose score is at most the threshold."""

    def __init__(self, layers: list[Layer], optimizer: torch.optim.Optimizer, threshold: float, period: int, **options) -> None:
        super().__init__(layers, optimizer, 0, 0, **options)
        self.threshold = threshold
        self.period = period
        self.steps = 0

    def step(self, received: list[list[Tensor] | None]) -> list[list[int]]:
        self.steps += 1
        return super().step(received)

    def test(self, layer: Layer, inputs: list[list[list[float]]]) -> list[int]:
        for i in range(layer.units):
            layer.age[i] += 1
        if self.steps % self.period != 0:
            return []
        # s_i = E|h_i| / (1/H · Σ_k E|h_k|)
        activity = [
            sum(sum(abs(row[i]) for row in rows) / len(rows) for rows in inputs) / len(inputs) for i in range(layer.units)
        ]
        mean = sum(activity) / layer.units
        layer.utility = [a / mean if mean > 0 else 0.0 for a in activity]
        return [i for i in range(layer.units) if layer.utility[i] <= self.threshold]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "cbp_adam"])
@pytest.mark.parametrize("reset_optimizer", ["none", "moments"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_redo_agrees_with_the_oracle_step_by_step(optimizer, reset_optimizer, activation):
    optimizers = {
        "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        "cbp_adam": lambda model: cbp.Adam(model.parameters(), lr=0.02),
    }
    model = chain(3, 8, 6, 2, activation=activation, seed=3)
    twin = copy.deepcopy(model)
    model_optimizer, twin_optimizer = optimizers[optimizer](model), optimizers[optimizer](twin)
    options = {"threshold": 0.6, "period": 7, "reset_optimizer": reset_optimizer, "seed": 11}
    method = cbp.ReDo(model, model_optimizer, **options)
    name = "relu" if activation is nn.ReLU else "tanh"
    oracle = ReDoOracle([Layer(twin[0], [twin[2]], name), Layer(twin[2], [twin[4]], name)], twin_optimizer, **options)
    received: dict[nn.Module, Tensor] = {}
    for linear in (twin[2], twin[4]):
        linear.register_forward_pre_hook(lambda module, args: received.__setitem__(module, args[0].detach()))
    problem = Problem(3, 2)
    total = 0
    for step in range(1, 85):
        x, y = problem()
        replaced = update(model, model_optimizer, method, x, y)
        learn(twin, twin_optimizer, x, y)
        assert replaced == oracle.step([[received[twin[2]]], [received[twin[4]]]]), f"step {step}"
        if step % 7:
            assert replaced == [[], []]
        total += sum(map(len, replaced))
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)
        for layer, known in zip(method.layers, oracle.layers, strict=True):
            assert torch.allclose(layer.utility, torch.tensor(known.utility, dtype=torch.float64), rtol=1e-8)
            assert layer.age.tolist() == known.age
        begin_alike(model, model_optimizer, twin, twin_optimizer)
    assert total >= 10
    assert sum(layer.replaced for layer in method.layers) == total


def test_a_unit_at_the_threshold_is_dormant_and_one_above_is_not():
    # Inputs 1: activities 1, 2, 9 and 4, mean 16 / 4 = 4, scores 0.25, 0.5, 2.25 and 1.
    model = by_hand([[1.0], [2.0], [9.0], [4.0]], [[1.0, 1.0, 1.0, 1.0]])
    method = cbp.ReDo(model, still(model), threshold=0.5, period=2)
    x = torch.ones(1, 1, dtype=torch.float64)
    model(x)
    assert method.step()[0].tolist() == []  # not yet
    model(x)
    assert method.step()[0].tolist() == [0, 1]
    # Both were removed and came back with score 0; that of the others stays what it was.
    assert method.layers[0].utility.tolist() == [0, 0, 2.25, 1.0]
    assert model[2].weight.tolist() == [[0, 0, 1, 1]]
    assert method.layers[0].age.tolist() == [0, 0, 2, 2]


def test_where_nothing_is_active_every_unit_is_dormant():
    model = by_hand([[-1.0], [-2.0]], [[1.0, 1.0]])
    method = cbp.ReDo(model, still(model), threshold=0.0, period=1)
    model(torch.ones(4, 1, dtype=torch.float64))
    assert method.step()[0].tolist() == [0, 1]
    assert not any(p.isnan().any() for p in model.parameters())


def test_a_unit_with_several_heads_is_judged_by_what_it_gives():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Linear(1, 3, dtype=torch.float64)
            self.left, self.right = nn.Linear(3, 1, dtype=torch.float64), nn.Linear(3, 2, dtype=torch.float64)

        def forward(self, x):
            h = torch.relu(self.trunk(x))
            return self.left(h), self.right(h)

    model = Heads()
    with torch.no_grad():
        model.trunk.weight.copy_(torch.tensor([[1.0], [8.0], [9.0]]))
        model.trunk.bias.zero_()
    method = cbp.ReDo(model, still(model), threshold=0.2, period=1)
    model(torch.ones(2, 1, dtype=torch.float64))
    assert method.step()[0].tolist() == [0]  # 1 / 6 ≤ 0.2
    assert model.left.weight[0, 0] == 0
    assert model.right.weight[:, 0].tolist() == [0, 0]


def test_a_stopped_redo_goes_on_with_its_clock():
    def trained(interrupted_after):
        model = chain(3, 8, 6, 2, seed=3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        method = cbp.ReDo(model, optimizer, threshold=0.4, period=7, seed=11)
        problem, history = Problem(3, 2), []
        for step in range(50):
            if step == interrupted_after:
                state = method.state_dict()
                method = cbp.ReDo(model, optimizer, threshold=0.4, period=7, seed=99)
                method.load_state_dict(state)
            history.append(update(model, optimizer, method, *problem()))
        return history

    assert trained(interrupted_after=24) == trained(interrupted_after=None)
    assert any(units for step in trained(None)[28:] for units in step)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, r"threshold must be a finite number >= 0, got -0.1"),
        ({"threshold": math.inf}, r"threshold must be a finite number >= 0, got inf"),
        ({"threshold": "low"}, r"threshold must be a finite number >= 0, got 'low'"),
        ({"period": 0}, r"period must be a whole number >= 1, got 0"),
        ({"period": 2.5}, r"period must be a whole number >= 1, got 2.5"),
        ({"init": "lecn"}, r"init must be one of .*; got 'lecn' \(did you mean 'lecun'\?\)"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.ReDo(model, still(model), **options)


def test_the_state_of_another_kind_of_method_is_refused():
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=r"has a list of 'layers', got"):
        cbp.ReDo(model, still(model)).load_state_dict(cbp.L2Init(model, still(model)).state_dict())


def test_two_methods_cannot_have_one_name():
    with pytest.raises(ValueError, match=r"there is a method .redo. already: cbp\.redo\.ReDo"):

        class Other(cbp.Method, name="redo"):
            pass
