"""Gymnasium's walkers: their steps as functions of arrays, the same to the bit as those of Gymnasium's classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
from numba.extending import register_jitable
from numpy.typing import NDArray

from envs.ant import Ant as FasterAnt
from envs.native.simulation import Array, Family, Simulation, family

_PAIRWISE = 128
"""So many numbers NumPy adds up in eight sums; more it halves first."""


@register_jitable
def sum_of_squares(x: Any) -> Any:
    """``np.sum(np.square(x))`` of up to 128 numbers, in NumPy's order of adding and so to the bit.

    Fewer than 8 numbers are added one after the other, more in eight sums, which are then added in pairs.
    """
    n = len(x)
    if n < 8:
        total = x[0] * x[0]
        for i in range(1, n):
            total += x[i] * x[i]
        return total
    sums = x[:8] * x[:8]
    whole = n - n % 8
    for i in range(8, whole, 8):
        for k in range(8):
            sums[k] += x[i + k] * x[i + k]
    total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))
    for i in range(whole, n):
        total += x[i] * x[i]
    return total


@register_jitable
def control_cost(weight: float, action: NDArray[np.float32]) -> Any:
    """``weight * np.sum(np.square(action))``, which NumPy computes in the action's float32."""
    return np.float32(weight) * sum_of_squares(action)


@register_jitable
def observe_state(after: Simulation, skipped: int, observation: Array) -> int:
    """Writes positions but the first ones, and velocities; returns how many numbers these are."""
    kept = len(after.qpos) - skipped
    end = kept + len(after.qvel)
    observation[:kept] = after.qpos[skipped:]
    observation[kept:end] = after.qvel
    return end


@register_jitable
def observe_rows(rows: Array, low: float, high: float, start: int, observation: Array) -> int:
    """Writes all rows but the first, that of the world, clipped; returns where they end."""
    at = start
    for i in range(1, rows.shape[0]):
        for j in range(rows.shape[1]):
            observation[at] = min(max(rows[i, j], low), high)
            at += 1
    return at


def _distance(env: Any) -> float:
    """``distance_from_origin``, by the operation that the environment takes."""
    position = env.data.qpos[:2]
    return math.hypot(*position.tolist()) if type(env) is FasterAnt else float(np.linalg.norm(position, ord=2))


def _movement(env: Any, positions: int) -> list[float]:
    """The first four constants of all: how many of the first positions are not observed, and what movement pays and costs."""
    skipped = positions * env._exclude_current_positions_from_observation
    return [skipped, env.dt, env._forward_reward_weight, env._ctrl_cost_weight]


def _health(env: Any) -> list[float]:
    """The next four of those that can fall."""
    return [env._healthy_reward, env._terminate_when_unhealthy, *env._healthy_z_range]


class _Walker(Family):
    @staticmethod
    def unsupported(env: Any) -> str | None:
        if env.render_mode == "human":
            return "it draws every step (render_mode='human')"
        if max(env.data.cfrc_ext.size, env.model.nu) > _PAIRWISE:
            return "it has more bodies than the sums of squares are written for"
        return None


_MOVING = ("x_position", "y_position", "x_velocity", "y_velocity")


class _Touching(_Walker):
    """A walker that may observe contact forces and pay for them."""

    @staticmethod
    def needs_contact_forces(env: Any) -> bool:
        return bool(env._contact_cost_weight or env._include_cfrc_ext_in_observation)


