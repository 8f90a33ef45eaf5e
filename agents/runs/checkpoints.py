"""Checkpoints of a run, written before steps are collected: all that a stopped run needs to go on as if it had not stopped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
from torch.optim import Optimizer

import envs
from agents.runs import checkpoint_files, logs
from agents.runs.build import make_env, make_model, make_vec_env
from agents.runs.checkpoint_files import BESIDE, EARLIER, to_arrays
from agents.runs.config import Config
from agents.runs.errors import UserError, in_words
from agents.runs.off_policy import OffPolicyHyperparameters
from agents.runs.replay import ReplayFiles
from agents.runs.run_folder import RunFolder
from agents.runs.summary import is_complete
from envs.tasks import TASK

_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls", "exploration_rate")  # the last two of DQN


class Recorder(Protocol):
    """A callback that has a state: numbers, strings and arrays."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state: Any) -> None:
        """Goes on from a state."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: The run.
        recorders: The callbacks that have a state, by name.

    Attributes:
        earlier_versions: Those that a part of the run was made with, where they are others than now.
    """

    def __init__(self, folder: RunFolder, recorders: Mapping[str, Recorder]) -> None:
        self._folder = folder
        self._recorders = recorders
        self._replay = ReplayFiles()
        self.earlier_versions: list[dict[str, str]] = []

    def save(self, model: BaseAlgorithm) -> Path:
        """Writes a checkpoint, where an algorithm is about to collect steps, and drops the oldest beyond three.

        Args:
            model: The model, with its environments and logger.

        Returns:
            The checkpoint.

        Raises:
            OSError: It cannot be written; the last whole one before it is as it was.
        """
        state: dict[str, Any] = {
            "model": _save_model(model),
            "environments": _save_environments(model),
            "callbacks": {name: recorder.state_dict() for name, recorder in self._recorders.items()},
            "logs": logs.save_state(model.logger, self._folder),
            EARLIER: self.earlier_versions,
        }
        if not isinstance(model, OffPolicyAlgorithm):
            return checkpoint_files.write(self._folder, model.num_timesteps, state)
        assert model.replay_buffer is not None  # noqa: S101
        new, names = self._replay.new(model.replay_buffer, _rows(model))
        state[BESIDE] = names
        path = checkpoint_files.write(self._folder, model.num_timesteps, state, new)
        self._replay.wrote(names)
        return path

    def load(self, config: Config) -> BaseAlgorithm:
        """The model, its environments and its logger as they were at the newest whole checkpoint; random generators too.

        Logs are cut back to it, and a summary that says that the run is complete is removed before. A run that was stopped
        before its first checkpoint begins anew.

        Warns:
            UserWarning: A checkpoint is damaged, and the one before it is taken; or the run had another machine, number of
                threads or version of a package, so that it goes on with other rounding.

        Raises:
            UserError: Every checkpoint is damaged, or belongs to another run; there is none, though the run has logged; or logs
            have lost rows.
        """
        folder = self._folder
        found = checkpoint_files.read_newest(folder, with_files=True)
        if found is None:
            logs.check_unwritten(folder)
        model = make_model(config, make_vec_env(config))
        if found is None:
            logs.cut(folder, timesteps=0, sizes={})
            model.set_logger(logs.make_logger(folder))
            return model
        self.earlier_versions = checkpoint_files.earlier_versions(found)
        with found.going_on() as state:
            logged = to_arrays(state["logs"])
            _load_model(model, state["model"])
            if isinstance(model, OffPolicyAlgorithm):
                assert model.replay_buffer is not None  # noqa: S101
                self._replay.wrote(state[BESIDE])
                self._replay.fill(model.replay_buffer, found.beside(), _rows(model))
            _load_environments(model, to_arrays(state["environments"]))
            for name, recorder in self._recorders.items():
                recorder.load_state_dict(to_arrays(state["callbacks"][name]))
            logs.check_rows(folder, found.path, logged, model.num_timesteps)
            if is_complete(folder):  # of fewer steps than are asked for now
                folder.summary.unlink()
            logs.cut(folder, model.num_timesteps, logged["sizes"])
            model.set_logger(logs.make_logger(folder))
            logs.load_state(model.logger, logged)
        return model

    def load_model(self, config: Config) -> BaseAlgorithm:
        """The model as it was at the newest whole checkpoint, without a run to go on with: logs stay as they are.

        Raises:
            UserError: As :meth:`load`; or there is no checkpoint.
        """
        found = checkpoint_files.read_newest(self._folder)
        if found is None:
            raise UserError(f"'{self._folder.path}' has no checkpoint yet")
        model = make_model(config, make_vec_env(config))
        with found.opened() as state:
            _load_model(model, state["model"])
        return model


def check_environment(config: Config) -> None:
    """Refuses a run whose environment cannot be stepped, saved or loaded, before it has trained up to its first checkpoint.

    Raises:
        UserError: Such a run; the message names the part that cannot be saved.
    """
    env = make_env(config)
    try:
        env.reset(seed=config.seed)
        env.action_space.seed(config.seed)
        _check_reward(env.step(env.action_space.sample())[1])
        if isinstance(env.unwrapped, MujocoEnv) and env.unwrapped.frame_skip < 1:  # MuJoCo makes no step, and says nothing
            raise ValueError(f"frame_skip must be >= 1, got {env.unwrapped.frame_skip}")
    except Exception as error:  # whatever an environment of others raises
        raise UserError(f"environment '{config.env}' cannot be stepped: {in_words(error)}") from error
    try:
        state = envs.save_state(env)
    except envs.ParameterError as error:
        env.close()
        raise UserError(f"environment '{config.env}' cannot be trained in, as no checkpoint can hold it: {error}") from error
    try:
        envs.load_state(env, state)
    except Exception as error:  # whatever attributes of others raise when they are set
        raise UserError(
            f"environment '{config.env}' cannot be trained in, as its state cannot be loaded again: {in_words(error)}"
        ) from error
    finally:
        env.close()


