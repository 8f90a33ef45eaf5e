"""States of the past: the weights that receive them are found, whether or not the example has a past."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_networks import still
from torch import Tensor, nn

import cbp


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], width: int = 4, **options: int | bool) -> None:
        super().__init__()
        self.memory = kind(6, 4, batch_first=True, **options)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0])


KINDS = {
    "rnn": lambda: Recurrent(nn.RNN),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    "projected": lambda: Recurrent(nn.LSTM, 3, proj_size=3),
    "both ways": lambda: Recurrent(nn.GRU, 8, bidirectional=True),
    "two layers": lambda: Recurrent(nn.LSTM, num_layers=2),
    "all of it": lambda: Recurrent(nn.LSTM, 6, num_layers=2, bidirectional=True, proj_size=3, bias=False),
}


def slices(layers: list[cbp.groups.Group]) -> list[object]:
    """Of each layer what is drawn anew and what is zeroed."""
    return [
        (
            layer.name,
            [(of.attribute, of.dim, of.index.tolist()) for of in layer.fresh],
            sorted((edge.weights.attribute, edge.weights.dim, edge.weights.index.tolist()) for edge in layer.edges),
        )
        for layer in layers
    ]


@pytest.mark.parametrize("name", KINDS)
def test_a_sequence_of_one_step_shows_what_a_longer_one_does(name):
    model = KINDS[name]()
    short = cbp.find_layers(model, (batch(3, 1, 6),))
    assert slices(short) == slices(cbp.find_layers(model, (batch(3, 5, 6),)))
    assert cbp.verify(model, (batch(3, 5, 6),), layers=short) < 1e-5


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "both ways"])
def test_units_found_in_one_step_are_judged_and_replaced_in_longer_sequences(name):
    model = KINDS[name]()
    groups = cbp.find_layers(model, (batch(3, 1, 6),))
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0, example=(batch(3, 1, 6),))
    model(batch(3, 5, 6)).sum().backward()
    for group, units in zip(groups, method.step(), strict=True):
        assert len(units) == group.units // 2
        for edge in group.edges:
            assert not edge.weights.view().index_select(edge.weights.dim, edge.weights.of(units)).any()


class KeepsItsState(nn.Module):
    """A cell whose state is an attribute."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell, self.head, self.state = kind(6, 4), nn.Linear(4, 2), None

    def forward(self, x: Tensor) -> Tensor:
        self.state = self.cell(x, self.state)
        return self.head(self.state[0] if isinstance(self.state, tuple) else self.state)


