"""To which value a parameter changes: stateless descriptions that are given where they are and their random generator."""

from __future__ import annotations

import csv
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from envs import checks
from envs.checks import ParameterError

State = Any
"""What a schedule has to know of the phases before: None, a number, or a list of such."""

Scale = Literal["linear", "log"]

SCHEDULES: dict[str, type[Schedule]] = {}
"""The schedules by name, which is also the ``"name"`` of their description as JSON."""


class At(NamedTuple):
    """Where a schedule is asked for a value.

    Attributes:
        phase: 0, 1, 2, …
        state: What the schedule returned for the phase before; None for phase 0.
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
    """

    name: ClassVar[str]

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

    def check_range(self, low: float) -> None:  # noqa: ARG002
        """Refuses a least value that this schedule cannot use.

        Raises:
            ParameterError: Such a value.
        """
        return

    def describe(self) -> str | dict[str, Any]:
        """The schedule as JSON can hold it: its name, with the options that are not the defaults."""
        changed = {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return {"name": self.name, **changed} if changed else self.name


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
        return Values(read_values(Path(str(path)), column), at_end)
    fields = dataclasses.fields(SCHEDULES[name])
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    _check_options(name, options, allowed=[field.name for field in fields], needed=needed)
    return SCHEDULES[name](**options)


def _check_options(name: str, options: Mapping[str, Any], allowed: Sequence[str], needed: Sequence[str]) -> None:
    for option in options:
        if option not in allowed:
            words = f"takes {', '.join(allowed)}" if allowed else "takes no options"
            raise ParameterError(f"schedule {name!r} {words}; got {option!r}")
    if missing := [option for option in needed if option not in options]:
        raise ParameterError(f"schedule {name!r} needs {', '.join(missing)}")


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

    def check_range(self, low: float) -> None:
        """The range must be above 0."""
        _check_positive(self.name, low)


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


@dataclass(frozen=True)
class RandomWalk(Schedule, name="random_walk"):
    """Moves by normal steps from where it is; the ends of the range reflect it. Begins anywhere in the range.

    Attributes:
        step: Standard deviation of a step, as a share of the range.
        scale: Whether the steps are of the value, or of its logarithm.
    """

    step: float = 0.1
    scale: Scale = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", checks.finite("step", self.step, 0))
        _check_scale(self.scale)

    def draw(self, at: At) -> tuple[float, State]:
        """The share u of the range: u ← u + step·N(0, 1), reflected into [0, 1]."""
        if at.phase == 0:
            share = at.generator.uniform()
        else:
            share = (at.state + self.step * at.generator.standard_normal()) % 2
            share = min(share, 2 - share)
        return at.share(share, self.scale), share

    def check_range(self, low: float) -> None:
        """With logarithms the range must be above 0."""
        _check_positive(self.name, low, self.scale)


@dataclass(frozen=True)
class OrnsteinUhlenbeck(Schedule, name="ornstein_uhlenbeck"):
    """Wanders about the middle of the range, which pulls it back. Begins there; the ends of the range stop it.

    Attributes:
        pull: The share of its way back that it goes in each phase, from 0 to 1.
        sigma: Standard deviation of a step, as a share of the range.
        scale: Whether the steps are of the value, or of its logarithm.
    """

    pull: float = 0.1
    sigma: float = 0.1
    scale: Scale = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pull", checks.finite("pull", self.pull, 0, 1))
        object.__setattr__(self, "sigma", checks.finite("sigma", self.sigma, 0))
        _check_scale(self.scale)

    def draw(self, at: At) -> tuple[float, State]:
        """The share u of the range: u ← u + pull·(½ − u) + sigma·N(0, 1), kept in [0, 1]."""
        share = 0.5
        if at.phase:
            share = at.state + self.pull * (0.5 - at.state) + self.sigma * at.generator.standard_normal()
            share = min(max(share, 0.0), 1.0)
        return at.share(share, self.scale), share

    def check_range(self, low: float) -> None:
        """With logarithms the range must be above 0."""
        _check_positive(self.name, low, self.scale)


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
        _check_scale(self.scale)

    def draw(self, at: At) -> tuple[float, State]:
        """The value at the phase's share of the range."""
        return at.share(self._share(at.phase), self.scale), None

    def check_range(self, low: float) -> None:
        """With logarithms the range must be above 0."""
        _check_positive(self.name, low, self.scale)

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
        checks.boolean("falling", self.falling)

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
        return float(phase % self.length >= self.length / 2)


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
        """The value of the schedule whose turn it is."""
        phase, turn = at.phase, 0
        while turn < len(self.lengths) and phase >= self.lengths[turn]:
            phase -= self.lengths[turn]
            turn += 1
        return self.schedules[turn].draw(at._replace(phase=phase, state=at.state if phase else None))

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
        drawn = [part.draw(at._replace(state=state)) for part, state in zip(self.schedules, states, strict=True)]
        middle = (at.low + at.high) / 2
        value = middle + sum(value - middle for value, _ in drawn)
        return at.kept(value), [state for _, state in drawn]


def read_values(path: Path, column: str | None = None) -> tuple[float, ...]:
    """The values in a CSV file, a row for each phase.

    Args:
        path: The file. A first row that is not a number has the names of the columns.
        column: Of the values. None is the only column, or the one that is named ``value``.

    Raises:
        ParameterError: The file cannot be read, has no such column, or a row has no finite number there. The row is named.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(reader.line_num, row) for reader in [csv.reader(file)] for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no CSV file"
        raise ParameterError(f"schedule file '{path}' cannot be read: {reason}") from error
    if not rows:
        raise ParameterError(f"schedule file '{path}' must have a value for each phase, got an empty file")
    names = [] if all(_number(cell) is not None for cell in rows[0][1]) else [cell.strip() for cell in rows.pop(0)[1]]
    if column is None and len(names) <= 1 and all(len(row) == 1 for _, row in rows):
        place = 0
    elif (column or "value") in names:
        place = names.index(column or "value")
    else:
        received = f"columns {', '.join(names)}" if names else "columns without names"
        raise ParameterError(f"schedule file '{path}' must have a column {(column or 'value')!r}, got {received}")
    values = []
    for line, row in rows:
        cell = row[place] if place < len(row) else ""
        value = _number(cell)
        if value is None:
            raise ParameterError(f"schedule file '{path}' must have a finite number in each row, got {cell!r} in line {line}")
        values.append(value)
    if not values:
        raise ParameterError(f"schedule file '{path}' must have a value for each phase, got names of columns only")
    return tuple(values)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _check_scale(scale: object) -> None:
    checks.choice("scale", scale, ("linear", "log"))


def _check_positive(name: str, low: float, scale: Scale = "log") -> None:
    if scale == "log" and low <= 0:
        raise ParameterError(f"schedule {name!r} draws logarithms and needs low above 0, got {low}")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.describe() if isinstance(value, Schedule) else value
