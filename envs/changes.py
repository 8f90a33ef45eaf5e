"""One parameter of one environment together with the values it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from envs import checks
from envs.checks import ParameterError
from envs.effects import Parameter
from envs.parameters import PARAMETERS, find_parameter
from envs.schedules import At, State, make_schedule

OPTIONS = ("schedule", "low", "high", "factor")


class Change:
    """A parameter of an environment, its schedule, and where it is in its sequence of values.

    Args:
        env: A MuJoCo environment.
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

    def __init__(self, env: gymnasium.Env[Any, Any], name: str, options: Mapping[str, Any]) -> None:
        for option in options:
            checks.choice(f"option of {name}", option, OPTIONS)
        parameter, part = find_parameter(name)
        _check_part(env, parameter, part)
        factor = options.get("factor")
        self._factor = parameter.by_factor if factor is None else checks.boolean("factor", factor)
        self.name = name
        self.effect = parameter.bind(env, part, factor=self._factor)
        self._parameter = parameter.name
        self.unit = "times its own" if self._factor else parameter.unit
        given = options.get("schedule")
        self.schedule = make_schedule(parameter.schedule if given is None else given)
        bounds = self._bounds(parameter.lowest, parameter.highest)
        for value in self.schedule.own_values():
            _check_value(f"{name} in schedule {self.schedule.name!r}", value, bounds, parameter.whole)
        self._low, self._high = math.nan, math.nan
        low, high = options.get("low"), options.get("high")
        if self.schedule.takes_range:
            if self._factor != parameter.by_factor and None in (low, high):
                words = "multiples of the model's own" if self._factor else f"values in {parameter.unit}"
                raise ParameterError(f"low and high of {name} must be given, {words}: its defaults are of the other kind")
            self._low = _check_value("low", parameter.low if low is None else low, bounds, parameter.whole)
            self._high = _check_value("high", parameter.high if high is None else high, bounds, parameter.whole)
            if self._low > self._high:
                raise ParameterError(f"low must be at most high, got low={self._low} and high={self._high}")
            self.schedule.check_range(self._low)
        elif low is not None or high is not None:
            raise ParameterError(
                f"schedule {self.schedule.name!r} has values of its own and takes no low or high, got low={low} and high={high}"
            )
        self.value = math.nan
        self._state: State = None

    def responds(self, env: gymnasium.Env[Any, Any]) -> bool:
        """Whether the parameter has any effect on the environment as it is now."""
        return PARAMETERS[self._parameter].responds(env)

    def check(self, env: gymnasium.Env[Any, Any]) -> None:
        """Refuses an environment in which the change would do nothing.

        Raises:
            ParameterError: Such an environment.
        """
        parameter = PARAMETERS[self._parameter]
        if not self.responds(env):
            raise ParameterError(f"{parameter.name} needs {parameter.needs}, which {checks.env_name(env)} lacks")
        if self._factor and not any(self.effect.own()):
            raise ParameterError(
                f"{parameter.name} by factor needs a value of the environment's own, which {checks.env_name(env)} lacks; with "
                f"factor=False it takes values in {parameter.unit}"
            )

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
        whole = PARAMETERS[self._parameter].whole
        if whole:  # each whole number, the ends too, has a stretch of the same length that is rounded to it
            low, high = low - 0.5, high + 0.5
        at = At(phase, self._state if phase else None, low, high, self._generator)
        value, self._state = self.schedule.draw(at)
        if whole:
            drawn = low <= value <= high  # else it is the schedule's own
            value = min(max(float(round(value)), self._low), self._high) if drawn else value
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        """Where it is in its sequence, as JSON can hold it."""
        return {"value": self.value, "state": self._state, "generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.value, self._state = state["value"], state["state"]
        self._generator.bit_generator.state = state["generator"]

    def _bounds(self, lowest: float, highest: float) -> tuple[float, float]:
        """The bounds of values: with factors, those that keep each of the environment's own values within the parameter's."""
        own = [abs(value) for value in self.effect.own() if value]
        if not self._factor or not own:
            return lowest, highest
        return lowest / min(own), highest / max(own)


def _check_value(argument: str, value: object, bounds: tuple[float, float], whole: bool) -> float:
    number = checks.finite(argument, value, *bounds)
    if whole and not number.is_integer():
        raise ParameterError(f"{argument} must be a whole number, got {checks.shown(value)}")
    return number


def _check_part(env: gymnasium.Env[Any, Any], parameter: Parameter, part: str | None) -> None:
    if part is None:
        return
    parts = parameter.parts(checks.mujoco_model(env))
    if not parts:
        raise ParameterError(f"{parameter.name} has no parts that change by themselves, got {part!r}")
    checks.choice(f"part of {parameter.name}", part, parts)
