"""What an object keeps in its attributes, as plain values, and back into an object made in the same way."""

from __future__ import annotations

import dataclasses
import enum
import functools
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
    type,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
    np.ufunc,
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

_COMPILED = ("torch", "numba", "jax", "jaxlib", "functools")
"""Packages whose objects are functions where they can be called: compiled ones, and networks."""

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
        self._met: dict[int, dict[str, Any]] = {}  # what was encoded, by the ids of the values
        self._repeated = 0  # how many of them were met again
        return self._encode_items(vars(owner).items(), type(owner).__name__, seen, attributes=True)

    def load(self, owner: Any, saved: dict[str, Any]) -> None:
        """Gives an object the attributes that :meth:`save` found."""
        _load(owner, saved, {})

    def lacks(self, owner: Any, saved: dict[str, Any]) -> str | None:
        """Where an object has none of the objects whose attributes were saved; None where it has them all."""
        return _lacks(owner, {"object": saved}, type(owner).__name__)

    def _encode(self, value: Any, path: str, seen: set[int]) -> Any:
        """What may stand in several places is written at the first, and gets a number there when it is met again."""
        if (first := self._met.get(id(value))) is not None:
            if "number" not in first:
                self._repeated += 1
                first["number"] = self._repeated
            return {"same": first["number"]}
        encoded = self._encode_anew(value, path, seen)
        if isinstance(encoded, dict) and not {"scalar", "enum", "tuple", "frozenset"} & encoded.keys():
            self._met[id(value)] = encoded
        return encoded

    def _encode_anew(self, value: Any, path: str, seen: set[int]) -> Any:
        if (leaf := _encode_leaf(value)) is not _NOTHING:
            return leaf
        if id(value) in seen or isinstance(value, _NO_STATE) or _is_function(value):
            return _NOTHING
        if type(value).__name__ == "MjData" and _package(value) == "mujoco":
            raise ParameterError(
                f"state cannot be saved of {path}, a MuJoCo simulation that is not found as the environment's, or besides it: "
                "NonStationary(env, …, model=…) says which is its own"
            )
        if _package(value) in _ELSEWHERE:
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


def _is_function(value: Any) -> bool:
    """Whether what can be called is no more than a function, unlike an object that keeps something between calls."""
    kinds = {getattr(base, "__module__", "builtins").split(".")[0] for base in type(value).__mro__}
    return callable(value) and (not hasattr(value, "__dict__") or bool(kinds.intersection(_COMPILED)))


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
    return saved is not None or _is_plain(now) or isinstance(now, (dict, *_CONTAINERS.values()))


def _load(owner: Any, saved: dict[str, Any], known: dict[int, Any]) -> None:
    for name, value in saved.items():
        now = getattr(owner, name, None)
        if isinstance(now, property) or not _may_become(now, value):
            continue
        then = _decode(value, now, known)
        if then is not now or not hasattr(owner, name):
            _set(owner, name, then)


def _lacks(now: Any, saved: Any, path: str) -> str | None:
    if not isinstance(saved, dict):
        return None
    kind, content = next(iter(saved.items()))
    if kind == "object":
        if now is None:
            return path
        parts = [(getattr(now, name, None), value, f"{path}.{name}") for name, value in content.items()]
    elif kind == "dict":
        before = now if isinstance(now, dict) else {}
        parts = [(before.get(name), value, f"{path}[{name!r}]") for name, value in content.items()]
    elif kind in _CONTAINERS:
        present = list(now) if isinstance(now, list | tuple | deque) else []
        present += [None] * (len(content) - len(present))
        parts = [(each, value, f"{path}[{i}]") for i, (each, value) in enumerate(zip(present, content, strict=False))]
    else:
        return None
    return next(filter(None, (_lacks(*part) for part in parts)), None)


def _set(owner: Any, name: str, value: Any) -> None:
    try:
        setattr(owner, name, value)
    except dataclasses.FrozenInstanceError:
        object.__setattr__(owner, name, value)


def _decode(saved: Any, now: Any, known: dict[int, Any]) -> Any:
    """The value that was saved; ``now`` itself where that has been given its state.

    Args:
        saved: As :class:`Memory` encodes it.
        now: What is there.
        known: What stands in several places, by its number.
    """
    if not isinstance(saved, dict):
        return saved
    kind = next(iter(saved))
    content = saved[kind]
    if kind == "kept":
        return now
    if kind == "same":
        return known.get(int(content), now)
    if kind == "object":
        known[int(saved.get("number", -1))] = now
        _load(now, content, known)
        return now
    if kind in _READERS:
        value = _READERS[kind](saved, now)
    elif kind == "elements":
        value = _elements(saved, now, known)
    elif kind in ("dict", "pairs"):
        value = _decode_mapping(kind, content, now, known)
    else:
        value = _decode_items(kind, content, now, known)
    known[int(saved.get("number", -1))] = value
    return value


def _array(saved: dict[str, Any], now: Any) -> Any:
    content = saved["array"]
    if isinstance(now, np.ndarray) and now.base is not None and now.shape == content.shape and now.flags.writeable:
        now[...] = content  # a view of something else, such as the simulation
        return now
    return content.copy()


def _scalar(saved: dict[str, Any], _: Any) -> Any:
    return saved["scalar"][()]


def _elements(saved: dict[str, Any], now: Any, known: dict[int, Any]) -> np.ndarray[Any, Any]:
    """An array of objects or strings."""
    array: np.ndarray[Any, Any] = np.empty(saved["shape"], saved["dtype"])
    before = now.ravel().tolist() if isinstance(now, np.ndarray) else []
    flat = array.reshape(-1)
    for number, item in enumerate(_decode_items("list", saved["elements"], before, known)):
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


def _decode_mapping(kind: str, content: Any, now: Any, known: dict[int, Any]) -> dict[Any, Any]:
    before = dict(now) if isinstance(now, dict) else {}
    if kind == "pairs":
        keys = [_decode(key, None, known) for key, _ in content]
        found = {key: _decode(item, before.get(key), known) for key, (_, item) in zip(keys, content, strict=True)}
    else:
        kept = {name: item for name, item in before.items() if name not in content and not _is_plain(item)}
        found = {name: _decode(item, before.get(name), known) for name, item in content.items()} | kept
    if not isinstance(now, dict):
        return found
    now.clear()  # others may hold it too
    now.update(found)
    return now


def _decode_items(kind: str, content: list[Any], now: Any, known: dict[int, Any]) -> Any:
    present = list(now) if isinstance(now, list | tuple | deque) else []
    present += [None] * (len(content) - len(present))
    items = [_decode(item, each, known) for item, each in zip(content, present, strict=False)]
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
    kind = saved["generator"]["bit_generator"]
    fits = isinstance(now, np.random.Generator) and type(now.bit_generator).__name__ == kind
    generator = now if fits else np.random.Generator(getattr(np.random, kind)())
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
    "array": _array,
    "scalar": _scalar,
    "enum": _member,
    "generator": _generator,
    "random_state": _random_state,
    "random": _random,
}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (*_PLAIN, enum.Enum, np.generic, np.ndarray))
