"""Measures other fast trainers and steppers of the Ant, each in a virtual environment of its own.

``python benchmarks/peers.py NAME`` is a process that ``benchmarks/throughput.py`` starts: it warms up, prints its version, and
then measures steps/s for each line that it is sent. ``installed(NAME)`` makes the virtual environment, once, below
``benchmarks/.peers``. EnvPool brings a MuJoCo of its own, whose friction cannot be changed: its Ant is Gymnasium's ``Ant-v5``.
"""

from __future__ import annotations

import importlib.metadata
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STEPS, ROLLOUTS, N_ENVS = 2048, 4, 16
SAC_STEPS = 100  # of a measurement
HERE = Path(__file__).parent
NEEDS = {
    "envpool": ["envpool"],
    "envpool-sb3": ["envpool", "stable-baselines3"],
    "sbx": ["sbx-rl", "gymnasium[mujoco]"],
    "batch": ["mujoco>=3.17", "gymnasium[mujoco]"],
}
"""What each peer is installed with."""
PPO = {"n_steps": STEPS // N_ENVS, "batch_size": 128, "n_epochs": 10, "learning_rate": 1e-4, "seed": 0}


def installed(name: str) -> str:
    """The interpreter of a peer's virtual environment, which is made at the first call."""
    place = HERE / ".peers" / name
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        print(f"installing {', '.join(NEEDS[name])} for the comparison", file=sys.stderr)
        constraints = HERE.parent / "constraints.txt"
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-c", str(constraints), *NEEDS[name]], check=True)
        (place / "complete").touch()
    return str(python)


def _timed(function: Callable[[], Any], steps: int) -> float:
    start = time.perf_counter()
    function()
    return steps / (time.perf_counter() - start)


def _pool() -> Any:
    """EnvPool's Ant without contact forces, as that of this package."""
    import envpool

    contacts = {"use_contact_force": False, "post_constraint": False, "contact_cost_weight": 0.0}
    return envpool.make("Ant-v5", env_type="gymnasium", num_envs=N_ENVS, num_threads=2, seed=0, **contacts)


def envpool_alone() -> Callable[[], float]:
    """EnvPool's Ant under random actions."""
    env = _pool()
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS // N_ENVS, N_ENVS, 8))

    def run() -> None:
        for _ in range(ROLLOUTS):
            for action in actions:
                env.step(action)

    return lambda: _timed(run, ROLLOUTS * STEPS)


def envpool_under_sb3() -> Callable[[], float]:
    """Stable-Baselines3's PPO on EnvPool's Ant."""
    import gymnasium
    import stable_baselines3
    import torch
    from stable_baselines3.common.vec_env import VecEnv

    class Pool(VecEnv):
        """What of a vectorised environment PPO needs."""

        def __init__(self) -> None:
            self.pool = _pool()
            space = self.pool.observation_space
            observed = gymnasium.spaces.Box(-np.inf, np.inf, space.shape, np.float64)
            super().__init__(N_ENVS, observed, gymnasium.spaces.Box(-1, 1, (8,), np.float32))

        def reset(self) -> np.ndarray:
            return self.pool.reset()[0]

        def step_async(self, actions: np.ndarray) -> None:
            self.actions = actions

        def step_wait(self) -> Any:
            observations, rewards, terminated, truncated, _ = self.pool.step(self.actions.astype(np.float64))
            ended = terminated | truncated
            infos = [
                {"TimeLimit.truncated": False, "terminal_observation": observations[i]} if ended[i] else {}
                for i in range(N_ENVS)
            ]
            return observations, rewards, ended, infos

        def close(self) -> None: ...

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(self, attr_name, None)] * N_ENVS

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [None] * N_ENVS

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [True] * N_ENVS

    policy_kwargs = {"net_arch": [256, 256], "activation_fn": torch.nn.ReLU, "ortho_init": False}
    model = stable_baselines3.PPO("MlpPolicy", Pool(), max_grad_norm=math.inf, policy_kwargs=policy_kwargs, device="cpu", **PPO)
    model.learn(STEPS)
    return lambda: _timed(lambda: model.learn(ROLLOUTS * STEPS, reset_num_timesteps=False), ROLLOUTS * STEPS)


def _our_ants() -> Any:
    import gymnasium
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv([lambda: Monitor(gymnasium.make("envs:ant-nonstationary-v0", seed=0))] * N_ENVS)


def sbx() -> Callable[[], float]:
    """SBX's PPO, which is JAX, on the Ant of this package."""
    import flax.linen as nn
    import sbx

    policy_kwargs = {"net_arch": [256, 256], "activation_fn": nn.relu}
    model = sbx.PPO("MlpPolicy", _our_ants(), policy_kwargs=policy_kwargs, **PPO)
    model.learn(2 * STEPS)
    return lambda: _timed(lambda: model.learn(ROLLOUTS * STEPS, reset_num_timesteps=False), ROLLOUTS * STEPS)


def sbx_sac() -> Callable[[], float]:
    """SBX's SAC with the settings of ``benchmarks/off_policy.py``, which has the environment's id in ``SAC_ENV``."""
    import os

    import sbx

    model = sbx.SAC("MlpPolicy", os.environ["SAC_ENV"], learning_starts=100, buffer_size=100_000, seed=0)
    model.learn(300)
    return lambda: _timed(lambda: model.learn(SAC_STEPS, reset_num_timesteps=False), SAC_STEPS)


def batch() -> Callable[[], float]:
    """Bare ``mujoco.batch`` on two threads: all Ants five steps of the simulation, again and again, under random controls."""
    import gymnasium
    import mujoco.batch

    import envs  # noqa: F401

    ant: Any = gymnasium.make("ant-nonstationary-v0", seed=0).unwrapped
    simulations = mujoco.batch.Batch(ant.model, N_ENVS, 2)
    simulations.reset()
    controls = np.random.default_rng(0).uniform(-1, 1, (STEPS // N_ENVS, N_ENVS, 8))

    def run() -> None:
        for _ in range(ROLLOUTS):
            simulations.reset()
            for control in controls:
                simulations.ctrl = control
                simulations.step(nstep=ant.frame_skip)

    return lambda: _timed(run, ROLLOUTS * STEPS)


PEERS: dict[str, tuple[Callable[[], Callable[[], float]], str]] = {
    "envpool": (envpool_alone, "envpool"),
    "envpool-sb3": (envpool_under_sb3, "envpool"),
    "sbx": (sbx, "sbx-rl"),
    "batch": (batch, "mujoco"),
}
"""The peers: how each is measured, and whose version it has."""
OFF_POLICY = {"sbx-sac": (sbx_sac, "sbx-rl")}
"""Those of ``benchmarks/off_policy.py``, in the virtual environment of ``sbx``."""


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))  # where `envs` is
    make, package = (PEERS | OFF_POLICY)[sys.argv[1]]
    measure = make()
    print(importlib.metadata.version(package), flush=True)
    for _ in sys.stdin:
        print(measure(), flush=True)
