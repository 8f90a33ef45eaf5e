"""What becomes of the memory of optimizers that are not torch's own, where units are replaced."""

from __future__ import annotations

import pytest
import torch
from small_networks import Problem, chain, learn
from torch import nn
from torch.optim import Optimizer

import cbp


def replaced_after(
    model: nn.Module, optimizer: Optimizer, updates: int = 20, reset: str = "moments"
) -> tuple[list[int], list[int]]:
    """The units that are replaced after so many updates, half of them, and the others."""
    method = cbp.ContinualBackprop(
        model, optimizer, replacement_rate=0.5, maturity_threshold=updates - 1, reset_optimizer=reset
    )
    problem, replaced = Problem(3, 2), []
    for _ in range(updates):
        learn(model, optimizer, *problem())
        (units,) = method.step()
        replaced += units.tolist()
    assert 0 < len(replaced) < 6
    return replaced, [i for i in range(6) if i not in replaced]


# Classes that derive from torch's


class OwnRprop(torch.optim.Rprop):
    pass


class OwnAdagrad(torch.optim.Adagrad):
    pass


class OwnLBFGS(torch.optim.LBFGS):
    pass


@pytest.mark.parametrize(
    ("kind", "options", "state", "beginning"),
    [
        (OwnRprop, {"lr": 0.02}, "step_size", 0.02),
        (OwnAdagrad, {"lr": 0.01, "initial_accumulator_value": 0.3}, "sum", 0.3),
    ],
)
def test_a_class_that_derives_from_torchs_begins_where_that_begins(kind, options, state, beginning):
    model = chain(3, 6, 2, activation=nn.Tanh)
    optimizer = kind(model.parameters(), **options)
    replaced, kept = replaced_after(model, optimizer)
    remembered = optimizer.state[model[0].weight][state]
    assert (remembered[replaced] == beginning).all()
    assert (remembered[kept] != beginning).any()


def test_a_class_that_derives_from_one_that_cannot_be_reset_is_refused_too():
    model = chain(3, 6, 2)
    with pytest.raises(TypeError, match=r"what test_optimizers\.OwnLBFGS remembers cannot be reset.*must be 'none'"):
        cbp.ContinualBackprop(model, OwnLBFGS(model.parameters()))
    cbp.ContinualBackprop(model, OwnLBFGS(model.parameters()), reset_optimizer="none")


class Signs(Optimizer):
    """An optimizer of nobody's: steps of one length along the sign of an average."""

    def __init__(self, params: object) -> None:
        super().__init__(params, {"length": 0.01})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 0.1)
                parameter.sub_(average.sign(), alpha=group["length"])


def test_what_an_unknown_optimizer_remembers_is_zeroed():
    model = chain(3, 6, 2, activation=nn.Tanh)
    optimizer = Signs(model.parameters())
    replaced, kept = replaced_after(model, optimizer)
    average = optimizer.state[model[0].weight]["average"]
    assert not average[replaced].any()
    assert average[kept].all()


# Optimizers around others


class Around(Optimizer):
    """Hands every update on to another optimizer, as wrappers do that keep something of their own."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, {})
        self.param_groups = inner.param_groups

    def step(self) -> None:
        self.inner.step()


class Showing(Around):
    """As Accelerate's: what it shows as its state is that of the other."""

    @property
    def state(self) -> object:
        return self.inner.state

    @state.setter
    def state(self, value: object) -> None:
        pass


class Several(Optimizer):
    """One optimizer for matrices, another for vectors."""

    def __init__(self, *inner: Optimizer) -> None:
        self.all = inner
        super().__init__([group for one in inner for group in one.param_groups], {})

    def step(self) -> None:
        for one in self.all:
            one.step()


