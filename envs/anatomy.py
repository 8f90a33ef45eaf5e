"""What a MuJoCo model consists of: which objects a parameter may change, by name, and which of them it reaches."""

from __future__ import annotations

import copy
from collections.abc import Collection

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.places import Thing, Things, actuators_of_forces, count, names_of, things

Parts = dict[str, Things]

_DIRECT = (int(mujoco.mjtTrn.mjTRN_JOINT), int(mujoco.mjtTrn.mjTRN_JOINTINPARENT))
ONE_AXIS = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))
"""The types of joints that have a position of one number."""


def bodies(model: mujoco.MjModel) -> Parts:
    """The bodies that move and have mass; not those that are placed by hand (mocap), whose mass has no effect."""
    ends = model.body_weldid
    moving = [i for i in range(1, model.nbody) if ends[i] and model.body_mocapid[ends[i]] < 0 and model.body_mass[i] > 0]
    return _one_each(model, [Thing("body", i) for i in moving])


def jointed_bodies(model: mujoco.MjModel) -> Parts:
    """Bodies but those that float or slide alone with their centre in their origin: MuJoCo takes their inertia for diagonal."""
    return {name: part for name, part in bodies(model).items() if not model.body_simple[part[0].number]}


def surfaces(model: mujoco.MjModel) -> Parts:
    """What contacts take their friction from: geoms, explicit pairs, flexes."""
    return _one_each(model, things(model, "geom", "pair", "flex"))


def all_surfaces(model: mujoco.MjModel, factor: bool) -> Things:  # noqa: ARG001
    """All of them, and the global override of contact parameters where it is enabled.

    MuJoCo gives a contact the element-wise maximum of its two geoms' frictions, so one geom left at a higher value would hold
    the contact there. Explicit pairs, and the override, do not look at the geoms and carry coefficients of their own.
    """
    override = (Thing("option"),) if model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_OVERRIDE else ()
    return (*things(model, "geom", "pair", "flex"), *override)


def movables(model: mujoco.MjModel) -> Parts:
    """Joints and tendons, each with the actuators that act on it directly: their damping and rotors are its own."""
    return {
        name: (thing, *_actuators_on(model, thing)) for name, thing in names_of(model, things(model, "joint", "tendon")).items()
    }


def with_rotors(model: mujoco.MjModel) -> Parts:
    """The same but tendons without a rotor: MuJoCo may have taken the mass matrix of what they move for diagonal."""
    return _but_tendons(movables(model), model.tendon_armature > 0)


def awake_by(model: mujoco.MjModel) -> Parts:
    """The same but, where bodies may sleep, tendons that are no springs or dampers: MuJoCo lets the bodies on those sleep."""
    may_sleep = model.opt.enableflags & getattr(mujoco.mjtEnableBit, "mjENBL_SLEEP", 0)
    keeps = (model.tendon_stiffness > 0) | (model.tendon_damping > 0) | (not may_sleep)
    return _but_tendons(movables(model), keeps)


def _but_tendons(parts: Parts, may_change: NDArray[np.bool_]) -> Parts:
    """Parts without the tendons that may not change."""
    without = {Thing("tendon", int(i)) for i in np.flatnonzero(~may_change)}
    return {name: part for name, part in parts.items() if part[0] not in without}


def machine(model: mujoco.MjModel, factor: bool) -> Things:
    """The joints of the machine with the actuators on them, and, where all is multiplied, the tendons with theirs.

    The joints of the machine are the hinges and slides that an actuator moves, by whatever transmission, and those that hold
    two moving bodies together. What is left out lets the whole machine, or something beside it, move about in the world.
    """
    moved = _moved_joints(model)
    held = {i for i in range(model.njnt) if model.body_weldid[model.body_parentid[model.jnt_bodyid[i]]]}
    joints = [Thing("joint", i) for i in range(model.njnt) if model.jnt_type[i] in ONE_AXIS and (i in moved or i in held)]
    reached = [*joints, *(things(model, "tendon") if factor else ())]
    return tuple(dict.fromkeys(each for thing in reached for each in (thing, *_actuators_on(model, thing))))


def limited(model: mujoco.MjModel) -> Parts:
    """The joints that have limits."""
    return _one_each(model, [thing for thing in things(model, "joint") if model.jnt_limited[thing.number]])


def actuators(model: mujoco.MjModel) -> Parts:
    """Actuators by the name of the joint that they act on directly, others by their own; with their joints and tendons."""
    joint_names = {thing: name for name, thing in names_of(model, things(model, "joint")).items()}
    found: Parts = {}
    for name, thing in names_of(model, things(model, "actuator")).items():
        target = _target(model, thing.number)
        own = f"actuator:{name}" if name in joint_names.values() else name
        known_as = joint_names.get(target, own) if target is not None else own
        found[known_as] = tuple(dict.fromkeys([*found.get(known_as, ()), thing, *([target] if target is not None else [])]))
    return found


def all_actuators(model: mujoco.MjModel, factor: bool) -> Things:  # noqa: ARG001
    """All of them, with the joints that they move, which may limit their force."""
    found = dict.fromkeys(thing for part in actuators(model).values() for thing in part)
    return (*found, *(thing for i in sorted(_moved_joints(model)) if (thing := Thing("joint", i)) not in found))


