"""Where the centre of mass of a body is."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.effects import Effect
from envs.physics import Physics
from envs.places import Place, Subject, Things, names_of


class Centre(Physics):
    """The displacement of centres of mass along an axis of their bodies, which its name ends with; their inertias stay."""

    def bind(self, subject: Subject, part: str | None, *, factor: bool) -> Effect:
        """The parameter of one environment; changes nothing yet."""
        return _CentreEffect(subject, self.things(subject, part, factor=factor), "xyz".index(self.name[-1]))


class _CentreEffect(Effect):
    """Moves centres, and all that MuJoCo keeps relative to them."""

    derived = True

    def __init__(self, subject: Subject, some: Things, axis: int) -> None:
        model = subject.physics
        self._bodies, self._axis = some, axis
        numbers = [thing.number for thing in some]
        self._ipos = Place("body_ipos", np.array([3 * number + axis for number in numbers], np.intp))
        geoms, sites = (np.flatnonzero(np.isin(of, numbers)) for of in (model.geom_bodyid, model.site_bodyid))
        # MuJoCo copies poses that are the same as the body's or the centre's; moved apart, they must be computed.
        self._copied = [
            Place(field, np.asarray(rows, np.intp))
            for field, rows in (("body_sameframe", numbers), ("geom_sameframe", geoms), ("site_sameframe", sites))
            if len(rows)
        ]
        self._boxes, self._towards = _boxes(model, numbers, axis)
        self.places = (self._ipos, *self._copied, *self._boxes) if numbers else ()

    def apply(self, subject: Subject, value: float) -> None:
        """Puts a value into force from the next step on, in a model that has what it had itself."""
        if not value:
            return
        self._ipos.write(subject, self._ipos.read(subject) + value)
        for place in self._copied:
            place.write(subject, np.zeros(place.read(subject).shape))
        for place in self._boxes:
            place.write(subject, place.read(subject) - value * self._towards)

    def reach(self, subject: Subject) -> dict[str, list[str]]:
        """The field that it writes, with the names of the bodies."""
        return {"body_ipos": list(names_of(subject.physics, self._bodies))}


def _boxes(model: mujoco.MjModel, bodies: Sequence[int], axis: int) -> tuple[list[Place], NDArray[np.float64]]:
    """The boxes around the geoms of bodies, whose centres are relative to the centres of mass, and the axis as they have it."""
    rows, towards = [], []
    for body in bodies:
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, model.body_iquat[body])
        first = int(model.body_bvhadr[body])
        for row in range(first, first + int(model.body_bvhnum[body])):
            rows.append(row)
            towards.append(rotation.reshape(3, 3)[axis])
    index = np.array([6 * row + column for row in rows for column in range(3)], np.intp)
    return ([Place("bvh_aabb", index)] if rows else []), np.ravel(towards)
