"""A run's environment in which one parameter is held at a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import TransformObservation

import envs
from agents.runs.build import find_spec, make_env
from agents.runs.config import Config
from agents.runs.errors import UserError
from envs.changes import OPTIONS, Change
from envs.parameters import find_parameter
from envs.tasks import TASK


@dataclass(frozen=True)
class HeldParameter:
    """A parameter of a run's environment that can be held at any value; others that change in the run stay as they are now.

    Attributes:
        config: Of the run.
        now: The value of each parameter that changes in the run, in its current phase.
        own: What the run does to each of them.
        change: The parameter, with its unit, its schedule and its range.
    """

    config: Config
    now: Mapping[str, float]
    own: Mapping[str, Change]
    change: Change

    @classmethod
    def of(
        cls, config: Config, now: Mapping[str, float], name: str | None, low: float | None, high: float | None
    ) -> HeldParameter:
        """The parameter of a name, in a range.

        Args:
            config: Of the run.
            now: The value of each parameter that changes in the run, in its current phase.
            name: Of the parameter; None is the first one that changes in the run, or the default of an environment's.
            low: The least value; None is that of the run, or the parameter's default.
            high: The greatest value, likewise.

        Raises:
            UserError: An environment without that parameter, or a range that it cannot have.
        """
        if config.param == TASK:
            raise UserError(f"no parameter is held at a value in a run in '{config.env}', where tasks come one after the other")
        own = _changes(config)
        held = name if name is not None else next(iter(own), find_spec(config.env).kwargs.get("parameter", "friction"))
        options: dict[str, Any] = dict(own[held].options) if held in own else {}
        if low is not None or high is not None:
            ends = own[held].extremes if held in own else (None, None)
            options["low"], options["high"] = (end if x is None else x for x, end in zip((low, high), ends, strict=True))
            if held in own and not own[held].schedule.takes_range:
                options["schedule"] = "uniform"
        try:
            changes = _changes(_with_one(config, _described(own) | {held: options}))
        except UserError as error:
            if name is not None or own:
                raise
            raise UserError(
                f"nothing changes in this run, and {held} cannot be held in it: {error}; "
                "--param names what can, such as observation_noise or action_noise"
            ) from error
        return cls(config, now, own, changes[held])

    @property
    def name(self) -> str:
        """Of the parameter."""
        return self.change.name

    @property
    def current(self) -> float | None:
        """Its value in the current phase of the run; None where it does not change in the run."""
        return self.now.get(self.name)

    def values(self, points: int) -> list[float]:
        """Values from the least to the greatest, evenly spaced, by their logarithms where the schedule draws these.

        Those between are rounded to twelve digits: further ones differ between processors, and what one began another may end.
        """
        spaced = np.geomspace if self.change.schedule.logarithmic else np.linspace
        low, high = self.change.extremes
        rounded = [value if value in (low, high) else float(f"{value:.12g}") for value in spaced(low, high, points)]
        values = np.clip(rounded, low, high)
        return [float(value) for value in np.unique(np.round(values) if self._whole else values)]

    def check(self, values: list[float]) -> None:
        """Refuses values that the parameter cannot have.

        Raises:
            UserError: Such a value.
        """
        for value in values:
            self.make_env(value).close()

    def logarithmic(self, values: list[float]) -> bool:
        """Whether values belong on a logarithmic axis."""
        return self.change.schedule.logarithmic and min(values) > 0

    def shown(self, value: float) -> str:
        """A value with the parameter's name and unit."""
        return f"{self.name} {value:.3g}" + ("" if self.change.unit == "1" else f" {self.change.unit}")

    def make_env(self, value: float, **kwargs: Any) -> gymnasium.Env[Any, Any]:
        """The environment held at a value.

        Args:
            value: Of the parameter.
            **kwargs: Further keyword arguments of the environment.

        Raises:
            UserError: A value that the parameter cannot have.
        """
        env = make_env(_with_one(self.config, _described({**self.own, self.name: self.change})), **kwargs)
        wrapper = envs.NonStationary.of(env)
        assert wrapper is not None  # noqa: S101
        try:
            wrapper.hold({**self.now, self.name: value})
        except envs.ParameterError as error:
            env.close()
            raise UserError(str(error)) from error
        if self.name not in self.own and self.config.change.get("observe"):
            space = env.observation_space  # the policy is told of the run's own parameters only
            assert isinstance(space, Box)  # noqa: S101
            return TransformObservation(
                env, lambda seen: seen[:-1], Box(space.low[:-1], space.high[:-1], dtype=space.dtype.type)
            )
        return env

    @property
    def _whole(self) -> bool:
        return find_parameter(self.name)[0].whole


def _with_one(config: Config, parameters: dict[str, Any]) -> Config:
    """The run with one environment, and other descriptions of what changes."""
    change = {name: value for name, value in config.change.items() if name not in OPTIONS}
    return replace(config, param=parameters, change=change, period=config.period or config.timesteps, n_envs=1)


def _described(changes: Mapping[str, Change]) -> dict[str, Any]:
    return {name: change.options for name, change in changes.items()}


def _changes(config: Config) -> dict[str, Change]:
    """What changes in the environment of a run, by its names."""
    env = make_env(config)
    wrapper = envs.NonStationary.of(env)
    changes = {} if wrapper is None else {change.name: change for change in wrapper.changes}
    env.close()
    return changes
