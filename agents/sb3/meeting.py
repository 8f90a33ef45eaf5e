"""Lets threads of compiled code wait for each other, without the interpreter's lock and without sleep.

A thread that sleeps, or waits for the lock, takes some 50 µs to go on; an update of SAC has several places where two threads
need what the other one has computed.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import llvmlite.binding
import llvmlite.ir
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from agents.sb3.kernels import compiled

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
def meet(meeting: Meeting, number: int, threads: int) -> None:
    """Waits until each of so many threads has come to the meeting of this number, from 1; what they wrote can then be read."""
    address = meeting.ctypes.data
    _count(address)
    while _read(address) < number * threads:
        _sched_yield()
