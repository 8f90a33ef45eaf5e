"""Three habits of the published environments that today's Gymnasium does not have."""

from __future__ import annotations

from typing import Any, SupportsFloat, TypeVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from envs import checks
from envs.simulation import check_env, find_model

ObsType = TypeVar("ObsType")
ActType = TypeVar("ActType")

ACTION_BOUND = 1e6
"""Beyond every action that a policy draws."""


class UnclippedActions(gymnasium.Wrapper[ObsType, NDArray[np.float32], ObsType, NDArray[np.float32]], RecordConstructorArgs):
    """Lets actions beyond the actuators' range through to a MuJoCo environment.

    Agents clip actions to the action space, so this one is given bounds of ±10⁶ (finite: Stable-Baselines3 refuses infinite
    ones). MuJoCo clamps the controls itself, so the physics is that of the clipped action, but the environment's control cost
    is that of the action as the agent drew it: −0.5·Σa² for the Ant.

    Args:
        env: A MuJoCo environment with a Box of float32 actions, all of whose actuators limit their control.

    Raises:
        envs.ParameterError: Another environment.
    """

    def __init__(self, env: gymnasium.Env[ObsType, NDArray[np.float32]]) -> None:
        model = find_model(env)
        if not isinstance(env.action_space, Box):
            raise checks.ParameterError(f"env must have a Box of actions, got {env.action_space} of {checks.env_name(env)}")
        if not model.actuator_ctrllimited.all():
            raise checks.ParameterError(f"env must limit the control of every actuator, got {checks.env_name(env)}")
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self.action_space = Box(-ACTION_BOUND, ACTION_BOUND, env.action_space.shape, np.float32)


def pays_health(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether a MuJoCo environment pays a reward for being healthy as Gymnasium's do."""
    return hasattr(env.unwrapped, "_healthy_reward")


class HealthyRewardOnFall(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Pays the reward for being healthy also in the step in which a MuJoCo robot falls and the episode ends.

    Gymnasium's environments did so up to version 4, and the ``v3`` of the published experiments.

    Args:
        env: One of Gymnasium's ``Ant-v5``, ``Hopper-v5``, ``Walker2d-v5`` and ``Humanoid-v5``, or one that pays as they do.

    Raises:
        envs.ParameterError: An environment that pays no reward for being healthy.
    """

    def __init__(self, env: gymnasium.Env[ObsType, ActType]) -> None:
        find_model(env)
        if not pays_health(env):
            raise checks.ParameterError(f"env must pay a reward for being healthy, which {checks.env_name(env)} does not")
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment.

        Args:
            action: The environment's action.

        Returns:
            What the environment returned, with the reward added where it has terminated.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated and not info.get("reward_survive", True):  # where it has not been paid; older versions always pay
            healthy = float(self.env.unwrapped._healthy_reward)  # type: ignore[attr-defined]
            reward = float(reward) + healthy
            info["reward_survive"] = healthy
        return observation, reward, terminated, truncated, info


class TerminateAfter(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Terminates, instead of truncating, an episode after so many steps.

    A learner then takes the time limit for the end of the task and adds no value of the state that would have followed.

    Args:
        env: Any environment.
        steps: Steps of an episode, at least 1. Where a time limit truncates at the same step, both flags are set, and
            Stable-Baselines3 counts the episode as terminated.

    Raises:
        envs.ParameterError: An argument that is not one of those above.
    """

    def __init__(self, env: gymnasium.Env[ObsType, ActType], steps: int) -> None:
        check_env(env)
        self._limit = checks.integer("steps", steps, lowest=1)
        RecordConstructorArgs.__init__(self, steps=self._limit)
        gymnasium.Wrapper.__init__(self, env)
        self._elapsed = 0

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment and terminates at the limit.

        Args:
            action: The environment's action.

        Returns:
            What the environment returned, terminated from the limit on.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._elapsed += 1
        return observation, reward, terminated or self._elapsed >= self._limit, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environment and the count of steps.

        Args:
            seed: Passed on to the environment.
            options: Passed on to the environment.

        Returns:
            The observation and ``info`` of the environment.
        """
        self._elapsed = 0
        return self.env.reset(seed=seed, options=options)

    def steps_left(self) -> int:
        """Steps up to the limit."""
        return self._limit - self._elapsed

    def skip(self, steps: int) -> None:
        """Counts steps that were taken without it and did not reach the limit."""
        self._elapsed += steps
