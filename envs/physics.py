"""Parameters of the physics: what is written into a MuJoCo model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from envs import checks
from envs.effects import Effect, Parameter


@dataclass(frozen=True)
class _Place:
    """Numbers of a model: an attribute, of ``model.opt`` after the prefix ``opt.``, and an index; no index for a scalar."""

    attribute: str
    index: Any = None

    def read(self, model: mujoco.MjModel) -> NDArray[np.float64]:
        owner, name = self._owner(model)
        value = getattr(owner, name)
        return np.array(value if self.index is None else value[self.index])

    def write(self, model: mujoco.MjModel, values: NDArray[np.float64]) -> None:
        owner, name = self._owner(model)
        if self.index is None:
            setattr(owner, name, float(values))
        else:
            getattr(owner, name)[self.index] = values

    def _owner(self, model: mujoco.MjModel) -> tuple[Any, str]:
        in_options = self.attribute.startswith("opt.")
        return (model.opt if in_options else model), self.attribute.removeprefix("opt.")


Numbers = Sequence[int]

_ROUNDING = 1e-9
"""A share of a force that may be rounding."""


@dataclass(frozen=True)
class Physics(Parameter):
    """A physical quantity of a MuJoCo model. Every value it takes is in all its places at once, or scales them alike.

    Attributes:
        places: Where a model keeps it, for the numbers of some parts.
        acts_on: Whether it has any effect on a model.
        parts_of: The parts of a model that it can be changed of, by name; None where it has none.
        size: What of a model is equal to the value where it scales its places; None where they have the value itself.
        derived: Whether constants follow from it that MuJoCo must compute anew.
    """

    places: Callable[[mujoco.MjModel, Numbers], list[_Place]] = lambda _, __: []
    acts_on: Callable[[mujoco.MjModel], bool] | None = None
    parts_of: Callable[[mujoco.MjModel], dict[str, list[int]]] | None = None
    size: Callable[[mujoco.MjModel, Numbers], float] | None = None
    derived: bool = False

    def responds(self, env: gymnasium.Env[Any, Any]) -> bool:
        """Whether the parameter has any effect on a MuJoCo environment as it is now."""
        model = checks.mujoco_model(env)
        return bool(self.parts(model)) if self.acts_on is None else self.acts_on(model)

    def bind(self, env: gymnasium.Env[Any, Any], part: str | None, *, factor: bool) -> Effect:
        """The parameter of one environment; changes nothing yet."""
        model = checks.mujoco_model(env)
        parts = self.parts(model)
        numbers = parts[part] if part else sorted({number for of_part in parts.values() for number in of_part})
        return PhysicsEffect(self, model, numbers, factor)

    def parts(self, model: mujoco.MjModel) -> dict[str, list[int]]:
        """The parts of a model that can change by themselves, with their numbers there."""
        return {} if self.parts_of is None else self.parts_of(model)


class PhysicsEffect(Effect):
    """A physical quantity of one model."""

    def __init__(self, parameter: Physics, model: mujoco.MjModel, numbers: Numbers, factor: bool) -> None:
        self.derived = parameter.derived
        self._factor = factor
        self._places = parameter.places(model, numbers)
        self._own = [place.read(model) for place in self._places]
        self._size = None if parameter.size is None else parameter.size(model, numbers)

    def own(self) -> tuple[float, ...]:
        """What a factor multiplies: the model's own values."""
        if self._size is not None:
            return (self._size,)
        return tuple(float(value) for value in np.unique(np.concatenate([own.ravel() for own in self._own])))

    def restore(self, model: mujoco.MjModel) -> None:
        """Gives the model back what it had itself."""
        for place, own in zip(self._places, self._own, strict=True):
            place.write(model, own)

    def apply(self, model: mujoco.MjModel, value: float) -> None:
        """Puts a value into force from the next step on, in a model that has what it had itself."""
        for place in self._places:
            now = place.read(model)
            if self._size is not None:
                place.write(model, now * (value if self._factor else value / self._size))
            else:
                place.write(model, now * value if self._factor else np.full_like(now, value))


class Tilt(Parameter):
    """The angle by which gravity is turned in the x-z plane; the ground seems to rise towards +x by as much."""

    def responds(self, env: gymnasium.Env[Any, Any]) -> bool:
        """Whether gravity moves anything in that plane."""
        model = checks.mujoco_model(env)
        return bool(np.any(model.opt.gravity[[0, 2]])) and (_feels(model, (1, 0, 0)) or _feels(model, (0, 0, 1)))

    def bind(self, env: gymnasium.Env[Any, Any], part: str | None, *, factor: bool) -> Effect:  # noqa: ARG002
        """The parameter of one environment; changes nothing yet."""
        return _TiltEffect(checks.mujoco_model(env))


