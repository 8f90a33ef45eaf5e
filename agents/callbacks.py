"""Callbacks for Stable-Baselines3: rewards by phase, units and plasticity, a verdict in words, progress on the screen."""

from agents.runs.recording import ProgressCallback, VerdictCallback
from agents.sb3.phases import ChangeCallback, FreshNetworkCallback, Phase, PhaseCallback
from agents.sb3.plasticity import PlasticityCallback

__all__ = [
    "ChangeCallback",
    "FreshNetworkCallback",
    "Phase",
    "PhaseCallback",
    "PlasticityCallback",
    "ProgressCallback",
    "VerdictCallback",
]
