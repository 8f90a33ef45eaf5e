"""What is seen of a forward pass: all calls of its modules, in whatever form they are called and return."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_networks import still
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import cbp
from cbp.taps import ArgumentsTap, ReceivedTap


def method_of(model: nn.Module, *example: Tensor, **options: object) -> cbp.ContinualBackprop:
    """Its utilities are those of the last update alone."""
    return cbp.ContinualBackprop(model, still(model), decay_rate=0.0, example=example, **options)


def inputs() -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x, y[:2]


class Twice(nn.Module):
    """An encoder of two inputs, that may be computed a second time in the backward pass."""

    def __init__(self, encode: Callable[..., Tensor] = lambda encoder, z: encoder(z)) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
        self.encode = encode

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.encode(self.encoder, x).square().sum() + self.encode(self.encoder, y).square().sum()

    def expected(self, *inputs: Tensor) -> Tensor:
        """Mean relu(h) over all samples · Σ|w_out|."""
        h = torch.relu(self.encoder[0](torch.cat(inputs))).mean(dim=0)
        return (h * self.encoder[2].weight.abs().sum(dim=0)).detach()


@pytest.mark.parametrize(
    "encode",
    [
        lambda encoder, z: encoder(z),
        lambda encoder, z: checkpoint(encoder, z, use_reentrant=False),
        lambda encoder, z: checkpoint(encoder, z.clone().requires_grad_(), use_reentrant=True),
    ],
    ids=["plain", "checkpointed", "reentrant"],
)
def test_all_calls_of_a_module_in_a_pass_count(encode):
    model, (x, y) = Twice(encode), inputs()
    method = method_of(model, x, y)
    for factor in (1.0, 2.0):  # only the last pass before an update counts, and not those of other modes
        model(x, y).backward()
        model(factor * x, factor * y).backward()
        with torch.no_grad():
            model(3 * x, 3 * y)
        model.eval()(3 * x, 3 * y)
        model.train()
        method.step()
        torch.testing.assert_close(method.layers[0].utility, model.expected(factor * x, factor * y))
    model.encoder(y)
    method.step()
    torch.testing.assert_close(method.layers[0].utility, model.expected(y))


def test_all_calls_count_when_layers_are_found_within_a_pass():
    model, (x, y) = Twice(), inputs()
    method = cbp.ContinualBackprop(model, still(model), decay_rate=0.0)
    model(x, y)
    method.step()
    torch.testing.assert_close(method.layers[0].utility, model.expected(x, y))


def test_of_maps_of_two_sizes_those_of_the_last_call_count():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 1, 1)).double()

    class Crops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, *crops: Tensor) -> Tensor:
            return torch.stack([self.encoder(crop).mean() for crop in crops]).sum()

    large, small = torch.randn(3, 1, 6, 6, dtype=torch.float64), torch.randn(2, 2, 1, 4, 4, dtype=torch.float64)
    model = Crops()
    method = method_of(model, large, *small)
    model(large, *small)
    method.step()
    h = torch.relu(encoder[0](small.flatten(0, 1))).mean(dim=(0, 2, 3))
    torch.testing.assert_close(method.layers[0].utility, (h * encoder[2].weight[0, :, 0, 0].abs()).detach())


def test_calls_of_a_module_for_other_units_do_not_count():
    class OneActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.act = nn.Linear(4, 5), nn.Linear(5, 5), nn.ReLU()
            self.head = nn.Parameter(torch.randn(5, 2))
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.second(self.act(self.first(x)))) @ self.head

    torch.manual_seed(0)
    model, (x, _) = OneActivation(), inputs()
    method = method_of(model, x)
    model(x)
    method.step()
    h = torch.relu(model.second(torch.relu(model.first(x)))).mean(dim=0)
    torch.testing.assert_close(method.layers[1].utility, (h * model.head.abs().sum(dim=1)).detach())


def test_every_step_of_a_recurrence_by_hand_counts():
    class Recurrence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inward, self.again, self.head = nn.Linear(4, 5), nn.Linear(5, 5, bias=False), nn.Linear(5, 1)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            self.states = [x.new_zeros(len(x), 5)]
            for step in x.unbind(1):
                self.states.append(torch.tanh(self.inward(step) + self.again(self.states[-1])))
            return self.head(self.states[-1])

    torch.manual_seed(0)
    model, x = Recurrence(), torch.randn(3, 4, 4, dtype=torch.float64)
    method = method_of(model, x)
    model(x)
    method.step()
    # The zeros that the first step begins with are no values of the units.
    of_again = torch.cat(model.states[1:4]).abs().mean(dim=0) * model.again.weight.abs().sum(dim=0)
    of_head = model.states[4].abs().mean(dim=0) * model.head.weight.abs().sum(dim=0)
    torch.testing.assert_close(method.layers[0].utility, (of_again + of_head).detach())


class Block(nn.Module):
    """Returns its units, or these among other things."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.form = nn.Linear(4, 5), "tensor"

    def forward(self, x: Tensor) -> object:
        h = torch.relu(self.first(x))
        return {"tensor": h, "tuple": (h.sum(), h), "dictionary": {"h": h}}[self.form]


