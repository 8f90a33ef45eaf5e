"""Parameters of the interface between agent and environment."""

from __future__ import annotations

import math
from functools import partial

from envs.effects import Parameter
from envs.interface import MOST_DELAY, Bias, Dead, Delay, Dropout, Interface, Noise, Permutation

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
    acts_on="action",
    lowest=0.0,
    low=0.0,
    schedule="uniform",
    needs="actions that are a Box of real numbers",
    where="deviation of actions",
)
_BOTH = ((_observed, "observation"), (_done, "action"))

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
        effect=Noise,
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
    *(
        make(
            name=f"{what}_dropout",
            meaning=f"chance with which an entry of the {what} is lost in a step: 0 arrives",
            unit="1",
            highest=1.0,
            high=0.5,  # ours
            effect=Dropout,
        )
        for make, what in _BOTH
    ),
    *(
        make(
            name=f"dead_{what}",
            meaning=f"the entry of the {what}, counted from 1, in whose place 0 arrives; 0 for none",
            unit="1",
            highest=math.inf,
            high=math.inf,  # all that there are
            whole=True,
            effect=Dead,
        )
        for make, what in _BOTH
    ),
    *(
        make(
            name=f"{what}_permutation",
            meaning=f"number of the order in which the entries of the {what} arrive; 0 for their own",
            unit="1",
            highest=1e6,  # ours
            high=100.0,  # ours
            whole=True,
            effect=Permutation,
        )
        for make, what in _BOTH
    ),
)
"""The parameters of the interface."""
