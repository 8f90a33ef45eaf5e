"""C-CHAIN against its loss, made from copies of the model that were kept, and λ against its definition."""

from __future__ import annotations

import copy
import math
import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from small_networks import Problem, chain, still
from torch import Tensor, nn

import cbp


def churn(now, before, x):
    """Mean (f_θ(x) − f_θ'(x))², number by number."""
    with torch.no_grad():
        then = before(x)
    squares = [(a - b) ** 2 for a, b in zip(now(x).flatten(), then.flatten(), strict=True)]
    return sum(squares) / len(squares)


def twins(model, make, method_options, steps, *, loss_is_told=True):
    """Trains a model with the method and a copy of it with the penalised loss; yields λ of both after each update."""
    twin = copy.deepcopy(model)
    optimizer, twin_optimizer = make(model.parameters()), make(twin.parameters())
    method = cbp.CChain(model, optimizer, **method_options)
    options = {"target": 0.05, "first_strength": 100.0, "measure_every": 320, "warm_up": 50, "window": 100, **method_options}
    problem, batches, copies, losses, churns = Problem(3, 2), [], [], [], []
    strength = options["first_strength"]
    for update in range(1, steps + 1):
        x, y = problem()
        batches.append(x)
        copies.append(
            copy.deepcopy(twin)
        )  # the last is the model as it is now, the one before as it was before the last update
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        method.before_update(loss=loss if loss_is_told else None)
        optimizer.step()
        assert method.step() == []

        twin_optimizer.zero_grad()
        own = (twin(x) - y).square().mean()
        term = churn(twin, copies[-2], batches[-3]) if len(batches) > 2 else None
        (own + (0 if term is None else strength * term)).backward()
        twin_optimizer.step()
        if term is not None and loss_is_told and update % options["measure_every"] == 0:
            losses.append(abs(own.item()))
            churns.append(term.item())
            if len(losses) >= options["warm_up"]:
                of_loss, of_churn = (sum(v[-options["window"] :]) / len(v[-options["window"] :]) for v in (losses, churns))
                strength = options["target"] * of_loss / (of_churn + 1e-8)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)
        yield method.strength, strength


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    ],
    ids=["sgd", "adam"],
)
def test_the_gradient_is_that_of_the_penalised_loss(make):
    options = {"first_strength": 3.0, "measure_every": 2, "warm_up": 3, "window": 4, "target": 0.5}
    strengths = list(twins(chain(3, 6, 4, 2, seed=1), make, options, steps=20))
    assert all(ours == pytest.approx(theirs, rel=1e-6) for ours, theirs in strengths)
    # The first term is at the third update, every second update is measured: the third measurement is at the eighth.
    assert [ours for ours, _ in strengths[:7]] == [3.0] * 7
    assert len({ours for ours, _ in strengths[7:]}) == 7  # after updates 8, 10, …, 20


def test_a_strength_that_is_told_no_loss_stays():
    options = {"first_strength": 3.0, "measure_every": 1, "warm_up": 1}
    make = lambda parameters: torch.optim.SGD(parameters, lr=1e-2)  # noqa: E731
    assert {ours for ours, _ in twins(chain(3, 6, 2), make, options, 8, loss_is_told=False)} == {3.0}


def test_more_measurements_than_the_window_holds_may_be_waited_for():
    options = {"first_strength": 1.0, "measure_every": 1, "warm_up": 4, "window": 2}
    strengths = list(twins(chain(3, 6, 2), lambda parameters: torch.optim.SGD(parameters, lr=1e-2), options, 8))
    assert [ours != 1.0 for ours, _ in strengths] == [False] * 5 + [True] * 3
    assert all(ours == pytest.approx(theirs, rel=1e-6) for ours, theirs in strengths)


