"""Parameters of joints and tendons: dampers, springs, rotors, dry friction, limits."""

from __future__ import annotations

import math
from functools import partial

import mujoco
import numpy as np

from envs import anatomy, probes
from envs.effects import Effect, Parameter
from envs.physics import Physics, PhysicsEffect
from envs.places import Array, Field, Subject, Things, times

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


class _Range(Physics):
    """The room that limits leave to joints."""

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:
        """The parameter of one environment; changes nothing yet."""
        return _RangeEffect(self, subject, self.things(subject, part, factor=factor), factor)


class _RangeEffect(PhysicsEffect):
    """Moves limits towards where a joint is at first, or away from there."""

    def __init__(self, parameter: Physics, subject: Subject, some: Things, factor: bool) -> None:
        super().__init__(parameter, subject, some, factor)
        model = subject.physics
        numbers = [thing.number for thing in some if thing.kind == "joint"]
        own = model.jnt_range[numbers]
        slides = np.isin(model.jnt_type[numbers], anatomy.ONE_AXIS)
        first = np.where(slides, model.qpos0[model.jnt_qposadr[numbers]], 0.0)
        # A joint that is beyond a limit at first goes by that limit.
        self._first: Array = np.repeat(np.clip(first, *own.T), 2)

    def apply(self, subject: Subject, value: float) -> None:
        """Puts a value into force from the next step on, in a model that has what it had itself."""
        for place in self.places:
            now = place.read(subject)
            place.write(subject, now + times(now - self._first, value - 1))


def _limited(model: mujoco.MjModel, factor: bool) -> Things:
    """The joints of the machine that have limits."""
    return tuple(thing for thing in anatomy.machine(model, factor) if thing.kind == "joint" and model.jnt_limited[thing.number])


PARAMETERS: tuple[Parameter, ...] = (
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
        parts_of=anatomy.awake_by,
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
        parts_of=anatomy.awake_by,
        probe=probes.springs,
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
        parts_of=anatomy.with_rotors,
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
    _Range(
        name="joint_range",
        meaning="how far all joints of the machine, or one, can move from where they are at first, as a share of their own",
        unit="1",
        lowest=0.0,
        highest=math.inf,
        low=0.5,  # ours
        high=1.0,
        schedule="uniform",
        by_factor=True,
        needs="a joint within the machine that has limits",
        where="room to the limits of joints",
        fields=(Field("jnt_range", "joint"),),
        parts_of=anatomy.limited,
        all_of=_limited,
        size=lambda _, __: 1.0,
        probe=probes.room,
    ),
)
"""The parameters of joints."""
