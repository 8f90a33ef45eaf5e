"""Checkpoints of PPO, written between two rollouts: all that a stopped run needs to go on as if it had not stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import envs
from agents.runs import checkpoint_files, logs
from agents.runs.build import make_env, make_model, make_vec_env
from agents.runs.checkpoint_files import to_arrays
from agents.runs.config import Config
from agents.runs.errors import UserError
from agents.runs.run_folder import RunFolder
from agents.sb3.ppo import PPO

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
        OSError: It cannot be written; the last whole one before it is as it was.
    """
    state = {
        "model": _save_model(model),
        "environments": _save_environments(model),
        "callbacks": {name: recorder.state_dict() for name, recorder in recorders.items()},
        "logs": logs.save_state(model.logger, folder),
    }
    return checkpoint_files.write(folder, model.num_timesteps, state)


def check_environment(config: Config) -> None:
    """Refuses a run whose environment cannot be saved, before it has trained up to its first checkpoint.

    Raises:
        UserError: Such a run; the message names the part that cannot be saved.
    """
    env = make_env(config)
    env.reset(seed=config.seed)
    env.action_space.seed(config.seed)
    env.step(env.action_space.sample())
    try:
        envs.save_state(env)
    except envs.ParameterError as error:
        raise UserError(f"environment '{config.env}' cannot be trained in, as no checkpoint can hold it: {error}") from error
    finally:
        env.close()


def load(folder: RunFolder, config: Config, recorders: Mapping[str, Recorder]) -> PPO:
    """The model, its environments and its logger as they were at the newest checkpoint that is whole; random generators too.

    Logs are cut back to it. A run that was stopped before its first checkpoint begins anew.

    Warns:
        UserWarning: A checkpoint is damaged, and the one before it is taken; or the run had another machine, number of threads
            or version of a package, so that it goes on with other rounding.

    Raises:
        UserError: Every checkpoint is damaged, or belongs to another run.
    """
    found = checkpoint_files.read_newest(folder)
    model = make_model(config, make_vec_env(config))
    if found is None:
        logs.cut(folder, timesteps=0, sizes={})
        model.set_logger(logs.make_logger(folder))
        return model
    with found.going_on() as state:
        logged = to_arrays(state["logs"])
        _load_model(model, state["model"])
        _load_environments(model, to_arrays(state["environments"]))
        for name, recorder in recorders.items():
            recorder.load_state_dict(to_arrays(state["callbacks"][name]))
        logs.cut(folder, model.num_timesteps, logged["sizes"])
        model.set_logger(logs.make_logger(folder))
        logs.load_state(model.logger, logged)
    return model


@dataclass(frozen=True)
class Trained:
    """A policy as it was at a checkpoint, with what it met there.

    Attributes:
        policy: On the CPU, its method and its optimizer left out of account.
        normalize: What the run does to observations before the policy sees them.
        steps: Environment steps of the run, over all environments.
        phase: Of the first environment; None where the run does not change.
        values: Of each parameter that changes, in that phase.
    """

    policy: ActorCriticPolicy
    normalize: Callable[[NDArray[Any]], NDArray[Any]]
    steps: int
    phase: int | None
    values: dict[str, float]


def load_policy(folder: RunFolder, config: Config) -> Trained:
    """The policy of the newest checkpoint that is whole. Needs no lock and changes nothing: the run may be at work.

    Warns:
        UserWarning: A checkpoint is damaged, and the one before it is taken.

    Raises:
        UserError: There is no checkpoint, every one is damaged, or it belongs to another run.
    """
    found = checkpoint_files.read_newest(folder)
    if found is None:
        raise UserError(
            f"'{folder.path}' has no checkpoint yet; one is written every {config.checkpoint_minutes:g} minutes and at the end"
        )
    return trained_at(found, config)


def trained_at(checkpoint: checkpoint_files.Checkpoint, config: Config) -> Trained:
    """The policy of a checkpoint.

    Raises:
        UserError: The checkpoint belongs to another run.
    """
    config = replace(config, n_envs=1, device="cpu")
    vec_env: VecEnv = DummyVecEnv([partial(make_env, config)])
    if config.normalize:
        vec_env = VecNormalize(vec_env, training=False)
    model = make_model(config, vec_env)
    with checkpoint.opened() as state:
        model.policy.load_state_dict(state["model"]["policy"])
        environments = to_arrays(state["environments"])
        if isinstance(vec_env, VecNormalize):
            _load_statistics(vec_env, environments["normalizer"])
        of_first = [layer["schedule"] for layer in environments["each"][0] if layer["class"] == "NonStationary"]
        values = {
            name: change["value"] for each in of_first for name, change in zip(config.params, each["changes"], strict=True)
        }
        return Trained(
            policy=model.policy,
            normalize=vec_env.normalize_obs if isinstance(vec_env, VecNormalize) else np.asarray,  # type: ignore[arg-type]
            steps=state["model"]["counters"]["num_timesteps"],
            phase=of_first[0]["phase"] if of_first else None,
            values=values,
        )


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
    model._last_obs = to_arrays(state["last_observations"])
    model._last_episode_starts = to_arrays(state["last_episode_starts"])
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
        _load_statistics(vec_env, state["normalizer"])
        vec_env.returns = state["normalizer"]["returns"]


def _load_statistics(vec_env: VecNormalize, normalizer: dict[str, Any]) -> None:
    for statistics, saved in ((vec_env.obs_rms, normalizer["observations"]), (vec_env.ret_rms, normalizer["rewards"])):
        vars(statistics).update({name: saved[name] for name in vars(statistics)})


def _each(vec_env: VecEnv | None) -> list[Any]:
    assert vec_env is not None  # noqa: S101
    return vec_env.unwrapped.envs  # type: ignore[attr-defined, no-any-return]
