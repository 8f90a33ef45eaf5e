"""Methods that run a policy's networks again: what they compare, in the algorithms of Stable-Baselines3."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from plastic_cases import NEEDS_CONTRIB, STEPS, make
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

import agents
import cbp

SOON = {"measure_every": 1, "warm_up": 2, "window": 5}


class Losses(BaseCallback):
    """Keeps what the algorithm logs of its losses, by their names."""

    def __init__(self):
        super().__init__()
        self.logged = []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        self.logged.append(dict(self.logger.name_to_value))


def gradients(model, method, treated, updates=4):
    """What is added to the gradients of each parameter in some updates of PPO's policy, without any loss."""
    policy = model.policy
    policy.set_training_mode(True)
    numbers = torch.Generator().manual_seed(0)
    before, inputs, found = [], [], []
    for _ in range(updates):
        observations = torch.randn(8, *model.observation_space.shape, generator=numbers)
        inputs.append(observations)
        before.append(copy.deepcopy(treated).eval())
        policy.evaluate_actions(observations, torch.zeros(8, *model.action_space.shape))
        for parameter in policy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        method.before_update()
        method.step()
        found.append({name: parameter.grad.clone() for name, parameter in policy.named_parameters()})
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=numbers))
    return before, inputs, found


def test_the_churn_of_ppo_is_that_of_its_mean_actions():
    model = make("PPO", prefix="Plastic", method="c-chain", method_kwargs={"first_strength": 2.0})
    policy = model.policy
    chain = nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net)
    before, inputs, found = gradients(model, policy.method, chain)
    assert not any(gradient.any() for step in found[:2] for gradient in step.values())
    for step in (2, 3):
        now, then, x = before[step], before[step - 1], inputs[step - 2]
        term = 2.0 * (now(x) - then(x).detach()).square().mean()
        expected = torch.autograd.grad(term, now.parameters())
        of_chain = {id(parameter): gradient for parameter, gradient in zip(chain.parameters(), expected, strict=True)}
        for name, parameter in policy.named_parameters():
            if id(parameter) in of_chain:
                torch.testing.assert_close(found[step][name], of_chain[id(parameter)])
                assert found[step][name].any()
            else:  # of the value network, and log σ
                assert not found[step][name].any()


@pytest.mark.parametrize(
    ("method", "kwargs", "parts"),
    [("c-chain", SOON, ("mlp_extractor.value_net", "value_net")), ("pfo", {}, ("mlp_extractor.value_net",))],
)
def test_networks_may_have_it_by_themselves_and_a_shared_extractor_has_not(method, kwargs, parts):
    assert list(make("PPO", prefix="Plastic", method=method).policy.methods) == ["policy"]
    assert list(make("PPO", "Cnn", prefix="Plastic", method=method).policy.methods) == ["policy"]
    options = {"policy": None, "value": kwargs}
    model = make("PPO", "Cnn", prefix="Plastic", method=method, method_kwargs=options).learn(STEPS)
    assert list(model.policy.methods) == ["value"]
    added = gradients(model, model.policy.method, model.policy.value_net)[2][3]
    assert [name for name, gradient in added.items() if gradient.any()] == [name for name in added if name.startswith(parts)]


def test_ppo_holds_its_last_units_near_those_that_collected_the_rollout():
    acted, states = [], []

    class Watch(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            states.append(copy.deepcopy(self.model.policy.method.state_dict()["then"]))
            acted.append(copy.deepcopy(self.model.policy.mlp_extractor.policy_net.state_dict()))

    model = make("PPO", prefix="Plastic", method="pfo").learn(48, Watch())
    assert model.policy.method.watched == ["2"]
    states.append(model.policy.method.state_dict()["then"])
    assert states[0] is None
    for weights, then in zip(acted, states[1:], strict=True):  # after the updates: what collected the rollout before them
        assert all(torch.equal(then[name], weights[name]) for name in weights)
    assert not torch.equal(acted[0]["0.weight"], acted[1]["0.weight"])


@pytest.mark.parametrize(
    ("name", "network", "logged"),
    [
        ("PPO", "policy", "train/policy_gradient_loss"),
        ("A2C", "policy", "train/policy_loss"),
        ("SAC", "actor", "train/actor_loss"),
        ("SAC", "critic", "train/critic_loss"),
        ("TD3", "critic", "train/critic_loss"),
        ("DQN", "q_net", "train/loss"),
        pytest.param("QRDQN", "quantile_net", "train/loss", marks=NEEDS_CONTRIB),
        pytest.param("RecurrentPPO", "policy", "train/policy_gradient_loss", marks=NEEDS_CONTRIB),
    ],
)
def test_the_strength_follows_the_loss_of_the_network(name, network, logged):
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 1} if "PPO" in name else {}  # one update each time
    losses = Losses()
    model = make(name, prefix="Plastic", settings=settings, method="c-chain", method_kwargs={**SOON, "window": 1000})
    model.learn(6 * STEPS, losses)
    method = model.policy.methods[network]
    measured = [loss for loss, _ in method.state_dict()["measured"]]
    expected = [abs(values[logged]) for values in (*losses.logged, model.logger.name_to_value) if logged in values]
    assert len(measured) > 4
    assert measured[-3] in [pytest.approx(loss, rel=1e-5) for loss in expected]
    of_loss, of_churn = (sum(values) / len(values) for values in zip(*method.state_dict()["measured"], strict=True))
    assert method.strength == pytest.approx(0.05 * of_loss / (of_churn + 1e-8))


