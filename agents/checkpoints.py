"""Checkpoints: everything that a stopped run needs to go on as if it had not stopped.

A checkpoint is one file ``checkpoints/<timesteps>-<checksum>.pt``, written between two rollouts: to another name, flushed to
the disk, then renamed, so that what has a checkpoint's name is whole. The checksum in the name tells damage. The file holds
numbers, strings and tensors only and is read by ``torch.load(weights_only=True)``: one from a stranger runs no code.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import random
import warnings
from collections import deque
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import envs
from agents import logs
from agents.build import make_model, make_vec_env
from agents.config import Config
from agents.errors import UserError
from agents.ppo import PPO
from agents.run_folder import RunFolder

_KEPT = 3  # the newest, and those before it, should it be damaged
_DIGITS = 16  # of the checksum
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num")


class Recorder(Protocol):
    """A callback that has a state: numbers, strings and arrays."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state: Any) -> None:
        """Goes on from a state."""


def save(folder: RunFolder, model: PPO, recorders: Mapping[str, Recorder]) -> Path:
    """Writes a checkpoint between two rollouts and drops the oldest beyond three.

    Args:
        folder: The run.
        model: The model, with its environments and logger.
        recorders: The callbacks that have a state, by name.

    Returns:
        The checkpoint.

    Raises:
        OSError: It cannot be written; the earlier ones are as they were.
    """
    state = {
        "made_by": _made_by(),
        "model": _save_model(model),
        "environments": _save_environments(model),
        "random": _save_random(),
        "callbacks": {name: recorder.state_dict() for name, recorder in recorders.items()},
        "logs": logs.save_state(model.logger, folder),
    }
    stream = io.BytesIO()
    torch.save(_to_tensors(state), stream)
    content = stream.getvalue()
    path = folder.checkpoints / f"{model.num_timesteps:012d}-{_checksum(content)}.pt"
    temporary = folder.checkpoints / ".new"
    try:
        folder.checkpoints.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _flush_folder(folder.checkpoints)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    same_step = [other for other in _all(folder) if _steps(other) == model.num_timesteps and other != path]  # damaged
    for old in same_step + _all(folder)[:-_KEPT]:
        old.unlink(missing_ok=True)
    return path


