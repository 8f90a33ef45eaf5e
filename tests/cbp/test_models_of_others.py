"""What others bring to the methods: transposed convolutions, activations in place, half precision, overflow, two towers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import cbp
from cbp import metrics


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


# Transposed convolutions, whose weights are (inputs, outputs, …)


def with_the_same_weights():
    """A network of convolutions, and one of transposed ones with the same weights, but for the order of their axes."""
    there = nn.Sequential(nn.Conv2d(3, 8, 2), nn.ReLU(), nn.Conv2d(8, 2, 2))
    back = nn.Sequential(nn.ConvTranspose2d(3, 8, 2), nn.ReLU(), nn.ConvTranspose2d(8, 2, 2))
    for k in (0, 2):
        back[k].weight.data = there[k].weight.detach().transpose(0, 1).clone()
        back[k].bias.data = there[k].bias.detach().clone()
    return there, back


@pytest.mark.parametrize("name", ["parseval", "spectral"])
def test_a_regularizer_treats_a_transposed_convolution_as_the_convolution_that_it_is(name):
    x = torch.randn(4, 3, 4, 4)
    models = with_the_same_weights()
    for model in models:
        method = cbp.METHODS[name](model, sgd(model))
        (0 * model(x)).sum().backward()
        method.before_update()
    there, back = models
    for k in (0, 2):
        torch.testing.assert_close(back[k].weight.grad.transpose(0, 1), there[k].weight.grad)
    assert there[0].weight.grad.any()


def test_fire_treats_a_transposed_convolution_as_the_convolution_that_it_is():
    models = with_the_same_weights()
    for model in models:
        cbp.Fire(model, sgd(model)).change()
    there, back = models
    for k in (0, 2):
        torch.testing.assert_close(back[k].weight.transpose(0, 1), there[k].weight)


def test_the_width_in_parseval_is_the_number_of_units_whatever_rows_compute_each():
    """Of an LSTM of 4 units each gate has a W of (4, 3); of a gated layer of 4 units it is (8, 3)."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = nn.Linear(3, 8), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(nn.functional.glu(self.hidden(x)))

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    x = torch.randn(5, 2, 3)
    for model in (Gated(), Recurrent()):
        method = cbp.Parseval(model, sgd(model), strength=0.5, example=(x,))
        (0 * model(x)).sum().backward()
        method.before_update()
        parameters = dict(model.named_parameters())
        assert method.touched
        for name in method.touched:
            w = parameters[name].detach().double().requires_grad_()
            matrices = w.chunk(4) if name.startswith("lstm") else [w]
            apart = sum((m @ m.T - 2 * torch.eye(len(m), dtype=torch.float64)).square().sum() for m in matrices)
            penalty = 0.5 * (64 / 4) ** 2 * apart
            (expected,) = torch.autograd.grad(penalty, w)
            torch.testing.assert_close(parameters[name].grad.double(), expected, rtol=1e-4, atol=1e-2)


# Activations in place


def in_place_and_not():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(inplace=True), nn.Linear(16, 16), nn.ReLU(inplace=True), nn.Linear(16, 2))
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model, plain


def test_the_tangent_kernel_is_the_same_where_activations_work_in_place():
    x = torch.randn(6, 4)
    model, plain = in_place_and_not()
    torch.testing.assert_close(metrics.neural_tangent_kernel(model, x), metrics.neural_tangent_kernel(plain, x))


def test_features_are_held_alike_where_activations_work_in_place():
    x = torch.randn(6, 4)
    gradients = []
    for model in in_place_and_not():
        method = cbp.ProximalFeatures(model, sgd(model), all_layers=True)
        with torch.no_grad():
            model(x)
        for _ in range(2):  # at the second the weights are others
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.5)
                    parameter.grad = None
            (0 * model(x)).sum().backward()
            method.before_update()
            method.step()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)


def test_the_tangent_kernel_takes_whole_numbers_and_layers_that_lead_nowhere():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head, self.unused = nn.Embedding(5, 3), nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            h = self.embedding(x)
            self.unused(h)
            return self.head(h)

    model, x = Tokens(), torch.tensor([0, 3, 3])
    a = model.embedding(x).detach()
    torch.testing.assert_close(metrics.neural_tangent_kernel(model, x), 2 * (a @ a.T + 1))


# Numbers that are too large, and those that are too short


@pytest.mark.parametrize("name", ["redo", "regrama"])
def test_what_overflowed_replaces_no_unit(name):
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    method = cbp.METHODS[name](model, sgd(model), period=1)
    x = torch.rand(8, 4)
    if name == "redo":
        model[0].bias.data[3] = torch.inf
    model(x).sum().backward()
    if name == "regrama":
        model[0].weight.grad[3] = torch.inf
    assert [units.tolist() for units in method.step()] == [[]]