def test_a_loss_that_is_not_found_is_said_once():
    policy = make("PPO", prefix="Plastic", method="c-chain", method_kwargs=SOON).policy
    policy.set_training_mode(True)
    policy.evaluate_actions(torch.zeros(1, 3), torch.zeros(1, 1))[1].sum().backward()
    with pytest.warns(UserWarning, match=r"the loss of policy is not found, .* λ of c-chain stays 100"):
        policy.optimizer.step()
    policy.optimizer.step()  # warnings are errors in tests


def test_a_method_for_algorithms_that_learn_from_what_they_did_is_refused_by_others():
    for name in ("SAC", "TD3", "DQN", "A2C"):
        with pytest.raises(NotImplementedError, match=f"the method 'pfo' for {name} is not supported: it compares"):
            make(name, prefix="Plastic", method="pfo")


@pytest.mark.parametrize(("method", "kwargs"), [("c-chain", SOON), ("pfo", {})])
def test_the_fast_ppo_takes_the_loop_that_calls_the_networks(method, kwargs):
    settings = {"n_steps": 32, "batch_size": 16, "n_epochs": 1, "max_grad_norm": math.inf, "device": "cpu"}
    model = agents.PPO("PlasticMlpPolicy", "Pendulum-v1", policy_kwargs={"method": method, "method_kwargs": kwargs}, **settings)
    with pytest.warns(UserWarning, match="hooks, which compiled code would not call"):
        model.learn(64)
    assert model.policy.method.state_dict()["weights"]


def test_the_last_minibatch_of_a_rollout_is_measured():
    """Two epochs of two minibatches: every fourth update, whose loss is not that of the first, at the old policy."""
    losses = []

    class Watch(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            losses.append([loss for loss, _ in self.model.policy.method.state_dict()["measured"]])

    model = make("PPO", prefix="Plastic", method="c-chain", method_kwargs={"measure_every": 4, "warm_up": 4}).learn(64, Watch())
    assert [len(seen) for seen in losses] == [0, 1, 2, 3]
    logged = model.logger.name_to_value["train/policy_gradient_loss"]
    assert model.policy.method.state_dict()["measured"][-1][0] != pytest.approx(abs(logged))
    # Normalised advantages of a minibatch have mean 0, so that its loss is 0 as long as the policy is the one that acted.
    assert all(loss > 1e-6 for loss in losses[-1])


def test_what_is_known_outlives_freezing_another_network():
    model = make("PPO", prefix="Plastic", method="c-chain", method_kwargs=SOON).learn(STEPS)
    before = model.policy.method.state_dict()
    model.policy.mlp_extractor.value_net[0].requires_grad_(False)
    with pytest.warns(UserWarning, match="were exchanged or frozen"):
        model.policy.set_training_mode(True)
    after = model.policy.method.state_dict()
    assert after["strength"] == before["strength"] != 100.0
    assert after["measured"] == before["measured"]


def test_a_network_that_is_exchanged_is_watched_in_place_of_the_old_one():
    model = make("PPO", prefix="Plastic", method="c-chain", method_kwargs=SOON).learn(STEPS)
    old = model.policy.action_net
    model.policy.action_net = nn.Linear(old.in_features, old.out_features)
    model.policy.optimizer = torch.optim.Adam(model.policy.parameters(), lr=1e-3)
    with pytest.warns(UserWarning, match="were exchanged or frozen"):
        model.learn(STEPS)
    assert isinstance(model.policy.method, cbp.CChain)
    first = model.policy.mlp_extractor.policy_net[0]
    assert len(first._forward_pre_hooks) == 1
    assert model.policy.method.state_dict()["last"] is not None
