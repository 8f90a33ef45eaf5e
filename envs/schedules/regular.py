"""Schedules without chance: functions of the phase."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import get_args

from envs import checks
from envs.schedules.base import At, Scale, Schedule, State


@dataclass(frozen=True)
class _Regular(Schedule):
    """A function of the phase alone.

    Attributes:
        length: Phases until it begins again, or, of a drift, until it has arrived.
        scale: Whether it runs evenly through the values, or through their logarithms.
    """

    length: int = 20
    scale: Scale = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", checks.integer("length", self.length, 2))
        checks.choice("scale", self.scale, get_args(Scale))

    def draw(self, at: At) -> tuple[float, State]:
        """The value at the phase's share of the range."""
        return at.share(self._share(at.phase), self.scale), None

    @abstractmethod
    def _share(self, phase: int) -> float:
        """Where it is in the range: 0 at the least value, 1 at the greatest."""


@dataclass(frozen=True)
class Drift(_Regular, name="drift"):
    """Moves evenly from the least value to the greatest, where it arrives after ``length`` phases and stays.

    Attributes:
        length: See there.
        scale: Whether it runs evenly through the values, or through their logarithms.
        falling: Whether it goes from the greatest value to the least.
    """

    falling: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "falling", checks.boolean("falling", self.falling))

    def _share(self, phase: int) -> float:
        share = min(phase / self.length, 1.0)
        return 1 - share if self.falling else share


@dataclass(frozen=True)
class Sine(_Regular, name="sine"):
    """Swings between the ends of the range: ½ + ½·sin(2π·phase/length) of it."""

    def _share(self, phase: int) -> float:
        return 0.5 + 0.5 * math.sin(2 * math.pi * (phase % self.length) / self.length)


@dataclass(frozen=True)
class Saw(_Regular, name="saw"):
    """Rises evenly from the least value to the greatest in ``length`` phases, then falls back to the least at once."""

    def _share(self, phase: int) -> float:
        return (phase % self.length) / (self.length - 1)


@dataclass(frozen=True)
class Square(_Regular, name="square"):
    """Is at the least value for half of ``length`` phases (rounded up), and at the greatest for the rest."""

    def _share(self, phase: int) -> float:
        return float(2 * (phase % self.length) >= self.length)
