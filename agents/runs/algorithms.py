"""What ``--algo`` takes: each algorithm with its hyperparameters, its methods and its runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gymnasium import registry, spaces

from agents.runs import off_policy, presets
from agents.runs.errors import unknown
from agents.runs.off_policy import OffPolicyHyperparameters
from agents.runs.presets import Hyperparameters, MethodPreset, RunPreset

AnyHyperparameters = Hyperparameters | OffPolicyHyperparameters


@dataclass(frozen=True)
class Algorithm:
    """A name for ``--algo``.

    Attributes:
        hyperparameters: The class of its hyperparameters, whose defaults are the standard ones.
        methods: Names for ``--method``, in the order of reports.
        runs: Names for ``--preset``.
        networks: What the network is called that acts, and the one that judges; the same where one does both.
        tuned: Values of hyperparameters for some environments, by their ids without a version.
        actions: The kind of space that actions must be of; None for any.
        draws: Whether its policy draws its actions; where not, noise of the algorithm's own is added while it trains.
    """

    hyperparameters: type[AnyHyperparameters]
    methods: Mapping[str, MethodPreset]
    runs: Mapping[str, RunPreset]
    networks: tuple[str, str] = ("actor", "critic")
    tuned: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    actions: type[spaces.Space[Any]] | None = None
    draws: bool = True


ALGORITHMS: dict[str, Algorithm] = {
    "ppo": Algorithm(Hyperparameters, presets.METHODS, presets.RUNS, ("policy", "value")),
    "sac": Algorithm(
        off_policy.SACHyperparameters,
        off_policy.ACTOR_CRITIC_METHODS,
        off_policy.ACTOR_CRITIC_RUNS,
        tuned=off_policy.SAC_TUNED,
        actions=spaces.Box,
    ),
    "td3": Algorithm(
        off_policy.TD3Hyperparameters,
        off_policy.ACTOR_CRITIC_METHODS,
        off_policy.ACTOR_CRITIC_RUNS,
        tuned=off_policy.TD3_TUNED,
        actions=spaces.Box,
        draws=False,
    ),
    "dqn": Algorithm(
        off_policy.DQNHyperparameters,
        off_policy.DQN_METHODS,
        off_policy.DQN_RUNS,
        ("q_net", "q_net"),
        off_policy.DQN_TUNED,
        spaces.Discrete,
        draws=False,
    ),
}

METHODS: tuple[str, ...] = tuple(dict.fromkeys(name for algorithm in ALGORITHMS.values() for name in algorithm.methods))
"""Every name for ``--method``, of whichever algorithm."""


def changes_in(env: str, run: RunPreset, algo: str, weight_init: str | None) -> dict[str, Any]:
    """What the preset of a run and its environment change in the hyperparameters of every method.

    Args:
        env: The environment's id.
        run: The preset of the run.
        algo: A name of :data:`ALGORITHMS`.
        weight_init: How weights begin, where it is a hyperparameter: what the preset has for some environments is of
            ``"lecun"``.
    """
    spec = registry.get(env)
    base = spec.kwargs.get("base", env) if spec else env
    of_env = run.in_env.get(env, {}) if weight_init in (None, "lecun") else {}
    return {**run.changes, **of_env, **find_algorithm(algo).tuned.get(re.sub(r"-v\d+$", "", base), {})}


def find_algorithm(name: str) -> Algorithm:
    """The algorithm of a name.

    Raises:
        UserError: There is none.
    """
    if name not in ALGORITHMS:
        raise unknown("algo", name, ALGORITHMS)
    return ALGORITHMS[name]


def find_method(algo: str, name: str) -> MethodPreset:
    """The method of a name, of an algorithm.

    Raises:
        UserError: The algorithm has none of that name.
    """
    methods = find_algorithm(algo).methods
    if name not in methods:
        raise unknown("method" if algo == "ppo" else f"method of {algo}", name, methods)
    return methods[name]
