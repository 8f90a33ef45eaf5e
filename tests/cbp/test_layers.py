"""Finding hidden layers: what is found, and what is refused with the layer's name."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from small_networks import chain, still
from torch import Tensor, nn
from torch.nn.utils import prune

import cbp


def found(model: nn.Module, example: object = None) -> list[tuple[str, int, list[str], str | None, int]]:
    """(name, units, names of the outgoing layers, activation, number of norms) of each hidden layer."""
    names = {module: name for name, module in model.named_modules()}
    layers = cbp.find_layers(model, example)
    assert [names[layer.incoming] for layer in layers] == [layer.name for layer in layers]
    return [
        (layer.name, layer.units, [names[linear] for linear in layer.outgoing], layer.activation, len(layer.norms))
        for layer in layers
    ]


def test_sequential():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2))
    assert found(model) == [("0", 8, ["2"], "relu", 0), ("2", 5, ["4"], "tanh", 0)]


def test_nested_modules_with_names():
    body = nn.Sequential(OrderedDict(input=nn.Linear(3, 8), act=nn.SELU(), hidden=nn.Linear(8, 5)))
    model = nn.Sequential(OrderedDict(body=body, act=nn.LeakyReLU(), head=nn.Sequential(nn.Linear(5, 2), nn.Tanh())))
    assert found(model) == [
        ("body.input", 8, ["body.hidden"], "selu", 0),
        ("body.hidden", 5, ["head.0"], "leaky_relu", 0),
    ]


def test_named_attributes_are_ordered_by_the_forward_pass_and_not_by_their_definition():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(5, 1)
            self.second = nn.Linear(8, 5)
            self.activation = nn.ReLU()
            self.unused = nn.Linear(7, 7)
            self.first = nn.Linear(3, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.activation(self.second(self.activation(self.first(x)))))

    assert found(Model()) == [("first", 8, ["second"], "relu", 0), ("second", 5, ["out"], "relu", 0)]


@pytest.mark.parametrize(
    ("act", "name"),
    [
        (torch.relu, "relu"),
        (F.relu, "relu"),
        (lambda h: h.relu(), "relu"),
        (lambda h: F.leaky_relu(h, 0.1), "leaky_relu"),
        (torch.tanh, "tanh"),
        (lambda h: h.tanh(), "tanh"),
        (torch.sigmoid, "sigmoid"),
        (F.gelu, "gelu"),
        (F.silu, "silu"),
        (lambda h: 1.7 * torch.tanh(h / 3) + 1, None),
        (lambda h: F.dropout(F.relu(h), 0.1), "relu"),
        (lambda h: h * torch.sigmoid(h), None),
        (lambda h: h, None),
    ],
)
def test_functional_activations(act, name):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(act(self.first(x)))

    (layer,) = found(Model())
    assert layer[:3] == ("first", 8, ["second"])
    assert layer[3] == name


class Heads(nn.Module):
    """A trunk of two layers and heads of any kind."""

    def __init__(self, *heads: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5))
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.trunk(x)
        return {str(k): head(h) for k, head in enumerate(self.heads)}


def test_trunk_with_two_heads():
    model = Heads(nn.Linear(5, 2), nn.Linear(5, 1))
    assert found(model)[1] == ("trunk.2", 5, ["heads.0", "heads.1"], None, 0)


def test_trunk_with_heads_that_have_their_own_activations():
    model = Heads(
        nn.Sequential(nn.Tanh(), nn.Linear(5, 2)), nn.Sequential(nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
    )
    assert found(model) == [
        ("trunk.0", 8, ["trunk.2"], "relu", 0),
        ("trunk.2", 5, ["heads.0.1", "heads.1.1"], "tanh", 0),
        ("heads.1.1", 4, ["heads.1.3"], "relu", 0),
    ]


def test_each_head_is_judged_by_what_it_receives_itself():
    model = Heads(nn.Sequential(nn.ReLU(), nn.Linear(5, 1)), nn.Sequential(nn.Tanh(), nn.Linear(5, 1))).double()
    method = cbp.ContinualBackprop(model, still(model), decay_rate=0.0)
    x = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = model.trunk(x).detach()
    model(x)
    method.step()
    w_relu, w_tanh = model.heads[0][1].weight.detach()[0], model.heads[1][1].weight.detach()[0]
    # η = 0: u = mean relu(h) · |w_relu| + mean |tanh(h)| · |w_tanh|
    expected = h.clamp(min=0).mean(0) * w_relu.abs() + h.tanh().abs().mean(0) * w_tanh.abs()
    torch.testing.assert_close(method.layers[1].utility, expected)


@pytest.mark.parametrize(
    "between",
    [
        [nn.LayerNorm(8), nn.ReLU()],
        [nn.ReLU(), nn.LayerNorm(8)],
        [nn.ReLU(), nn.LayerNorm(8), nn.Dropout(0.1)],
        [nn.LayerNorm(8), nn.ReLU(), nn.LayerNorm(8)],
    ],
    ids=["norm before", "norm behind", "norm and dropout behind", "both"],
)
def test_layer_norm_and_dropout_between(between):
    model = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 8), *between, nn.Linear(8, 2))
    norms = [module for module in between if isinstance(module, nn.LayerNorm)]
    assert found(model) == [("1", 8, [str(2 + len(between))], "relu", len(norms))]
    assert list(cbp.find_layers(model)[0].norms) == norms


def test_layer_norm_on_the_trunk_of_two_heads_counts_once():
    model = Heads(nn.Linear(5, 2), nn.Linear(5, 1))
    model.trunk.append(nn.LayerNorm(5))
    assert list(cbp.find_layers(model)[1].norms) == [model.trunk[3]]


def test_loop_over_a_module_list():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers[:-1]:
                x = torch.tanh(layer(x))
            return self.layers[-1](x)

    assert found(Model()) == [(f"layers.{i}", 4, [f"layers.{i + 1}"], "tanh", 0) for i in range(3)]


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
def test_arithmetic_on_inputs_and_outputs_is_no_obstacle(shape):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
            self.register_buffer("mean", torch.zeros(3))
            self.log_std = nn.Parameter(torch.zeros(shape))

        def forward(self, x: Tensor, action: Tensor) -> tuple[Tensor, ...]:
            x = torch.cat([(x - self.mean).view(x.shape[0], -1), action], dim=1)
            mean, scale = self.second(F.relu(self.first(x))).chunk(2, dim=-1)
            return torch.tanh(mean) + scale * self.log_std.exp(), self.log_std.expand_as(mean), self.log_std

    assert found(Model(), (torch.ones(4, 3), torch.ones(4, 3))) == [("first", 8, ["second"], "relu", 0)]


def test_layer_called_with_a_keyword_is_found_and_watched():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(input=torch.relu(self.first(input=x)))

    model = Model()
    assert found(model) == [("first", 8, ["second"], "relu", 0)]
    method = cbp.ContinualBackprop(model, still(model))
    model(torch.ones(1, 3))
    method.step()
    assert method.layers[0].utility.any()


def test_finding_layers_leaves_the_model_as_it_was():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = x * torch.tensor([1.0, 2.0, 3.0])
            return self.second(torch.relu(self.first(x)))

    model = Model()
    before, attributes = copy.deepcopy(model.state_dict()), set(vars(model))
    assert found(model) == [("first", 8, ["second"], "relu", 0)]
    assert set(vars(model)) == attributes
    assert list(model.state_dict()) == list(before)
    assert model.training
    model.eval()
    cbp.find_layers(model)
    assert not model.training


def test_a_forward_pass_that_fails_leaves_the_model_as_it_was():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.norm = nn.Linear(3, 8), nn.Linear(8, 2), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.norm(x)
            return self.second(self.last)

    model = Model()
    before, attributes = copy.deepcopy(model.state_dict()), set(vars(model))
    with pytest.raises(cbp.LayerError, match=r"Model fails: .*mat1 and mat2"):
        cbp.find_layers(model, (torch.randn(4, 3),))
    assert set(vars(model)) == attributes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


# Refusals


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.head(h + torch.relu(self.block(h)))


class Softmaxed(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).softmax(dim=-1))


class AlsoOutput(Residual):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.first(x))
        return self.head(h), h


class Looped(Residual):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        for _ in range(2):
            h = torch.relu(self.block(h))
        return self.head(h)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Residual(), "no hidden layer.*the units of 'first', 'block' are added"),
        (Softmaxed(), "'first'.*softmax"),
        (AlsoOutput(), "'first'.*output"),
        (Looped(), "'block'.*used more than once"),
        (nn.Sequential(nn.Linear(3, 8), nn.Unflatten(1, (2, 4)), nn.Linear(4, 1)), "'0'.*'2.weight' along two axes"),
        (nn.Sequential(nn.Linear(3, 8), nn.Softmax(dim=-1), nn.Linear(8, 1)), "'0'.*softmax"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(4, 1)), "no forward pass|'0'.*output"),
        (nn.Sequential(nn.Linear(3, 8), nn.MaxPool1d(2), nn.Linear(4, 1)), "'0'.*max_pool"),
        (nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(6, 1)), "example=.*|no forward pass.*mat1 and mat2"),
        (nn.Sequential(nn.Linear(3, 8), nn.LayerNorm((4, 8)), nn.Linear(8, 1)), "no forward pass.*normalized_shape"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value[:24],
)  # fmt: skip
def test_model_of_which_nothing_remains_is_refused_with_the_layer_and_the_reason(model, message):
    with pytest.raises(cbp.LayerError, match=message):
        cbp.find_layers(model)


def test_what_is_left_out_is_named_beside_what_is_treated():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Linear(3, 8), nn.Linear(8, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.third(torch.relu(self.second(self.first(x).softmax(-1))))

    model = Model()
    method = cbp.ContinualBackprop(model, still(model))
    assert [layer.name for layer in method.layers] == ["second"]
    (line,) = method.left_out
    assert line == "the units of 'first' reach '_softmax', which does not act on each unit by itself"
    assert "left out: " + line in str(method)
    with pytest.raises(cbp.LayerError, match="strict=True: the units of 'first' reach '_softmax'"):
        cbp.ContinualBackprop(model, still(model), strict=True)


def test_hidden_layer_in_front_of_bare_weights_that_no_module_shows_is_named():
    class HeadOfBareWeights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 8)
            self.head = nn.Parameter(torch.ones(1, 8))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.relu(self.last(torch.relu(self.first(x)))), self.head)

    model = HeadOfBareWeights()
    method = cbp.ContinualBackprop(model, still(model))
    assert [layer.name for layer in method.layers] == ["first"]
    assert method.left_out == ["'last': what 'head' receives from its units is seen by no module"]


def test_layers_that_share_their_weights_are_refused_as_one_layer_used_twice():
    model = chain(4, 4, 4, 2)
    model[2].weight = model[0].weight
    with pytest.raises(cbp.LayerError, match=r"'0'.*used more than once"):
        cbp.find_layers(model)


class Branching(Residual):
    """Control flow that depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        if h.sum() > 0:
            h = torch.relu(self.block(h))
        return self.head(h)