def test_averages_are_kept_where_weights_are_in_half_precision():
    """A thousandth of a small change is nothing in bfloat16, which has eight bits."""
    model = nn.Linear(2, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    method = cbp.HareTortoise(model, sgd(model), momentum=0.999, period=2000)
    nn.init.constant_(model.weight, 1.0625)
    for _ in range(1000):
        method.step()
    kept = 1.0625 - 0.0625 * 0.999**1000
    assert method.tortoise["weight"].tolist() == [[pytest.approx(kept, rel=1e-5)] * 2]
    for _ in range(1000):
        method.step()
    assert model.weight.dtype == torch.bfloat16
    assert model.weight[0, 0].item() == torch.tensor(1.0625 - 0.0625 * 0.999**2000).bfloat16().item()


def test_utilities_of_weights_are_averaged_where_these_are_in_half_precision():
    model = nn.Linear(2, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = cbp.UPGD(model, optimizer, decay_rate=0.999, sigma=0.0, weight_decay=0.0)
    for gradient in [1.0] + [0.9375] * 999:
        model.weight.grad = torch.full_like(model.weight, gradient)
        method.before_update()
        optimizer.step()
        method.step()
    expected = -0.9375 * (1 - 0.999**1000) - 0.001 * 0.0625 * 0.999**999
    assert method.state_dict()["utilities"][0][0, 0].item() == pytest.approx(expected, rel=1e-4)


def test_statistics_of_norms_are_averaged_after_a_model_was_cast():
    model = nn.BatchNorm1d(2)
    method = cbp.HareTortoise(model, sgd(model), momentum=0.5, period=1)
    model.double()  # which gives a module other buffers
    model.running_mean.fill_(8.0)
    method.step()
    assert model.running_mean.tolist() == [4.0, 4.0]  # half of 0 and half of 8


def test_small_offsets_are_not_lost_beside_large_weights():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 10_000.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    method = cbp.Trac(model, optimizer)
    method.load_state_dict({**method.state_dict(), "offsets": [torch.tensor([[0.00025]])]})
    model.weight.grad = torch.full_like(model.weight, -1.0)
    method.before_update()
    optimizer.step()
    method.step()
    # Between 8,192 and 16,384 float32 counts in steps of 0.00098.
    assert method.state_dict()["offsets"][0].item() == pytest.approx(1.00025, abs=1e-6)


# Models that are more than a chain


def test_each_tower_has_a_last_layer_whose_features_are_held():
    class ActorCritic(nn.Module):
        def __init__(self):
            super().__init__()
            self.actor, self.critic = (
                nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, outputs))
                for outputs in (2, 1)
            )

        def forward(self, x):
            return self.actor(x), self.critic(x)

    model = ActorCritic()
    assert cbp.ProximalFeatures(model, sgd(model)).watched == ["actor.2", "critic.2"]
    assert cbp.ProximalFeatures(model, sgd(model), all_layers=True).watched == ["actor.0", "actor.2", "critic.0", "critic.2"]
    chain = model.actor
    assert cbp.ProximalFeatures(chain, sgd(chain)).watched == ["2"]


@pytest.mark.parametrize("name", ["fire", "spectral", "nap", "swr", "shrink-perturb"])
def test_a_norm_that_was_written_by_hand_multiplies_nothing(name):
    class ChannelNorm(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.weight, self.bias = nn.Parameter(3 * torch.ones(channels, 1, 1)), nn.Parameter(torch.zeros(channels, 1, 1))

        def forward(self, x):
            return self.weight * (x - x.mean(dim=1, keepdim=True)) + self.bias

    model = nn.Sequential(nn.Conv2d(3, 8, 3), ChannelNorm(8), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.Flatten(), nn.Linear(16, 1))
    names = {parameter: key for key, parameter in model.named_parameters()}
    touched = cbp.METHODS[name](model, sgd(model)).touched
    expected = [
        names[p] for k in (0, 3, 5) for p in model[k].parameters()
    ]  # of the second convolution a weight of (1, 8, 1, 1)
    assert touched == [key for key in expected if name not in ("fire", "nap") or not key.endswith("bias")]


@pytest.mark.parametrize("name", ["upgd", "trac"])
def test_an_optimizer_of_another_model_is_refused(name):
    with pytest.raises(ValueError, match="the optimizer holds none of the parameters of Linear"):
        cbp.METHODS[name](nn.Linear(2, 1), sgd(nn.Linear(2, 1)))