def unscalable(model: mujoco.MjModel, some: Things) -> str | None:
    """Which actuators, or joints, have a force that is not proportional to numbers of the model, and why; None for none.

    Proportional is that of gains and biases that are fixed, affine, a muscle's, a PID's or a geodesic servo's.
    """
    gains, biases = mujoco.mjtGain, mujoco.mjtBias
    reasons = {int(gains.mjGAIN_USER): "a gain of the user's own"} | _newer(gains, "mjGAIN_DCMOTOR", "an electric circuit")
    reasons_of_bias = {int(biases.mjBIAS_USER): "a bias of the user's own"}
    names = {thing: name for name, thing in names_of(model, things(model, "actuator")).items()}
    for thing in some:
        if thing.kind == "actuator":
            i = thing.number
            reason = reasons.get(int(model.actuator_gaintype[i])) or reasons_of_bias.get(int(model.actuator_biastype[i]))
            if model.actuator_plugin[i] >= 0:
                reason = "a plugin"
            if reason:
                return f"actuator {names[thing]!r}, whose force comes from {reason},"
    numbers = [thing.number for thing in some if thing.kind == "actuator"]
    targets = [_target(model, number) for number in numbers]
    direct = {target.number for target in targets if target is not None and target.kind == "joint"}
    distant = {i for i, each in zip(numbers, targets, strict=True) if each is None or each.kind != "joint"}
    pulled = _moved_joints(model, distant) if distant else set()
    moved = direct | pulled
    for name, thing in names_of(model, things(model, "joint")).items():
        if thing.number in pulled and model.jnt_actfrclimited[thing.number] and thing not in some:
            return f"joint {name!r}, which limits the force of actuators that act on it from elsewhere,"
        if thing.number in moved and model.jnt_actgravcomp[thing.number] and _is_compensated(model, thing.number):
            return f"joint {name!r}, whose actuators bear the compensation of gravity beside their force,"
    return None


def is_muscle(model: mujoco.MjModel, number: int) -> bool:
    """Whether an actuator is a muscle."""
    return bool(model.actuator_gaintype[number] == mujoco.mjtGain.mjGAIN_MUSCLE)


def is_no_muscle(model: mujoco.MjModel, number: int) -> bool:
    """Whether an actuator is none."""
    return not is_muscle(model, number)


def is_servo_of_position(model: mujoco.MjModel, number: int) -> bool:
    """Whether an actuator's force is kp times what is left to the position that it is told, as a ``position``'s is."""
    gain, bias = model.actuator_gainprm[number], model.actuator_biasprm[number]
    return _is_servo(model, number) and bool(gain[0] == -bias[1] != 0)


def is_servo_of_velocity(model: mujoco.MjModel, number: int) -> bool:
    """Whether an actuator's force is kd times what is left to the velocity that it is told, as a ``velocity``'s is."""
    gain, bias = model.actuator_gainprm[number], model.actuator_biasprm[number]
    return _is_servo(model, number) and bool(bias[1] == 0 and gain[0] == -bias[2] != 0)


def is_servo(model: mujoco.MjModel, number: int) -> bool:
    """Whether an actuator is a servo, of position or velocity."""
    return is_servo_of_position(model, number) or is_servo_of_velocity(model, number)


def _is_servo(model: mujoco.MjModel, number: int) -> bool:
    fixed = model.actuator_gaintype[number] == mujoco.mjtGain.mjGAIN_FIXED
    return bool(fixed and model.actuator_biastype[number] == mujoco.mjtBias.mjBIAS_AFFINE)


def _moved_joints(model: mujoco.MjModel, some: Collection[int] | None = None) -> set[int]:
    """The joints that an actuator, or one of some, moves: its force has a moment about them a little off the first position."""
    trial = copy.copy(model)
    data = mujoco.MjData(trial)
    mujoco.mj_integratePos(trial, data.qpos, np.ones(trial.nv), 0.1)
    mujoco.mj_fwdPosition(trial, data)
    columns = [
        data.moment_colind[first : first + length][np.abs(data.actuator_moment[first : first + length]) > 0]
        for number, first, length in zip(actuators_of_forces(model), data.moment_rowadr, data.moment_rownnz, strict=True)
        if some is None or number in some
    ]
    return {int(trial.dof_jntid[dof]) for dof in np.unique(np.concatenate(columns or [np.array([], int)]))}


def _is_compensated(model: mujoco.MjModel, joint: int) -> bool:
    """Whether gravity is compensated on the body of a joint, or on one that hangs on it."""
    for body in np.flatnonzero(model.body_gravcomp):
        while body and body != model.jnt_bodyid[joint]:
            body = model.body_parentid[body]
        if body:
            return True
    return False


def _target(model: mujoco.MjModel, number: int) -> Thing | None:
    """The joint or the tendon that an actuator acts on directly."""
    kind = int(model.actuator_trntype[number])
    if kind in _DIRECT:
        return Thing("joint", int(model.actuator_trnid[number, 0]))
    if kind == int(mujoco.mjtTrn.mjTRN_TENDON):
        return Thing("tendon", int(model.actuator_trnid[number, 0]))
    return None


def _actuators_on(model: mujoco.MjModel, thing: Thing) -> list[Thing]:
    return [Thing("actuator", i) for i in range(count(model, "actuator")) if _target(model, i) == thing]


def _one_each(model: mujoco.MjModel, some: list[Thing] | Things) -> Parts:
    return {name: (thing,) for name, thing in names_of(model, some).items()}


def _newer(kinds: type, name: str, reason: str) -> dict[int, str]:
    """The reason under a member that older versions of MuJoCo do not have."""
    return {int(getattr(kinds, name)): reason} if hasattr(kinds, name) else {}
