"""Small models of every algorithm with every kind of policy, and environments for them, for the tests of plastic policies."""

from __future__ import annotations

import copy
import importlib.util

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from agents.sb3.policies import KINDS

BUSY = {"replacement_rate": 0.05, "maturity_threshold": 3, "init": "lecun"}
STEPS = 40
_OFF_POLICY = {"learning_starts": 20, "batch_size": 8, "buffer_size": 200, "train_freq": 1}
_ON_POLICY = {"n_steps": 16, "batch_size": 8}
SETTINGS = {
    "PPO": {**_ON_POLICY, "n_epochs": 2},
    "A2C": {"n_steps": 4},
    "SAC": _OFF_POLICY,
    "TD3": _OFF_POLICY,
    "DDPG": _OFF_POLICY,
    "DQN": _OFF_POLICY,
    "TQC": _OFF_POLICY,
    "CrossQ": {**_OFF_POLICY, "learning_starts": 8},  # whose actor waits for every third update
    "QRDQN": _OFF_POLICY,
    "TRPO": {"n_steps": 4, "batch_size": 4, "n_critic_updates": 2, "cg_max_steps": 3},
    "MaskablePPO": {**_ON_POLICY, "n_epochs": 2},
    "RecurrentPPO": {**_ON_POLICY, "n_epochs": 2},
}
STOCK = {"PPO": PPO, "A2C": A2C, "SAC": SAC, "TD3": TD3, "DDPG": DDPG, "DQN": DQN}
NEEDS_CONTRIB = pytest.mark.skipif(importlib.util.find_spec("sb3_contrib") is None, reason="sb3-contrib is not installed")
CONTRIB = [name for name in SETTINGS if name not in STOCK]
DISCRETE = ("DQN", "QRDQN", "MaskablePPO")

SHOWN = ("trains", "saves", "resumes", "measured")
# What the tests show of each algorithm with each kind of policy; other policies are refused.
CASES = {
    (name, kind): SHOWN[:3] if name == "RecurrentPPO" else SHOWN
    for name in SETTINGS
    for kind in (("Mlp",) if name == "CrossQ" else KINDS)
}
ASKED = set()  # of what is shown, that for which there is a test
QUICK = [(name, "Mlp") for name in SETTINGS] + [("PPO", "Cnn"), ("SAC", "Cnn"), ("DQN", "Cnn"), ("SAC", "MultiInput")]
# A second kind of policy for every other algorithm; what a kind adds is the same for all, and the remaining cases soak.
SLOW = {(name, ("Cnn", "MultiInput")[i % 2]) for i, name in enumerate(("A2C", "TD3", "DDPG", *CONTRIB)) if name != "CrossQ"}


def cases(shown):
    """The algorithms and kinds of policies of which something is shown, for ``pytest.mark.parametrize``."""
    found = []
    ASKED.add(shown)
    for (name, kind), all_shown in CASES.items():
        if shown in all_shown:
            marks = [NEEDS_CONTRIB] * (name in CONTRIB)
            if (name, kind) not in QUICK:
                marks.append(pytest.mark.slow if (name, kind) in SLOW else pytest.mark.soak)
            found.append(pytest.param(name, kind, marks=marks, id=f"{name}-{kind}"))
    return found


def table():
    """The README's table; algorithms with the same cells share a row."""
    rows = {}
    for name in (*SETTINGS, "ARS"):
        cells = tuple(", ".join(CASES.get((name, kind), ["refused"])) for kind in KINDS)
        rows.setdefault((cells, name in STOCK), []).append(name)
    lines = [f"| | {' | '.join(f'`Plastic{kind}Policy`' for kind in KINDS)} |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {', '.join(names)} | {' | '.join(cells)} |" for (cells, _), names in rows.items())])


class Small(gymnasium.Env):
    """Observations of any space, without meaning; episodes of 10 steps; each action is rewarded for its own sake."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self._steps += 1
        reward = float(np.sum(action))
        return self.observation_space.sample(), reward, False, self._steps == 10, {}

    def action_masks(self):
        return np.arange(self.action_space.n) != self._steps % self.action_space.n


class TinyCnn(BaseFeaturesExtractor):
    """An extractor of the user's own: two convolutions whose flattened positions are the features."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=4 * 4)
        channels = observation_space.shape[0]
        self.net = nn.Sequential(
            nn.Conv2d(channels, 3, 3, stride=2), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )

    def forward(self, observations):
        return self.net(observations)


class TinyDict(BaseFeaturesExtractor):
    """Of a dictionary of images and vectors."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=16 + observation_space["vector"].shape[0])
        self.image = TinyCnn(observation_space["image"])

    def forward(self, observations):
        return torch.cat([self.image(observations["image"]), observations["vector"]], dim=1)


def spaces_of(kind):
    vector, image = spaces.Box(-1, 1, (3,), np.float32), spaces.Box(0, 255, (1, 9, 9), np.uint8)
    return {"Mlp": vector, "Cnn": image, "MultiInput": spaces.Dict(image=image, vector=vector)}[kind]


def env_of(name, kind="Mlp"):
    return Small(spaces_of(kind), spaces.Discrete(3) if name in DISCRETE else spaces.Box(-1, 1, (2,), np.float32))


def algorithm(name):
    return STOCK.get(name) or getattr(importlib.import_module("sb3_contrib"), name)


def make(name, kind="Mlp", prefix="CBP", settings=None, env=None, **policy_kwargs):
    """A model; ``prefix=None`` for the stock policy."""
    extractors = {"Cnn": TinyCnn, "MultiInput": TinyDict}
    if kind in extractors:
        policy_kwargs = {"features_extractor_class": extractors[kind], **policy_kwargs}
    if name == "RecurrentPPO":
        policy_kwargs = {"lstm_hidden_size": 4, **policy_kwargs}
    if name == "QRDQN":
        policy_kwargs = {"n_quantiles": 5, **policy_kwargs}
    stock = f"{kind}LstmPolicy" if name == "RecurrentPPO" else f"{kind}Policy"
    return algorithm(name)(
        stock if prefix is None else f"{prefix}{kind}Policy",
        env or env_of(name, kind),
        **{**SETTINGS[name], "seed": 1, "device": "cpu", **(settings or {})},
        policy_kwargs={"net_arch": [6, 5], **policy_kwargs},
    )


def weights(model):
    return torch.cat([value.detach().double().flatten() for value in model.policy.state_dict().values()])


def known(policy):
    """All that the methods of a policy know now, for :func:`same`."""
    return {network: copy.deepcopy(method.state_dict()) for network, method in policy.methods.items()}


def same(one, other):
    """Whether two states are equal to the bit; as text, tensors would have four digits and few of their numbers."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
