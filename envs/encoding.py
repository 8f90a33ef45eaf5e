"""What the parts of an environment keep in their attributes, as plain values."""

from __future__ import annotations

import enum
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gymnasium
import numpy as np

from envs.checks import ParameterError
from envs.tables import ELSEWHERE, NO_STATE, PLAIN, Tables, attributes, has_attributes, is_function, owner_of, package_of

Arrays = dict[str, np.ndarray[Any, Any]]

CONTAINERS: dict[str, Any] = {"list": list, "tuple": tuple, "deque": deque, "set": set, "frozenset": frozenset}

_OF_TORCH = "?bhilqBHILQefdFD"
"""The types of arrays, by NumPy's characters, that have tensors like them: what writes a state to a file may need these."""

_NOTHING = object()


class Encoder:
    """Encodes attributes, so that :class:`envs.decoding.Decoder` can give them to an environment made in the same way.

    What stands in several places is written once. What an environment has taken from a table of its class or module is written
    with its place there; and an array that looks at the memory of another, or at that of the simulation, with what it looks at.

    Args:
        apart: Objects that are saved by themselves wherever they are met.
        simulation: Returns the arrays of the simulation, by their names.
    """

    def __init__(self, apart: Iterable[Any], simulation: Callable[[], Arrays] = dict) -> None:
        self._apart = list(apart)  # kept, so that their ids stay theirs
        self._simulation = simulation
        self._blocks: list[tuple[int, str, np.ndarray[Any, Any]]] | None = None
        self._tables = Tables()
        self._met: dict[int, dict[str, Any]] = {}  # what was encoded, by the ids of the values
        self._repeated = 0  # how many of them were met again
        self._memories: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}  # the first in each, by ids

    def encode(self, owner: Any) -> dict[str, Any]:
        """The attributes of an object, and of the objects that it is made of.

        Raises:
            envs.ParameterError: One of them is something that cannot be saved; it is named.
        """
        self._tables.look_into(type(owner))
        seen = {id(each) for each in (*self._apart, owner)}
        return self._encode_attributes(owner, type(owner).__name__, seen)

    def encode_generators(self) -> list[Any]:
        """The generators in the classes of what was encoded, and in their modules, each behind its place."""
        encoded = [(list(place), _encode_drawing(value)) for place, value in self._tables.generators.items()]
        return [[place, state] for place, state in encoded if state is not _NOTHING]

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
            if "array" not in encoded and (place := self._tables.place(value)):
                encoded["place"] = list(place)
        return encoded

    def _encode_anew(self, value: Any, path: str, seen: set[int]) -> Any:
        if (leaf := _encode_leaf(value)) is not _NOTHING:
            return leaf
        if id(value) in seen or isinstance(value, NO_STATE) or is_function(value):
            return _NOTHING
        if type(value).__name__ == "MjData" and package_of(value) == "mujoco":
            raise ParameterError(
                f"state cannot be saved of {path}, a MuJoCo simulation that is not found as the environment's, or besides it: "
                "NonStationary(env, …, model=…) says which is its own"
            )
        if package_of(value) in ELSEWHERE:
            return _NOTHING
        if isinstance(value, np.ndarray) and value.dtype.char in _OF_TORCH:
            return self._encode_array(value)
        is_of_objects = isinstance(value, np.ndarray) and value.dtype.kind in "OSU"
        if not is_of_objects and not isinstance(value, (dict, *CONTAINERS.values())):
            return self._encode_object(value, path, seen)
        within = seen | {id(value)}  # a container may stand in several places, but not in itself
        if isinstance(value, np.ndarray):
            elements = self._encode_all(value.ravel().tolist(), path, within)
            return {"elements": elements, "shape": list(value.shape), "dtype": value.dtype.str}
        if isinstance(value, dict):
            if all(type(key) is str for key in value):
                return {"dict": self._encode_items(value.items(), lambda key: f"{path}[{key!r}]", within)}
            return {"pairs": [self._encode_all(pair, path, within) for pair in value.items()]}
        name = next(name for name, kind in CONTAINERS.items() if isinstance(value, kind))
        items: Any = sorted(value, key=repr) if "set" in name else value
        return {name: self._encode_all(items, path, within)}

    def _encode_object(self, value: Any, path: str, seen: set[int]) -> Any:
        is_number = package_of(value) in sys.stdlib_module_names and not hasattr(value, "__dict__")  # such as a fraction
        if not has_attributes(value) or is_number or package_of(value) == "builtins":
            raise ParameterError(f"state cannot be saved of {path}, which is a {type(value).__name__}")
        if _stands_for_a_simulation(value):
            return _NOTHING
        self._tables.look_into(type(value))
        seen.add(id(value))  # it is saved once
        return {"object": self._encode_attributes(value, path, seen)}

    def _encode_attributes(self, value: Any, path: str, seen: set[int]) -> dict[str, Any]:
        # Containers first, so that what is one of a list is written there, and only named where it is the present one.
        items = sorted(attributes(value), key=lambda item: not isinstance(item[1], (dict, np.ndarray, *CONTAINERS.values())))
        return self._encode_items(items, lambda name: f"{path}.{name}", seen)

    def _encode_items(self, items: Iterable[tuple[str, Any]], path: Callable[[str], str], seen: set[int]) -> dict[str, Any]:
        encoded = ((name, self._encode(item, path(name), seen)) for name, item in items)
        return {name: item for name, item in encoded if item is not _NOTHING}

    def _encode_all(self, items: Iterable[Any], path: str, seen: set[int]) -> Any:
        encoded = [self._encode(item, f"{path}[{number}]", seen) for number, item in enumerate(items)]
        return [{"kept": True} if each is _NOTHING else each for each in encoded]

    def _encode_array(self, value: np.ndarray[Any, Any]) -> dict[str, Any]:
        encoded: dict[str, Any] = {"array": value.copy()}
        if value.size == 0 or type(value) is not np.ndarray:
            return encoded
        if (owner := owner_of(value)) is None:
            if found := self._in_simulation(value):
                encoded["memory"] = _looks_at(value, found[1]) | {"of": ["simulation", found[0]]}
            return encoded
        looks = _looks_at(value, owner)
        if place := self._tables.place_of_memory(owner):
            encoded["memory"] = looks | {"of": list(place)}
        elif first := self._memories.get(id(owner)):  # only now two are known to look at it
            first[0]["memory"] = first[1]
            encoded["memory"] = looks | {"of": first[1]["of"]}
        else:
            self._memories[id(owner)] = encoded, looks | {"of": len(self._memories)}
        return encoded

    def _in_simulation(self, value: np.ndarray[Any, Any]) -> tuple[str, np.ndarray[Any, Any]] | None:
        if self._blocks is None:
            self._blocks = [(_address(array), name, array) for name, array in self._simulation().items()]
        address = _address(value)
        inside = ((name, array) for begin, name, array in self._blocks if begin <= address < begin + array.nbytes)
        return next(inside, None)


