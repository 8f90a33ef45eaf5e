"""Checkpoints: everything a stopped run needs to go on.

A checkpoint is a folder ``checkpoints/<timesteps>/`` with SB3's own ``model.zip`` (weights, optimizer, method), ``state.json``
(clocks and sequences of the environments, phases so far, lengths of the logs) and, for a normalised run, ``normalize.pkl``.
It is made under another name and renamed, so what has a checkpoint's name is whole. Load only checkpoints you trust: SB3's
files are pickles, and a pickle can run any code.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize

from agents.build import make_vec_env, nonstationary_wrappers
from agents.callbacks import PhaseCallback
from agents.config import Config
from agents.errors import UserError
from agents.ppo import PPO
from agents.run_folder import RunFolder, write_json

_KEPT = 2  # the newest, and the one before it


def save(folder: RunFolder, model: PPO, phases: PhaseCallback) -> Path:
    """Writes a checkpoint between two rollouts and drops the oldest beyond two.

    Returns:
        The checkpoint.
    """
    path = folder.checkpoints / f"{model.num_timesteps:012d}"
    if path.exists():
        return path
    temporary = path.with_name(f".{path.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    model.save(temporary / "model.zip")
    vec_env = model.get_env()
    assert vec_env is not None  # noqa: S101
    if isinstance(vec_env, VecNormalize):
        vec_env.save(str(temporary / "normalize.pkl"))
    state = {
        "environments": [wrapper.state_dict() for wrapper in nonstationary_wrappers(vec_env)],
        "phases": phases.state_dict(),
        "log_bytes": {log.name: log.stat().st_size for log in _logs(folder) if log.exists()},
    }
    write_json(temporary / "state.json", state)
    temporary.rename(path)
    for old in _all(folder)[:-_KEPT]:
        shutil.rmtree(old)
    return path


def load(folder: RunFolder, config: Config, phases: PhaseCallback) -> PPO:
    """The model and its environments as they were at the newest checkpoint; logs written after it are cut off.

    Each environment begins a new episode under the value that was in force, and random numbers go on from a new seed.

    Raises:
        UserError: There is no checkpoint, or it cannot be read.
    """
    checkpoints = _all(folder)
    if not checkpoints:
        raise UserError(f"'{folder.path}' has no checkpoint to go on from")
    path = checkpoints[-1]
    try:
        state: dict[str, Any] = json.loads((path / "state.json").read_text())
        vec_env = make_vec_env(config)
        if isinstance(vec_env, VecNormalize):
            vec_env = VecNormalize.load(str(path / "normalize.pkl"), vec_env.venv)
        model = PPO.load(path / "model.zip", env=vec_env, device=config.device)
        vec_env.seed(config.seed + model.num_timesteps)
        vec_env.reset()
        for wrapper, saved in zip(nonstationary_wrappers(vec_env), state["environments"], strict=True):
            wrapper.load_state_dict(saved)
        set_random_seed((config.seed + model.num_timesteps) % 2**32)
        phases.load_state_dict(state["phases"])
        for log in _logs(folder):
            _cut(log, state["log_bytes"].get(log.name, 0))
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes zip, pickle, torch or SB3 raise
        raise UserError(
            f"checkpoint '{path}' cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    return model


def _all(folder: RunFolder) -> list[Path]:
    """Complete checkpoints, the oldest first."""
    return sorted(path for path in folder.checkpoints.glob("[0-9]*") if path.is_dir())


def _logs(folder: RunFolder) -> tuple[Path, Path]:
    return folder.progress, folder.episodes


def _cut(log: Path, size: int) -> None:
    if log.exists() and log.stat().st_size > size:
        with log.open("r+b") as file:
            file.truncate(size)
