"""Learners, plugins and commands of continual-backprop. Importing them makes its policies known to Stable-Baselines3."""

# ruff: noqa: E402
from agents.names import require_ours

require_ours()  # before anything of `cbp` or `envs` is imported

from agents.policies import CBPMlpPolicy, PlasticMlpPolicy, register
from agents.ppo import PPO
from agents.vec_env import ThreadedVecEnv

register()

__all__ = ["PPO", "CBPMlpPolicy", "PlasticMlpPolicy", "ThreadedVecEnv"]