class _TiltEffect(Effect):
    """Gravity turned about the y axis."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._own = model.opt.gravity.copy()

    def restore(self, model: mujoco.MjModel) -> None:
        """Gives the model back what it had itself."""
        model.opt.gravity[:] = self._own

    def apply(self, model: mujoco.MjModel, value: float) -> None:
        """Turns gravity so that what pointed down points a little towards −x."""
        angle = math.radians(value)
        x, _, z = model.opt.gravity
        model.opt.gravity[0] = x * math.cos(angle) + z * math.sin(angle)
        model.opt.gravity[2] = z * math.cos(angle) - x * math.sin(angle)


def _bodies(model: mujoco.MjModel) -> dict[str, list[int]]:
    """The bodies that move and have mass, by name; unnamed ones by their number."""
    moving = [i for i in range(1, model.nbody) if model.body_weldid[i] and model.body_mass[i] > 0]
    return {model.body(i).name or f"body{i}": [i] for i in moving}


def _joints(model: mujoco.MjModel) -> dict[str, list[int]]:
    """Hinges and slides within the machine, by name: those that an actuator moves, or that hold two moving bodies together.

    What is left out lets the whole machine move about in the world.
    """
    one_axis = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
    moved = set(_targets(model, range(len(model.actuator_trntype)), *_TO_JOINTS))
    held = {i for i in range(model.njnt) if model.body_weldid[model.body_parentid[model.jnt_bodyid[i]]]}
    return {
        model.joint(i).name or f"joint{i}": [i]
        for i in range(model.njnt)
        if model.jnt_type[i] in one_axis and (i in moved or i in held)
    }


_TO_JOINTS = (mujoco.mjtTrn.mjTRN_JOINT, mujoco.mjtTrn.mjTRN_JOINTINPARENT)


def _targets(model: mujoco.MjModel, actuators: Numbers, *transmissions: mujoco.mjtTrn) -> list[int]:
    """What some of these actuators act on, those of some kinds of transmission."""
    kinds = [int(transmission) for transmission in transmissions]
    return [int(model.actuator_trnid[i, 0]) for i in actuators if model.actuator_trntype[i] in kinds]


def _actuators(model: mujoco.MjModel) -> dict[str, list[int]]:
    """Actuators whose force is affine in control, position and velocity, by the name of the joint; of others by their own."""
    gains = (int(mujoco.mjtGain.mjGAIN_FIXED), int(mujoco.mjtGain.mjGAIN_AFFINE))
    biases = (int(mujoco.mjtBias.mjBIAS_NONE), int(mujoco.mjtBias.mjBIAS_AFFINE))
    found: dict[str, list[int]] = {}
    for i in range(len(model.actuator_trntype)):
        if model.actuator_gaintype[i] in gains and model.actuator_biastype[i] in biases:
            joints = _targets(model, [i], *_TO_JOINTS)
            name = model.joint(joints[0]).name or f"joint{joints[0]}" if joints else model.actuator(i).name or f"actuator{i}"
            found.setdefault(name, []).append(i)
    return found


def _forces(model: mujoco.MjModel, actuators: Numbers) -> list[_Place]:
    """What the forces of actuators are computed from, and the limits that they, their joints and their tendons have."""
    return [
        _Place("actuator_gainprm", np.s_[list(actuators), :3]),
        _Place("actuator_biasprm", np.s_[list(actuators), :3]),
        _Place("actuator_forcerange", list(actuators)),
        _Place("jnt_actfrcrange", sorted(set(_targets(model, actuators, *_TO_JOINTS)))),
        _Place("tendon_actfrcrange", sorted(set(_targets(model, actuators, mujoco.mjtTrn.mjTRN_TENDON)))),
    ]


def _has_friction(model: mujoco.MjModel) -> bool:
    """Whether two geoms of different bodies can touch, by pair or by bit masks, in a contact with tangential forces."""
    can_touch = (model.geom_contype[:, None] & model.geom_conaffinity) != 0
    other_body = model.geom_bodyid[:, None] != model.geom_bodyid
    tangential = np.maximum.outer(model.geom_condim, model.geom_condim) > 1
    return bool(np.any(can_touch & other_body & tangential) or np.any(model.pair_dim > 1))


def _frictions(model: mujoco.MjModel) -> list[_Place]:
    """Wherever contacts take their sliding friction from.

    MuJoCo gives a contact the element-wise maximum of its two geoms' frictions, so one geom left at a higher value would
    hold the contact there: all geoms get the value. Explicit contact pairs, and the global override of contact parameters,
    do not look at the geoms and carry two tangential coefficients of their own.
    """
    places = [_Place("geom_friction", np.s_[:, 0])]
    if model.npair:
        places.append(_Place("pair_friction", np.s_[:, :2]))
    if model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_OVERRIDE:
        places.append(_Place("opt.o_friction", np.s_[:2]))
    return places


def _feels(model: mujoco.MjModel, gravity: Sequence[float]) -> bool:
    """Whether gravity in some direction moves any joint, a little off the initial position, where a pendulum might balance."""
    other = copy.deepcopy(model)
    other.opt.gravity[:] = gravity
    data = mujoco.MjData(other)
    mujoco.mj_integratePos(other, data.qpos, np.ones(other.nv), 0.1)
    mujoco.mj_forward(other, data)
    weight = np.abs(data.qfrc_bias).max(initial=0.0)
    left = np.abs(data.qfrc_bias - data.qfrc_gravcomp).max(initial=0.0)  # what gravity compensation leaves
    return bool(left > max(mujoco.mjMINVAL, _ROUNDING * weight))


def _dofs(model: mujoco.MjModel, joints: Numbers) -> NDArray[np.int32]:
    return np.asarray(model.jnt_dofadr[list(joints)])


_of_joints = partial(
    Physics,
    lowest=0.0,
    highest=math.inf,
    low=0.25,  # ours
    high=4.0,
    schedule="log_uniform",
    by_factor=True,
    needs="a joint within the machine (hinge or slide)",
    parts_of=_joints,
)
_of_the_medium = partial(
    Physics,
    lowest=0.0,
    highest=math.inf,
    schedule="log_uniform",
    needs="a moving body with mass",
    acts_on=lambda model: bool(_bodies(model)),
)

PARAMETERS: tuple[Parameter, ...] = (
    Physics(
        name="friction",
        meaning="sliding friction of all contacts",
        unit="1",
        lowest=mujoco.mjMINMU,
        highest=math.inf,
        low=0.02,  # Dohare et al., Nature 632 (2024): the Slippery Ant draws from [0.02, 2]
        high=2.0,
        schedule="log_uniform",
        needs="two geoms that can touch with friction (contype, conaffinity, condim)",
        acts_on=_has_friction,
        places=lambda model, _: _frictions(model),
    ),
    Physics(
        name="gravity",
        meaning="size of gravity, its direction stays",
        unit="m/s²",
        lowest=0.0,
        highest=math.inf,
        low=4.905,  # ours: half the Earth's
        high=14.715,  # ours: half as much again
        schedule="uniform",
        needs="joints that gravity moves",
        acts_on=lambda model: _feels(model, model.opt.gravity),
        places=lambda _, __: [_Place("opt.gravity", np.s_[:])],
        size=lambda model, _: float(np.linalg.norm(model.opt.gravity)),
    ),
    Tilt(
        name="gravity_tilt",
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
        meaning="mass of all bodies together, or of one; its inertia in proportion",
        unit="kg",
        lowest=1e-6,  # ours: far above what MuJoCo's compiler refuses
        highest=math.inf,
        low=0.5,  # ours
        high=2.0,
        schedule="log_uniform",
        by_factor=True,
        needs="a moving body with mass",
        places=lambda _, bodies: [_Place("body_mass", list(bodies)), _Place("body_inertia", list(bodies))],
        parts_of=_bodies,
        size=lambda model, bodies: float(model.body_mass[list(bodies)].sum()),
        derived=True,
    ),
    _of_joints(
        name="damping",
        meaning="viscous damping of all joints of the machine, or of one",
        unit="N·m·s/rad",
        places=lambda model, joints: [_Place("dof_damping", _dofs(model, joints))],
    ),
    _of_joints(
        name="stiffness",
        meaning="stiffness of the springs of all joints of the machine, or of one",
        unit="N·m/rad",
        places=lambda _, joints: [_Place("jnt_stiffness", list(joints))],
    ),
    _of_joints(
        name="armature",
        meaning="inertia of the rotors of all joints of the machine, or of one",
        unit="kg·m²",
        places=lambda model, joints: [_Place("dof_armature", _dofs(model, joints))],
        derived=True,
    ),
    Physics(
        name="strength",
        meaning="force of all actuators, or of one joint's, as a multiple of their own, limits too; 0 is paralysis",
        unit="1",
        lowest=0.0,
        highest=math.inf,
        low=0.25,  # ours
        high=1.0,
        schedule="uniform",
        by_factor=True,
        needs="an actuator with affine force (such as a motor)",
        places=_forces,
        parts_of=_actuators,
        size=lambda _, __: 1.0,
    ),
    _of_the_medium(
        name="density",
        meaning="density of the medium",
        unit="kg/m³",
        low=1.2,  # ours: air
        high=100.0,  # ours: what MuJoCo can integrate on every registered environment; on the Ant not water, 1000
        places=lambda _, __: [_Place("opt.density")],
    ),
    _of_the_medium(
        name="viscosity",
        meaning="viscosity of the medium",
        unit="Pa·s",
        low=0.01,  # ours: a tenth of what Swimmer has
        high=1.0,  # ours: ten times as much
        places=lambda _, __: [_Place("opt.viscosity")],
    ),
    Physics(
        name="wind",
        meaning="velocity of the medium along x",
        unit="m/s",
        lowest=-math.inf,
        highest=math.inf,
        low=-2.0,  # ours
        high=2.0,
        schedule="uniform",
        needs="a medium (density or viscosity above 0)",
        acts_on=lambda model: model.opt.density > 0 or model.opt.viscosity > 0,
        places=lambda _, __: [_Place("opt.wind", 0)],
    ),
)
"""The physical parameters. Every one may change in mid-episode: positions and velocities stay as they are."""
