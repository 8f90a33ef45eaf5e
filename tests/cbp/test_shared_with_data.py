"""Units that share something with what is no unit are left out; what runs in another way in training is found in training."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from small_networks import chain, still
from torch import Tensor, nn

import cbp
from cbp import metrics

# A part that belongs to units and to something else


class Stream(nn.Module):
    """A residual block whose inner and outer part go through one module."""

    def __init__(self, shared: nn.Module, *, stream_first: bool) -> None:
        super().__init__()
        self.embed, self.inner, self.back, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.shared, self.stream_first, self.free = shared, stream_first, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.free(torch.relu(x))
        if self.stream_first:
            x = self.shared(x)
            return self.head(x + self.back(self.shared(self.inner(x))))
        return self.head(self.shared(x + self.back(self.shared(self.inner(x)))))


class Gain(nn.Module):
    """A parameter for each unit, of several dimensions."""

    def __init__(self, *shape: int, adds: bool) -> None:
        super().__init__()
        self.gain, self.adds = nn.Parameter(torch.rand(shape) + 0.5), adds

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain if self.adds else x * self.gain


SHARED = {
    "prelu": lambda: nn.PReLU(6),
    "layer norm": lambda: nn.LayerNorm(6),
    "rms norm": lambda: nn.RMSNorm(6),
    "batch norm": lambda: nn.BatchNorm1d(6),
    "group norm": lambda: nn.GroupNorm(3, 6),
    "gain": lambda: Gain(6, adds=False),
    "bias": lambda: Gain(1, 6, adds=True),
}


@pytest.mark.parametrize("stream_first", [True, False], ids=["stream first", "units first"])
@pytest.mark.parametrize("kind", SHARED)
def test_units_that_share_a_part_with_a_residual_stream_are_left_out(kind, stream_first):
    torch.manual_seed(0)
    model = Stream(SHARED[kind](), stream_first=stream_first)
    with pytest.raises(cbp.LayerError, match=r"units of 'inner' share 'shared"):
        cbp.ContinualBackprop(model, still(model), example=(torch.randn(4, 5),))


def test_units_that_share_a_part_with_the_input_are_left_out():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slopes, self.a, self.b, self.c = nn.PReLU(6), nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(self.slopes(self.a(self.slopes(x))))))

    model = Twice()
    method = cbp.ContinualBackprop(model, still(model), example=(torch.randn(4, 6),))
    assert [layer.name for layer in method.layers] == ["b"]
    assert method.left_out == ["the units of 'a' share 'slopes.weight' with others: it is used more than once"]


def test_one_slope_for_all_is_nobodys_and_leaves_nothing_out():
    model = Stream(nn.PReLU(), stream_first=False)
    method = cbp.ContinualBackprop(model, still(model), example=(torch.randn(4, 5),))
    assert [layer.name for layer in method.layers] == ["inner"]
    assert cbp.verify(model, (torch.randn(4, 5),)) < 1e-5


# One number of a unit for many that are not its own


class Gated(nn.Module):
    """A gate of one unit for each group of inputs, or of the channels of an image."""

    def __init__(self, gates: int, *, expand: bool) -> None:
        super().__init__()
        self.gate, self.a, self.head, self.expand = nn.Linear(6, gates), nn.Linear(6, 8), nn.Linear(8, 2), expand

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(self.gate(x))[..., None]
        parts = x.view(len(x), gates.shape[1], -1)
        parts = parts * (gates.expand_as(parts) if self.expand else gates)
        return self.head(torch.relu(self.a(parts.flatten(1))))


@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("gates", [1, 2])
def test_a_gate_for_several_inputs_is_left_out(gates, expand):
    model = Gated(gates, expand=expand)
    method = cbp.ContinualBackprop(model, still(model), example=(torch.randn(4, 6),))
    assert [layer.name for layer in method.layers] == ["a"]
    why = "several numbers that are not theirs" if gates == 1 else "inputs or a residual stream, which their columns carry too"
    assert method.left_out == [f"the units of 'gate' scale {why}"]


class Modulated(nn.Module):
    """Inputs, or a residual stream, or a layer's own units, that are scaled by what another layer computes."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.embed, self.gate, self.inner = nn.Linear(6, 5), nn.Linear(5, 6), nn.Linear(6, 6)
        self.a, self.head, self.what = nn.Linear(6, 4), nn.Linear(4, 2), what

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate(torch.relu(self.embed(x)))
        if self.what == "films":
            x = x * (1 + gates)
        elif self.what == "gates":
            x = torch.sigmoid(gates) * x
        elif self.what == "exponents":
            x = x * torch.exp(gates)
        elif self.what == "divisors":
            x = x / gates
        elif self.what == "highways":
            x = (1 - torch.sigmoid(gates)) * x + torch.sigmoid(gates) * torch.relu(self.inner(x))
        elif self.what == "maps":
            maps = x[:, :, None, None].repeat(1, 1, 2, 2)
            x = (maps * torch.sigmoid(gates)[..., None, None]).mean(dim=(2, 3))
        else:
            x = x + self.inner(x)
            x = x * (1 + gates)
        return self.head(torch.relu(self.a(x)))


