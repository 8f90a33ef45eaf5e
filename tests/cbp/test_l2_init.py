"""L2 Init against the loss of its equation, differentiated by torch."""

from __future__ import annotations

import math

import pytest
import torch
from small_networks import Problem, chain, still

import cbp


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, lr=0.02),
    ],
    ids=["sgd", "adam"],
)
def test_the_gradient_is_that_of_the_penalised_loss(make):
    model, twin = chain(3, 6, 2, seed=1), chain(3, 6, 2, seed=1)
    optimizer, twin_optimizer = make(model.parameters()), make(twin.parameters())
    method = cbp.L2Init(model, optimizer, strength=0.03)
    initial = [parameter.detach().clone() for parameter in twin.parameters()]
    problem = Problem(3, 2)
    for _ in range(50):
        x, y = problem()
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        method.before_update()
        optimizer.step()
        assert method.step() == []

        twin_optimizer.zero_grad()
        penalty = sum((parameter - start).square().sum() for parameter, start in zip(twin.parameters(), initial, strict=True))
        ((twin(x) - y).square().mean() + 0.03 * penalty).backward()
        twin_optimizer.step()
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(model[0].weight, initial[0], atol=0.01)


def test_a_parameter_without_a_gradient_stays_without():
    model = chain(3, 6, 2)
    method = cbp.L2Init(model, still(model))
    first, *others = model.parameters()
    first.grad = torch.zeros_like(first)
    method.before_update()
    assert all(parameter.grad is None for parameter in others)


def test_a_loop_that_forgets_to_call_it_before_the_update_is_told_so():
    model = chain(3, 6, 2)
    method = cbp.L2Init(model, still(model))
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    method.before_update()
    method.step()
    with pytest.raises(RuntimeError, match=r"before_update\(\) between loss.backward\(\) and optimizer.step\(\)"):
        method.step()


def test_the_state_holds_where_the_weights_began():
    model, later = chain(2, 3, 1, seed=0), chain(2, 3, 1, seed=1)
    state = cbp.L2Init(model, still(model), strength=0.5).state_dict()
    method = cbp.L2Init(later, still(later), strength=0.5)
    method.load_state_dict(state)
    state["initial"][0] += 7  # a copy, which the method does not hold
    for parameter in later.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.before_update()
    for parameter, start in zip(later.parameters(), model.parameters(), strict=True):
        assert torch.allclose(parameter.grad, parameter - start)  # 2 · 0.5 · (θ − θ₀)


def test_the_state_of_another_model_is_refused_and_nothing_is_loaded():
    small, large = chain(3, 6, 2), chain(3, 7, 2)
    method = cbp.L2Init(small, still(small))
    with pytest.raises(ValueError, match=r"\[\[7, 3\], .* this one has \[\[6, 3\]"):
        method.load_state_dict(cbp.L2Init(large, still(large)).state_dict())
    assert torch.equal(method.state_dict()["initial"][0], small[0].weight)


@pytest.mark.parametrize("strength", [-1, math.nan, math.inf, "strong", None])
def test_a_bad_strength_is_refused(strength):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match="strength must be a finite number >= 0") as caught:
        cbp.L2Init(model, still(model), strength=strength)
    assert repr(strength) in str(caught.value)
