"""Plain values back into the attributes of an environment made in the same way."""

from __future__ import annotations

import copy
import functools
import sys
import types
import warnings
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np

from envs import generators, leaves, models
from envs.encoding import CONTAINERS, Array
from envs.kept import ELSEWHERE, attributes, is_skipped, name_of_fixed, owner_of, package_of
from envs.tables import Place, Tables, is_harmless


class Decoder:
    """Gives the parts of an environment the attributes that :class:`envs.encoding.Encoder` found.

    What is there is given the values, since others may hold it too, but for three kinds, which are copied: what stands in a
    table of a class or module, what another has been made of already, and what cannot be changed.

    Args:
        layers: The environment and its wrappers.
        simulation: Returns the arrays of the simulation, by their names.
        named: Returns what the simulation has of a name: ``data``, ``body`` and a number, for instance.
        is_whole: Whether what was saved says all; releases before wrote no places and memories, and left out some kinds.

    Attributes:
        misses: Whether :meth:`lacks` has met an attribute that is not there, and was a function that cannot be found.
    """

    def __init__(
        self,
        layers: list[Any],
        simulation: Callable[[], dict[str, Array]],
        named: Callable[[str, str, int], Any],
        *,
        is_whole: bool,
    ) -> None:
        self._layers = layers
        self._simulation = simulation
        self._named = named
        self._is_whole = is_whole
        self._tables = Tables()
        self._known: dict[int, Any] = {}  # what stands in several places, by its number
        self._given: dict[int, Any] = {}  # what has been given its values, by its id
        self._memories: dict[int | Place, Array] = {}  # what several arrays look at
        self.misses = False

    def lacks(self, owner: Any, saved: dict[str, Any]) -> str | None:
        """Where an object has nothing that could become what was saved; None where it has it all. Is asked before decoding."""
        self._tables.look_into(type(owner))
        return self._lacks(owner, {"object": saved}, type(owner).__name__)

    def decode(self, owner: Any, saved: dict[str, Any]) -> None:
        """Gives an object the attributes that were found."""
        self._load(owner, saved)

    def finish(self, in_tables: list[Any]) -> None:
        """Puts the generators in tables where they were; those that are no longer there are left out."""
        for place, state in in_tables:
            if (now := self._tables.at(tuple(place))) is not None:
                generators.READERS[next(iter(state))](state, now)

    def _lacks(self, now: Any, saved: Any, path: str) -> str | None:
        if not isinstance(saved, dict):
            return None
        kind, content = next(iter(saved.items()))
        if kind == "object" and now is not None:
            self._tables.look_into(type(now))
        now, _ = self._present(saved, now)
        fits = now is not None and self._is_of_kind(now, saved)
        if kind == "object":
            if not fits and self._blank(saved) is None:
                return path
            parts = [(_there(now, name) if fits else None, value, f"{path}.{name}") for name, value in content.items()]
        elif not fits and "kind" in saved and self._of_kind(saved) is None:
            return path
        elif kind in models.KINDS:
            return None if models.can_become(now, saved) else path
        elif kind in ("dict", "pairs", "values"):
            before = now if isinstance(now, dict) else {}
            if kind == "values" and len(before) != len(content):
                return path
            parts = _pairs_within(kind, content, before, path)
        elif kind == "elements" or kind in CONTAINERS:
            present = enumerate(zip(_padded(now, len(content)), content, strict=False))
            parts = [(each, value, f"{path}[{i}]") for i, (each, value) in present]
        else:
            self.misses |= now is None and not self._can_be_found(saved)
            return None
        return self._lacks_any(parts, in_container=kind != "object")

    def _lacks_any(self, parts: Iterable[tuple[Any, Any, str]], *, in_container: bool) -> str | None:
        """The same of several, each with its path; functions that are not found may still come as attributes, not as items."""
        for now, saved, path in parts:
            is_lost = in_container and now is None and not self._can_be_found(saved)
            if (where := path if is_lost else self._lacks(now, saved, path)) is not None:
                return where
        return None

    def _is_of_kind(self, value: Any, saved: dict[str, Any]) -> bool:
        """Whether a value is of the class that was saved, as far as one was written."""
        if "kind" not in saved:
            return True
        if "bytes" in saved:
            return bool(saved["kind"] == str(getattr(value, "dtype", None)))
        return bool(saved["kind"] == (str(value) if "space" in saved else self._tables.name_of(type(value))))

    def _of_kind(self, saved: dict[str, Any]) -> type | None:
        """The class that was saved, of those whose objects can be made from their parts."""
        name = saved["kind"]
        package, _, short = name.rpartition(".")
        if "sequence" in saved and package.split(".")[0] == "pygame" and "pygame" in sys.modules:
            return getattr(sys.modules["pygame"], short, None) if short in _OF_PYGAME else None
        return _OF_PYTHON.get(name) or self._tables.class_named(name)

    def _blank(self, saved: dict[str, Any]) -> Any:
        """A new object of the class that was saved; None where the class is not known, or parts were not saved."""
        kind = None if "lacks" in saved or "kind" not in saved else self._of_kind(saved)
        has_all = kind is not None and all(map(self._can_be_found, saved["object"].values()))
        return _new(kind) if has_all else None

    def _can_be_found(self, saved: Any) -> bool:
        """Whether a function or class is known by what was saved of it, and what a partial function is made of."""
        if not isinstance(saved, dict):
            return True
        kind, content = next(iter(saved.items()))
        if kind == "partial":
            return {"kept": True} not in content and self._can_be_found(content[0])
        return kind != "code" or self._tables.fixed(content, tuple(saved.get("place", ()))) is not None

    def _present(self, saved: dict[str, Any], now: Any) -> tuple[Any, bool]:
        """What a value was taken from in a table, or else what is there; and whether it may be given other values."""
        place = tuple(saved.get("place", ()))
        if place and (there := self._tables.constant(place)) is not None and self._equals(saved, there):
            return there, True
        if self._tables.place(now) is None:
            return now, id(now) not in self._given and not _is_fixed(now)
        if not self._is_whole:
            alike = next((each for each in self._tables.values_like(now) if self._equals(saved, each)), None)
            if alike is not None:
                return alike, True
        return now, False

    def _equals(self, saved: Any, value: Any) -> bool:
        """Whether a value has the attributes or elements that were saved, as far as these are numbers, strings and such."""
        if not isinstance(saved, dict):
            return isinstance(value, type(saved)) and bool(saved == value)
        kind, content = next(iter(saved.items()))
        if not self._is_of_kind(value, saved):
            return False
        if kind == "code":
            return bool(name_of_fixed(value) == content)
        if kind in ("array", "scalar"):
            return np.array_equal(content, value, equal_nan=content.dtype.kind in "fc")
        if kind in leaves.BY_VALUE:
            return type(read := _READERS[kind](saved, None)) is type(value) and bool(read == value)
        if kind == "model":
            return models.is_alike(value, saved)
        if kind == "object":
            present = dict(attributes(value))
            return all(name in present and self._equals(item, present[name]) for name, item in content.items())
        if kind in ("dict", "pairs", "values"):
            items = list(content.values()) if kind == "dict" else [each[1] for each in content] if kind == "pairs" else content
            others = list(value.values()) if isinstance(value, dict) else []
        elif kind == "elements" or kind in CONTAINERS:
            items, others = content, _padded(sorted(value, key=repr) if isinstance(value, set | frozenset) else value, 0)
        else:
            return True
        return len(items) == len(others) and all(map(self._equals, items, others))

    def _load(self, owner: Any, saved: dict[str, Any]) -> None:
        for name, value in saved.items():
            if value == {"kept": True}:
                continue
            now = _there(owner, name)
            if value is None and package_of(now) in ELSEWHERE:  # a window that was opened since
                continue
            then = self._decode(value, now)
            if then is not now or (now is None and not _is_missed(value) and name not in dict(attributes(owner))):
                _set(owner, name, then)
        if self._is_whole:
            for name, now in list(attributes(owner)):
                if name not in saved and _is_state(now):  # of a later step
                    _delete(owner, name)

    def _decode(self, saved: Any, now: Any) -> Any:
        """The value that was saved; ``now`` itself where that has been given its state."""
        if not isinstance(saved, dict):
            return saved
        kind = next(iter(saved))
        if kind in ("kept", "same", "layer", "method", "view", "spec"):
            return self._referred(saved, now)
        content = saved[kind]
        number = int(saved.get("number", -1))
        value: Any
        if kind == "object":
            value = self._object(saved, now)
            self._known[number] = self._given[id(value)] = value
            self._load(value, content)
            return value
        own = {"array": self._array, "named": self._named_now, "elements": self._elements}
        own |= {"code": self._code, "partial": self._partial}
        if kind in own:
            value = own[kind](saved, now)
        elif kind in ("scalar", "enum", "path", *leaves.BY_VALUE):
            return _READERS[kind](saved, now)
        elif kind in _READERS:
            before, is_free = self._present(saved, now)
            value = _READERS[kind](saved, before if is_free else copy.deepcopy(before))
        else:
            before, is_free = self._present(saved, now)
            decode = self._decode_mapping if kind in ("dict", "pairs", "values") else self._decode_items
            value = decode(saved, before, is_free=is_free)
            if "attributes" in saved:
                self._load(value, saved["attributes"])
        self._known[number] = self._given[id(value)] = value
        return value

    def _named_now(self, saved: dict[str, Any], now: Any) -> Any:
        of, kind, present = models.named_in_simulation(now)
        number = saved["named"][2]
        return now if present == number else self._named(of, kind, number)

    def _code(self, saved: dict[str, Any], now: Any) -> Any:
        """The function or class of a name; what is there where it is of that name too, or nothing else is to be found."""
        name = saved["code"]
        is_alike = name_of_fixed(now) == name
        place = tuple(saved.get("place", ()))
        if is_alike and (not place or self._tables.place(now) == place):
            return now
        found = self._tables.fixed(name, place)
        if found is None and not is_alike:
            other = name_of_fixed(now) or type(now).__name__
            warnings.warn(
                f"the environment had {name} where it has {other} now, which its state cannot bring back: it goes on exactly "
                "only where it finds or makes that again itself",
                stacklevel=2,
            )
        return now if found is None else found

    def _partial(self, saved: dict[str, Any], now: Any) -> Any:
        """A function bound anew: the one that is bound there, or one that a stranger could do no harm with."""
        is_partial = isinstance(now, functools.partial)
        present = [now.func, list(now.args), dict(now.keywords)] if is_partial else [None] * 3
        function, args, keywords = map(self._decode, saved["partial"], present)
        is_known = is_harmless(function) or (is_partial and function is now.func)
        return functools.partial(function, *args, **keywords) if is_known and None not in (args, keywords) else now

    def _referred(self, saved: dict[str, Any], now: Any) -> Any:
        """What is there, or was met, or is a part of the environment itself, or a method or view of such."""
        kind, content = next(iter(saved.items()))
        if kind == "same":
            return self._known.get(int(content), now)
        if kind == "layer":
            return self._layers[content]
        if kind == "method":
            method = getattr(self._decode(saved["of"], getattr(now, "__self__", None)), content, None)
            return method if isinstance(method, types.MethodType) else now
        if kind == "view":
            mapping = self._decode(saved["of"], None)
            of_kind = {"keys": dict.keys, "values": dict.values, "items": dict.items, "proxy": types.MappingProxyType}[content]
            return of_kind(mapping) if isinstance(mapping, dict) else now
        if kind == "spec":
            models.compare(now, content)
        return now

    def _object(self, saved: dict[str, Any], now: Any) -> Any:
        before, is_free = self._present(saved, now)
        if before is None or not self._is_of_kind(before, saved):
            return self._blank(saved)
        return before if is_free else _twin(before)

    def _array(self, saved: dict[str, Any], now: Any) -> Array:
        content: Array = saved["array"]
        memory = self._memory(saved, now) if "memory" in saved else None
        target: Array
        if memory is not None:
            view = _view(saved, memory)
            target = next((each for each in (now, memory) if _is_alike(each, view)), view)
        elif self._may_be_written(now, content):
            target = now
            self._given[id(owner_of(now))] = owner_of(now)
        else:
            target = content.copy(order="K")
        if target.flags.writeable:
            target[...] = content
            if "fixed" in saved:
                target.flags.writeable = False
        return target

    def _may_be_written(self, now: Any, content: Array) -> bool:
        """Whether an array that looks at other memory, and alone does so, may be given other numbers."""
        if not isinstance(now, np.ndarray) or now.base is None or now.shape != content.shape or not now.flags.writeable:
            return False
        owner = owner_of(now)
        if owner is None:
            in_simulation = any(np.may_share_memory(now, array) for array in self._simulation().values())
            return not (self._is_whole and in_simulation)  # a copy of it otherwise, which was saved without a memory
        if self._is_whole and now.strides != content.strides:
            return False
        return id(owner) not in self._given and self._tables.place_of_memory(owner) is None

    def _memory(self, saved: dict[str, Any], now: Any) -> Array | None:
        """What an array looks at; None where the simulation no longer has it."""
        of, size = saved["memory"]["of"], saved["memory"]["size"]
        if isinstance(of, list):
            is_simulations = of[0] == "simulation"
            there = self._simulation().get(of[1]) if is_simulations else self._tables.constant(tuple(of))
            owner = there if is_simulations or there is None else owner_of(there)
            if owner is not None and owner.nbytes != size:
                owner = None
            if is_simulations or (owner is not None and np.array_equal(_view(saved, owner), saved["array"])):
                return owner
        key = tuple(of) if isinstance(of, list) else of
        if key not in self._memories:
            self._memories[key] = self._own_memory(size, now)
        return self._memories[key]

    def _own_memory(self, size: int, now: Any) -> Array:
        owner = owner_of(now) if isinstance(now, np.ndarray) else None
        is_taken = owner is None or id(owner) in self._given or self._tables.place_of_memory(owner) is not None
        if owner is None or is_taken or owner.nbytes != size or not owner.flags.writeable:
            owner = np.zeros(size, np.uint8)
        self._given[id(owner)] = owner
        return owner

    def _elements(self, saved: dict[str, Any], now: Any) -> Array:
        """An array of objects or strings."""
        array: Array = np.empty(saved["shape"], saved["dtype"])
        flat = array.reshape(-1)
        for number, (item, each) in enumerate(zip(saved["elements"], _padded(now, array.size), strict=False)):
            flat[number] = self._decode(item, each)
        return array

    def _decode_mapping(self, saved: dict[str, Any], now: Any, *, is_free: bool) -> dict[Any, Any]:
        kind, content = next(iter(saved.items()))
        before = dict(now) if isinstance(now, dict) else {}
        if kind == "values":
            keys, items = list(before), content
        elif kind == "pairs":
            keys = [self._decode(key, now) for now, (key, _) in zip(_padded(list(before), len(content)), content, strict=False)]
            items = [item for _, item in content]
        else:
            keys, items = list(content), list(content.values())
        pairs = [(key, item) for key, item in zip(keys, items, strict=True) if key in before or item != {"kept": True}]
        found = {key: self._decode(item, before.get(key)) for key, item in pairs}
        others = ((key, item) for key, item in before.items() if key not in found and is_skipped(item))
        found |= {key: item for key, item in others if name_of_fixed(item) is None}
        if not isinstance(now, dict) or not self._is_of_kind(now, saved):
            kind_of = self._of_kind(saved) if "kind" in saved else None
            return found if kind_of is None else _filled(dict.__new__(kind_of), found)
        mapping: dict[Any, Any] = now if is_free else copy.copy(now)
        mapping.clear()  # others may hold it too
        mapping.update(found)
        return mapping

    def _decode_items(self, saved: dict[str, Any], now: Any, *, is_free: bool) -> Any:
        kind, content = next(iter(saved.items()))
        items = [self._decode(item, each) for item, each in zip(content, _padded(now, len(content)), strict=False)]
        fits = isinstance(now, CONTAINERS[kind]) and self._is_of_kind(now, saved)
        usual = CONTAINERS[kind]
        if kind in ("tuple", "frozenset") or not fits:
            of_kind = type(now) if fits else self._of_kind(saved) if "kind" in saved else usual
            if of_kind is None or of_kind is usual:
                return deque(items, saved.get("longest")) if kind == "deque" else usual(items)
            made = _maker(of_kind, usual)(of_kind, items)
            return made if kind in ("tuple", "frozenset") else _filled(made, items)
        if not is_free:
            now = copy.copy(now)
        now.clear()  # others may hold it too
        return _filled(now, items)


