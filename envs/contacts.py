"""Which contacts a MuJoCo model can have, and what they take their friction from."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.places import Array

_NO_CONTACTS = mujoco.mjtDisableBit.mjDSBL_CONTACT | mujoco.mjtDisableBit.mjDSBL_CONSTRAINT


def frictions(model: mujoco.MjModel) -> Array:
    """The sliding frictions of all contacts with tangential forces that can be, as MuJoCo mixes them; empty where none can.

    A contact has the greater friction of the two that touch, or that of the one with the higher priority. An explicit pair has
    frictions of its own, and so has the global override.
    """
    if model.opt.disableflags & _NO_CONTACTS:
        return np.empty(0)
    possible, mixed = _mixed(model)
    found = np.concatenate((mixed[np.triu(possible, 1)], model.pair_friction[model.pair_dim > 1][:, :2].ravel()))
    if model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_OVERRIDE:
        found = np.tile(model.opt.o_friction[:2], len(found))
    at_least: Array = np.maximum(found, mujoco.mjMINMU)
    return at_least


def seen(data: mujoco.MjData) -> list[float]:
    """The sliding frictions of the contacts that there are, those with tangential forces."""
    return [float(data.contact[i].friction[0]) for i in range(data.ncon) if data.contact[i].dim > 1]


def _mixed(model: mujoco.MjModel) -> tuple[NDArray[np.bool_], Array]:
    """Of geoms, and after them flexes: which can touch which with tangential forces, and the friction there, (n, n) both."""
    body = np.concatenate((model.geom_bodyid, np.full(model.nflex, -1)))  # flexes have many, and touch themselves as asked
    types, affinities, dimensions, priorities = (
        np.concatenate((getattr(model, f"geom_{name}"), getattr(model, f"flex_{name}")))
        for name in ("contype", "conaffinity", "condim", "priority")
    )
    friction = np.concatenate((model.geom_friction[:, 0], model.flex_friction[:, 0]))
    masks = (types[:, None] & affinities) != 0
    possible = (masks | masks.T) & _may_meet(model, body)
    higher = priorities[:, None] > priorities
    equal = priorities[:, None] == priorities
    dimension, mixed = (
        np.where(equal, np.maximum.outer(each, each), np.where(higher, each[:, None], each)) for each in (dimensions, friction)
    )
    return possible & (dimension > 1), mixed


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
