"""What a schedule is: a stateless description that is given where it is and its random generator."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from envs import checks
from envs.checks import ParameterError
from envs.schedules.files import read_values

State = Any
"""What a schedule has to know of the phases before: None, a number, or a list of such; of a chain a dictionary."""

Scale = Literal["linear", "log"]

SCHEDULES: dict[str, type[Schedule]] = {}
"""The schedules by name, which is also the ``"name"`` of their description as JSON."""


class At(NamedTuple):
    """Where a schedule is asked for a value.

    Attributes:
        phase: 0, 1, 2, …
        state: What the schedule returned last; None where it begins, which need not be phase 0: a phase whose value comes from
            outside is not drawn.
        low: The least value.
        high: The greatest value, at least ``low``.
        generator: Source of randomness.
    """

    phase: int
    state: State
    low: float
    high: float
    generator: np.random.Generator

    def share(self, share: float, scale: Scale) -> float:
        """The value at a share of the range, 0 at the least and 1 at the greatest."""
        if scale == "log":
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return self.kept(value)  # exp(log(x)) can miss x by a rounding error

    def kept(self, value: float) -> float:
        """The value, or the end of the range that it lies beyond."""
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Schedule(ABC):
    """Gives the value of each phase. Holds options only, so it can be compared, printed and shared.

    A subclass names itself, as in ``class Mine(Schedule, name="mine")``, and is a frozen dataclass whose fields are numbers,
    strings, or tuples of such. :meth:`describe` and :func:`make_schedule` take it to JSON and back.

    Attributes:
        name: The subclass's. It is a field, so that what writes dataclasses as JSON, as Gymnasium does, keeps the kind.
    """

    name: str = dataclasses.field(default="", init=False, repr=False, compare=False)

    def __init_subclass__(cls, name: str | None = None) -> None:
        super().__init_subclass__()
        if name is not None:
            cls.name = name
            SCHEDULES[name] = cls

    @abstractmethod
    def draw(self, at: At) -> tuple[float, State]:
        """The value of a phase.

        Returns:
            The value, in the unit of the range, and the state for the next phase.
        """

    @property
    def takes_range(self) -> bool:
        """Whether values come from the range; else they are the schedule's own."""
        return True

    @property
    def logarithmic(self) -> bool:
        """Whether it goes through the logarithms of values."""
        return getattr(self, "scale", None) == "log"

    def own_values(self) -> tuple[float, ...]:
        """The values that do not come from a range, for a check of the parameter's bounds."""
        return ()

    def check_range(self, low: float) -> None:
        """Refuses a least value that this schedule cannot use.

        Raises:
            ParameterError: Such a value.
        """
        if self.logarithmic and low <= 0:
            raise ParameterError(f"schedule {self.name!r} draws logarithms and needs low above 0, got {low}")

    def describe(self) -> str | dict[str, Any]:
        """The schedule as JSON can hold it: its name, with the options that are not the defaults."""
        changed = {
            field.name: _plain(getattr(self, field.name))
            for field in _options(type(self))
            if getattr(self, field.name) != field.default
        }
        return {"name": self.name, **changed} if changed else self.name


def drawn(schedule: Schedule, at: At) -> tuple[float, State]:
    """The value of a phase, and the state for the next one.

    Raises:
        ParameterError: The schedule, one of the user's own, returns something else.
    """
    found: object = schedule.draw(at)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise ParameterError(f"draw of schedule {schedule.name!r} must return a value and a state, got {checks.shown(found)}")
    value, state = found
    return value, state


def make_schedule(description: object) -> Schedule:
    """The schedule that a description stands for.

    Args:
        description: A name in :data:`SCHEDULES`, a mapping of ``"name"`` and options, or a schedule. The name ``"file"``, with
            ``"path"`` and, as needed, ``"column"`` and ``"at_end"``, is the ``"list"`` of the values in a CSV file: see
            :func:`read_values`.

    Raises:
        ParameterError: No such schedule, or options that it does not take.

    Example:
        >>> make_schedule({"name": "sine", "length": 12})
        Sine(length=12, scale='linear')
        >>> make_schedule("log_uniform").describe()
        'log_uniform'
    """
    if isinstance(description, Schedule):
        return description
    options = dict(description) if isinstance(description, Mapping) else {"name": description}
    name = checks.choice("schedule", options.pop("name", None), [*SCHEDULES, "file"])
    if name == "file":
        _check_options(name, options, allowed=("path", "column", "at_end"), needed=("path",))
        path: Any = options.pop("path")
        column: Any = options.pop("column", None)
        at_end: Any = options.pop("at_end", "repeat")
        return SCHEDULES["list"](read_values(Path(str(path)), column), at_end)  # type: ignore[call-arg]
    fields = _options(SCHEDULES[name])
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    _check_options(name, options, allowed=[field.name for field in fields], needed=needed)
    return SCHEDULES[name](**options)


def _options(kind: type[Schedule]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if field.init]


def _check_options(name: str, options: Mapping[str, Any], allowed: Sequence[str], needed: Sequence[str]) -> None:
    for option in options:
        if option not in allowed:
            words = f"takes {', '.join(allowed)}" if allowed else "takes no options"
            raise ParameterError(f"schedule {name!r} {words}; got {option!r}")
    if missing := [option for option in needed if option not in options]:
        raise ParameterError(f"schedule {name!r} needs {', '.join(missing)}")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.describe() if isinstance(value, Schedule) else value
