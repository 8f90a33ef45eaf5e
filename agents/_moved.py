"""Modules of the first release under the paths that they had: models saved then name them, and so may code of others."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ROOMS = {
    "sb3": ("buffers", "dashboard", "networks", "plasticity", "policies", "ppo", "support", "vec_env"),
    "runs": (
        "build",
        "checkpoint_files",
        "checkpoints",
        "commands",
        "config",
        "errors",
        "listing",
        "logs",
        "options",
        "plan",
        "presets",
        "run_folder",
        "running",
        "summary",
        "verdict",
    ),
    "reporting": ("comparison", "results"),
    "playing": ("evaluation", "held", "video"),
    "sweeping": ("live_table",),
}
MOVED = {f"agents.{name}": f"agents.{room}.{name}" for room, names in _ROOMS.items() for name in names} | {
    "agents.evaluation_figure": "agents.playing.figure",
    "agents.figures": "agents.reporting.figure",
}
"""Where each is now. ``agents.playing`` is a folder now, its module ``agents.playing.episodes``."""


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        return ModuleSpec(fullname, _Alias(MOVED[fullname])) if fullname in MOVED else None


class _Alias(Loader):
    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put that of the old path there


def keep_old_paths() -> None:
    """Lets the old paths be imported: the very modules, not copies of them."""
    sys.meta_path.append(_Finder())