def _maker(kind: type, usual: type) -> Callable[..., Any]:
    """What makes a container of a class that derives from a usual one, without code of its own: the usual, or another in C."""
    bases = (base for base in kind.__mro__ if issubclass(base, usual))
    in_c = (base.__new__ for base in bases if isinstance(vars(base).get("__new__"), types.BuiltinFunctionType))
    return next(in_c, usual.__new__)


def _filled(container: Any, items: Any) -> Any:
    if isinstance(container, dict):
        dict.update(container, items)
    elif isinstance(container, set):
        container.update(items)
    else:
        container.extend(items)
    return container


def _pairs_within(kind: str, content: Any, now: dict[Any, Any], path: str) -> list[tuple[Any, Any, str]]:
    """The keys and values of a dictionary, what was saved of each, and its path."""
    if kind == "values":
        return [(*pair, path) for pair in zip(_padded(list(now.values()), len(content)), content, strict=False)]
    parts = []
    for present, (key, value) in zip(
        _padded(list(now), len(content)), content.items() if kind == "dict" else content, strict=False
    ):
        is_plain = not isinstance(key, dict)
        parts.append((now.get(key if is_plain else present), value, f"{path}[{key!r}]" if is_plain else path))
        parts.append((present, key, f"a key of {path}"))
    return parts


