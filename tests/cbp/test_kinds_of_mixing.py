"""Ways in which units reach others, or others reach them, that are easily overlooked."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import still
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import cbp


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """Two layers that are treated, or not, by what is between them; a third that always is."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(self.between(self, self.first(x)))))


def found(model: nn.Module, *example: object) -> tuple[dict[str, int], str]:
    method = cbp.ContinualBackprop(model, still(model), example=example)
    return {layer.name: len(layer.age) for layer in method.layers}, "; ".join(method.left_out)


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda _, h: h.exp() / h.exp().sum(-1, keepdim=True), "reach 'sum'"),
        (lambda _, h: (h - h.logsumexp(-1, keepdim=True)).exp(), "reach 'logsumexp'"),
        (lambda _, h: h.view(-1, 2, 2).max(-1).values.repeat(1, 2), "are combined before they meet a weight"),
        (lambda _, h: h * torch.sigmoid(h.mean(-1, keepdim=True)), "are combined before they meet 'sigmoid'"),
        (lambda _, h: h / (1 + (-h.mean(-1, keepdim=True)).exp()), "are combined before they meet 'exp'"),
        (lambda _, h: h * torch.atan(h.mean(-1, keepdim=True)), "are combined before they meet 'atan'"),
        (lambda net, h: h * torch.tanh((h * net.second.bias[:4]).sum(-1, keepdim=True)), "before they meet 'tanh'"),
        (lambda _, h: h * h.sum(0).argmax().item(), "are read as a number"),
        (lambda _, h: h if h.sum().long().item() else h + 1, "are read as a number"),
    ],
)
def test_units_that_decide_on_others_are_left_out(between, words):
    layers, reasons = found(Between(between), batch(5, 6))
    assert "first" not in layers
    assert words in reasons


def test_a_look_at_whether_all_is_well_leaves_nothing_out():
    def check(_, h):
        assert h.isfinite().all()
        return torch.relu(h)

    assert found(Between(check), batch(5, 6))[0] == {"first": 4, "second": 5}


def test_where_samples_are_taken_from_maps_is_decided_by_units_that_are_left_out():
    class Warp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.offsets, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            offsets = self.offsets(h)
            return self.head(torch.cat([F.grid_sample(h, offsets.permute(0, 2, 3, 1), align_corners=False), offsets], 1))

    model, x = Warp(), batch(2, 3, 8, 8)
    assert found(model, x) == ({"first": 4}, "the units of 'offsets' decide in 'grid_sampler_2d' what becomes of others")
    assert cbp.verify(model, (x,)) < 1e-5


def test_norms_whose_scale_or_bias_is_computed_leave_its_units_out():
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.first, self.head, self.other = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            scale = self.scale(x[0])
            return self.head(F.layer_norm(self.first(x), (8,), scale)) + self.other(scale)

    layers, reasons = found(Conditional(), batch(5, 6))
    assert layers == {"first": 8}
    assert "the units of 'scale' decide in 'native_layer_norm' what becomes of others" in reasons


def test_a_norm_over_units_of_which_some_are_used_without_it_leaves_these_out():
    class Joint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.of_a, self.of_b = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            a, b = torch.relu(self.a(x)), torch.relu(self.b(x))
            return self.of_a(a / (a.square().sum(-1, True) + b.square().sum(-1, True) + 1).sqrt()) + self.of_b(b)

    layers, reasons = found(Joint(), batch(5, 6))
    assert layers == {"a": 4}
    assert reasons == "the units of 'b' reach units of others through a sum or mean over units"


def test_rows_that_are_used_with_all_and_with_some_of_their_columns_are_used_in_two_ways():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.a, self.b = nn.Linear(6, 8, bias=False), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(torch.relu(F.linear(x[:, :4], self.w.weight[:, :4]))), self.b(torch.tanh(self.w(x)))

    with pytest.raises(cbp.LayerError, match=r"have weights in 'w\.weight', which is used in two ways"):
        cbp.find_layers(Twice(), (batch(5, 6),))


def test_rows_whose_columns_are_used_in_parts_are_treated():
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.head = nn.Linear(6, 8, bias=False), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            w = self.w.weight
            return self.head(torch.relu(F.linear(x[:, :4], w[:, :4]) + F.linear(x[:, 4:], w[:, 4:])))

    model, x = Parts(), batch(5, 6)
    assert [layer.units for layer in cbp.find_layers(model, (x,))] == [8]
    assert cbp.verify(model, (x,)) < 1e-5


