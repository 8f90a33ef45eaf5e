"""The files that take long come first, so that no worker is left alone with one of them at the end."""

from __future__ import annotations

import os

os.environ.setdefault("RAY_worker_niceness", "0")  # it is 15, and the other worker of the tests would leave Ray's no core

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
            "native",
            "checkpoints",
            "plasticity_benchmark",
            "evaluate",
            "plasticity",
        ),
        *("parity", "names", "paper_networks", "online", "dashboard", "notebook", "contributing"),
    )
]

collect_ignore_glob = ["*conftest.py"]  # for doctests: none has any, and they have one name


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
