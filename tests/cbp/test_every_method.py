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


def trained(name, options=None, overflow_at=None, updates=12, spoiled_by=None):
    """The weights and the method after some updates of a regression, in one of which gradients or an input may overflow.

    As under a gradient scaler the optimizer makes no step then.
    """
    model = chain(3, 8, 6, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method = cbp.METHODS[name](model, optimizer, **{**SOON.get(name, {}), **(options or {})})
    numbers = torch.Generator().manual_seed(1)
    for update in range(updates):
        x = torch.randn(5, 3, generator=numbers, dtype=torch.float64)
        if update == overflow_at and spoiled_by is not None:
            x[0, 0] = spoiled_by
        optimizer.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        if update == overflow_at and spoiled_by is None:
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


@pytest.mark.parametrize("spoiled_by", [None, math.nan, math.inf], ids=["gradients", "NaN", "infinity"])
@pytest.mark.parametrize("name", cbp.METHODS)
def test_one_update_that_overflowed_spoils_neither_weights_nor_state(name, spoiled_by):
    weights, method = trained(name, overflow_at=4, spoiled_by=spoiled_by)
    assert all(weight.isfinite().all() for weight in weights)
    assert not any(number.isnan().any() for number in numbers_of(method.state_dict()))
    before, _ = trained(name, overflow_at=4, updates=5, spoiled_by=spoiled_by)
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
    kept = getattr(method, option) if option != "seed" or hasattr(method, "seed") else method._generator.initial_seed()
    assert (kept, type(kept)) == (value, int)


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


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in cbp.METHODS), ("swr", {"utility": "magnitude"}), ("shrink-perturb", {"noise": "fresh"})],
)
@pytest.mark.parametrize("frozen_at", [0, 7], ids=["before it is made", "later"])
def test_what_is_frozen_stays_as_it_is(name, options, frozen_at):
    model = nn.Sequential(nn.BatchNorm1d(3), *chain(3, 8, 6, 2)).double()
    model[1].weight.data *= 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    part = model[:2]
    part.requires_grad_(frozen_at > 0)
    method = cbp.METHODS[name](model, optimizer, **{**SOON.get(name, {}), **options})
    numbers = torch.Generator().manual_seed(1)
    for update in range(20):
        if update == frozen_at:
            part.requires_grad_(False).eval()
            before = {key: tensor.clone() for key, tensor in part.state_dict().items()}
        x = torch.randn(5, 3, generator=numbers, dtype=torch.float64)
        optimizer.zero_grad()
        (model(x) - x[:, :2]).square().mean().backward()
        method.before_update()
        optimizer.step()
        method.step()
        method.change()
    assert all(torch.equal(tensor, before[key]) for key, tensor in part.state_dict().items())


@pytest.mark.parametrize("name", cbp.METHODS)
def test_what_is_frozen_stays_as_it_is_though_its_gradients_are_zeros(name):
    model = chain(3, 8, 6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = cbp.METHODS[name](model, optimizer, **SOON.get(name, {}) | ({"first_scale": 1.0} if name == "trac" else {}))
    x = torch.randn(12, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for update in range(12):
        if update == 6:
            model[0].requires_grad_(False)
            before = model[0].weight.clone()
        optimizer.zero_grad(set_to_none=False)
        (model(x[update]) - x[update, :, :2]).square().mean().backward()
        method.before_update()
        optimizer.step()
        method.step()
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("name", ["trac", "upgd", "l2-init", "spectral"])
def test_the_state_of_other_parameters_of_the_same_shape_is_refused(name):
    class Two(nn.Module):
        def __init__(self, *names):
            super().__init__()
            for each in names:
                setattr(self, each, nn.Linear(4, 4))

    methods = []
    for names in (("first", "second"), ("second", "first")):
        model = Two(*names)
        methods.append(cbp.METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.1)))
    state = methods[0].state_dict()
    with pytest.raises(ValueError, match=r"the state is of the parameters first\.weight, .*here they are second\.weight"):
        methods[1].load_state_dict(state)
    methods[0].load_state_dict({key: value for key, value in state.items() if key != "names"})  # of earlier releases


@pytest.mark.parametrize("name", cbp.METHODS)
@pytest.mark.parametrize("state", [None, [1], {}, "state", {"layers": 3}])
def test_what_is_no_state_is_refused_in_words(name, state):
    model = chain(3, 8, 6, 2)
    method = cbp.METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="the state"):
        method.load_state_dict(state)


@pytest.mark.parametrize("name", ["l2-init", "parseval", "spectral", "pfo", "c-chain"])
@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, "2", None])
def test_a_scale_that_is_none_is_refused(name, scale):
    model = chain(3, 8, 6, 2)
    method = cbp.METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.1))
    model(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match="scale must be a finite number above 0, got "):
        method.before_update(scale)
    assert all(torch.equal(parameter.grad, then) for parameter, then in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["parseval", "spectral", "l2-init"])
def test_terms_are_computed_in_full_precision_under_autocast(name):
    added = []
    for enabled in (False, True):
        model = chain(3, 64, 64, 2).float()
        method = cbp.METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.1), strength=1.0)
        with torch.no_grad():
            model[2].weight.mul_(1.5)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            method.before_update()
        added.append(model[2].weight.grad)
    assert torch.equal(*added)


@pytest.mark.parametrize("name", ["l2-init", "upgd", "trac", "hare-tortoise"])
def test_weights_without_a_size_are_refused_in_words(name):
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="has no size yet: call the model once before"):
        cbp.METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize(("option", "value"), [("period", 10**400), ("seed", 2**64), ("seed", -(2**63) - 1)])