@pytest.mark.parametrize("how", ["data", "parameter", "slice"])
def test_parameters_in_one_memory_are_left_out_with_a_word(how):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    if how == "data":
        model[2].weight.data = model[0].weight.data.t()
    elif how == "parameter":
        model[2].weight = nn.Parameter(model[0].weight.t())
    else:
        whole = torch.randn(14, 8)
        model[0].weight.data, model[2].weight.data = whole.as_strided((8, 6), (6, 1), 0), whole.as_strided((6, 8), (8, 1), 40)
    with pytest.raises(cbp.LayerError, match=r"have weights in '2\.weight', which shares its memory with '0\.weight'"):
        cbp.find_layers(model, (batch(5, 6),))


def test_parameters_side_by_side_in_one_memory_are_treated():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    flat = torch.randn(96)
    model[0].weight.data, model[2].weight.data = flat[:48].view(8, 6), flat[48:].view(6, 8)
    assert found(model, batch(5, 6))[0] == {"0": 8, "2": 6}


@pytest.mark.parametrize(
    "between",
    [
        lambda _, h: F.interpolate(torch.relu(h)[:, None, None], (4, 7), mode="bicubic")[:, 0, :, 0].relu() * 0 + h,
        lambda _, h: torch.relu(h) * (torch.bernoulli(torch.full_like(h, 0.5)) * 2 - 1),
        lambda _, h: torch.log_softmax(torch.relu(h), dim=0),
    ],
)
def test_what_may_be_below_zero_is_not_taken_for_the_output_of_a_relu(between):
    layers = [layer for layer in cbp.find_layers(Between(between), (batch(50, 6),)) if layer.name == "first"]
    assert not any(edge.non_negative for layer in layers for edge in layer.edges)


def test_bicubic_resizing_of_maps_goes_below_zero():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bicubic"), nn.Conv2d(4, 2, 1))
    (layer,) = cbp.find_layers(model, (batch(2, 3, 8, 8),))
    assert not layer.edges[0].non_negative
    model[2] = nn.Upsample(scale_factor=2, mode="bilinear")
    (layer,) = cbp.find_layers(model, (batch(2, 3, 8, 8),))
    assert layer.edges[0].non_negative


def test_constants_beside_the_output_of_a_relu_may_be_below_zero():
    class Token(nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 2)
            self.register_buffer("token", torch.full((1, 8), sign))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.token, torch.relu(self.first(x))]))

    for sign in (1.0, -1.0):
        model = Token(sign)
        (layer,) = cbp.find_layers(model, (batch(5, 6),))
        assert layer.edges[0].non_negative == (sign > 0)
        value = model.token
        del model.token
        model.token = nn.Parameter(value)  # whose sign may change
        (layer,) = cbp.find_layers(model, (batch(5, 6),))
        assert not layer.edges[0].non_negative


def beside(tokens: Tensor, h: Tensor) -> Tensor:
    tokens[:, 1:] = h
    return tokens


def behind(h: Tensor, value: float) -> Tensor:
    h = h.expand(-1, 3, -1).clone()
    h[:, 0] = torch.full((4,), value)
    return h


@pytest.mark.parametrize(
    "write",
    [
        lambda h, value: F.pad(h, (0, 0, 1, 0), value=value),
        lambda h, value: F.pad(h[:, None], (0, 0, 1, 0, 1, 1), value=value)[:, 1],
        lambda h, value: torch.stack([h, torch.full_like(h, value)], dim=1),
        lambda h, value: beside(torch.full((len(h), 2, 4), value), h),
        lambda h, value: behind(h, value),
    ],
)
def test_what_is_written_beside_the_output_of_a_relu_may_be_below_zero(write):
    for activation in ("relu", "tanh"):
        for value in (0.5, -0.5):
            model = Between(lambda _, h, act=activation, v=value: write(getattr(torch, act)(h)[:, None], v))
            (layer, _) = cbp.find_layers(model, (batch(5, 6),))
            assert layer.activation == (None if activation == "relu" and value < 0 else activation)


def test_padding_of_maps_may_be_below_zero():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConstantPad2d(1, 1.0), nn.Conv2d(4, 2, 1))
    for value in (1.0, -1.0):
        model[2].value = value
        (layer,) = cbp.find_layers(model, (batch(2, 3, 8, 8),))
        assert layer.edges[0].non_negative == (value > 0)


def test_a_mask_of_the_input_s_is_no_other_value():
    class Masked(Between):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.last(torch.relu(self.second(torch.where(mask[:, None], torch.relu(self.first(x)), 0.0))))

    model, example = Masked(None), (batch(5, 6), torch.tensor([True, False, True, True, False]))
    assert found(model, *example)[0] == {"first": 4, "second": 5}
    assert cbp.verify(model, example) < 1e-5