class KeepsABuffer(nn.Module):
    """A recurrence by hand, whose state is a buffer that is exchanged or written."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.register_buffer("state", torch.zeros(3, 4))
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x) + self.again(self.state.clone()))
        if self.in_place:
            self.state.copy_(h.detach())
        else:
            self.state = h.detach()
        return self.head(h)


@pytest.mark.parametrize(
    "make",
    [
        lambda: KeepsItsState(nn.GRUCell),
        lambda: KeepsItsState(nn.LSTMCell),
        lambda: KeepsItsState(nn.RNNCell),
        lambda: KeepsABuffer(in_place=False),
        lambda: KeepsABuffer(in_place=True),
    ],
)
def test_a_state_that_the_model_keeps_between_calls_is_followed(make):
    """The oracle makes three calls: what is left of the old units would reach the second."""
    model, x = make(), batch(3, 6)
    layers = cbp.find_layers(model, (x,))
    assert [layer.units for layer in layers] == [4]
    assert cbp.verify(model, lambda model: [model(x), model(x + 1), model(2 * x)], layers=layers) < 1e-5


class Loop(nn.Module):
    """A recurrence by hand on a sequence, one weight for input and state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.Linear(6 + 4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            h = torch.tanh(self.cell(torch.cat([step, h], dim=1)))
        return self.head(h)


class Handled(Loop):
    """The same with something done to the inputs and the state that stand side by side."""

    def __init__(self, done: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.done = done

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            h = torch.tanh(self.cell(self.done(torch.cat([step, h], dim=1))))
        return self.head(h)


def written(u: Tensor) -> Tensor:
    out = torch.empty_like(u)
    out[:] = u
    return out


def seen_only(u: Tensor) -> Tensor:
    u.detach()
    u.view(-1, 2)
    return u


HANDLED = {
    "detached aside": seen_only,
    "clone": torch.clone,
    "cast": lambda u: u.double().float(),
    "view": lambda u: u.view(-1, 5, 2).view(-1, 10),
    "axes": lambda u: u[:, None].expand(-1, 3, -1)[:, 1],
    "transposed": lambda u: u.t().contiguous().t(),
    "taken apart": lambda u: torch.cat(u.split([3, 7], dim=1), dim=1),
    "strides": lambda u: u.as_strided(u.shape, u.stride()),
    "written": written,
    "scaled": lambda u: u * 1.5,
    "scaled one by one": lambda u: u * torch.linspace(1, 2, 10),
    "tanh": torch.tanh,
    "in place": lambda u: u.clone().mul_(2),
    "clamped": lambda u: F.hardtanh(u),
    "dropout": lambda u: F.dropout(u, 0.3),
    "elu": F.elu,
}


@pytest.mark.parametrize("name", HANDLED)
def test_what_is_done_to_inputs_beside_a_state_of_zeros_keeps_them_apart(name):
    model = Handled(HANDLED[name])
    (layer,) = cbp.find_layers(model, (batch(3, 4, 6),))
    plain = Loop()
    assert slices([layer]) == slices(cbp.find_layers(plain, (batch(3, 4, 6),)))
    assert cbp.verify(model, (batch(3, 4, 6),)) < 1e-5


def test_a_recurrence_by_hand_is_found_where_a_method_watches_it():
    model = Loop()
    optimizer, example = still(model), (batch(3, 4, 6),)
    method = cbp.ContinualBackprop(model, optimizer, example=example)
    assert cbp.verify(model, example) < 1e-5
    assert [layer.name for layer in cbp.ReDo(model, optimizer, example=example).layers] == ["cell"]
    twin, _, of_twin = copy.deepcopy((model, optimizer, method))
    twin(*example)  # which finds the layers anew
    assert [layer.name for layer in of_twin.layers] == ["cell"]


class ConvLoop(nn.Module):
    """The same with convolutions and the gates of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.Conv2d(3 + 4, 16, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 4, 6, 6)
        for step in x.unbind(1):
            i, f, g, o = self.cell(torch.cat([step, h], dim=1)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


@pytest.mark.parametrize(("make", "shape"), [(Loop, (6,)), (ConvLoop, (3, 6, 6))])
def test_a_recurrence_by_hand_needs_an_example_with_a_past(make, shape):
    model = make()
    layers = cbp.find_layers(model, (batch(2, 3, *shape),))
    assert [(layer.name, layer.units) for layer in layers] == [("cell", 4)]
    assert cbp.verify(model, (batch(2, 7, *shape),), layers=layers) < 1e-5
    with pytest.raises(cbp.LayerError, match="the units of 'cell' are computed from zeros, as of a state that has no past"):
        cbp.find_layers(model, (batch(2, 1, *shape),))


class OutputAlone(nn.GRU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


class OutputOfLstmAlone(nn.LSTM):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


class StateAlone(nn.LSTMCell):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[0]


@pytest.mark.parametrize("kind", [OutputAlone, OutputOfLstmAlone, StateAlone])
def test_recurrent_modules_that_return_otherwise_are_followed(kind):
    cell = kind is StateAlone
    model = nn.Sequential(kind(6, 4) if cell else kind(6, 4, batch_first=True), nn.Linear(4, 2))
    x = batch(3, 6) if cell else batch(3, 5, 6)
    assert [layer.units for layer in cbp.find_layers(model, (x,))] == [4]
    assert cbp.verify(model, (x,)) < 1e-5


def test_a_recurrent_weight_that_is_computed_leaves_its_units_out():
    model = Recurrent(nn.GRU)
    nn.utils.parametrizations.weight_norm(model.memory, "weight_hh_l0")
    for steps in (1, 5):
        with pytest.raises(cbp.LayerError, match="no hidden layer that can be treated"):
            cbp.find_layers(model, (batch(3, steps, 6),))


class Members(nn.Module):
    """An ensemble of recurrences by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.v = (nn.Parameter(batch(2, n, m)) for n, m in ((6, 4), (4, 4), (4, 2)))
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(2, len(x), 4)
        for step in x.unbind(1):
            h = self.act(torch.bmm(step.expand(2, -1, -1), self.w) + torch.bmm(h, self.u))
        return torch.bmm(h, self.v)


def test_members_of_an_ensemble_need_a_past_too():
    assert [layer.units for layer in cbp.find_layers(Members(), (batch(3, 3, 6),))] == [4, 4]
    with pytest.raises(cbp.LayerError, match="a state that has no past"):
        cbp.find_layers(Members(), (batch(3, 1, 6),))


class Constants(nn.Module):
    """Zeros beside units that are no state."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        widths = {"context": 3, "half": 4, "time": 1}
        self.kind, self.first, self.head = kind, nn.Linear(6 + widths.get(kind, 2), 5), nn.Linear(5, 2)
        self.register_buffer("buffer", torch.zeros(1, 2))
        self.embedding = nn.Parameter(torch.zeros(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        beside = {
            "context": lambda: x.new_zeros(len(x), 3),
            "half": lambda: x.new_zeros(len(x), 4),
            "buffer": lambda: self.buffer.expand(len(x), 2),
            "embedding": lambda: self.embedding.expand(len(x), 2),
        }
        if self.kind == "time":
            out = [self.head(torch.relu(self.first(torch.cat([x, x.new_full((len(x), 1), k / 4)], 1)))) for k in range(5)]
            return torch.stack(out).sum(0)
        return self.head(torch.relu(self.first(torch.cat([x, beside[self.kind]()], 1))))


@pytest.mark.parametrize("kind", ["context", "half", "buffer", "embedding", "time"])
def test_zeros_that_are_no_state_leave_nothing_out(kind):
    model = Constants(kind)
    assert [layer.name for layer in cbp.find_layers(model, (batch(3, 6),))] == ["first"]
    assert cbp.verify(model, (batch(3, 6),)) < 1e-5


class ForOneCall(nn.Module):
    """Keeps what it computed, and refuses a second call without a reset."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head, self.cache = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 2), None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        out = self.head(torch.relu(self.second(h)))
        if self.cache is not None:
            raise RuntimeError("call reset() first")
        self.cache = h
        return out


def test_a_model_that_cannot_be_called_twice_is_followed_once():
    layers = cbp.find_layers(ForOneCall(), (batch(3, 6),))
    assert [(layer.name, layer.units) for layer in layers] == [("first", 5), ("second", 4)]
    assert cbp.verify(ForOneCall(), (batch(3, 6),)) < 1e-5


class LearnedStart(nn.Module):
    """A recurrent module whose first state is a parameter, or two."""

    def __init__(self, kind: type[nn.Module], copies: bool, **options: int | bool) -> None:
        super().__init__()
        self.memory, self.copies = kind(6, 4, **options), copies
        rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
        shape = (1, 4) if isinstance(self.memory, nn.RNNCellBase) else (rows, 1, 4)
        self.start = nn.ParameterList(nn.Parameter(batch(*shape)) for _ in range(2 if "LSTM" in kind.__name__ else 1))
        self.head = nn.Linear(8 if options.get("bidirectional") else 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = tuple(start.expand(*start.shape[:-2], x.shape[1], 4) for start in self.start)
        state = tuple(each.contiguous() for each in state) if self.copies else state
        state = state if len(state) > 1 else state[0]
        if not isinstance(self.memory, nn.RNNCellBase):
            return self.head(self.memory(x, state)[0])
        for step in x:
            state = self.memory(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)),
        (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    ],
)
def test_units_whose_first_state_is_learned_are_treated(kind, options, copies):
    model, x = LearnedStart(kind, copies, **options), batch(5, 3, 6)
    method = cbp.ContinualBackprop(model, still(model), 1.0, 0, example=(x,))
    assert [layer.hidden.units for layer in method.layers] == [4] * (4 if options else 1)
    assert not method.left_out
    assert cbp.verify(model, (x,)) < 1e-5
    before = [start.detach().clone() for start in model.start]
    model(x)
    method.step()
    assert all(torch.equal(start, was) for start, was in zip(model.start, before, strict=True))


def test_recurrence_by_hand_from_a_learned_state_is_treated():
    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of_input, self.of_state, self.head = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.start = nn.Parameter(batch(4))

        def forward(self, x: Tensor) -> Tensor:
            h = self.start.expand(x.shape[1], 4)
            for step in x:
                h = torch.tanh(self.of_input(step) + self.of_state(h))
            return self.head(h)

    model, x = ByHand(), batch(5, 3, 6)
    (layer,) = cbp.find_layers(model, (x,))
    assert [slices.module for slices in layer.fresh] == [model.of_input, model.of_state]
    assert set(layer.outgoing) == {model.of_state, model.head}
    assert cbp.verify(model, (x,)) < 1e-5


def test_weights_that_another_layer_receives_are_left_out():
    class Received(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.of_weights, self.head = nn.Linear(6, 4), nn.Linear(6, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.first(x))) + self.of_weights(self.first.weight).mean()

    with pytest.raises(cbp.LayerError, match=r"'first' have weights in 'first\.weight', which is used in 'addmm' too"):
        cbp.find_layers(Received(), (batch(3, 6),))
