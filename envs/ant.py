"""Gymnasium's Ant in less time."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from numpy.typing import NDArray


class Ant(AntEnv):
    """Gymnasium's ``Ant-v5`` in fewer lines of Python, where contact forces are neither observed nor paid for.

    Observations, rewards and flags are the same to the bit. A step holds the interpreter's lock for 6 µs, not 31, so that
    threads which step several environments wait less for each other. Contact forces, ``data.cfrc_ext``, are not computed then.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Splitting constraints into islands costs an Ant, which is one island, 5 % and changes no bit of its trajectory.
        self._options = self.model.opt
        self._options.disableflags |= mujoco.mjtDisableBit.mjDSBL_ISLAND
        self._is_plain = not (
            self._contact_cost_weight
            or self._include_cfrc_ext_in_observation
            or not self._exclude_current_positions_from_observation
            or self._main_body != 1
            or self.render_mode == "human"
        )

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], Any, bool, bool, dict[str, Any]]:
        """Simulates ``frame_skip`` steps of the physics under an action: ``(8,)``."""
        if not self._is_plain or np.shape(action) != (self.model.nu,):
            return super().step(action)  # type: ignore[no-any-return, no-untyped-call]
        data = self.data
        torso = data.xpos[1]
        x_before, y_before, _ = torso.tolist()
        self._step_mujoco_simulation(action, self.frame_skip)
        x_after, y_after, _ = torso.tolist()
        state = np.concatenate((data.qpos, data.qvel))
        x, y, z = state[:3].tolist()
        low, high = self._healthy_z_range
        healthy = low <= z <= high and math.isfinite(state @ state)  # MuJoCo lets no state grow beyond 10¹⁰
        dt = self._options.timestep * self.frame_skip
        x_velocity, y_velocity = (x_after - x_before) / dt, (y_after - y_before) / dt
        forward, survive = x_velocity * self._forward_reward_weight, healthy * self._healthy_reward
        control = float(self._ctrl_cost_weight * np.add.reduce(np.square(action)))
        info = {
            "x_position": x,
            "y_position": y,
            "distance_from_origin": math.hypot(x, y),
            "x_velocity": x_velocity,
            "y_velocity": y_velocity,
            "reward_forward": forward,
            "reward_ctrl": -control,
            "reward_contact": -0.0,
            "reward_survive": survive,
        }
        return state[2:], forward + survive - control, self._terminate_when_unhealthy and not healthy, False, info

    def _step_mujoco_simulation(self, ctrl: NDArray[np.float32], n_frames: int) -> None:
        if not self._is_plain:
            super()._step_mujoco_simulation(ctrl, n_frames)  # type: ignore[no-untyped-call]
            return
        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=n_frames)
