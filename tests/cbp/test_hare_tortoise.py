"""Hare and tortoise against its definition, one number at a time."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_networks import Problem, chain, learn, still
from torch import nn

import cbp


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_it_agrees_with_the_oracle_step_by_step(make):
    model = chain(3, 6, 2, seed=1)
    twin = copy.deepcopy(model)
    optimizer, twin_optimizer = (make(m.parameters(), lr=0.05) for m in (model, twin))
    method, problem = cbp.HareTortoise(model, optimizer, momentum=0.8, period=4), Problem(3, 2)
    slow = [p.flatten().tolist() for p in twin.parameters()]
    for step in range(1, 31):
        x, y = problem()
        learn(model, optimizer, x, y)
        assert method.step() == []
        learn(twin, twin_optimizer, x, y)
        for of_slow, p in zip(slow, twin.parameters(), strict=True):
            for i, fast in enumerate(p.flatten().tolist()):
                of_slow[i] = 0.8 * of_slow[i] + (1 - 0.8) * fast
            if step % 4 == 0:
                with torch.no_grad():
                    p.copy_(torch.tensor(of_slow).view(p.shape))
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_the_tortoise_fits_into_a_copy_of_the_model_with_its_running_statistics():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    method = cbp.HareTortoise(model, still(model), momentum=0.5, period=2)
    fresh = copy.deepcopy(model)
    model(torch.ones(4, 2))
    method.step()
    fresh.load_state_dict(method.tortoise, strict=False)
    assert torch.allclose(fresh[1].running_mean, model[1].running_mean / 2)  # began at 0
    assert model[1].num_batches_tracked == 1
    method.step()
    assert torch.allclose(model[1].running_mean, method.tortoise["1.running_mean"])
    model(torch.ones(4, 2))
    assert not torch.allclose(model[1].running_mean, method.tortoise["1.running_mean"])  # no memory in common


def test_a_stopped_method_goes_on_exactly():
    def trained(interrupted_after):
        model = chain(3, 6, 2, seed=3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        method, problem = cbp.HareTortoise(model, optimizer, period=7), Problem(3, 2)
        for step in range(30):
            if step == interrupted_after:
                state = method.state_dict()
                method = cbp.HareTortoise(model, optimizer, period=7)
                method.load_state_dict(state)
            learn(model, optimizer, *problem())
            method.step()
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(trained(9), trained(None))


def test_the_state_of_another_model_is_refused_and_nothing_is_loaded():
    small, large = chain(3, 6, 2), chain(3, 7, 2)
    method = cbp.HareTortoise(small, still(small))
    with pytest.raises(ValueError, match=r"'0.weight': \[7, 3\].* this one has \{'0.weight': \[6, 3\]"):
        method.load_state_dict(cbp.HareTortoise(large, still(large)).state_dict())
    assert torch.equal(method.tortoise["0.weight"], small[0].weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be a finite number in \[0, 1\), got 1.0"),
        ({"momentum": math.nan}, r"momentum must be a finite number in \[0, 1\), got nan"),
        ({"period": 0}, "period must be a whole number >= 1, got 0"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.HareTortoise(model, still(model), **options)


def test_complex_weights_are_averaged_too():
    model = nn.ParameterList([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    method = cbp.HareTortoise(model, still(model), momentum=0.5, period=1)
    with torch.no_grad():
        model[0].fill_(1.0)
        model[1].fill_(1 + 2j)
    method.step()
    # τ = ½ · 0 + ½ · θ, and θ is set back to it.
    assert model[0].tolist() == [0.5, 0.5]
    assert model[1].tolist() == [0.5 + 1j, 0.5 + 1j]
    assert method.tortoise["1"].dtype is torch.complex64
