"""Weights that hold several matrices, or none: each layer within them is treated as one that stands alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import cbp
from cbp.weighted import weights_of


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def linear(weight, bias=None):
    """A Linear with these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight.detach().clone()
    if bias is not None:
        layer.bias.data = bias.detach().clone()
    return layer


def convolution(like, weight, bias):
    """A convolution with these weights, of one group."""
    axes = weight.shape[:2] if isinstance(like, nn.ConvTranspose2d) else weight.shape[1::-1]
    layer = type(like)(*axes, like.kernel_size)
    layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()
    return layer


def recurrent(model):
    gates = len(model.weight_hh_l0 if hasattr(model, "weight_hh_l0") else model.weight_hh) // 4
    names = [name for name, _ in model.named_parameters() if name.startswith("weight") and "hr" not in name]
    return [
        (name, name.replace("weight", "bias"), k, gates, linear(weight, bias))
        for name in names
        for k, (weight, bias) in enumerate(
            zip(getattr(model, name).chunk(gates), getattr(model, name.replace("weight", "bias")).chunk(gates), strict=True)
        )
    ]


def attention(model):
    parts = zip(model.in_proj_weight.chunk(3), model.in_proj_bias.chunk(3), strict=True)
    return [("in_proj_weight", "in_proj_bias", k, 3, linear(*part)) for k, part in enumerate(parts)]


def grouped(model):
    parts = zip(model.weight.chunk(model.groups), model.bias.chunk(model.groups), strict=True)
    return [("weight", "bias", k, model.groups, convolution(model, *part)) for k, part in enumerate(parts)]


def bilinear(model):
    return [("weight", "bias", 0, 1, linear(model.weight.flatten(1), model.bias))]


PACKED = {
    "LSTM": (lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True), recurrent),
    "LSTM with a projection": (lambda: nn.LSTM(3, 4, proj_size=2), recurrent),
    "GRU": (lambda: nn.GRU(3, 4), recurrent),
    "GRUCell": (lambda: nn.GRUCell(3, 4), recurrent),
    "RNN": (lambda: nn.RNN(3, 4), recurrent),
    "attention": (lambda: nn.MultiheadAttention(6, 2), attention),
    "attention with extra keys": (lambda: nn.MultiheadAttention(6, 2, add_bias_kv=True), attention),
    "grouped convolution": (lambda: nn.Conv2d(4, 6, 2, groups=2), grouped),
    "depthwise convolution": (lambda: nn.Conv2d(4, 8, 3, groups=4), grouped),
    "channels last": (lambda: nn.Conv2d(4, 6, 2, groups=2).to(memory_format=torch.channels_last), grouped),
    "grouped transposed convolution": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), grouped),
    "Bilinear": (lambda: nn.Bilinear(2, 3, 5), bilinear),
}


def act(name, model, method):
    """Weights and gradients after a method has acted on the weights, drawn larger by a factor of their own each."""
    for k, parameter in enumerate(model.parameters()):
        parameter.grad = torch.zeros_like(parameter)
        if name == "nap":
            parameter.data *= 2 + k
    method.before_update()
    method.step()
    method.change()


@pytest.mark.parametrize("name", ["fire", "spectral", "nap"])
@pytest.mark.parametrize("case", PACKED)
def test_each_layer_in_a_packed_weight_is_treated_as_one_that_stands_alone(name, case):
    make, unpack = PACKED[case]
    model = make()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    parts = unpack(model)
    apart = nn.ModuleList(part for *_, part in parts)
    act(name, model, cbp.METHODS[name](model, sgd(model)))
    act(name, apart, cbp.METHODS[name](apart, sgd(apart)))
    assert len(parts) == len(apart) > 0
    for weight, bias, k, count, part in parts:
        for attribute, ours in ((weight, part.weight), (bias, part.bias)):
            theirs = getattr(model, attribute)
            if name != "nap" or attribute == weight:
                for got, expected in ((theirs, ours), (theirs.grad, ours.grad)):
                    torch.testing.assert_close(got.chunk(count)[k].reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
    assert any(part.weight.grad.any() for *_, part in parts) == (name == "spectral")


def test_what_attention_adds_to_keys_and_values_is_no_matrix():
    model = nn.MultiheadAttention(6, 2, add_bias_kv=True)
    before = model.bias_k.detach().clone()
    act("fire", model, cbp.Fire(model, sgd(model)))
    assert torch.equal(model.bias_k, before)
    assert "bias_k" not in cbp.NormalizeAndProject(model, sgd(model)).touched
    method = cbp.Spectral(model, sgd(model), strength=0.5, exponent=1)
    act("spectral", model, method)
    torch.testing.assert_close(model.bias_k.grad, before)  # 2 · 0.5 · b, and not (σ − 1) · b / σ


def test_each_group_of_a_convolution_has_rows_of_its_own_in_parseval():
    model = nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 1)).double()
    method = cbp.Parseval(model, sgd(model), strength=0.5, example=(torch.ones(1, 4, 2, 2, dtype=torch.float64),))
    w = model[0].weight.detach().clone().requires_grad_()
    apart = sum((m @ m.T - 2 * torch.eye(3, dtype=torch.float64)).square().sum() for m in w.flatten(1).chunk(2))
    (0.5 * (64 / 6) ** 2 * apart).backward()
    (0 * model(torch.ones(1, 4, 2, 2, dtype=torch.float64))).sum().backward()
    method.before_update()
    torch.testing.assert_close(model[0].weight.grad, w.grad)


