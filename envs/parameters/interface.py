"""Parameters of the interface between agent and environment."""

from __future__ import annotations

import math
from functools import partial

from envs.effects import Parameter
from envs.interface import MOST_DELAY, ActionNoise, Bias, Delay, Interface, Noise

_observed = partial(
    Interface,
    lowest=0.0,
    highest=math.inf,
    low=0.0,
    schedule="uniform",
    needs="observations that are a Box of real numbers",
    where="deviation of observations",
)
_done = partial(
    Interface,
    lowest=0.0,
    low=0.0,
    schedule="uniform",
    needs="actions that are a Box of real numbers",
    where="deviation of actions",
)

PARAMETERS: tuple[Parameter, ...] = (
    _observed(
        name="observation_noise",
        meaning="standard deviation of noise in every entry of the observation",
        unit="units of the observation",
        high=0.1,  # ours
        effect=Noise,
    ),
    _observed(
        name="observation_bias",
        meaning="what is added to every entry of the observation",
        unit="units of the observation",
        lowest=-math.inf,
        low=-0.1,  # ours
        high=0.1,
        effect=Bias,
    ),
    _done(
        name="action_noise",
        meaning="standard deviation of noise in every entry of the action, which is clipped afterwards",
        unit="units of the action",
        highest=math.inf,
        high=0.3,  # ours
        effect=ActionNoise,
    ),
    _done(
        name="action_delay",
        meaning="steps until an action arrives",
        unit="steps",
        highest=float(MOST_DELAY),
        high=4.0,  # ours
        whole=True,
        effect=Delay,
    ),
)
"""The parameters of the interface."""
