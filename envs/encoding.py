"""What the parts of an environment keep in their attributes, as plain values."""

from __future__ import annotations

import functools
import gc
import inspect
import sys
import types
from collections import deque
from collections.abc import Callable, ItemsView, Iterable, KeysView, ValuesView
from typing import Any

import gymnasium
import mujoco
import numpy as np

from envs import generators, leaves, models
from envs.checks import ParameterError
from envs.kept import attributes, has_attributes, is_sequence, is_skipped, owner_of, package_of
from envs.tables import INTERFACE, Tables, samples

Array = np.ndarray[Any, Any]

CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "deque": deque, "set": set, "frozenset": frozenset}

_VIEWS = {"keys": KeysView, "values": ValuesView, "items": ItemsView, "proxy": types.MappingProxyType}
"""What looks at a dictionary."""

_WRITTEN_AGAIN = ("scalar", "enum", "path", "tuple", "frozenset", "layer", "method", "view", *leaves.BY_VALUE)
"""What is written wherever it stands, and is never named by a number."""


class Encoder:
    """Encodes attributes, so that :class:`envs.decoding.Decoder` can give them to an environment made in the same way.

    What stands in several places is written once. What an environment has taken from a table of its class or module is written
    with its place there, and an array that looks at the memory of others, or of the simulation, with what it looks at.

    Args:
        layers: An environment and its wrappers.
        apart: Objects that are saved by themselves wherever they are met.
        simulation: Returns the arrays of the simulation, by their names.
    """

    def __init__(self, layers: Iterable[Any], apart: Iterable[Any], simulation: Callable[[], dict[str, Array]]) -> None:
        self._layers = list(layers)
        self._apart = list(apart)  # kept, so that their ids stay theirs
        self._simulation = simulation
        self._tables = Tables()
        self._met: dict[int, tuple[Any, dict[str, Any]]] = {}  # values and what they became, by the ids of the values
        self._repeated = 0  # how many of them were met again

    def encode(self, owner: Any) -> dict[str, Any]:
        """The attributes of an object, and of the objects that it is made of.

        Raises:
            envs.ParameterError: One of them is something that cannot be saved; it is named.
        """
        self._tables.look_into(type(owner))
        seen = {id(each) for each in self._apart}
        return self._encode_attributes(owner, type(owner).__name__, seen)

    def finish(self) -> list[Any]:
        """Writes, when all was encoded, the places of what stands in tables and the memories of arrays.

        Returns:
            The generators in tables, each behind its place.
        """
        alone: dict[int, list[tuple[Array, dict[str, Any]]]] = {}
        for value, encoded in self._met.values():
            if "array" not in encoded:
                if place := self._tables.place(value):
                    encoded["place"] = list(place)
            elif value.size and type(value) is np.ndarray and not self._write_memory(value, encoded):
                alone.setdefault(id(owner_of(value)), []).append((value, encoded))
        for number, alike in enumerate(alone.values()):
            for value, encoded in alike:
                owner = owner_of(value)
                if owner is not None and (len(alike) > 1 or not (value.flags.c_contiguous or value.flags.f_contiguous)):
                    encoded["memory"] = {"of": number, **_looks_at(value, owner)}
        in_tables = self._tables.generators.items()
        drawing = [[list(place), generators.encode(value, ".".join(map(str, place)))] for place, value in in_tables]
        return [each for each in drawing if each[1]]

    def _write_memory(self, value: Array, encoded: dict[str, Any]) -> bool:
        """Writes what an array looks at, if that is the simulation or an array in a table."""
        owner = owner_of(value)
        if owner is not None and (place := self._tables.place_of_memory(owner)):
            encoded["memory"] = {"of": list(place), **_looks_at(value, owner)}
        elif owner is None and (found := self._in_simulation(value)):
            encoded["memory"] = {"of": ["simulation", found[0]], **_looks_at(value, found[1])}
        return "memory" in encoded

    def _encode(self, value: Any, path: str, seen: set[int]) -> Any:
        """What may stand in several places is written at the first, and gets a number there when it is met again."""
        if value is leaves.NOTHING:
            return value
        if id(value) in self._met:
            first = self._met[id(value)][1]
            if "number" not in first:
                self._repeated += 1
                first["number"] = self._repeated
            return {"same": first["number"]}
        encoded = self._encode_anew(value, path, seen)
        if isinstance(encoded, dict) and encoded.keys().isdisjoint(_WRITTEN_AGAIN):
            self._met[id(value)] = value, encoded
        return encoded

    def _encode_anew(self, value: Any, path: str, seen: set[int]) -> Any:
        if (leaf := leaves.encode(value, path)) is not leaves.NOTHING:
            return leaf
        if of_mujoco := models.encode(value, is_own=id(value) in seen):
            return of_mujoco
        if id(value) in seen or isinstance(value, gymnasium.Space):
            return leaves.NOTHING
        if number := next((number for number, layer in enumerate(self._layers, 1) if layer is value), None):
            return {"layer": number - 1}
        if isinstance(value, types.MethodType):
            of = value.__self__
            is_saved = id(of) in self._met or any(of is layer for layer in self._layers)
            return {"method": value.__name__, "of": self._encode(of, path, seen)} if is_saved else leaves.NOTHING
        if isinstance(value, mujoco.MjData):
            raise ParameterError(
                f"state cannot be saved of {path}, a MuJoCo simulation that is not found as the environment's, or besides it: "
                "NonStationary(env, …, model=…) says which is its own"
            )
        if view := self._encode_view(value):
            return view
        if is_skipped(value):
            return self._encode_partial(value, path, seen) if isinstance(value, functools.partial) else leaves.NOTHING
        is_of_objects = isinstance(value, np.ndarray) and value.dtype.kind in "OSU"
        if not is_of_objects and not isinstance(value, (dict, *CONTAINERS.values())):
            return self._encode_object(value, path, seen)
        seen.add(id(value))  # a container may stand in several places, but not in itself
        encoded = self._encode_container(value, path, seen)
        seen.remove(id(value))
        return encoded

    def _encode_view(self, value: Any) -> dict[str, Any] | None:
        """What looks at a dictionary that was saved; None of anything else."""
        name = next((name for name, kind in _VIEWS.items() if isinstance(value, kind)), None)
        if name is None or package_of(value) not in ("builtins", "collections"):
            return None
        mapping = next(iter(gc.get_referents(value)), None)
        return {"view": name, "of": self._encode(mapping, "", set())} if id(mapping) in self._met else None

    def _encode_partial(self, value: functools.partial[Any], path: str, seen: set[int]) -> dict[str, Any]:
        """A function and what it is bound to, as far as these are numbers and such: it was told the rest when it was made."""
        parts = (value.func, list(value.args), dict(value.keywords))
        return {"partial": self._encode_all([part if _is_data(part) else leaves.NOTHING for part in parts], path, seen)}

    def _encode_container(self, value: Any, path: str, seen: set[int]) -> dict[str, Any]:
        if isinstance(value, np.ndarray):
            elements = self._encode_all(value.ravel().tolist(), path, seen)
            return {"elements": elements, "shape": list(value.shape), "dtype": value.dtype.str}
        if isinstance(value, dict):
            encoded = self._encode_mapping(value, path, seen)
            is_usual = type(value) is dict
        else:
            name = next(name for name, kind in CONTAINERS.items() if isinstance(value, kind))
            items: Any = sorted(value, key=repr) if "set" in name else value
            encoded = {name: self._encode_all(items, path, seen)}
            is_usual = type(value) is CONTAINERS[name]
            if isinstance(value, deque):
                encoded["longest"] = value.maxlen
        if not is_usual:
            encoded |= {"kind": self._tables.name_of(type(value)), "attributes": self._encode_attributes(value, path, seen)}
        return encoded

    def _encode_mapping(self, value: dict[Any, Any], path: str, seen: set[int]) -> dict[str, Any]:
        if all(type(key) is str for key in value):
            return {"dict": self._encode_items(value.items(), lambda key: f"{path}[{key!r}]", seen)}
        keys = [self._encode(key, f"{path}[{key!r}]", seen) for key in value]
        items = [self._encode(item, f"{path}[{key!r}]", seen) for key, item in value.items()]
        items = [{"kept": True} if item is leaves.NOTHING else item for item in items]
        if any(key is leaves.NOTHING for key in keys):
            return {"values": items}
        return {"pairs": [[key, item] for key, item in zip(keys, items, strict=True)]}

    def _encode_object(self, value: Any, path: str, seen: set[int]) -> Any:
        if is_sequence(value):
            return {"sequence": list(value), "kind": self._tables.name_of(type(value))}
        if package_of(value) == "torch" and hasattr(value, "detach"):
            return {"tensor": value.detach().cpu().numpy().copy()}
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:  # records, and numbers in another order of bytes
            return {"bytes": value.tobytes(), "shape": list(value.shape), "kind": str(value.dtype)}
        # Such as a date with a time zone.
        is_number = package_of(value) in sys.stdlib_module_names and not hasattr(value, "__dict__")
        if not has_attributes(value) or is_number or isinstance(value, np.ndarray) or package_of(value) == "builtins":
            raise ParameterError(f"state cannot be saved of {path}, which is a {type(value).__name__}")
        self._tables.look_into(type(value))
        encoded: dict[str, Any] = {"object": {}, "kind": self._tables.name_of(type(value))}
        self._met[id(value)] = value, encoded  # its parts may point back to it
        encode = self._encode_numbers if _stands_for_a_simulation(value) else self._encode_attributes
        encoded["object"] = encode(value, path, seen)
        if {"kept": True} in encoded["object"].values():
            encoded["lacks"] = True
        return encoded

    def _encode_attributes(self, value: Any, path: str, seen: set[int]) -> dict[str, Any]:
        # Containers first, so that what is one of a list is written there, and only named where it is the present one.
        items = sorted(attributes(value), key=_turn)
        is_interface = [name for name, item in items if _is_interface(value, name, item)]
        encoded = self._encode_items(items, lambda name: f"{path}.{name}", seen)
        return encoded | {name: {"kept": True} for name in is_interface}

    def _encode_numbers(self, value: Any, path: str, seen: set[int]) -> dict[str, Any]:
        """The attributes of an object around MuJoCo's that are no such objects themselves, which are saved apart."""
        items = [(name, item if _is_data(item) else leaves.NOTHING) for name, item in sorted(attributes(value), key=_turn)]
        return self._encode_items(items, lambda name: f"{path}.{name}", seen)

    def _encode_items(self, items: Iterable[tuple[str, Any]], path: Callable[[str], str], seen: set[int]) -> dict[str, Any]:
        encoded = ((name, self._encode(item, path(name), seen)) for name, item in items)
        return {name: {"kept": True} if item is leaves.NOTHING else item for name, item in encoded}

    def _encode_all(self, items: Iterable[Any], path: str, seen: set[int]) -> list[Any]:
        encoded = [self._encode(item, f"{path}[{number}]", seen) for number, item in enumerate(items)]
        return [{"kept": True} if each is leaves.NOTHING else each for each in encoded]

    def _in_simulation(self, value: Array) -> tuple[str, Array] | None:
        address = _address(value)
        inside = (each for each in self._simulation().items() if 0 <= address - _address(each[1]) < each[1].nbytes)
        return next(inside, None)