def test_what_is_found_is_what_runs():
    model = Branching()
    with torch.no_grad():
        model.first.bias.fill_(10.0)  # all units active: the branch is taken
    assert [layer.name for layer in cbp.find_layers(model, (torch.ones(2, 3),))] == ["first", "block"]
    with torch.no_grad():
        model.first.bias.fill_(-10.0)
    assert [layer.name for layer in cbp.find_layers(model, (torch.ones(2, 3),))] == ["first"]


def test_layers_can_be_given_where_they_cannot_be_found():
    model = Branching().double()
    layers = [cbp.HiddenLayer(model.first, [model.block]), cbp.HiddenLayer(model.block, (model.head,), "late", "relu")]
    method = cbp.ContinualBackprop(
        model, still(model), layers=layers, replacement_rate=0.5, maturity_threshold=0, init="kaiming"
    )
    with torch.no_grad():
        model.first.bias.fill_(10.0)  # all units active: the branch is taken
    model(torch.ones(2, 3, dtype=torch.float64))
    first, second = (units.tolist() for units in method.step())
    assert (len(first), len(second)) == (4, 4)
    assert method.layers[1].name == "late"
    assert not model.head.weight[:, second].any()
    # gain·√(3/fan_in): 1 where no activation is given, √2 for relu.
    assert method.layers[0].fresh_bound == pytest.approx((3 / 3) ** 0.5)
    assert method.layers[1].fresh_bound == pytest.approx(2**0.5 * (3 / 8) ** 0.5)


