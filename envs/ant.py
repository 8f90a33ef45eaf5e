"""The Ant whose friction keeps changing."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.envs.mujoco.ant_v5 import AntEnv

from envs.nonstationary import DEFAULT_PERIOD, NonStationary
from envs.published import TerminateAfter, UnclippedActions


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
    env: gymnasium.Env[Any, Any] = AntEnv(**(published | ant_kwargs))
    if unclipped_actions:
        env = UnclippedActions(env)
    env = NonStationary(env, parameter, schedule, low, high, period, change_at, seed)
    return env if terminate_after is None else TerminateAfter(env, terminate_after)
