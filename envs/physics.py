"""Parameters of the physics: what is written into a MuJoCo model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mujoco
import numpy as np

from envs import anatomy, checks, contacts, probes
from envs.anatomy import Parts
from envs.checks import ParameterError
from envs.effects import Effect, Parameter
from envs.places import OPTION, Array, Field, Place, Subject, Thing, Things, names_of, select

_OF_MODEL = (Thing(OPTION),)


@dataclass(frozen=True)
class Physics(Parameter):
    """A physical quantity of a MuJoCo model: a row of the table below.

    Every value it takes is in all its places at once, or scales them alike.

    Attributes:
        fields: Where a model keeps it.
        probe: Measures in a model what it decides, where it acts.
        shows: What a step of the simulation shows of the value itself.
        parts_of: The parts of a model that it can be changed of, by name; None where it has none.
        all_of: What it reaches where no part is named: of a model, with factors or without.
        size: What of a model is equal to the value where it scales its fields; None where they have the value itself.
        refuse: Why some objects cannot be changed, in words; None where they can.
        derived: Whether constants follow from it that MuJoCo must compute anew.
    """

    fields: tuple[Field, ...] = ()
    probe: Callable[[mujoco.MjModel], Array] = lambda _: np.empty(0)
    shows: Callable[[mujoco.MjData], list[float]] = lambda _: []
    parts_of: Callable[[mujoco.MjModel], Parts] | None = None
    all_of: Callable[[mujoco.MjModel, bool], Things] = lambda _, __: _OF_MODEL
    size: Callable[[mujoco.MjModel, Things], float] | None = None
    refuse: Callable[[mujoco.MjModel, Things], str | None] = lambda _, __: None
    derived: bool = False

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:
        """The parameter of one environment; changes nothing yet."""
        return PhysicsEffect(self, subject, self.things(subject, part, factor=factor), factor)

    def things(self, subject: Subject, part: str | None, *, factor: bool) -> Things:
        """The objects of a model whose fields it writes.

        Raises:
            envs.ParameterError: The model has no such part, or one that cannot be changed.
        """
        model, parts = subject.physics, self.parts(subject.physics)
        if part is None:
            found = self.all_of(model, factor)
        elif not parts:
            raise ParameterError(f"{self.name} has no parts that change by themselves, got {part!r}")
        else:
            chosen = select(f"part of {self.name}", part, parts)
            found = tuple(dict.fromkeys(thing for name in chosen for thing in parts[name]))
        if reason := self.refuse(model, found):
            raise ParameterError(f"{self.name} cannot change {reason} of {checks.env_name(subject.env)}")
        return found

    def measure(self, model: mujoco.MjModel) -> Array | None:
        """What the parameter's values decide, measured where it acts, in a model."""
        return self.probe(model)

    def seen(self, data: mujoco.MjData) -> list[float]:
        """What a step of the simulation shows of the value itself."""
        return self.shows(data)

    def parts(self, model: mujoco.MjModel) -> Parts:
        """The parts of a model that can change by themselves, by name."""
        return {} if self.parts_of is None else self.parts_of(model)


class PhysicsEffect(Effect):
    """A physical quantity of one model."""

    def __init__(self, parameter: Physics, subject: Subject, some: Things, factor: bool) -> None:
        self.derived = parameter.derived
        self._factor = factor
        self._things = some
        model = subject.physics
        placed = [(field, place) for field in parameter.fields if (place := field.place(model, some))]
        self.places = tuple(place for _, place in placed)
        self._kinds: tuple[str, ...] = tuple(field.kind for field, _ in placed)
        self._zeros: tuple[bool, ...] = tuple(field.zero and not factor for field, _ in placed)
        own = [place.read(subject).ravel() for place, zero in zip(self.places, self._zeros, strict=True) if not zero]
        self._size = parameter.size(model, some) if parameter.size is not None and placed else None
        self._own = (self._size,) if self._size is not None else tuple(np.unique(np.concatenate(own or [np.empty(0)])).tolist())
        if self._size == 0:  # such as no gravity, which has no direction
            self.places = self._kinds = self._zeros = ()

    def own(self) -> tuple[float, ...]:
        """What a factor multiplies: the model's own values."""
        return self._own

    def apply(self, subject: Subject, value: float) -> None:
        """Puts a value into force from the next step on, in a model that has what it had itself."""
        for place, zero in zip(self.places, self._zeros, strict=True):
            now = place.read(subject)
            if self._size is not None:
                place.write(subject, now * (value if self._factor else value / self._size))
            else:
                place.write(subject, now * value if self._factor else np.full_like(now, 0.0 if zero else value))

    def reach(self, subject: Subject) -> dict[str, list[str]]:
        """The fields that it writes, with the names of the objects whose numbers these are."""
        found = {}
        for place, kind in zip(self.places, self._kinds, strict=True):
            some = [thing for thing in self._things if thing.kind == kind]
            found[place.field] = [] if kind == OPTION else list(names_of(subject.physics, some))
        return found


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


def _all_bodies(model: mujoco.MjModel, factor: bool) -> Things:  # noqa: ARG001
    return tuple(thing for part in anatomy.bodies(model).values() for thing in part)


_of_joints = partial(
    Physics,
    lowest=0.0,
    highest=math.inf,
    low=0.25,  # ours
    high=4.0,
    schedule="log_uniform",
    by_factor=True,
    needs="a joint within the machine (hinge or slide)",
    parts_of=anatomy.movables,
    all_of=anatomy.machine,
)
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
    return Physics(
        name=name,
        meaning=f"velocity of the medium along {axis}",
        unit="m/s",
        lowest=-math.inf,
        highest=math.inf,
        low=-2.0,  # ours
        high=2.0,
        schedule="uniform",
        needs="a medium (density or viscosity above 0)",
        where="forces of the medium",
        fields=(Field("opt.wind", OPTION, ("xyz".index(axis),)),),
        probe=probes.force("qfrc_fluid"),
    )


