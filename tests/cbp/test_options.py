"""Option values that are refused, and how."""

from __future__ import annotations

import math

import pytest
import torch
from small_networks import chain, still
from torch import nn

import cbp


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("replacement_rate", -0.1),
        ("replacement_rate", 1.5),
        ("replacement_rate", math.nan),
        ("replacement_rate", math.inf),
        ("replacement_rate", "often"),
        ("replacement_rate", None),
        ("maturity_threshold", -1),
        ("maturity_threshold", 2.5),
        ("maturity_threshold", True),
        ("maturity_threshold", math.nan),
        ("maturity_threshold", "100"),
        ("decay_rate", 1.0),
        ("decay_rate", -0.1),
        ("decay_rate", math.nan),
        ("decay_rate", "0.99"),
        ("utility", "usefulness"),
        ("utility", None),
        ("rounding", "up"),
        ("reset_optimizer", "everything"),
        ("reset_optimizer", True),
        ("init", "orthogonal"),
        ("init", ["lecun"]),
        ("seed", 1.5),
        ("seed", "zero"),
        ("seed", None),
    ],
)
def test_bad_value_is_refused_with_the_option_and_the_value(option, value):
    model = chain(3, 6, 2)
    with pytest.raises((ValueError, TypeError), match=option) as caught:
        cbp.ContinualBackprop(model, still(model), **{option: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("replacement_rate", 2, "a finite number in [0, 1]"),
        ("decay_rate", 1.0, "a finite number in [0, 1)"),
        ("maturity_threshold", -1, "a whole number >= 0"),
        ("seed", 0.5, "a whole number"),
    ],
)
def test_the_refusal_says_what_is_allowed(option, value, allowed):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=option) as caught:
        cbp.ContinualBackprop(model, still(model), **{option: value})
    assert str(caught.value) == f"{option} must be {allowed}, got {value!r}"


@pytest.mark.parametrize(
    ("option", "value", "meant"),
    [
        ("utility", "contributoin", "contribution"),
        ("utility", "adaptable_contributions", "adaptable_contribution"),
        ("utility", "zero-contribution", "zero_contribution"),
        ("rounding", "stochastik", "stochastic"),
        ("reset_optimizer", "moment", "moments"),
        ("init", "xaver", "xavier"),
        ("init", "LeCun", "lecun"),
    ],
)
def test_misspelt_name_brings_a_suggestion(option, value, meant):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match=f"did you mean '{meant}'") as caught:
        cbp.ContinualBackprop(model, still(model), **{option: value})
    assert repr(value) in str(caught.value)


def test_name_like_no_other_brings_the_choices_and_no_suggestion():
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match="counter, stochastic") as caught:
        cbp.ContinualBackprop(model, still(model), rounding="quux")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"), [("replacement_rate", 0), ("replacement_rate", 1), ("maturity_threshold", 0), ("decay_rate", 0)]
)
def test_ends_of_the_allowed_ranges_are_allowed(option, value):
    model = chain(3, 6, 2)
    method = cbp.ContinualBackprop(model, still(model), **{option: value})
    assert getattr(method, option) == value


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_resetting_step_counts_needs_an_optimizer_that_has_them_per_element(make):
    model = chain(3, 6, 2)
    with pytest.raises(TypeError, match=rf"cbp\.Adam.*got .*\.{make.__name__}$"):
        cbp.ContinualBackprop(model, make(model.parameters(), lr=0.1), reset_optimizer="moments_and_step")


def test_resetting_step_counts_works_with_a_subclass_of_our_adam():
    class Mine(cbp.Adam):
        pass

    model = chain(3, 6, 2)
    optimizer = Mine(model.parameters())
    method = cbp.ContinualBackprop(
        model, optimizer, reset_optimizer="moments_and_step", replacement_rate=0.5, maturity_threshold=0
    )
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    (units,) = method.step()
    assert optimizer.state[model[0].bias]["step"].tolist() == [0.0 if i in units else 1.0 for i in range(6)]


@pytest.mark.parametrize(("missing", "treated"), [(0, ["2"]), (2, []), (4, ["0"])])
def test_layers_with_weights_that_no_optimizer_holds_are_left_out(missing, treated):
    model = chain(3, 6, 5, 2)
    optimizer = torch.optim.SGD([p for i in (0, 2, 4) if i != missing for p in model[i].parameters()], lr=0.1)
    # Layer '0' has the weights of 0 and 2 around it, layer '2' those of 2 and 4.
    if treated:
        method = cbp.ContinualBackprop(model, optimizer)
        assert [layer.name for layer in method.layers] == treated
        (line,) = method.left_out
        (other,) = {"0", "2"} - set(treated)
        assert line.startswith(f"the optimizer does not hold the weights around layer '{other}'")
    else:
        with pytest.raises(cbp.LayerError, match=r"optimizer.*'0'.*optimizer.*'2'"):
            cbp.ContinualBackprop(model, optimizer)
    given = [layer for layer in cbp.find_layers(model) if layer.name not in treated]
    with pytest.raises(cbp.LayerError, match="the optimizer does not hold"):
        cbp.ContinualBackprop(model, optimizer, layers=given)


def test_a_layer_that_begins_at_zero_has_no_spread_to_draw_from_and_is_left_out():
    model = chain(3, 6, 5, 2)
    nn.init.zeros_(model[2].weight)
    method = cbp.ContinualBackprop(model, still(model))
    assert [layer.name for layer in method.layers] == ["0"]
    assert method.left_out == ["init='auto' takes the spread of layer '2', whose weights are all zero"]
    method = cbp.ContinualBackprop(model, still(model), init="lecun")
    assert [layer.name for layer in method.layers] == ["0", "2"]
    with pytest.raises(cbp.LayerError, match="strict=True: init='auto' takes the spread of layer '2'"):
        cbp.ContinualBackprop(model, still(model), strict=True)
    with pytest.raises(cbp.LayerError, match="init='auto' takes the spread of layer '2'"):
        cbp.ContinualBackprop(model, still(model), layers=cbp.find_layers(model))


def test_optimizer_of_a_copy_is_refused():
    model, other = chain(3, 6, 2), chain(3, 6, 2)
    with pytest.raises(cbp.LayerError, match="optimizer"):
        cbp.ContinualBackprop(model, still(other))


def test_refused_options_leave_the_model_without_hooks():
    model = chain(3, 6, 2)
    with pytest.raises(TypeError):
        cbp.ContinualBackprop(model, still(model), reset_optimizer="moments_and_step")
    nn.init.zeros_(model[0].weight)
    with pytest.raises(cbp.LayerError):
        cbp.ContinualBackprop(model, still(model))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
