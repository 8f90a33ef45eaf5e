"""One environment whose steps compiled code may take: what that code must know, and what its wrappers must be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from numpy.typing import NDArray

from envs.native.simulation import Array, Family, Simulation, family_of, python_callbacks
from envs.nonstationary import NonStationary
from envs.published import HealthyRewardOnFall, TerminateAfter, UnclippedActions

Transition = tuple[Any, Any, bool, bool, dict[str, Any]]

_FIELDS = Simulation._fields
_PLAIN = (OrderEnforcing, PassiveEnvChecker, UnclippedActions, HealthyRewardOnFall)
"""Wrappers that do nothing in a step in which the episode does not end."""


class NativeStepError(RuntimeError):
    """The step of a family is not that of its environment."""


def unsupported(
    env: gymnasium.Env[Any, Any], *, monitor: type[gymnasium.Wrapper[Any, Any, Any, Any]] | None = None
) -> str | None:
    """Why compiled code cannot step an environment, in words; None where it can.

    Args:
        env: An environment, with wrappers or without.
        monitor: A wrapper that keeps the rewards of an episode as Stable-Baselines3's ``Monitor`` does.
    """
    base = env.unwrapped
    name = type(base).__name__
    kind = family_of(base)
    if kind is None:
        return f"{name} is none of the environments whose step is compiled (envs.native)"
    for layer in _layers(env):
        if type(layer) is NonStationary:
            if layer.acts_in_steps:
                return "observations, actions, rewards or velocities are changed in steps"
        elif type(layer) not in (*_PLAIN, TimeLimit, TerminateAfter, monitor):
            return f"the wrapper {type(layer).__name__} has to see every step"
    if callbacks := python_callbacks():
        return f"{callbacks[0]} is a Python function"
    reason = kind.unsupported(base)
    return reason and f"{name}: {reason}"


def _layers(env: gymnasium.Env[Any, Any]) -> list[Any]:
    layers: list[Any] = []
    while isinstance(env, gymnasium.Wrapper):
        layers.append(env)
        env = env.env
    return layers


class NativeEnv:
    """An environment for which :func:`unsupported` has found nothing.

    A *stretch* is a number of steps in which nothing happens but simulation. Compiled code takes it, and :meth:`skip` tells the
    wrappers. The step that ends an episode or a phase, and the first of a phase, is an *event*: compiled code simulates it, and
    :meth:`take` leads it through the environment's own ``step`` and its wrappers, whose word counts.

    Args:
        env: The environment.

    Attributes:
        family: Its family.
        shapes: Of the arrays of :class:`Simulation`, with two axes each.
        size: How many numbers all of these are together.
        controls: How many numbers the simulation is given in a step.
        frame_skip: Steps of the simulation in a step of the environment.
        needs_contact_forces: Whether ``cfrc_ext`` is to be computed after each step.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env = env
        base: Any = env.unwrapped
        self._base: Any = base
        family = family_of(base)
        assert family is not None  # noqa: S101
        self.family: type[Family] = family
        self._layers = layers = _layers(env)
        self._methods = frozenset(name for name in dir(type(base)) if callable(getattr(type(base), name, None)))
        self._attributes = 0  # how many the environment had when none of them was found to be a method
        self._limits: list[Any] = [layer for layer in layers if isinstance(layer, TimeLimit | TerminateAfter)]
        self._monitors = [layer for layer in layers if hasattr(layer, "rewards")]
        self._orders = [layer for layer in layers if isinstance(layer, OrderEnforcing)]
        self._checkers = [layer for layer in layers if isinstance(layer, PassiveEnvChecker)]
        self._changing = next((layer for layer in layers if isinstance(layer, NonStationary)), None)
        self._forced = 0  # how often the changing layer had put values into force when it was looked up
        self.shapes = [(*array.shape, 1)[:2] for array in self._arrays()]
        self.size = sum(array.size for array in self._arrays())
        self.controls = int(base.model.nu)
        self.frame_skip = int(base.frame_skip)
        self.needs_contact_forces = family.needs_contact_forces(self._base)

    def _arrays(self) -> list[Array]:
        return [getattr(self._base.data, name) for name in _FIELDS]

    def look_up(self) -> tuple[list[int], list[float]]:
        """What may be another after a reset.

        Returns:
            Where model, data and the arrays of :class:`Simulation` lie in memory; the constants of the family.
        """
        if self._changing is not None:
            self._forced = self._changing.times_forced
        model, data = self._base.model, self._base.data
        addresses = [model._address, data._address, *(array.__array_interface__["data"][0] for array in self._arrays())]
        return addresses, self.family.constants(self._base)

    @property
    def constants(self) -> list[float]:
        """The constants of the family, as they are now."""
        return self.family.constants(self._base)

    @property
    def phase(self) -> dict[str, Any]:
        """What ``info`` says of the phase within it; empty where nothing changes."""
        return {} if self._changing is None else {**self._changing.values, "phase": self._changing.phase, "changed": False}

    def room(self) -> int:
        """Steps up to the next event, which is the last of them; 0 where the next step must be the environment's own."""
        if not all(order._has_reset for order in self._orders) or any(monitor.needs_reset for monitor in self._monitors):
            return 0  # its own step says so
        if self._changing is not None and self._changing.times_forced != self._forced:
            return 0  # a value was set by hand
        if self._steps_otherwise():
            return 0
        self._checkers = [checker for checker in self._checkers if not _has_checked(checker)]
        if self._checkers and not (self._changing and self._changing.steps_to_event() == 0):
            return 1
        room = [limit.steps_left() if isinstance(limit, TerminateAfter) else _steps_left(limit) for limit in self._limits]
        if self._changing is not None:
            room.append(self._changing.steps_to_event())
        return max(0, min(room, default=2**31))

    def _steps_otherwise(self) -> bool:
        """Whether the environment has another step than it was made with: a method of its own, or more or less simulation."""
        base = self._base
        if len(vars(base)) != self._attributes:
            if not self._methods.isdisjoint(vars(base)):
                return True
            self._attributes = len(vars(base))
        if base.frame_skip != self.frame_skip or self.family.needs_contact_forces(base) != self.needs_contact_forces:
            return True
        return any("step" in vars(layer) for layer in self._layers)

    def skip(self, rewards: Sequence[float]) -> None:
        """Tells the wrappers of a stretch with these rewards."""
        steps = len(rewards)
        for limit in self._limits:
            if isinstance(limit, TerminateAfter):
                limit.skip(steps)
            else:
                limit._elapsed_steps += steps
        for monitor in self._monitors:
            monitor.rewards.extend(rewards)
            monitor.total_steps += steps
        if self._changing is not None:
            self._changing.skip(steps)

    def info(self, row: Array) -> dict[str, Any]:
        """What ``info`` says after a step of a stretch.

        Args:
            row: What the family's step has filled in.
        """
        return dict(zip(self.family.infos, row.tolist(), strict=True)) | self.family.more_info(self._base) | self.phase

    def take(
        self, action: NDArray[np.float32], before: Array, observation: Array, reward: float, terminated: bool
    ) -> Transition:
        """Leads an event, which has been simulated, through the environment and its wrappers.

        Args:
            action: As the environment receives it.
            before: The arrays of :class:`Simulation` before the step, one after the other.
            observation: What the family's step returned, as the next two.
            reward: Without what wrappers make of it.
            terminated: By the environment itself.

        Returns:
            What ``env.step`` would have.

        Raises:
            NativeStepError: The environment says otherwise.
        """
        base = self._base
        after = [array.copy() for array in self._arrays()]
        ends = np.cumsum([array.size for array in after])
        for array, earlier in zip(self._arrays(), np.split(before, ends[:-1]), strict=True):
            array.flat[:] = earlier

        def simulated(*_: Any) -> None:
            for array, later in zip(self._arrays(), after, strict=True):
                array[...] = later

        base._step_mujoco_simulation = simulated
        try:
            transition = base.step(action)
        finally:
            del base._step_mujoco_simulation
        self._check(transition, observation, reward, terminated)
        base.step = lambda _: transition
        try:
            return self.env.step(action)
        finally:
            del base.step

    def _check(self, transition: Transition, observation: Array, reward: float, terminated: bool) -> None:
        expected: dict[str, Any] = {
            "observation": transition[0],
            "reward": float(transition[1]),
            "terminated": bool(transition[2]),
        }
        found: dict[str, Any] = {"observation": observation, "reward": reward, "terminated": terminated}
        for name, value in expected.items():
            if not np.allclose(found[name], value, rtol=1e-9, atol=1e-12, equal_nan=True):
                kind = self.family.__name__
                raise NativeStepError(
                    f"{name} of {type(self._base).__name__} is {value}, and of its family {kind} {found[name]}: mend "
                    f"{kind}.step, or say in {kind}.unsupported of which environments it is not"
                )


def _has_checked(checker: Any) -> bool:
    """Whether it has seen the steps that it looks at: the first, in newer versions of Gymnasium the second too."""
    return checker.checked_step and getattr(checker, "checked_data_reuse", True)


def _steps_left(limit: Any) -> int:
    return int(limit._max_episode_steps - limit._elapsed_steps)
