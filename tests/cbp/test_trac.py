"""TRAC against its algorithms, one number at a time."""

from __future__ import annotations

import copy
import math

import pytest
import scipy.special
import torch
from small_networks import Problem, chain, learn, still
from torch import nn

import cbp


class Oracle:
    """θ ← θ₀ + max(0, Σ_j s_j)·Δ, number by number, with scipy's erfi."""

    def __init__(self, model, decay_rates=(0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999), first_scale=1e-8, eps=1e-8):
        self.parameters = list(model.parameters())
        self.first = [p.flatten().tolist() for p in self.parameters]
        self.delta = [[0.0] * p.numel() for p in self.parameters]
        self.betas, self.epsilon, self.eps = decay_rates, first_scale, eps
        self.v = [0.0] * len(decay_rates)
        self.sigma = [1e-8] * len(decay_rates)

    def before_update(self):
        self.w = [p.flatten().tolist() for p in self.parameters]
        gradients = [p.grad.flatten().tolist() for p in self.parameters]
        self.h = sum(g * d for of_g, of_d in zip(gradients, self.delta, strict=True) for g, d in zip(of_g, of_d, strict=True))

    @torch.no_grad()
    def step(self):
        scale = 0.0
        for j, beta in enumerate(self.betas):
            self.v[j] = beta**2 * self.v[j] + self.h**2
            self.sigma[j] = beta * self.sigma[j] - self.h
            x = self.sigma[j] / (math.sqrt(2) * math.sqrt(self.v[j]) + self.eps)
            scale += self.epsilon / scipy.special.erfi(1 / math.sqrt(2)) * scipy.special.erfi(x)
        self.scale = max(0.0, scale)
        for p, of_w, of_delta, of_first in zip(self.parameters, self.w, self.delta, self.first, strict=True):
            new = p.flatten().tolist()
            for i in range(len(new)):
                of_delta[i] += new[i] - of_w[i]
                new[i] = of_first[i] + self.scale * of_delta[i]
            p.copy_(torch.tensor(new, dtype=p.dtype).view(p.shape))
        return []


def scaled(network, optimizer, acting, x, y):
    optimizer.zero_grad()
    (network(x) - y).square().mean().backward()
    acting.before_update()
    optimizer.step()
    return acting.step()


@pytest.mark.parametrize("options", [{}, {"decay_rates": (0.5, 0.9), "first_scale": 0.1, "eps": 1e-3}])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_trac_agrees_with_the_oracle_step_by_step(make, options):
    model = chain(3, 6, 2, seed=1)
    twin = copy.deepcopy(model)
    optimizer, twin_optimizer = (make(m.parameters(), lr=0.05) for m in (model, twin))
    method, oracle = cbp.Trac(model, optimizer, **options), Oracle(twin, **options)
    problem, scales = Problem(3, 2), []
    for _ in range(60):
        x, y = problem()
        assert scaled(model, optimizer, method, x, y) == []
        scaled(twin, twin_optimizer, oracle, x, y)
        assert method.scale == pytest.approx(oracle.scale, rel=1e-6)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-7, atol=1e-9)
        scales.append(method.scale)
    assert max(scales) > 10 * scales[0]


