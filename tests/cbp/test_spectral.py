"""Spectral regularisation against the loss of its equation, with singular values by decomposition."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_networks import Problem, chain, learn, still
from torch import nn

import cbp


def penalty(model, exponent):
    """Σ_l (σ_l^k − 1)² + ‖b_l‖^2k."""
    total = 0.0
    for parameter in model.parameters():
        if parameter.ndim > 1:
            total = total + (torch.linalg.svdvals(parameter.flatten(1))[0] ** exponent - 1) ** 2
        else:
            total = total + torch.linalg.vector_norm(parameter) ** (2 * exponent)
    return total


@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_the_first_gradient_is_that_of_the_penalty(exponent):
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    method = cbp.Spectral(model, still(model), strength=0.7, exponent=exponent)
    assert method.touched == ["0.weight", "0.bias", "3.weight", "3.bias", "5.weight", "5.bias"]
    (0 * model(torch.rand(2, 2, 3, 3, dtype=torch.float64))).sum().backward()
    method.before_update()
    expected = torch.autograd.grad(0.7 * penalty(model, exponent), list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-8, atol=1e-12)


class Oracle:
    """One power iteration per update and layer, number by number."""

    def __init__(self, model, strength):
        self.model, self.strength = model, strength
        # The first right singular vectors, in the sign in which the decomposition gives them.
        self.v = [torch.linalg.svd(layer.weight.detach())[2][0].tolist() for layer in model if isinstance(layer, nn.Linear)]

    def before_update(self):
        linears = [layer for layer in self.model if isinstance(layer, nn.Linear)]
        for k, layer in enumerate(linears):
            w, v = layer.weight.tolist(), self.v[k]
            u = self._unit([sum(w[i][j] * v[j] for j in range(len(v))) for i in range(len(w))])
            turned = [sum(w[i][j] * u[i] for i in range(len(w))) for j in range(len(v))]
            sigma = math.sqrt(sum(x * x for x in turned))
            self.v[k] = v = self._unit(turned)
            for i in range(len(w)):
                for j in range(len(v)):
                    # 2λk · (σ^k − 1) · σ^(k−1) · u_i · v_j  with k = 2
                    layer.weight.grad[i, j] += self.strength * 4 * (sigma**2 - 1) * sigma * u[i] * v[j]
            b = layer.bias.tolist()
            for i in range(len(b)):
                layer.bias.grad[i] += self.strength * 4 * sum(x * x for x in b) * b[i]  # 2λk · ‖b‖^(2k−2) · b_i

    @staticmethod
    def _unit(x):
        length = math.sqrt(sum(value * value for value in x))
        return [value / length for value in x]


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    ],
    ids=["sgd", "adam"],
)
def test_it_agrees_with_the_oracle_step_by_step(make):
    model = chain(3, 6, 4, 2, seed=1)
    twin = copy.deepcopy(model)
    optimizer, twin_optimizer = make(model.parameters()), make(twin.parameters())
    method, oracle = cbp.Spectral(model, optimizer, strength=0.01), Oracle(twin, 0.01)
    problem = Problem(3, 2)
    for _ in range(40):
        x, y = problem()
        for network, its_optimizer, acting in ((model, optimizer, method), (twin, twin_optimizer, oracle)):
            its_optimizer.zero_grad()
            (network(x) - y).square().mean().backward()
            with torch.no_grad():
                acting.before_update()
            its_optimizer.step()
        assert method.step() == []
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_the_largest_singular_value_is_brought_to_one():
    model = chain(4, 8, 2, seed=2)
    with torch.no_grad():
        model[0].weight *= 5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = cbp.Spectral(model, optimizer, strength=0.5)
    for _ in range(500):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        method.before_update()
        optimizer.step()
    # Several values come to meet at 1, of which the power iteration then follows one.
    assert torch.linalg.svdvals(model[0].weight)[0].item() == pytest.approx(1, abs=0.02)


def test_weights_that_are_all_zero_are_followed_once_they_are_not():
    model = chain(3, 6, 2)
    nn.init.zeros_(model[2].weight)
    method = cbp.Spectral(model, still(model))
    for _ in range(30):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        method.before_update()
        with torch.no_grad():
            model[2].weight.copy_(torch.arange(12.0).view(2, 6))
    expected = torch.autograd.grad(1e-4 * penalty(model, 2), model[2].weight)[0]
    assert torch.allclose(model[2].weight.grad, expected, rtol=1e-6)


def trained(interrupted_after):
    model = chain(3, 6, 2, seed=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    method, problem = cbp.Spectral(model, optimizer, strength=0.1), Problem(3, 2)
    for step in range(30):
        if step == interrupted_after:
            state = method.state_dict()
            method = cbp.Spectral(model, optimizer, strength=0.1)
            method.load_state_dict(state)
        optimizer.zero_grad()
        x, y = problem()
        (model(x) - y).square().mean().backward()
        method.before_update()
        optimizer.step()
        method.step()
    return nn.utils.parameters_to_vector(model.parameters())


def test_a_stopped_method_goes_on_with_its_vectors():
    assert torch.equal(trained(12), trained(None))


def test_the_state_of_another_model_is_refused():
    small, large = chain(3, 6, 2), chain(3, 7, 2)
    with pytest.raises(ValueError, match=r"layers have \[3, 7\] inputs, this one has \[3, 6\]"):
        cbp.Spectral(small, still(small)).load_state_dict(cbp.Spectral(large, still(large)).state_dict())


def test_a_loop_that_forgets_to_call_it_before_the_update_is_told_so():
    model = chain(3, 6, 2)
    optimizer = still(model)
    method = cbp.Spectral(model, optimizer)
    learn(model, optimizer, *Problem(3, 2)())
    with pytest.raises(RuntimeError, match=r"Spectral acts on gradients: call before_update\(\)"):
        method.step()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": math.inf}, "strength must be a finite number >= 0, got inf"),
        ({"exponent": 0}, "exponent must be a whole number >= 1, got 0"),
        ({"exponent": 1.5}, "exponent must be a whole number >= 1, got 1.5"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.Spectral(model, still(model), **options)
