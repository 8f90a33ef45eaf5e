"""What a parameter is, and its effect on one environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco


class Effect:
    """A parameter of one environment.

    Attributes:
        derived: Whether constants of the model follow from it that MuJoCo must compute anew.
    """

    derived = False

    def own(self) -> tuple[float, ...]:
        """What a factor multiplies: the environment's own values; empty where it has none."""
        return ()

    def restore(self, model: mujoco.MjModel) -> None:
        """Gives the model back what it had itself."""

    def apply(self, model: mujoco.MjModel, value: float) -> None:
        """Puts a value into force from the next step on, in a model that has what it had itself."""
        raise NotImplementedError


@dataclass(frozen=True)
class Parameter(ABC):
    """One quantity of an environment that can change.

    Attributes:
        name: Its name, which is also its key in ``info``.
        meaning: What it is, in a few words.
        unit: Its unit, ``"1"`` where it has none.
        lowest: The least value allowed, minus infinity for none.
        highest: The greatest value allowed, infinity for none.
        low: Low end of the range it is drawn from by default.
        high: High end of that range.
        schedule: The schedule it is drawn by by default.
        needs: What an environment must have for the parameter to have any effect, in words.
        by_factor: Whether values, those of the default range too, are by default multiples of the environment's own.
        whole: Whether values are whole numbers.
    """

    name: str
    meaning: str
    unit: str
    lowest: float
    highest: float
    low: float
    high: float
    schedule: str
    needs: str
    by_factor: bool = False
    whole: bool = False

    @abstractmethod
    def responds(self, env: gymnasium.Env[Any, Any]) -> bool:
        """Whether the parameter has any effect on a MuJoCo environment as it is now."""

    @abstractmethod
    def bind(self, env: gymnasium.Env[Any, Any], part: str | None, *, factor: bool) -> Effect:
        """The parameter of one environment; changes nothing yet.

        Args:
            env: A MuJoCo environment that has what it has itself.
            part: The body or joint that changes, one of :meth:`parts`; None for all.
            factor: Whether values are multiples of the environment's own.
        """

    def parts(self, model: mujoco.MjModel) -> dict[str, list[int]]:  # noqa: ARG002
        """The parts of a model that can change by themselves, with their numbers there."""
        return {}
