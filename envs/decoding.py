"""Plain values back into the attributes of an environment made in the same way."""

from __future__ import annotations

import copy
import dataclasses
import enum
import random
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from envs.encoding import CONTAINERS, Arrays, parts_of
from envs.tables import PLAIN, Tables, owner_of

_Array = np.ndarray[Any, Any]


class Decoder:
    """Gives the parts of an environment the attributes that :class:`envs.encoding.Encoder` found.

    Objects, lists and dictionaries that are there are given the values, since others may hold them too, but for two kinds:
    what stands in a table of a class or module and was not taken from there, and what another has been made of already. These
    are copied.

    Args:
        simulation: Returns the arrays of the simulation, by their names.
    """

    def __init__(self, simulation: Callable[[], Arrays] = dict) -> None:
        self._simulation = simulation
        self._tables = Tables()
        self._known: dict[int, Any] = {}  # what stands in several places, by its number
        self._given: dict[int, Any] = {}  # what has been given its values, by its id
        self._memories: dict[int, _Array] = {}  # what several arrays look at, by its number

    def decode(self, owner: Any, saved: dict[str, Any]) -> None:
        """Gives an object the attributes that were found."""
        self._tables.look_into(type(owner))
        self._load(owner, saved)

    def decode_generators(self, saved: list[Any]) -> None:
        """Puts the generators in classes and modules where they were; those that are no longer there are left out."""
        for place, state in saved:
            if (generator := self._tables.generators.get(tuple(place))) is not None:
                self._decode(state, generator)

    def lacks(self, owner: Any, saved: dict[str, Any]) -> str | None:
        """Where an object has none of the objects whose attributes were saved; None where it has them all."""
        self._tables.look_into(type(owner))
        return self._lacks(owner, {"object": saved}, type(owner).__name__)

    def _load(self, owner: Any, saved: dict[str, Any]) -> None:
        for name, value in saved.items():
            now = getattr(owner, name, None)
            if isinstance(now, property) or not _may_become(now, value):
                continue
            then = self._decode(value, now)
            if then is not now or not hasattr(owner, name):
                _set(owner, name, then)

    def _lacks(self, now: Any, saved: Any, path: str) -> str | None:
        if not isinstance(saved, dict):
            return None
        now = self._present(saved, now)[0]
        kind, content = next(iter(saved.items()))
        if kind in ("object", "space") and now is None:
            return path
        if kind == "object":
            parts = [(getattr(now, name, None), value, f"{path}.{name}") for name, value in content.items()]
        elif kind == "dict":
            before = now if isinstance(now, dict) else {}
            parts = [(before.get(name), value, f"{path}[{name!r}]") for name, value in content.items()]
        elif kind == "pairs":
            before = now if isinstance(now, dict) else {}
            keys = [self._decode(key, None) for key, _ in content]
            parts = [(before.get(key), value, f"{path}[{key!r}]") for key, (_, value) in zip(keys, content, strict=True)]
        elif kind == "elements" or kind in CONTAINERS:
            present = _padded(now, len(content))
            parts = [(each, value, f"{path}[{i}]") for i, (each, value) in enumerate(zip(present, content, strict=False))]
        else:
            return None
        return next(filter(None, (self._lacks(*part) for part in parts)), None)

    def _present(self, saved: dict[str, Any], now: Any) -> tuple[Any, bool]:
        """What a value was taken from in a table, or else what is there; and whether it may be given other values."""
        if "place" in saved and (there := self._tables.at(tuple(saved["place"]))) is not None:
            return there, True
        return now, id(now) not in self._given and self._tables.place(now) is None

    def _decode(self, saved: Any, now: Any) -> Any:
        """The value that was saved; ``now`` itself where that has been given its state."""
        if not isinstance(saved, dict):
            return saved
        kind = next(iter(saved))
        content = saved[kind]
        if kind == "kept":
            return now
        if kind == "same":
            return self._known.get(int(content), now)
        number = int(saved.get("number", -1))
        if kind == "object":
            self._tables.look_into(type(now))
            target, is_free = self._present(saved, now)
            if not is_free:
                target = copy.copy(target)
            self._known[number] = self._given[id(target)] = target
            self._load(target, content)
            return target
        value: Any
        if kind == "array":
            value = self._array(saved, now)
        elif kind in _READERS:
            value = _READERS[kind](saved, now)
        elif kind == "elements":
            value = self._elements(saved, now)
        else:
            before, is_free = self._present(saved, now)
            decode = self._decode_mapping if kind in ("dict", "pairs") else self._decode_items
            value = decode(kind, content, before, is_free=is_free)
            self._given[id(value)] = value
        self._known[number] = value
        return value

    def _array(self, saved: dict[str, Any], now: Any) -> _Array:
        content: _Array = saved["array"]
        memory = self._memory(saved["memory"], now) if "memory" in saved else None
        target: _Array
        if memory is not None:
            offset, strides = saved["memory"]["offset"], tuple(saved["memory"]["strides"])
            view: _Array = np.ndarray(content.shape, content.dtype, memory.ravel("K"), offset, strides)
            target = next((each for each in (now, memory) if _is_alike(each, view)), view)
        elif _is_foreign_view(now) and now.shape == content.shape and now.flags.writeable:
            target = now
        else:
            return content.copy()
        if target.flags.writeable:
            target[...] = content
        return target

    def _memory(self, looks: dict[str, Any], now: Any) -> _Array | None:
        """What an array looks at; None where that is not there, or has another size."""
        of = looks["of"]
        if isinstance(of, int):
            if of not in self._memories:
                self._memories[of] = self._own_memory(looks["size"], now)
            return self._memories[of]
        memory = self._simulation().get(of[1]) if of[0] == "simulation" else self._tables.at(tuple(of))
        if memory is not None and of[0] != "simulation":
            memory = owner_of(memory)
        return memory if memory is not None and memory.nbytes == looks["size"] else None

    def _own_memory(self, size: int, now: Any) -> _Array:
        owner = owner_of(now) if isinstance(now, np.ndarray) else None
        if owner is None or owner.nbytes != size or id(owner) in self._given or self._tables.place_of_memory(owner):
            owner = np.zeros(size, np.uint8)
        self._given[id(owner)] = owner
        return owner

    def _elements(self, saved: dict[str, Any], now: Any) -> _Array:
        """An array of objects or strings."""
        array: _Array = np.empty(saved["shape"], saved["dtype"])
        flat = array.reshape(-1)
        for number, item in enumerate(self._decode_items("list", saved["elements"], now, is_free=False)):
            flat[number] = item
        return array

    def _decode_mapping(self, kind: str, content: Any, now: Any, *, is_free: bool) -> dict[Any, Any]:
        before = dict(now) if isinstance(now, dict) else {}
        if kind == "pairs":
            keys = [self._decode(key, None) for key, _ in content]
            found = {key: self._decode(item, before.get(key)) for key, (_, item) in zip(keys, content, strict=True)}
        else:
            kept = {name: item for name, item in before.items() if name not in content and not _is_plain(item)}
            found = {name: self._decode(item, before.get(name)) for name, item in content.items()} | kept
        if not isinstance(now, dict):
            return found
        mapping: dict[Any, Any] = now if is_free else copy.copy(now)
        mapping.clear()  # others may hold it too
        mapping.update(found)
        return mapping

    def _decode_items(self, kind: str, content: list[Any], now: Any, *, is_free: bool) -> Any:
        items = [self._decode(item, each) for item, each in zip(content, _padded(now, len(content)), strict=False)]
        if isinstance(now, tuple) and hasattr(now, "_fields"):
            return type(now)(*items)
        if kind in ("tuple", "frozenset") or not isinstance(now, CONTAINERS[kind]):
            return CONTAINERS[kind](items)
        if not is_free:
            now = copy.copy(now)
        now.clear()  # others may hold it too
        if kind == "set":
            now.update(items)
        else:
            now.extend(items)
        return now


