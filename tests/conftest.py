"""What all tests share: seeds, and an order in which no worker is left alone at the end with a file that takes long."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch

os.environ.setdefault("RAY_worker_niceness", "0")  # it is 15, and the other worker of the tests would leave Ray's no core
os.environ.setdefault("RAY_TMPDIR", "/tmp")  # noqa: S108  # whose sockets have short paths, whatever TMPDIR is
for _name in ("FORCE_COLOR", "TTY_COMPATIBLE", "PYTHON_COLORS"):  # of a CI: what is captured is no terminal
    os.environ.pop(_name, None)

# The first three are each begun by one worker: one compiles the kernels and keeps them on disk, the others need none yet.
FIRST = [
    f"test_{name}.py"
    for name in (
        *(
            "ppo",
            "learn",
            "continual_backprop",
            "train",
            "sweep",
            "readme",
            "packaging",
            "native",
            "checkpoints",
            "plasticity_benchmark",
            "evaluate",
            "plasticity",
        ),
        *("parity", "names", "paper_networks", "online", "other_packages", "dashboard", "notebook", "contributing"),
    )
]

collect_ignore_glob = ["*conftest.py"]  # for doctests: none has any, and they have one name


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def _seeds():
    """A test draws the same numbers whichever tests came before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