def _padded(now: Any, length: int) -> list[Any]:
    """What a list or an array of objects has, and None as far as it is shorter."""
    items = now.ravel().tolist() if isinstance(now, np.ndarray) else now
    present = list(items) if isinstance(items, list | tuple | deque) else []
    return present + [None] * (length - len(present))


def _view(saved: dict[str, Any], memory: Array) -> Array:
    content, looks = saved["array"], saved["memory"]
    return np.ndarray(content.shape, content.dtype, memory.ravel("K"), looks["offset"], tuple(looks["strides"]))


def _is_alike(array: Any, other: Array) -> bool:
    """Whether two arrays look at the same numbers."""
    return isinstance(array, np.ndarray) and array.__array_interface__ == other.__array_interface__


def _is_fixed(value: Any) -> bool:
    """Whether an object has a way of its own to set attributes, or none, so that others may rely on what it is."""
    return getattr(type(value), "__setattr__", None) is not getattr(object, "__setattr__", None)


def _new(kind: Any) -> Any:
    """An object of a class without attributes; None where only the class itself can make one."""
    return object.__new__(kind) if kind.__new__ == object.__new__ else None


def _twin(value: Any) -> Any:
    """A copy, whatever the class says of copies and of attributes."""
    twin = _new(type(value))
    if twin is None:
        return copy.copy(value)
    for name, item in attributes(value):
        object.__setattr__(twin, name, item)
    return twin


