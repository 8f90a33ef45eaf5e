"""What of an environment can change, by name."""

from __future__ import annotations

from envs import checks
from envs.effects import Parameter
from envs.parameters import actuators, bodies, contacts, interface, joints, medium, rewards, tasks

_ROOMS = (contacts, bodies, joints, actuators, medium, interface, rewards, tasks)

PARAMETERS: dict[str, Parameter] = {each.name: each for room in _ROOMS for each in room.PARAMETERS}
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