class Peculiar(nn.Module):
    """Has what a further pass could disturb: dropout, running statistics, several outputs, keyword arguments."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5)
        self.heads = nn.ModuleList([nn.Linear(5, 2), nn.Linear(5, 1)])
        self.double()

    def forward(self, x, *, shift):
        h = self.drop(torch.relu(self.norm(self.first(x + shift))))
        return {"first": self.heads[0](h), "second": [self.heads[1](h), torch.arange(3)]}


def floats(outputs):
    return torch.cat([outputs["first"].flatten(), outputs["second"][0].flatten()])


def test_further_passes_leave_no_trace_but_the_gradient():
    states, drawn = [], []
    for treated in (True, False):
        torch.manual_seed(0)
        model = Peculiar()
        model.drop.eval()  # as a part that somebody has frozen
        optimizer = still(model)
        method = cbp.CChain(model, optimizer, first_strength=1e6) if treated else None
        for step in range(5):
            x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3) * (step + 1)
            optimizer.zero_grad()
            floats(model(x, shift=0.1)).sum().backward()
            if method:
                method.before_update()
        states.append(model.state_dict())
        drawn.append(torch.rand(3))
        assert [module.training for module in model.modules()].count(False) == 1
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(*drawn)


def test_means_are_over_all_outputs_in_evaluation_mode():
    torch.manual_seed(1)
    model = Peculiar()
    method = cbp.CChain(model, still(model), first_strength=1.0)
    inputs = [torch.randn(4, 3, dtype=torch.float64) for _ in range(3)]
    for step, x in enumerate(inputs):
        if step == 2:
            with torch.no_grad():
                model.first.weight += 0.1
        model.zero_grad()
        (0 * floats(model(x, shift=0.1)).sum()).backward()
        if step == 1:  # after the pass, whose statistics count
            with torch.no_grad():
                then = floats(copy.deepcopy(model).eval()(inputs[0], shift=0.1))
        method.before_update()
    now = copy.deepcopy(model).eval()
    # 4 · 2 + 4 · 1 numbers; whole numbers have no part in it.
    term = (floats(now(inputs[0], shift=0.1)) - then).square().sum() / 12
    expected = torch.autograd.grad(term, now.first.weight)[0]
    assert torch.allclose(model.first.weight.grad, expected, rtol=1e-9)
    assert expected.abs().max() > 1e-4


class Careless(nn.Module):
    """Changes its input in place, draws random numbers and counts in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2).double()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(x.mul_(0.5)) + 0 * torch.rand(2)


def test_a_careless_forward_pass_is_replayed_as_it_was_and_leaves_no_trace():
    drawn, calls = [], []
    for treated in (True, False):
        torch.manual_seed(0)
        model = Careless()
        method = cbp.CChain(model, still(model), first_strength=1e6) if treated else None
        for _ in range(5):
            model(torch.ones(4, 3, dtype=torch.float64)).sum().backward()
            before = model.layer.weight.grad.clone()
            if method:
                method.before_update()
            assert torch.equal(model.layer.weight.grad, before)  # the weights never change
        drawn.append(torch.rand(3))
        calls.append(model.calls.item())
    assert torch.equal(*drawn)
    assert calls == [5, 5]