def _there(owner: Any, name: str) -> Any:
    """An attribute; None where it is not there, whatever a class with an answer to any name says."""
    try:
        return getattr(owner, name, None)
    except LookupError:
        return None


def _is_missed(saved: Any) -> bool:
    """Whether what was saved is a function, of which there is nothing where it was not found."""
    return isinstance(saved, dict) and not saved.keys().isdisjoint(("code", "partial"))


def _is_state(value: Any) -> bool:
    """Whether a value would have been saved."""
    is_function = isinstance(value, functools.partial) or name_of_fixed(value) is not None
    return is_function or not (is_skipped(value) or isinstance(value, gymnasium.Space))


def _set(owner: Any, name: str, value: Any) -> None:
    try:
        setattr(owner, name, value)
    except AttributeError:
        try:
            object.__setattr__(owner, name, value)  # of an object that is frozen
        except AttributeError:  # of a property that keeps its value under its own name
            object.__getattribute__(owner, "__dict__")[name] = value


def _delete(owner: Any, name: str) -> None:
    try:
        delattr(owner, name)
    except AttributeError:
        try:
            object.__delattr__(owner, name)
        except AttributeError:
            del object.__getattribute__(owner, "__dict__")[name]


def _tensor(saved: dict[str, Any], now: Any) -> Any:
    content = saved["tensor"]
    if now is None:
        return sys.modules["torch"].from_numpy(content.copy())
    if tuple(now.shape) == content.shape:
        now.detach().copy_(now.new_tensor(content))
        return now
    return now.new_tensor(content)


def _bytes(saved: dict[str, Any], now: Any) -> Any:
    array = np.frombuffer(saved["bytes"], now.dtype).reshape(saved["shape"]).copy().view(type(now))
    if now.shape != array.shape:
        return array
    now[...] = array
    return now


def _model(saved: dict[str, Any], now: Any) -> Any:
    models.load_model(now, saved)
    return now


def _sequence(saved: dict[str, Any], now: Any) -> Any:
    if now is None:
        return getattr(sys.modules["pygame"], saved["kind"].rpartition(".")[2])(*saved["sequence"])
    for number, element in enumerate(saved["sequence"]):
        now[number] = element
    return now


_OF_PYTHON: dict[str, type] = {f"collections.{kind.__name__}": kind for kind in (OrderedDict, Counter)}

_OF_PYGAME = ("Vector2", "Vector3", "Rect", "FRect", "Color")

_READERS = {
    **leaves.READERS,
    "tensor": _tensor,
    "bytes": _bytes,
    "sequence": _sequence,
    "model": _model,
}