@pytest.mark.parametrize("what", ["films", "gates", "exponents", "divisors", "highways", "maps", "stream"])
def test_units_that_scale_each_a_number_that_is_not_theirs_are_left_out(what):
    model = Modulated(what)
    method = cbp.ContinualBackprop(model, still(model), example=(torch.randn(4, 6),))
    assert [layer.name for layer in method.layers] == ["embed", "a"]
    assert "'gate'" in method.left_out[0]
    assert any("scale inputs or a residual stream, which their columns carry too" in reason for reason in method.left_out)


class Scaling(nn.Module):
    """Units that scale inputs, and let nothing of them pass where their weights are zero."""

    def __init__(self, scale) -> None:
        super().__init__()
        self.a, self.head, self.scale = nn.Linear(6, 6), nn.Linear(6, 2), scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scale(self.a(x), x))


SCALES = {
    "themselves": lambda a, x: a * x,
    "tanh": lambda a, x: torch.tanh(a) * x,
    "relu": lambda a, x: x * torch.relu(a),
    "divided": lambda a, x: a / (1 + x.abs()),
    "angles": lambda a, x: a * torch.cos(x),
}


@pytest.mark.parametrize("name", SCALES)
def test_units_that_scale_inputs_are_treated_if_nothing_passes_at_zero(name):
    model, x = Scaling(SCALES[name]), torch.randn(4, 6)
    method = cbp.ContinualBackprop(model, still(model), example=(x,), strict=True)
    assert [layer.name for layer in method.layers] == ["a"]
    with torch.no_grad():
        model.a.weight[2] = 0
        model.a.bias[2] = 0
    (gradient,) = torch.autograd.grad(model(x).square().sum(), [model.head.weight])
    assert not gradient[:, 2].any()


class Masked(nn.Module):
    def __init__(self, mask) -> None:
        super().__init__()
        self.a, self.head, self.mask = nn.Linear(6, 6), nn.Linear(6, 2), mask

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mask(torch.relu(self.a(x)), x))