@pytest.mark.parametrize("wrap", [Around, Showing, lambda inner: Around(Showing(inner)), Several])
@pytest.mark.parametrize(
    ("kind", "state", "beginning"), [(torch.optim.Adam, "exp_avg", 0.0), (torch.optim.Rprop, "step_size", 0.02)]
)
def test_what_a_wrapped_optimizer_remembers_begins_anew(wrap, kind, state, beginning):
    model = chain(3, 6, 2, activation=nn.Tanh)
    inner = kind(model.parameters(), lr=0.02)
    replaced, kept = replaced_after(model, wrap(inner))
    remembered = inner.state[model[0].weight][state]
    assert (remembered[replaced] == beginning).all()
    assert (remembered[kept] != beginning).any()
    remembered = inner.state[model[2].weight][state]
    assert (remembered[:, replaced] == beginning).all()
    assert (remembered[:, kept] != beginning).any()


def test_what_a_wrapper_remembers_itself_begins_anew_too():
    model = chain(3, 6, 2, activation=nn.Tanh)
    inner = torch.optim.Adam(model.parameters())
    around = Around(inner)
    around.state[model[0].weight]["average"] = torch.ones_like(model[0].weight)
    replaced, kept = replaced_after(model, around)
    assert not around.state[model[0].weight]["average"][replaced].any()
    assert around.state[model[0].weight]["average"][kept].all()
    assert not inner.state[model[0].weight]["exp_avg"][replaced].any()


def test_a_wrapped_optimizer_that_cannot_be_reset_is_refused():
    model = chain(3, 6, 2)
    around = Around(torch.optim.LBFGS(model.parameters()))
    with pytest.raises(TypeError, match=r"torch\.optim\.lbfgs\.LBFGS remembers cannot be reset.*must be 'none'"):
        cbp.ContinualBackprop(model, around)
    cbp.ContinualBackprop(model, around, reset_optimizer="none")


def test_counts_of_steps_begin_anew_in_a_wrapped_optimizer_that_has_them_by_element():
    model = chain(3, 6, 2, activation=nn.Tanh)
    inner = cbp.Adam(model.parameters())
    replaced, kept = replaced_after(model, Around(inner), reset="moments_and_step")
    steps = inner.state[model[0].weight]["step"]
    assert not steps[replaced].any()
    assert steps[kept].all()
    with pytest.raises(TypeError, match=r"needs cbp\.Adam.*got torch\.optim\.adam\.Adam"):
        cbp.ContinualBackprop(model, Around(torch.optim.Adam(model.parameters())), reset_optimizer="moments_and_step")


def test_optimizers_that_know_each_other_are_followed_once():
    model = chain(3, 6, 2, activation=nn.Tanh)
    inner = torch.optim.Adam(model.parameters())
    inner.around = around = Around(inner)
    replaced, _ = replaced_after(model, around)
    assert not inner.state[model[0].weight]["exp_avg"][replaced].any()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # by the import
def test_the_part_that_zero_redundancy_keeps_begins_anew(tmp_path):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = chain(3, 6, 2, activation=nn.Tanh)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=0.01)
        replaced, kept = replaced_after(model, optimizer)
    finally:
        torch.distributed.destroy_process_group()
    assert not optimizer.optim.state[model[0].weight]["exp_avg"][replaced].any()
    assert optimizer.optim.state[model[0].weight]["exp_avg"][kept].any()


# States that are copies of the weights


