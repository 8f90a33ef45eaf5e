"""What replacing a unit does to the network, to the bit, and what it costs when nothing is due."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from oracle import generators
from small_networks import UTILITIES, Problem, chain, still, update
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import cbp


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = chain(3, 10, 2, activation=nn.Tanh)[:2]
        self.heads = nn.ModuleList([chain(10, 2, seed=1), chain(10, 3, seed=2)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.trunk(x)
        return tuple(head(h) for head in self.heads)


def test_contribution_of_replaced_units_is_exactly_removed_and_nothing_else_changes():
    model = TwoHeads()
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.3, maturity_threshold=0)
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        h = model.trunk(x)
    outputs = [output.detach() for output in model(x)]
    (units,) = (found.tolist() for found in method.step())
    assert len(units) == 3  # floor(0.3 · 10)

    kept = [i for i in range(10) if i not in units]
    with torch.no_grad():
        after = model(x)
    for k, head in enumerate(model.heads):
        weight = before[f"heads.{k}.0.weight"]
        for i in units:
            outputs[k] = outputs[k] - h[:, i : i + 1] * weight[:, i]
        torch.testing.assert_close(after[k], outputs[k], rtol=0, atol=1e-14)
        assert not head[0].weight[:, units].any()
        assert torch.equal(head[0].weight[:, kept], weight[:, kept])
        assert torch.equal(head[0].bias, before[f"heads.{k}.0.bias"])
    assert (model.trunk[0].weight[units] != before["trunk.0.weight"][units]).all()
    assert torch.equal(model.trunk[0].weight[kept], before["trunk.0.weight"][kept])
    assert not model.trunk[0].bias[units].any()
    assert torch.equal(model.trunk[0].bias[kept], before["trunk.0.bias"][kept])


def test_bookkeeping_of_replaced_units_starts_anew_and_that_of_others_goes_on():
    model = chain(3, 8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.25, maturity_threshold=5, utility="zero_contribution")
    problem = Problem(3, 2)
    for _ in range(5):
        assert update(model, optimizer, method, *problem()) == [[]]
    (units,) = update(model, optimizer, method, *problem())
    layer = method.layers[0]
    kept = [i for i in range(8) if i not in units]
    assert len(units) == 2
    assert layer.age.tolist() == [0 if i in units else 6 for i in range(8)]
    for known in (layer.utility, layer.corrected_utility, layer.mean_activation[0]):
        assert not known[units].any()
        assert known[kept].any()
    assert layer.replaced == 2
    assert layer.eligible == 6


def test_affine_weights_of_a_layer_norm_are_set_to_one_and_zero_for_replaced_units():
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2)).double()
    with torch.no_grad():
        for norm in (model[1], model[3]):
            norm.weight.fill_(0.5)
            norm.bias.fill_(0.25)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.25, maturity_threshold=0)
    model(torch.ones(1, 3, dtype=torch.float64))
    (units,) = method.step()
    for norm in (model[1], model[3]):
        assert norm.weight.tolist() == [1.0 if i in units else 0.5 for i in range(8)]
        assert norm.bias.tolist() == [0.0 if i in units else 0.25 for i in range(8)]


@pytest.mark.parametrize("options", [{"elementwise_affine": False}, {"bias": False}], ids=str)
def test_layer_norm_may_lack_weight_or_bias(options):
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8, **options), nn.Tanh(), nn.Linear(8, 2)).double()
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.25, maturity_threshold=0)
    model(torch.ones(1, 3, dtype=torch.float64))
    (units,) = method.step()
    assert len(units) == 2
    assert not model[3].weight[:, units].any()


def test_neighbouring_layers_are_replaced_in_forward_order():
    model = chain(3, 6, 6, 2)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0, init="default", seed=4)
    before = copy.deepcopy(model.state_dict())
    model(torch.ones(1, 3, dtype=torch.float64))
    first, second = (units.tolist() for units in method.step())
    assert len(first) == len(second) == 3
    old_first, old_second = ([i for i in range(6) if i not in units] for units in (first, second))
    # A row per unit in the order returned, uniform on ±√(1/fan_in), from the layer's own generator.
    of_first, of_second = generators(4, layers=2)
    drawn_first = (2 * torch.rand((3, 3), generator=of_first, dtype=torch.float64) - 1) * (1 / 3) ** 0.5
    drawn_second = (2 * torch.rand((3, 6), generator=of_second, dtype=torch.float64) - 1) * (1 / 6) ** 0.5
    torch.testing.assert_close(model[0].weight[first], drawn_first, rtol=1e-14, atol=0)
    # Whole rows are drawn, so that the weight from a new unit to a new unit is not zero.
    torch.testing.assert_close(model[2].weight[second], drawn_second, rtol=1e-14, atol=0)
    assert model[2].weight[second][:, first].all()
    # From a new unit to an old one it is zero, and between old ones as it was.
    assert not model[2].weight[old_second][:, first].any()
    assert torch.equal(model[2].weight[old_second][:, old_first], before["2.weight"][old_second][:, old_first])
    assert not model[4].weight[:, second].any()
    assert torch.equal(model[4].weight[:, old_second], before["4.weight"][:, old_second])


def test_returned_units_are_long_tensors_one_per_layer():
    model = chain(3, 6, 4, 2)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.2, maturity_threshold=0)
    model(torch.ones(1, 3, dtype=torch.float64))
    replaced = method.step()
    # floor(0.2 · 6) = 1, floor(0.2 · 4) = 0
    assert [(units.dtype, units.shape) for units in replaced] == [(torch.int64, (1,)), (torch.int64, (0,))]


def test_gradients_and_graph_of_the_weights_are_left_alone():
    model = chain(3, 6, 2)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=1.0, maturity_threshold=0)
    model(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    identities = [id(parameter) for parameter in model.parameters()]
    assert len(method.step()[0]) == 6
    assert [id(parameter) for parameter in model.parameters()] == identities
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)
        assert parameter.requires_grad
        assert parameter.is_leaf
    assert not method.layers[0].utility.requires_grad


class NoReadingBack(TorchDispatchMode):
    """Fails on operations whose result depends on reading tensor values on the host."""

    FORBIDDEN = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "_unique2", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = [index for index in args[1] if index is not None and index.dtype == torch.bool] if "index" in name else []
        if name in self.FORBIDDEN or masks:
            raise AssertionError(f"{func} reads back from the device")
        return func(*args, **(kwargs or {}))


def test_guard_against_reading_back_works():
    with NoReadingBack():
        for read_back in (lambda t: t.sum().item(), lambda t: bool(t.any()), lambda t: t[t > 0], torch.nonzero):
            with pytest.raises(AssertionError, match="reads back"):
                read_back(torch.ones(3))


@pytest.mark.parametrize("utility", UTILITIES)
def test_step_without_replacement_reads_nothing_back(utility):
    model = chain(3, 6, 5, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.04, maturity_threshold=3, utility=utility)
    problem = Problem(3, 2)
    counts = []
    for _ in range(60):
        # Once all six units are mature, c grows by at most 0.24 a step.
        due_soon = any(layer.counter > 0.75 for layer in method.layers)
        x, y = problem()
        model(x).sub(y).square().mean().backward()
        optimizer.step()
        if due_soon:
            counts.append(sum(len(units) for units in method.step()))
        else:
            with NoReadingBack():
                assert [len(units) for units in method.step()] == [0, 0]
    assert sum(counts) >= 10


@pytest.mark.parametrize("rounding", ["counter", "stochastic"])
@pytest.mark.parametrize("utility", UTILITIES)
def test_step_without_replacement_needs_no_values_at_all(utility, rounding):
    """Tensors on the meta device have none: anything read from them raises."""
    model = chain(3, 6, 5, 2).to("meta")
    method = cbp.ContinualBackprop(
        model,
        still(model),
        replacement_rate=1e-9,
        maturity_threshold=2,
        utility=utility,
        rounding=rounding,
        init="lecun",
    )
    for _ in range(5):
        model(torch.ones(4, 3, dtype=torch.float64, device="meta"))
        assert [len(units) for units in method.step()] == [0, 0]
    assert [layer.eligible for layer in method.layers] == [6, 5]


def test_a_unit_whose_utility_is_not_a_number_goes_first_and_an_immature_one_never():
    model = chain(3, 4, 1)
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=1, rounding="stochastic")
    layer = method.layers[0]
    model(torch.ones(1, 3, dtype=torch.float64))
    assert not len(method.step()[0])  # all have age 1, none exceeds 1
    layer.utility[:] = torch.tensor([9.0, 1.0, math.nan, 9.0])
    model(torch.ones(1, 3, dtype=torch.float64))
    assert method.step()[0].tolist() == [2, 1]  # floor(0.5 · 4) = 2: the one that is no number, then the one least useful
    layer.utility[:] = torch.tensor([8.0, math.nan, 0.0, 9.0])
    model(torch.ones(1, 3, dtype=torch.float64))
    assert method.step()[0].tolist() == [0]  # units 1 and 2 are of age 1: floor(0.5 · 2) = 1 of units 0 and 3


def test_an_empty_batch_leaves_everything_as_it_was():
    model = chain(3, 4, 1)
    method = cbp.ContinualBackprop(model, still(model))
    model(torch.ones(0, 3, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="no forward pass"):
        method.step()
    assert not method.layers[0].utility.isnan().any()
    assert not method.layers[0].age.any()


@pytest.mark.parametrize("rounding", ["counter", "stochastic"])
def test_a_loop_that_averages_utilities_itself_replaces_what_step_does(rounding):
    options = {"replacement_rate": 0.03, "maturity_threshold": 5, "utility": "weight", "rounding": rounding, "seed": 2}
    by_step, by_loop = chain(3, 6, 5, 2), chain(3, 6, 5, 2)
    stepping = cbp.ContinualBackprop(by_step, still(by_step), **options)
    looping = cbp.ContinualBackprop(by_loop, still(by_loop), **options)
    updates = 200
    for _ in range(updates):
        by_step(torch.ones(1, 3, dtype=torch.float64))
        stepping.step()
    # Each layer as far as its next replacement, the earlier first, and only then the other.
    passed, due = [0, 0], [0, 0]
    for index, layer in enumerate(looping.layers):
        passed[index], due[index] = looping.pass_updates(layer, updates)
    for now in range(1, updates + 1):
        for layer in looping.layers:
            layer.utility.lerp_(layer.hidden.outgoing[0].weight.detach().abs().sum(0), 1 - looping.decay_rate)
        for index, layer in enumerate(looping.layers):
            if passed[index] == now and due[index]:
                assert len(looping.replace_least_useful(layer, due[index])) == due[index]
                more, due[index] = looping.pass_updates(layer, updates - now) if now < updates else (0, 0)
                passed[index] += more
    assert min(layer.replaced for layer in stepping.layers) > 5
    for expected, found in zip(stepping.state_dict()["layers"], looping.state_dict()["layers"], strict=True):
        assert expected["replaced"] == found["replaced"]
        assert torch.equal(expected["age"], found["age"])
        assert torch.equal(expected["generator"], found["generator"])
        torch.testing.assert_close(expected["utility"], found["utility"], rtol=1e-12, atol=1e-12)
    for expected, found in zip(by_step.parameters(), by_loop.parameters(), strict=True):
        torch.testing.assert_close(expected, found, rtol=1e-12, atol=1e-12)
