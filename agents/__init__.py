"""Learners, plugins and commands of continual-backprop. Importing them makes its policies known to Stable-Baselines3."""

# ruff: noqa: E402
from agents.names import require_ours

require_ours()  # before anything of `cbp` or `envs` is imported

from agents._moved import keep_old_paths
from agents.sb3.policies import CBPMlpPolicy, PlasticMlpPolicy, register
from agents.sb3.ppo import PPO
from agents.sb3.vec_env import ThreadedVecEnv

keep_old_paths()
register()

__all__ = ["PPO", "CBPMlpPolicy", "PlasticMlpPolicy", "ThreadedVecEnv"]
