"""When parameters change: how long phases last, and a clock that counts them."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from envs import checks
from envs.checks import ParameterError

MANY_RESTARTS = 10
"""In a row, so that whoever restarts a clock a few times, as a test does, is not told."""

RESTARTED = "restarts its clock. A seed of the constructor fixes what comes, and reset() takes one for the first episode only"
"""What is told of ``reset(seed=…)`` where nothing ever changes."""

TIMES: dict[str, type[Times]] = {}
"""How long phases last, by the ``"name"`` of the description as JSON."""


@dataclass(frozen=True)
class Times(ABC):
    """Gives the length of each phase. Holds options only."""

    name: ClassVar[str]

    def __init_subclass__(cls, name: str | None = None) -> None:
        super().__init_subclass__()
        if name is not None:
            cls.name = name
            TIMES[name] = cls

    @abstractmethod
    def draw(self, phase: int, generator: np.random.Generator) -> int:
        """The length of a phase, at least 1."""

    def describe(self) -> int | dict[str, Any]:
        """The times as JSON can hold them."""
        return {"name": self.name, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class Every(Times, name="every"):
    """The same length for all.

    Attributes:
        period: Steps or episodes.
    """

    period: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "period", checks.integer("period", self.period, lowest=1))

    def draw(self, phase: int, generator: np.random.Generator) -> int:  # noqa: ARG002
        """The period."""
        return self.period

    def describe(self) -> int | dict[str, Any]:
        """The number alone."""
        return self.period


@dataclass(frozen=True)
class _Random(Times):
    """Of a mean length.

    Attributes:
        mean: Steps or episodes, at least 1.
    """

    mean: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", checks.finite("mean", self.mean, 1))


@dataclass(frozen=True)
class Geometric(_Random, name="geometric"):
    """Changes come at each step with the same chance, 1/``mean``: a phase has no memory of how long it has lasted."""

    def draw(self, phase: int, generator: np.random.Generator) -> int:  # noqa: ARG002
        """G(1/mean): 1, 2, …."""
        return int(generator.geometric(1 / self.mean))


@dataclass(frozen=True)
class Exponential(_Random, name="exponential"):
    """The same in continuous time, rounded up to whole steps: its mean is greater by about half a step."""

    def draw(self, phase: int, generator: np.random.Generator) -> int:  # noqa: ARG002
        """⌈−mean·log U(0, 1)⌉."""
        return max(1, math.ceil(generator.exponential(self.mean)))


@dataclass(frozen=True)
class Bursts(Times, name="bursts"):
    """Several changes shortly after one another, then a long calm.

    Attributes:
        changes: Of a burst.
        gap: Steps or episodes between two of them.
        calm: Steps or episodes before the first burst, and after each.
    """

    changes: int
    gap: int
    calm: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checks.integer(field.name, getattr(self, field.name), lowest=1))

    def draw(self, phase: int, generator: np.random.Generator) -> int:  # noqa: ARG002
        """The calm in phases 0, n, 2n, … of bursts of n changes, the gap in those between."""
        return self.calm if phase % self.changes == 0 else self.gap


def make_times(description: object) -> Times:
    """The times that a description stands for: a number, a mapping of ``"name"`` and options, or times.

    Raises:
        ParameterError: None of these, or options out of their range.

    Example:
        >>> make_times({"name": "geometric", "mean": 1000})
        Geometric(mean=1000.0)
        >>> make_times(5).describe()
        5
    """
    if isinstance(description, Times):
        return description
    if not isinstance(description, Mapping):
        return Every(description)  # type: ignore[arg-type]
    options = dict(description)
    kind = TIMES[checks.choice("name of period", options.pop("name", None), TIMES)]
    names = [field.name for field in dataclasses.fields(kind)]
    if options.keys() != set(names):
        raise ParameterError(f"period {kind.name!r} takes {', '.join(names)}, got {', '.join(map(str, options)) or 'none'}")
    return kind(**options)


class Clock:
    """Counts the phases of some parameters.

    Args:
        times: How long phases last.
        change_at: ``"episode_end"`` or ``"now"``.
        count: What the lengths count, ``"steps"`` or ``"episodes"``.

    Attributes:
        now: Whether changes come in mid-episode.
        phase: 0, 1, 2, …
        began: The step, of all steps taken, before which the phase began.
        length: Of the phase.
        episodes: That ended in the phase.
    """

    def __init__(self, times: Times, change_at: str, count: str) -> None:
        self.times = times
        self.now = change_at == "now"
        self._by_episodes = count == "episodes"
        self._generator = np.random.default_rng()
        self.phase = self.began = self.episodes = 0
        self.length = 1

    def describe(self) -> dict[str, Any]:
        """What it was made with, as JSON can hold it."""
        change_at, count = "now" if self.now else "episode_end", "episodes" if self._by_episodes else "steps"
        return {"period": self.times.describe(), "change_at": change_at, "count": count}

    def restart(self, seed: np.random.SeedSequence) -> None:
        """Begins the sequence of lengths; the first phase is still to begin."""
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def begin(self, phase: int, step: int) -> None:
        """Begins a phase before a step."""
        self.phase, self.began, self.episodes = phase, step, 0
        self.length = self.times.draw(phase, self._generator)

    def elapsed(self, step: int) -> int:
        """How much of the phase has passed before a step, an episode that is cut off there among it."""
        return self.episodes + 1 if self._by_episodes else step - self.began

    @property
    def end(self) -> float:
        """The step before which the next phase begins in mid-episode; infinity where it waits for the end of an episode."""
        return self.began + self.length if self.now else math.inf

    def due(self, step: int) -> bool:
        """Whether a reset before a step begins a phase.

        With changes in mid-episode never: they come before the step, not in the reset.
        """
        if self._by_episodes:
            return self.episodes >= self.length
        return not self.now and step - self.began > self.length

    def state_dict(self, step: int) -> dict[str, Any]:
        """Where it is, as JSON can hold it."""
        return {
            "phase": self.phase,
            "steps": step - self.began,
            "episodes": self.episodes,
            "length": self.length,
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any], step: int) -> None:
        """Goes on from there."""
        self.phase, self.began, self.episodes = state["phase"], step - state["steps"], state["episodes"]
        self.length = state["length"]
        self._generator.bit_generator.state = state["generator"]
