"""How many threads compute while ours work side by side."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.skipif(CORES < 2, reason="OpenBLAS takes no more threads than there are cores")
def test_the_library_that_compiled_code_multiplies_with_is_limited_whenever_it_is_loaded():
    code = """
import threadpoolctl
from agents.sb3.threads import one_thread_each
with one_thread_each():  # as for a record, before anything is compiled
    pass
import agents.sb3.kernels
def libraries():
    found = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]
    return {(library["filepath"], library["num_threads"]) for library in found}
assert any("scipy" in path and threads == 2 for path, threads in libraries()), libraries()
with one_thread_each():
    assert all(threads == 1 for _, threads in libraries()), libraries()
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
