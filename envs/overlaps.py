"""What two parameters both write: they change together where neither undoes what the other does."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import numpy as np

from envs.changes import Change
from envs.checks import ParameterError, env_name
from envs.held import Held
from envs.places import Array, Subject, shared, union


def check_overlaps(changes: Sequence[Change], subject: Subject) -> None:
    """Refuses two changes of the same numbers in which one would not have its value beside the other.

    Multiples go together, and so do gravity and its tilt. A value in a unit goes with nothing that writes there too: not the
    friction of one geom with that of all, nor a body's mass in kilograms with that of all bodies.

    Args:
        changes: Of an environment.
        subject: The environment, which has what it has itself and is left alone.

    Raises:
        ParameterError: Two such changes.
    """
    for first, second in itertools.combinations(changes, 2):
        fields = shared(first.effect.places, second.effect.places)
        if fields and not _go_together(first, second, subject):
            raise ParameterError(
                f"{first.name} and {second.name} of {env_name(subject.env)} cannot both have their values: both write "
                f"{' and '.join(fields)}; multiples (factor=True for both) go together"
            )


def _go_together(first: Change, second: Change, subject: Subject) -> bool:
    """Whether both, as they are written, come to the same as each of them where it finds what the other has made."""
    trial = subject._replace(model=copy.copy(subject.model))
    held = Held([first.effect, second.effect], trial)
    places = union([*first.effect.places, *second.effect.places])

    def found() -> list[Array]:
        return [place.read(trial) for place in places]

    try:
        one, other = _within(first, 0.618), _within(second, 0.382)
        held.write(trial, [one, other])
        written = found()
        for (before, value), (after, last) in itertools.permutations([(first, one), (second, other)]):
            held.restore(trial)
            before.effect.apply(trial, value)
            after.bound(trial).apply(trial, last)
            if not all(np.allclose(*both, rtol=1e-9, atol=1e-12) for both in zip(written, found(), strict=True)):
                return False
    finally:
        held.restore(trial)  # attributes of the environment are not copied
    return True


def _within(change: Change, share: float) -> float:
    """A value that is no end, since at 0 or 1 times what there is nothing can be seen; of two ranges alike another one."""
    least, greatest = change.two_values
    value = least + share * (greatest - least)
    return float(round(value)) if change.parameter.whole else value