def parts_of(space: gymnasium.Space[Any]) -> Iterator[gymnasium.Space[Any]]:
    """A space, and the spaces that it is made of, each of which draws by itself."""
    yield space
    for part in vars(space).values():
        within = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else (part,)
        for each in within:
            if isinstance(each, gymnasium.Space):
                yield from parts_of(each)


def _encode_leaf(value: Any) -> Any:
    """What has no parts."""
    if isinstance(value, enum.Enum):
        kind = type(value)
        return {"enum": [kind.__module__, kind.__qualname__, value.name if value.name in kind.__members__ else value.value]}
    if isinstance(value, np.generic) and value.dtype.char in _OF_TORCH:
        return {"scalar": np.array(value)}
    if value is None:
        return None
    for plain in PLAIN:  # a subclass becomes what it is one of, NumPy's strings too
        if isinstance(value, plain):
            return plain(value)  # type: ignore[arg-type]
    return _encode_drawing(value)


def _encode_drawing(value: Any) -> Any:
    """What draws numbers; spaces do so once they are seeded or were asked for a sample."""
    if isinstance(value, np.random.Generator):
        return {"generator": value.bit_generator.state}
    if isinstance(value, np.random.RandomState):
        return {"random_state": value.get_state(legacy=False)}
    if isinstance(value, random.Random):
        _, numbers, spare = value.getstate()
        return {"random": list(numbers), "spare": spare}
    if isinstance(value, gymnasium.Space):
        drawing = [None if each._np_random is None else _encode_drawing(each._np_random) for each in parts_of(value)]
        if any(drawing):
            return {"space": drawing}
    return _NOTHING


def _looks_at(value: np.ndarray[Any, Any], owner: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Where in the memory of ``owner`` an array begins, in bytes, and its steps; and how much memory that is."""
    return {"offset": _address(value) - _address(owner), "strides": list(value.strides), "size": owner.nbytes}


def _address(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _stands_for_a_simulation(value: Any) -> bool:
    """Whether an object is dm_control's around MuJoCo's, whose own state is saved by itself."""
    return hasattr(getattr(value, "model", None), "ptr") and hasattr(getattr(value, "data", None), "ptr")
