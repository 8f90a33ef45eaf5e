"""Selective weight reinitialisation against its definition, one weight and one number at a time."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_networks import Problem, chain, learn, still
from torch import nn

import cbp


class Oracle:
    """Draws, every so many steps, the weights of least utility of each tensor anew."""

    def __init__(self, model, factor, period, utility, selection, decay_rate, seed):
        self.parameters = list(model.parameters())
        self.factor, self.period, self.utility, self.selection = factor, period, utility, selection
        self.decay_rate = decay_rate
        self.generator = torch.Generator().manual_seed(seed)
        self.bounds = []
        for p in self.parameters:
            squares = [w * w for w in p.flatten().tolist()]
            self.bounds.append(math.sqrt(3) * math.sqrt(sum(squares) / len(squares)))
        self.averages = [[0.0] * p.numel() for p in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for k, p in enumerate(self.parameters):
            w, g = p.flatten().tolist(), p.grad.flatten().tolist()
            utility = [abs(g[i] * w[i]) if self.utility == "gradient" else abs(w[i]) for i in range(len(w))]
            eta = self.decay_rate
            self.averages[k] = utility = [eta * a + (1 - eta) * u for a, u in zip(self.averages[k], utility, strict=True)]
            if self.steps % self.period:
                continue
            least = self.least(utility)
            if least:
                drawn = torch.rand(len(least), generator=self.generator, dtype=p.dtype).tolist()
                for i, uniform in zip(least, drawn, strict=True):
                    p.view(-1)[i] = (2 * uniform - 1) * self.bounds[k]
                self.averages[k] = [0.0] * len(w)

    def least(self, utility):
        n = len(utility)
        if self.selection == "threshold":
            return [i for i in range(n) if utility[i] <= self.factor * sum(utility) / n]
        count, rest = math.floor(self.factor * n), self.factor * n - math.floor(self.factor * n)
        if rest > 0 and torch.rand((), generator=self.generator).item() < rest:
            count += 1
        if count == 0:
            return []
        last = sorted(utility)[count - 1]
        below, equal = [i for i in range(n) if utility[i] < last], [i for i in range(n) if utility[i] == last]
        if len(below) + len(equal) > count:
            order = torch.randperm(len(equal), generator=self.generator).tolist()
            equal = [equal[k] for k in order[: count - len(below)]]
        return below + equal


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"utility": "magnitude", "period": 3},
        {"selection": "threshold", "factor": 0.01},
        {"decay_rate": 0.9, "period": 4},
        {"factor": 0.25},
    ],
)
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_it_agrees_with_the_oracle_step_by_step(kind, options):
    common = {"factor": 0.03, "period": 1, "utility": "gradient", "selection": "proportional", "decay_rate": 0.0, "seed": 5}
    options = common | options
    model = chain(3, 8, 4, 2, seed=3)
    nn.init.zeros_(model[4].bias)  # which becomes 0 again
    twin = copy.deepcopy(model)
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind]
    optimizer, twin_optimizer = make(model.parameters(), lr=0.02), make(twin.parameters(), lr=0.02)
    method, oracle = cbp.SelectiveWeightReinitialization(model, optimizer, **options), Oracle(twin, **options)
    problem = Problem(3, 2)
    for _ in range(40):
        x, y = problem()
        learn(model, optimizer, x, y)
        learn(twin, twin_optimizer, x, y)
        assert method.step() == []
        oracle.step()
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)
    assert method.drawn >= 10


def test_of_equal_utilities_each_is_drawn_as_often_as_the_others():
    model = nn.Linear(4, 1, bias=False)
    method = cbp.SelectiveWeightReinitialization(model, still(model), factor=0.25, period=1, selection="proportional")
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[5.0, 7.0, 6.0, 5.0]]))
    model(torch.tensor([[0.0, 0.0, 0.0, 1.0]])).sum().backward()  # utilities 0, 0, 0, 5, whatever is drawn
    drawn = torch.zeros(4)
    for _ in range(300):
        before = model.weight[0].clone()
        method.step()
        drawn += model.weight[0] != before
    assert method.drawn == drawn.sum() == 300
    assert drawn[3] == 0
    # By chance 100 each, with a standard deviation of √(300·1/3·2/3) = 8.2.
    assert (drawn[:3] - 100).abs().max() < 40


def test_dead_units_come_back_by_default():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = cbp.SelectiveWeightReinitialization(model, optimizer, period=10)
    with torch.no_grad():
        model[0].bias[:20] = -100.0
    x = torch.rand(64, 8)
    for _ in range(40):
        learn(model, optimizer, x, x.sum(dim=1, keepdim=True))
        method.step()
    assert int((model[1](model[0](x))[:, :20] > 0).any(dim=0).sum()) >= 15


def test_norms_and_parameters_without_a_gradient_are_left():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    method = cbp.SelectiveWeightReinitialization(model, still(model), factor=1.0, period=1, selection="proportional")
    assert method.touched == ["0.weight", "0.bias", "2.weight", "2.bias"]
    before = copy.deepcopy(model)
    model[2](torch.ones(1, 3)).sum().backward()
    method.step()
    for k in (0, 1):
        assert torch.equal(model[k].weight, before[k].weight)
    assert (model[2].weight != before[2].weight).all()
    model.zero_grad()
    with pytest.raises(RuntimeError, match=r"finds no gradients: call step\(\) before optimizer.zero_grad\(\)"):
        method.step()


def test_weights_that_do_not_lie_in_one_piece_are_drawn_where_they_are():
    model = nn.Linear(3, 2, bias=False)
    model.weight = nn.Parameter(torch.tensor([[9.0, 8.0], [7.0, 1.0], [6.0, 5.0]]).T)
    method = cbp.SelectiveWeightReinitialization(model, still(model), 1 / 6, 1, "magnitude", "proportional")
    before = model.weight.detach().clone()
    method.step()
    assert (model.weight != before).nonzero().tolist() == [[1, 1]]


@pytest.mark.parametrize("decay_rate", [0.0, 0.9])
def test_a_stopped_method_goes_on_exactly(decay_rate):
    def trained(interrupted_after):
        model = chain(3, 6, 2, seed=3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        problem, options = Problem(3, 2), {"factor": 0.02, "period": 3, "selection": "proportional", "decay_rate": decay_rate}
        method = cbp.SelectiveWeightReinitialization(model, optimizer, **options)
        for step in range(20):
            if step == interrupted_after:
                state = method.state_dict()
                method = cbp.SelectiveWeightReinitialization(model, optimizer, **options, seed=99)
                method.load_state_dict(state)
            learn(model, optimizer, *problem())
            method.step()
        assert method.drawn > 3
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(trained(10), trained(None))


def test_the_state_of_another_model_is_refused():
    small, large = chain(3, 6, 2), chain(3, 7, 2)
    method = cbp.SelectiveWeightReinitialization(small, still(small))
    with pytest.raises(ValueError, match=r"\['0.weight', 7, 3\], .* this one has \[\['0.weight', 6, 3\]"):
        method.load_state_dict(cbp.SelectiveWeightReinitialization(large, still(large)).state_dict())
    with pytest.raises(ValueError, match="the state lacks averages, bounds"):
        method.load_state_dict({"updates": 3, "drawn": 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 1.5, "selection": "proportional"}, r"factor must be a finite number in \[0, 1\], got 1.5"),
        ({"factor": -1}, "factor must be a finite number >= 0, got -1"),
        ({"period": 0}, "period must be a whole number >= 1, got 0"),
        ({"utility": "gradiant"}, r"utility must be one of gradient, magnitude; got 'gradiant' \(did you mean 'gradient'\?\)"),
        ({"selection": "all"}, "selection must be one of proportional, threshold; got 'all'"),
        ({"decay_rate": 1}, r"decay_rate must be a finite number in \[0, 1\), got 1"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.SelectiveWeightReinitialization(model, still(model), **options)


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("options", [{}, {"selection": "proportional", "decay_rate": 0.9}], ids=["threshold", "average"])
def test_a_gradient_that_overflowed_tells_nothing_and_spoils_nothing(value, options):
    model = chain(3, 20, 2)
    method = cbp.SelectiveWeightReinitialization(model, still(model), factor=0.1, period=1, **options)
    drawn = []
    for update in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(update)).to(parameter)
        if update == 1:
            model[0].weight.grad[0, 0] = value
        before = model[0].weight.clone()
        method.step()
        drawn.append(int((model[0].weight != before).sum()))
    if not method.decay_rate:  # an average of the others' utilities is left
        assert drawn[1] == 0
    assert min(drawn[0], drawn[2]) > 0
    assert max(drawn) < 30
    assert all(average.isfinite().all() for average in method.state_dict()["averages"])


@pytest.mark.parametrize("selection", ["threshold", "proportional"])
def test_an_update_without_any_gradient_draws_nothing_and_a_dead_layer_is_drawn_anew(selection):
    model = chain(3, 20, 2)
    method = cbp.SelectiveWeightReinitialization(model, still(model), factor=0.1, period=1, selection=selection)
    (0.0 * model(torch.ones(4, 3, dtype=torch.float64))).sum().backward()
    method.step()
    assert method.drawn == 0
    model[2].weight.grad.fill_(1.0)
    before = model[0].weight.clone()
    method.step()
    assert int((model[0].weight != before).sum()) == {"threshold": 60, "proportional": 6}[selection]
