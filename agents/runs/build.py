"""From a configuration to environments and a model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn

import cbp
import envs
from agents.runs.algorithms import ALGORITHMS, find_algorithm
from agents.runs.config import Config
from agents.runs.errors import UserError, in_words, message_of, unknown
from agents.runs.modules import check_imported
from agents.runs.off_policy import DQNHyperparameters, OffPolicyHyperparameters, SACHyperparameters, TD3Hyperparameters
from agents.runs.presets import Hyperparameters
from agents.sb3.buffers import NormalizedRolloutBuffer
from agents.sb3.policies import PlasticMlpPolicy
from agents.sb3.ppo import PPO
from agents.sb3.sac import SAC
from agents.sb3.vec_env import ThreadedVecEnv
from envs.registered import NONSTATIONARY, SEQUENCE
from envs.tasks import TASK

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "crelu": cbp.CReLU}
_EPISODES_PER_PHASE = 5  # fewer of the longest episodes in a phase of one environment bring a warning


def find_spec(name: str) -> gymnasium.envs.registration.EnvSpec:
    """The registered environment of a name: an id, or an id without its version.

    Raises:
        UserError: Nothing is registered under that name.
    """
    if ":" in name:
        raise UserError(f"env must be a registered id without a module, got '{name}'")
    newest: dict[str, gymnasium.envs.registration.EnvSpec] = {}
    for spec in gymnasium.registry.values():
        unversioned = f"{spec.namespace}/{spec.name}" if spec.namespace else spec.name
        if unversioned not in newest or (spec.version or 0) > (newest[unversioned].version or 0):
            newest[unversioned] = spec
    found = gymnasium.registry.get(name) or newest.get(name)
    if found is None:
        raise unknown("environment", name, [spec.id for spec in newest.values()], listed=False)
    return found


BY_PERIOD = {"geometric": "mean", "exponential": "mean", "bursts": "calm"}
"""What the period is of phases whose lengths differ, by the name of their times."""


def is_nonstationary(spec: gymnasium.envs.registration.EnvSpec) -> bool:
    """Whether the environment changes by itself and takes the arguments of :class:`envs.NonStationary`."""
    return spec.entry_point == NONSTATIONARY


def is_sequence(spec: gymnasium.envs.registration.EnvSpec) -> bool:
    """Whether the environment is an :class:`envs.TaskSequence`."""
    return spec.entry_point == SEQUENCE


def refuse_task(spec: gymnasium.envs.registration.EnvSpec) -> NoReturn:
    """Refuses the parameter of a sequence of tasks for another environment.

    Raises:
        UserError: Always.
    """
    raise UserError(f"parameter 'task' is that of a sequence of tasks, such as 'task-sequence-v0', got '{spec.id}'")


def make_env(config: Config, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """One environment of a run. Its period is its share of the run's, its sequence of values that of the run's seed.

    Args:
        config: The run.
        **kwargs: Further keyword arguments of the environment.

    Raises:
        UserError: The environment cannot be made, or cannot change as asked.
    """
    check_imported(config.imports)
    spec = find_spec(config.env)
    change: dict[str, Any] = {}
    if config.period is not None and config.param is not None:
        change = {"parameter": config.param, "seed": config.seed, **config.change}
        change["period"] = _own_period(config.period, config.n_envs, change.pop("times", None))
        if config.param == TASK or is_nonstationary(spec):
            _refuse_timing(config.env_kwargs)
    try:
        if config.param == TASK:
            if not is_sequence(spec):
                refuse_task(spec)
            del change["parameter"]
            _refuse_modules(config.env_kwargs.get("tasks"))
            return _with_a_vector(gymnasium.make(spec.id, **change, **config.env_kwargs, **kwargs))
        if is_nonstationary(spec):
            return gymnasium.make(spec.id, **change, **config.env_kwargs, **kwargs)
        env = _with_a_vector(gymnasium.make(spec.id, **config.env_kwargs, **kwargs))
        return envs.NonStationary(env, **change) if change else env
    except (gymnasium.error.Error, envs.ParameterError, TypeError, ValueError, ImportError) as error:
        raise UserError(f"environment '{spec.id}' cannot be made: {message_of(error)}") from error
    except Exception as error:  # whatever an environment of others raises
        raise UserError(f"environment '{spec.id}' cannot be made: {in_words(error)}") from error


def _refuse_timing(env_kwargs: dict[str, Any]) -> None:
    """Refuses arguments of an environment that changes that options are for.

    Raises:
        UserError: There is one.
    """
    for name in ("parameter", "schedule", "low", "high", "factor", "period", "change_at", "count", "seed"):
        if name in env_kwargs:
            option = "param" if name == "parameter" else name.replace("_", "-")
            instead = "a run counts steps" if name == "count" else f"--{option} is for it"
            raise UserError(f"--env-kwargs takes no {name}: {instead}")


def _refuse_modules(tasks: object) -> None:
    """Refuses tasks whose modules Gymnasium would import: a configuration from a stranger runs no code.

    Raises:
        UserError: Such a task.
    """
    for task in tasks if isinstance(tasks, list) else ():
        if ":" in str(task):
            raise UserError(f"each task must be a registered id without a module, got '{task}'")


def _own_period(period: int, n_envs: int, times: dict[str, Any] | None) -> Any:
    """The ``period`` of :class:`envs.NonStationary` for one of several environments.

    Args:
        period: Steps over all environments: of each phase; their mean at random times; between bursts.
        n_envs: How many environments there are.
        times: The ``"name"`` of :data:`envs.clock.TIMES` and further options; None for phases of one length.

    Raises:
        UserError: Times that there are not.
    """
    if times is None:
        return period // n_envs
    if times["name"] not in BY_PERIOD:
        raise unknown("times", times["name"], BY_PERIOD)
    spread = {"gap": max(1, times["gap"] // n_envs)} if isinstance(times.get("gap"), int) else {}
    return {**times, **spread, BY_PERIOD[times["name"]]: period / n_envs if times["name"] != "bursts" else period // n_envs}


def _with_a_vector(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """An environment whose observations are one vector, where they were several numbers and vectors.

    Raises:
        UserError: Some of its observations are no numbers, or images.
    """
    space = env.observation_space
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return env
    if other := next((part for part in _leaves(space) if not _is_of_numbers(part)), None):
        raise UserError(f"observations must be numbers and vectors, got {other} among them")
    return gymnasium.wrappers.FlattenObservation(env)


def _leaves(space: spaces.Space[Any]) -> Iterator[spaces.Space[Any]]:
    parts = space.values() if isinstance(space, spaces.Dict) else space if isinstance(space, spaces.Tuple) else None
    if parts is None:
        yield space
    else:
        for part in parts:
            yield from _leaves(part)


def _is_of_numbers(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Box):
        return not (space.dtype == np.uint8 and len(space.shape) > 1)
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def make_vec_env(config: Config) -> VecEnv:
    """The run's environments, each with SB3's ``Monitor``; normalised where the configuration says so.

    Raises:
        UserError: They cannot be made, or their observations cannot be normalised.
    """
    check_imported(config.imports)
    _warn_of_short_phases(config)
    _warn_of_no_learning(config)
    try:
        vec_env: VecEnv = ThreadedVecEnv([partial(_make_monitored, config)] * config.n_envs)
        if config.normalize:
            vec_env = VecNormalize(vec_env, gamma=config.hyperparameters.gamma)
    except UserError:
        raise
    except (ValueError, TypeError, AssertionError, NotImplementedError, KeyError) as error:  # of spaces that it does not know
        raise UserError(f"'{config.env}' is no environment for Stable-Baselines3: {in_words(error)}") from error
    return vec_env


def _make_monitored(config: Config) -> Monitor:
    return Monitor(make_env(config))


def _warn_of_short_phases(config: Config) -> None:
    longest = find_spec(config.env).max_episode_steps
    if config.period is None or longest is None:
        return
    own_period = config.period // config.n_envs
    if own_period < _EPISODES_PER_PHASE * longest:
        warnings.warn(
            f"a phase is short: {own_period:,} steps in each of {config.n_envs} environments, where an episode may take "
            f"{longest:,}; the learner sees few episodes between two changes",
            stacklevel=2,
        )


def _warn_of_no_learning(config: Config) -> None:
    values = config.hyperparameters
    if not isinstance(values, OffPolicyHyperparameters):
        return
    cycle = values.train_freq * config.n_envs
    steps = -(-config.timesteps // cycle) * cycle  # a run ends with a whole cycle
    if steps <= values.learning_starts:
        warnings.warn(
            f"no network learns: learning_starts is {values.learning_starts:,}, and this run has {steps:,} steps; "
            "train longer or lower learning_starts",
            stacklevel=2,
        )


def make_model(config: Config, vec_env: VecEnv, *, with_method: bool = True) -> BaseAlgorithm:
    """The algorithm as the configuration describes it; without the method that acts around updates, if that is left out.

    Raises:
        UserError: A value that the algorithm, the method or the device refuses, or actions that the algorithm has none of.
    """
    kind, actions = find_algorithm(config.algo).actions, vec_env.action_space
    if kind is not None and not isinstance(actions, kind):
        needed = "discrete" if kind is spaces.Discrete else "continuous"
        *others, last = [name for name, algo in ALGORITHMS.items() if algo.actions is None or isinstance(actions, algo.actions)]
        instead = f"{', '.join(others)} or {last}" if others else last
        raise UserError(f"{config.algo} needs {needed} actions, those of '{config.env}' are {actions}; take --algo {instead}")
    for what, space in (("actions", actions), ("observations", vec_env.observation_space)):
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and np.any(space.start):
            raise UserError(f"{what} of '{config.env}' are {space}; Stable-Baselines3 takes only those that are counted from 0")
    values, method = config.hyperparameters, config.preset.method if with_method else None
    try:
        return (
            _make_ppo(config, values, vec_env, method)
            if isinstance(values, Hyperparameters)
            else _make_off_policy(config, values, vec_env, method)
        )
    except (ValueError, TypeError, NotImplementedError, RuntimeError, AssertionError, OverflowError) as error:
        raise UserError(message_of(error)) from error
    except MemoryError as error:
        size = "rollout_steps" if isinstance(values, Hyperparameters) else "buffer_size"
        raise UserError(f"{size} {getattr(values, size):,} is more than memory holds: {error}") from error


def _make_ppo(config: Config, values: Hyperparameters, vec_env: VecEnv, method: str | None) -> PPO:
    per_rollout = values.normalize_advantage == "rollout"
    return PPO(
        PlasticMlpPolicy,
        vec_env,
        learning_rate=values.learning_rate,
        n_steps=values.rollout_steps // config.n_envs,
        batch_size=values.batch_size,
        n_epochs=values.n_epochs,
        gamma=values.gamma,
        gae_lambda=values.gae_lambda,
        clip_range=values.clip_range,
        normalize_advantage=values.normalize_advantage == "batch",
        ent_coef=values.ent_coef,
        vf_coef=values.vf_coef,
        clip_each_network=values.clip_each_network,
        max_grad_norm=math.inf if values.max_grad_norm is None else values.max_grad_norm,
        rollout_buffer_class=NormalizedRolloutBuffer if per_rollout else None,
        policy_kwargs={
            **_networks_and_optimizers(config),
            "weight_init": values.weight_init,
            "padded_inputs": values.padded_inputs,
            "ortho_init": values.weight_init == "sb3",
            "log_std_init": values.log_std_init,
            "decay_log_std": values.decay_log_std,
            "method": method,
            "method_kwargs": config.method_kwargs,
            **config.preset.policy_kwargs,
        },
        seed=config.seed,
        device=config.device,
    )


def _make_off_policy(
    config: Config, values: OffPolicyHyperparameters, vec_env: VecEnv, method: str | None
) -> OffPolicyAlgorithm:
    shared: dict[str, Any] = {
        "policy": "PlasticMlpPolicy" if method else "MlpPolicy",
        "env": vec_env,
        "learning_rate": values.learning_rate,
        "buffer_size": values.buffer_size,
        "learning_starts": values.learning_starts,
        "batch_size": values.batch_size,
        "tau": values.tau,
        "gamma": values.gamma,
        "train_freq": values.train_freq,
        "gradient_steps": values.gradient_steps,
        "policy_kwargs": _networks_and_optimizers(config)
        | ({"method": method, "method_kwargs": config.method_kwargs} if method else {}),
        "seed": config.seed,
        "device": config.device,
    }
    if isinstance(values, SACHyperparameters):
        return SAC(
            **shared,
            ent_coef=values.ent_coef,
            target_entropy=values.target_entropy,
            target_update_interval=values.target_update_interval,
        )
    if isinstance(values, TD3Hyperparameters):
        actions = vec_env.action_space.shape or (1,)
        return TD3(
            **shared,
            action_noise=NormalActionNoise(np.zeros(actions), np.full(actions, values.noise_std)),
            policy_delay=values.policy_delay,
            target_policy_noise=values.target_policy_noise,
            target_noise_clip=values.target_noise_clip,
        )
    assert isinstance(values, DQNHyperparameters)  # noqa: S101
    return DQN(
        **shared,
        target_update_interval=values.target_update_interval,
        exploration_fraction=values.exploration_fraction,
        exploration_initial_eps=values.exploration_initial_eps,
        exploration_final_eps=values.exploration_final_eps,
        max_grad_norm=values.max_grad_norm,
    )


def _networks_and_optimizers(config: Config) -> dict[str, Any]:
    values = config.hyperparameters
    counts_per_element = config.method_kwargs.get("reset_optimizer") == "moments_and_step"
    return {
        "net_arch": list(values.net_arch),
        "activation_fn": _ACTIVATIONS[values.activation],
        "optimizer_class": cbp.Adam if counts_per_element else torch.optim.Adam,
        "optimizer_kwargs": {
            "betas": (values.beta1, values.beta2),
            "eps": values.adam_eps,
            "weight_decay": values.weight_decay,
        },
    }
