"""What an object keeps in its attributes, as plain values, and back into an object made in the same way."""

from __future__ import annotations

import dataclasses
import enum
import logging
import pathlib
import random
import re
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np

from envs.checks import ParameterError

_NO_STATE: tuple[Any, ...] = (
    gymnasium.Space,
    gymnasium.envs.registration.EnvSpec,
    Callable,
    types.ModuleType,
    pathlib.PurePath,
    logging.Logger,
    re.Pattern,
    np.dtype,
    weakref.ReferenceType,
    type(threading.Lock()),
    type(threading.RLock()),
)
"""What is no state: what an environment offers, looks things up with, or is told when it is made."""

_ELSEWHERE = ("mujoco", "glfw", "OpenGL", "pygame", "PIL")
"""Packages whose objects show or drive a simulation; its own state is saved by itself."""

_CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "deque": deque, "set": set, "frozenset": frozenset}

_PLAIN = (bool, int, float, complex, str, bytes)

_OF_TORCH = "?bhilqBHILQefdFD"
"""The types of arrays, by NumPy's characters, that have tensors like them: what writes a state to a file may need these."""

_NOTHING = object()


class Memory:
    """Saves and loads attributes.

    Args:
        apart: Objects that are saved by themselves wherever they are met.
    """

    def __init__(self, apart: Iterable[Any]) -> None:
        self._apart = list(apart)  # kept, so that their ids stay theirs

    def save(self, owner: Any) -> dict[str, Any]:
        """The attributes of an object, and of the objects that it is made of.

        Raises:
            envs.ParameterError: One of them is something that cannot be saved; it is named.
        """
        seen = {id(each) for each in (*self._apart, owner)}
        return self._encode_items(vars(owner).items(), type(owner).__name__, seen, attributes=True)

    def load(self, owner: Any, saved: dict[str, Any]) -> None:
        """Gives an object the attributes that :meth:`save` found."""
        for name, value in saved.items():
            now = getattr(owner, name, None)
            if isinstance(now, property) or not _may_become(now, value):
                continue
            then = _decode(value, now)
            if then is not now or not hasattr(owner, name):
                _set(owner, name, then)

    def knows(self, owner: Any, saved: dict[str, Any]) -> bool:
        """Whether an object has the objects whose attributes were saved."""
        return all(
            getattr(owner, name, None) is not None and self.knows(getattr(owner, name), value["object"])
            for name, value in saved.items()
            if isinstance(value, dict) and "object" in value
        )

    def _encode(self, value: Any, path: str, seen: set[int]) -> Any:
        if (leaf := _encode_leaf(value)) is not _NOTHING:
            return leaf
        if id(value) in seen or isinstance(value, _NO_STATE) or _package(value) in _ELSEWHERE:
            return _NOTHING
        is_of_objects = isinstance(value, np.ndarray) and value.dtype.kind in "OSU"
        if not is_of_objects and not isinstance(value, (dict, *_CONTAINERS.values())):
            return self._encode_object(value, path, seen)
        within = seen | {id(value)}  # a container may stand in several places, but not in itself
        if isinstance(value, np.ndarray):
            elements = self._encode_all(value.ravel().tolist(), path, within)
            return {"elements": elements, "shape": list(value.shape), "dtype": value.dtype.str}
        if isinstance(value, dict):
            if all(type(key) is str for key in value):
                return {"dict": self._encode_items(value.items(), path, within)}
            return {"pairs": [self._encode_all(pair, path, within) for pair in value.items()]}
        name = next(name for name, kind in _CONTAINERS.items() if isinstance(value, kind))
        items: Any = sorted(value, key=repr) if "set" in name else value
        return {name: self._encode_all(items, path, within)}

    def _encode_object(self, value: Any, path: str, seen: set[int]) -> Any:
        if not hasattr(value, "__dict__") or _package(value) == "builtins":
            raise ParameterError(f"state cannot be saved of {path}, which is a {type(value).__name__}")
        if _stands_for_a_simulation(value):
            return _NOTHING
        seen.add(id(value))  # it is saved once
        return {"object": self._encode_items(vars(value).items(), path, seen, attributes=True)}

    def _encode_items(
        self, items: Iterable[tuple[str, Any]], path: str, seen: set[int], *, attributes: bool = False
    ) -> dict[str, Any]:
        found = {}
        for name, item in items:
            encoded = self._encode(item, f"{path}.{name}" if attributes else f"{path}[{name!r}]", seen)
            if encoded is not _NOTHING:
                found[name] = encoded
        return found

    def _encode_all(self, items: Iterable[Any], path: str, seen: set[int]) -> Any:
        encoded = [self._encode(item, f"{path}[{number}]", seen) for number, item in enumerate(items)]
        return [{"kept": True} if each is _NOTHING else each for each in encoded]


def _package(value: Any) -> str:
    """The package of an object's class; some of those that are written in C have none."""
    return getattr(type(value), "__module__", "builtins").split(".")[0]


