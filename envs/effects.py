"""What a parameter is, and its effect on one environment."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from envs.generators import decode_generator, encode_generator
from envs.places import Array, Place, Subject, Things


class Effect:
    """A parameter of one environment.

    Attributes:
        places: What it writes.
        derived: Whether constants of the model follow from it that MuJoCo must compute anew.
        lowest: The least value that the environment allows; the parameter may allow fewer.
        highest: The greatest one.
    """

    places: tuple[Place, ...] = ()
    derived = False
    lowest = -math.inf
    highest = math.inf

    def own(self) -> tuple[float, ...]:
        """What a factor multiplies: the environment's own values; empty where it has none."""
        return ()

    def apply(self, subject: Subject, value: float) -> None:
        """Puts a value into force from the next step on, in a subject whose places have what they had themselves."""
        raise NotImplementedError

    def begin_phase(self) -> None:
        """Is told that its value is the first of a phase."""

    def reach(self, subject: Subject) -> dict[str, list[str]]:  # noqa: ARG002
        """The fields that it writes, with the names of the objects whose numbers these are."""
        return {}


class Acting(Effect):
    """Acts in steps, not by what it writes; has random numbers of its own.

    Attributes:
        acts_on: ``"observation"``, ``"action"``, ``"reward"`` or ``"simulation"``.
    """

    acts_on = "simulation"

    def __init__(self) -> None:
        self._value = 0.0
        self.restart(np.random.SeedSequence())

    def apply(self, subject: Subject, value: float) -> None:  # noqa: ARG002
        """Puts a value into force from the next step on."""
        self._value = value

    def restart(self, seed: np.random.SeedSequence) -> None:
        """Begins a sequence of random numbers."""
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def begin_episode(self) -> None:
        """Forgets what belongs to the last episode."""

    def begin_step(self, subject: Subject) -> None:
        """Acts on the simulation before a step."""

    def end_step(self) -> None:
        """Is told that the step has been taken; one that fails is not."""

    def change_reward(self, subject: Subject, reward: Any, info: dict[str, Any]) -> Any:  # noqa: ARG002
        """The reward of a step."""
        return reward

    def state_dict(self) -> dict[str, Any]:
        """What changes with time, as JSON can hold it."""
        return encode_generator(self._generator)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._generator = decode_generator(state, self._generator)


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
        where: What :meth:`measure` measures, in words: where the parameter acts.
        in_steps: Whether steps of the simulation show the value itself (:meth:`seen`), not only what follows from it.
        by_factor: Whether values, those of the default range too, are by default multiples of the environment's own.
        whole: Whether values are whole numbers.
        turn: After how much the same comes again, as 360° do; infinity for never.
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
    where: str = ""
    in_steps: bool = False
    by_factor: bool = False
    whole: bool = False
    turn: float = math.inf

    @abstractmethod
    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:
        """The parameter of one environment; changes nothing yet.

        Args:
            subject: The environment, which has what it has itself.
            part: What of it changes: names of :meth:`parts`, see :func:`envs.places.select`; None for all.
            factor: Whether values are multiples of the environment's own.

        Raises:
            envs.ParameterError: The environment has no such parameter, or no such part.
        """

    def try_out(self, subject: Subject) -> None:  # noqa: B027
        """Refuses an environment that has what the parameter writes, but does not go by it. Asked once, of a new change.

        Args:
            subject: The environment, which has what it has itself.

        Raises:
            envs.ParameterError: Such an environment.
        """

    def measure(self, model: mujoco.MjModel) -> Array | None:  # noqa: ARG002
        """What the parameter's values decide, measured where it acts, in a model: an array.

        Values that leave it as it is have no effect. None where that is not of a model.
        """
        return None

    def seen(self, data: mujoco.MjData) -> list[float]:  # noqa: ARG002
        """What a step of the simulation shows of the value itself, such as the frictions of its contacts."""
        return []

    def parts(self, model: mujoco.MjModel) -> dict[str, Things]:  # noqa: ARG002
        """The parts of a model that can change by themselves, by name."""
        return {}
