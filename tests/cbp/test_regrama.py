"""ReGraMa against its equation, one unit and one number at a time."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from oracle import Layer, Oracle
from small_networks import Problem, begin_alike, by_hand, chain, learn, still, update
from torch import Tensor, nn

import cbp


class ReGraMaOracle(Oracle):
    """Replaces, every so many steps, every unit whose gradients are small beside those of the others of its layer."""

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
        # s_i = mean_j |∂L/∂w_ij| / (1/H · Σ_k mean_j |∂L/∂w_kj|)
        magnitudes = [sum(abs(g) for g in row) / len(row) for row in layer.incoming.weight.grad.tolist()]
        mean = sum(magnitudes) / layer.units
        layer.utility = [magnitude / mean if mean > 0 else 0.0 for magnitude in magnitudes]
        return [i for i in range(layer.units) if layer.utility[i] <= self.threshold]


@pytest.mark.parametrize(
    ("optimizer", "reset_optimizer"),
    [("sgd", "moments"), ("adam", "moments"), ("adam", "none"), ("cbp_adam", "moments_and_step")],
)
def test_regrama_agrees_with_the_oracle_step_by_step(optimizer, reset_optimizer):
    optimizers = {
        "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        "cbp_adam": lambda model: cbp.Adam(model.parameters(), lr=0.02),
    }
    model = chain(3, 8, 6, 2, seed=3)
    twin = copy.deepcopy(model)
    model_optimizer, twin_optimizer = optimizers[optimizer](model), optimizers[optimizer](twin)
    options = {"threshold": 0.4, "period": 7, "reset_optimizer": reset_optimizer, "seed": 11}
    method = cbp.ReGraMa(model, model_optimizer, **options)
    oracle = ReGraMaOracle([Layer(twin[0], [twin[2]], "relu"), Layer(twin[2], [twin[4]], "relu")], twin_optimizer, **options)
    problem = Problem(3, 2)
    total = 0
    for step in range(1, 106):
        x, y = problem()
        replaced = update(model, model_optimizer, method, x, y)
        learn(twin, twin_optimizer, x, y)
        assert replaced == oracle.step([[x], [x]]), f"step {step}"  # it looks at no activation
        assert step % 7 == 0 or replaced == [[], []]
        total += sum(map(len, replaced))
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)
        for layer, known in zip(method.layers, oracle.layers, strict=True):
            assert torch.allclose(layer.utility, torch.tensor(known.utility, dtype=torch.float64), rtol=1e-8)
            assert layer.age.tolist() == known.age
        begin_alike(model, model_optimizer, twin, twin_optimizer)
    assert total >= 10


def test_a_unit_at_the_threshold_is_replaced_and_one_above_is_not():
    # Two inputs of 1 and the loss h·w_out: ∂L/∂w_ij = w_out,i: 1, 2, 9 and 4, mean 4, scores 0.25, 0.5, 2.25 and 1.
    model = by_hand([[1.0, 1.0]] * 4, [[1.0, 2.0, 9.0, 4.0]])
    method = cbp.ReGraMa(model, still(model), threshold=0.5, period=2)
    for expected in ([], [0, 1]):
        model.zero_grad()
        model(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
        assert method.step()[0].tolist() == expected
    assert method.layers[0].utility.tolist() == [0, 0, 2.25, 1.0]
    assert model[2].weight.tolist() == [[0, 0, 9, 4]]


def test_the_gradients_of_all_rows_that_compute_a_unit_count():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(2, 3), nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    model = Recurrent().double()
    example = torch.rand(4, 1, 2, dtype=torch.float64)
    method = cbp.ReGraMa(model, still(model), threshold=0.0, period=1, example=(example,))
    model(example).sum().backward()
    method.step()
    both = model.rnn.weight_ih_l0.grad, model.rnn.weight_hh_l0.grad  # the rows of a gate are in one piece
    rows = [[gradient[i + gate].tolist() for gradient in both for gate in (0, 3, 6)] for i in range(3)]
    magnitudes = [sum(abs(g) for row in of_unit for g in row) for of_unit in rows]
    expected = [3 * magnitude / sum(magnitudes) for magnitude in magnitudes]
    assert method.layers[0].utility.tolist() == pytest.approx(expected)


def test_a_layer_without_a_gradient_is_left_and_a_model_without_any_is_refused():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
            self.right = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))

        def forward(self, x):
            return self.left(x), self.right(x)

    model = Heads()
    method = cbp.ReGraMa(model, still(model), threshold=100.0, period=1)
    model(torch.ones(2, 1))[0].sum().backward()
    assert [len(units) for units in method.step()] == [3, 0]
    model(torch.ones(2, 1))
    model.zero_grad()
    with pytest.raises(RuntimeError, match=r"ReGraMa judges by gradients, and there are none: call step\(\) before"):
        method.step()


def test_a_stopped_regrama_goes_on_with_its_clock():
    def trained(interrupted_after):
        model = chain(3, 8, 6, 2, seed=3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        method = cbp.ReGraMa(model, optimizer, threshold=0.4, period=7, seed=11)
        problem, history = Problem(3, 2), []
        for step in range(50):
            if step == interrupted_after:
                state = method.state_dict()
                method = cbp.ReGraMa(model, optimizer, threshold=0.4, period=7, seed=99)
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
        ({"period": 0}, r"period must be a whole number >= 1, got 0"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.ReGraMa(model, still(model), **options)


def test_where_no_gradient_arrives_in_any_layer_nothing_is_replaced():
    """A hinge loss of 0; and gradients that were set to zeros too early."""
    model = chain(3, 8, 6, 2)
    method = cbp.ReGraMa(model, torch.optim.SGD(model.parameters(), lr=0.1), period=1)
    (0.0 * model(torch.ones(4, 3, dtype=torch.float64))).sum().backward()
    assert [len(units) for units in method.step()] == [0, 0]
    model(torch.ones(4, 3, dtype=torch.float64))
    model[2].weight.grad[0, 0] = 1.0
    assert [len(units) for units in method.step()] == [8, 5]  # of the second layer one unit has a gradient
