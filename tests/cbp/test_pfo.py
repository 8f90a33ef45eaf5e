"""Proximal feature optimization against its loss, made from copies of the model as it acted."""

from __future__ import annotations

import copy

import pytest
import torch
from small_networks import Problem, chain, still
from torch import nn

import cbp


def penalty(now, before, x, depth):
    """Mean (z_θ(x) − z_θ'(x))² over the minibatch and the units of the layers, number by number."""
    squares = []
    for k in depth:
        with torch.no_grad():
            then = before[: k + 1](x)
        squares += [(a - b) ** 2 for a, b in zip(now[: k + 1](x).flatten(), then.flatten(), strict=True)]
    return sum(squares) / len(squares)


@pytest.mark.parametrize(("all_layers", "depth", "names"), [(False, [2], ["2"]), (True, [0, 2], ["0", "2"])])
def test_the_gradient_is_that_of_the_penalised_loss(all_layers, depth, names):
    model = chain(3, 6, 4, 2, seed=1)
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.Adam(each.parameters(), lr=0.02) for each in (model, twin)]
    method = cbp.ProximalFeatures(model, optimizers[0], strength=0.7, all_layers=all_layers)
    assert method.watched == names
    problem, acted = Problem(3, 2), None
    for update in range(20):
        if update in (3, 11):  # before that it has never acted
            with torch.no_grad():
                model(torch.zeros(1, 3, dtype=torch.float64))
        if update == 16:
            model.eval()(torch.zeros(1, 3, dtype=torch.float64))
            model.train()
        if update in (3, 11, 16):
            acted = copy.deepcopy(twin)
        x, y = problem()
        for each, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            loss = (each(x) - y).square().mean()
            if each is twin and acted is not None:
                loss = loss + 0.7 * penalty(twin, acted, x, depth)
            loss.backward()
            if each is model:
                method.before_update()
            optimizer.step()
        assert method.step() == []
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_the_head_is_not_held_and_running_statistics_are_those_of_now():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    method = cbp.ProximalFeatures(model, still(model), strength=1.0)
    x = torch.randn(6, 3, dtype=torch.float64)
    model.eval()(x)
    then = copy.deepcopy(model[1])
    for _ in range(2):
        model.train().zero_grad()
        (0 * model(3 * x)).sum().backward()
        statistics = copy.deepcopy(model[0].state_dict())
        method.before_update()
        assert all(torch.equal(value, statistics[name]) for name, value in model[0].state_dict().items())
        gradient = model[1].weight.grad
        with torch.no_grad():
            model[1].weight.add_(0.125)
    with torch.no_grad():
        model[1].weight.sub_(0.125)
        normed = copy.deepcopy(model[0]).eval()(3 * x)
        difference = model[1](normed) - then(normed)
    assert torch.allclose(gradient, 2 / 30 * difference.T @ normed, rtol=1e-9)  # 6 · 5 numbers
    assert gradient.any()
    assert not model[3].weight.grad.any()


def test_a_training_that_is_resumed_equals_one_that_was_not():
    def steps(model, optimizer, method, problem, count):
        for _ in range(count):
            x, y = problem()
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            method.before_update()
            optimizer.step()
            method.step()

    for acts_at_the_end in (False, True):
        model = chain(3, 6, 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        method, problem = cbp.ProximalFeatures(model, optimizer), Problem(3, 2)
        model.eval()(torch.zeros(1, 3, dtype=torch.float64))
        steps(model.train(), optimizer, method, problem, 3)
        if acts_at_the_end:
            model.eval()(torch.zeros(1, 3, dtype=torch.float64))
            model.train()
        again = chain(3, 6, 2, seed=5)
        again_optimizer = torch.optim.Adam(again.parameters(), lr=0.01)
        again_method = cbp.ProximalFeatures(again, again_optimizer)
        again.load_state_dict(model.state_dict())
        again_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        again_method.load_state_dict(copy.deepcopy(method.state_dict()))
        steps(again, again_optimizer, again_method, copy.deepcopy(problem), 3)
        steps(model, optimizer, method, problem, 3)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_model_may_be_cast_at_any_time():
    model = chain(3, 6, 2)
    method = cbp.ProximalFeatures(model, still(model))
    model.eval()(torch.ones(2, 3, dtype=torch.float64))
    added = []
    for dtype in (torch.float64, torch.float64, torch.float32, torch.bfloat16):
        model.train().to(dtype)
        model(torch.ones(2, 3, dtype=dtype)).sum().backward()
        before = model[0].weight.grad.clone()
        method.before_update()
        added.append(not torch.equal(model[0].weight.grad, before))
        model.zero_grad()
        with torch.no_grad():
            model[0].weight += 0.25
    assert added == [False, True, True, True]  # at first it is as it acted


def test_a_copy_of_model_and_method_goes_on_as_the_original():
    model = chain(3, 6, 2)
    method = cbp.ProximalFeatures(model, still(model), strength=1.0)
    model.eval()(torch.ones(2, 3, dtype=torch.float64))
    copied, copied_method = copy.deepcopy((model, method))
    for each, of_each in ((model, method), (copied, copied_method)):
        for _ in range(2):
            each.train()(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
            of_each.before_update()
            with torch.no_grad():
                each[0].weight += 0.25
    assert torch.equal(model[0].weight.grad, copied[0].weight.grad)


def test_layers_that_cannot_be_compared_are_refused():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    model = Recurrent()
    x = torch.ones(2, 5, 3)
    method = cbp.ProximalFeatures(model, still(model), example=(x,))
    with torch.no_grad():
        model(x)
    model(x).sum().backward()
    with pytest.raises(cbp.LayerError, match="a LSTM does not return what its units compute, which PFO compares"):
        method.before_update()
    with pytest.raises(cbp.LayerError, match="no hidden layer was given"):
        cbp.ProximalFeatures(model, still(model), layers=[])


def test_bad_options_and_the_state_of_another_model_are_refused():
    small, large = chain(3, 6, 2), chain(3, 7, 2)
    with pytest.raises(ValueError, match="all_layers must be True or False, got 'no'"):
        cbp.ProximalFeatures(small, still(small), all_layers="no")
    with pytest.raises(ValueError, match="strength must be a finite number >= 0, got -1"):
        cbp.ProximalFeatures(small, still(small), strength=-1)
    method = cbp.ProximalFeatures(small, still(small))
    with pytest.raises(ValueError, match=r"a model with weights \[\['0.weight', 7, 3\]"):
        method.load_state_dict(cbp.ProximalFeatures(large, still(large)).state_dict())
    with pytest.raises(ValueError, match="the state lacks acted, then"):
        method.load_state_dict({"weights": []})
