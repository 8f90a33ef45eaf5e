"""Which contacts a MuJoCo model can have, and which friction."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.places import Array

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
    possible, mixed = _mixed(kind, model)
    of_pairs = model.pair_friction[model.pair_dim >= _LEAST_DIMENSION[kind]][:, list(COLUMNS[kind])]
    found = np.concatenate((mixed[np.triu(possible, 1)], of_pairs.ravel()))
    if model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_OVERRIDE:
        found = np.tile(model.opt.o_friction[list(COLUMNS[kind])], len(found))
    at_least: Array = np.maximum(found, mujoco.mjMINMU)
    return at_least


def seen(kind: int, data: mujoco.MjData) -> list[float]:
    """The frictions of a kind of the contacts that there are, those that have it."""
    contacts = (data.contact[i] for i in range(data.ncon))
    return [float(each.friction[COLUMNS[kind][0]]) for each in contacts if each.dim >= _LEAST_DIMENSION[kind]]


def _mixed(kind: int, model: mujoco.MjModel) -> tuple[NDArray[np.bool_], Array]:
    """Of geoms, and after them flexes: which can touch which so that the friction acts, and how much there is, (n, n)."""
    body = np.concatenate((model.geom_bodyid, np.full(model.nflex, -1)))  # flexes have many, and touch themselves as asked
    types, affinities, dimensions, priorities = (
        np.concatenate((getattr(model, f"geom_{name}"), getattr(model, f"flex_{name}")))
        for name in ("contype", "conaffinity", "condim", "priority")
    )
    friction = np.concatenate((model.geom_friction[:, kind], model.flex_friction[:, kind]))
    masks = (types[:, None] & affinities) != 0
    possible = (masks | masks.T) & _may_meet(model, body)
    higher = priorities[:, None] > priorities
    equal = priorities[:, None] == priorities
    dimension, mixed = (
        np.where(equal, np.maximum.outer(each, each), np.where(higher, each[:, None], each)) for each in (dimensions, friction)
    )
    return possible & (dimension >= _LEAST_DIMENSION[kind]), mixed


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