class WithBlock(nn.Module):
    """The units are seen where the block returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Parameter(torch.randn(5, 2))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(x)
        return (h if isinstance(h, Tensor) else h["h"] if isinstance(h, dict) else h[1]) @ self.head


@pytest.mark.parametrize(
    ("recorded", "later"), [("tensor", "tuple"), ("tuple", "tensor"), ("tuple", "dictionary"), ("dictionary", "tuple")]
)
def test_a_module_that_returns_otherwise_is_found_anew(recorded, later):
    torch.manual_seed(0)
    model, (x, _) = WithBlock(), inputs()
    model.block.form = recorded
    method = method_of(model, x)
    model.block.form = later
    model(x)
    assert [len(units) for units in method.step()] == [0]
    assert method.layers[0].clock == 0
    model(x)
    method.step()
    h = torch.relu(model.block.first(x)).mean(dim=0)
    torch.testing.assert_close(method.layers[0].utility, (h * model.head.abs().sum(dim=1)).detach())
    for form in (recorded, later) * 10:  # which is not looked into for ever
        model.block.form = form
        model(x)
        method.step()
    assert method.layers[0].clock >= 10


class Own(nn.Module):
    """A layer of one's own, whose argument is no ``input``."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, dtype=torch.float64))

    def forward(self, scale: float, x: Tensor) -> Tensor:
        return scale * F.linear(x, self.weight)


@pytest.mark.parametrize("recorded", [True, False], ids=["position", "keyword"])
def test_an_argument_may_be_given_by_position_or_by_name(recorded):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.by_position = Own(4, 5), Own(5, 2), recorded

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(1.0, x))
            return self.second(1.0, h) if self.by_position else self.second(x=h, scale=1.0)

    torch.manual_seed(0)
    model, (x, _) = Model(), inputs()
    method = method_of(model, x)
    model.by_position = not recorded
    model(x)
    method.step()
    h = torch.relu(model.first(1.0, x)).mean(dim=0)
    torch.testing.assert_close(method.layers[0].utility, (h * model.second.weight.abs().sum(dim=0)).detach())


def test_a_tensor_of_fewer_axes_or_of_another_width_is_no_value_of_the_units():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 1, 1))
    (layer,) = cbp.find_layers(model, (torch.randn(2, 1, 4, 4),))
    place = layer.edges[0].place
    assert place.as_batch(torch.ones(2, 3, 5, 5)).shape == (2, 25, 3)
    assert place.as_batch(torch.ones(2, 4, 5, 5)) is None
    assert place.as_batch(torch.ones(2, 3)) is None


@pytest.mark.parametrize("key", [0, "x"])
def test_taps_of_models_that_were_pickled_by_earlier_releases_are_called(key):
    tap, layer = ReceivedTap(key), nn.Linear(4, 5).double() if key == 0 else Own(4, 5)
    layer.register_forward_pre_hook(tap, with_kwargs=True)
    x = inputs()[0]
    layer(x) if key == 0 else layer(1.0, x=x)
    assert torch.equal(tap.take()[0], x)
    assert ArgumentsTap(None).arguments is None


def test_units_in_another_form_are_told_of_where_the_model_is_never_called():
    torch.manual_seed(0)
    model, (x, _) = WithBlock(), inputs()
    method = cbp.ContinualBackprop(model, still(model), example=lambda model: WithBlock.forward(model, x))
    WithBlock.forward(model, x)
    method.step()
    model.block.form = "tuple"
    WithBlock.forward(model, x)
    with pytest.warns(UserWarning, match="units of block.first pass in another form than they were found in"):
        method.step()
    WithBlock.forward(model, x)
    method.step()


class Recurrent(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = None
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("steps", [2, 4])
def test_a_cell_that_begins_without_a_state_is_judged_from_the_first_update_on(cell, steps):
    torch.manual_seed(0)
    model = Recurrent(cell(5, 7))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    method = cbp.ContinualBackprop(
        model, optimizer, replacement_rate=1 / 7, maturity_threshold=0, example=(torch.ones(3, steps, 5),)
    )
    replaced = []
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(3, steps, 5)).square().mean().backward()
        optimizer.step()
        replaced.append(len(method.step()[0]))
        assert method.layers[0].fits
    assert replaced == [1, 1, 1]  # ρ · 7 units in each update
