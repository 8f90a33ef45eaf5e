"""UPGD against its equations, one number at a time."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_networks import Problem, chain, learn, still
from torch import nn

import cbp


class Oracle:
    """w ← (1 − αλ)·w + 2·(1 − sigmoid(û / max û))·(Δw − α·σ·ξ), number by number."""

    def __init__(self, model, decay_rate, sigma, weight_decay, seed):
        self.parameters = list(model.parameters())
        self.beta, self.sigma, self.decay = decay_rate, sigma, weight_decay
        self.generator = torch.Generator().manual_seed(seed)
        self.u = [[0.0] * p.numel() for p in self.parameters]
        self.t = 0

    def before_update(self):
        self.t += 1
        self.w = [p.flatten().tolist() for p in self.parameters]
        for of_u, of_w, p in zip(self.u, self.w, self.parameters, strict=True):
            gradient = p.grad.flatten().tolist()
            for i in range(len(of_u)):
                of_u[i] = self.beta * of_u[i] + (1 - self.beta) * -gradient[i] * of_w[i]

    @torch.no_grad()
    def step(self, lr):
        corrected = [[u / (1 - self.beta**self.t) for u in of_u] for of_u in self.u]
        greatest = max(max(of_u) for of_u in corrected)
        for p, of_w, of_u in zip(self.parameters, self.w, corrected, strict=True):
            xi = torch.randn(p.shape, generator=self.generator, dtype=p.dtype).flatten().tolist() if self.sigma else None
            new = p.flatten().tolist()
            for i in range(len(new)):
                gate = 2 * (1 - 1 / (1 + math.exp(-of_u[i] / greatest)))
                step = new[i] - of_w[i] - (lr * self.sigma * xi[i] if xi else 0.0)
                new[i] = (1 - lr * self.decay) * of_w[i] + gate * step
            p.copy_(torch.tensor(new, dtype=p.dtype).view(p.shape))


def gated(network, optimizer, acting, x, y):
    optimizer.zero_grad()
    (network(x) - y).square().mean().backward()
    acting.before_update()
    optimizer.step()
    return acting.step()


@pytest.mark.parametrize("kind", ["sgd", "adam", "two groups"])
@pytest.mark.parametrize("options", [{}, {"decay_rate": 0.5, "sigma": 0.3, "weight_decay": 0.2}, {"sigma": 0.0}])
def test_upgd_agrees_with_the_oracle_step_by_step(kind, options):
    def make(model):
        if kind == "two groups":
            groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
            return torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        return (torch.optim.SGD if kind == "sgd" else torch.optim.Adam)(model.parameters(), lr=0.05)

    model = chain(3, 6, 2, seed=1)
    twin = copy.deepcopy(model)
    optimizer, twin_optimizer = make(model), make(twin)
    method = cbp.UPGD(model, optimizer, seed=4, **options)
    oracle = Oracle(twin, **{"decay_rate": 0.999, "sigma": 0.001, "weight_decay": 0.001, "seed": 4, **options})
    oracle.step, its_step = lambda: its_step(0.05), oracle.step
    problem = Problem(3, 2)
    for _ in range(25):
        x, y = problem()
        assert gated(model, optimizer, method, x, y) == []
        gated(twin, twin_optimizer, oracle, x, y)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)


def test_complex_weights_are_treated_as_pairs_of_real_ones():
    torch.manual_seed(0)
    first, x = torch.randn(4, dtype=torch.cfloat), torch.randn(4, dtype=torch.cfloat)
    pairs, waves = nn.Module(), nn.Module()
    pairs.z, waves.z = nn.Parameter(torch.view_as_real(first).clone()), nn.Parameter(first.clone())
    for model, numbers in ((pairs, lambda: torch.view_as_complex(pairs.z)), (waves, lambda: waves.z)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method = cbp.UPGD(model, optimizer, decay_rate=0.5, sigma=0.3)
        for _ in range(4):
            optimizer.zero_grad()
            ((numbers() * x).imag.sum() + numbers().abs().square().sum()).backward()
            method.before_update()
            optimizer.step()
            method.step()
        method.load_state_dict(method.state_dict())
    torch.testing.assert_close(torch.view_as_real(waves.z), pairs.z)


def test_with_sgd_it_is_the_papers_update_with_twice_the_step_size():
    model = chain(2, 3, 1, seed=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = cbp.UPGD(model, optimizer, sigma=0.0, weight_decay=0.0)
    x, y = Problem(2, 1)()
    optimizer.zero_grad()
    (model(x) - y).square().mean().backward()
    before = [p.detach().clone() for p in model.parameters()]
    utilities = [-p.grad * w for p, w in zip(model.parameters(), before, strict=True)]  # at t = 1, û is −g·w
    greatest = max(u.max() for u in utilities)
    method.before_update()
    optimizer.step()
    method.step()
    for p, w, u in zip(model.parameters(), before, utilities, strict=True):
        assert torch.allclose(p, w - 2 * 0.1 * p.grad * (1 - torch.sigmoid(u / greatest)))


def test_where_no_weight_has_a_utility_above_zero_none_is_protected():
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = cbp.UPGD(model, optimizer, sigma=0.0, weight_decay=0.0)
    model(torch.tensor([[1.0, 2.0]])).sum().backward()  # utilities −1 and −2
    method.before_update()
    optimizer.step()
    method.step()
    assert torch.allclose(model.weight, torch.tensor([[0.8, 0.6]]))  # 1 − 2·0.1·g


def test_averages_of_unequal_length_are_corrected_each_by_its_own():
    first, second = (nn.Parameter(torch.tensor([-1.0])) for _ in range(2))
    optimizer = torch.optim.SGD([first, second], lr=0.0)
    method = cbp.UPGD(nn.ParameterList([first, second]), optimizer, decay_rate=0.5, sigma=0.0, weight_decay=0.0)
    for parameters, lr in (([first], 0.0), ([first, second], 0.1)):
        optimizer.param_groups[0]["lr"] = lr
        for parameter in parameters:
            parameter.grad = torch.ones(1)
        method.before_update()
        optimizer.step()
        method.step()
    # û = 0.75 / (1 − 0.5²) = 1 and 0.5 / (1 − 0.5) = 1, of which the greatest is 1: −1 − 2·0.1·(1 − sigmoid(1))
    expected = -1 - 0.2 * (1 - 1 / (1 + math.exp(-1)))
    assert [first.item(), second.item()] == pytest.approx([expected, expected])


def test_parameters_without_a_gradient_and_the_global_generator_are_left_alone():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = cbp.UPGD(model, optimizer)
    state = torch.get_rng_state()
    before = model[0].weight.detach().clone()
    model[1](torch.ones(1, 3)).sum().backward()
    method.before_update()
    optimizer.step()
    method.step()
    assert torch.equal(model[0].weight, before)
    assert torch.equal(torch.get_rng_state(), state)
    model.zero_grad()
    with pytest.raises(RuntimeError, match=r"UPGD finds no gradients: call before_update\(\) between loss.backward\(\)"):
        method.before_update()


def test_gradients_that_overflowed_leave_the_utilities_as_they_are():
    model = chain(2, 3, 1)
    optimizer = still(model)
    method = cbp.UPGD(model, optimizer)
    for value in (1.0, math.inf):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        method.before_update()
        method.step()
    assert all(utility.isfinite().all() for utility in method.state_dict()["utilities"])


def test_the_step_size_is_that_of_the_moment_also_after_the_optimizer_was_loaded():
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    method = cbp.UPGD(model, optimizer, sigma=0.0, weight_decay=0.1)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.25
    nn.init.ones_(model.weight)
    model.weight.grad = torch.zeros(1, 1)
    method.before_update()
    optimizer.step()
    method.step()
    assert model.weight.item() == pytest.approx(1 - 0.25 * 0.1)


def test_a_stopped_method_goes_on_exactly():
    def trained(interrupted_after):
        model = chain(3, 6, 2, seed=3)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        method, problem = cbp.UPGD(model, optimizer, sigma=0.1), Problem(3, 2)
        for step in range(20):
            if step == interrupted_after:
                state = method.state_dict()
                method = cbp.UPGD(model, optimizer, sigma=0.1, seed=99)
                method.load_state_dict(state)
            gated(model, optimizer, method, *problem())
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(trained(9), trained(None))


def test_a_loop_that_forgets_to_call_it_before_the_update_is_told_so():
    model = chain(3, 6, 2)
    optimizer = still(model)
    method = cbp.UPGD(model, optimizer)
    learn(model, optimizer, *Problem(3, 2)())
    with pytest.raises(RuntimeError, match=r"UPGD needs the gradients: call before_update\(\) between"):
        method.step()


def test_the_state_of_another_model_is_refused_and_nothing_is_loaded():
    small, large = chain(3, 6, 2), chain(3, 7, 2)
    method = cbp.UPGD(small, still(small))
    with pytest.raises(ValueError, match=r"shapes \[\[7, 3\], .* this optimizer holds \[\[6, 3\]"):
        method.load_state_dict(cbp.UPGD(large, still(large)).state_dict())
    with pytest.raises(ValueError, match="the state lacks generator, updates, utilities"):
        method.load_state_dict({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay_rate": 1.0}, r"decay_rate must be a finite number in \[0, 1\), got 1.0"),
        ({"sigma": -1}, "sigma must be a finite number >= 0, got -1"),
        ({"weight_decay": math.nan}, "weight_decay must be a finite number >= 0, got nan"),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(options, message):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=message):
        cbp.UPGD(model, still(model), **options)


@pytest.mark.parametrize(("defaults", "found"), [({"eta": 0.1}, "no lr"), ({"lr": None}, "lr=None")])
def test_an_optimizer_without_a_step_size_is_refused(defaults, found):
    model = chain(3, 6, 2)
    optimizer = torch.optim.Optimizer(model.parameters(), defaults)
    with pytest.raises(ValueError, match=f"UPGD takes step sizes from the optimizer's lr, got Optimizer with {found}"):
        cbp.UPGD(model, optimizer)