MASKS = {
    "one for all": lambda h, x: h * x[:, :1],
    "expanded": lambda h, x: h * x[:, :1].expand_as(h),
    "booleans": lambda h, x: h * (x > 0),
    "filled": lambda h, x: h.masked_fill(x > 0, 0),
    "chosen": lambda h, x: torch.where(x > 0, h, 0),
    "dropout": lambda h, x: F.dropout(h, 0.3),
    "dropout by hand": lambda h, x: h * torch.bernoulli(torch.full_like(x, 0.7)),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_leaves_nothing_out(name):
    model = Masked(MASKS[name])
    method = cbp.ContinualBackprop(model, still(model), example=(torch.randn(4, 6),), strict=True)
    assert [layer.name for layer in method.layers] == ["a"]


class AtTheGate(nn.Module):
    """A recurrent cell whose state is a residual stream, or comes in as an argument."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.embed, self.inner = nn.Linear(6, 4), nn.Linear(4, 4)
        self.cell, self.head = kind(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, past: Tensor | None = None) -> Tensor:
        y = torch.relu(self.inner(self.embed(x)))
        stream = self.embed(x)
        stream = stream + self.inner(stream) if past is None else past
        state = self.cell(y, (stream, stream) if isinstance(self.cell, nn.LSTMCell) else stream)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell])
def test_a_cell_whose_state_is_a_residual_stream_is_left_out(kind):
    model = AtTheGate(kind)
    with pytest.raises(cbp.LayerError, match=r"'cell.weight_ih', 'cell.weight_hh'|'cell.weight_hh', 'cell.weight_ih'"):
        cbp.find_layers(model, (torch.randn(4, 6),))
    layers = cbp.find_layers(model, (torch.randn(4, 6), torch.randn(4, 4)))
    assert [layer.name for layer in layers] == ["embed", "inner", "cell.weight_ih"]


def test_the_column_of_a_residual_stream_in_a_cell_is_not_its_units():
    model = AtTheGate(nn.RNNCell)  # which takes the stream by its recurrent weight alone
    (layer,) = cbp.find_layers(model, (torch.randn(4, 6),))
    assert [(layer.name, [edge.weights.module for edge in layer.edges])] == [("cell.weight_ih", [model.head])]


def test_attention_over_positions_that_scales_all_channels_is_left_out():
    class Spatial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.a, self.head = nn.Conv2d(3, 1, 3, padding=1), nn.Conv2d(3, 5, 3), nn.Linear(5 * 16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.a(x * torch.sigmoid(self.attend(x)))).flatten(1))

    model = Spatial()
    method = cbp.ContinualBackprop(model, still(model), example=(torch.randn(2, 3, 6, 6),))
    assert [layer.name for layer in method.layers] == ["a"]


# Modules that inherit from torch's and run otherwise


class SkippingCell(nn.GRUCell):
    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return super().forward(x, state) + x


class SkippingLayer(nn.GRU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0] + x


class InModel(nn.Module):
    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent, self.after, self.head = recurrent, nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.recurrent, nn.GRU):
            return self.head(torch.relu(self.after(self.recurrent(x))))
        state = x.new_zeros(len(x), 6)
        for _ in range(2):
            state = self.recurrent(x, state)
        return self.head(torch.relu(self.after(state)))


@pytest.mark.parametrize("kind", [SkippingCell, SkippingLayer])
def test_what_a_recurrent_module_of_ones_own_adds_is_followed(kind):
    model = InModel(kind(6, 6))
    x = torch.randn(4, 6) if kind is SkippingCell else torch.randn(4, 3, 6)
    method = cbp.ContinualBackprop(model, still(model), example=(x,))
    assert [layer.name for layer in method.layers] == ["after"]


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + torch.rand_like(self.weight), self.bias)


def test_layers_with_a_forward_of_their_own_are_not_taken_by_hand():
    first, second = nn.Linear(3, 4), Noisy(4, 2)
    with pytest.raises(cbp.LayerError, match="got a Noisy with a forward of its own: let it be found"):
        cbp.HiddenLayer(first, [second])
    with pytest.raises(cbp.LayerError, match="got a Noisy with a forward of its own"):
        cbp.HiddenLayer(Noisy(3, 4), [nn.Linear(4, 2)])


@pytest.mark.parametrize("by", ["forward", "hook"])
def test_the_tangent_kernel_of_linear_layers_that_do_more_is_refused(by):
    network = nn.Sequential(Noisy(3, 4) if by == "forward" else nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    if by == "hook":
        network[0].register_forward_hook(lambda module, args, output: 3 * output)
    with pytest.raises(ValueError, match="each Linear layer must give its weight times what it receives"):
        metrics.neural_tangent_kernel(network, torch.randn(5, 3))


# What decides the way of a pass


class TwoWays(nn.Module):
    """Its units are an output too, where something says so."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor | dict[str, Tensor], way: object = None) -> object:
        shows = self.training if way is None else way in (True, 1, "both", [0, 0])
        if isinstance(x, dict):
            shows, x = "more" in x, x["x"]
        h = torch.relu(self.b(torch.relu(self.a(x))))
        return (self.c(h), h) if shows else self.c(h)


def trained_layers(model: nn.Module, method: cbp.ContinualBackprop, *arguments: object) -> list[str]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TwoWays runs otherwise than before")
        model(*arguments)
    method.step()
    return [layer.name for layer in method.layers]


@pytest.mark.parametrize(("recorded", "trained"), [(False, True), (0, 1), ("one", "both"), ([0], [0, 0])])
def test_a_call_with_another_value_is_recorded(recorded, trained):
    model, x = TwoWays(), torch.randn(4, 3)
    method = cbp.ContinualBackprop(model, still(model), example=(x, recorded))
    assert [layer.name for layer in method.layers] == ["a", "b"]
    assert trained_layers(model, method, x, recorded) == ["a", "b"]
    assert trained_layers(model, method, x, trained) == ["a"]


def test_a_call_with_another_key_is_recorded():
    model, x = TwoWays(), torch.randn(4, 3)
    method = cbp.ContinualBackprop(model, still(model), example=({"x": x},))
    assert trained_layers(model, method, {"x": x}) == ["a", "b"]
    assert trained_layers(model, method, {"x": x, "more": x}) == ["a"]


def test_a_number_that_counts_on_is_recorded_a_few_times_only(monkeypatch):
    model, x, recorded = TwoWays(), torch.randn(4, 3), []
    method = cbp.ContinualBackprop(model, still(model), example=(x, 2))
    find = method.find
    monkeypatch.setattr(method, "find", lambda example: (recorded.append(example), find(example)))
    for step in range(2, 52):
        model(x, step)
        method.step()
    assert len(recorded) == 32  # and the example: 32 kinds of calls; then the types alone
    assert trained_layers(model, method, x, 52.0) == ["a", "b"]
    assert len(recorded) == 33  # another type is noticed as ever


@pytest.mark.parametrize("given", [True, False], ids=["example", "none"])
def test_a_model_in_evaluation_mode_is_recorded_anew_in_training(given):
    model, x = TwoWays().eval(), torch.randn(4, 3)
    method = cbp.ContinualBackprop(model, still(model), example=(x,) if given else None)
    assert [layer.name for layer in method.layers] == ["a", "b"]
    assert trained_layers(model.train(), method, x) == ["a"]


def test_what_receives_units_in_evaluation_mode_is_named():
    model, x = chain(3, 6, 5, 2), torch.randn(4, 3, dtype=torch.float64)
    method = cbp.ContinualBackprop(model, still(model), example=(x,))
    model[4].eval()
    model(x)
    with pytest.warns(UserWarning, match="units of 2 are not judged: what receives them is in evaluation mode"):
        method.step()
    model[2].eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
        with pytest.raises(RuntimeError, match="whatever receives units is in evaluation mode"):
            method.step()


def test_a_compiled_model_whose_layers_are_given_is_watched():
    model, x = chain(3, 6, 2).float(), torch.randn(4, 3)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    layers = [cbp.HiddenLayer(model[0], [model[2]], activation="relu")]
    method = cbp.ContinualBackprop(compiled, still(model), layers=layers)
    compiled(x)
    assert [len(units) for units in method.step()] == [0]
    assert method.layers[0].age.tolist() == [1] * 6


# Small ones


def test_trainability_is_measured_of_a_network_that_keeps_what_it_computed():
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.kept = torch.relu(self.a(x))
            return self.head(self.kept)

    network, x = Keeping(), torch.randn(8, 3)
    network(x)
    with pytest.raises(RuntimeError):
        copy.deepcopy(network)
    measure = cbp.Trainability(Keeping, x, repetitions=2, updates=20)
    fresh = Keeping()
    fresh.load_state_dict(network.state_dict())
    assert measure(network).score == measure(fresh).score
    assert measure(network, head="head").score == measure(fresh, head="head").score


def test_measures_take_what_their_numbers_allow():
    assert metrics.tau_dormant_fraction(torch.tensor([[True, False], [True, False]]), 0.1) == 0.5
    # |60,000 − (−60,000)| is beyond float16
    assert metrics.weight_distance([torch.tensor([6e4]).half()], [torch.tensor([-6e4]).half()]) == 120_000