def _of_contacts(kind: int, **kwargs: Any) -> Physics:
    """A kind of friction."""
    columns = contacts.COLUMNS[kind]
    return Physics(
        lowest=mujoco.mjMINMU,
        highest=math.inf,
        schedule="log_uniform",
        fields=(
            Field("geom_friction", "geom", (kind,)),
            Field("pair_friction", "pair", columns),
            Field("flex_friction", "flex", (kind,)),
            Field("opt.o_friction", OPTION, columns),
        ),
        parts_of=anatomy.surfaces,
        all_of=anatomy.all_surfaces,
        probe=partial(contacts.frictions, kind),
        shows=partial(contacts.seen, kind),
        in_steps=True,
        **kwargs,
    )


PARAMETERS: tuple[Parameter, ...] = (
    _of_contacts(
        contacts.SLIDING,
        name="friction",
        meaning="sliding friction of all contacts, or of one geom",
        unit="1",
        low=0.02,  # Dohare et al., Nature 632 (2024): the Slippery Ant draws from [0.02, 2]
        high=2.0,
        needs="two geoms that can touch with friction (contype, conaffinity, condim)",
        where="friction of contacts",
    ),
    _of_contacts(
        contacts.TORSIONAL,
        name="torsional_friction",
        meaning="friction of all contacts against turning about their normals, or of one geom",
        unit="m",
        low=0.001,  # ours: a fifth of MuJoCo's own default
        high=0.1,
        needs="two geoms that can touch with torsional friction (condim 4 or 6)",
        where="torsional friction of contacts",
    ),
    _of_contacts(
        contacts.ROLLING,
        name="rolling_friction",
        meaning="friction of all contacts against rolling, or of one geom",
        unit="m",
        low=0.0001,  # ours: MuJoCo's own default
        high=0.05,
        needs="two geoms that can touch with rolling friction (condim 6)",
        where="rolling friction of contacts",
    ),
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
        all_of=_all_bodies,
        size=_total_mass,
        probe=probes.inertia,
        derived=True,
    ),
    _of_joints(
        name="damping",
        where="forces of dampers",
        meaning="viscous damping of all joints of the machine, or of one",
        unit="N·m·s/rad",
        fields=(
            Field("dof_damping", "joint"),
            Field("dof_dampingpoly", "joint", zero=True),
            Field("tendon_damping", "tendon"),
            Field("tendon_dampingpoly", "tendon", zero=True),
            Field("actuator_damping", "actuator", zero=True),
            Field("actuator_dampingpoly", "actuator", zero=True),
        ),
        probe=probes.force("qfrc_damper"),
    ),
    _of_joints(
        name="stiffness",
        where="forces of springs",
        meaning="stiffness of the springs of all joints of the machine, or of one",
        unit="N·m/rad",
        fields=(
            Field("jnt_stiffness", "joint"),
            Field("jnt_stiffnesspoly", "joint", zero=True),
            Field("tendon_stiffness", "tendon"),
            Field("tendon_stiffnesspoly", "tendon", zero=True),
        ),
        probe=probes.force("qfrc_spring"),
    ),
    _of_joints(
        name="armature",
        where="mass matrix",
        meaning="inertia of the rotors of all joints of the machine, or of one",
        unit="kg·m²",
        fields=(
            Field("dof_armature", "joint"),
            Field("tendon_armature", "tendon"),
            Field("actuator_armature", "actuator", zero=True),
        ),
        probe=probes.inertia,
        derived=True,
    ),
    _of_joints(
        name="frictionloss",
        meaning="dry friction of all joints of the machine, or of one",
        unit="N·m",
        by_factor=False,
        low=0.0,  # ours
        high=0.5,
        schedule="uniform",
        where="dry friction of joints",
        fields=(Field("dof_frictionloss", "joint"), Field("tendon_frictionloss", "tendon")),
        probe=probes.friction_losses,
    ),
    Physics(
        name="strength",
        where="forces of actuators",
        meaning="force of all actuators, or of one joint's, as a multiple of their own, limits too; 0 is paralysis",
        unit="1",
        lowest=0.0,
        highest=math.inf,
        low=0.25,  # ours
        high=1.0,
        schedule="uniform",
        by_factor=True,
        needs="an actuator whose force is proportional to its gains (such as a motor or a muscle)",
        # A muscle's force is proportional to its peak force, or to a scale where that follows from the model; its other
        # numbers are lengths and velocities.
        fields=(
            Field("actuator_gainprm", "actuator", (0, 1, 2), only=anatomy.is_no_muscle),
            Field("actuator_biasprm", "actuator", (0, 1, 2), only=anatomy.is_no_muscle),
            Field("actuator_gainprm", "actuator", (2, 3), only=anatomy.is_muscle),
            Field("actuator_biasprm", "actuator", (2, 3), only=anatomy.is_muscle),
            Field("actuator_forcerange", "actuator"),
            Field("jnt_actfrcrange", "joint"),
            Field("tendon_actfrcrange", "tendon"),
        ),
        parts_of=anatomy.actuators,
        all_of=anatomy.all_actuators,
        size=lambda _, __: 1.0,
        refuse=anatomy.unscalable,
        probe=probes.force("qfrc_actuator"),
    ),
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
"""The physical parameters. Every one may change in mid-episode: positions and velocities stay as they are."""
