"""One parameter of one environment together with the values it takes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from envs import checks
from envs.checks import ParameterError
from envs.effects import Effect, Parameter
from envs.generators import decode_generator, encode_generator
from envs.held import Held
from envs.parameters import PARAMETERS, find_parameter
from envs.places import Subject
from envs.schedules import At, State, drawn, make_schedule
from envs.simulation import ModelSource, look_for_model

OPTIONS = ("schedule", "low", "high", "factor")


class Fit(NamedTuple):
    """What an environment has of a parameter.

    Attributes:
        own: The environment's own values; empty where it has none.
        parts: The names of what can change by itself.
        bounds: Of values in the parameter's unit, as the environment allows them.
        default: The least and the greatest value by default.
    """

    own: tuple[float, ...]
    parts: tuple[str, ...]
    bounds: tuple[float, float]
    default: tuple[float, float]


def fit_of(name: str, env: gymnasium.Env[Any, Any], source: ModelSource | None = None) -> Fit:
    """What an environment has of a parameter.

    Args:
        name: Of the parameter, with a part or not.
        env: Any environment; it is left alone.
        source: Says where its MuJoCo model is, as for :func:`envs.simulation.find_model`.

    Raises:
        ParameterError: The parameter would do nothing there, or cannot be changed.
    """
    subject = Subject(env, look_for_model(env, source), source)
    parameter, part = find_parameter(name)
    own = parameter.bind(subject, part, factor=False).own()
    by_factor = parameter.by_factor and any(own)
    ends = {} if by_factor == parameter.by_factor else {"low": parameter.low, "high": parameter.high}
    change = Change(subject, name, {"factor": by_factor, **ends})
    change.check(subject._replace(model=copy.copy(subject.model)))
    bounds = max(parameter.lowest, change.effect.lowest), min(parameter.highest, change.effect.highest)
    parts = () if subject.model is None else tuple(parameter.parts(subject.model))
    return Fit(own, parts, bounds, change.extremes)


class Change:
    """A parameter of an environment, its schedule, and where it is in its sequence of values.

    Args:
        subject: The environment, which has what it has itself.
        name: Of the parameter, with a part or not: ``"mass"``, ``"mass:torso"``.
        options: ``schedule``, ``low``, ``high`` and ``factor``, as for :class:`envs.NonStationary`; None, or a missing one, is
            the parameter's default.

    Attributes:
        name: The parameter's name, as given.
        unit: Of the values, in words.
        schedule: How they are drawn.
        effect: What it does to the environment.
        value: In force.

    Raises:
        ParameterError: A name or an option that cannot be used.
    """

    def __init__(self, subject: Subject, name: str, options: Mapping[str, Any]) -> None:
        parameter, self._part = find_parameter(name)
        self._parameter = parameter.name
        factor = options.get("factor")
        self._factor = parameter.by_factor if factor is None else checks.boolean("factor", factor)
        self.name = name
        self.effect = self.bound(subject)
        parameter.try_out(subject)
        self.unit = "times its own" if self._factor else parameter.unit
        given = options.get("schedule")
        self.schedule = make_schedule(parameter.schedule if given is None else given)
        for value in self.schedule.own_values():
            self.check_value(f"{name} in schedule {self.schedule.name!r}", value)
        self._low, self._high = math.nan, math.nan
        low, high = options.get("low"), options.get("high")
        if self.schedule.takes_range:
            if self._factor != parameter.by_factor and None in (low, high):
                words = "multiples of the model's own" if self._factor else f"values in {parameter.unit}"
                raise ParameterError(f"low and high of {name} must be given, {words}: its defaults are of the other kind")
            self._low = self.check_value("low", max(parameter.low, self.effect.lowest) if low is None else low)
            self._high = self.check_value("high", min(parameter.high, self.effect.highest) if high is None else high)
            if self._low > self._high:
                raise ParameterError(f"low must be at most high, got low={self._low} and high={self._high}")
            self.schedule.check_range(self._low)
        elif low is not None or high is not None:
            raise ParameterError(
                f"schedule {self.schedule.name!r} has values of its own and takes no low or high, got low={low} and high={high}"
            )
        self.value = math.nan
        self._state: State = None

    @property
    def parameter(self) -> Parameter:
        """What changes; looked up, so that pickles do not hold its functions."""
        return PARAMETERS[self._parameter]

    def bind(self, subject: Subject) -> None:
        """Looks up anew what it acts on in a simulation that has what it has itself.

        Raises:
            ParameterError: It has no such parameter or part.
        """
        effect = self.bound(subject)
        if effect.places:  # others keep what they know of the last steps
            self.effect = effect

    def bound(self, subject: Subject) -> Effect:
        """What it does to a simulation that has what it has itself.

        Raises:
            ParameterError: It has no such parameter or part.
        """
        return self.parameter.bind(subject, self._part, factor=self._factor)

    def check(self, trial: Subject) -> None:
        """Refuses an environment in which the change would do nothing: what its values decide is measured, and is the same.

        Args:
            trial: A copy of the simulation, to be changed.

        Raises:
            ParameterError: Such an environment.
        """
        parameter, name = self.parameter, checks.env_name(trial.env)
        measured = trial.model is not None and parameter.measure(trial.model) is not None
        if self._factor and not any(self.effect.own()) and (self.effect.places or not measured):
            raise ParameterError(
                f"{parameter.name} by factor needs a value of the environment's own, which {name} lacks; with "
                f"factor=False it takes values in {parameter.unit}"
            )
        if math.isfinite(self.effect.lowest) and (lowest := self._bounds(self.bound(trial))[0]) > self.extremes[0]:
            raise ParameterError(
                f"{self.name} must be at least {lowest:g} where the other parameters have their greatest values, "
                f"got {self.extremes[0]:g}"
            )
        if measured and not (self.effect.places and self._responds(trial)):
            raise ParameterError(f"{self.name} needs {parameter.needs}, which {name} lacks")

    def _responds(self, trial: Subject) -> bool:
        """Whether another value brings another force, or whatever else the parameter decides."""
        held = Held([self.effect], trial)
        measured: list[Any] = []
        for value in self.two_values:
            held.write(trial, [value])
            measured.append(self.parameter.measure(trial.physics))
        held.restore(trial)
        return not np.array_equal(*measured)

    @property
    def two_values(self) -> tuple[float, float]:
        """The least and the greatest value that it can take; where these are the same, that one and any other.

        Where the greatest one is the least again after whole turns, the second is half a turn from it.
        """
        least, value = self.extremes
        if least != value:
            return least, least + self.parameter.turn / 2 if (value - least) % self.parameter.turn == 0 else value
        lowest, highest = self._bounds()
        # Two whole numbers may stand for the same, as those of orders may; 0 stands for nothing.
        candidates = (0.0, value + 1, value - 1) if self.parameter.whole else (2 * value, value / 2, value + 1, value - 1)
        return value, next(other for other in candidates if lowest <= other <= highest and other != value)

    @property
    def options(self) -> dict[str, Any]:
        """What the change was made of, with the defaults, as JSON can hold it."""
        drawn = self.schedule.takes_range
        return {
            "schedule": self.schedule.describe(),
            "low": self._low if drawn else None,
            "high": self._high if drawn else None,
            "factor": self._factor,
        }

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the greatest value that it can take."""
        ends = [self._low, self._high] if self.schedule.takes_range else []
        return min([*ends, *self.schedule.own_values()]), max([*ends, *self.schedule.own_values()])

    def restart(self, seed: np.random.SeedSequence) -> None:
        """Begins a sequence of values."""
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def begin_phase(self, phase: int) -> None:
        """Draws the value of a phase; phases come in order, from 0."""
        low, high = self._low, self._high
        whole = self.parameter.whole
        if whole:  # each whole number, the ends too, has a stretch of the same length that is rounded to it
            low, high = low - 0.5, high + 0.5
        at = At(phase, self._state if phase else None, low, high, self._generator)
        value, self._state = drawn(self.schedule, at)
        if whole:
            is_drawn = low <= value <= high  # else it is the schedule's own
            value = min(max(float(round(value)), self._low), self._high) if is_drawn else value
        self.value = self.check_value(f"{self.name} of schedule {self.schedule.name!r} in phase {phase}", value)
        self.effect.begin_phase()

    def set_value(self, value: float) -> None:
        """Puts a value in the place of that of the phase."""
        self.value = self.check_value(self.name, value)
        self.effect.begin_phase()

    def state_dict(self) -> dict[str, Any]:
        """Where it is in its sequence, as JSON can hold it."""
        return {
            "name": self.name,
            "options": self.options,
            "value": self.value,
            "state": self._state,
            **encode_generator(self._generator),
        }

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuses the state of another change.

        Raises:
            ParameterError: Such a state; that of an earlier release does not say of which change it is.
        """
        if (options := state.get("options", self.options)) != self.options:
            raise ParameterError(f"state of {self.name} must be that of {self.options}, got {options}")
        self.check_value(f"{self.name} in the state", state["value"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.value, self._state = state["value"], state["state"]
        self._generator = decode_generator(state, self._generator)

    def check_value(self, argument: str, value: object) -> float:
        """A value that the parameter can have, as a Python float.

        Raises:
            ParameterError: Another one.
        """
        number = checks.finite(argument, value, *self._bounds())
        if self.parameter.whole and not number.is_integer():
            raise ParameterError(f"{argument} must be a whole number, got {checks.shown(value)}")
        return number

    def _bounds(self, effect: Effect | None = None) -> tuple[float, float]:
        """The bounds of values: with factors, those that keep each of the environment's own values within the parameter's."""
        effect = effect or self.effect
        lowest, highest = max(self.parameter.lowest, effect.lowest), min(self.parameter.highest, effect.highest)
        own = [abs(value) for value in effect.own() if value]
        if not self._factor or not own:
            return lowest, highest
        return lowest / min(own), highest / max(own)
