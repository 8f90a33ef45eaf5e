"""What every method does alike, whatever it is."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from small_networks import chain
from torch import nn

import cbp

# Options with which a method does something within ten updates.
SOON = {
    "cbp": {"replacement_rate": 0.2, "maturity_threshold": 2},
    "snr": {"max_silence": 5},
    "redo": {"period": 3},
    "regrama": {"period": 3},
    "hare-tortoise": {"period": 3},
    "swr": {"period": 3},
}


def trained(name, options=None, overflow_at=None, updates=12):
    """The weights and the method after some updates of a regression, in one of which gradients may overflow.

    As under a gradient scaler the optimizer makes no step then.
    """
    model = chain(3, 8, 6, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method = cbp.METHODS[name](model, optimizer, **{**SOON.get(name, {}), **(options or {})})
    numbers = torch.Generator().manual_seed(1)
    for update in range(updates):
        x = torch.randn(5, 3, generator=numbers, dtype=torch.float64)
        optimizer.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        if update == overflow_at:
            for parameter in model.parameters():
                parameter.grad.fill_(math.inf)
        method.before_update()
        if update != overflow_at:
            optimizer.step()
        method.step()
        if update == updates // 2:
            method.change()
    return [parameter.detach().clone() for parameter in model.parameters()], method


def numbers_of(state):
    """All tensors and numbers of a state, however deep."""
    if isinstance(state, dict):
        return [number for value in state.values() for number in numbers_of(value)]
    if isinstance(state, list | tuple):
        return [number for value in state for number in numbers_of(value)]
    return [torch.as_tensor(state)] if isinstance(state, torch.Tensor | float | int) else []


@pytest.mark.parametrize("name", cbp.METHODS)
def test_one_update_whose_gradients_overflowed_spoils_neither_weights_nor_state(name):
    weights, method = trained(name, overflow_at=4)
    assert all(weight.isfinite().all() for weight in weights)
    assert not any(number.isnan().any() for number in numbers_of(method.state_dict()))
    before, _ = trained(name, overflow_at=4, updates=5)
    assert not all(torch.equal(now, then) for now, then in zip(weights, before, strict=True))  # it goes on learning


WHOLE = [
    (name, option, parameter.default)
    for name, kind in cbp.METHODS.items()
    for option, parameter in inspect.signature(kind).parameters.items()
    if type(parameter.default) is int
]


@pytest.mark.parametrize(("name", "option", "default"), WHOLE, ids=[f"{name}-{option}" for name, option, _ in WHOLE])
@pytest.mark.parametrize("kind", [float, np.int64, np.float32])
def test_a_whole_number_may_be_written_in_any_way(name, option, default, kind):
    value = SOON.get(name, {}).get(option, default)
    expected, _ = trained(name, {option: value})
    got, method = trained(name, {option: kind(value)})
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    kept = getattr(method, option, value)
    assert type(kept) is int


@pytest.mark.parametrize("name", cbp.METHODS)
def test_a_method_treats_the_weights_of_the_model_that_it_is_given_and_no_others(name):
    found = []
    for treated in (True, False):
        both = nn.ModuleList([chain(3, 8, 2), chain(3, 8, 2, seed=1)])
        optimizer = torch.optim.SGD(both.parameters(), lr=0.1)
        method = cbp.METHODS[name](both[0], optimizer, **SOON.get(name, {})) if treated else None
        for _ in range(12):
            x = torch.ones(4, 3, dtype=torch.float64)
            optimizer.zero_grad()
            sum(each(x).square().mean() for each in both).backward()
            if method:
                method.before_update()
            optimizer.step()
            if method:
                method.step()
                method.change()
        found.append(list(both[1].parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
