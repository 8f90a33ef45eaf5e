"""Shrink and perturb, one weight at a time."""

from __future__ import annotations

import math

import pytest
import torch
from small_networks import Problem, chain, learn, still
from torch import nn

import cbp


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_every_weight_is_shrunk_and_gets_its_own_normal_number():
    model = chain(3, 6, 2)
    before = weights(model)
    method = cbp.ShrinkPerturb(model, still(model), shrink=0.75, perturb=0.5, seed=4)
    assert method.step() == []
    generator = torch.Generator().manual_seed(4)
    # Two layers 3-6-2 have 18 + 6 + 12 + 2 = 38 parameters: 48 numbers are drawn, whole sixteens.
    drawn_at_once = torch.randn(48, generator=generator, dtype=torch.float64)[:38].split([18, 6, 12, 2])
    for parameter, old, noise in zip(model.parameters(), before, drawn_at_once, strict=True):
        for value, was, drawn in zip(
            parameter.flatten().tolist(), old.flatten().tolist(), noise.flatten().tolist(), strict=True
        ):
            assert value == pytest.approx(0.75 * was + 0.5 * drawn, rel=1e-12)


def test_fresh_noise_is_spread_like_the_first_weights_of_each_tensor():
    model = nn.Linear(400, 100, dtype=torch.float64)
    nn.init.uniform_(model.weight, -0.3, 0.3)
    nn.init.zeros_(model.bias)
    method = cbp.ShrinkPerturb(model, still(model), shrink=0.0, perturb=1.0, noise="fresh")
    with torch.no_grad():
        model.weight.fill_(7.0)  # what it became since does not matter
        model.bias.fill_(7.0)
    method.step()
    assert model.bias.tolist() == [0.0] * 100
    # 40,000 uniform numbers on ±0.3: root mean square 0.3/√3 = 0.1732, none beyond but for the estimate of the bound.
    assert model.weight.square().mean().sqrt().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.02)
    assert 0.29 < model.weight.abs().max().item() < 0.31
    assert abs(model.weight.mean().item()) < 0.005


def test_it_acts_every_period_updates_and_not_between():
    model = chain(3, 6, 2)
    method = cbp.ShrinkPerturb(model, still(model), shrink=0.5, perturb=0.0, period=3)
    first = model[0].weight.detach().clone()
    sizes = []
    for _ in range(7):
        method.step()
        sizes.append((model[0].weight / first).mean().item())
    assert sizes == pytest.approx([1, 1, 0.5, 0.5, 0.5, 0.25, 0.25])


def test_what_is_no_weight_of_a_layer_is_left_alone():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Conv1d(2, 3, 1), nn.LayerNorm(3), nn.Linear(3, 1)
            self.log_std = nn.Parameter(torch.full((1,), -1.0))

    model = Model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    cbp.ShrinkPerturb(model, still(model), shrink=0.5, perturb=0.1).step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"first.weight", "first.bias", "last.weight", "last.bias"}


def test_a_weight_shared_by_two_layers_is_treated_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    before = model[0].weight.detach().clone()
    cbp.ShrinkPerturb(model, still(model), shrink=0.5, perturb=0.0).step()
    assert torch.equal(model[0].weight, before / 2)


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    model = chain(3, 6, 2)
    cbp.ShrinkPerturb(model, still(model)).step()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("noise", ["normal", "fresh"])
def test_a_stopped_run_goes_on_to_the_bit(noise):
    def trained(interrupted_after):
        model = chain(3, 6, 2, seed=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        method, problem = cbp.ShrinkPerturb(model, optimizer, 0.9, 0.1, period=3, noise=noise, seed=5), Problem(3, 2)
        for step in range(20):
            if step == interrupted_after:
                state = method.state_dict()
                method = cbp.ShrinkPerturb(model, optimizer, 0.9, 0.1, period=3, noise=noise, seed=6)
                method.load_state_dict(state)
            learn(model, optimizer, *problem())
            method.step()
        return weights(model)

    for one, other in zip(trained(None), trained(10), strict=True):
        assert torch.equal(one, other)


def test_the_state_of_another_model_is_refused():
    small, large = chain(3, 6, 2), chain(5, 9, 1)
    state = cbp.ShrinkPerturb(large, still(large)).state_dict()
    with pytest.raises(ValueError, match=r"\[\[9, 5\], \[9\].*this one has \[\[6, 3\]"):
        cbp.ShrinkPerturb(small, still(small)).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrink": 1.5}, r"shrink must be a finite number in \[0, 1\], got 1.5"),
        ({"shrink": True}, r"shrink must be a finite number in \[0, 1\], got True"),
        ({"perturb": -1}, r"perturb must be a finite number >= 0, got -1"),
        ({"perturb": math.nan}, r"perturb must be a finite number >= 0, got nan"),
        ({"period": 0}, r"period must be a whole number >= 1, got 0"),
        ({"noise": "frehs"}, r"noise must be one of normal, fresh; got 'frehs' \(did you mean 'fresh'\?\)"),
        ({"seed": 0.5}, r"seed must be a whole number, got 0.5"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.ShrinkPerturb(model, still(model), **options)


def test_what_is_touched_is_what_is_said():
    """Recurrent layers, attention's projections, what a parametrisation computes weights from; no embeddings, norms, frozen."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.memory = nn.Embedding(5, 4, padding_idx=0), nn.GRU(4, 4)
            self.attention, self.norm = nn.MultiheadAttention(4, 2), nn.LayerNorm(4)
            self.normed, self.frozen = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4)
            self.frozen.requires_grad_(False)

    model = Model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    method = cbp.ShrinkPerturb(model, still(model), shrink=0.5, perturb=0.1)
    method.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(method.touched)
    assert {name.split(".")[0] for name in changed} == {"memory", "attention", "normed"}
    assert {"attention.in_proj_weight", "memory.weight_hh_l0", "normed.parametrizations.weight.original1"} <= changed


def test_a_model_of_recurrent_layers_alone_is_treated_and_one_without_weights_refused():
    model = nn.LSTM(2, 3)
    before = model.weight_ih_l0.detach().clone()
    cbp.ShrinkPerturb(model, still(model), shrink=0.5, perturb=0.0).step()
    assert torch.equal(model.weight_ih_l0, before / 2)
    with pytest.raises(ValueError, match="LayerNorm has no layer that multiplies"):
        cbp.ShrinkPerturb(nn.LayerNorm(3), still(model))


def test_a_model_that_has_lost_its_layers_is_left_alone():
    model = nn.Sequential(nn.Linear(2, 2))
    method = cbp.ShrinkPerturb(model, torch.optim.SGD(model.parameters(), lr=0.1), period=1)
    model[0] = nn.Identity()
    assert method.step() == []
    model[0] = nn.Linear(2, 2)
    before = model[0].weight.detach().clone()
    method.step()
    assert not torch.equal(model[0].weight, before)