def load(folder: RunFolder, config: Config, recorders: Mapping[str, Recorder]) -> PPO:
    """The model, its environments and its logger as they were at the newest checkpoint that is whole; random generators too.

    Logs are cut back to it. A run that was stopped before its first checkpoint begins anew.

    Warns:
        UserWarning: A checkpoint is damaged, and the one before it is taken; or the run had another machine, number of threads
            or version of a package, so that it goes on with other rounding.

    Raises:
        UserError: Every checkpoint is damaged, or belongs to another run.
    """
    state, path = _newest_whole(folder)
    model = make_model(config, make_vec_env(config))
    if state is None:
        logs.cut(folder, timesteps=0, sizes={})
        model.set_logger(logs.make_logger(folder))
        return model
    try:
        logged, made_by = _to_arrays(state["logs"]), state["made_by"]
        differing = [f"{name} {made_by[name]}, not {now}" for name, now in _made_by().items() if made_by[name] != now]
        _load_model(model, state["model"])
        _load_environments(model, _to_arrays(state["environments"]))
        for name, recorder in recorders.items():
            recorder.load_state_dict(_to_arrays(state["callbacks"][name]))
        logs.cut(folder, model.num_timesteps, logged["sizes"])
        model.set_logger(logs.make_logger(folder))
        logs.load_state(model.logger, logged)
        _load_random(state["random"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(f"checkpoint '{path}' is not one of this run: {' '.join(str(error).split())}") from error
    if differing:
        warnings.warn(f"the run goes on, but not to the bit; it was made with {', '.join(differing)}", stacklevel=2)
    return model


def newest(folder: RunFolder) -> Path | None:
    """The newest checkpoint; None where there is none."""
    return next(reversed(_all(folder)), None)


def _all(folder: RunFolder) -> list[Path]:
    """Every checkpoint, the oldest first."""
    return sorted(folder.checkpoints.glob("[0-9]*-*.pt"))


def _steps(path: Path) -> int:
    return int(path.name.split("-")[0])


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _flush_folder(path: Path) -> None:
    """Makes a new name in a folder survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _newest_whole(folder: RunFolder) -> tuple[dict[str, Any] | None, Path | None]:
    found = _all(folder)
    for path in reversed(found):
        try:
            content = path.read_bytes()
            if path.stem.partition("-")[2] != _checksum(content):
                raise ValueError("its checksum is another")
            return torch.load(io.BytesIO(content), weights_only=True), path
        except Exception as error:  # whatever damage, or what is not allowed in such a file, makes torch raise
            reason = str(error).split("\n")[0]
            warnings.warn(f"checkpoint '{path}' is damaged and passed over: {reason}", stacklevel=3)
    if found:
        raise UserError(f"every checkpoint in '{folder.checkpoints}' is damaged")
    return None, None


def _made_by() -> dict[str, str | int]:
    """What the rounding of a run depends on."""
    packages = ("torch", "numpy", "scipy", "numba", "mujoco", "gymnasium", "stable-baselines3")
    return {
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _save_model(model: PPO) -> dict[str, Any]:
    return {
        "counters": {name: getattr(model, name) for name in _COUNTERS},
        "policy": model.policy.state_dict(),
        "optimizer": model.policy.optimizer.state_dict(),
        "last_observations": model._last_obs,
        "last_episode_starts": model._last_episode_starts,
        "episodes": list(model.ep_info_buffer or []),
    }


def _load_model(model: PPO, state: dict[str, Any]) -> None:
    model.policy.load_state_dict(state["policy"])
    model.policy.optimizer.load_state_dict(state["optimizer"])
    for name in _COUNTERS:
        setattr(model, name, state["counters"][name])
    model._last_obs = _to_arrays(state["last_observations"])
    model._last_episode_starts = _to_arrays(state["last_episode_starts"])
    model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)


def _save_environments(model: PPO) -> dict[str, Any]:
    vec_env = model.get_env()
    state: dict[str, Any] = {"each": [envs.save_state(env) for env in _each(vec_env)]}
    if isinstance(vec_env, VecNormalize):
        state["normalizer"] = {
            "observations": vars(vec_env.obs_rms).copy(),
            "rewards": vars(vec_env.ret_rms).copy(),
            "returns": vec_env.returns,
        }
    return state


def _load_environments(model: PPO, state: dict[str, Any]) -> None:
    vec_env = model.get_env()
    for env, saved in zip(_each(vec_env), state["each"], strict=True):
        envs.load_state(env, saved)
    if isinstance(vec_env, VecNormalize):
        normalizer = state["normalizer"]
        for statistics, saved in ((vec_env.obs_rms, normalizer["observations"]), (vec_env.ret_rms, normalizer["rewards"])):
            vars(statistics).update({name: saved[name] for name in vars(statistics)})
        vec_env.returns = normalizer["returns"]


def _each(vec_env: VecEnv | None) -> list[Any]:
    assert vec_env is not None  # noqa: S101
    return vec_env.unwrapped.envs  # type: ignore[attr-defined, no-any-return]


def _save_random() -> dict[str, Any]:
    _, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  what SB3 draws from
    version_, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": [np.asarray(keys, np.int64), *rest],
        "python": [version_, list(internal), gauss],
    }


def _load_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version_, internal, gauss = state["python"]
    random.setstate((version_, tuple(internal), gauss))


def _to_tensors(value: Any) -> Any:
    """Arrays as tensors and numbers as Python's, which is what ``weights_only`` reads."""
    if isinstance(value, dict):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_tensors(item) for item in value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value.item() if isinstance(value, np.generic) else value


def _to_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_arrays(item) for item in value)
    return value.numpy() if isinstance(value, torch.Tensor) else value
