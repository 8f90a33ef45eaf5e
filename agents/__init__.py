"""Learners, plugins and commands. Importing this package makes its policies known to Stable-Baselines3."""

from agents.policies import CBPMlpPolicy, PlasticMlpPolicy, register
from agents.ppo import PPO
from agents.vec_env import ThreadedVecEnv

register()

__all__ = ["PPO", "CBPMlpPolicy", "PlasticMlpPolicy", "ThreadedVecEnv"]
