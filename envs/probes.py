"""What a parameter decides, measured where it acts: forces and inertias of a model a little off its initial configuration.

Each function takes a model, leaves it alone, and returns an array.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import mujoco
import numpy as np

from envs.places import Array, actuators_of_forces

_OFF = 0.1
"""Metres or radians from the initial configuration, where a pendulum might balance and a spring be at rest."""

_SPEED = 0.618
"""Of everything that moves, in m/s or rad/s: not that which a servo was told to hold."""


def moving(model: mujoco.MjModel, velocity: float = _SPEED) -> mujoco.MjData:
    """A state in which everything moves and every actuator is driven, with all forces but those of constraints."""
    if np.any(getattr(model, "actuator_delay", 0)):  # what an actuator was told before there was a step is nothing
        model = copy.copy(model)
        model.actuator_delay[:] = 0
    data = mujoco.MjData(model)
    mujoco.mj_integratePos(model, data.qpos, np.ones(model.nv), _OFF)
    data.qvel[:] = velocity
    low, high = model.actuator_ctrlrange.T
    data.ctrl[:] = np.where(model.actuator_ctrllimited, 0.25 * low + 0.75 * high, 1.0) if len(low) == model.nu else 1.0
    data.act[:] = 0.5
    mujoco.mj_fwdPosition(model, data)
    mujoco.mj_fwdVelocity(model, data)
    mujoco.mj_fwdActuation(model, data)
    return data


def force(name: str) -> Callable[[mujoco.MjModel], Array]:
    """A probe of generalised forces: ``qfrc_damper`` and its like."""
    return lambda model: np.array(getattr(moving(model), name))


def drive(model: mujoco.MjModel) -> Array:
    """Generalised forces of actuators, and the forces of those that act through contacts, of which there are none yet."""
    data = moving(model)
    adhesive = model.actuator_trntype == mujoco.mjtTrn.mjTRN_BODY
    return np.concatenate((data.qfrc_actuator, data.actuator_force[adhesive[actuators_of_forces(model)]]))


def unlimited_drive(model: mujoco.MjModel) -> Array:
    """The same where no force is limited: a stiff servo is at its limit wherever it is probed."""
    trial = copy.copy(model)
    for name in ("actuator_forcelimited", "jnt_actfrclimited", "tendon_actfrclimited"):
        getattr(trial, name)[:] = 0
    return drive(trial)


def springs(model: mujoco.MjModel) -> Array:
    """Generalised forces of springs; those of tendons without the lengths between which they are slack."""
    trial = copy.copy(model)
    trial.tendon_lengthspring[:] = 0.0
    return force("qfrc_spring")(trial)


def inertia(model: mujoco.MjModel) -> Array:
    """The mass matrix, the numbers in it that are not 0."""
    data = moving(model, velocity=0.0)
    return np.array(data.M if hasattr(data, "M") else data.qM)


def weight(model: mujoco.MjModel) -> Array:
    """Generalised forces of gravity, without what is compensated; what may be rounding is 0."""
    data = moving(model, velocity=0.0)
    felt = data.qfrc_bias - data.qfrc_gravcomp
    rounding = max(float(mujoco.mjMINVAL), 1e-9 * float(np.abs(data.qfrc_bias).max(initial=0.0)))
    return np.where(np.abs(felt) > rounding, felt, 0.0)


def room(model: mujoco.MjModel) -> Array:
    """What is left to the limits of joints, in m and rad."""
    trial = copy.copy(model)
    trial.jnt_margin[:] = 1e6  # so that all of them are looked at
    data = moving(trial)
    return np.array(data.efc_pos[data.efc_type == mujoco.mjtConstraint.mjCNSTR_LIMIT_JOINT])


def balance(model: mujoco.MjModel) -> Array:
    """The mass matrix, and the forces of gravity in a model in which it pulls from three sides."""
    trial = copy.copy(model)
    trial.opt.gravity[:] = 1.0
    return np.concatenate((inertia(model), weight(trial)))


def friction_losses(model: mujoco.MjModel) -> Array:
    """Dry friction of joints and tendons, as the constraints have it."""
    return np.array(moving(model).efc_frictionloss)


def duration(model: mujoco.MjModel) -> Array:
    """The time that a step of the simulation takes."""
    data = moving(model)
    mujoco.mj_Euler(model, data)  # all of a step that calls no controller of the user's
    return np.array([data.time])
