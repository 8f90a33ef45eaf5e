"""To which value a parameter changes: stateless functions that are given their random generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Schedule = Callable[[float, float, np.random.Generator], float]
"""Draws the next value from the least value, the greatest value and a random generator."""


def log_uniform(low: float, high: float, generator: np.random.Generator) -> float:
    """Draws a value whose logarithm is uniform: density p(x) ∝ 1/x on [low, high].

    Halving and doubling are equally likely wherever the value is, so that slippery ground is as common as rough ground.

    Args:
        low: The least value, above 0.
        high: The greatest value, at least ``low``.
        generator: Source of randomness; one uniform number is taken from it.

    Returns:
        The value, in the unit of ``low`` and ``high``.
    """
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    return min(max(value, low), high)  # exp(log(x)) can miss x by a rounding error


SCHEDULES: dict[str, Schedule] = {"log_uniform": log_uniform}
"""The schedules that :class:`envs.NonStationary` knows by name."""
