"""The environments that this package registers with Gymnasium."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

from envs.ant import Ant
from envs.nonstationary import DEFAULT_PERIOD, NonStationary
from envs.published import HealthyRewardOnFall, TerminateAfter, UnclippedActions, pays_health
from envs.tasks import Task, TaskSequence

EPISODE = 1000
"""Steps after which an episode is cut off: Gymnasium's own limit of all of them, and that of the published experiments."""

NONSTATIONARY = "envs.registered:make_nonstationary"
STATIONARY = "envs.registered:make_stationary"
SEQUENCE = "envs.registered:make_sequence"

# In the MuJoCo of the published experiments contact forces were never filled in: observation and cost of them were always 0.
_WITHOUT_CONTACT_FORCES = {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}

_BASES: dict[str, tuple[type[gymnasium.Env[Any, Any]], dict[str, Any]]] = {
    "Ant-v5": (Ant, _WITHOUT_CONTACT_FORCES),
    "HalfCheetah-v5": (HalfCheetahEnv, {}),
    "Hopper-v5": (HopperEnv, {}),
    "Humanoid-v5": (HumanoidEnv, {}),
    "Swimmer-v5": (SwimmerEnv, {}),
    "Walker2d-v5": (Walker2dEnv, {}),
}


def make_nonstationary(
    *,
    base: str,
    parameter: str | Mapping[str, Mapping[str, Any]] = "friction",
    schedule: Any = None,
    low: float | None = None,
    high: float | None = None,
    period: int = DEFAULT_PERIOD,
    change_at: str = "episode_end",
    seed: int | None = None,
    factor: bool | None = None,
    count: str = "steps",
    observe: bool = False,
    unclipped_actions: bool = False,
    terminate_after: int | None = None,
    healthy_reward_on_fall: bool = False,
    **base_kwargs: Any,
) -> gymnasium.Env[Any, Any]:
    """Makes what ``gymnasium.make("ant-nonstationary-v0")`` and its like wrap in a time limit of 1,000 steps.

    The Ant is Gymnasium's ``Ant-v5`` without contact forces in the observation (27 numbers stay) and without contact cost: in
    the MuJoCo of the published experiments those forces were never filled in, so both were always 0. The others are Gymnasium's
    own. Swimmer, whose geoms never touch, is registered with ``parameter="viscosity"``.

    Args:
        base: Gymnasium's environment that changes, such as ``"Ant-v5"``; each id is registered with its own.
        parameter: As in :class:`envs.NonStationary`, like all up to ``observe``.
        schedule: How the values are drawn.
        low: The least value.
        high: The greatest value.
        period: Steps or episodes between changes.
        change_at: ``"episode_end"`` or ``"now"``.
        seed: Fixes the sequence of values.
        factor: Whether values are multiples of the model's own.
        count: What the period counts.
        observe: Whether the values in force are appended to the observation.
        unclipped_actions: Count the control cost of actions as the agent drew them, see :class:`envs.UnclippedActions`. True
            in the published experiments.
        terminate_after: Steps after which an episode terminates, see :class:`envs.TerminateAfter`. 1,000 in the published
            experiments; above the registered time limit it has no effect unless ``max_episode_steps`` is raised too.
        healthy_reward_on_fall: Pay the reward for being healthy in the step of the fall, too, see
            :class:`envs.HealthyRewardOnFall`; nothing where there is no such reward. True in the published experiments.
        **base_kwargs: Arguments of the base, such as ``render_mode``, ``width`` and ``height``.

    Returns:
        The environment.

    Raises:
        envs.ParameterError: An argument that :class:`envs.NonStationary` or :class:`envs.TerminateAfter` refuses.

    Source:
        Dohare et al., Loss of plasticity in deep continual learning, Nature 632 (2024), and the code published with it.
    """
    env = _make(base, base_kwargs, unclipped_actions, healthy_reward_on_fall)
    env = NonStationary(env, parameter, schedule, low, high, period, change_at, seed, factor, count, observe)
    return env if terminate_after is None else TerminateAfter(env, terminate_after)


def make_stationary(
    *,
    base: str,
    unclipped_actions: bool = True,
    terminate_after: int | None = EPISODE,
    healthy_reward_on_fall: bool = True,
    **base_kwargs: Any,
) -> gymnasium.Env[Any, Any]:
    """Makes what ``gymnasium.make("ant-stationary-v0")`` and its like wrap in a time limit of 1,000 steps.

    The stationary problems of the paper, as today's Gymnasium can be made to give them: control cost of actions as the agent
    drew them, episodes that terminate at the time limit, a reward for being healthy in the step of the fall, too, the Ant as in
    :func:`make_nonstationary`, the Walker2d with the unequal feet it had then.

    Args:
        base: Gymnasium's environment; each id is registered with its own.
        unclipped_actions: As in :func:`make_nonstationary`; the default is that of the published experiments, as the next.
        terminate_after: Steps after which an episode terminates; None leaves the time limit a truncation.
        healthy_reward_on_fall: As in :func:`make_nonstationary`.
        **base_kwargs: Arguments of the base, such as ``render_mode``.

    Returns:
        The environment.

    Raises:
        envs.ParameterError: An argument that :class:`envs.TerminateAfter` refuses.

    Source:
        Dohare et al., Loss of plasticity in deep continual learning, Nature 632 (2024), and the code published with it.
    """
    env = _make(base, base_kwargs, unclipped_actions, healthy_reward_on_fall)
    return env if terminate_after is None else TerminateAfter(env, terminate_after)


def make_sequence(*, tasks: Sequence[Task] = (), **kwargs: Any) -> TaskSequence:
    """Makes what ``gymnasium.make("task-sequence-v0", tasks=[…])`` returns: an :class:`envs.TaskSequence`.

    Args:
        tasks: As for the class; none are refused there.
        **kwargs: As for the class.
    """
    return TaskSequence(tasks or [], **kwargs)


def _make(base: str, kwargs: dict[str, Any], unclipped_actions: bool, healthy_reward_on_fall: bool) -> gymnasium.Env[Any, Any]:
    kind, defaults = _BASES[base]
    env = kind(**(defaults | kwargs))
    if healthy_reward_on_fall and pays_health(env):
        env = HealthyRewardOnFall(env)
    return UnclippedActions(env) if unclipped_actions else env


def register() -> None:
    """Registers all with Gymnasium, which warns when an id is registered twice; so none that is there already."""
    environments: dict[str, tuple[str, dict[str, Any]]] = {
        **{f"{base.removesuffix('-v5').lower()}-nonstationary-v0": (NONSTATIONARY, {"base": base}) for base in _BASES},
        "swimmer-nonstationary-v0": (NONSTATIONARY, {"base": "Swimmer-v5", "parameter": "viscosity"}),
        "ant-stationary-v0": (STATIONARY, {"base": "Ant-v5"}),
        "hopper-stationary-v0": (STATIONARY, {"base": "Hopper-v5"}),
        "walker2d-stationary-v0": (STATIONARY, {"base": "Walker2d-v5", "xml_file": "walker2d.xml"}),
    }
    for name, (entry_point, kwargs) in environments.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point, kwargs=kwargs, max_episode_steps=EPISODE)
    if "task-sequence-v0" not in gymnasium.registry:
        gymnasium.register("task-sequence-v0", entry_point=SEQUENCE)  # each task has a time limit of its own
