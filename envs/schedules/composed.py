"""Schedules that are made of others."""

from __future__ import annotations

from dataclasses import dataclass

from envs import checks
from envs.schedules.base import At, Schedule, State, drawn, make_schedule


@dataclass(frozen=True)
class _Composed(Schedule):
    """What is made of other schedules.

    Attributes:
        schedules: At least two, or their descriptions.
    """

    schedules: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        schedules = checks.sequence("schedules", self.schedules, 2)
        object.__setattr__(self, "schedules", tuple(make_schedule(schedule) for schedule in schedules))

    def own_values(self) -> tuple[float, ...]:
        """Those of all parts."""
        return tuple(value for schedule in self.schedules for value in schedule.own_values())

    def check_range(self, low: float) -> None:
        """The least value must suit every part."""
        for schedule in self.schedules:
            schedule.check_range(low)


@dataclass(frozen=True)
class Chain(_Composed, name="chain"):
    """One schedule after the other; each begins with its own phase 0.

    Attributes:
        schedules: At least two, or their descriptions.
        lengths: How many phases each lasts, but the last, which stays.
    """

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        number = len(self.schedules) - 1  # the last one stays
        lengths = checks.sequence("lengths", self.lengths, number, number)
        object.__setattr__(self, "lengths", tuple(checks.integer("each of lengths", length, 1) for length in lengths))

    def draw(self, at: At) -> tuple[float, State]:
        """The value of the schedule whose turn it is, which begins where the last value was another's."""
        turn, phase = self._turn(at.phase)
        # In earlier releases the state was the part's alone.
        last = at.state if isinstance(at.state, dict) else {"turn": self._turn(at.phase - 1)[0], "state": at.state}
        state = last["state"] if last["turn"] == turn else None
        value, state = drawn(self.schedules[turn], at._replace(phase=phase, state=state))
        return value, {"turn": turn, "state": state}

    def _turn(self, phase: int) -> tuple[int, int]:
        """Whose turn it is in a phase, and the phase of its own."""
        turn = 0
        while turn < len(self.lengths) and phase >= self.lengths[turn]:
            phase -= self.lengths[turn]
            turn += 1
        return turn, phase

    @property
    def takes_range(self) -> bool:
        """Whether a part does."""
        return any(schedule.takes_range for schedule in self.schedules)


@dataclass(frozen=True)
class Sum(_Composed, name="sum"):
    """Adds what several schedules deviate from the middle of the range; the ends of the range stop it."""

    def draw(self, at: At) -> tuple[float, State]:
        """With the middle m = (low + high)/2: m + Σ(x_i − m), kept in [low, high]."""
        states = [None] * len(self.schedules) if at.state is None else at.state
        found = [drawn(part, at._replace(state=state)) for part, state in zip(self.schedules, states, strict=True)]
        middle = (at.low + at.high) / 2
        value = middle + sum(value - middle for value, _ in found)
        return at.kept(value), [state for _, state in found]