def test_two_methods_that_replay_do_not_see_each_other():
    found = []
    for beside in (False, True):
        model = chain(3, 6, 2)
        methods = [cbp.ProximalFeatures(model, still(model), strength=1.0)]
        methods += [cbp.CChain(model, still(model), first_strength=0.0)] * beside
        model.eval()(torch.ones(2, 3, dtype=torch.float64))
        for _ in range(4):
            model.train()(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
            for method in methods:
                method.before_update()
            with torch.no_grad():
                model[0].weight += 0.1
        found.append(model[0].weight.grad)
    assert torch.equal(*found)


def test_a_head_of_another_size_begins_anew():
    model = chain(3, 6, 1)
    methods = [cbp.CChain(model, still(model)), cbp.ProximalFeatures(model, still(model))]
    model.eval()(torch.ones(2, 3, dtype=torch.float64))
    for outputs in (1, 5, 2):
        model.train()[2] = nn.Linear(6, outputs, dtype=torch.float64)
        for step in range(3):
            model.zero_grad()
            (0 * model(torch.ones(2, 3, dtype=torch.float64))).sum().backward()
            for method in methods:
                method.before_update()
            assert not any(parameter.grad.any() for parameter in model.parameters()), (outputs, step)  # nothing has changed


def test_parameters_that_are_frozen_or_a_method_that_is_removed_add_nothing():
    model = chain(3, 6, 2)
    method = cbp.CChain(model, still(model))
    for step in range(6):
        model[0].weight.requires_grad_(step < 3)
        with torch.no_grad():
            model[2].weight += 0.1
        model.zero_grad(set_to_none=False)
        (0 * model(torch.ones(2, 3, dtype=torch.float64))).sum().backward()
        if step == 5:
            method.remove()
        method.before_update()
        assert bool(model[2].weight.grad.any()) == (2 <= step < 5)
        assert model[0].weight.grad is None or step < 3 or not model[0].weight.grad.any()
    with pytest.raises(cbp.LayerError, match="ReLU has no parameters"):
        cbp.CChain(nn.ReLU(), still(model))


def test_measurements_are_waited_for_and_not_updates():
    model = chain(3, 6, 2)
    method = cbp.CChain(model, still(model), measure_every=1, warm_up=3)
    for step in range(12):
        model(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
        method.before_update(loss=1.0 if step % 3 == 2 else None)  # in updates 3, 6, 9 and 12
        assert (method.strength == 100.0) == (step < 8)


def test_parts_that_are_called_alone_are_watched_where_they_receive():
    whole, parts = chain(3, 6, 2), chain(3, 6, 2)
    gradients = []
    for model, receives in ((whole, None), (parts, parts[0])):
        method = cbp.CChain(model, still(model), receives=receives)
        problem = Problem(3, 2)
        for step in range(4):
            x, _ = problem()
            with torch.no_grad():
                model[0].bias += 0.1 * step
            model.zero_grad()
            out = model(x) if receives is None else model[2](model[1](model[0](x)))
            out.sum().backward()
            method.before_update()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_model_that_was_never_called_is_an_error_and_one_that_rests_is_not():
    model = chain(3, 6, 2)
    method = cbp.CChain(model, still(model))
    with pytest.raises(RuntimeError, match="CChain has seen no forward pass of the model: call it in training mode"):
        method.before_update()
    model.eval()(torch.ones(1, 3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="say by receives=part"):
        method.before_update()
    for _ in range(3):
        model.train()(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
        method.before_update()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    method.before_update()  # an update of others, by the same optimizer
    assert all(torch.equal(a, b.grad) for a, b in zip(before, model.parameters(), strict=True))
    method.remove()
    model(torch.ones(1, 3, dtype=torch.float64))
    method.before_update()


def test_a_training_that_is_resumed_equals_one_that_was_not():
    def steps(model, optimizer, method, problem, count):
        for _ in range(count):
            x, y = problem()
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            method.before_update(loss=loss)
            optimizer.step()
            method.step()

    options = {"measure_every": 1, "warm_up": 2, "window": 3}
    model = chain(3, 6, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method, problem = cbp.CChain(model, optimizer, **options), Problem(3, 2)
    steps(model, optimizer, method, problem, 6)
    again = chain(3, 6, 2, seed=5)
    again_optimizer = torch.optim.Adam(again.parameters(), lr=0.01)
    again_method = cbp.CChain(again, again_optimizer, **options)
    again.load_state_dict(model.state_dict())
    again_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again_method.load_state_dict(copy.deepcopy(method.state_dict()))
    steps(again, again_optimizer, again_method, copy.deepcopy(problem), 6)
    steps(model, optimizer, method, problem, 6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert method.strength == again_method.strength != 100.0


def test_under_a_gradient_scaler_the_term_is_as_large_as_the_loss():
    gradients = []
    for scale in (1.0, 1024.0):
        model = chain(3, 6, 2)
        method, problem = cbp.CChain(model, still(model)), Problem(3, 2)
        for _ in range(3):
            with torch.no_grad():
                model[0].bias += 0.25
            model.zero_grad()
            (0 * model(problem()[0])).sum().backward()
            method.before_update(scale)
        gradients.append(model[0].weight.grad)
    assert gradients[0].any()
    assert torch.equal(gradients[1], 1024 * gradients[0])


def test_a_model_may_be_cast_at_any_time():
    """The batches from before are of no use then: the first churn is that of the third update after."""
    model = chain(3, 6, 2)
    method = cbp.CChain(model, still(model))
    added = []
    for step in range(8):
        if step == 4:
            model.float()
        weight = model[0].weight
        with torch.no_grad():
            weight += 0.1
        model(torch.ones(2, 3, dtype=weight.dtype)).sum().backward()
        before = weight.grad.clone()
        method.before_update()
        added.append(not torch.equal(weight.grad, before))
    assert added == [False, False, True, True] * 2


def test_losses_that_overflowed_are_not_measured():
    model = chain(3, 6, 2)
    method = cbp.CChain(model, still(model), measure_every=1, warm_up=1)
    for loss in (1.0, 1.0, math.inf, math.nan):
        model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
        method.before_update(loss=loss)
    assert method.strength == 100.0


def test_a_loss_of_many_numbers_is_refused():
    model = chain(3, 6, 2)
    method = cbp.CChain(model, still(model), measure_every=1, warm_up=1)
    for _ in range(2):
        model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
        method.before_update(loss=torch.ones(1))
    with pytest.raises(ValueError, match=r"loss must be a single number, got a tensor of shape \(2, 3\)"):
        method.before_update(loss=torch.ones(2, 3))


def test_the_state_of_another_model_is_refused():
    small, large = chain(3, 6, 2), chain(3, 7, 2)
    method = cbp.CChain(small, still(small))
    with pytest.raises(ValueError, match=r"a model with weights \[\['0.weight', 7, 3\], .*this one has \[\['0.weight', 6, 3\]"):
        method.load_state_dict(cbp.CChain(large, still(large)).state_dict())
    with pytest.raises(ValueError, match="the state lacks last, measured, measurements, reference, strength, updates"):
        method.load_state_dict({"weights": []})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": -1}, "target must be a finite number >= 0, got -1"),
        ({"first_strength": math.nan}, "first_strength must be a finite number >= 0, got nan"),
        ({"measure_every": 0}, "measure_every must be a whole number >= 1, got 0"),
        ({"warm_up": 0.5}, "warm_up must be a whole number >= 1, got 0.5"),
        ({"window": 0}, "window must be a whole number >= 1, got 0"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.CChain(model, still(model), **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_term_of_outputs_in_half_precision_is_summed_up_in_single(dtype):
    from cbp.replaying import mean_square

    now, then = torch.full((1000, 1000), 3.0, dtype=dtype), torch.zeros(1000, 1000, dtype=dtype)
    assert mean_square([now], [then]).item() == pytest.approx(9.0)  # the sum is 9,000,000: beyond float16


def test_small_churn_under_a_scaler_has_the_gradient_of_full_precision():
    added = []
    for scale in (None, 2.0**16):
        model = chain(8, 16, 4).float()
        method = cbp.CChain(model, torch.optim.SGD(model.parameters(), lr=0.0), first_strength=1.0)
        for update in range(3):
            x = torch.randn(1024, 8, generator=torch.Generator().manual_seed(update))
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            with torch.autocast("cpu", torch.float16, enabled=scale is not None):
                model(x)
            method.before_update(1.0 if scale is None else scale)
            method.step()
            with torch.no_grad():
                model[2].bias.add_(1e-3)
        added.append(model[0].weight.grad / (1.0 if scale is None else scale))
    full, half = added
    assert full.abs().max() > 0
    assert nn.functional.cosine_similarity(full.flatten(), half.flatten(), dim=0) > 0.95
    assert (half == 0).float().mean() <= (full == 0).float().mean() + 0.05


def test_a_state_of_another_precision_begins_with_new_batches():
    states = []
    for dtype in (torch.float32, torch.bfloat16):
        model = chain(3, 8, 2).to(dtype)
        method = cbp.CChain(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for state in states:
            method.load_state_dict(state)
        for _ in range(3):
            model(torch.randn(4, 3).to(dtype)).sum().backward()
            method.before_update()
            method.step()
        states.append(method.state_dict())
    assert states[1]["updates"] == 6


@pytest.mark.parametrize("strength", [0.0, 1e-3])
def test_a_weak_term_does_not_overflow_under_a_scaler_that_the_loss_takes(strength):
    model = nn.Linear(8, 1)
    method = cbp.CChain(model, torch.optim.SGD(model.parameters(), lr=0.0), first_strength=strength)
    for _ in range(3):
        model.weight.grad, model.bias.grad = torch.zeros(1, 8), torch.zeros(1)
        with torch.autocast("cpu", torch.float16):
            model(torch.ones(4, 8))
        method.before_update(2.0**16)
        method.step()
        with torch.no_grad():
            model.bias.add_(10.0)
    # λ · 2 · 10, scaled
    assert model.bias.grad.item() == pytest.approx(strength * 20 * 2**16, rel=1e-2)


@pytest.mark.parametrize("unscaled", [True, False])
@pytest.mark.parametrize("kind", [torch.nan, torch.inf])
def test_a_batch_whose_update_the_scaler_skipped_spoils_no_later_one(kind, unscaled):
    """It is compared on two updates later, when gradients may have been checked already."""
    model = chain(3, 6, 2).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method, scaler = cbp.CChain(model, optimizer, first_strength=1.0), torch.amp.GradScaler("cpu", init_scale=8.0)
    moved = []
    for update in range(9):
        x = torch.rand(4, 3, generator=torch.Generator().manual_seed(update))
        if update == 4:
            x[0, 0] = kind
        optimizer.zero_grad()
        scaler.scale(model(x).square().mean()).backward()
        if unscaled:
            scaler.unscale_(optimizer)
        method.before_update(1.0 if unscaled else scaler.get_scale())
        before = model[0].weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        method.step()
        moved.append(not torch.equal(model[0].weight, before))
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert [update for update, has_moved in enumerate(moved) if not has_moved] == [4]


@pytest.mark.parametrize("scale", [1.0, 2.0**120])
def test_gradients_that_overflow_alone_are_told_to_the_scaler_and_otherwise_not_added(scale):
    model = nn.Linear(1, 1, bias=False)
    method = cbp.CChain(model, torch.optim.SGD(model.parameters(), lr=0.0), first_strength=1e10 if scale > 1 else 1e38)
    for _ in range(3):
        model.weight.grad = torch.zeros(1, 1)
        model(torch.full((1, 1), 100.0))
        method.before_update(scale)
        method.step()
        with torch.no_grad():
            model.weight.add_(1.0)
    assert model.weight.grad.item() == (torch.inf if scale > 1 else 0.0)


class Frozen(dict):
    """As the configurations of other packages, which forbid to be changed."""

    def update(self, *_, **__):
        raise TypeError("frozen")


class Keeps(nn.Module):
    """Keeps what passed in containers, and draws from Python's and NumPy's generators."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seen, self.by_name, self.last = [], {}, deque(maxlen=3)
        self.frozen = Frozen(units=2)

    def forward(self, x):
        self.seen.append(len(self.seen))
        self.by_name[len(self.by_name)] = random.random() + np.random.random()  # noqa: NPY002, S311
        self.last.append(len(self.seen))
        return self.layer(x)


class Hands(nn.Module):
    """One part hands on to another through a dictionary that both hold."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.between = nn.Linear(3, 4), nn.Linear(4, 2), {}
        self.first.held, self.second.held = self.between, self.between
        self.first.register_forward_hook(lambda layer, _, output: layer.held.update(h=output))

    def forward(self, x):
        self.first(x)
        return self.second(self.second.held["h"])


@pytest.mark.parametrize("method", ["c-chain", "pfo"])
def test_what_parts_hand_on_through_a_dictionary_is_that_of_the_same_pass(method):
    torch.manual_seed(0)
    model = Hands()
    plain = nn.Sequential(copy.deepcopy(model.first), copy.deepcopy(model.second))
    plain[0]._forward_hooks.clear()
    found = []
    for each in (model, plain):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        treated = cbp.METHODS[method](each, optimizer)
        for k in range(4):
            optimizer.zero_grad()
            each(torch.full((5, 3), float(k))).square().mean().backward()
            treated.before_update()
            optimizer.step()
            treated.step()
        found.append(nn.utils.parameters_to_vector(each.parameters()))
    assert torch.equal(*found)


def test_further_passes_leave_no_trace_in_containers_and_generators():
    torch.manual_seed(0)
    kept = []
    for method in (None, "c-chain"):
        model = Keeps()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        treated = cbp.METHODS[method](model, optimizer) if method else None
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(torch.ones(5, 3)).square().mean()
            loss.backward()
            if treated:
                treated.before_update()
            optimizer.step()
            if treated:
                treated.step()
        kept.append((model.seen, model.by_name, list(model.last), random.random(), np.random.random()))  # noqa: NPY002, S311
        assert model.frozen == {"units": 2}
    assert kept[0] == kept[1]
    assert kept[0][0] == [0, 1, 2, 3]


@dataclass
class Output:
    """What a model returns that is no tensor, as those of transformers do."""

    logits: Tensor
    hidden: Tensor


class ReturnsObjects(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Output:
        hidden = torch.relu(self.first(x))
        return Output(self.second(hidden), hidden)


def test_the_state_of_a_model_that_returns_objects_is_made_of_tensors_alone(tmp_path):
    def train(model, optimizer, method, updates):
        for number in updates:
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
            optimizer.zero_grad()
            model(x).logits.square().mean().backward()
            method.before_update()
            optimizer.step()
            method.step()

    model = ReturnsObjects()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = cbp.CChain(model, optimizer, first_strength=10.0)
    train(model, optimizer, method, range(5))
    torch.save([model.state_dict(), method.state_dict()], tmp_path / "state.pt")
    train(model, optimizer, method, range(5, 9))
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    other = ReturnsObjects()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    resumed = cbp.CChain(other, optimizer, first_strength=10.0)
    other.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    train(other, optimizer, resumed, range(5, 9))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


class CallsOnReplay(ReturnsObjects):
    """Calls something in another thread while it makes a pass that is replayed."""

    calls: Callable[[Tensor], object] | None = None

    def forward(self, x: Tensor) -> Output:
        if not self.training and self.calls is not None:
            thread = threading.Thread(target=self.calls, args=(x.clone(),))
            thread.start()
            thread.join()
        return super().forward(x)


def test_a_pass_in_another_thread_is_seen_while_one_is_replayed():
    model, other = CallsOnReplay(), ReturnsObjects()
    methods = [cbp.CChain(each, torch.optim.SGD(each.parameters(), lr=0.1)) for each in (model, other)]
    model.calls = lambda x: other(x)  # not as a part of it
    for _ in range(2):
        assert methods[1]._tap.arguments is None
        model(torch.ones(4, 3)).logits.sum().backward()
        methods[0].before_update()
    assert methods[1]._tap.arguments is not None
