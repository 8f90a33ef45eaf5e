"""The values of several parameters over time: which changes when, and to what."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from envs import checks
from envs.changes import OPTIONS, Change
from envs.checks import ParameterError
from envs.clock import Clock, Every, make_times
from envs.held import Held
from envs.overlaps import check_overlaps
from envs.parameters import find_parameter
from envs.places import Subject

CHANGE_AT = ("episode_end", "now")
COUNTS = ("steps", "episodes")
TIMING = ("period", "change_at", "count")
"""The arguments that describe a clock."""

# Keeps the values apart from the environment's own random numbers, which Gymnasium derives from the same seed with no key.
SPAWN_KEY = (0xC4A46E,)


class Sequence:
    """The parameters of an environment with their clocks.

    Args:
        subject: The environment, which has what it has itself and is left alone.
        parameter: A name, or a mapping from names to options, those of a clock of its own among them.
        given: ``schedule``, ``low``, ``high`` and ``factor`` beside one name.
        timing: ``period``, ``change_at`` and ``count`` of the clock of all parameters that have none of their own.

    Attributes:
        changes: Each parameter with its schedule.
        phase: How often anything has changed.
        recorded: The arguments, with their defaults, as JSON can hold them.

    Raises:
        ParameterError: An argument that cannot be used.
    """

    def __init__(self, subject: Subject, parameter: object, given: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        shared = make_clock(timing)
        own: dict[str, dict[str, Any]] = {}
        options = _options(parameter, given)
        for name, of_one in options.items():
            own[name] = {option: of_one[option] for option in TIMING if of_one.get(option) is not None}
        self.changes = [
            Change(subject, name, {option: value for option, value in of_one.items() if option not in TIMING})
            for name, of_one in options.items()
        ]
        self.check(subject)
        self._clocks = [(shared, [change for change in self.changes if not own[change.name]])] if not all(own.values()) else []
        self._clocks += [(make_clock({**timing, **own[change.name]}), [change]) for change in self.changes if own[change.name]]
        # Phase, steps and episodes say all.
        self._simple = len(self._clocks) == 1 and isinstance(self._clocks[0][0].times, Every)
        self.phase = 0
        described = {change.name: change.options | _described(own[change.name]) for change in self.changes}
        first = self.changes[0]
        self.recorded: dict[str, Any] = {"parameter": described, **dict.fromkeys(OPTIONS)}
        if not isinstance(parameter, Mapping):
            self.recorded |= {**first.options, "parameter": first.name}
        self.recorded |= {**timing, "period": shared.times.describe()}

    def check(self, subject: Subject) -> None:
        """Refuses a subject in which a change would do nothing; one may need what another brings, such as wind a medium.

        Raises:
            ParameterError: Such a subject, or one in which two changes would undo each other.
        """
        check_overlaps(self.changes, subject)
        for change in self.changes:
            others = [other for other in self.changes if other is not change]
            trial = subject._replace(model=copy.copy(subject.model))
            held = Held([other.effect for other in others], trial)
            try:
                held.write(trial, [other.extremes[1] for other in others])
                change.check(trial)
            finally:
                held.restore(trial)  # attributes of the environment are not copied

    @property
    def values(self) -> dict[str, float]:
        """The value in force of each parameter."""
        return {change.name: change.value for change in self.changes}

    @property
    def end(self) -> float:
        """The step before which something changes in mid-episode; infinity where nothing does."""
        return min(clock.end for clock, _ in self._clocks)

    @property
    def length(self) -> int:
        """Of the phase of the first clock: steps, or episodes."""
        return self._clocks[0][0].length

    def elapsed(self, step: int) -> int:
        """How much of it has passed before a step, an episode that is cut off among it."""
        return self._clocks[0][0].elapsed(step)

    @property
    def changes_at_all(self) -> bool:
        """Whether the values are not the same in every phase."""
        return any(low != high for low, high in (change.extremes for change in self.changes))

    def restart(self, seed: int | None) -> None:
        """Goes back to phase 0 of the sequences of a seed, before step 0."""
        entropy = np.random.SeedSequence(seed).entropy
        for number, change in enumerate(self.changes):
            # The sequence of the first parameter is that which it has alone.
            change.restart(np.random.SeedSequence(entropy, spawn_key=SPAWN_KEY if number == 0 else (*SPAWN_KEY, number)))
        self.phase = 0
        for number, (clock, changes) in enumerate(self._clocks):
            clock.restart(np.random.SeedSequence(entropy, spawn_key=(*SPAWN_KEY, number, 2)))
            _begin(clock, changes, 0, 0)

    def begin_episode(self, step: int, *, ended: bool) -> bool:
        """Begins the phases that are due in a reset before a step.

        Args:
            step: All steps taken.
            ended: Whether an episode of at least a step ends with it.

        Returns:
            Whether anything has changed.
        """
        for clock, _ in self._clocks:
            clock.episodes += ended
        return self._advance([clock.due(step) for clock, _ in self._clocks], step)

    def begin_step(self, step: int) -> bool:
        """Begins the phases that are due before a step."""
        return self._advance([clock.end <= step for clock, _ in self._clocks], step)

    def set_value(self, name: str, value: float, step: int, *, within: bool) -> None:
        """Gives a parameter a value; where its phase has had a step, that begins a phase of its clock.

        Args:
            name: Of the parameter.
            value: In the unit of its values.
            step: All steps taken.
            within: Whether the phase in force has had no step yet.

        Raises:
            ParameterError: No such parameter, or a value that it cannot have. Nothing is changed then.
        """
        by_name = {change.name: (clock, change) for clock, changes in self._clocks for change in changes}
        clock, change = by_name[checks.choice("name", name, by_name)]
        change.set_value(value)
        self.phase += not within
        if clock.began != step:  # another clock may have begun the phase in force
            clock.begin(clock.phase + 1, step)

    def check_values(self, values: Mapping[str, float]) -> None:
        """Refuses values that :meth:`set_value` would refuse; changes nothing.

        Raises:
            ParameterError: Such a value.
        """
        by_name = {change.name: change for change in self.changes}
        for name, value in values.items():
            by_name[checks.choice("name", name, by_name)].check_value(name, value)

    def forecast(self, phases: int, now: int) -> list[tuple[int, dict[str, float]]]:
        """How many steps from ``now`` the phase in force and those that follow begin, with the values; changes nothing.

        Every change comes as soon as its clock lets it, an episode counting as a step.
        """
        ahead = copy.deepcopy(self._clocks)
        changes = {change.name: change for _, of_clock in ahead for change in of_clock}
        found = [(0, self.values)]
        while len(found) < phases:
            step = min(clock.began + clock.length for clock, _ in ahead)
            for clock, of_clock in ahead:
                if clock.began + clock.length == step:
                    _begin(clock, of_clock, clock.phase + 1, step)
            found.append((max(step - now, 0), {name: changes[name].value for name in found[0][1]}))
        return found

    def state_dict(self, step: int) -> dict[str, Any]:
        """Where it is, as JSON can hold it."""
        first, *others = [clock.state_dict(step) for clock, _ in self._clocks]
        state = {
            "phase": self.phase,
            "episodes": first["episodes"],
            "changes": [change.state_dict() for change in self.changes],
            "timing": [clock.describe() for clock, _ in self._clocks],
        }
        return state if self._simple else state | {"clocks": [first, *others]}

    def check_state(self, state: Mapping[str, Any], *, timing: bool) -> None:
        """Refuses the state of another sequence, and with ``timing`` one of other clocks.

        Raises:
            ParameterError: Such a state.
        """
        own = [change.name for change in self.changes]
        saved = [change.get("name", name) for change, name in zip(state["changes"], own, strict=False)]
        if len(state["changes"]) != len(own) or saved != own:
            raise ParameterError(f"state must be that of {' and '.join(own)}, got {_names(state)}")
        for change, of_one in zip(self.changes, state["changes"], strict=True):
            change.check_state(of_one)
        clocks = 1 if "clocks" not in state else len(state["clocks"])
        if clocks != len(self._clocks) or (timing and ("clocks" in state) == self._simple):
            raise ParameterError(f"state must have {len(self._clocks)} clocks as here, got {clocks} of another kind")
        if timing:
            check_timing(state.get("timing"), [clock for clock, _ in self._clocks])

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Goes on from there: from what :meth:`state_dict` returned, with the steps since the last change as ``"steps"``."""
        for change, saved in zip(self.changes, state["changes"], strict=True):
            change.load_state_dict(saved)
        self.phase = state["phase"]
        for number, (clock, _) in enumerate(self._clocks):
            if "clocks" in state:
                clock.load_state_dict(state["clocks"][number], step)
            else:
                clock.begin(state["phase"], step - state["steps"])
                clock.episodes = state["episodes"]

    def _advance(self, due: list[bool], step: int) -> bool:
        if not any(due):
            return False
        self.phase += 1
        for (clock, changes), is_due in zip(self._clocks, due, strict=True):
            if is_due:
                _begin(clock, changes, clock.phase + 1, step)
        return True