def _turn(attribute: tuple[str, Any]) -> int:
    value = attribute[1]
    if isinstance(value, (types.MethodType, *_VIEWS.values())):  # which are saved by what they belong to
        return 2
    return 0 if isinstance(value, (dict, np.ndarray, *CONTAINERS.values())) else 1


def _is_interface(owner: Any, name: str, value: Any) -> bool:
    """Whether a space is what an agent sees or does, and no state: samples of it are the agent's."""
    name = name.lstrip("_")
    return name in INTERFACE and isinstance(value, gymnasium.Space) and not samples(type(owner), name)


def _is_data(value: Any) -> bool:
    """Whether a value is a number, a generator, a function and such, or a container of these."""
    if isinstance(value, dict):
        return all(_is_data(each) for item in value.items() for each in item)
    if isinstance(value, list | tuple | deque | set | frozenset):
        return all(map(_is_data, value))
    return isinstance(value, (*generators.KINDS, functools.partial)) or leaves.encode(value, "") is not leaves.NOTHING


def _looks_at(value: Array, owner: Array) -> dict[str, Any]:
    """Where in the memory of ``owner`` an array begins, in bytes, and its steps; and how much memory that is."""
    return {"offset": _address(value) - _address(owner), "strides": list(value.strides), "size": owner.nbytes}


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _stands_for_a_simulation(value: Any) -> bool:
    """Whether an object is dm_control's around MuJoCo's, whose own state is saved by itself."""
    names = ("model", "data")
    has_both = all(inspect.getattr_static(value, name, None) is not None for name in names)
    return has_both and all(hasattr(getattr(value, name, None), "ptr") for name in names)