class Copies(Optimizer):
    """Steps along the gradient, and copies of the weights as optimizers from elsewhere have them, beside moments."""

    def __init__(self, params: object, copied_to: torch.dtype = torch.float64) -> None:
        super().__init__(params, {"lr": 0.02})
        self.copied_to = copied_to

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    for name in ("x0", "slow", "z"):
                        state[name] = parameter.to(self.copied_to, copy=True)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                    state["untouched"] = torch.zeros_like(parameter)
                state["exp_avg"].lerp_(parameter.grad, 0.1)
                state["exp_avg_sq"].lerp_(parameter.grad.square(), 0.1)
                parameter.sub_(parameter.grad, alpha=group["lr"])
                state["z"].sub_(parameter.grad.to(state["z"]), alpha=3 * group["lr"])  # runs ahead
                state["slow"].lerp_(parameter.to(state["slow"]), 0.2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_copies_of_the_weights_begin_with_the_fresh_ones_and_moments_at_zero(dtype):
    model = chain(3, 6, 2, activation=nn.Tanh)
    optimizer = Copies(model.parameters(), dtype)
    replaced, kept = replaced_after(model, optimizer)
    state = optimizer.state[model[0].weight]
    for name in ("x0", "slow", "z"):
        assert torch.equal(state[name][replaced], model[0].weight[replaced].to(dtype))
        assert not torch.equal(state[name][kept], model[0].weight[kept].to(dtype))
        assert not optimizer.state[model[2].weight][name][:, replaced].any()
        assert optimizer.state[model[2].weight][name][:, kept].all()
    for name in ("exp_avg", "exp_avg_sq"):
        assert not state[name][replaced].any()
        assert state[name][kept].all()
    assert not state["untouched"].any()


def test_the_first_weights_are_known_by_name_however_far_the_weights_have_gone():
    model = chain(3, 6, 2, activation=nn.Tanh)
    optimizer = Copies(model.parameters())
    replaced_after(model, optimizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    replaced, _ = replaced_after(model, optimizer)
    assert torch.equal(optimizer.state[model[0].weight]["x0"][replaced], model[0].weight[replaced])
    assert not optimizer.state[model[0].weight]["z"][replaced].any()


def test_copies_are_told_by_all_their_elements_where_every_unit_is_replaced():
    model = chain(3, 6, 2, activation=nn.Tanh)
    optimizer = Copies(model.parameters())
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=1.0, maturity_threshold=0)
    learn(model, optimizer, *Problem(3, 2)())
    assert len(method.step()[0]) == 6
    assert torch.equal(optimizer.state[model[0].weight]["slow"], model[0].weight)
    assert not optimizer.state[model[0].weight]["exp_avg"].any()


def test_a_copy_follows_where_a_convolution_is_in_groups():
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.Flatten(), nn.Linear(4 * 4, 2))
    optimizer = Copies(model.parameters(), torch.float32)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=0)
    x = torch.randn(8, 2, 6, 6)
    model(x).square().mean().backward()
    optimizer.step()
    before = {name: optimizer.state[model[2].weight][name].clone() for name in ("slow", "exp_avg")}
    (units, others) = (units.tolist() for units in method.step())
    assert len(units) == 3
    assert torch.equal(optimizer.state[model[0].weight]["slow"][units], model[0].weight[units])
    slow, average = (optimizer.state[model[2].weight][name] for name in ("slow", "exp_avg"))
    rows = [row for row in range(4) if row not in others]
    for unit in range(6):
        # Rows 0 and 1 receive units 0, 1 and 2, rows 2 and 3 the others.
        block, column = divmod(unit, 3)
        for row in (row for row in rows if row // 2 == block):
            if unit in units:
                assert not slow[row, column].any()
                assert not average[row, column].any()
            else:
                assert torch.equal(slow[row, column], before["slow"][row, column])
                assert torch.equal(average[row, column], before["exp_avg"][row, column])


@pytest.mark.parametrize(
    ("name", "multiple", "is_copy"),
    [
        # (1 − m)² is compared with a quarter of 1 + m²: 0.25 with 0.3125, 0.36 with 0.29, 1 with 1.25, 2.25 with 1.8125
        ("slow", 0.5, True),
        ("slow", 0.4, False),
        ("slow", 2.0, True),
        ("slow", 2.5, False),
        ("slow", 0.0, False),
        ("slow", -1.0, False),
        # and with all of it
        ("z", 0.1, True),
        ("z", 0.0, False),
        ("z", -1.0, False),
        ("x0", -1.0, True),
    ],
)
def test_how_near_to_the_weights_a_copy_is(name, multiple, is_copy):
    model = chain(3, 6, 2, activation=nn.Tanh)
    optimizer = Copies(model.parameters())
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=0)
    learn(model, optimizer, *Problem(3, 2)())
    weight = model[0].weight.detach()
    state = optimizer.state[model[0].weight][name].copy_(multiple * weight)
    (units,) = method.step()
    assert torch.equal(state[units], weight[units] if is_copy else torch.zeros_like(weight[units]))