def test_a_hidden_layer_within_an_output_object_without_a_dictionary_or_that_is_called_is_an_output():
    @dataclasses.dataclass(slots=True)
    class Slotted:
        y: Tensor
        h: Tensor

    @dataclasses.dataclass
    class Called:
        y: Tensor
        h: Tensor

        def __call__(self) -> Tensor:
            return self.y

    class Model(nn.Module):
        def __init__(self, kind) -> None:
            super().__init__()
            self.first, self.second, self.kind = nn.Linear(6, 8), nn.Linear(8, 2), kind

        def forward(self, x: Tensor) -> Slotted | Called:
            h = torch.relu(self.first(x))
            return self.kind(self.second(h), h)

    for kind in (Slotted, Called):
        with pytest.raises(cbp.LayerError, match="'first' reach the model's output"):
            cbp.find_layers(Model(kind), (batch(5, 6),))


def test_tuples_without_a_length_in_a_model_hold_nothing_up():
    class Irreps(tuple):
        __slots__ = ()

        def __len__(self) -> int:
            raise NotImplementedError

    model = Between(lambda _, h: torch.relu(h))
    model.irreps = Irreps((1, 2))
    assert [layer.name for layer in cbp.find_layers(model, (batch(5, 6),))] == ["first", "second"]


def test_what_another_method_keeps_of_a_pass_is_no_state_of_the_model():
    passes = []

    class Counting(Between):
        def forward(self, x: Tensor) -> Tensor:
            passes.append(self)
            return super().forward(x)

    model = Counting(lambda _, h: torch.relu(h))
    cbp.ContinualBackprop(model, still(model), example=(batch(5, 6),))
    passes.clear()
    cbp.find_layers(model, (batch(5, 6),))
    assert len(passes) == 1


class Fused(nn.Module):
    """Attention of two heads whose kernel is chosen in the forward pass, with another layer's units as its mask if asked to."""

    def __init__(self, keys: int, *, masked: bool = False) -> None:
        super().__init__()
        self.keys, self.masked = keys, masked
        self.query, self.key, self.value = nn.Linear(6, 8), nn.Linear(6, 4 * keys), nn.Linear(6, 4 * keys)
        self.out, self.mask, self.head = nn.Linear(8, 3), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (of(x).unflatten(-1, (-1, 4)).transpose(1, 2) for of in (self.query, self.key, self.value))
        units = self.mask(x)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            mask = units.detach().unsqueeze(1) if self.masked else None
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=self.keys != 2)
        return self.out(y.transpose(1, 2).flatten(2)), self.head(torch.relu(units))


def test_units_that_are_a_mask_of_fused_attention_are_left_out():
    layers, reasons = found(Fused(2, masked=True), batch(3, 5, 6))
    assert layers == {"value": 8}
    assert "'mask'" in reasons
    assert "decide in attention how positions are weighed" in reasons


def test_values_that_several_queries_of_fused_attention_share_are_treated():
    model, x = Fused(1), batch(3, 5, 6)
    assert found(model, x)[0] == {"value": 4, "mask": 5}
    model.query, model.out = nn.Linear(6, 16), nn.Linear(16, 3)
    model.key, model.value, model.keys = nn.Linear(6, 8), nn.Linear(6, 8), 1
    assert found(model, x)[0] == {"value": 8, "mask": 5}
    (value, _) = cbp.find_layers(model, (x,))
    # Heads 0 and 1 have the first four values each, heads 2 and 3 the others.
    assert value.edges[0].weights.index.tolist() == [[i, i + 4] for i in (0, 1, 2, 3, 8, 9, 10, 11)]
    assert cbp.verify(model, (x,)) < 1e-5


@pytest.mark.parametrize("first", [True, False], ids=["gate first", "gate second"])
def test_a_norm_on_one_of_two_united_layers_is_told_whatever_is_called_first(first):
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.first, self.norm, self.last = nn.Linear(3, 8), nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            gate = self.gate(c) if first else None
            h = self.norm(self.first(x))
            return self.last(torch.relu(h * (self.gate(c) if gate is None else gate)))

    model = Gated()
    (layer,) = cbp.find_layers(model, (batch(5, 4), batch(5, 3)))
    assert layer.norms == (model.norm,)
    assert layer.edges[0].norms


