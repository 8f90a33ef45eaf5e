"""What the arguments of this package may be."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection
from typing import Any

import gymnasium
import mujoco
import numpy as np


class ParameterError(ValueError):
    """An argument that this package cannot use; the message says on one line what is allowed and what was received."""


def choice(argument: str, value: object, allowed: Collection[str]) -> str:
    """Returns a name that is one of those allowed.

    Args:
        argument: The argument's name, for the message.
        value: What was received.
        allowed: The names that exist.

    Returns:
        The name.

    Raises:
        ParameterError: Another value; a name that resembles an allowed one brings a suggestion.
    """
    if isinstance(value, str) and value in allowed:
        return value
    similar = difflib.get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
    suggestion = f"; did you mean {similar[0]!r}?" if similar else ""
    raise ParameterError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {_shown(value)}{suggestion}")


def integer(argument: str, value: object, lowest: int) -> int:
    """Returns an integer of at least ``lowest`` as a Python int, so that it can be written as JSON.

    Args:
        argument: The argument's name, for the message.
        value: What was received, also a NumPy integer.
        lowest: The least value allowed.

    Returns:
        The integer.

    Raises:
        ParameterError: A smaller number, a bool, or no integer.
    """
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, int) and not isinstance(number, bool) and number >= lowest:
        return number
    raise ParameterError(f"{argument} must be an integer of at least {lowest}, got {_shown(value)}")


def finite(argument: str, value: object, lowest: float) -> float:
    """Returns a finite number of at least ``lowest`` as a Python float.

    Args:
        argument: The argument's name, for the message.
        value: What was received, also an integer or a NumPy number.
        lowest: The least value allowed.

    Returns:
        The number.

    Raises:
        ParameterError: A smaller number, NaN, infinity, a bool, or no number.
    """
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, int | float) and not isinstance(number, bool) and lowest <= number <= sys.float_info.max:
        return float(number)
    raise ParameterError(f"{argument} must be a finite number of at least {lowest}, got {_shown(value)}")


def mujoco_model(env: gymnasium.Env[Any, Any]) -> mujoco.MjModel:
    """Returns the MuJoCo model that an environment simulates.

    Args:
        env: An environment, wrapped or not.

    Returns:
        The model itself, not a copy.

    Raises:
        ParameterError: No Gymnasium environment, or one without a MuJoCo model.
    """
    model = getattr(env.unwrapped, "model", None) if isinstance(env, gymnasium.Env) else None
    if isinstance(model, mujoco.MjModel):
        return model
    raise ParameterError(f"env must be a MuJoCo environment, got {env_name(env)}")


def env_name(env: gymnasium.Env[Any, Any]) -> str:
    """The registered id of an environment, or what it is when it has none."""
    spec = env.unwrapped.spec if isinstance(env, gymnasium.Env) else None
    return spec.id if spec is not None else _shown(env)


def _shown(value: object) -> str:
    """The value on one line: the repr of an array has several."""
    return " ".join(repr(value).split())
