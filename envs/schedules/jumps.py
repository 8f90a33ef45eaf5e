"""Schedules that jump: each phase has a value of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from envs import checks
from envs.schedules.base import At, Schedule, State


@dataclass(frozen=True)
class LogUniform(Schedule, name="log_uniform"):
    """Jumps to a value whose logarithm is uniform: density p(x) ∝ 1/x on [low, high].

    Halving and doubling are equally likely wherever the value is, so that slippery ground is as common as rough ground.
    Source: the Slippery Ant of Dohare et al., Nature 632 (2024). Takes one number from the generator in each phase.
    """

    def draw(self, at: At) -> tuple[float, State]:
        """exp(U(log low, log high))."""
        value = math.exp(at.generator.uniform(math.log(at.low), math.log(at.high)))
        return at.kept(value), None  # exp(log(x)) can miss x by a rounding error

    @property
    def logarithmic(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True)
class Uniform(Schedule, name="uniform"):
    """Jumps to a value that is uniform on [low, high]. Takes one number from the generator in each phase."""

    def draw(self, at: At) -> tuple[float, State]:
        """U(low, high)."""
        return at.kept(at.generator.uniform(at.low, at.high)), None


@dataclass(frozen=True)
class Constant(Schedule, name="constant"):
    """Stays at one value.

    Attributes:
        value: In the parameter's unit.
    """

    value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", checks.finite("value", self.value))

    def draw(self, at: At) -> tuple[float, State]:  # noqa: ARG002
        """The value."""
        return self.value, None

    @property
    def takes_range(self) -> bool:
        """False."""
        return False

    def own_values(self) -> tuple[float, ...]:
        """The value."""
        return (self.value,)


@dataclass(frozen=True)
class Values(Schedule, name="list"):
    """Takes values from a list, one for each phase.

    Attributes:
        values: In the parameter's unit, at least one.
        at_end: After the last one comes the first again (``"repeat"``), or it stays (``"hold"``).
    """

    values: tuple[float, ...]
    at_end: Literal["repeat", "hold"] = "repeat"

    def __post_init__(self) -> None:
        values = checks.sequence("values", self.values, 1)
        object.__setattr__(self, "values", tuple(checks.finite("each of values", value) for value in values))
        checks.choice("at_end", self.at_end, ("repeat", "hold"))

    def draw(self, at: At) -> tuple[float, State]:
        """The phase's own value."""
        number = len(self.values)
        return self.values[at.phase % number if self.at_end == "repeat" else min(at.phase, number - 1)], None

    @property
    def takes_range(self) -> bool:
        """False."""
        return False

    def own_values(self) -> tuple[float, ...]:
        """All of them."""
        return self.values
