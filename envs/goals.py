"""Where a walker is paid to go."""

from __future__ import annotations

import math
from typing import Any

from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv

from envs.checks import ParameterError, env_name
from envs.effects import Acting, Effect, Parameter
from envs.places import Subject

_IN_THE_PLANE = (AntEnv, HumanoidEnv, SwimmerEnv)
"""Those that say their velocity along x and y, and are paid for that along x."""


class Direction(Parameter):
    """The angle from the x axis to the direction that is paid for."""

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:  # noqa: ARG002
        """The parameter of one environment; changes nothing yet."""
        if part is not None:
            raise ParameterError(f"{self.name} has no parts that change by themselves, got {part!r}")
        if not isinstance(subject.env.unwrapped, _IN_THE_PLANE):
            raise ParameterError(f"{self.name} needs {self.needs}, which {env_name(subject.env)} lacks")
        return _DirectionEffect()


class _DirectionEffect(Acting):
    """Pays for the velocity along a direction: r + w·(v·d − v·x)."""

    acts_on = "reward"

    def change_reward(self, subject: Subject, reward: Any, info: dict[str, Any]) -> Any:
        """The reward of a step, and its part in ``info``."""
        if not self._value:
            return reward
        angle, weight = math.radians(self._value), subject.env.unwrapped._forward_reward_weight  # type: ignore[attr-defined]
        along = math.cos(angle) * info["x_velocity"] + math.sin(angle) * info["y_velocity"]
        more = weight * (along - info["x_velocity"])
        info["reward_forward"] += more
        return reward + more
