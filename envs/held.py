"""What a wrapper holds in force: the numbers it writes, what they were before, and whether they are still there."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from envs.effects import Effect
from envs.places import Place, Subject, union

FOLLOWING = (
    "body_subtreemass",
    "body_invweight0",
    "dof_M0",
    "dof_invweight0",
    "tendon_invweight0",
    "flexedge_invweight0",
    "efm0_L",
    "actuator_acc0",
    "stat.meaninertia",
)
"""Constants of a model that follow from masses and inertias, and that MuJoCo computes when it compiles (``mj_setConst``).

The other constants that it computes then follow from the initial configuration. Environments set some of them themselves at
run time, such as the relative pose of a weld: a change of mass leaves them alone. Recent versions of ``mj_setConst`` leave the
mean inertia alone too, by which the solver scales its tolerance; it stays what it was then.
"""


_GIVEN = ("body_mass", "body_inertia", "body_ipos", "body_iquat", "dof_armature")
"""What they follow from."""


class Held:
    """The effects of some parameters on a subject, as one: what they write is written, compared and taken back together.

    Args:
        effects: Of the parameters, in the order in which they are applied.
        subject: What they act on, which has what it has itself.
    """

    def __init__(self, effects: Sequence[Effect], subject: Subject) -> None:
        self._effects = effects
        self._places = union([place for effect in effects for place in effect.places])
        derived = any(effect.derived for effect in effects)
        self._following = [place for name in FOLLOWING if (place := _whole(name, subject))] if derived else []
        self._given = [place for name in _GIVEN if (place := _whole(name, subject))] if derived else []
        self._followed: list[bytes] | None = None  # what the constants that were written last follow from
        self._all = [*self._places, *self._following]
        self._own = [place.read(subject) for place in self._all]
        self._written = [own.tobytes() for own in self._own]

    def write(self, subject: Subject, values: Sequence[float]) -> None:
        """Puts values into force.

        All effects begin from the subject's own values, so that the same values are the same bits whatever came before.
        """
        self.restore(subject)
        for effect, value in zip(self._effects, values, strict=True):
            effect.apply(subject, value)
        self._followed = None
        if self._following and not self._is_own(subject):
            self._compute_following(subject)
            self._followed = self._given_now(subject)
        self.take(subject)

    def take(self, subject: Subject) -> None:
        """Takes what the subject has now for what was written."""
        self._written = [place.read(subject).tobytes() for place in self._all]

    def holds(self, subject: Subject) -> bool:
        """Whether the subject has, to the bit, what was written last."""
        return all(place.read(subject).tobytes() == written for place, written in zip(self._all, self._written, strict=True))

    def is_mostly_in(self, subject: Subject) -> bool:
        """Whether a subject has more than half of the numbers that were written last and are not its own: a copy has."""
        written, found = 0, 0
        for place, own, last in zip(self._places, self._own, self._written, strict=False):
            numbers = np.frombuffer(last).reshape(own.shape)
            differs = numbers != own
            written += int(np.count_nonzero(differs))
            found += int(np.count_nonzero(differs & (place.read(subject) == numbers)))
        return 2 * found > written

    def follows(self, subject: Subject) -> bool:
        """Whether the constants that were written last follow from what the subject has now."""
        return self._followed is None or self._followed == self._given_now(subject)

    def take_given(self, subject: Subject) -> None:
        """Takes what the subject has now for what the constants that were written last follow from."""
        self._followed = self._given_now(subject) if self._followed is not None else None

    def forget_given(self) -> None:
        """The constants that were written last follow from something else than the subject has."""
        self._followed = []

    def _given_now(self, subject: Subject) -> list[bytes]:
        return [place.read(subject).tobytes() for place in self._given]

    def restore(self, subject: Subject) -> None:
        """Gives the subject back what it had itself."""
        for place, own in zip(self._all, self._own, strict=True):
            place.write(subject, own)

    def give_back(self, subject: Subject) -> list[str]:
        """Gives back what it had itself where nobody else has written since; what somebody wrote is its own from now on.

        Returns:
            The fields in which somebody wrote.
        """
        others = []
        before = [place.read(subject) for place in self._places]
        for place, own, written in zip(self._all, self._own, self._written, strict=True):
            now = place.read(subject)
            ours = now == np.frombuffer(written).reshape(now.shape)
            if not ours.all():
                others.append(place.field)
            place.write(subject, np.where(ours, own, now))
        goes_back = not all(np.array_equal(place.read(subject), now) for place, now in zip(self._places, before, strict=True))
        if goes_back and {place.field for place in self._following}.intersection(others):
            self._compute_following(subject)  # the environment has, from numbers that were not its own
        return others

    def owner(self, subject: Subject) -> Any:
        """The model, where it is written to, which several environments may share; else the environment."""
        return subject.env.unwrapped if all(place.field.startswith("env.") for place in self._all) else subject.model

    def own_values(self) -> list[list[float]]:
        """What the subject had itself, as JSON can hold it."""
        return [own.ravel().tolist() for own in self._own]

    def fits(self, values: Sequence[Sequence[float]]) -> bool:
        """Whether :meth:`own_values` can have returned this."""
        return [len(saved) for saved in values] == [own.size for own in self._own]

    def written_values(self) -> list[list[float]]:
        """What was written last, as JSON can hold it."""
        return [np.frombuffer(written).tolist() for written in self._written]

    def set_written_values(self, values: Sequence[Sequence[float]]) -> None:
        """Takes what :meth:`written_values` returned for what was written last."""
        self._written = [np.array(saved, np.float64).tobytes() for saved in values]

    def set_own_values(self, values: Sequence[Sequence[float]]) -> None:
        """Takes what :meth:`own_values` returned for what the subject had itself."""
        self._own = [np.array(saved).reshape(own.shape) for own, saved in zip(self._own, values, strict=True)]

    def _compute_following(self, subject: Subject) -> None:
        """Writes the constants that follow from what the subject has now."""
        trial = copy.copy(subject.physics)
        mujoco.mj_setConst(trial, mujoco.MjData(trial))
        computed = subject._replace(model=trial)
        for place in self._following:
            place.write(subject, place.read(computed))

    def _is_own(self, subject: Subject) -> bool:
        return all(np.array_equal(place.read(subject), own) for place, own in zip(self._places, self._own, strict=False))


_HOLDERS: dict[int, tuple[Held, weakref.ref[Any], weakref.finalize[..., Any]]] = {}
"""Of models and environments that change, by their identity: what is held there, by which wrapper (or none), and its end.

