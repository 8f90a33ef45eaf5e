"""Parameters of contacts: friction."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import mujoco

from envs import anatomy, contacts
from envs.effects import Parameter
from envs.physics import Physics
from envs.places import OPTION, Field


def _of_friction(kind: int, **kwargs: Any) -> Physics:
    """A kind of friction."""
    columns = contacts.COLUMNS[kind]
    return Physics(
        lowest=mujoco.mjMINMU,
        highest=math.inf,
        schedule="log_uniform",
        fields=(
            Field("geom_friction", "geom", (kind,)),
            Field("pair_friction", "pair", columns),
            Field("flex_friction", "flex", (kind,)),
            Field("opt.o_friction", OPTION, columns),
        ),
        parts_of=anatomy.surfaces,
        all_of=anatomy.all_surfaces,
        probe=partial(contacts.frictions, kind),
        shows=partial(contacts.seen, kind),
        in_steps=True,
        **kwargs,
    )


PARAMETERS: tuple[Parameter, ...] = (
    _of_friction(
        contacts.SLIDING,
        name="friction",
        meaning="sliding friction of all contacts, or of one geom",
        unit="1",
        low=0.02,  # Dohare et al., Nature 632 (2024): the Slippery Ant draws from [0.02, 2]
        high=2.0,
        needs="two geoms that can touch with friction (contype, conaffinity, condim)",
        where="friction of contacts",
    ),
    _of_friction(
        contacts.TORSIONAL,
        name="torsional_friction",
        meaning="friction of all contacts against turning about their normals, or of one geom",
        unit="m",
        low=0.001,  # ours: a fifth of MuJoCo's own default
        high=0.1,
        needs="two geoms that can touch with torsional friction (condim 4 or 6)",
        where="torsional friction of contacts",
    ),
    _of_friction(
        contacts.ROLLING,
        name="rolling_friction",
        meaning="friction of all contacts against rolling, or of one geom",
        unit="m",
        low=0.0001,  # ours: MuJoCo's own default
        high=0.05,
        needs="two geoms that can touch with rolling friction (condim 6)",
        where="rolling friction of contacts",
    ),
)
"""The parameters of contacts."""
