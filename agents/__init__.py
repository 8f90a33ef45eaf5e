"""Learners, plugins and commands. Importing this package makes its policies known to Stable-Baselines3."""

from agents.policies import CBPMlpPolicy, PlasticMlpPolicy, register

register()

__all__ = ["CBPMlpPolicy", "PlasticMlpPolicy"]
