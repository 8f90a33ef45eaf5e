"""Where a walker is paid to go."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import wrappers
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv

from envs.checks import EffectError, ParameterError, env_name
from envs.effects import Acting, Effect, Parameter
from envs.places import Subject
from envs.trials import play_two, try_out

_IN_THE_PLANE = (AntEnv, HumanoidEnv, SwimmerEnv)
"""Those that say their velocity along x and y, and are paid for that along x."""

_PASS_REWARDS_ON = {
    kind.step
    for kind in (
        gymnasium.Wrapper,
        gymnasium.ActionWrapper,
        gymnasium.ObservationWrapper,
        wrappers.FrameStackObservation,
        wrappers.HumanRendering,
        wrappers.OrderEnforcing,
        wrappers.PassiveEnvChecker,
        wrappers.RecordEpisodeStatistics,
        wrappers.RecordVideo,
        wrappers.RenderCollection,
        wrappers.TimeAwareObservation,
        wrappers.TimeLimit,
    )
}
"""The steps of wrappers that take one step inside and leave its reward alone."""

_MODULES = ("envs.", "stable_baselines3.common.monitor")
"""Those whose wrappers do so, too, or add what does not depend on the direction."""


_WEIGHT = "_forward_reward_weight"

_TRIED_STEPS = 100

_ROUNDED = 1e-3
"""How much of a reward its environment may round off."""


class Direction(Parameter):
    """The angle from the x axis to the direction that is paid for."""

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:  # noqa: ARG002
        """The parameter of one environment; changes nothing yet."""
        if part is not None:
            raise ParameterError(f"{self.name} has no parts that change by themselves, got {part!r}")
        if not isinstance(subject.env.unwrapped, _IN_THE_PLANE):
            raise ParameterError(f"{self.name} needs {self.needs}, which {env_name(subject.env)} lacks")
        self._check_wrappers(subject.env)
        return _DirectionEffect()

    def try_out(self, subject: Subject) -> None:
        """Refuses an environment that pays otherwise: twice the weight must bring its velocity along x, times the weight."""
        try_out(self.name, subject.env, self._try)

    def _try(self, base: Any) -> None:
        own = float(base._forward_reward_weight) or 1.0
        changes = (lambda env: setattr(env, _WEIGHT, own), lambda env: setattr(env, _WEIGHT, 2 * own))
        for first, second in play_two(base, *changes, steps=_TRIED_STEPS):
            if np.size(first[1]) != 1:
                raise ParameterError(_several(first[1], base))
            if "x_velocity" not in first[4]:  # an error of its own once it is needed
                return
            paid, expected = float(np.squeeze(second[1] - first[1])), own * first[4]["x_velocity"]
            if not math.isclose(paid, expected, rel_tol=_ROUNDED, abs_tol=_ROUNDED):
                raise ParameterError(
                    f"{self.name} needs {self.needs}, which {env_name(base)} lacks: twice its {_WEIGHT!r} pays {paid:.4g} more "
                    f"in a step, not {expected:.4g}"
                )

    def _check_wrappers(self, env: gymnasium.Env[Any, Any]) -> None:
        while isinstance(env, gymnasium.Wrapper):
            step = type(env).step
            if step not in _PASS_REWARDS_ON and not step.__module__.startswith(_MODULES):
                raise ParameterError(
                    f"{self.name} needs the reward of each step as {env_name(env)} pays it, got {type(env).__name__} "
                    "inside, which may change it; put that around NonStationary"
                )
            env = env.env


class _DirectionEffect(Acting):
    """Pays for the velocity along a direction: r + w·(v·d − v·x)."""

    acts_on = "reward"

    def change_reward(self, subject: Subject, reward: Any, info: dict[str, Any]) -> Any:
        """The reward of a step, and its part in ``info``."""
        if not self._value:
            return reward
        if missing := [key for key in ("x_velocity", "y_velocity", "reward_forward") if key not in info]:
            raise EffectError(
                f"info of {env_name(subject.env)} must have {' and '.join(missing)}, from which its direction is paid"
            )
        if np.size(reward) != 1:  # of one that could not be tried
            raise EffectError(_several(reward, subject.env))
        angle, weight = math.radians(self._value), getattr(subject.env.unwrapped, _WEIGHT)
        along = math.cos(angle) * info["x_velocity"] + math.sin(angle) * info["y_velocity"]
        more = weight * (along - info["x_velocity"])
        info["reward_forward"] += more
        return reward + more


def _several(reward: Any, env: gymnasium.Env[Any, Any]) -> str:
    return f"goal_direction needs a reward that is one number, got {np.size(reward)} numbers of {env_name(env)}"