def _encode_leaf(value: Any) -> Any:
    """What has no parts."""
    if isinstance(value, enum.Enum):
        kind = type(value)
        return {"enum": [kind.__module__, kind.__qualname__, value.name if value.name in kind.__members__ else value.value]}
    if isinstance(value, np.generic | np.ndarray) and value.dtype.char in _OF_TORCH:
        return {"scalar": np.array(value)} if isinstance(value, np.generic) else {"array": value.copy()}
    if value is None:
        return None
    for plain in _PLAIN:  # a subclass becomes what it is one of, NumPy's strings too
        if isinstance(value, plain):
            return plain(value)  # type: ignore[arg-type]
    if isinstance(value, np.random.Generator):
        return {"generator": value.bit_generator.state}
    if isinstance(value, np.random.RandomState):
        return {"random_state": value.get_state(legacy=False)}
    if isinstance(value, random.Random):
        _, numbers, spare = value.getstate()
        return {"random": list(numbers), "spare": spare}
    return _NOTHING


def _stands_for_a_simulation(value: Any) -> bool:
    """Whether an object is dm_control's around MuJoCo's, whose own state is saved by itself."""
    return hasattr(getattr(value, "model", None), "ptr") and hasattr(getattr(value, "data", None), "ptr")


def _may_become(now: Any, saved: Any) -> bool:
    """Whether what is there may be replaced: never an object by None, as a renderer that was made since."""
    return saved is not None or _is_plain(now)


def _set(owner: Any, name: str, value: Any) -> None:
    try:
        setattr(owner, name, value)
    except dataclasses.FrozenInstanceError:
        object.__setattr__(owner, name, value)


def _decode(saved: Any, now: Any) -> Any:
    """The value that was saved; ``now`` itself where that has been given its state."""
    if not isinstance(saved, dict):
        return saved
    kind = next(iter(saved))
    content = saved[kind]
    if kind == "kept":
        return now
    if kind == "array":
        if isinstance(now, np.ndarray) and now.base is not None and now.shape == content.shape and now.flags.writeable:
            now[...] = content  # a view of something else, such as the simulation
            return now
        return content.copy()
    if kind == "scalar":
        return content[()]
    if kind == "object":
        Memory(()).load(now, content)
        return now
    if kind in _READERS:
        return _READERS[kind](saved, now)
    return _decode_mapping(kind, content, now) if kind in ("dict", "pairs") else _decode_items(kind, content, now)


def _elements(saved: dict[str, Any], now: Any) -> np.ndarray[Any, Any]:
    """An array of objects or strings."""
    array: np.ndarray[Any, Any] = np.empty(saved["shape"], saved["dtype"])
    before = now.ravel().tolist() if isinstance(now, np.ndarray) else []
    flat = array.reshape(-1)
    for number, item in enumerate(_decode_items("list", saved["elements"], before)):
        flat[number] = item
    return array


def _member(saved: dict[str, Any], now: Any) -> Any:
    """The member of an enumeration: of that of ``now``, or of one that is imported; without it, ``now``."""
    module, qualified, member = saved["enum"]
    kind: Any = type(now)
    if (kind.__module__, kind.__qualname__) != (module, qualified):
        kind = sys.modules.get(module)
        for name in qualified.split("."):
            kind = getattr(kind, name, None)
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        return now
    return kind[member] if member in kind.__members__ else kind(member)


def _decode_mapping(kind: str, content: Any, now: Any) -> dict[Any, Any]:
    before = dict(now) if isinstance(now, dict) else {}
    if kind == "pairs":
        keys = [_decode(key, None) for key, _ in content]
        found = {key: _decode(item, before.get(key)) for key, (_, item) in zip(keys, content, strict=True)}
    else:
        kept = {name: item for name, item in before.items() if name not in content and not _is_plain(item)}
        found = {name: _decode(item, before.get(name)) for name, item in content.items()} | kept
    if not isinstance(now, dict):
        return found
    now.clear()  # others may hold it too
    now.update(found)
    return now


def _decode_items(kind: str, content: list[Any], now: Any) -> Any:
    present = list(now) if isinstance(now, list | tuple | deque) else []
    items = [_decode(item, present[number] if number < len(present) else None) for number, item in enumerate(content)]
    if isinstance(now, tuple) and hasattr(now, "_fields"):
        return type(now)(*items)
    if kind in ("tuple", "frozenset") or not isinstance(now, _CONTAINERS[kind]):
        return _CONTAINERS[kind](items)
    now.clear()  # others may hold it too
    if kind == "set":
        now.update(items)
    else:
        now.extend(items)
    return now


def _generator(saved: dict[str, Any], now: Any) -> np.random.Generator:
    generator = now if isinstance(now, np.random.Generator) else np.random.default_rng()
    generator.bit_generator.state = saved["generator"]
    return generator


def _random_state(saved: dict[str, Any], now: Any) -> np.random.RandomState:
    state = now if isinstance(now, np.random.RandomState) else np.random.RandomState()
    state.set_state(saved["random_state"])
    return state


def _random(saved: dict[str, Any], now: Any) -> random.Random:
    source = now if isinstance(now, random.Random) else random.Random()  # noqa: S311
    source.setstate((3, tuple(saved["random"]), saved["spare"]))
    return source


_READERS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "enum": _member,
    "elements": _elements,
    "generator": _generator,
    "random_state": _random_state,
    "random": _random,
}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (*_PLAIN, enum.Enum, np.generic, np.ndarray))
