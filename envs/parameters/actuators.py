"""Parameters of actuators: their strength, and the gains of servos."""

from __future__ import annotations

import math
from functools import partial

from envs import anatomy, probes
from envs.effects import Parameter
from envs.physics import Physics
from envs.places import Field

_of_servos = partial(
    Physics,
    lowest=0.0,
    highest=math.inf,
    low=0.5,  # ours
    high=2.0,
    schedule="log_uniform",
    by_factor=True,
    parts_of=anatomy.actuators,
    all_of=anatomy.all_actuators,
    where="forces of actuators",
    probe=probes.unlimited_drive,
)

PARAMETERS: tuple[Parameter, ...] = (
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
        probe=probes.drive,
    ),
    _of_servos(
        name="kp",
        meaning="gain of the position of all servos, or of one joint's",
        unit="N·m/rad",
        needs="a servo that is told a position",
        fields=(
            Field("actuator_gainprm", "actuator", (0,), only=anatomy.is_servo_of_position),
            Field("actuator_biasprm", "actuator", (1,), only=anatomy.is_servo_of_position, sign=-1),
        ),
    ),
    _of_servos(
        name="kd",
        meaning="gain of the velocity of all servos, or of one joint's",
        unit="N·m·s/rad",
        needs="a servo that is told a position or a velocity",
        fields=(
            Field("actuator_gainprm", "actuator", (0,), only=anatomy.is_servo_of_velocity),
            Field("actuator_biasprm", "actuator", (2,), only=anatomy.is_servo, sign=-1),
        ),
    ),
)
"""The parameters of actuators."""
