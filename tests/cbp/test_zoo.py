"""Every network of the zoo: which units are found, and that replacing them is exact."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from small_networks import still
from torch import nn
from zoo import NETWORKS

import cbp

WITHIN = "HandMadeNorm"  # whose norm is no module of its own
COUPLED = {"mlp_layer_norm", "mlp_rms_norm", "HandMadeNorm", "cnn_group_norm", "ConvNext"}
NOTHING = {name for name, (_, _, treated) in NETWORKS.items() if not treated}


def made(name: str):
    make, example, treated = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(), example(), treated


def test_the_zoo_is_as_large_as_it_should_be():
    assert len(NETWORKS) - len(COUPLED) - len(NOTHING) >= 60


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - NOTHING))
def test_units_are_found_and_replaced_exactly(name):
    model, example, treated = made(name)
    layers = cbp.find_layers(model, example)
    assert {layer.name: layer.units for layer in layers} == treated
    with pytest.warns(UserWarning, match="outputs were not compared") if name == WITHIN else nullcontext():
        deviation = cbp.verify(model, example)
    if name in COUPLED:
        assert deviation > 1e-4, "a norm over several units couples them"
    else:
        assert deviation < 1e-4


@pytest.mark.parametrize("name", sorted(NOTHING))
def test_networks_of_which_nothing_can_be_treated_are_refused_with_a_reason(name):
    model, example, _ = made(name)
    with pytest.raises(cbp.LayerError, match=r"no hidden layer that can be treated: .*the units of"):
        cbp.find_layers(model, example)


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - NOTHING))
def test_the_method_sees_every_layer_in_a_training_pass_and_replaces_its_units(name):
    model, example, treated = made(name)
    method = cbp.ContinualBackprop(
        model, still(model), replacement_rate=1.0, maturity_threshold=0, example=example, init="lecun"
    )
    before = copy.deepcopy(model.state_dict())
    model.train()(*example)
    replaced = method.step()
    assert {layer.name: len(units) for layer, units in zip(method.layers, replaced, strict=True)} == treated
    for layer in method.layers:
        assert not layer.age.any()
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_verify_says_which_layer_is_not_as_it_should_be():
    """Two wrong descriptions: one that forgets a head, one that writes to what is not the units'."""

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x):
            h = torch.relu(self.trunk(x))
            return self.a(h) + self.b(h)

    model, x = TwoHeads(), torch.randn(5, 3)
    assert cbp.verify(model, (x,)) < 1e-5
    forgets = cbp.HiddenLayer(model.trunk, [model.a], "mine").as_group()
    with pytest.raises(cbp.VerifyError, match=r"layer 'mine': the outputs deviate by"):
        cbp.verify(model, (x,), layers=[forgets])


def test_verify_notices_a_gradient_at_fresh_weights_where_outputs_do_not_differ():
    class Straight(nn.Module):
        """The forward pass has no effect of the units on this input, the backward pass has."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 1)

        def forward(self, x):
            h = self.first(x)
            return self.second(torch.relu(h)) + (h - h.detach()).sum(-1, keepdim=True)

    model = Straight()
    given = cbp.HiddenLayer(model.first, [model.second], "first", "relu").as_group()
    with pytest.raises(cbp.VerifyError, match=r"layer 'first': outputs depend on fresh weights, the gradient by 'weight' is"):
        cbp.verify(model, (torch.randn(5, 3),), layers=[given])


def test_finding_leaves_no_trace():
    """Attributes, buffers, the mode and the random state are as before, also of a stateful model that draws numbers."""

    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.first, self.second = nn.BatchNorm1d(3), nn.Linear(3, 8), nn.Linear(8, 1)
            self.last = None
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            self.last = torch.relu(self.first(self.norm(x) + 0.1 * torch.randn(3)))
            return self.second(self.last)

    model, x = Stateful(), torch.randn(4, 3)
    model(x)  # leaves a tensor with a graph, which cannot be copied
    kept, before, state = model.last, copy.deepcopy(model.state_dict()), torch.get_rng_state()
    given = x.clone()
    assert [layer.name for layer in cbp.find_layers(model, (x,))] == ["first"]
    assert model.last is kept
    assert model.calls == 1
    assert torch.equal(x, given)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_without_a_forward_of_its_own_is_followed_by_a_function():
    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.actor, self.critic = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(8, 1)

    def act(agent, x):
        h = torch.tanh(agent.trunk(x))
        return agent.actor(h), agent.critic(h)

    model, x = Agent(), torch.randn(4, 3)
    method = cbp.ContinualBackprop(
        model, still(model), replacement_rate=0.5, maturity_threshold=0, example=lambda agent: act(agent, x)
    )
    act(model, x)
    assert [len(units) for units in method.step()] == [4]
    assert cbp.verify(model, lambda agent: act(agent, x)) < 1e-5