def test_whole_numbers_beyond_64_bits_are_refused(option, value):
    model = chain(3, 8, 2)
    for seed in (2**64 - 1, -(2**63)):  # what torch takes
        cbp.ReDo(model, torch.optim.SGD(model.parameters(), lr=0.1), period=2**63 - 1, seed=seed)
    with pytest.raises(ValueError, match=f"{option} must fit into 64 bits, got -?[0-9]"):
        cbp.ReDo(model, torch.optim.SGD(model.parameters(), lr=0.1), **{option: value})


@pytest.mark.parametrize("name", ["cbp", "redo", "snr", "regrama"])
def test_fresh_weights_have_the_spread_of_the_methods_own_option_after_loading(name):
    model = chain(3, 8, 6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    saved = cbp.METHODS[name](model, optimizer)
    model[0].weight.data *= 2
    own, auto = (cbp.METHODS[name](model, optimizer, init=init) for init in ("kaiming", "auto"))
    expected = [layer.fresh_bound for layer in own.layers]
    for method in (own, auto):
        method.load_state_dict(saved.state_dict())
    assert [layer.fresh_bound for layer in own.layers] == expected
    assert [layer.fresh_bound for layer in auto.layers] == [layer.fresh_bound for layer in saved.layers]


@pytest.mark.parametrize("name", ["shrink-perturb", "swr"])
def test_the_spread_of_small_weights_in_half_precision_is_not_zero(name):
    model = nn.Linear(64, 64).half()
    with torch.no_grad():
        model.weight.copy_(torch.full((64, 64), 1e-4))
    method = cbp.METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.1))
    # A uniform distribution on ±b has root mean square b/√3.
    spread = method.state_dict()["spreads"][0] if name == "shrink-perturb" else method.state_dict()["bounds"][0] / math.sqrt(3)
    assert spread == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("name", ["fire", "spectral", "parseval", "nap", "shrink-perturb", "swr", "hare-tortoise"])
def test_what_was_frozen_when_the_method_was_made_is_treated_once_it_is_trained(name):
    model = chain(3, 8, 6, 2)
    model[0].requires_grad_(False)
    options = {"hare-tortoise": {"period": 1}, "swr": {"utility": "magnitude", "factor": 1.0, "period": 1}}.get(name, {})
    method = cbp.METHODS[name](model, torch.optim.SGD(model.parameters(), lr=0.0), **options)
    assert not hasattr(method, "touched") or "0.weight" not in method.touched
    for trained_now in (False, True):
        model[0].requires_grad_(trained_now)
        model[0].weight.data *= 3  # for what compares with the first weights
        before = model[0].weight.detach().clone()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        method.before_update()
        method.step()
        method.change()
        acted = not torch.equal(model[0].weight, before) or bool(model[0].weight.grad.any())
        assert acted == trained_now
    assert not hasattr(method, "touched") or "0.weight" in method.touched


@pytest.mark.parametrize("name", ["cbp", "redo", "regrama", "snr"])
def test_hidden_layers_that_were_frozen_are_found_anew_once_they_are_trained(name):
    model = chain(3, 8, 6, 2)
    model[0].requires_grad_(False)
    nn.init.zeros_(model[2].weight[:, :4].detach())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"redo": {"threshold": 1.0}, "regrama": {"threshold": 1.0}}.get(name, {})
    method = cbp.METHODS[name](model, optimizer, **{**SOON[name], **options})

    def updates(count):
        replaced = []
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.randn(5, 3, dtype=torch.float64)).square().mean().backward()
            replaced.append(list(map(len, method.step())))
        return replaced

    updates(12)
    assert [layer.name for layer in method.layers] == ["2"]
    model[0].requires_grad_(True)
    with pytest.warns(UserWarning, match="found anew, 2 now, of which 1 keep their ages"):
        updates(12)
    assert [layer.name for layer in method.layers] == ["0", "2"]
    assert sum(replaced[0] for replaced in updates(12)) > 0


@pytest.mark.parametrize("name", cbp.METHODS)
def test_a_model_that_is_no_module_is_refused_in_a_line(name):
    model = chain(3, 4, 2)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got a generator"):
        cbp.METHODS[name](model.parameters(), optimizer)


WITH_LAYERS = [name for name, method in cbp.METHODS.items() if "layers" in inspect.signature(method).parameters]


@pytest.mark.parametrize("name", WITH_LAYERS)
def test_given_layers_that_are_none_of_the_models_are_refused_in_a_line(name):
    model = chain(3, 4, 2)
    layer = cbp.HiddenLayer(model[0], [model[2]], "mine", "relu")

    def make(model, layers):
        cbp.METHODS[name](model, torch.optim.Adam(model.parameters()), layers=layers)

    allowed = r"layers must be a list of cbp\.HiddenLayer or of what cbp\.find_layers returns, got a"
    for wrong, got in ((layer, "HiddenLayer"), ([model[0]], "Linear in it"), (model, "Linear in it"), ("mine", "str in it")):
        with pytest.raises(TypeError, match=f"{allowed} {got}"):
            make(model, wrong)
    with pytest.raises(cbp.LayerError, match="no hidden layer was given"):
        make(model, [])
    with pytest.raises(cbp.LayerError, match="layer 'mine' has a Linear that is not in this Sequential"):
        make(chain(3, 4, 2), [layer])
    make(model, iter([layer]))
