"""Policies whose networks users wrote: what is no chain of modules is not taken for one, and names do not mislead."""

from __future__ import annotations

import warnings

import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from plastic_cases import NEEDS_CONTRIB, SETTINGS, Small
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from stable_baselines3.sac.policies import SACPolicy
from tape import tapes
from torch import nn

import agents
import cbp
from agents.callbacks import FreshNetworkCallback, PlasticityCallback
from agents.sb3 import plasticity
from agents.sb3.networks import hidden_layers

OFTEN = {"method_kwargs": {"replacement_rate": 0.05, "maturity_threshold": 3}, "net_arch": [8]}
OBSERVED, DONE = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))


class Residual(nn.Sequential):
    """Each layer but the first is added to what it receives."""

    def forward(self, x):
        for k in range(0, len(self), 2):
            h = self[k + 1](self[k](x))
            x = x + h if k else h
        return x


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def residual_ppo(model):
    for name in ("policy_net", "value_net"):
        setattr(model.policy.mlp_extractor, name, Residual(*getattr(model.policy.mlp_extractor, name)))


def residual_sac(model):
    model.actor.latent_pi = Residual(*model.actor.latent_pi)


def doubled_critic(model):
    model.critic.qf0 = model.critic.q_networks[0] = Doubled(*model.critic.qf0)


def own_forward(model):
    """A module whose own forward pass stands beside it, as some patch it."""
    chain = model.policy.mlp_extractor.policy_net
    chain.forward = lambda x: 2 * nn.Sequential(*chain)(x)


RESIDUAL = {
    "PPO": ("PPO", residual_ppo, "Residual"),
    "PPO, patched": ("PPO", own_forward, "Sequential"),
    "SAC": ("SAC", residual_sac, "Residual"),
    "SAC's critic": ("SAC", doubled_critic, "Doubled"),
}


@pytest.mark.parametrize(("name", "change", "reason"), RESIDUAL.values(), ids=RESIDUAL)
def test_a_sequence_with_a_forward_of_its_own_is_trained_by_it(name, change, reason):
    settings = {"PPO": {"n_steps": 32, "batch_size": 16, "n_epochs": 2}, "SAC": {"learning_starts": 10, "batch_size": 16}}[name]
    found = []
    for algorithms in (stable_baselines3, agents):
        policy_kwargs = {"net_arch": [8, 8], "activation_fn": nn.ReLU}
        model = getattr(algorithms, name)("MlpPolicy", tapes(), policy_kwargs=policy_kwargs, seed=0, device="cpu", **settings)
        change(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.learn(64)
        found.append(nn.utils.parameters_to_vector(model.policy.parameters()))
    assert torch.equal(*found)
    assert reason in model.slow_because


class Extractor(nn.Module):
    """An extractor whose activations, and more, stand in its forward pass."""

    def __init__(self, inputs, kind):
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = 8
        self.kind = kind
        first, second = nn.Linear(inputs, 8), nn.Linear(8 + inputs if kind == "dense" else 8, 8)
        self.policy_net = {
            "list": nn.ModuleList([first, second]),
            "dense": nn.ModuleList([first, second]),
            "sequence": nn.Sequential(first, nn.ReLU(), nn.Linear(8, 8), nn.ReLU()),
        }[kind]
        self.value_net = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh())

    def forward_actor(self, x):
        if self.kind == "sequence":
            return 1 + self.policy_net(x)
        h = torch.relu(self.policy_net[0](x))
        if self.kind == "dense":
            return torch.relu(self.policy_net[1](torch.cat([h, x], 1)))
        return h + torch.relu(self.policy_net[1](h))

    def forward_critic(self, x):
        return self.value_net(x)

    def forward(self, x):
        return self.forward_actor(x), self.forward_critic(x)


def policy_of(base, kind):
    class Own(base):
        def _build_mlp_extractor(self):
            self.mlp_extractor = Extractor(self.features_dim, kind)

    return Own


