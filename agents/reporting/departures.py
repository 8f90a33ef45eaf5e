"""In which settings runs are not what their methods' names stand for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from agents.reporting.comparison import Comparison
from agents.runs.algorithms import changes_in, find_algorithm
from agents.runs.config import Config, flat, with_overrides
from agents.runs.presets import RunPreset
from agents.runs.protocols import PROTOCOLS, protocol_of


def departures(config: Config, run: RunPreset) -> dict[str, Any]:
    """The hyperparameters, and options of its method, in which a run is not its method's preset under that of a run."""
    own = dataclasses.asdict(config.hyperparameters)
    changes = changes_in(config.env, run, config.algo, own.get("weight_init"))
    hyperparameters, method_kwargs = with_overrides(config.method, changes.items(), config.algo)
    expected = flat({**dataclasses.asdict(hyperparameters), **method_kwargs})
    return {key: value for key, value in flat({**own, **config.method_kwargs}).items() if expected.get(key) != value}


def departures_of(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """By method, the settings in which it is not its preset, beside those that its name in the comparison tells.

    Of a run that is of no protocol it is not known with which preset of runs it was begun: it is taken for that from which the
    fewest settings depart.
    """
    configs = {method: next(iter(by_seed.values())).config for method, by_seed in comparison.runs.items()}
    config = comparison.config
    if not isinstance(config, Config):  # there the names tell all
        return {method: {} for method in configs}
    protocol = protocol_of(config)
    runs = [PROTOCOLS[protocol].run] if protocol else find_algorithm(config.algo).runs.values()
    possible = [{method: departures(of_method, run) for method, of_method in configs.items()} for run in runs]
    fewest = min(possible, key=lambda found: sum(map(len, found.values())))
    return {
        method: {name: value for name, value in of_method.items() if name not in configs[method].varied}
        for method, of_method in fewest.items()
    }


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings with their values: ``"gamma=0.9, max_grad_norm=null"``."""
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
