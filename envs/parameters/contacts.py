"""Parameters of contacts: friction and softness."""

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


def _of_softness(field: str, columns: tuple[int, ...], **kwargs: Any) -> Physics:
    """Numbers of ``solref`` or ``solimp``."""
    return Physics(
        fields=(
            Field(f"geom_{field}", "geom", columns),
            Field(f"pair_{field}", "pair", columns),
            Field(f"flex_{field}", "flex", columns),
            Field(f"opt.o_{field}", OPTION, columns),
        ),
        needs="two geoms that can touch (contype, conaffinity)",
        parts_of=anatomy.surfaces,
        all_of=anatomy.all_surfaces,
        probe=partial(contacts.softness, field, columns[0]),
        shows=partial(contacts.seen_softness, field, columns[0]),
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
    _of_softness(
        "solref",
        (0,),
        name="contact_time",
        meaning="time constant in which contacts push apart what has sunk in, or those of one geom: the softer, the longer",
        unit="s",
        lowest=1e-4,  # ours
        highest=math.inf,
        low=0.02,  # MuJoCo's own default
        high=0.1,  # ours
        schedule="log_uniform",
        where="time constant of contacts",
        refuse=contacts.stiff,
        least=contacts.least_time,
    ),
    _of_softness(
        "solref",
        (1,),
        name="contact_damping",
        meaning="damping ratio of all contacts, or of one geom's: below 1 they bounce",
        unit="1",
        lowest=0.01,  # ours: the stiffness grows with its inverse square
        highest=math.inf,
        low=0.5,  # ours
        high=2.0,
        schedule="log_uniform",
        where="damping ratio of contacts",
        refuse=contacts.stiff,
    ),
    _of_softness(
        "solimp",
        (0, 1),
        name="contact_impedance",
        meaning="impedance of all contacts, or of one geom's, at any depth: near 0 they give way, near 1 they are hard",
        unit="1",
        lowest=mujoco.mjMINIMP,
        highest=mujoco.mjMAXIMP,
        low=0.5,  # ours
        high=0.95,  # that of MuJoCo's own default in the depth
        schedule="uniform",
        where="impedance of contacts",
    ),
)
"""The parameters of contacts."""