def test_only_the_given_layers_are_treated():
    model = chain(3, 6, 5, 2)
    layers = [layer for layer in cbp.find_layers(model) if layer.name == "2"]
    before = model[0].weight.detach().clone()
    method = cbp.ContinualBackprop(model, still(model), layers=layers, replacement_rate=1.0, maturity_threshold=0)
    model(torch.ones(1, 3, dtype=torch.float64))
    assert [len(units) for units in method.step()] == [5]
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear(3, 8), [nn.Linear(6, 1)], "mine"), "'mine' has 8 units.*6"),
        ((nn.Linear(3, 8), [nn.Linear(8, 1), nn.Linear(7, 1)], "mine"), "'mine' has 8 units.*7"),
        ((nn.Linear(3, 8), [], "mine"), "'mine'.*no outgoing"),
        ((nn.Linear(3, 8), [nn.Linear(8, 1)], "mine", None, [nn.LayerNorm(4)]), r"'mine' has 8 units.*\(4,\)"),
        ((nn.Conv2d(1, 8, 3), [nn.Linear(12, 1)], "mine"), "'mine' has 8 units.*12"),
        ((nn.Linear(3, 8), [nn.Linear(16, 1)], "mine"), "'mine' has 8 units.*16"),
        ((nn.Linear(3, 8), [nn.Conv1d(8, 1, 1)], "mine"), "'mine'.*Conv1d"),
        ((nn.Linear(3, 8), nn.Linear(8, 1), "mine"), "outgoing of layer 'mine' must be a list of modules, got a Linear"),
        ((nn.Linear(3, 8), nn.Sequential(nn.Linear(8, 1)), "mine"), "outgoing of layer 'mine'.*got a Sequential"),
        ((nn.Linear(3, 8), [nn.Linear(8, 1)], "mine", None, nn.LayerNorm(8)), "norms of layer 'mine'.*got a LayerNorm"),
        ((nn.Linear(3, 8), [nn.Linear(8, 1)], "mine", None, [nn.GroupNorm(2, 8)]), "norms of layer 'mine'.*got a GroupNorm"),
    ],
    ids=[
        *("width", "width of a head", "none", "norm", "positions", "no positions", "convolution behind"),
        *("module", "modules in one", "norm alone", "kind of norm"),
    ],
)
def test_given_layers_that_do_not_fit_are_refused_by_name(arguments, message):
    with pytest.raises(cbp.LayerError, match=message):
        cbp.HiddenLayer(*arguments)