def learn_ppo(policy, steps=64, callback=None, **policy_kwargs):
    model = PPO(policy, Small(OBSERVED, DONE), **SETTINGS["PPO"], seed=0, device="cpu", policy_kwargs=policy_kwargs)
    return model.learn(steps, callback)


@pytest.mark.parametrize("kind", ["list", "dense", "sequence"])
def test_what_is_no_chain_is_taken_for_none(kind, monkeypatch):
    policy = policy_of(agents.PlasticMlpPolicy, kind)
    for method in ("c-chain", "pfo"):
        with pytest.raises(cbp.LayerError, match="network 'policy' of this Own is no chain of its modules"):
            learn_ppo(policy, method=method)
    monkeypatch.setattr(plasticity, "SAMPLES", 100)
    measures = PlasticityCallback(every=50, ranks_every=50)
    learn_ppo(policy, 128, measures, method_kwargs=OFTEN["method_kwargs"])
    measured = {name.split("/")[-1] for name in measures.latest}
    assert "weight_magnitude" in measured
    assert "probe_ntk_effective_rank" not in measured


def test_a_chain_is_one_with_dropout_too():
    class Dropping(agents.PlasticMlpPolicy):
        def _build_mlp_extractor(self):
            super()._build_mlp_extractor()
            self.mlp_extractor.policy_net.insert(1, nn.Dropout(0.5))

    options = {"warm_up": 1, "measure_every": 1}
    assert learn_ppo(Dropping, method="c-chain", method_kwargs=options).policy.method is not None


class Dueling(QNetwork):
    """Keeps the network that it inherits, and does not call it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.body = nn.Sequential(nn.Linear(self.features_dim, 8), nn.ReLU())
        self.value, self.advantage = nn.Linear(8, 1), nn.Linear(8, int(self.action_space.n))

    def forward(self, obs):
        h = self.body(self.extract_features(obs, self.features_extractor))
        return self.value(h) + self.advantage(h) - self.advantage(h).mean(1, keepdim=True)


class Critic(ContinuousCritic):
    """Twins by other names."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.q1, self.q2 = self.qf0, self.qf1
        del self.qf0, self.qf1, self.q_networks

    def forward(self, obs, actions):
        x = torch.cat([self.extract_features(obs, self.features_extractor), actions], dim=1)
        return self.q1(x), self.q2(x)


def off_policy(base, kind):
    class Own(base):
        def make_q_net(self):
            return Dueling(**self._update_features_extractor(self.net_args, features_extractor=None)).to(self.device)

        def make_critic(self, features_extractor=None):
            return Critic(**self._update_features_extractor(self.critic_kwargs, features_extractor)).to(self.device)

    algorithm, done = {"DQN": (DQN, spaces.Discrete(3)), "SAC": (SAC, DONE)}[kind]
    settings = {**SETTINGS[kind], "seed": 0, "device": "cpu"}
    return lambda make=algorithm, **kwargs: make(Own, Small(OBSERVED, done), **settings, policy_kwargs=kwargs)


OFF_POLICY = {"DQN": (DQNPolicy, "DQNPlasticMlpPolicy"), "SAC": (SACPolicy, "SACPlasticMlpPolicy")}


@pytest.mark.parametrize("kind", OFF_POLICY)
def test_critics_of_ones_own_are_measured_and_treated(kind, monkeypatch):
    stock, plastic = OFF_POLICY[kind]
    monkeypatch.setattr(plasticity, "SAMPLES", 100)
    measures = PlasticityCallback(every=50, ranks_every=50)
    off_policy(stock, kind)().learn(200, measures)
    assert {name.split("/")[-1] for name in measures.latest} >= {"weight_magnitude", "stable_rank"}
    make = off_policy(getattr(agents.sb3.policies, plastic), kind)
    with pytest.raises(cbp.LayerError, match=r"network 'q_net' of this Own is no chain|has no 'critic\.q_networks'"):
        make(method="c-chain")
    model = make(method="cbp", method_kwargs=OFTEN["method_kwargs"]).learn(60)
    assert all(layer.replaced for method in model.policy.methods.values() for layer in method.layers)


