"""Learners, plugins and commands of continual-backprop. Importing them makes its policies known to Stable-Baselines3."""

# ruff: noqa: E402
from agents._starting import prepare
from agents.names import require_ours

prepare()
require_ours()  # before anything of `cbp` or `envs` is imported

import importlib.util
from typing import TYPE_CHECKING, Any

from agents._moved import keep_old_paths
from agents.sb3.policies import (
    CBPCnnPolicy,
    CBPMlpPolicy,
    CBPMultiInputPolicy,
    PlasticCnnPolicy,
    PlasticMlpPolicy,
    PlasticMultiInputPolicy,
    register,
)

if TYPE_CHECKING:
    from agents.sb3.ppo import PPO
    from agents.sb3.sac import SAC
    from agents.sb3.vec_env import ThreadedVecEnv

keep_old_paths()
register()
if importlib.util.find_spec("sb3_contrib") is not None:
    importlib.import_module("agents.sb3.contrib").register()

__all__ = [
    "PPO",
    "SAC",
    "CBPCnnPolicy",
    "CBPMlpPolicy",
    "CBPMultiInputPolicy",
    "PlasticCnnPolicy",
    "PlasticMlpPolicy",
    "PlasticMultiInputPolicy",
    "ThreadedVecEnv",
]

_WITH_MUJOCO = {"PPO": "agents.sb3.ppo", "SAC": "agents.sb3.sac", "ThreadedVecEnv": "agents.sb3.vec_env"}


def __getattr__(name: str) -> Any:
    """Imports, when it is asked for, what brings MuJoCo and numba with it: policies alone need neither."""
    if name not in _WITH_MUJOCO:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_WITH_MUJOCO[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
