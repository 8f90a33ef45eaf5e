"""Notices where another package, or a folder of the user's, stands in the way of ours: their names are common."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

_WAY_OUT = "rename it, keep its folder out of Python's path (python -P), or give continual-backprop an environment of its own"
_OURS = b"continual-backprop"  # stands in the __init__.py of each


def in_place_of(name: str) -> str | None:
    """What ``import name`` would find, or has found, if that is not ours. Nothing is imported.

    Args:
        name: One of our packages.

    Returns:
        A line that names the file or folder, and says what to do; None where it is ours, or nothing at all.
    """
    try:
        spec = find_spec(name)
    except ValueError:  # a module that a program made by itself
        return None
    if spec is None:
        return None
    found = Path(spec.origin or next(iter(spec.submodule_search_locations or [""])))
    if not found.exists():  # frozen into a program
        return None
    if found.is_file() and _OURS in found.read_bytes():
        return None
    return f"'{name}' is {found}, not that of continual-backprop: {_WAY_OUT}"


def warn_of_others() -> None:
    """Warns where ``agents`` or ``envs`` is installed beside this package, and another would be imported."""
    try:
        if find_spec("gymnasium") is None:  # without it neither can be used
            return
    except ValueError:  # a module that a program made by itself
        return
    for name in ("agents", "envs"):
        if (Path(__file__).parent.parent / name).is_dir() and (line := in_place_of(name)):
            warnings.warn(line, stacklevel=3)
