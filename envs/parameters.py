"""What in a MuJoCo model can change, within which bounds, and how it is applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np


@dataclass(frozen=True)
class Parameter:
    """One physical quantity of a MuJoCo model.

    Attributes:
        name: Its name, which is also its key in ``info``.
        unit: Its unit, ``"1"`` where it has none.
        lowest: The least value that MuJoCo honours; every finite value from there on is allowed.
        default_low: Low end of the range it is drawn from by default.
        default_high: High end of that range.
        needs: What a model must have for the parameter to have any effect, in words.
        has_effect: Whether a model has that.
        apply: Writes a value into a model, in force from the next physics step on.
    """

    name: str
    unit: str
    lowest: float
    default_low: float
    default_high: float
    needs: str
    has_effect: Callable[[mujoco.MjModel], bool]
    apply: Callable[[mujoco.MjModel, float], None]


def _set_friction(model: mujoco.MjModel, value: float) -> None:
    """Sets the sliding friction of every contact, tangential directions alike.

    MuJoCo gives a contact the element-wise maximum of its two geoms' frictions, so one geom left at a higher value would
    hold the contact there: all geoms get the value. Explicit contact pairs, and the global override of contact parameters,
    do not look at the geoms and carry two tangential coefficients of their own.
    """
    model.geom_friction[:, 0] = value
    model.pair_friction[:, :2] = value
    model.opt.o_friction[:2] = value


def _has_friction(model: mujoco.MjModel) -> bool:
    """Whether two geoms of different bodies can touch, by pair or by bit masks, in a contact with tangential forces."""
    can_touch = (model.geom_contype[:, None] & model.geom_conaffinity) != 0
    other_body = model.geom_bodyid[:, None] != model.geom_bodyid
    tangential = np.maximum.outer(model.geom_condim, model.geom_condim) > 1
    return bool(np.any(can_touch & other_body & tangential) or np.any(model.pair_dim > 1))


FRICTION = Parameter(
    name="friction",
    unit="1",
    lowest=mujoco.mjMINMU,
    default_low=0.02,  # Dohare et al., Nature 632 (2024): the Slippery Ant draws from [0.02, 2]
    default_high=2.0,
    needs="two geoms that can touch with friction (contype, conaffinity, condim)",
    has_effect=_has_friction,
    apply=_set_friction,
)

PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in (FRICTION,)}
"""The parameters that :class:`envs.NonStationary` knows by name."""