@family(AntEnv, FasterAnt)
class Ant(_Touching):
    """``Ant-v5``, and the Ant of this package."""

    infos = (
        *_MOVING,
        "reward_forward",
        "reward_ctrl",
        "reward_contact",
        "reward_survive",
    )

    @staticmethod
    def constants(env: Any) -> list[float]:
        return [
            *_movement(env, 2),
            *_health(env),
            env.model.body(env._main_body).id,
            env._contact_cost_weight,
            *env._contact_force_range,
        ]

    @staticmethod
    def more_info(env: Any) -> dict[str, Any]:
        return {"distance_from_origin": _distance(env)}

    @staticmethod
    def step(
        before: Simulation, after: Simulation, action: NDArray[np.float32], constants: Array, observation: Array, info: Array
    ) -> tuple[float, bool]:
        skipped, dt, forward_weight, control_weight = int(constants[0]), constants[1], constants[2], constants[3]
        health, terminates, low, high = constants[4], constants[5] != 0, constants[6], constants[7]
        body, contact_weight, least, most = int(constants[8]), constants[9], constants[10], constants[11]
        end = observe_state(after, skipped, observation)
        if end < len(observation):
            observe_rows(after.cfrc_ext, least, most, end, observation)
        x, y = after.qpos[0], after.qpos[1]
        info[0], info[1] = x, y
        info[2] = (after.xpos[body, 0] - before.xpos[body, 0]) / dt
        info[3] = (after.xpos[body, 1] - before.xpos[body, 1]) / dt
        finite = np.isfinite(after.qpos).all() and np.isfinite(after.qvel).all()
        healthy = finite and low <= after.qpos[2] <= high
        forward, survive = info[2] * forward_weight, health if healthy else 0.0
        control, contact = control_cost(control_weight, action), 0.0
        if contact_weight != 0:
            contact = contact_weight * sum_of_squares(np.minimum(np.maximum(after.cfrc_ext.ravel(), least), most))
        info[4], info[5], info[6], info[7] = forward, -control, -contact, survive
        return (forward + survive) - (control + contact), terminates and not healthy


@family(HalfCheetahEnv)
class HalfCheetah(_Walker):
    """``HalfCheetah-v5``."""

    infos = ("x_position", "x_velocity", "reward_forward", "reward_ctrl")

    @staticmethod
    def constants(env: Any) -> list[float]:
        return _movement(env, 1)

    @staticmethod
    def step(
        before: Simulation, after: Simulation, action: NDArray[np.float32], constants: Array, observation: Array, info: Array
    ) -> tuple[float, bool]:
        skipped, dt, forward_weight, control_weight = int(constants[0]), constants[1], constants[2], constants[3]
        observe_state(after, skipped, observation)
        velocity = (after.qpos[0] - before.qpos[0]) / dt
        forward, control = forward_weight * velocity, control_cost(control_weight, action)
        info[0], info[1], info[2], info[3] = after.qpos[0], velocity, forward, -control
        return forward - control, False


class _Upright(_Walker):
    """A robot in a plane, of which ``qpos`` has x, z and the angle of the torso first."""

    infos = ("x_position", "z_distance_from_origin", "x_velocity", "reward_forward", "reward_ctrl", "reward_survive")

    @staticmethod
    def constants(env: Any) -> list[float]:
        return [
            *_movement(env, 1),
            *_health(env),
            *env._healthy_angle_range,
            *getattr(env, "_healthy_state_range", (-math.inf, math.inf)),
            env.init_qpos[1],
        ]

    @staticmethod
    def step(
        before: Simulation, after: Simulation, action: NDArray[np.float32], constants: Array, observation: Array, info: Array
    ) -> tuple[float, bool]:
        skipped, dt, forward_weight, control_weight = int(constants[0]), constants[1], constants[2], constants[3]
        health, terminates, low, high = constants[4], constants[5] != 0, constants[6], constants[7]
        least_angle, most_angle, least, most = constants[8], constants[9], constants[10], constants[11]
        end = observe_state(after, skipped, observation)
        for i in range(end - len(after.qvel), end):
            observation[i] = min(max(observation[i], -10.0), 10.0)
        velocity = (after.qpos[0] - before.qpos[0]) / dt
        healthy = low < after.qpos[1] < high and least_angle < after.qpos[2] < most_angle
        if least > -math.inf or most < math.inf:
            healthy = healthy and ((least < after.qpos[2:]) & (after.qpos[2:] < most)).all()
            healthy = healthy and ((least < after.qvel) & (after.qvel < most)).all()
        forward, control = forward_weight * velocity, control_cost(control_weight, action)
        survive = health if healthy else 0.0
        info[0], info[1], info[2] = after.qpos[0], after.qpos[1] - constants[12], velocity
        info[3], info[4], info[5] = forward, -control, survive
        return (forward + survive) - control, terminates and not healthy