def test_complex_weights_are_treated_as_pairs_of_real_ones():
    torch.manual_seed(0)
    first, x = torch.randn(4, dtype=torch.cfloat), torch.randn(4, dtype=torch.cfloat)
    pairs, waves = nn.Module(), nn.Module()
    pairs.z, waves.z = nn.Parameter(torch.view_as_real(first).clone()), nn.Parameter(first.clone())
    scales = []
    for model, numbers in ((pairs, lambda: torch.view_as_complex(pairs.z)), (waves, lambda: waves.z)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method = cbp.Trac(model, optimizer, first_scale=0.1)
        for _ in range(8):
            optimizer.zero_grad()
            ((numbers() * x).imag.sum() + numbers().abs().square().sum()).backward()
            method.before_update()
            optimizer.step()
            method.step()
        scales.append(method.scale)
    assert scales[1] == pytest.approx(scales[0], rel=1e-4)
    torch.testing.assert_close(torch.view_as_real(waves.z), pairs.z)


def test_the_weights_come_back_where_the_way_was_worth_nothing():
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = cbp.Trac(model, optimizer, decay_rates=(0.9,), first_scale=0.1)
    for sign in [1.0] * 30 + [-1.0] * 30:  # down, then up again while Δ is still below 0
        model.weight.grad = torch.full((1, 1), sign, dtype=torch.float64)
        method.before_update()
        optimizer.step()
        method.step()
        if sign == 1.0:
            farthest = model.weight.item()
    assert farthest < -0.1
    assert method.scale == 0
    assert model.weight.item() == 0


def test_parameters_without_a_gradient_are_left_alone():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = cbp.Trac(model, optimizer)
    with torch.no_grad():
        model[0].weight += 1
    before = model[0].weight.detach().clone()
    model[1](torch.ones(1, 3)).sum().backward()
    method.before_update()
    optimizer.step()
    method.step()
    assert torch.equal(model[0].weight, before)


def test_a_stopped_method_goes_on_exactly():
    def trained(interrupted_after):
        model = chain(3, 6, 2, seed=3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        method, problem = cbp.Trac(model, optimizer), Problem(3, 2)
        for step in range(30):
            if step == interrupted_after:
                state = method.state_dict()
                method = cbp.Trac(model, optimizer)
                method.load_state_dict(state)
                assert method.scale == state["scale"]
            scaled(model, optimizer, method, *problem())
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(trained(9), trained(None))


def test_a_loop_that_forgets_to_call_it_before_the_update_is_told_so():
    model = chain(3, 6, 2)
    optimizer = still(model)
    method = cbp.Trac(model, optimizer)
    learn(model, optimizer, *Problem(3, 2)())
    with pytest.raises(RuntimeError, match=r"Trac needs the gradients: call before_update\(\) between"):
        method.step()


def test_the_state_of_another_model_is_refused():
    small, large = chain(3, 6, 2), chain(3, 7, 2)
    method = cbp.Trac(small, still(small))
    with pytest.raises(ValueError, match=r"shapes \[\[7, 3\], .* this optimizer holds \[\[6, 3\]"):
        method.load_state_dict(cbp.Trac(large, still(large)).state_dict())
    with pytest.raises(ValueError, match="the state lacks first, offsets, scale, sums, variances"):
        method.load_state_dict({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay_rates": 0.9}, r"decay_rates must be a list of numbers in \[0, 1\], got 0.9"),
        ({"decay_rates": "0.9"}, r"decay_rates must be a list of numbers in \[0, 1\], got '0.9'"),
        ({"decay_rates": ()}, r"decay_rates must be a list of numbers in \[0, 1\], got \(\)"),
        ({"decay_rates": (0.9, 1.5)}, r"decay_rates must be a finite number in \[0, 1\], got 1.5"),
        ({"first_scale": 0}, "first_scale must be above 0, got 0"),
        ({"eps": -1}, "eps must be a finite number >= 0, got -1"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.Trac(model, still(model), **options)


def test_with_other_decay_rates_the_way_goes_on_and_the_scale_begins_anew():
    model = chain(3, 6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = cbp.Trac(model, optimizer, first_scale=0.1)
    for _ in range(3):
        model(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
        method.before_update()
        optimizer.step()
        method.step()
    other = cbp.Trac(model, optimizer, decay_rates=(0.9, 0.5))
    other.load_state_dict(method.state_dict())
    state, fresh = other.state_dict(), cbp.Trac(model, optimizer, decay_rates=(0.9, 0.5)).state_dict()
    assert all(map(torch.equal, state["offsets"], method.state_dict()["offsets"]))
    assert any(offset.any() for offset in state["offsets"])
    assert (state["sums"], state["variances"]) == (fresh["sums"], fresh["variances"])
