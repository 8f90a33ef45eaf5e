"""Lets threads wait for each other in compiled code, without the interpreter's lock and without sleep.

An update of SAC has several places where two threads need what the other one has computed, half a millisecond apart.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import llvmlite.binding
import llvmlite.ir
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from agents.sb3.kernels import compiled

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_BROKEN = 2**62

Meeting = NDArray[np.int64]
"""How often a thread has come to a meeting, ``(1,)``: 0 before the first."""

if sys.platform == "win32":
    _yields = ctypes.windll.kernel32.SwitchToThread
    llvmlite.binding.add_symbol("sched_yield", ctypes.cast(_yields, ctypes.c_void_p).value)
_sched_yield = types.ExternalFunction("sched_yield", types.int32())


def _at(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, llvmlite.ir.IntType(64).as_pointer())


@intrinsic
def _count_atomically(_: Any, address: Any) -> Any:
    signature = types.int64(address)

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _at(builder, arguments[0]), llvmlite.ir.IntType(64)(1), "seq_cst")

    return signature, generate


@intrinsic
def _read_atomically(_: Any, address: Any) -> Any:
    signature = types.int64(address)

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.load_atomic(_at(builder, arguments[0]), "seq_cst", align=8)

    return signature, generate


_count: Any = _count_atomically  # which have other signatures here than where they are compiled
_read: Any = _read_atomically


@compiled
def meet(meeting: Meeting, number: int, parties: int) -> bool:
    """Waits until each of so many parties has come to the meeting of this number, from 1; what they wrote can then be read.

    Returns:
        Whether they met; not where one broke off.
    """
    address = meeting.ctypes.data
    _count(address)
    while True:
        arrived = _read(address)
        if arrived >= number * parties:
            return bool(arrived < _BROKEN)
        _sched_yield()


class _BrokenOffError(Exception):
    """Another party broke off."""


class Party:
    """A thread among those that meet.

    Args:
        meeting: What they have in common.
        number: From 0.
        parties: How many they are.
    """

    def __init__(self, meeting: Meeting, number: int, parties: int) -> None:
        self._meeting, self._number, self._parties = meeting, number, parties
        self._meetings = 0

    def share(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """This party's of some items."""
        return items[self._number :: self._parties]

    def meet(self) -> None:
        """Waits until all parties have come here."""
        self._meetings += 1
        if not meet(self._meeting, self._meetings, self._parties):
            raise _BrokenOffError

    def let_one(self, act: Callable[[], None]) -> None:
        """Lets the first party do something while the others wait."""
        self.meet()
        if self._number == 0:
            act()
        self.meet()


def meet_in_parties(take_part: Callable[[Party], _Result], pool: ThreadPoolExecutor | None) -> list[_Result]:
    """Calls a function for two parties, the second on a thread of the pool, or for one without a pool; returns the results.

    Where one breaks off with an error, the other breaks off at its next meeting, and the error is raised.
    """
    meeting, parties = np.zeros(1, np.int64), 2 if pool else 1

    def taking_part(number: int) -> _Result:
        try:
            return take_part(Party(meeting, number, parties))
        except BaseException:
            meeting[0] = _BROKEN
            raise

    if pool is None:
        return [taking_part(0)]
    others: list[Future[_Result]] = []
    try:
        others.append(pool.submit(taking_part, 1))
        results = [taking_part(0)]
    except _BrokenOffError:  # the other's result raises why
        results = []
    except BaseException:  # a Ctrl-C can come before the first has begun
        meeting[0] = _BROKEN
        raise
    finally:
        wait(others)
    return [*results, *(other.result() for other in others)]
