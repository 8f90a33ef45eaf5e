"""Physical quantities of a MuJoCo model: what a parameter writes there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from envs import checks
from envs.anatomy import Parts
from envs.checks import ParameterError
from envs.effects import Effect, Parameter
from envs.places import OPTION, Array, Field, Subject, Thing, Things, names_of, select, times

_OF_MODEL = (Thing(OPTION),)


@dataclass(frozen=True)
class Physics(Parameter):
    """A physical quantity of a MuJoCo model: a row of :mod:`envs.parameters`.

    Every value it takes is in all its places at once, or scales them alike.

    Attributes:
        fields: Where a model keeps it.
        probe: Measures in a model what it decides, where it acts.
        shows: What a step of the simulation shows of the value itself.
        parts_of: The parts of a model that it can be changed of, by name; None where it has none.
        all_of: What it reaches where no part is named: of a model, with factors or without. None for all parts, or for the
            model's options where it has no parts.
        size: What of a model is equal to the value where it scales its fields; None where they have the value itself.
        refuse: Why some objects cannot be changed, in words; None where they can.
        derived: Whether constants follow from it that MuJoCo must compute anew.
        least: The least value that MuJoCo takes as it is; None where that does not depend on the model.
    """

    fields: tuple[Field, ...] = ()
    probe: Callable[[mujoco.MjModel], Array] = lambda _: np.empty(0)
    shows: Callable[[mujoco.MjData], list[float]] = lambda _: []
    parts_of: Callable[[mujoco.MjModel], Parts] | None = None
    all_of: Callable[[mujoco.MjModel, bool], Things] | None = None
    size: Callable[[mujoco.MjModel, Things], float] | None = None
    refuse: Callable[[mujoco.MjModel, Things], str | None] = lambda _, __: None
    derived: bool = False
    least: Callable[[mujoco.MjModel], float] | None = None

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:
        """The parameter of one environment; changes nothing yet."""
        return PhysicsEffect(self, subject, self.things(subject, part, factor=factor), factor)

    def things(self, subject: Subject, part: str | None, *, factor: bool) -> Things:
        """The objects of a model whose fields it writes.

        Raises:
            envs.ParameterError: The model has no such part, or one that cannot be changed.
        """
        model, parts = subject.physics, self.parts(subject.physics)
        if part is None and self.all_of is not None:
            found = self.all_of(model, factor)
        elif part is None:
            found = _OF_MODEL if self.parts_of is None else tuple(thing for each in parts.values() for thing in each)
        elif not parts:
            raise ParameterError(f"{self.name} has no parts that change by themselves, got {part!r}")
        else:
            chosen = select(f"part of {self.name}", part, parts)
            found = tuple(dict.fromkeys(thing for name in chosen for thing in parts[name]))
        if reason := self.refuse(model, found):
            raise ParameterError(f"{self.name} cannot change {reason} of {checks.env_name(subject.env)}")
        return found

    def measure(self, model: mujoco.MjModel) -> Array | None:
        """What the parameter's values decide, measured where it acts, in a model."""
        return self.probe(model)

    def seen(self, data: mujoco.MjData) -> list[float]:
        """What a step of the simulation shows of the value itself."""
        return self.shows(data)

    def parts(self, model: mujoco.MjModel) -> Parts:
        """The parts of a model that can change by themselves, by name."""
        return {} if self.parts_of is None else self.parts_of(model)


class PhysicsEffect(Effect):
    """A physical quantity of one model."""

    def __init__(self, parameter: Physics, subject: Subject, some: Things, factor: bool) -> None:
        self.derived = parameter.derived
        self._factor = factor
        self._things = some
        model = subject.physics
        placed = [(field, place) for field in parameter.fields if (place := field.place(model, some))]
        self.places = tuple(place for _, place in placed)
        self._written: tuple[Things, ...] = tuple(field.meant(model, some) for field, _ in placed)
        self._zeros: tuple[bool, ...] = tuple(field.zero and not factor for field, _ in placed)
        self._signs: tuple[int, ...] = tuple(field.sign for field, _ in placed)
        own = [field.sign * place.read(subject).ravel() for field, place in placed if factor or not field.zero]
        self._size = parameter.size(model, some) if parameter.size is not None and placed else None
        self._own = (self._size,) if self._size is not None else tuple(np.unique(np.concatenate(own or [np.empty(0)])).tolist())
        if parameter.least is not None:
            self.lowest = parameter.least(model)
        if self._size == 0:  # such as no gravity, which has no direction
            self.places = self._written = self._zeros = self._signs = ()

    def own(self) -> tuple[float, ...]:
        """What a factor multiplies: the model's own values."""
        return self._own

    def apply(self, subject: Subject, value: float) -> None:
        """Puts a value into force from the next step on, in a model that has what it had itself."""
        for place, zero, sign in zip(self.places, self._zeros, self._signs, strict=True):
            now = place.read(subject)
            if self._size is not None:
                place.write(subject, times(now, value if self._factor else value / self._size))
            else:
                place.write(subject, times(now, value) if self._factor else np.full_like(now, 0.0 if zero else sign * value))

    def reach(self, subject: Subject) -> dict[str, list[str]]:
        """The fields that it writes, with the names of the objects whose numbers these are."""
        found: dict[str, set[Thing]] = {}
        for place, some in zip(self.places, self._written, strict=True):
            found.setdefault(place.field, set()).update(some)
        return {
            field: list(names_of(subject.physics, [thing for thing in self._things if thing in some and thing.kind != OPTION]))
            for field, some in found.items()
        }
