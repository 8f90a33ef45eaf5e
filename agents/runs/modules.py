"""Modules of the user's own, which register environments: imported where a command names them, never because a file does."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from agents.runs.errors import UserError

_IMPORTED: set[str] = set()


def import_modules(names: Iterable[str]) -> None:
    """Imports the modules that somebody who runs a command has named.

    Raises:
        UserError: There is no such module, or it cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise UserError(f"module '{name}' cannot be imported: {type(error).__name__}: {error}") from error
        _IMPORTED.add(name)


def check_imported(names: Iterable[str]) -> None:
    """Refuses to go on without the modules of a run.

    Raises:
        UserError: A module that was not named: a configuration from a stranger runs no code.
    """
    for name in names:
        if name not in _IMPORTED:
            raise UserError(f"the run's environment is of module '{name}': --import {name} imports it, which runs its code")
