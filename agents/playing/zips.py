"""How well the networks in a zip of Stable-Baselines3 still learn random targets: the command's part for models of others."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import check_for_correct_spaces, set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

import cbp
from agents.playing.random_targets import beside_fresh, score, targets_of
from agents.runs.build import find_spec
from agents.runs.errors import UserError, in_words, message_of
from agents.sb3.networks import network_names, networks

STATES = 1_000  # on which networks learn, as the probe batch of a run


def measure_zip(path: Path, env: str, repetitions: int, updates: int, seed: int) -> int:
    """Prints the score of each network, on states that the policy meets in an environment.

    The optimizer is Adam with the model's learning rate at the start of its training, or half way where it begins at 0. Loading
    a zip runs code that is in it, as Stable-Baselines3's own ``load`` does.

    Returns:
        0.

    Raises:
        UserError: No zip of Stable-Baselines3, one of a recurrent policy, one without a step size, or another environment's.
    """
    policy, data, make = _load(path)
    step_size = next((float(rate) for rate in map(data["lr_schedule"], (1.0, 0.5, 0.0)) if rate > 0), 0.0)
    if not 0 < step_size < math.inf:
        raise UserError(f"'{path}' has a step size of {step_size:g}: its networks cannot learn by it")
    vec_env = _make(env, policy)
    try:
        observations, actions = _meet_states(policy, vec_env, seed)
    except Exception as error:  # whatever a model or an environment of others raises
        raise UserError(f"'{path}' cannot play in '{env}': {in_words(error)}") from error
    finally:
        vec_env.close()
    seen = observations.values() if isinstance(observations, dict) else [observations]
    if not all(np.isfinite(values).all() for values in seen):
        raise UserError(f"'{env}' gave observations that are no numbers")
    names = network_names(policy)
    optimizer = partial(torch.optim.Adam, lr=step_size)
    settings = {"repetitions": repetitions, "updates": updates, "batch_size": data.get("batch_size") or 128, "seed": seed}
    print(f"{path} in {env}: {STATES:,} states; a fresh network is 1", flush=True)
    beside: dict[str, cbp.Trainability] = {}
    for kind, targets in targets_of(names[0], names[1] if len(names) > 1 else names[0]).items():
        try:
            if targets.network not in beside:
                beside[targets.network] = beside_fresh(
                    policy, targets.network, observations, actions, optimizer, make=make, **settings
                )
            found = score(beside[targets.network], policy, targets)
        except ValueError as error:
            raise UserError(f"{kind} of '{path}' cannot be measured: {error}") from error
        print(f"{kind:<17} {found.score:6.2f}  [{found.low:.2f}, {found.high:.2f}]", flush=True)
    return 0


def _load(path: Path) -> tuple[BasePolicy, dict[str, Any], Callable[[], BasePolicy]]:
    """The policy, its settings, and what makes another one with fresh weights."""
    try:
        data, parameters, _ = load_from_zip_file(path, device="cpu")
    except Exception as error:  # whatever a damaged file leads to
        raise UserError(f"'{path}' is no model of Stable-Baselines3: {in_words(error)}") from error
    needed = ("policy_class", "observation_space", "action_space", "lr_schedule", "policy_kwargs")
    if data is None or "policy" not in parameters or any(data.get(name) is None for name in needed):
        raise UserError(
            f"'{path}' is no model of Stable-Baselines3: it has no policy with its settings, or these cannot be read"
        )
    kind = data["policy_class"]
    options = {"use_sde": data.get("use_sde", False)} if issubclass(kind, ActorCriticPolicy) else {}

    def make(**others: Any) -> BasePolicy:
        return kind(*(data[name] for name in needed[1:4]), **{**options, **data["policy_kwargs"], **others})  # type: ignore[no-any-return]

    try:
        policy = make()
        policy.load_state_dict(parameters["policy"])  # type: ignore[arg-type]
        networks(policy)
    except (RuntimeError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise UserError(f"the {kind.__name__} of '{path}' has no networks to measure: {message_of(error)}") from error
    if hasattr(policy, "lstm_actor"):
        raise UserError(f"the {kind.__name__} of '{path}' is recurrent: what it computes depends on more than a state")
    return policy, data, partial(make, **{"method": None} if "method" in policy._get_constructor_parameters() else {})


def _make(env: str, policy: BasePolicy) -> VecEnv:
    spec = find_spec(env)
    try:
        made = BaseAlgorithm._wrap_env(gymnasium.make(spec.id), verbose=0)
        check_for_correct_spaces(made, policy.observation_space, policy.action_space)
    except (gymnasium.error.Error, TypeError, ValueError, ImportError) as error:
        raise UserError(f"environment '{spec.id}' is not one for this model: {message_of(error)}") from error
    except Exception as error:  # whatever an environment leads to
        raise UserError(f"environment '{spec.id}' cannot be made: {in_words(error)}") from error
    return made


def _meet_states(policy: BasePolicy, vec_env: VecEnv, seed: int) -> tuple[Any, Tensor | None]:
    """Observations, and the actions that critics receive with them."""
    set_random_seed(seed)
    vec_env.seed(seed)
    if getattr(getattr(policy, "actor", policy), "use_sde", False):
        policy.reset_noise()  # type: ignore[operator]
    seen: Any = vec_env.reset()
    observations, actions = [], []
    for _ in range(STATES):
        action, _ = policy.predict(seen, deterministic=False)
        observations.append(seen)
        actions.append(policy.scale_action(action) if "actor" in network_names(policy) else action)
        seen = vec_env.step(action)[0]
    if isinstance(seen, dict):
        return {name: np.concatenate([each[name] for each in observations]) for name in seen}, _as_tensor(actions)
    return np.concatenate(observations), _as_tensor(actions)


def _as_tensor(actions: list[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate(actions))