def _padded(now: Any, length: int) -> list[Any]:
    """What a list or an array of objects has, and None as far as it is shorter."""
    items = now.ravel().tolist() if isinstance(now, np.ndarray) else now
    present = list(items) if isinstance(items, list | tuple | deque) else []
    return present + [None] * (length - len(present))


def _is_foreign_view(array: Any) -> bool:
    """Whether an array looks at memory that is not NumPy's, such as that of a simulation."""
    return isinstance(array, np.ndarray) and owner_of(array) is None


def _is_alike(array: Any, other: _Array) -> bool:
    """Whether two arrays look at the same numbers."""
    return isinstance(array, np.ndarray) and array.__array_interface__ == other.__array_interface__


def _may_become(now: Any, saved: Any) -> bool:
    """Whether what is there may be replaced: never an object by None, as a renderer that was made since."""
    return saved is not None or _is_plain(now) or isinstance(now, (dict, *CONTAINERS.values()))


def _set(owner: Any, name: str, value: Any) -> None:
    try:
        setattr(owner, name, value)
    except dataclasses.FrozenInstanceError:
        object.__setattr__(owner, name, value)


def _scalar(saved: dict[str, Any], _: Any) -> Any:
    return saved["scalar"][()]


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


def _space(saved: dict[str, Any], now: Any) -> Any:
    if isinstance(now, gymnasium.Space):
        for part, state in zip(parts_of(now), saved["space"], strict=False):
            if state is not None:
                kind = next(iter(state))
                part._np_random = _READERS[kind](state, part._np_random)
    return now


_READERS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "scalar": _scalar,
    "enum": _member,
    "generator": _generator,
    "random_state": _random_state,
    "random": _random,
    "space": _space,
}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (*PLAIN, enum.Enum, np.generic, np.ndarray))