def _check_reward(reward: Any) -> None:
    try:
        float(reward)
    except (TypeError, ValueError):
        raise ValueError(f"reward must be one number, got {' '.join(repr(reward).split()):.80}") from None


@dataclass(frozen=True)
class Trained:
    """A policy as it was at a checkpoint, with what it met there.

    Attributes:
        policy: On the CPU, its method and its optimizer left out of account.
        normalize: What the run does to observations before the policy sees them.
        steps: Environment steps of the run, over all environments.
        phase: In which the first environment made its last step; None where the run does not change.
        values: Of each parameter that changes, in that phase.
    """

    policy: BasePolicy
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
    if isinstance(config.hyperparameters, OffPolicyHyperparameters):  # no replay buffer is needed
        config = replace(config, hyperparameters=replace(config.hyperparameters, buffer_size=1))
    vec_env: VecEnv = DummyVecEnv([partial(make_env, config)])
    if config.normalize:
        vec_env = VecNormalize(vec_env, training=False)
    model = make_model(config, vec_env)
    vec_env.close()
    with checkpoint.opened() as state:
        model.policy.load_state_dict(state["model"]["policy"])
        environments = to_arrays(state["environments"])
        if isinstance(vec_env, VecNormalize):
            _load_statistics(vec_env, environments["normalizer"])
        of_first = [layer["schedule"] for layer in environments["each"][0] if "schedule" in layer]
        values: dict[str, float] = {}
        if config.param == TASK:
            values = {TASK: of_first[0][TASK]}
        elif config.params:
            values = {name: each["value"] for name, each in zip(config.params, of_first[0]["changes"], strict=True)}
        phase = of_first[0]["phase"] if of_first else None
        if phase and of_first[0].get("clock", of_first[0])["steps"] == 0:  # an episode has ended since the last step
            recorded = {each["phase"]: each["values"] for each in to_arrays(state["callbacks"]["phases"])}
            phase = max((each for each in recorded if each < phase), default=phase)
            values = recorded.get(phase, values)
        return Trained(
            policy=model.policy,
            normalize=vec_env.normalize_obs if isinstance(vec_env, VecNormalize) else np.asarray,  # type: ignore[arg-type]
            steps=state["model"]["counters"]["num_timesteps"],
            phase=phase,
            values=values,
        )


def _rows(model: OffPolicyAlgorithm) -> int:
    """How many rows were ever added to the replay buffer: one for each step of all environments."""
    return model.num_timesteps // model.n_envs


def _optimizers(model: BaseAlgorithm) -> dict[str, Optimizer]:
    """The optimizers: ``optimizer`` of the policy, or ``actor.optimizer`` and what else an algorithm has."""
    names, _ = model._get_torch_save_params()
    return {name.removeprefix("policy."): recursive_getattr(model, name) for name in names if name != "policy"}


def _save_model(model: BaseAlgorithm) -> dict[str, Any]:
    state = {
        "counters": {name: getattr(model, name) for name in _COUNTERS if hasattr(model, name)},
        "policy": model.policy.state_dict(),
        **{name: optimizer.state_dict() for name, optimizer in _optimizers(model).items()},
        "last_observations": model._last_obs,
        "last_episode_starts": model._last_episode_starts,
        "episodes": list(model.ep_info_buffer or []),
        "successes": list(model.ep_success_buffer or []),
    }
    if isinstance(model, OffPolicyAlgorithm):
        _, tensors = model._get_torch_save_params()
        state |= {name: getattr(model, name).detach() for name in tensors if getattr(model, name) is not None}
        # Before learning starts, actions are drawn by it.
        state["action_space"] = dict(model.action_space.np_random.bit_generator.state)
        state["last_original_observations"] = model._last_original_obs
    return state


def _load_model(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    model.policy.load_state_dict(state["policy"])
    for name, optimizer in _optimizers(model).items():
        optimizer.load_state_dict(state[name])
    for name, value in state["counters"].items():
        if name not in _COUNTERS:
            raise KeyError(name)
        setattr(model, name, value)
    model._last_obs = to_arrays(state["last_observations"])
    model._last_episode_starts = to_arrays(state["last_episode_starts"])
    model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
    successes = state.get("successes", [])  # which the first releases did not write
    model.ep_success_buffer = deque(successes, maxlen=model._stats_window_size)
    if isinstance(model, OffPolicyAlgorithm):
        _, tensors = model._get_torch_save_params()
        with torch.no_grad():
            for name in tensors:
                if getattr(model, name) is not None:
                    getattr(model, name).copy_(state[name])
        model.action_space.np_random.bit_generator.state = to_arrays(state["action_space"])
        model._last_original_obs = to_arrays(state["last_original_observations"])


def _save_environments(model: BaseAlgorithm) -> dict[str, Any]:
    vec_env = model.get_env()
    state: dict[str, Any] = {"each": [envs.save_state(env) for env in _each(vec_env)]}
    if isinstance(vec_env, VecNormalize):
        state["normalizer"] = {
            "observations": vars(vec_env.obs_rms).copy(),
            "rewards": vars(vec_env.ret_rms).copy(),
            "returns": vec_env.returns,
        }
    return state


def _load_environments(model: BaseAlgorithm, state: dict[str, Any]) -> None:
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
