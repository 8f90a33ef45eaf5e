"""What a run will do before anyone starts it: its updates, and when continual backpropagation first replaces a unit."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

import cbp
from agents.runs.build import make_model, make_vec_env
from agents.runs.config import Config
from agents.runs.off_policy import OffPolicyHyperparameters
from agents.sb3.updates import updates_left


def forecast_run(config: Config) -> list[str]:
    """A line for each optimizer with a method: its updates, and the first replaced unit.

    The model is made as the run makes it, but for its replay buffer, and thrown away.

    Args:
        config: A run with continual backpropagation.

    Raises:
        UserError: The run cannot be made.
    """
    values = config.hyperparameters
    if isinstance(values, OffPolicyHyperparameters):
        config = dataclasses.replace(config, hyperparameters=dataclasses.replace(values, buffer_size=1))
    vec_env = make_vec_env(config)
    model = make_model(config, vec_env)
    methods: Mapping[str, cbp.ContinualBackprop] = model.policy.methods  # type: ignore[assignment]
    lines = []
    for method in dict.fromkeys(methods.values()):
        networks = [network for network, of_network in methods.items() if of_network is method]
        updates = _updates(model, networks, config.timesteps)
        first = _first_replacement(method, updates)
        when = "no unit is replaced" if first is None else f"the first unit is replaced {_at(model, networks, first, config)}"
        needed = f", as units mature after {method.maturity_threshold:,}" if first is None and method.replacement_rate else ""
        lines.append(f"{' and '.join(networks)}: {updates:,} updates; {when}{needed}")
    vec_env.close()
    return lines


def _updates(model: BaseAlgorithm, networks: list[str], steps: int) -> int:
    """Updates in the first steps of a run."""
    model._total_timesteps = steps
    return int(updates_left(model, networks))


def _first_replacement(method: cbp.ContinualBackprop, updates: int) -> int | None:
    """The update after which the first unit is replaced; None where it is none of so many. The method is spent then."""
    if updates <= method.maturity_threshold or not method.replacement_rate:
        return None
    passed = [method.pass_updates(layer, updates) for layer in method.layers]
    return min((number for number, due in passed if due), default=None)


def _at(model: BaseAlgorithm, networks: list[str], update: int, config: Config) -> str:
    """An update as words: its number, and the step after which it is made."""
    steps = bisect.bisect_left(range(config.timesteps + 1), update, key=lambda step: _updates(model, networks, step))
    any_model: Any = model
    each = any_model.train_freq.frequency if isinstance(model, OffPolicyAlgorithm) else any_model.n_steps
    cycle = each * config.n_envs
    return f"by update {update:,}, after step {-(-steps // cycle) * cycle:,}"
