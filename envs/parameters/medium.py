"""Parameters of the medium in which everything moves, and of the time it takes."""

from __future__ import annotations

import math
from functools import partial

from envs import probes
from envs.effects import Parameter
from envs.physics import Physics
from envs.places import OPTION, Field

_of_the_medium = partial(
    Physics,
    lowest=0.0,
    highest=math.inf,
    schedule="log_uniform",
    needs="a moving body with mass",
    where="forces of the medium",
    probe=probes.force("qfrc_fluid"),
)


def _of_wind(name: str, axis: str) -> Physics:
    """The wind along an axis."""
    return _of_the_medium(
        name=name,
        meaning=f"velocity of the medium along {axis}",
        unit="m/s",
        lowest=-math.inf,
        low=-2.0,  # ours
        high=2.0,
        schedule="uniform",
        needs="a medium (density or viscosity above 0)",
        fields=(Field("opt.wind", OPTION, ("xyz".index(axis),)),),
    )


PARAMETERS: tuple[Parameter, ...] = (
    _of_the_medium(
        name="density",
        meaning="density of the medium",
        unit="kg/m³",
        low=1.2,  # ours: air
        high=100.0,  # ours: what MuJoCo can integrate on every registered environment; on the Ant not water, 1000
        fields=(Field("opt.density", OPTION),),
    ),
    _of_the_medium(
        name="viscosity",
        meaning="viscosity of the medium",
        unit="Pa·s",
        low=0.01,  # ours: a tenth of what Swimmer has
        high=1.0,  # ours: ten times as much
        fields=(Field("opt.viscosity", OPTION),),
    ),
    _of_wind("wind", "x"),
    _of_wind("wind_y", "y"),
    _of_wind("wind_z", "z"),
    Physics(
        name="timestep",
        meaning="time that a step of the simulation takes, and with it each step of the environment",
        unit="s",
        lowest=1e-6,  # ours
        highest=1.0,  # ours
        low=0.5,  # ours
        high=1.25,
        schedule="log_uniform",
        by_factor=True,
        needs="a simulation",
        where="time of a step",
        fields=(Field("opt.timestep", OPTION),),
        probe=probes.duration,
    ),
)
"""The parameters of the medium."""