COMPUTED = {
    "pruned": (lambda layer: prune.random_unstructured(layer, "weight", 0.3), "whose weight is computed"),
    "a pruned bias": (lambda layer: prune.random_unstructured(layer, "bias", 0.3), "whose bias is computed"),
    "weight normalisation": (nn.utils.parametrizations.weight_norm, "whose weight is computed"),
    "spectral normalisation": (nn.utils.parametrizations.spectral_norm, "whose weight is computed"),
    "spectral normalisation by a hook": (nn.utils.spectral_norm, "whose weight is computed"),
}


@pytest.mark.parametrize(("change", "message"), COMPUTED.values(), ids=COMPUTED)
@pytest.mark.parametrize("of", [0, 2])
def test_a_given_layer_whose_weights_are_computed_is_refused(of, change, message):
    """What a replacement writes into such a weight is gone in the next forward pass."""
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    layers = [cbp.HiddenLayer(model[0], [model[2]], "mine", "relu")]
    change(model[of])
    if of == 2 and "bias" in message:  # which no replacement writes
        assert len(cbp.ContinualBackprop(model, still(model), layers=layers).layers) == 1
        return
    for make in (cbp.ContinualBackprop, cbp.ReDo):
        with pytest.raises(cbp.LayerError, match=f"'mine' has a .*Linear {message} from other tensors"):
            make(model, still(model), layers=layers)


@pytest.mark.parametrize(("change", "message"), COMPUTED.values(), ids=COMPUTED)
def test_a_given_layer_whose_weights_are_computed_later_is_not_replaced(change, message):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    layers = [cbp.HiddenLayer(model[0], [model[2]], "mine", "relu")]
    method = cbp.ContinualBackprop(model, still(model), replacement_rate=0.5, maturity_threshold=0, layers=layers)
    change(model[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval()(torch.randn(4, 3))
    for number in range(3):
        model.train()(torch.randn(4, 3))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert [len(units) for units in method.step()] == [0]
        assert [message in str(warning.message) for warning in said] == [True] * (number == 0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= {name for name in before if name.endswith(("_u", "_v"))}  # of the power iteration


@pytest.mark.parametrize(
    "model",
    [nn.Linear(3, 1), nn.Sequential(nn.Linear(3, 1), nn.Tanh())],
    ids=["linear", "one"],
)
def test_model_without_hidden_layer_is_refused(model):
    with pytest.raises(cbp.LayerError, match="no hidden layer"):
        cbp.find_layers(model)


def test_empty_list_of_layers_is_refused():
    model = chain(3, 6, 2)
    with pytest.raises(cbp.LayerError, match="no hidden layer"):
        cbp.ContinualBackprop(model, still(model), layers=[])


def test_an_example_that_does_not_use_the_model_that_it_is_given_is_refused():
    model = chain(3, 6, 2)
    x = torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(cbp.LayerError, match="the example calls no module of the Sequential that it is given"):
        cbp.find_layers(model, lambda _: model(x))


def test_layer_error_is_a_value_error():
    assert issubclass(cbp.LayerError, ValueError)
