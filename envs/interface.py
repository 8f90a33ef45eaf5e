"""What stands between agent and environment: noise, bias and delay of what is observed and done.

Their values are in the units of observations and actions, and alike for every entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from envs.checks import ParameterError, env_name
from envs.effects import Effect, Parameter
from envs.places import Array, Subject

MOST_DELAY = 1000
"""Steps: as long as an episode of most environments."""


class InterfaceEffect(Effect):
    """Acts on the observations that arrive at the agent, or on the actions that arrive at the environment.

    Args:
        space: Of the observations or actions: a Box.
    """

    acts_on = "observation"

    def __init__(self, space: Any) -> None:
        self._space = space
        self._bounded = bool(np.isfinite(space.low).any() or np.isfinite(space.high).any())
        self._value = 0.0
        self.restart(np.random.SeedSequence())

    def apply(self, subject: Subject, value: float) -> None:  # noqa: ARG002
        """Puts a value into force from the next step on."""
        self._value = value

    def restart(self, seed: np.random.SeedSequence) -> None:
        """Begins a sequence of random numbers."""
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def begin_episode(self) -> None:
        """Forgets what belongs to the last episode."""

    def change(self, array: Array) -> Array:
        """What arrives."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What changes with time, as JSON can hold it."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._generator.bit_generator.state = state["generator"]

    def _inside(self, array: Array) -> Array:
        """The array in its type, clipped to its space."""
        inside: Array = array.astype(self._space.dtype, copy=False)
        return np.clip(inside, self._space.low, self._space.high) if self._bounded else inside


class Noise(InterfaceEffect):
    """Adds independent normal numbers."""

    def change(self, array: Array) -> Array:
        """What arrives."""
        return self._inside(array + self._value * self._generator.standard_normal(np.shape(array)))


class ActionNoise(Noise):
    """The same of actions."""

    acts_on = "action"


class Bias(InterfaceEffect):
    """Adds a constant."""

    def change(self, array: Array) -> Array:
        """What arrives."""
        return self._inside(array + self._value)


class Delay(InterfaceEffect):
    """Hands on what came some steps ago; before an episode's first action has arrived, the action nearest to zero."""

    acts_on = "action"

    def __init__(self, space: Any) -> None:
        super().__init__(space)
        self._past: list[Array] = []

    def begin_episode(self) -> None:
        """Forgets the actions of the last episode."""
        self._past = []

    def change(self, array: Array) -> Array:
        """The action of so many steps ago."""
        self._past.append(np.array(array))
        del self._past[: -MOST_DELAY - 1]
        steps = int(self._value)
        return self._past[-1 - steps] if steps < len(self._past) else self._inside(np.zeros(self._space.shape))

    def state_dict(self) -> dict[str, Any]:
        """The actions that may still arrive, with their types: the same number in another one brings other bits."""
        return super().state_dict() | {"past": [[action.dtype.str, action.tolist()] for action in self._past]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        super().load_state_dict(state)
        self._past = [np.array(action, kind) for kind, action in state["past"]]


@dataclass(frozen=True)
class Interface(Parameter):
    """A quantity of the interface.

    Attributes:
        effect: What it does.
    """

    effect: type[InterfaceEffect] = InterfaceEffect

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:  # noqa: ARG002
        """The parameter of one environment; changes nothing yet."""
        if part is not None:
            raise ParameterError(f"{self.name} has no parts that change by themselves, got {part!r}")
        space = subject.env.observation_space if self.effect.acts_on == "observation" else subject.env.action_space
        if not (isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)):
            raise ParameterError(f"{self.name} needs {self.needs}, got {space} of {env_name(subject.env)}")
        return self.effect(space)
