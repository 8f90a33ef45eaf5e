"""Parameters of bodies: gravity, masses and their centres, pushes."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from envs import anatomy, probes
from envs.centre import Centre
from envs.checks import ParameterError
from envs.effects import Effect, Parameter
from envs.physics import Physics
from envs.places import OPTION, Array, Field, Place, Subject, Things
from envs.pushes import Push


class Tilt(Parameter):
    """The angle by which gravity is turned in the x-z plane; the ground seems to rise towards +x by as much."""

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:  # noqa: ARG002
        """The parameter of one environment; changes nothing yet."""
        if part is not None:
            raise ParameterError(f"{self.name} has no parts that change by themselves, got {part!r}")
        return _TiltEffect(subject)

    def measure(self, model: mujoco.MjModel) -> Array | None:
        """Generalised forces of gravity."""
        return probes.weight(model)


class _TiltEffect(Effect):
    """Gravity turned about the y axis."""

    places = (Place("opt.gravity", np.array([0, 2])),)

    def __init__(self, subject: Subject) -> None:
        subject.physics  # noqa: B018

    def apply(self, subject: Subject, value: float) -> None:
        """Turns gravity so that what pointed down points a little towards −x."""
        angle = math.radians(value)
        gravity = subject.physics.opt.gravity
        x, _, z = gravity
        gravity[0] = x * math.cos(angle) + z * math.sin(angle)
        gravity[2] = z * math.cos(angle) - x * math.sin(angle)

    def reach(self, subject: Subject) -> dict[str, list[str]]:  # noqa: ARG002
        """The field that it writes."""
        return {"opt.gravity": []}


def _total_mass(model: mujoco.MjModel, some: Things) -> float:
    return float(model.body_mass[[thing.number for thing in some]].sum())


def _of_centre(name: str, axis: str) -> Centre:
    """The centre of mass along an axis."""
    return Centre(
        name=name,
        meaning=f"how far the centre of mass of each body, or of one, is displaced along the {axis} axis of the body",
        unit="m",
        lowest=-math.inf,
        highest=math.inf,
        low=-0.05,  # ours
        high=0.05,
        schedule="uniform",
        needs="a body with mass that turns",
        where="mass matrix and generalised forces of gravity",
        fields=(Field("body_ipos", "body", ("xyz".index(axis),)),),
        parts_of=anatomy.jointed_bodies,
        probe=probes.balance,
        derived=True,
    )


PARAMETERS: tuple[Parameter, ...] = (
    Physics(
        name="gravity",
        where="generalised forces of gravity",
        meaning="size of gravity, its direction stays",
        unit="m/s²",
        lowest=0.0,
        highest=math.inf,
        low=4.905,  # ours: half the Earth's
        high=14.715,  # ours: half as much again
        schedule="uniform",
        needs="joints that gravity moves",
        fields=(Field("opt.gravity", OPTION),),
        size=lambda model, _: float(np.linalg.norm(model.opt.gravity)),
        probe=probes.weight,
    ),
    Tilt(
        name="gravity_tilt",
        where="generalised forces of gravity",
        meaning="slope of the ground, uphill towards +x: gravity turned in the x-z plane",
        unit="°",
        lowest=-90.0,
        highest=90.0,
        low=-5.0,  # ours
        high=5.0,
        schedule="uniform",
        needs="joints that gravity along x or z moves",
    ),
    Physics(
        name="mass",
        where="mass matrix",
        meaning="mass of all bodies together, or of one; its inertia in proportion",
        unit="kg",
        lowest=1e-6,  # ours: far above what MuJoCo's compiler refuses
        highest=math.inf,
        low=0.5,  # ours
        high=2.0,
        schedule="log_uniform",
        by_factor=True,
        needs="a moving body with mass",
        fields=(Field("body_mass", "body"), Field("body_inertia", "body")),
        parts_of=anatomy.bodies,
        size=_total_mass,
        probe=probes.inertia,
        derived=True,
    ),
    *(
        Push(
            name=f"push_{axis}",
            meaning=f"speed along {axis} that a blow gives to all bodies, or would to one alone, in the first step of a phase",
            unit="m/s",
            lowest=-math.inf,
            highest=math.inf,
            low=-0.5,  # ours
            high=0.5,
            schedule="uniform",
            needs=f"a body with mass that can move along {axis}",
            where="velocities that blows add",
            axis="xyz".index(axis),
        )
        for axis in "xyz"
    ),
    *(_of_centre(f"centre_of_mass_{axis}", axis) for axis in "xyz"),
)
"""The parameters of bodies."""