def test_a_critic_of_ones_own_takes_sb3s_loop():
    make = off_policy(SACPolicy, "SAC")
    with pytest.warns(UserWarning, match="slower loop: the policy is a Own"):
        ours = make(agents.SAC).learn(40)
    stock = make().learn(40)
    assert torch.equal(*(nn.utils.parameters_to_vector(model.policy.parameters()) for model in (ours, stock)))


@pytest.mark.parametrize("name", ["actor", "critic", "q_net", "quantile_net"])
@pytest.mark.parametrize("algorithm", ["PPO", pytest.param("MaskablePPO", marks=NEEDS_CONTRIB)])
def test_a_part_that_is_called_as_another_algorithms_network_does_not_mislead(name, algorithm, monkeypatch):
    make, base, done = PPO, agents.CBPMlpPolicy, DONE
    if algorithm == "MaskablePPO":
        make = pytest.importorskip("sb3_contrib").MaskablePPO
        base, done = agents.sb3.contrib.MaskablePlasticMlpPolicy, spaces.Discrete(3)

    class Named(base):
        def _build_mlp_extractor(self):
            super()._build_mlp_extractor()
            setattr(self, name, self.mlp_extractor.policy_net)

    monkeypatch.setattr(plasticity, "SAMPLES", 100)
    measures = PlasticityCallback(every=50, ranks_every=50)
    model = make(Named, Small(OBSERVED, done), **SETTINGS["PPO"], seed=0, device="cpu", policy_kwargs=OFTEN)
    model.learn(128, measures)
    assert [network.split("/")[0] for network in (layer.name for layer in hidden_layers(model.policy))] == ["policy", "value"]
    assert all(layer.replaced for layer in model.policy.method.layers)
    assert "plasticity/policy/probe_ntk_effective_rank" in measures.latest


class Phases(Small):
    """A world that changes by itself."""

    phase = 0

    def step(self, action):
        self.phase += self._steps == 9
        return super().step(action)


class Watch(BaseCallback):
    def _on_step(self):
        return True

    def _on_training_start(self):
        self.before = self.model.policy.state_dict()["action_net.weight"].clone()


@NEEDS_CONTRIB
def test_fresh_networks_are_made_of_maskable_policies():
    settings = {**SETTINGS["MaskablePPO"], "learning_rate": 0.0, "policy_kwargs": OFTEN}
    maskable = pytest.importorskip("sb3_contrib").MaskablePPO
    model = maskable("CBPMlpPolicy", Phases(OBSERVED, spaces.Discrete(3)), **settings, seed=0, device="cpu")
    watch = Watch()
    model.learn(64, [FreshNetworkCallback(), watch])
    assert not torch.equal(model.policy.action_net.weight, watch.before)


def test_fresh_networks_leave_those_that_are_frozen():
    settings = {**SETTINGS["SAC"], "policy_kwargs": OFTEN}
    model = SAC("CBPMlpPolicy", Phases(OBSERVED, DONE), **settings, seed=0, device="cpu")
    model.actor.latent_pi.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    with pytest.warns(UserWarning, match="'actor/hidden1' is frozen"):
        model.learn(60, FreshNetworkCallback())
    same = {name for name, tensor in model.policy.state_dict().items() if torch.equal(tensor, before[name])}
    assert same == {"actor.latent_pi.0.weight", "actor.latent_pi.0.bias"}


def test_fresh_networks_of_exchanged_ones_are_refused_before_training():
    model = PPO("CBPMlpPolicy", Phases(OBSERVED, DONE), **SETTINGS["PPO"], seed=0, device="cpu")
    model.policy.mlp_extractor.policy_net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 64))
    model.policy.optimizer = torch.optim.Adam(model.policy.parameters())
    with pytest.raises(ValueError, match=r"this policy has others since: mlp_extractor\.policy_net\.0\.bias"):
        model.learn(32, FreshNetworkCallback())
    assert model.num_timesteps == 0
