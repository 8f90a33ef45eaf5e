"""What an environment may write into MuJoCo models, as plain values, and back."""

from __future__ import annotations

import hashlib
import re
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np

_LARGE = ("bvh_", "mesh_", "name_", "oct_", "skin_", "tex", "tuple_")
"""How the names of a model's arrays begin that are not saved as they are: large, or names; environments hardly change them."""

_NAMED = re.compile("_Mj(Data|Model)(.+)Views")
"""The classes of what MuJoCo finds by a name."""

KINDS = ("model", "spec", "named")

_PARTS = ("opt", "stat")


def save_model(model: mujoco.MjModel) -> dict[str, Any]:
    """The numbers of a model: its arrays under ``"model"``, those of its options and statistics, and its textures, packed."""
    return {
        "model": {name: array.copy() for name, array in _written(model).items()},
        "options": {
            name if part == "opt" else f"{part}.{name}": value
            for part in _PARTS
            for name, value in attributes_of(getattr(model, part))
            if isinstance(value, int | float)
        },
        "textures": np.frombuffer(zlib.compress(model.tex_data, 1), np.uint8).copy(),
        "signature": int(model.signature),
    }


def load_model(model: mujoco.MjModel, saved: dict[str, Any]) -> None:
    """Writes into a model what was saved, as far as it was and fits."""
    for name, value in saved.get("options", {}).items():
        part, _, own = name.rpartition(".")
        setattr(getattr(model, part or "opt"), own, value)
    for name, array in _written(model).items():
        write(saved.get("model", {}).get(name), array)
    if "textures" in saved:
        write(np.frombuffer(zlib.decompress(saved["textures"]), np.uint8), model.tex_data)


def encode(value: Any, *, is_own: bool) -> dict[str, Any]:
    """What stands for a model, a specification, or what a simulation finds by a name; nothing for anything else.

    Of the simulation's own model, whose numbers are saved by themselves, it says no more than that it is there. Of a
    specification there is a digest of what MuJoCo writes of it, with six digits: it cannot be brought back, only missed.
    """
    if isinstance(value, mujoco.MjModel):
        return {"model": {}, "signature": int(value.signature)} if is_own else save_model(value)
    if isinstance(value, mujoco.MjSpec):
        return {"spec": _digest(value)}
    named = named_in_simulation(value)
    return {"named": named} if named else {}


def can_become(value: Any, saved: dict[str, Any]) -> bool:
    """Whether something is a model of the same objects as the one that was saved, a specification, or of that kind."""
    if "named" in saved:
        return bool(named_in_simulation(value)[:2] == saved["named"][:2])
    if "spec" in saved:
        return isinstance(value, mujoco.MjSpec)
    if not isinstance(value, mujoco.MjModel) or value.signature != saved["signature"]:
        return False
    arrays = _written(value)
    return all(name in arrays and arrays[name].shape == array.shape for name, array in saved["model"].items())


def compare(spec: mujoco.MjSpec, digest: str) -> None:
    """Warns where a specification is not the one that was saved."""
    if _digest(spec) != digest:
        warnings.warn(
            "the environment's MjSpec is another than it was when the state was saved, which cannot bring it back: it goes on "
            "exactly only where each reset writes all that it changes there",
            stacklevel=2,
        )


def is_alike(value: Any, saved: dict[str, Any]) -> bool:
    """Whether something is a model with the numbers that were saved; the simulation's own is like any of the same objects."""
    if not can_become(value, saved) or not saved["model"]:
        return can_become(value, saved)
    now = save_model(value)
    numbers = all(np.array_equal(now["model"][name], array, equal_nan=True) for name, array in saved["model"].items())
    return numbers and now["options"] == saved["options"] and np.array_equal(now["textures"], saved["textures"])


def named_in_simulation(value: Any) -> list[Any]:
    """``["data", "body", 3]`` of what ``data.body(3)`` returns, and alike of all that MuJoCo finds by a name; else nothing."""
    found = _NAMED.fullmatch(type(value).__name__)
    return [] if found is None else [found[1].lower(), found[2].lower(), int(value.id)]


def arrays_of(owner: Any, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """The arrays of numbers of a MuJoCo object, but those whose names begin in some way, and addresses of plugins."""
    return {
        name: array
        for name, array in attributes_of(owner, (*but, "plugin_data"))
        if isinstance(array, np.ndarray) and array.dtype.kind in "fiub" and array.size and array.flags.writeable
    }


def attributes_of(owner: Any, but: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """What a MuJoCo object has by name."""
    return ((name, getattr(owner, name)) for name in dir(owner) if not name.startswith(("_", *but)))


def write(kept: Any, array: Any) -> None:
    """Writes into an array what was kept of it, if it was and has its shape."""
    if kept is not None and kept.shape == array.shape:
        array[...] = kept


def _digest(spec: mujoco.MjSpec) -> str:
    """Stands for what MuJoCo writes of a specification; empty where it cannot, as of one that is attached to another."""
    try:
        return hashlib.sha256(spec.to_xml().encode()).hexdigest()
    except (ValueError, mujoco.FatalError):
        return ""


def _written(model: mujoco.MjModel) -> dict[str, Any]:
    """The arrays of a model, and of its options and statistics, into which an environment may write."""
    parts = {f"{part}.{name}": array for part in _PARTS for name, array in arrays_of(getattr(model, part)).items()}
    return arrays_of(model, but=_LARGE) | parts
