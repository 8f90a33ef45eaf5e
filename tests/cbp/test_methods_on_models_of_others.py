"""Methods beside CBP on what people bring: ensembles, masks, shared tensors, parameters that an optimizer gets later."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_networks import chain, still
from torch import nn

import cbp

PENALTIES = ["l2-init", "parseval", "spectral", "c-chain", "pfo"]
BEFORE = [*PENALTIES, "upgd", "trac"]


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, **options)


class Members(nn.Module):
    """A layer of each of three members, as ensembles of critics have."""

    def __init__(self, inputs, outputs, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, inputs, outputs, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(3, 1, outputs, dtype=torch.float64)) if bias else None

    def forward(self, x):
        return torch.bmm(x, self.weight) + (0 if self.bias is None else self.bias)


def apart(members):
    """The members as Linear layers of their own."""
    layers = []
    for k, weight in enumerate(members.weight):
        layer = nn.Linear(*weight.shape, bias=members.bias is not None, dtype=torch.float64)
        layer.weight.data.copy_(weight.T)
        if members.bias is not None:
            layer.bias.data.copy_(members.bias[k, 0])
        layers.append(layer)
    return nn.ModuleList(layers)


@pytest.mark.parametrize("name", ["fire", "nap", "spectral"])
def test_each_member_of_an_ensemble_is_treated_as_a_layer_that_stands_alone(name):
    members = Members(4, 6)
    twin = apart(members)
    for model in (members, twin):
        options = {"strength": 0.5} if name == "spectral" else {}
        method = cbp.METHODS[name](model, sgd(model), **options)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        if name == "nap":
            for k in range(3):  # each by another factor
                (model.weight.data[k] if model is members else model[k].weight.data).mul_(k + 2)
        method.before_update()
        method.change()
        method.step()
    torch.testing.assert_close(members.weight, torch.stack([layer.weight.T for layer in twin]))
    torch.testing.assert_close(members.weight.grad, torch.stack([layer.weight.grad.T for layer in twin]))
    torch.testing.assert_close(members.bias.grad[:, 0], torch.stack([layer.bias.grad for layer in twin]))


@pytest.mark.parametrize("bare", [False, True])
def test_the_members_of_an_ensemble_are_not_orthogonal_to_each_other_in_parseval(bare):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(3, 4, 6, dtype=torch.float64))

        def forward(self, x):
            return torch.bmm(x, self.w)

    model = nn.Sequential(Bare() if bare else Members(4, 6), nn.ReLU(), Members(6, 1))
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    method = cbp.Parseval(model, still(model), strength=0.5, example=(x,))
    w = next(model[0].parameters())
    own = w.detach().clone().requires_grad_()
    units = cbp.find_layers(model, (x,))[0].units
    eye = torch.eye(6, dtype=torch.float64)
    (0.5 * (64 / units) ** 2 * sum((m.T @ m - 2 * eye).square().sum() for m in own)).backward()
    (0 * model(x)).sum().backward()
    method.before_update()
    torch.testing.assert_close(w.grad, own.grad)


def test_a_kernel_of_a_module_that_torch_does_not_have_is_that_of_a_convolution():
    class Kernel(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(6, 4, 3)), nn.Parameter(torch.zeros(6))

    model = Kernel()
    twin = nn.Conv1d(4, 6, 3)
    twin.weight.data.copy_(model.weight)
    for each in (model, twin):
        cbp.Fire(each, sgd(each)).change()
    torch.testing.assert_close(model.weight, twin.weight)


def test_only_the_rows_of_hidden_units_are_made_orthogonal():
    class Shared(nn.Module):
        """Rows 0 to 3 are what it returns, rows 4 to 19 hidden units."""

        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(10, 20).double(), nn.Linear(16, 2).double()

        def forward(self, x):
            h = self.first(x)
            return h[:, :4], self.head(torch.relu(h[:, 4:]))

    model = Shared()
    x = torch.ones(2, 10, dtype=torch.float64)
    method = cbp.Parseval(model, still(model), strength=0.5, example=(x,))
    w = model.first.weight[4:].detach().clone().requires_grad_()
    (0.5 * (64 / 16) ** 2 * (w @ w.T - 2 * torch.eye(16, dtype=torch.float64)).square().sum()).backward()
    (0 * sum(part.sum() for part in model(x))).backward()
    method.before_update()
    assert not model.first.weight.grad[:4].any()
    torch.testing.assert_close(model.first.weight.grad[4:], w.grad)


def test_two_layers_in_one_tensor_have_a_width_each():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.both, self.a, self.b = (nn.Linear(*sizes).double() for sizes in ((5, 12), (8, 2), (4, 2)))

        def forward(self, x):
            h = torch.relu(self.both(x))
            return self.a(h[:, :8]), self.b(h[:, 8:])

    model = Two()
    x = torch.ones(2, 5, dtype=torch.float64)
    method = cbp.Parseval(model, still(model), strength=0.5, example=(x,))
    w = model.both.weight.detach().clone().requires_grad_()
    for rows, units in ((w[:8], 8), (w[8:], 4)):
        (0.5 * (64 / units) ** 2 * (rows @ rows.T - 2 * torch.eye(units, dtype=torch.float64)).square().sum()).backward()
    (0 * sum(part.sum() for part in model(x))).backward()
    method.before_update()
    torch.testing.assert_close(model.both.weight.grad, w.grad)


def test_infinite_numbers_of_a_mask_stay_in_the_average():
    model = nn.Linear(3, 3)
    model.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(3))
    model.fixed = nn.Parameter(model.mask.clone(), requires_grad=False)
    before = model.mask.clone()
    method = cbp.HareTortoise(model, sgd(model), period=2)
    for _ in range(4):
        method.step()
    assert torch.equal(model.mask, before)
    assert torch.equal(model.fixed, before)


@pytest.mark.parametrize("old", [True, False])
def test_the_vectors_of_spectral_normalisation_are_not_averaged(old):
    normed = nn.utils.spectral_norm if old else nn.utils.parametrizations.spectral_norm
    model = normed(nn.Linear(16, 16))
    method = cbp.HareTortoise(model, sgd(model), period=50)  # by when the vectors have moved far from the first ones
    for _ in range(50):
        model.train()(torch.randn(4, 16))
        method.step()
    model.eval()(torch.randn(4, 16))
    assert torch.linalg.matrix_norm(model.weight, 2).item() == pytest.approx(1, abs=0.05)


def test_weights_that_became_zero_stay_so_where_lengths_are_kept():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 300))
    method = cbp.NormalizeAndProject(model, sgd(model))
    nn.init.zeros_(model[2].weight)
    nn.init.ones_(model[0].weight)
    method.step()
    assert not model[2].weight.any()
    assert model[0].weight.isfinite().all()


class By(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.function = nn.Linear(4, 8), nn.Linear(8, 2), function

    def forward(self, x):
        return self.second(self.function(self.first(x)))


@pytest.mark.parametrize(
    "function", [lambda h: h, lambda h: h * torch.sigmoid(h), lambda h: -torch.relu(h), lambda h: h**2, lambda h: torch.tanh(h)]
)
def test_units_that_do_not_tell_firing_from_silence_are_refused(function):
    model = By(function)
    with pytest.raises(cbp.LayerError, match="does not tell firing from silence: self-normalised resets need ReLU"):
        cbp.SelfNormalizedResets(model, sgd(model), example=(torch.ones(1, 4),), strict=True)


def test_a_rate_of_firing_is_at_most_one_where_heads_see_different_parts_of_the_batch():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.few, self.all = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 1)

        def forward(self, x):
            h = torch.relu(self.trunk(x))
            return self.few(h[:8]), self.all(h)

    model = Parts()
    nn.init.constant_(model.trunk.bias, 100.0)
    method = cbp.SelfNormalizedResets(model, sgd(model), min_silence=32)
    for _ in range(3):
        model(torch.rand(32, 4))
        method.step()
    assert torch.equal(method.layers[0].fired, method.layers[0].seen)
    nn.init.constant_(model.trunk.bias, -100.0)
    model(torch.rand(32, 4))
    assert len(method.step()[0]) == 8  # who fired always and is silent once


@pytest.mark.parametrize("name", BEFORE)
def test_an_optimizer_that_maximises_is_refused(name):
    model = chain(3, 6, 2)
    with pytest.raises(ValueError, match="takes a loss that is minimised, got SGD with maximize=True"):
        cbp.METHODS[name](model, sgd(model, maximize=True))


@pytest.mark.parametrize("name", BEFORE)
def test_a_call_before_the_gradients_are_there_is_told(name):
    model = chain(3, 6, 2)
    optimizer = sgd(model)
    method = cbp.METHODS[name](model, optimizer)
    optimizer.zero_grad()
    loss = model(torch.ones(1, 3, dtype=torch.float64)).sum()
    with pytest.raises(RuntimeError, match=r"finds no gradients: call before_update\(\) between loss.backward\(\)"):
        method.before_update()
    loss.backward()
    method.before_update()
    optimizer.step()
    method.step()


@pytest.mark.parametrize("name", ["upgd", "trac"])
def test_parameters_that_an_optimizer_gets_later_are_treated(name):
    def trained(late):
        torch.manual_seed(0)
        model = chain(3, 6, 2)
        held = [*model[2].parameters()] if late else [*model[2].parameters(), *model[0].parameters()]
        optimizer = torch.optim.SGD(held, lr=0.1)
        method = cbp.METHODS[name](model, optimizer)
        if late:
            optimizer.add_param_group({"params": [*model[0].parameters()]})
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.ones(2, 3, dtype=torch.float64)).square().sum().backward()
            method.before_update()
            optimizer.step()
            method.step()
        return model, method

    (model, method), (twin, other) = trained(late=True), trained(late=False)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    other.load_state_dict(method.state_dict())


@pytest.mark.parametrize("name", ["l2-init", "upgd"])
def test_sparse_gradients_are_refused_in_a_line(name):
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 1))
    optimizer = sgd(model)
    method = cbp.METHODS[name](model, optimizer)
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=r"needs dense gradients, and that of a parameter of shape \(5, 4\) is sparse"):
        method.before_update()


@pytest.mark.parametrize("name", ["c-chain", "pfo"])
def test_what_a_model_keeps_between_calls_is_not_that_of_another_batch(name):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.GRUCell(3, 4), nn.Linear(4, 2)
            self.h, self.calls = None, 0

        def forward(self, x):
            self.calls += 1
            h = self.cell(x, self.h)
            self.h = h.detach()
            return self.out(torch.relu(h))

    model = Recurrent()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = cbp.METHODS[name](model, optimizer, **({"example": (torch.ones(2, 3),)} if name == "pfo" else {}))
    model.h, model.calls = None, 0
    for k in range(4):
        with torch.no_grad():
            model.eval()(torch.rand(2, 3))
        optimizer.zero_grad()
        model.train()(torch.rand(2, 3)).sum().backward()
        state = model.h.clone()
        method.before_update()
        assert torch.equal(model.h, state)
        assert model.calls == 2 * (k + 1)
        assert model.training
        optimizer.step()
        method.step()


@pytest.mark.parametrize("name", ["c-chain", "pfo"])
def test_further_passes_are_made_in_the_precision_of_the_first(name):
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = sgd(model)
    method = cbp.METHODS[name](model, optimizer)
    for _ in range(4):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                model.eval()(torch.rand(4, 3, dtype=torch.bfloat16))
            loss = model.train()(torch.rand(4, 3, dtype=torch.bfloat16)).float().sum()
        optimizer.zero_grad()
        loss.backward()
        method.before_update()
        optimizer.step()
        method.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["embedding", "norm"])
def test_embeddings_and_norms_are_left_out_behind_a_parametrisation_too(kind):
    class Twice(nn.Module):
        def forward(self, w):
            return 2 * w

    part = nn.Embedding(5, 4) if kind == "embedding" else nn.LayerNorm((3, 4))
    nn.utils.parametrize.register_parametrization(part, "weight", Twice())
    model = nn.Sequential(part, nn.Linear(4, 1))
    assert cbp.ShrinkPerturb(model, sgd(model)).touched == ["1.weight", "1.bias"]


def test_whole_numbers_are_no_weights():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].weight = nn.Parameter(torch.ones(4, 3, dtype=torch.int8), requires_grad=False)
    for name in ("shrink-perturb", "swr", "nap", "fire", "spectral"):
        assert "0.weight" not in cbp.METHODS[name](model, torch.optim.SGD(model[1].parameters(), lr=0.1)).touched


@pytest.mark.parametrize("name", ["shrink-perturb", "swr", "nap", "fire", "spectral"])
def test_a_lazy_model_is_refused_by_its_name(name):
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"'0.weight' has no size yet: call the model once before"):
        cbp.METHODS[name](model, torch.optim.SGD(model[2].parameters(), lr=0.1))


def test_lengths_that_weight_normalisation_gives_are_not_drawn_anew():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))
    method = cbp.SelectiveWeightReinitialization(
        model, sgd(model), period=1, utility="magnitude", selection="threshold", factor=9.0
    )
    before = model.parametrizations.weight.original0.detach().clone()
    method.step()
    assert method.drawn > 0
    assert torch.equal(model.parametrizations.weight.original0, before)


def test_copies_of_a_model_and_its_method_take_up_parameters_of_their_own():
    model = chain(3, 6, 2)
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    method = cbp.UPGD(model, optimizer)
    model, optimizer, method = copy.deepcopy((model, optimizer, method))
    optimizer.add_param_group({"params": [*model[0].parameters()]})
    model(torch.ones(2, 3, dtype=torch.float64)).square().sum().backward()
    method.before_update()
    assert [tuple(utility.shape) for utility in method.state_dict()["utilities"]] == [(6, 3), (6,), (2, 6), (2,)]
    assert math.isfinite(sum(utility.sum().item() for utility in method.state_dict()["utilities"]))


@pytest.mark.parametrize("name", ["c-chain", "pfo"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_part_is_in_training_afterwards(name):
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), torch.jit.script(nn.Dropout(0.5)), nn.Linear(6, 2))
    optimizer = sgd(model)
    method = cbp.METHODS[name](model, optimizer, **({"layers": cbp.find_layers(model)} if name == "pfo" else {}))
    for _ in range(3):
        with torch.no_grad():
            model.eval()(torch.rand(4, 3))
        optimizer.zero_grad()
        model.train()(torch.rand(4, 3)).sum().backward()
        method.before_update()
        assert all(module.training for module in model.modules())
        optimizer.step()
        method.step()
