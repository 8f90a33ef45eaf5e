"""Keeps a named tuple of arrays in the form in which compiled code has it.

A compiled call takes the tuples among its arguments apart array by array, under the interpreter's lock: some 80 arrays are
12 µs, and 40 where others have filled the cache. Two threads do that one after the other.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

from numba import types
from numba.experimental import structref

from agents.sb3.kernels import compiled

_Tuple = TypeVar("_Tuple")


class Held(structref.StructRefProxy, Generic[_Tuple]):
    """A tuple of arrays. Compiled code reads its ``value``: a copy of the tuple, with the same arrays."""

    value: _Tuple


@structref.register
class _HeldType(types.StructRef):
    """What numba calls it."""


structref.define_constructor(Held, _HeldType, ["value"])  # type: ignore[no-untyped-call]
structref.define_attributes(_HeldType)  # type: ignore[no-untyped-call]
structref.define_boxing(_HeldType, Held)  # type: ignore[no-untyped-call]


@compiled
def _hold(value: Any) -> Any:
    return Held(value)  # type: ignore[no-untyped-call]


def hold(value: _Tuple) -> Held[_Tuple]:
    """Holds a tuple of arrays."""
    return cast("Held[_Tuple]", _hold(value))
