"""Parameters of joints and tendons: dampers, springs, rotors, dry friction."""

from __future__ import annotations

import math
from functools import partial

from envs import anatomy, probes
from envs.effects import Parameter
from envs.physics import Physics
from envs.places import Field

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
)
"""The parameters of joints."""
