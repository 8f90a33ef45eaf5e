"""What has no parts, as plain values and back."""

from __future__ import annotations

import datetime as dt
import enum
import pathlib
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from envs import generators
from envs.kept import PLAIN, name_of_fixed, package_of

_OF_TORCH = "?bhilqBHILQefdFD"
"""The types of arrays, by NumPy's characters, that have tensors like them: what writes a state to a file may need these."""

BY_VALUE = ("range", "slice", "ellipsis", "fraction", "decimal", "date", "timedelta")
"""What of Python's own is neither a plain value nor can be changed."""

NOTHING = object()
"""In the place of what is not written."""


def encode(value: Any, path: str) -> Any:
    """What has no parts as a plain value; :data:`NOTHING` of anything else, and of a space that has not drawn.

    Args:
        value: Anything.
        path: What to call it.

    Raises:
        envs.ParameterError: It draws from the operating system.
    """
    if isinstance(value, enum.Enum) or (package_of(value) == "mujoco" and hasattr(type(value), "__members__")):
        kind = type(value)
        return {"enum": [kind.__module__, kind.__qualname__, value.name if value.name in kind.__members__ else value.value]}
    if isinstance(value, np.generic) and value.dtype.char in _OF_TORCH:
        return {"scalar": np.array(value)}
    if isinstance(value, np.ndarray) and value.dtype.char in _OF_TORCH and value.dtype.isnative:
        encoded = {"array": value.copy(order="K")}  # in memory as it is, since sums follow it
        return encoded if value.flags.writeable else encoded | {"fixed": True}
    if value is None:
        return None
    for plain in PLAIN:  # a subclass becomes what it is one of, NumPy's strings too
        if isinstance(value, plain):
            return plain(value)  # type: ignore[arg-type]
    if isinstance(value, pathlib.PurePath):
        return {"path": str(value)}
    if (of_python := _encode_of_python(value)) is not None:
        return of_python
    if (name := name_of_fixed(value)) is not None:
        return {"code": name}
    return (isinstance(value, generators.KINDS) and generators.encode(value, path)) or NOTHING


def _encode_of_python(value: Any) -> dict[str, Any] | None:
    """What of Python's own is known by a few numbers or a text; None of anything else."""
    if isinstance(value, range | slice):
        bounds = [value.start, value.stop, value.step]
        if all(each is None or isinstance(each, int | np.integer) for each in bounds):
            return {type(value).__name__: [None if each is None else int(each) for each in bounds]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if type(value) is bytearray:
        return {"bytearray": bytes(value)}
    if type(value) is Fraction:
        return {"fraction": [value.numerator, value.denominator]}
    if type(value) is Decimal:
        return {"decimal": str(value)}
    if type(value) is dt.timedelta:
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if type(value) in (dt.date, dt.time, dt.datetime):
        kind, text = type(value), value.isoformat()
        return {"date": [kind.__name__, text]} if repr(kind.fromisoformat(text)) == repr(value) else None
    return None


def _scalar(saved: dict[str, Any], _: Any) -> Any:
    return saved["scalar"][()]


def _member(saved: dict[str, Any], now: Any) -> Any:
    """The member of an enumeration: of that of ``now``, or of one that is imported; without it, ``now``."""
    module, qualified, member = saved["enum"]
    kind: Any = type(now)
    if (kind.__module__, kind.__qualname__) != (module, qualified):
        kind = sys.modules.get(module)
        for name in qualified.split("."):
            kind = getattr(kind, name, None)
    members = getattr(kind, "__members__", {})
    if member in members:
        return members[member]
    return kind(member) if isinstance(kind, type) and issubclass(kind, enum.Enum) else now


def _path(saved: dict[str, Any], now: Any) -> pathlib.PurePath:
    kind = type(now) if isinstance(now, pathlib.PurePath) else pathlib.Path
    return kind(saved["path"])


def _bytearray(saved: dict[str, Any], now: Any) -> bytearray:
    if not isinstance(now, bytearray):
        return bytearray(saved["bytearray"])
    now[:] = saved["bytearray"]
    return now


def _date(saved: dict[str, Any], _: Any) -> Any:
    kind, text = saved["date"]
    kinds: dict[str, Any] = {each.__name__: each for each in (dt.date, dt.time, dt.datetime)}
    return kinds[kind].fromisoformat(text)


READERS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "scalar": _scalar,
    "enum": _member,
    "range": lambda saved, _: range(*saved["range"]),
    "slice": lambda saved, _: slice(*saved["slice"]),
    "ellipsis": lambda _, __: ...,
    "bytearray": _bytearray,
    "fraction": lambda saved, _: Fraction(*saved["fraction"]),
    "decimal": lambda saved, _: Decimal(saved["decimal"]),
    "timedelta": lambda saved, _: dt.timedelta(*saved["timedelta"]),
    "date": _date,
    "path": _path,
    **generators.READERS,
}
"""By the first key of what :func:`encode` made, for what is no array: each takes that, and what is there now."""
