"""What the arguments of this package may be."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Collection
from typing import Any

import gymnasium
import numpy as np

RESET = ("observation", "info")
"""What ``reset`` returns."""

STEP = ("observation", "reward", "terminated", "truncated", "info")
"""What ``step`` returns."""


class ParameterError(ValueError):
    """An argument that this package cannot use; the message says on one line what is allowed and what was received."""


class EffectError(RuntimeError):
    """A change has no effect on an environment, or has lost it, so that what ``info`` says would not be true."""


def parts(owner: str, call: str, given: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    """Returns what an environment's ``reset`` or ``step`` has returned, if these are as many parts as Gymnasium's are.

    Args:
        owner: The environment's name, for the message.
        call: ``"reset"`` or ``"step"``, likewise.
        given: What it has returned.
        names: Of the parts.

    Returns:
        The parts.

    Raises:
        EffectError: Something else.
    """
    if isinstance(given, tuple | list) and len(given) == len(names):
        return tuple(given)
    received = f"{len(given)} values" if isinstance(given, tuple | list) else shown(given)
    raise EffectError(f"{call} of {owner} must return {', '.join(names)}, as Gymnasium's API has it; got {received:.80}")


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
    raise ParameterError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {shown(value)}{suggestion}")


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
    raise ParameterError(f"{argument} must be an integer of at least {lowest}, got {shown(value)}")


def finite(argument: str, value: object, lowest: float = -math.inf, highest: float = math.inf) -> float:
    """Returns a finite number within bounds as a Python float.

    Args:
        argument: The argument's name, for the message.
        value: What was received, also an integer or a NumPy number.
        lowest: The least value allowed.
        highest: The greatest value allowed.

    Returns:
        The number.

    Raises:
        ParameterError: A number out of bounds, NaN, infinity, a bool, or no number.
    """
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, int | float) and not isinstance(number, bool):
        least, greatest = max(lowest, -sys.float_info.max), min(highest, sys.float_info.max)
        if least <= number <= greatest:
            return float(number)
    raise ParameterError(f"{argument} must be a finite number{_bounds(lowest, highest)}, got {shown(value)}")


def _bounds(lowest: float, highest: float) -> str:
    if highest < math.inf:
        return f" from {lowest:g} to {highest:g}"
    return f" of at least {lowest:g}" if lowest > -math.inf else ""


def sequence(argument: str, value: object, fewest: int, most: float = math.inf) -> list[Any]:
    """Returns the items of a list, a tuple or an array of one dimension.

    Raises:
        ParameterError: Another value, or a number of items out of its range.
    """
    if (isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)) and fewest <= len(
        value
    ) <= most:
        return list(value)
    words = f"of length {fewest}" if most == fewest else f"of length {fewest} or more"
    raise ParameterError(f"{argument} must be a list {words}, got {shown(value)}")


def boolean(argument: str, value: object) -> bool:
    """Returns a truth value as a Python bool.

    Raises:
        ParameterError: Another value.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ParameterError(f"{argument} must be True or False, got {shown(value)}")


def env_name(env: object) -> str:
    """The registered id of an environment, its class when it has none yet, or what it is when it is none."""
    if not isinstance(env, gymnasium.Env):
        return shown(env)
    return getattr(env.unwrapped.spec, "id", None) or type(env.unwrapped).__name__  # some keep a specification of MuJoCo there


def shown(value: object) -> str:
    """The value on one line: the repr of an array has several."""
    return " ".join(repr(value).split())
