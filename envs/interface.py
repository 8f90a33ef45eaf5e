"""What stands between agent and environment: what is observed and done, disturbed, lost or delayed.

Their values are in the units of observations and actions, and alike for every entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from envs.checks import ParameterError, env_name
from envs.effects import Acting, Effect, Parameter
from envs.places import Array, Subject

MOST_DELAY = 1000
"""Steps: as long as an episode of most environments."""


class InterfaceEffect(Acting):
    """Acts on the observations that arrive at the agent, or on the actions that arrive at the environment.

    Args:
        space: Of the observations or actions: a Box.
        acts_on: ``"observation"`` or ``"action"``.
    """

    def __init__(self, space: Any, acts_on: str) -> None:
        self.acts_on = acts_on
        self.arriving(space)
        super().__init__()

    def arriving(self, space: Any) -> Any:
        """The space of what arrives, where what comes is of this space; observations may have gone through other effects."""
        self._space = space
        self._bounded = bool(np.isfinite(space.low).any() or np.isfinite(space.high).any())
        return space

    def change(self, array: Array) -> Array:
        """What arrives."""
        raise NotImplementedError

    def _inside(self, array: Array) -> Array:
        """The array in its type, clipped to its space."""
        inside: Array = array.astype(self._space.dtype, copy=False)
        return np.clip(inside, self._space.low, self._space.high) if self._bounded else inside


class Noise(InterfaceEffect):
    """Adds independent normal numbers."""

    def change(self, array: Array) -> Array:
        """What arrives."""
        return self._inside(array + self._value * self._generator.standard_normal(np.shape(array)))


class Bias(InterfaceEffect):
    """Adds a constant."""

    def change(self, array: Array) -> Array:
        """What arrives."""
        return self._inside(array + self._value)


class Delay(InterfaceEffect):
    """Hands on what came some steps ago; before an episode's first action has arrived, the action nearest to zero."""

    def __init__(self, space: Any, acts_on: str) -> None:
        super().__init__(space, acts_on)
        self._past: list[Array] = []
        self._sent = np.empty(0)

    def begin_episode(self) -> None:
        """Forgets the actions of the last episode."""
        self._past = []

    def change(self, array: Array) -> Array:
        """The action of so many steps ago."""
        self._sent = np.array(array)
        steps = int(self._value)
        if not steps:
            return self._sent.copy()
        return self._past[-steps].copy() if steps <= len(self._past) else self._inside(np.zeros(self._space.shape))

    def end_step(self) -> None:
        """Keeps the action for the steps that follow."""
        self._past.append(self._sent)
        del self._past[:-MOST_DELAY]

    def state_dict(self) -> dict[str, Any]:
        """The actions that may still arrive, with their types: the same number in another one brings other bits."""
        return super().state_dict() | {"past": [[action.dtype.str, action.tolist()] for action in self._past]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        super().load_state_dict(state)
        self._past = [np.array(action, kind) for kind, action in state["past"]]


class Dropout(InterfaceEffect):
    """Loses entries: in each step each with the same chance, and then it is 0."""

    def change(self, array: Array) -> Array:
        """What arrives."""
        kept = self._generator.random(np.shape(array)) >= self._value
        return self._inside(np.where(kept, array, 0))


class Dead(InterfaceEffect):
    """Is 0 in one entry; entries count from 1, and 0 is none of them."""

    def __init__(self, space: Any, acts_on: str) -> None:
        super().__init__(space, acts_on)
        self.highest = float(np.prod(space.shape))

    def change(self, array: Array) -> Array:
        """What arrives."""
        if not self._value:
            return array
        changed = np.array(array)
        changed.flat[int(self._value) - 1] = 0
        return self._inside(changed)


class Permutation(InterfaceEffect):
    """Hands on the entries in another order, which follows from the value: 0 is their own, and no other number is."""

    def __init__(self, space: Any, acts_on: str) -> None:
        super().__init__(space, acts_on)
        self._order = own = np.arange(int(np.prod(space.shape)))
        if len(own) < 2:
            self.highest = 0.0

    def arriving(self, space: Any) -> Any:
        """Observations get the same bounds for all entries, as each may come from any place; actions keep theirs."""
        low, high = space.low.min(), space.high.max()
        if self.acts_on == "observation" and ((space.low != low).any() or (space.high != high).any()):
            space = Box(low, high, space.shape, space.dtype)
        return super().arriving(space)

    def apply(self, subject: Subject, value: float) -> None:
        """Puts a value into force from the next step on."""
        super().apply(subject, value)
        own = np.arange(len(self._order))
        generator = np.random.Generator(np.random.PCG64(int(value)))
        self._order = own
        while value and (self._order == own).all():
            self._order = np.argsort(generator.random(len(own)))

    def change(self, array: Array) -> Array:
        """What arrives."""
        return self._inside(np.reshape(np.ravel(array)[self._order], np.shape(array))) if self._value else array


@dataclass(frozen=True)
class Interface(Parameter):
    """A quantity of the interface.

    Attributes:
        effect: What it does.
        acts_on: ``"observation"`` or ``"action"``.
    """

    effect: type[InterfaceEffect] = InterfaceEffect
    acts_on: str = "observation"

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:  # noqa: ARG002
        """The parameter of one environment; changes nothing yet."""
        if part is not None:
            raise ParameterError(f"{self.name} has no parts that change by themselves, got {part!r}")
        space = subject.env.observation_space if self.acts_on == "observation" else subject.env.action_space
        if not (isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)):
            raise ParameterError(f"{self.name} needs {self.needs}, got {space} of {env_name(subject.env)}")
        effect = self.effect(space, self.acts_on)
        if effect.highest == 0:
            raise ParameterError(f"{self.name} needs two entries or more, got {space} of {env_name(subject.env)}")
        return effect
