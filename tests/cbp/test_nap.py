"""Normalise and project against its definition, one number at a time."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_networks import Problem, learn, still
from torch import nn

import cbp


def network(units=6):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, units), nn.LayerNorm(units), nn.ReLU(), nn.Linear(units, 2)).double()


def length(weight):
    return math.sqrt(sum(w * w for w in weight.flatten().tolist()))


def test_after_each_update_weights_are_as_long_as_they_began_and_all_else_is_free():
    model = network()
    twin = copy.deepcopy(model)
    initial = {k: length(twin[k].weight) for k in (0, 3)}
    optimizer, twin_optimizer = (torch.optim.Adam(m.parameters(), lr=0.05) for m in (model, twin))
    method, problem = cbp.NormalizeAndProject(model, optimizer), Problem(3, 2)
    assert method.touched == ["0.weight", "3.weight"]
    for _ in range(30):
        x, y = problem()
        learn(model, optimizer, x, y)
        assert method.step() == []
        learn(twin, twin_optimizer, x, y)
        with torch.no_grad():
            for k, begun in initial.items():
                factor = begun / length(twin[k].weight)
                for i, row in enumerate(twin[k].weight.tolist()):
                    for j, w in enumerate(row):
                        twin[k].weight[i, j] = w * factor
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(model[1].weight, torch.ones(6, dtype=torch.float64), atol=0.01)


def test_weights_that_begin_at_zero_are_free():
    model = network()
    nn.init.zeros_(model[3].weight)
    method = cbp.NormalizeAndProject(model, still(model))
    assert method.touched == ["0.weight"]
    nn.init.ones_(model[3].weight)
    method.step()
    assert (model[3].weight == 1).all()


def test_a_state_is_loaded_into_weights_that_were_loaded_before():
    model, later = network(), network()
    nn.init.zeros_(model[3].weight)
    method = cbp.NormalizeAndProject(model, still(model))
    nn.init.ones_(model[3].weight)
    later.load_state_dict(model.state_dict())
    resumed = cbp.NormalizeAndProject(later, still(later))
    assert resumed.touched == ["0.weight", "3.weight"]
    resumed.load_state_dict(method.state_dict())
    assert resumed.touched == method.touched == ["0.weight"]
    resumed.step()
    assert (later[3].weight == 1).all()


def test_a_state_holds_the_first_lengths():
    model, later = network(), network()
    state = cbp.NormalizeAndProject(model, still(model)).state_dict()
    with torch.no_grad():
        later[0].weight *= 7
    method = cbp.NormalizeAndProject(later, still(later))
    method.load_state_dict(state)
    method.step()
    assert torch.allclose(later[0].weight, model[0].weight)
    with pytest.raises(ValueError, match="the state lacks lengths"):
        method.load_state_dict({})
