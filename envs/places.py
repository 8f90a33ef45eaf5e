"""Where numbers lie: in the arrays of a MuJoCo model, in its options, or in an attribute of an environment."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from envs import checks
from envs.simulation import ModelSource, find_data, find_model

Array = NDArray[Any]


class Subject(NamedTuple):
    """What is changed.

    Attributes:
        env: The environment, with the wrappers around which the change is.
        model: The MuJoCo model that it simulates; None where it has none.
        source: Says where the model is, as for :func:`envs.simulation.find_model`.
    """

    env: gymnasium.Env[Any, Any]
    model: mujoco.MjModel | None
    source: ModelSource | None = None

    @property
    def physics(self) -> mujoco.MjModel:
        """The model.

        Raises:
            envs.ParameterError: There is none.
        """
        return find_model(self.env) if self.model is None else self.model  # which says what is missing

    @property
    def data(self) -> mujoco.MjData | None:
        """The state of the simulation; None where it is not to be found."""
        return find_data(self.env, self.source)


class Thing(NamedTuple):
    """An object of a model: a kind in :data:`KINDS`, and its number there."""

    kind: str
    number: int = 0


Things = tuple[Thing, ...]


class _Kind(NamedTuple):
    size: str
    object_type: mujoco.mjtObj


KINDS: dict[str, _Kind] = {
    "body": _Kind("nbody", mujoco.mjtObj.mjOBJ_BODY),
    "joint": _Kind("njnt", mujoco.mjtObj.mjOBJ_JOINT),
    "geom": _Kind("ngeom", mujoco.mjtObj.mjOBJ_GEOM),
    "pair": _Kind("npair", mujoco.mjtObj.mjOBJ_PAIR),
    "flex": _Kind("nflex", mujoco.mjtObj.mjOBJ_FLEX),
    "tendon": _Kind("ntendon", mujoco.mjtObj.mjOBJ_TENDON),
    "actuator": _Kind("nu", mujoco.mjtObj.mjOBJ_ACTUATOR),
}
"""The kinds of objects that fields are of, with what MuJoCo calls their number."""

OPTION = "option"
"""The kind of a field that a model has once, not for each of its objects."""


def things(model: mujoco.MjModel, *kinds: str) -> Things:
    """All objects of a model of some kinds."""
    return tuple(Thing(kind, number) for kind in kinds for number in range(count(model, kind)))


def count(model: mujoco.MjModel, kind: str) -> int:
    """How many objects of a kind a model has."""
    if kind == "actuator":  # one may have several controls
        return len(model.actuator_trntype)
    return int(getattr(model, KINDS[kind].size))


def actuators_of_forces(model: mujoco.MjModel) -> Array:
    """Of each force the number of its actuator; one may have several."""
    forces = getattr(model, "actuator_outnum", 1)  # MuJoCo has it since 3.17
    return np.repeat(np.arange(count(model, "actuator")), forces)


def names_of(model: mujoco.MjModel, some: Iterable[Thing]) -> dict[str, Thing]:
    """Objects by their names, each by a name of its own.

    An object without a name is called by its kind and number, as ``body2``; where a name is another object's too, by its kind
    and what is its own: ``tendon:cord``, ``body:2``.
    """
    found: dict[str, Thing] = {}
    own = [(thing, mujoco.mj_id2name(model, KINDS[thing.kind].object_type, thing.number)) for thing in some]
    for thing, name in sorted(own, key=lambda each: not each[1]):  # those with a name have the first choice
        for candidate in (name or f"{thing.kind}{thing.number}", f"{thing.kind}:{name or thing.number}", str(tuple(thing))):
            if candidate not in found:
                found[candidate] = thing
                break
    numbers = {thing: number for number, (thing, _) in enumerate(own)}
    return dict(sorted(found.items(), key=lambda item: numbers[item[1]]))


def select(argument: str, part: str, parts: Collection[str]) -> list[str]:
    """The names that a part asks for.

    Args:
        argument: What is named, for the message.
        part: A name; a pattern such as ``"finger*"``; or several with ``+`` between.
        parts: The names that there are.

    Raises:
        envs.ParameterError: A name or a pattern to which nothing answers.
    """
    if part in parts:
        return [part]
    chosen: list[str] = []
    for each in part.split("+"):
        matching = [name for name in parts if fnmatch.fnmatchcase(name, each)]
        chosen += [each] if each in parts else matching or [checks.choice(argument, each, parts)]
    return list(dict.fromkeys(chosen))


@dataclass(frozen=True)
class Field:
    """A field of a model that a parameter acts through.

    Attributes:
        name: Of an attribute of ``MjModel``; of its options after ``opt.``.
        kind: Whose objects have a row there each, one of :data:`KINDS` or :data:`OPTION`; fields of joints whose name begins
            with ``dof_`` have one for each degree of freedom.
        columns: Which numbers of a row; None for all.
        zero: Whether a value in the parameter's unit makes it 0: coefficients of higher order, and what would add to the value.
        only: Which of the objects of the kind it is meant of, by their numbers; None for all.
        sign: Of what is written there: −1 where MuJoCo keeps the negative value.
    """

    name: str
    kind: str
    columns: tuple[int, ...] | None = None
    zero: bool = False
    only: Callable[[mujoco.MjModel, int], bool] | None = None
    sign: int = 1

    def meant(self, model: mujoco.MjModel, some: Iterable[Thing]) -> Things:
        """Those of some objects that it is meant of."""
        return tuple(
            thing for thing in some if thing.kind == self.kind and (self.only is None or self.only(model, thing.number))
        )

    def place(self, model: mujoco.MjModel, some: Iterable[Thing]) -> Place | None:
        """Where the numbers of some objects are; None where the model, or this MuJoCo, has none.

        MuJoCo grows fields: an older one does without those it does not have.
        """
        owner = model.opt if self.name.startswith("opt.") else model
        array = getattr(owner, self.name.removeprefix("opt."), None)
        some = self.meant(model, some)
        if array is None or not some:
            return None
        if self.kind == OPTION:
            return Place(self.name, None if np.ndim(array) == 0 else np.array(self.columns or range(np.size(array))))
        rows = [row for thing in some for row in _rows(model, self.name, thing.number)]
        width = int(np.prod(array.shape[1:]))
        columns = range(width) if self.columns is None else self.columns
        index = np.array([row * width + column for row in rows for column in columns], np.intp)
        return Place(self.name, index) if index.size else None


def _rows(model: mujoco.MjModel, field: str, number: int) -> range:
    if not field.startswith("dof_"):
        return range(number, number + 1)
    first, ends = int(model.jnt_dofadr[number]), [*model.jnt_dofadr[number + 1 :], model.nv]
    return range(first, int(ends[0]))


@dataclass(frozen=True, eq=False)
class Place:
    """Numbers of a subject.

    Attributes:
        field: The attribute: of the model; of its options or statistics after ``opt.`` or ``stat.``; of the environment after
            ``env.``.
        index: In the array with all axes made one; None for a number.
        kind: The type of a number, which it keeps where that can hold it: whole numbers stay Python integers.
    """

    field: str
    index: NDArray[np.intp] | None
    kind: type = float

    def read(self, subject: Subject) -> NDArray[np.float64]:
        """The numbers, as a copy."""
        value = getattr(*self._owner(subject))
        if self.index is None:
            return np.array(value, np.float64)
        return np.array(value.reshape(-1)[self.index], np.float64)

    def write(self, subject: Subject, values: NDArray[np.float64]) -> None:
        """Writes numbers there."""
        owner, name = self._owner(subject)
        if self.index is None:
            number = float(values)
            kept = self.kind(number)
            setattr(owner, name, kept if kept == number else number)
        else:
            getattr(owner, name).reshape(-1)[self.index] = values

    def _owner(self, subject: Subject) -> tuple[Any, str]:
        prefix, dot, name = self.field.rpartition(".")
        if not dot:
            return subject.model, self.field
        return (subject.env.unwrapped if prefix == "env" else getattr(subject.model, prefix)), name


def times(numbers: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Numbers multiplied by a factor; those that are infinite stay so, as a limit that is none."""
    return np.multiply(numbers, factor, out=numbers.copy(), where=np.isfinite(numbers))


def union(some: Sequence[Place]) -> list[Place]:
    """The same numbers in places that do not overlap, one for each field."""
    of_field: dict[str, list[Place]] = {}
    for place in some:
        of_field.setdefault(place.field, []).append(place)
    return [
        same[0] if same[0].index is None else Place(field, np.unique(np.concatenate([place.index for place in same])))
        for field, same in of_field.items()
    ]


def shared(some: Sequence[Place], others: Sequence[Place]) -> list[str]:
    """The fields of which numbers are in both."""
    mine, theirs = ({place.field: place.index for place in union(places)} for places in (some, others))
    both = {field: (mine[field], theirs[field]) for field in mine if field in theirs}
    return [field for field, (one, other) in both.items() if one is None or other is None or np.intersect1d(one, other).size]
