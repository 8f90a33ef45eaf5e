"""What of an environment can change, by name."""

from __future__ import annotations

from envs import checks, interface, physics
from envs.effects import Parameter

PARAMETERS: dict[str, Parameter] = {each.name: each for each in (*physics.PARAMETERS, *interface.PARAMETERS)}
"""The parameters that :class:`envs.NonStationary` knows by name."""


def find_parameter(name: object) -> tuple[Parameter, str | None]:
    """The parameter of a name, and the part of the environment that the name asks for.

    Args:
        name: Such as ``"mass"``, or ``"mass:torso"`` for one body of that name.

    Raises:
        ParameterError: No such parameter.
    """
    whole, colon, part = name.partition(":") if isinstance(name, str) else (name, "", "")
    return PARAMETERS[checks.choice("parameter", whole, PARAMETERS)], part if colon else None