def test_bare_parameters_and_weights_whose_inputs_come_first_have_their_rows_in_parseval():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Parameter(torch.randn(3, 8).double()), nn.Linear(8, 1).double()

        def forward(self, x):
            return self.head(torch.relu(x @ self.first))

    model, x = Bare(), torch.ones(2, 3, dtype=torch.float64)
    method = cbp.Parseval(model, sgd(model), strength=0.5, example=(x,))
    assert method.touched == ["first"]
    w = model.first.detach().clone().requires_grad_()
    (0.5 * (64 / 8) ** 2 * (w.T @ w - 2 * torch.eye(8, dtype=torch.float64)).square().sum()).backward()
    (0 * model(x)).sum().backward()
    method.before_update()
    torch.testing.assert_close(model.first.grad, w.grad)


def test_fire_takes_the_linear_layer_of_gpt2_the_right_way_round():
    class Conv1D(nn.Module):  # as in transformers
        def __init__(self, nf, nx):
            super().__init__()
            self.nf = nf
            self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    model = Conv1D(8, 2)
    twin = linear(model.weight.T)
    for each in (model, twin):
        cbp.Fire(each, sgd(each)).change()
    torch.testing.assert_close(model.weight.T, twin.weight)


def normed(kind):
    layer = nn.Linear(3, 4)
    if kind == "old":
        with pytest.warns(FutureWarning, match="weight_norm"):
            layer = nn.utils.weight_norm(layer)
        return layer, layer.weight_g, layer.weight_v
    layer = nn.utils.parametrizations.weight_norm(layer, dim=None if kind == "whole" else 0)
    return layer, layer.parametrizations.weight.original0, layer.parametrizations.weight.original1


@pytest.mark.parametrize("kind", ["rows", "whole", "old"])
@pytest.mark.parametrize("name", ["fire", "spectral", "nap"])
def test_of_weight_normalisation_the_directions_are_treated_and_the_magnitudes_are_left_alone(name, kind):
    layer, magnitude, direction = normed(kind)
    method = cbp.METHODS[name](layer, sgd(layer))
    before, direction_before = magnitude.detach().clone(), direction.detach().clone()
    act(name, layer, method)
    grown = 1 if name != "nap" else 2 + [id(p) for p in layer.parameters()].index(id(magnitude))
    torch.testing.assert_close(magnitude.detach(), grown * before)
    assert not magnitude.grad.any()
    if name == "nap":
        torch.testing.assert_close(direction.detach(), direction_before)
    else:
        assert direction.grad.any() or not torch.equal(direction, direction_before)


def test_the_state_of_a_packed_weight_is_loaded_and_that_of_the_first_release_too():
    model = nn.GRU(3, 4)
    method = cbp.NormalizeAndProject(model, sgd(model))
    later = copy.deepcopy(model)
    with torch.no_grad():
        later.weight_ih_l0[:4] *= 5
    resumed = cbp.NormalizeAndProject(later, sgd(later))
    resumed.load_state_dict(method.state_dict())
    resumed.step()
    torch.testing.assert_close(later.weight_ih_l0, model.weight_ih_l0)
    single = nn.Linear(3, 4)
    old = cbp.NormalizeAndProject(single, sgd(single))
    old.load_state_dict({"lengths": {"weight": 2.5}})  # one number for each weight
    old.step()
    assert torch.linalg.vector_norm(single.weight).item() == pytest.approx(2.5)


