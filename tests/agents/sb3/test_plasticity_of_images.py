"""What the callback records of images and dictionaries, against forward passes written out."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from measures_by_hand import measured_by_hand
from plastic_cases import BUSY, env_of, make
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from agents.callbacks import PlasticityCallback

ENVS = 25  # so that 1,000 steps take few updates


def of_channels(extractor, images):
    """What the layers behind two convolutions receive, ``(samples, channels, positions)``, and the features of the images."""
    conv1, relu1, conv2, relu2, pool, flatten = extractor.net
    first = relu1(conv1(torch.as_tensor(images).float() / 255))
    second = pool(relu2(conv2(first)))
    return [first.flatten(2), second.flatten(2)], flatten(second)


def of_units(chain, h):
    """The outputs of a chain's activations."""
    found = []
    for module in chain:
        h = module(h)
        if not isinstance(module, nn.Linear):
            found.append(h)
    return found


def of_dqn(model, probe):
    net = model.policy.q_net
    channels, features = of_channels(net.features_extractor, probe["observations"])
    units = of_units(net.q_net[:-1], features)
    return {
        f"q_net/{part}{i + 1}": (h, nn.ReLU)
        for part, found in (("features", channels), ("hidden", units))
        for i, h in enumerate(found)
    }


def of_ppo(model, probe):
    policy = model.policy
    channels, features = of_channels(policy.features_extractor.image, probe["observations"]["image"])
    features = torch.cat([features, torch.as_tensor(probe["observations"]["vector"])], dim=1)
    layers = {f"features/hidden{i + 1}": (h, nn.ReLU) for i, h in enumerate(channels)}
    for network, chain in (("policy", policy.mlp_extractor.policy_net), ("value", policy.mlp_extractor.value_net)):
        layers |= {f"{network}/hidden{i + 1}": (h, nn.Tanh) for i, h in enumerate(of_units(chain, features))}
    return layers


def of_sac(model, probe):
    actor, critic = model.policy.actor, model.policy.critic
    channels, features = of_channels(actor.features_extractor, probe["observations"])
    layers = {f"actor/features{i + 1}": (h, nn.ReLU) for i, h in enumerate(channels)}
    layers |= {f"actor/hidden{i + 1}": (h, nn.ReLU) for i, h in enumerate(of_units(actor.latent_pi, features))}
    judged = torch.cat([features, torch.as_tensor(probe["actions"])], dim=1)
    for number, chain in enumerate((critic.qf0, critic.qf1)):
        layers |= {f"critic/qf{number}_hidden{i + 1}": (h, nn.ReLU) for i, h in enumerate(of_units(chain[:-1], judged))}
    return layers


class Compare(BaseCallback):
    """At the first record: what should have been recorded. Called after the callback that is tested."""

    def __init__(self, tested, by_hand):
        super().__init__()
        self.tested, self.by_hand, self.compared = tested, by_hand, False

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        latest = self.tested.latest
        if self.compared or not latest:
            return
        self.compared = True
        layers = self.by_hand(self.model, self.tested.probe)
        for layer, (h, activation) in layers.items():
            expected = measured_by_hand(h.detach().double().numpy(), activation)
            for prefix in ("", "probe_"):  # the probe batch is the last 1,000 steps: it is fixed now
                got = {name: latest[f"plasticity/{layer}/{prefix}{name}"] for name in expected}
                assert got == pytest.approx(expected, rel=1e-4), layer
        of_layers = [name.rsplit("/", 1)[0].removeprefix("plasticity/") for name in latest if name.endswith("/stable_rank")]
        assert of_layers == list(layers)
        assert {name.removeprefix("cbp/").rsplit("/", 1)[0] for name in latest if name.endswith("mean_utility")} == set(layers)


@pytest.mark.parametrize(
    ("name", "kind", "by_hand", "settings", "kwargs", "networks"),
    [
        ("DQN", "Cnn", of_dqn, {"buffer_size": 2000}, {}, ["q_net"]),
        ("PPO", "MultiInput", of_ppo, {"batch_size": 100}, {}, ["features", "policy", "value"]),
        ("SAC", "Cnn", of_sac, {"buffer_size": 2000}, {"share_features_extractor": True}, ["actor", "critic"]),
    ],
)
def test_channels_and_units_behind_them_are_measured_as_a_loop_does(name, kind, by_hand, settings, kwargs, networks):
    env = DummyVecEnv([lambda: env_of(name, kind)] * ENVS)
    model = make(name, kind, env=env, settings=settings, method_kwargs=BUSY, **kwargs)
    tested = PlasticityCallback(every=10**6, ranks_every=10**6)
    compare = Compare(tested, by_hand)
    model.learn(1250, [tested, compare])
    assert compare.compared
    assert {key.split("/")[1] for key in tested.latest if key.endswith("/replaced")} == set(networks)
    observations = tested.probe["observations"]
    assert (observations["image"] if kind == "MultiInput" else observations).shape == (1000, 1, 9, 9)


