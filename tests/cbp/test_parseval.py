"""Parseval regularisation against the loss of its equation, one number at a time and differentiated by torch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_networks import Problem, chain, still
from torch import nn

import cbp


def penalty(weight, scale):
    """(64/n)² · ‖WWᵀ − sI‖²_F, entry by entry."""
    total = 0.0
    for i in range(len(weight)):
        for j in range(len(weight)):
            entry = sum(weight[i].flatten() * weight[j].flatten()) - (scale if i == j else 0.0)
            total = total + entry**2
    return (64 / len(weight)) ** 2 * total


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    ],
    ids=["sgd", "adam"],
)
def test_the_gradient_is_that_of_the_penalised_loss(make):
    model = chain(3, 6, 4, 2, seed=1)  # a layer with more units than inputs, and one with fewer
    twin = copy.deepcopy(model)
    optimizer, twin_optimizer = make(model.parameters()), make(twin.parameters())
    method = cbp.Parseval(model, optimizer, strength=0.002, scale=1.5)
    assert method.touched == ["0.weight", "2.weight"]
    problem = Problem(3, 2)
    for _ in range(20):
        x, y = problem()
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        method.before_update()
        optimizer.step()
        assert method.step() == []

        twin_optimizer.zero_grad()
        penalised = (twin(x) - y).square().mean() + 0.002 * (penalty(twin[0].weight, 1.5) + penalty(twin[2].weight, 1.5))
        penalised.backward()
        twin_optimizer.step()
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_convolution_is_a_matrix_of_units_and_whatever_each_receives():
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 1)).double()
    x = torch.rand(2, 2, 3, 3, dtype=torch.float64)
    method = cbp.Parseval(model, still(model), strength=1.0, example=(x,))
    (0 * model(x)).sum().backward()
    method.before_update()
    expected = torch.autograd.grad(penalty(model[0].weight, 2.0), model[0].weight)[0]
    assert torch.allclose(model[0].weight.grad, expected, rtol=1e-9)
    assert not model[3].weight.grad.any()


def test_the_rows_become_orthogonal_and_of_the_length_that_is_asked_for():
    model = chain(5, 4, 2, seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    method = cbp.Parseval(model, optimizer, strength=10.0)
    for _ in range(300):
        optimizer.zero_grad()
        (0 * model(torch.ones(1, 5, dtype=torch.float64))).sum().backward()
        method.before_update()
        optimizer.step()
        method.step()
    gram = model[0].weight @ model[0].weight.T
    assert torch.allclose(gram, 2 * torch.eye(4, dtype=torch.float64), atol=1e-3)


def test_only_the_layers_that_are_given_are_treated_and_none_without_a_gradient():
    model = chain(3, 6, 4, 2)
    first = cbp.find_layers(model)[0]
    method = cbp.Parseval(model, still(model), layers=[first])
    assert method.touched == ["0.weight"]
    model[0].weight.grad = torch.zeros_like(model[0].weight)
    method.before_update()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == ["0.weight"]
    assert model[0].weight.grad.any()
    method.step()
    with pytest.raises(RuntimeError, match=r"Parseval acts on gradients: call before_update\(\) between loss.backward\(\)"):
        method.step()


def test_under_a_gradient_scaler_the_term_is_as_large_as_the_loss():
    model = chain(3, 6, 2)
    method = cbp.Parseval(model, still(model))
    gradients = []
    for scale in (1.0, 1024.0):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        method.before_update(scale)
        gradients.append(model[0].weight.grad)
    assert torch.equal(gradients[1], 1024 * gradients[0])


def test_a_model_without_trained_hidden_weights_is_refused():
    model = chain(3, 6, 2)
    model[0].weight.requires_grad_(False)
    with pytest.raises(cbp.LayerError, match="Sequential has no hidden layer whose weights are trained"):
        cbp.Parseval(model, still(model))
    with pytest.raises(cbp.LayerError, match="has no hidden layer that can be treated"):
        cbp.Parseval(nn.Linear(2, 2), still(nn.Linear(2, 2)))


def test_the_state_of_another_model_is_refused():
    small, large = chain(3, 6, 2), chain(3, 7, 2)
    method = cbp.Parseval(small, still(small))
    method.load_state_dict(method.state_dict())
    with pytest.raises(ValueError, match=r"\[\['0.weight', 7, 3\]\], this one has \[\['0.weight', 6, 3\]\]"):
        method.load_state_dict(cbp.Parseval(large, still(large)).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1}, "strength must be a finite number >= 0, got -1"),
        ({"scale": math.nan}, "scale must be a finite number >= 0, got nan"),
        ({"scale": 0}, "scale must be above 0, got 0"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.Parseval(model, still(model), **options)