def parametrised(layer, attribute, by):
    by(layer, attribute)
    return nn.ModuleList([layer, nn.Linear(2, 2)])  # the second one, so that the other tensors of the model are there too


WEIGHT_NORM = {"conv_transpose": nn.ConvTranspose1d(6, 3, 4), "groups": nn.Conv2d(8, 12, 3, groups=4), "plain": nn.Linear(5, 4)}


@pytest.mark.parametrize("name", WEIGHT_NORM)
@pytest.mark.parametrize(
    "by",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
    ids=["weight norm", "spectral norm"],
)
def test_what_a_layers_weight_is_computed_from_has_the_form_of_the_weight(name, by):
    plain, layer = copy.deepcopy(WEIGHT_NORM[name]), copy.deepcopy(WEIGHT_NORM[name])
    (expected,) = [weight for weight in weights_of(plain) if weight.kind == "matrix"]
    found = [weight for weight in weights_of(parametrised(layer, "weight", by)) if "parametrizations" in weight.name]
    (matrix,) = [weight for weight in found if weight.kind == "matrix"]
    assert (matrix.parts, matrix.axis) == (expected.parts, expected.axis)
    assert [weight.kind for weight in found].count("magnitude") == (by is nn.utils.parametrizations.weight_norm)


def test_gates_of_a_recurrent_weight_that_is_normalised_are_four_matrices():
    lstm = nn.LSTM(3, 5)
    nn.utils.parametrizations.weight_norm(lstm, "weight_hh_l0")
    of = {weight.name: weight for weight in weights_of(lstm)}
    assert of["parametrizations.weight_hh_l0.original1"].parts == 4
    assert of["parametrizations.weight_hh_l0.original0"].kind == "magnitude"
    assert of["weight_ih_l0"].parts == 4


class Ensemble(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 2))

    def forward(self, x):
        return torch.einsum("mi,mio->mo", x, self.weight)


def test_members_of_an_ensemble_whose_weight_is_parametrised_are_matrices():
    model = Ensemble()
    nn.utils.parametrizations.weight_norm(model, "weight", dim=0)
    (matrix,) = [weight for weight in weights_of(model) if weight.kind == "matrix"]
    assert (matrix.parts, matrix.is_stacked) == (4, True)


@pytest.mark.parametrize("method", ["shrink-perturb", "fire", "nap", "spectral", "parseval"])
def test_an_embedding_that_is_the_head_too_is_left_alone(method):
    words, head = nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 9, bias=False)
    head.weight = words.weight
    model = nn.Sequential(words, nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), head)
    assert cbp.METHODS[method](model, sgd(model)).touched[0] == "1.weight"


class Biased(Ensemble):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4, 1, 2))


@pytest.mark.parametrize(
    "by", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, lambda *_: None]
)
def test_the_bias_of_an_ensemble_is_one_whatever_its_weight_is_computed_from(by):
    model = Biased()
    by(model, "weight")
    (bias,) = [weight for weight in weights_of(model) if weight.name == "bias"]
    assert (bias.kind, bias.parts) == ("bias", 4)


class OfThreeRows(nn.Module):
    """Computes a weight of 32 rows from three."""

    def forward(self, rows):
        return rows.repeat(11, 1)[:32]

    def right_inverse(self, weight):
        return weight[:3]


@pytest.mark.parametrize("method", ["spectral", "nap", "fire"])
def test_what_a_weight_is_computed_from_may_have_another_shape(method):
    model = nn.Sequential(nn.LSTM(5, 8))
    nn.utils.parametrize.register_parametrization(model[0], "weight_ih_l0", OfThreeRows(), unsafe=True)
    treated = cbp.METHODS[method](model, sgd(model))
    model(torch.ones(2, 5))[0].sum().backward()
    treated.before_update()
    treated.step()
    assert torch.isfinite(model[0].weight_ih_l0).all()


def test_a_model_whose_only_matrix_is_an_embeddings_is_refused_with_the_reason():
    words, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
    head.weight = words.weight
    model = nn.Sequential(words, head)
    with pytest.raises(ValueError, match="weights that are an embedding's too are left alone"):
        cbp.Spectral(model, sgd(model))
