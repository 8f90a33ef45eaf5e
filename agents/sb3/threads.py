"""How many threads compute."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import scipy.linalg.cython_blas  # noqa: F401  the BLAS of compiled code, which must be there when the controller looks
import torch
from threadpoolctl import ThreadpoolController


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_thread_each() -> Iterator[int]:
    """Torch and BLAS with one thread for each of ours; gives torch's number of threads.

    Threads of their own go on spinning between two calls, on the cores where environments and networks work side by side: a
    rollout took 580 ms with them and takes 330 without. A record of the units, whose matrices are small, took 40 to 490 ms
    between two rollouts and takes 20 to 75 with one thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas().limit(limits=1, user_api="blas"):
            yield threads
    finally:
        torch.set_num_threads(threads)


@functools.cache
def second_thread() -> ThreadPoolExecutor:
    """A thread that stays, for what is too short to begin one each time: that takes 0.15 ms."""
    return ThreadPoolExecutor(1, "second")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=second_thread.cache_clear)  # the thread is not in the child
