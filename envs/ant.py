"""The Ant whose friction keeps changing."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from numpy.typing import NDArray

from envs.nonstationary import DEFAULT_PERIOD, NonStationary
from envs.published import TerminateAfter, UnclippedActions


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
        data.ctrl[:] = action
        mujoco.mj_step(self.model, data, nstep=self.frame_skip)
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


def make_ant(
    *,
    parameter: str = "friction",
    schedule: str = "log_uniform",
    low: float | None = None,
    high: float | None = None,
    period: int = DEFAULT_PERIOD,
    change_at: str = "episode_end",
    seed: int | None = None,
    unclipped_actions: bool = False,
    terminate_after: int | None = None,
    **ant_kwargs: Any,
) -> gymnasium.Env[Any, Any]:
    """Makes what ``gymnasium.make("ant-nonstationary-v0")`` wraps in a time limit of 1,000 steps.

    The Ant is Gymnasium's ``Ant-v5`` without contact forces in the observation (27 numbers stay) and without contact cost: in
    the MuJoCo of the published experiments those forces were never filled in, so both were always 0.

    Args:
        parameter: As in :class:`envs.NonStationary`, like the next six.
        schedule: How the values are drawn.
        low: The least value.
        high: The greatest value.
        period: Steps between changes.
        change_at: ``"episode_end"`` or ``"now"``.
        seed: Fixes the sequence of values.
        unclipped_actions: Count the control cost of actions as the agent drew them, see :class:`envs.UnclippedActions`. True
            in the published experiments.
        terminate_after: Steps after which an episode terminates, see :class:`envs.TerminateAfter`. 1,000 in the published
            experiments; above the registered time limit it has no effect unless ``max_episode_steps`` is raised too.
        **ant_kwargs: Arguments of ``Ant-v5``, such as ``render_mode``, ``width`` and ``height``.

    Returns:
        The environment.

    Raises:
        envs.ParameterError: An argument that :class:`envs.NonStationary` or :class:`envs.TerminateAfter` refuses.

    Source:
        Dohare et al., Loss of plasticity in deep continual learning, Nature 632 (2024), and the code published with it.
    """
    published: dict[str, Any] = {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}
    env: gymnasium.Env[Any, Any] = Ant(**(published | ant_kwargs))
    if unclipped_actions:
        env = UnclippedActions(env)
    env = NonStationary(env, parameter, schedule, low, high, period, change_at, seed)
    return env if terminate_after is None else TerminateAfter(env, terminate_after)