family(HopperEnv, Walker2dEnv)(_Upright)


@family(HumanoidEnv)
class Humanoid(_Touching):
    """``Humanoid-v5``."""

    infos = (
        *_MOVING,
        "reward_survive",
        "reward_forward",
        "reward_ctrl",
        "reward_contact",
    )

    @staticmethod
    def constants(env: Any) -> list[float]:
        return [
            *_movement(env, 2),
            *_health(env),
            env._contact_cost_weight,
            *env._contact_cost_range,
            env._include_cinert_in_observation is True,
            env._include_cvel_in_observation is True,
            env._include_qfrc_actuator_in_observation is True,
            env._include_cfrc_ext_in_observation is True,
            env.model.body_mass.sum(),
            *env.model.body_mass,
        ]

    @staticmethod
    def more_info(env: Any) -> dict[str, Any]:
        lengths, velocities = env.data.ten_length.copy(), env.data.ten_velocity.copy()
        return {"distance_from_origin": _distance(env), "tendon_length": lengths, "tendon_velocity": velocities}

    @staticmethod
    def step(
        before: Simulation,
        after: Simulation,
        action: NDArray[np.float32],  # noqa: ARG004  it pays for the control that MuJoCo received
        constants: Array,
        observation: Array,
        info: Array,
    ) -> tuple[float, bool]:
        skipped, dt, forward_weight, control_weight = int(constants[0]), constants[1], constants[2], constants[3]
        health, terminates, low, high = constants[4], constants[5] != 0, constants[6], constants[7]
        contact_weight, least, most = constants[8], constants[9], constants[10]
        mass, masses = constants[15], constants[16:]
        at = observe_state(after, skipped, observation)
        if constants[11] != 0:
            at = observe_rows(after.cinert, -math.inf, math.inf, at, observation)
        if constants[12] != 0:
            at = observe_rows(after.cvel, -math.inf, math.inf, at, observation)
        if constants[13] != 0:
            observation[at : at + len(after.qfrc_actuator) - 6] = after.qfrc_actuator[6:]
            at += len(after.qfrc_actuator) - 6
        if constants[14] != 0:
            observe_rows(after.cfrc_ext, -math.inf, math.inf, at, observation)
        x, y = after.qpos[0], after.qpos[1]
        info[0], info[1] = x, y
        for k in range(2):
            moment_before, moment_after = 0.0, 0.0
            for i in range(len(masses)):
                moment_before += masses[i] * before.xipos[i, k]
                moment_after += masses[i] * after.xipos[i, k]
            info[2 + k] = (moment_after / mass - moment_before / mass) / dt
        healthy = low < after.qpos[2] < high
        survive, forward = health if healthy else 0.0, forward_weight * info[2]
        control = control_weight * sum_of_squares(after.ctrl)
        contact = min(max(contact_weight * sum_of_squares(after.cfrc_ext.ravel()), least), most)
        info[4], info[5], info[6], info[7] = survive, forward, -control, -contact
        return (forward + survive) - (control + contact), terminates and not healthy


@family(SwimmerEnv)
class Swimmer(_Walker):
    """``Swimmer-v5``."""

    infos = (
        *_MOVING,
        "reward_forward",
        "reward_ctrl",
    )

    @staticmethod
    def constants(env: Any) -> list[float]:
        return _movement(env, 2)

    @staticmethod
    def more_info(env: Any) -> dict[str, Any]:
        return {"distance_from_origin": _distance(env)}

    @staticmethod
    def step(
        before: Simulation, after: Simulation, action: NDArray[np.float32], constants: Array, observation: Array, info: Array
    ) -> tuple[float, bool]:
        skipped, dt, forward_weight, control_weight = int(constants[0]), constants[1], constants[2], constants[3]
        observe_state(after, skipped, observation)
        x, y = after.qpos[0], after.qpos[1]
        info[0], info[1] = x, y
        info[2], info[3] = (x - before.qpos[0]) / dt, (y - before.qpos[1]) / dt
        forward, control = forward_weight * info[2], control_cost(control_weight, action)
        info[4], info[5] = forward, -control
        return forward - control, False