class Lookahead(Around):
    """As timm's, with its copies of the weights among the moments of the optimizer within."""

    @torch.no_grad()
    def step(self) -> None:
        self.inner.step()
        for group in self.inner.param_groups:
            for parameter in group["params"]:
                slow = self.inner.state[parameter].setdefault("slow", parameter.clone())
                slow.lerp_(parameter, 0.5)


def test_a_copy_that_a_wrapper_puts_into_the_state_of_an_optimizer_of_torch_begins_with_the_fresh_weights():
    model = chain(3, 6, 2, activation=nn.Tanh)
    inner = torch.optim.Adam(model.parameters(), lr=0.01)
    replaced, kept = replaced_after(model, Lookahead(inner))
    state = inner.state[model[0].weight]
    assert torch.equal(state["slow"][replaced], model[0].weight[replaced])
    assert not torch.equal(state["slow"][kept], model[0].weight[kept])
    assert not state["exp_avg"][replaced].any()


def test_a_momentum_of_torch_is_none_even_where_it_equals_the_weights():
    model = chain(3, 6, 2, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=0)
    learn(model, optimizer, *Problem(3, 2)())
    momentum = optimizer.state[model[0].weight]["momentum_buffer"].copy_(model[0].weight.detach())
    (units,) = method.step()
    assert not momentum[units].any()


# States that begin elsewhere than at zero


class Dividing(Optimizer):
    """Divides its steps by what it remembers, which begins at a number of its own."""

    name: str
    beginning: float

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter].setdefault(self.name, torch.full_like(parameter, self.beginning))
                parameter.addcdiv_(parameter.grad, state.sqrt(), value=-1e-5)
                state.add_(parameter.grad.square())


@pytest.mark.parametrize(
    ("kind", "name", "beginning"),
    [
        ("RMSpropTF", "square_avg", 1.0),  # timm
        ("DAdaptAdaGrad", "alphak", 1e-6),  # D-Adaptation
        ("DAdaptAdaGrad", "alpha_k", 1e-6),  # pytorch_optimizer
        ("BSAM", "s", 1.0),  # pytorch_optimizer
        ("VSGD", "bg", 1e-8),
        ("VSGD", "bhg", 1e-8),
    ],
)
def test_where_others_begin_elsewhere_than_at_zero_is_known(kind, name, beginning):
    model = chain(3, 6, 2, activation=nn.Tanh)
    derived = type(kind, (Dividing,), {"name": name, "beginning": beginning})
    optimizer = derived(model.parameters(), {"pbg2": 1e-8, "pbhg2": 1e-8})
    replaced, kept = replaced_after(model, optimizer)
    assert (optimizer.state[model[0].weight][name][replaced] == beginning).all()
    assert (optimizer.state[model[0].weight][name][kept] != beginning).any()


# A new optimizer


def test_a_method_made_anew_with_a_new_optimizer_goes_on_and_resets_what_that_remembers():
    model, problem = chain(3, 6, 2, activation=nn.Tanh), Problem(3, 2)
    before = torch.optim.Adam(model.parameters())
    old = cbp.ContinualBackprop(model, before, replacement_rate=0.5, maturity_threshold=15)
    for _ in range(10):
        learn(model, before, *problem())
        old.step()
    optimizer = torch.optim.Adam(model.parameters())
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.5, maturity_threshold=15)
    method.take_over(old)
    old.remove()
    assert (method.layers[0].age == 10).all()
    assert torch.equal(method.layers[0].utility, old.layers[0].utility)
    units = torch.tensor([])
    while not len(units):
        learn(model, optimizer, *problem())
        (units,) = method.step()
    moments = optimizer.state[model[0].weight]["exp_avg"]
    assert not moments[units].any()
    assert moments.any()
    assert before.state[model[0].weight]["exp_avg"].any(dim=1).all()