class Experts(nn.Module):
    """Each sample goes to one of two."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)) for _ in range(2))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor, which: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            chosen = (which == number).nonzero().flatten()
            if len(chosen) or x.ndim == 3:
                out = out.index_add(0, chosen, expert(x[chosen]))
        return self.head(out)


def test_an_expert_without_samples_holds_nothing_up():
    model, x = Experts(), batch(3, 5, 6)
    layers, _ = found(model, x, torch.tensor([0, 1, 0]))
    assert layers == {"experts.0.0": 8, "experts.0.2": 6, "experts.1.0": 8}
    layers, reasons = found(model, x, torch.tensor([0, 0, 0]))
    assert layers == {"experts.0.0": 8, "experts.0.2": 6}
    assert "'experts.1.0'" in reasons
    assert cbp.verify(model, (x, torch.tensor([0, 0, 0]))) < 1e-5


def test_units_that_feed_an_expert_without_samples_are_judged_by_what_the_other_receives():
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.experts = nn.Linear(6, 8), nn.ModuleList(nn.Linear(8, 2) for _ in range(2))

        def forward(self, x: Tensor, which: Tensor) -> Tensor:
            h, out = torch.relu(self.trunk(x)), x.new_zeros(len(x), 2)
            for number, expert in enumerate(self.experts):
                chosen = (which == number).nonzero().flatten()
                out = out.index_add(0, chosen, expert(h[chosen]))
            return out

    x, both, one = batch(3, 6), torch.tensor([0, 1, 1]), torch.tensor([1, 1, 1])
    for options in ({"utility": "contribution"}, {"utility": "zero_contribution"}):
        model = Routed()
        method = cbp.ContinualBackprop(model, still(model), decay_rate=0.0, example=(x, both), **options)
        model(x, one)
        method.step()
        # η = 0: u = mean|h − ĥ| · (Σ|w of expert 0| + Σ|w of expert 1|), with ĥ = 0 for the contribution
        h = torch.relu(model.trunk(x)).detach()
        h = h - h.mean(0) if "zero" in options["utility"] else h
        w_out = sum(expert.weight.abs().sum(0) for expert in model.experts)
        torch.testing.assert_close(method.layers[0].utility, (h.abs().mean(0) * w_out).detach())
    model = Routed()
    redo = cbp.ReDo(model, still(model), period=1, threshold=0.0, example=(x, both))
    model(x, one)
    redo.step()
    assert redo.layers[0].utility.isfinite().all()


def test_an_expert_without_samples_is_left_as_it_is_and_what_comes_behind_it_is_judged():
    model, x = Experts(), batch(3, 5, 6)
    method = cbp.ContinualBackprop(model, still(model), example=(x, torch.tensor([0, 1, 0])))
    for _ in range(2):
        model(x, torch.tensor([0, 0, 0]))
        method.step()
    assert {layer.name: int(layer.age[0]) for layer in method.layers} == {
        "experts.0.0": 2,
        "experts.0.2": 2,
        "experts.1.0": 0,
    }


def test_pfo_compares_the_experts_that_are_called_both_times():
    model = Experts()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    method = cbp.ProximalFeatures(model, optimizer, all_layers=True, example=(batch(4, 6), torch.tensor([0, 1, 0, 1])))
    for update in range(12):
        which = torch.tensor([0, 1, 0, 0]) if update % 3 else torch.tensor([0, 0, 0, 0])
        with torch.no_grad():
            model(batch(4, 6), which)
        optimizer.zero_grad()
        model(batch(4, 6), which).square().mean().backward()
        method.before_update()
        optimizer.step()
        method.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    "before",
    [
        lambda net, x: torch.func.vmap(net.before)(x),
        lambda net, x: torch.func.jacrev(lambda x: net.before(x).square().sum())(x),
        lambda _, x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)),
    ],
    ids=["vmap", "jacrev", "cond"],
)
def test_a_part_that_cannot_be_followed_leaves_the_rest_as_it_is(before):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(before(self, x))))

    model, x = Model(), batch(5, 6)
    layers, _ = found(model, x)
    assert layers["first"] == 8
    assert cbp.verify(model, (x,)) < 1e-5


def test_units_that_go_into_a_function_of_functions_are_left_out():
    choose = Between(lambda _, h: torch.cond(h.detach().sum() > 0, torch.sin, torch.cos, (h,)))
    layers, reasons = found(choose, batch(5, 6))
    assert layers == {"second": 5}
    assert "the units of 'first' reach 'cond', which is not followed" in reasons


def test_complex_weights_are_left_out_and_what_is_made_of_them_is_followed():
    class Waves(nn.Module):
        def __init__(self, part) -> None:
            super().__init__()
            self.first, self.waves, self.last = nn.Linear(6, 5), nn.Linear(5, 8, dtype=torch.cfloat), nn.Linear(8, 4)
            self.head, self.part = nn.Linear(4, 2), part

        def forward(self, x: Tensor) -> Tensor:
            h = self.waves(torch.relu(self.first(x)).to(torch.cfloat))
            return self.head(torch.relu(self.last(self.part(h))))

    for part in (torch.abs, torch.real, lambda h: torch.view_as_real(h).square().sum(-1)):
        layers, reasons = found(Waves(part), batch(5, 6))
        assert layers == {"last": 4}
        assert "have complex weights in 'waves.weight'" in reasons


def test_the_neighbours_of_a_sparse_matrix_are_named():
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(6, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return self.last(torch.relu(self.second(edges @ torch.relu(self.first(x)))))

    layers, reasons = found(Graph(), batch(5, 6), torch.eye(5).to_sparse())
    assert layers == {"second": 5}
    assert "the units of 'first' reach 'aten.mm.default', which is not followed" in reasons


def test_layers_without_a_shape_yet_are_refused_with_the_way_out():
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    with pytest.raises(cbp.LayerError, match=r"'0\.weight' has no shape yet: make one forward pass of Sequential first"):
        cbp.find_layers(model, (batch(5, 6),))
    model(batch(5, 6))
    assert found(model, batch(5, 6))[0] == {"0": 8}


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_model_that_computes_a_part_twice_to_save_memory_is_verified(reentrant):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(lambda x: self.second(torch.relu(self.first(x))), self.before(x), use_reentrant=reentrant)

    model = Block()
    assert {layer.name for layer in cbp.find_layers(model, (batch(5, 6),))} == {"before", "first"}
    assert cbp.verify(model, (batch(5, 6),)) < 1e-5


def test_what_is_outside_of_the_model_is_left_alone_by_verify():
    encoder, model = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    assert cbp.verify(model, lambda model: model(encoder(batch(5, 6)))) < 1e-5
    assert encoder.weight.grad is None
    features = encoder(batch(5, 6))  # with a graph that is used again and again
    assert cbp.verify(model, lambda model: model(features)) < 1e-5


def test_finding_leaves_the_generators_of_python_and_numpy_alone():
    def draw(_, h):
        return torch.relu(h) * random.uniform(1, 2) * np.random.uniform(1, 2)  # noqa: NPY002, S311

    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    cbp.verify(Between(draw), (batch(5, 6),))
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize(
    "between",
    [
        lambda _, h: h.as_strided(h.shape, h.stride()),
        lambda _, h: h.as_strided((4, h.shape[0]), (1, 4)).T,  # transposed
        lambda _, h: h.unsqueeze(1).expand(-1, 3, -1).as_strided((h.shape[0], 4), (4, 1)),
        lambda _, h: h.clone().as_strided_((2, h.shape[0] // 2, 4), (2 * h.shape[0], 4, 1)).flatten(0, 1),
    ],
    ids=["the same", "transposed", "of repeated ones", "in place"],
)
def test_units_are_followed_through_strides_of_their_memory(between):
    model, x = Between(between), batch(6, 6)
    assert found(model, x) == ({"first": 4, "second": 5}, "")
    assert cbp.verify(model, (x,)) < 1e-5


def test_units_in_a_view_that_reaches_beyond_their_tensor_are_left_out():
    def beyond(_, h):
        return h[:, :2].as_strided(h.shape, h.stride())

    units, reasons = found(Between(beyond), batch(6, 6))
    assert units == {"second": 5}
    assert "the units of 'first' reach 'as_strided'" in reasons


@pytest.mark.parametrize("dtype", [torch.int16, torch.float64], ids=["parts of numbers", "several in one"])
def test_numbers_that_are_read_as_others_of_another_size_leave_their_units_out(dtype):
    def read(_, h):
        return h + 0 * h.view(dtype).sum().float()

    units, reasons = found(Between(read), batch(5, 6))
    assert units == {"second": 5}
    assert "the units of 'first' reach 'view'" in reasons


def test_weights_that_are_read_as_numbers_of_another_size_are_left_out():
    class Read(Between):
        def forward(self, x):
            return super().forward(x) + 0 * self.first.weight.view(torch.int16)[0, 0]

    units, reasons = found(Read(lambda _, h: h), batch(5, 6))
    assert units == {"second": 5}
    assert "'first.weight', which is used in 'view' too" in reasons
