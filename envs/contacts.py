"""Which contacts a MuJoCo model can have, with which friction and softness."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.places import Array, Things, names_of

_NO_CONTACTS = mujoco.mjtDisableBit.mjDSBL_CONTACT | mujoco.mjtDisableBit.mjDSBL_CONSTRAINT


SLIDING, TORSIONAL, ROLLING = range(3)
"""The columns of a geom's friction."""

_LEAST_DIMENSION = {SLIDING: 3, TORSIONAL: 4, ROLLING: 6}
"""Of a contact, for a kind of friction to act in it."""

COLUMNS = {SLIDING: (0, 1), TORSIONAL: (2,), ROLLING: (3, 4)}
"""The columns of an explicit pair's friction, of the override, and of a contact."""


def frictions(kind: int, model: mujoco.MjModel) -> Array:
    """The frictions of a kind of all contacts that can be, as MuJoCo mixes them; empty where none can have it.

    A contact has the greater friction of the two that touch, or that of the one with the higher priority. An explicit pair has
    frictions of its own, and so has the global override.
    """
    if model.opt.disableflags & _NO_CONTACTS:
        return np.empty(0)
    pairs = _Pairs(model, _LEAST_DIMENSION[kind])
    friction = np.concatenate((model.geom_friction[:, kind], model.flex_friction[:, kind]))
    of_pairs = model.pair_friction[model.pair_dim >= _LEAST_DIMENSION[kind]][:, list(COLUMNS[kind])]
    found = np.concatenate((pairs.mixed(friction, np.maximum.outer(friction, friction)), of_pairs.ravel()))
    if model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_OVERRIDE:
        found = np.tile(model.opt.o_friction[list(COLUMNS[kind])], len(found))
    at_least: Array = np.maximum(found, mujoco.mjMINMU)
    return at_least


def softness(name: str, column: int, model: mujoco.MjModel) -> Array:
    """A number of ``solref`` or ``solimp`` of all contacts that can be, as MuJoCo mixes them; empty where none can be.

    A contact has the mean of the two that touch, weighted by ``solmix``, or the number of the one with the higher priority; of
    ``solref`` the smaller one where it is a stiffness or a damping, which are negative.
    """
    if model.opt.disableflags & _NO_CONTACTS:
        return np.empty(0)
    own, weight = (
        np.concatenate((getattr(model, f"geom_{field}"), getattr(model, f"flex_{field}"))) for field in (name, "solmix")
    )
    weight = np.maximum(weight, mujoco.mjMINVAL)
    share = weight[:, None] / (weight[:, None] + weight)
    mean = share * own[:, None, column] + (1 - share) * own[:, column]
    if name == "solref":
        smaller = np.minimum.outer(own[:, column], own[:, column])
        mean = np.where((own[:, None, 0] > 0) & (own[:, 0] > 0), mean, smaller)
    of_pairs = getattr(model, f"pair_{name}")[:, column]
    found = np.concatenate((_Pairs(model, 1).mixed(own[:, column], mean), of_pairs))
    if model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_OVERRIDE:
        found = np.full_like(found, getattr(model.opt, f"o_{name}")[column])
    return found


def stiff(model: mujoco.MjModel, some: Things) -> str | None:
    """Which surfaces have a ``solref`` of stiffness and damping, not of a time constant; None where none has."""
    fields = {"geom": model.geom_solref, "pair": model.pair_solref, "flex": model.flex_solref}
    of_surfaces = [thing for thing in some if thing.kind in fields]
    for name, thing in names_of(model, of_surfaces).items():
        if fields[thing.kind][thing.number, 0] <= 0:
            return f"{thing.kind} {name!r}, whose solref is a stiffness and a damping,"
    return None


def least_time(model: mujoco.MjModel) -> float:
    """The time constant below which MuJoCo raises it to two time steps; 0 where it does not."""
    unsafe = model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_REFSAFE
    return 0.0 if unsafe else 2 * float(model.opt.timestep)


def seen(kind: int, data: mujoco.MjData) -> list[float]:
    """The frictions of a kind of the contacts that there are, those that have it."""
    contacts = (data.contact[i] for i in range(data.ncon))
    return [float(each.friction[COLUMNS[kind][0]]) for each in contacts if each.dim >= _LEAST_DIMENSION[kind]]


def seen_softness(name: str, column: int, data: mujoco.MjData) -> list[float]:
    """A number of ``solref`` or ``solimp`` of the contacts that there are."""
    return [float(getattr(data.contact[i], name)[column]) for i in range(data.ncon)]


class _Pairs:
    """Of geoms, and after them flexes: which can touch which in a contact of so many dimensions, (n, n)."""

    def __init__(self, model: mujoco.MjModel, least: int) -> None:
        body = np.concatenate((model.geom_bodyid, np.full(model.nflex, -1)))  # flexes have many, and touch themselves as asked
        types, affinities, dimensions, priorities = (
            np.concatenate((getattr(model, f"geom_{name}"), getattr(model, f"flex_{name}")))
            for name in ("contype", "conaffinity", "condim", "priority")
        )
        masks = (types[:, None] & affinities) != 0
        self._higher = priorities[:, None] > priorities
        self._equal = priorities[:, None] == priorities
        deep = self._mix(dimensions, np.maximum.outer(dimensions, dimensions)) >= least
        self._possible = np.triu((masks | masks.T) & _may_meet(model, body) & deep, 1)
        first, second = np.sort([model.pair_geom1, model.pair_geom2], axis=0)
        self._possible[first, second] = False  # whose contacts are the explicit pair's

    def mixed(self, own: Array, equals: Array) -> Array:
        """A number of the contacts that can be: that of the higher priority, or what equals (n, n) make of theirs."""
        found: Array = self._mix(own, equals)[self._possible]
        return found

    def _mix(self, own: Array, equals: Array) -> Array:
        mixed: Array = np.where(self._equal, equals, np.where(self._higher, own[:, None], own))
        return mixed


def _may_meet(model: mujoco.MjModel, body: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Which pairs MuJoCo's filters of bodies let through: not those welded together, excluded, or of parent and child."""
    flex = body < 0
    welded = np.where(flex, -1, model.body_weldid[body])
    signature = (np.minimum.outer(body, body) << 16) + np.maximum.outer(body, body)
    meet = (welded[:, None] != welded) & ~np.isin(signature, model.exclude_signature)
    if not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_FILTERPARENT:
        parent = model.body_weldid[model.body_parentid[welded]]
        related = (parent[:, None] == welded) & (welded[:, None] > 0) & (welded > 0)
        meet &= ~(related | related.T)
    either = flex[:, None] | flex
    return np.where(either, ~np.eye(len(body), dtype=bool), meet)
