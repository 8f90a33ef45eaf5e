"""FIRE against the projection by a decomposition into singular values."""

from __future__ import annotations

import math

import pytest
import torch
from small_networks import Problem, chain, learn, still
from torch import nn

import cbp


def projected(matrix):
    """√(d_out / d_in) · U·Vᵀ."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return math.sqrt(matrix.shape[0] / matrix.shape[1]) * u @ vh


def test_weights_become_the_nearest_orthogonal_ones_and_all_else_stays():
    model = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 2)).double()
    method = cbp.Fire(model, still(model), iterations=40)
    assert method.touched == ["0.weight", "3.weight", "4.weight"]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert method.step() == []
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    method.change()
    for name, parameter in model.named_parameters():
        expected = projected(before[name]) if name in method.touched else before[name]
        assert torch.allclose(parameter, expected, atol=1e-9), name


def test_a_convolution_is_projected_position_by_position():
    model = nn.Conv2d(3, 5, 2).double()
    before = model.weight.detach().clone()
    cbp.Fire(model, still(model), iterations=40).change()
    for i in range(2):
        for j in range(2):
            assert torch.allclose(model.weight[:, :, i, j], projected(before[:, :, i, j]) / 4, atol=1e-9)


def test_so_many_iterations_are_made_from_weights_of_length_one():
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.diag(torch.tensor([3.0, 4.0])))
    cbp.Fire(model, still(model), iterations=2).change()
    # From 3/5 and 4/5: x ← 1.5·x − 0.5·x³
    expected = [0.6, 0.8]
    for _ in range(2):
        expected = [1.5 * x - 0.5 * x**3 for x in expected]
    assert model.weight.diagonal().tolist() == pytest.approx(expected)


def test_weights_that_are_all_zero_stay_zero():
    model = chain(3, 4, 2)
    nn.init.zeros_(model[2].weight)
    cbp.Fire(model, still(model)).change()
    assert not model[2].weight.any()


def test_only_methods_that_need_a_signal_act_on_it():
    model = chain(3, 6, 2)
    optimizer = still(model)
    methods = [method(model, optimizer) for name, method in cbp.METHODS.items() if name != "fire"]
    learn(model, optimizer, *Problem(3, 2)())
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    for method in methods:
        method.change()
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)


def test_the_state_of_another_model_and_bad_options_are_refused():
    small, large = chain(3, 6, 2), chain(3, 7, 2)
    method = cbp.Fire(small, still(small))
    method.load_state_dict(method.state_dict())
    with pytest.raises(ValueError, match=r"\[\['0.weight', 7, 3\], .* this one has \[\['0.weight', 6, 3\]"):
        method.load_state_dict(cbp.Fire(large, still(large)).state_dict())
    with pytest.raises(ValueError, match="iterations must be a whole number >= 1, got 0"):
        cbp.Fire(small, still(small), iterations=0)