def test_images_and_actions_are_those_of_the_last_thousand_steps():
    env = DummyVecEnv([lambda: env_of("SAC", "Cnn")] * ENVS)
    model = make("SAC", "Cnn", prefix=None, env=env, settings={"buffer_size": 2000})
    tested = PlasticityCallback(every=10**6)
    model.learn(1250, tested)
    # learning_starts=8: the first of 25 environments' steps, taken at random, counts as after it.
    buffer = model.replay_buffer
    assert tested.recorded_at == 1000
    assert np.array_equal(tested.probe["observations"], buffer.observations[:40].reshape(1000, 1, 9, 9))
    assert np.array_equal(tested.probe["actions"], buffer.actions[:40].reshape(1000, 2))


class Small(gymnasium.Env):
    """Images of which NatureCNN leaves one position."""

    observation_space = gymnasium.spaces.Box(0, 255, (36, 36, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action):
        return self._seen(), 0.0, bool(self.np_random.random() < 0.05), False, {}

    def _seen(self):
        return self.np_random.integers(0, 256, (36, 36, 1), np.uint8)


def test_channels_with_one_position_are_measured_as_units():
    callback = PlasticityCallback()
    model = PPO("CnnPolicy", Small(), n_steps=1024, n_epochs=1, batch_size=256, device="cpu", seed=0)
    model.learn(2048, callback)
    assert 0 <= callback.latest["plasticity/features/hidden3/probe_dormant_fraction"] <= 1  # the last convolution's


class Brightest(BaseFeaturesExtractor):
    """A channel that is active where a pixel is white, 1 in 256 of them, and one that is active everywhere."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 8)
        of_pixels = nn.Conv2d(1, 2, 1)
        nn.init.ones_(of_pixels.weight)
        of_pixels.bias.data = torch.tensor([-254.5 / 255, 1.0])
        self.layers = nn.Sequential(of_pixels, nn.ReLU(), nn.Conv2d(2, 8, 36), nn.ReLU(), nn.Flatten())

    def forward(self, images):
        return self.layers(images)


def test_a_channel_is_as_active_as_its_positions_and_not_as_its_images():
    callback = PlasticityCallback()
    kwargs = {"features_extractor_class": Brightest, "net_arch": [], "ortho_init": False}
    settings = {"n_steps": 1024, "n_epochs": 1, "batch_size": 1024, "seed": 0, "device": "cpu", "learning_rate": 0.0}
    PPO("CnnPolicy", Small(), policy_kwargs=kwargs, **settings).learn(2048, callback)
    # An image of 36 × 36 has five white pixels: the first channel is active on all but 1 in 150, and at 0.4 % of the positions.
    assert callback.latest["plasticity/features/hidden1/dormant_fraction"] == 0.5
    assert callback.latest["plasticity/features/hidden1/dead_fraction"] == 0
    assert callback.latest["plasticity/features/hidden1/tau_dormant_fraction"] == 0.5


class Normed(BaseFeaturesExtractor):
    """A norm behind a ReLU whose units are all active."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 8)
        first = nn.Linear(observation_space.shape[0], 16)
        nn.init.constant_(first.bias, 50.0)
        self.layers = nn.Sequential(first, nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 8), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


def test_units_are_not_called_dormant_for_what_a_norm_behind_them_gives():
    callback = PlasticityCallback()
    kwargs = {"features_extractor_class": Normed, "net_arch": [8]}
    settings = {"n_steps": 1024, "n_epochs": 1, "batch_size": 256, "seed": 0, "device": "cpu"}
    PPO("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, **settings).learn(2048, callback)
    assert "plasticity/features/hidden1/probe_tau_dormant_fraction" in callback.latest
    assert "plasticity/features/hidden1/probe_dormant_fraction" not in callback.latest
    assert "plasticity/features/hidden2/probe_dormant_fraction" in callback.latest
