"""Callbacks for Stable-Baselines3: rewards by phase, plasticity, evaluation in the world of training, a verdict, progress."""

from agents.runs.recording import ProgressCallback, VerdictCallback
from agents.sb3.phases import ChangeCallback, FreshNetworkCallback, Phase, PhaseCallback
from agents.sb3.plasticity import PlasticityCallback
from agents.sb3.same_world import SameWorldCallback

__all__ = [
    "ChangeCallback",
    "FreshNetworkCallback",
    "Phase",
    "PhaseCallback",
    "PlasticityCallback",
    "ProgressCallback",
    "SameWorldCallback",
    "VerdictCallback",
]