def check_timing(saved: list[dict[str, Any]] | None, clocks: list[Clock]) -> None:
    """Refuses the state of clocks that were made otherwise; earlier releases did not say how.

    Raises:
        ParameterError: Such a state.
    """
    for theirs, clock in zip(saved or [], clocks, strict=False):
        for name, own in clock.describe().items():
            if theirs[name] != own:
                raise ParameterError(f"state must be that of {name} {own!r} as here, got {theirs[name]!r}")


def _begin(clock: Clock, changes: list[Change], phase: int, step: int) -> None:
    clock.begin(phase, step)
    for change in changes:
        change.begin_phase(phase)


def _names(state: Mapping[str, Any]) -> str:
    names = [change.get("name") for change in state["changes"]]
    return " and ".join(names) if all(names) else f"that of {len(names)} parameters"


def make_clock(timing: Mapping[str, Any]) -> Clock:
    """The clock that ``period``, ``change_at`` and ``count`` describe.

    Raises:
        ParameterError: One of them cannot be used, or not beside the others.
    """
    times = make_times(timing["period"])
    change_at = checks.choice("change_at", timing["change_at"], CHANGE_AT)
    count = checks.choice("count", timing["count"], COUNTS)
    if count == "episodes" and change_at == "now":
        raise ParameterError("change_at must be 'episode_end' where the period counts episodes, got 'now'")
    return Clock(times, change_at, count)


def _described(timing: Mapping[str, Any]) -> dict[str, Any]:
    return {**timing, "period": make_times(timing["period"]).describe()} if "period" in timing else dict(timing)


def _options(parameter: object, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of each parameter."""
    if not isinstance(parameter, Mapping):
        find_parameter(parameter)
        return {parameter: dict(given)}  # type: ignore[dict-item]
    if not parameter:
        raise ParameterError("parameter must name at least one parameter, got {}")
    if named := [name for name, value in given.items() if value is not None]:
        example = f"parameter={{{next(iter(parameter))!r}: {{{named[0]!r}: …}}}}"
        raise ParameterError(f"{named[0]} belongs to one parameter: {example}, got it beside several")
    for name, options in parameter.items():
        if not isinstance(options, Mapping):
            raise ParameterError(f"options of {name} must be a mapping such as {{'low': 0.5}}, got {checks.shown(options)}")
        for option in options:
            checks.choice(f"option of {name}", option, (*OPTIONS, *TIMING))
    return {name: dict(options) for name, options in parameter.items()}
