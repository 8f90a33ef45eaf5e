"""Schedules without an environment."""

from __future__ import annotations

import numpy as np

from envs.schedules import At


def draw(schedule, phases, low=0.0, high=1.0, generator=0):
    """The values of the first phases."""
    generator = np.random.default_rng(generator)
    values, state = [], None
    for phase in range(phases):
        value, state = schedule.draw(At(phase, state, low, high, generator))
        values.append(value)
    return values
