"""Stable-Baselines3's own tests with plastic policies in place of the stock ones.

``python benchmarks/stock_tests.py CHECKOUT [arguments of pytest]`` runs the tests of policies and saving in a checkout of
Stable-Baselines3 whose version is the installed one. Every algorithm finds a policy with continual backpropagation, which
replaces units from the fifth update on, by the names ``MlpPolicy``, ``CnnPolicy`` and ``MultiInputPolicy``. Many minutes.
"""

from __future__ import annotations

import os
import sys

import pytest
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

import agents  # noqa: F401  (makes the policies known)
from agents.sb3.policies import KINDS

BUSY = {"replacement_rate": 0.01, "maturity_threshold": 5}
FILES = ("save_load", "custom_policy", "spaces", "predict", "n_step_replay", "sde", "train_eval_mode", "cnn", "dict_env")


def exchange() -> None:
    """Makes plastic policies known by the names of the stock ones."""
    for algorithm in (PPO, A2C, SAC, TD3, DDPG, DQN):
        known = algorithm.policy_aliases
        for kind in KINDS:
            known[f"CBP{kind}Policy"].default_options = {"cbp": BUSY}  # type: ignore[attr-defined]
        algorithm.policy_aliases = {**known, **{f"{kind}Policy": known[f"CBP{kind}Policy"] for kind in KINDS}}


if __name__ == "__main__":
    exchange()
    os.chdir(sys.argv[1])
    chosen = sys.argv[2:] or [f"tests/test_{name}.py" for name in FILES]
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", ".", *chosen]))
