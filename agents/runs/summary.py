"""What came of a run, in ``summary.json``."""

from __future__ import annotations

import dataclasses
import json
import platform
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

import cbp
from agents.runs.config import Config
from agents.runs.run_folder import RunFolder, write_json
from agents.runs.verdict import PhaseEnd, and_list, judge
from agents.sb3.phases import PhaseCallback
from agents.sb3.policies import replaced_units

_version = cache(version)  # each time it looks through the folders of all packages
_PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "stable-baselines3", "numba", "scipy")


def is_complete(folder: RunFolder) -> bool:
    """Whether the run's summary says so; a summary that is missing or cannot be read does not."""
    return _summary(folder).get("complete") is True


def complete_steps(folder: RunFolder) -> int:
    """The steps of a run whose summary says that it is complete; 0 of any other."""
    steps = _summary(folder).get("timesteps")
    return steps if is_complete(folder) and isinstance(steps, int) else 0


def _summary(folder: RunFolder) -> dict[str, Any]:
    try:
        summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) else {}


def versions() -> dict[str, str]:
    """What a run is made with."""
    return {
        "python": platform.python_version(),
        "continual-backprop": cbp.__version__,
        **{name: _version(name) for name in _PACKAGES},
    }


def said_versions(earlier: list[dict[str, str]]) -> dict[str, Any]:
    """What a summary says of versions: those of now and, where a part of the run was made with others, those."""
    return {"versions": versions(), **({"earlier_versions": earlier} if earlier else {})}


def write_summary(
    folder: RunFolder,
    config: Config,
    model: BaseAlgorithm,
    phases: PhaseCallback,
    seconds: float,
    steps: int,
    earlier: list[dict[str, str]],
) -> dict[str, Any]:
    """Writes and returns the summary.

    Args:
        folder: The run.
        config: Its configuration.
        model: The model as it is now.
        phases: What happened in each phase.
        seconds: Wall-clock time since the start or the last resume.
        steps: Environment steps taken in it.
        earlier: Other versions that a part of the run was made with.
    """
    returns = [value for phase in phases.phases.values() for value in phase.returns]
    begun = len(phases.phases)
    ends = [
        PhaseEnd.of(number, phase)
        for number, phase in sorted(phases.phases.items())
        if config.is_whole(number, begun, phase.steps)
    ]
    verdicts = {end.number: judge(ends[: i + 1], and_list(config.params), config.method) for i, end in enumerate(ends)}
    summary = {
        "complete": model.num_timesteps >= config.timesteps,
        "verdict": dataclasses.asdict(judge(ends, and_list(config.params), config.method)),
        "phases": [
            {
                **phase.values,
                "mean_return": phase.mean_return,
                "final_return": phase.final_return,
                "final_return_error": phase.final_return_error,
                "episodes": len(phase.returns),
                "steps": phase.steps,
                "measures": phase.measures,
                "verdict": verdicts[number].words if number in verdicts else None,
            }
            for number, phase in sorted(phases.phases.items())
        ],
        "timesteps": model.num_timesteps,
        "episodes": len(returns),
        "mean_return": float(np.mean(returns)) if returns else None,
        "units_replaced": replaced_units(model.policy),
        **said_versions(earlier),
        "time": {"seconds": round(seconds, 1), "steps": steps},
    }
    write_json(folder.summary, summary)
    return summary
