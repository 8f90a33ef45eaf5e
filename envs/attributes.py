"""Numbers among the attributes of an environment: parameters of one's own, and of simulators other than MuJoCo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from envs.checks import EffectError, ParameterError, env_name
from envs.effects import Effect, Parameter
from envs.places import Place, Subject
from envs.trials import differ, play_two, try_out

_ROUNDED = 1e-3
"""How much of a number its environment may round off, as one that keeps it with 16 bits does."""

TRIED_STEPS = 1000
"""At most, of an environment that is tried: as many as an episode of Gymnasium's walkers has."""


@dataclass(frozen=True)
class Attribute(Parameter):
    """A number that an environment keeps in an attribute and uses in each step.

    Once it is in :data:`envs.PARAMETERS` under its name, it changes like those there, with schedules, clocks and states. Where
    the environment makes another number of a value, as a property that clips does, :class:`envs.EffectError` is raised.

    Attributes:
        attribute: Its name in the environment without its wrappers.
        of: The class of the environments that have it, where others have one of that name with another meaning.
        follow: Computes other attributes of the environment from it: a function of the environment that returns their values by
            their names. One of a module, where environments are to be pickled.
        used: Says of an environment that has the number whether it uses it; None where it always does.

    Example:
        >>> import envs, gymnasium, math
        >>> envs.PARAMETERS["tick"] = envs.Attribute(
        ...     name="tick", meaning="time of a step", unit="s", lowest=0.001, highest=math.inf, low=0.01, high=0.04,
        ...     schedule="log_uniform", needs="a cart", attribute="tau", of="CartPoleEnv",
        ... )
        >>> env = envs.NonStationary(gymnasium.make("CartPole-v1"), "tick", period=100, seed=0)
        >>> env.reset(seed=0)[1]["tick"] == env.unwrapped.tau
        True
        >>> print(*envs.verify(gymnasium.make("CartPole-v1"), "tick"))
        tick 0.01 and 0.04 s: nothing measured; another trajectory from step 1 on
        >>> del envs.PARAMETERS["tick"]
    """

    attribute: str = ""
    of: str = ""
    follow: Callable[[Any], dict[str, float]] | None = None
    used: Callable[[Any], bool] | None = None

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:
        """The parameter of one environment; changes nothing yet."""
        base = subject.env.unwrapped
        own = getattr(base, self.attribute, None) if self._is_of(base) else None
        unused = own is not None and self.used is not None and not self.used(base)
        if not isinstance(own, int | float | np.number) or isinstance(own, bool) or unused:
            raise ParameterError(f"{self.name} needs {self.needs}, which {env_name(base)} lacks")
        if part is not None:
            raise ParameterError(f"{self.name} has no parts that change by themselves, got {part!r}")
        effect = _AttributeEffect(self.attribute, self.follow, base, factor)
        for place in effect.places:
            try:
                place.write(subject, place.read(subject))
            except AttributeError as error:
                name = place.field.removeprefix("env.")
                raise ParameterError(f"{self.name} needs a {name!r} that can be set, which {env_name(base)} lacks") from error
        return effect

    def _is_of(self, base: Any) -> bool:
        return not self.of or any(kind.__name__ == self.of for kind in type(base).__mro__)


@dataclass(frozen=True)
class TriedAttribute(Attribute):
    """A number that Gymnasium's environments use; a class that derives from theirs may keep it and do without."""

    def try_out(self, subject: Subject) -> None:
        """Refuses an environment in whose steps twice the number brings the same observations and rewards."""
        try_out(self.name, subject.env, self._try)

    def _try(self, base: Any) -> None:
        own = float(getattr(base, self.attribute)) or 1.0
        changes = (partial(self._set, value=own), partial(self._set, value=2 * own))
        for first, second in play_two(base, *changes, steps=TRIED_STEPS):
            if differ(first[:2], second[:2]):
                return
        raise ParameterError(
            f"{self.name} needs {self.needs}, which {env_name(base)} lacks: observations and rewards of its steps are the same "
            f"at twice its {self.attribute!r}"
        )

    def _set(self, base: Any, value: float) -> None:
        setattr(base, self.attribute, value)
        for name, other in ({} if self.follow is None else self.follow(base)).items():
            setattr(base, name, other)


class _AttributeEffect(Effect):
    """A number of one environment, and those that follow from it."""

    def __init__(self, attribute: str, follow: Callable[[Any], dict[str, float]] | None, base: Any, factor: bool) -> None:
        self._follow, self._factor = follow, factor
        self._own = float(getattr(base, attribute))
        following = () if follow is None else follow(base)
        self.places = tuple(Place(f"env.{name}", None, type(getattr(base, name))) for name in (attribute, *following))

    def own(self) -> tuple[float, ...]:
        """The environment's own value."""
        return (self._own,)

    def apply(self, subject: Subject, value: float) -> None:
        """Puts a value into force from the next step on, and what follows from it."""
        number, *following = self.places
        wanted = number.read(subject) * value if self._factor else np.array(value)
        number.write(subject, wanted)
        if not np.isclose(kept := float(number.read(subject)), wanted, rtol=_ROUNDED, atol=0.0):
            name = number.field.removeprefix("env.")
            raise EffectError(f"{env_name(subject.env)} makes {kept:g} of {name!r} where it is to be {float(wanted):g}")
        computed = {} if self._follow is None else self._follow(subject.env.unwrapped)
        for place, other in zip(following, computed.values(), strict=True):
            place.write(subject, np.array(other))

    def reach(self, subject: Subject) -> dict[str, list[str]]:  # noqa: ARG002
        """The attributes that it writes."""
        return {place.field: [] for place in self.places}