Environments may be equal without being the same, and may have no hash: of dataclasses both are true.
"""


def hold(subject: Subject, held: Held, holder: Any) -> None:
    """Says that a wrapper holds something in a subject.

    Another wrapper that held something there, of the same environment or of one that shares its model, is told so
    (``holder.displace()``).
    """
    owner = held.owner(subject)
    before = _HOLDERS.get(id(owner))
    if before is None:
        end = weakref.finalize(owner, _HOLDERS.pop, id(owner), None)
        end.atexit = False
    else:
        end = before[2]
        if (other := before[1]()) not in (None, holder):
            other.displace()
    _HOLDERS[id(owner)] = held, weakref.ref(holder), end


def suspend(subject: Subject) -> list[Any]:
    """Gives a subject back what it had itself before wrappers held something there. Returns those of them that are not gone."""
    holders = []
    for owner in _owners(subject):
        if (found := _HOLDERS.get(id(owner))) is None:
            continue
        found[0].give_back(subject)
        if (holder := found[1]()) is None:
            _forget(owner)
        else:
            holders.append(holder)
    return holders


def displace(subject: Subject, held: Held, others: list[Any]) -> None:
    """Tells suspended wrappers that another one changes what they changed, or their environment; the others go on."""
    owner = held.owner(subject)
    for other in others:
        if owner is subject.model or other.unwrapped is subject.env.unwrapped:
            release(subject, other)
            other.displace()
        else:
            other.take_up()


def release(subject: Subject, holder: Any) -> None:
    """Gives a subject back what it had itself before a wrapper held something there."""
    for owner in _owners(subject):
        found = _HOLDERS.get(id(owner))
        if found is not None and found[1]() is holder:
            found[0].give_back(subject)
            _forget(owner)


def _forget(owner: Any) -> None:
    _HOLDERS.pop(id(owner))[2].detach()


def _owners(subject: Subject) -> tuple[Any, ...]:
    """What :meth:`Held.owner` may be."""
    return (subject.model, subject.env.unwrapped)


def _whole(name: str, subject: Subject) -> Place | None:
    """All numbers of a field of a model; None where it, or this MuJoCo, has none."""
    owner: Any = subject.physics
    for part in name.split("."):
        owner = getattr(owner, part, None)
    if owner is None or np.size(owner) == 0:
        return None
    return Place(name, None if np.ndim(owner) == 0 else np.arange(np.size(owner)))
