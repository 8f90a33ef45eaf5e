"""What an environment draws from without owning it: tables and random generators that stand in classes and modules."""

from __future__ import annotations

import dis
import functools
import inspect
import pathlib
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium
import mujoco
import numpy as np

from envs import generators
from envs.kept import ELSEWHERE, PLAIN, attributes, has_attributes, is_skipped, name_of_fixed, owner_of, package_of

Place = tuple[str | int, ...]
"""Where something stands: module, class (empty: in the module itself) and name; then the steps from there."""

_PLAIN_TYPES = frozenset(PLAIN)

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

_WITHOUT_TABLES = sys.stdlib_module_names | {"gymnasium", "stable_baselines3", "envs", "agents"}
"""Packages whose classes take nothing from tables."""

INTERFACE = ("action_space", "observation_space")

_ALONE = 3
"""The length of a place of what stands in a class or module by itself, and not in a container."""

_DEEPEST = 8
"""Of what stands within what; deeper there are no tables but whole libraries."""


class Tables:
    """What stands in classes and in modules, by its place and the other way round.

    An environment may choose from it: ``self.task = self.TASKS[i]``. To write the attributes of one task into another would
    change what all environments of the class choose from.

    Of a class everything counts; of modules what its methods name, and the functions and classes that these use, in the class's
    package and in modules that are not installed.
    """

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}
        self._values: dict[Place, Any] = {}  # kept, so that their ids stay theirs
        self._memories: dict[int, Place] = {}
        self._classes: dict[type, str] = {}  # with names of their own, where a function makes several of one name
        self.generators: dict[Place, Any] = {}

    def look_into(self, kind: type) -> None:
        """Finds what stands in a class, in those that it inherits from, and in what their methods name."""
        for base in kind.__mro__:
            if base in self._classes or base.__module__.split(".")[0] in _WITHOUT_TABLES:
                continue
            alike = sum((base.__module__, base.__qualname__) == (each.__module__, each.__qualname__) for each in self._classes)
            self._classes[base] = f"{base.__qualname__}~{alike}" if alike else base.__qualname__
            for name, value in vars(base).items():
                if not name.startswith("__") and (name not in INTERFACE or samples(base, name)):
                    self._enter(value, (base.__module__, self._classes[base], name))
            for place, value in _named_by(base).items():
                self._enter(value, place)
                if isinstance(value, type):
                    self.look_into(value)

    def place(self, value: Any) -> Place | None:
        """Where a value stands; None where it is in no table."""
        return self._places.get(id(value))

    def place_of_memory(self, owner: Any) -> Place | None:
        """Where an array stands that has its numbers in the memory of ``owner``; None where none does."""
        return self._memories.get(id(owner))

    def at(self, place: Place) -> Any:
        """What stands there; None where nothing does."""
        return self._values.get(place)

    def constant(self, place: Place) -> Any:
        """What stands there, if its name is that of a constant, in capitals, or it is a generator by itself; None otherwise.

        Names in lower case are often those of registers, in which each environment has entries of its own.
        """
        there = self.at(place)
        return there if str(place[2]).isupper() or (isinstance(there, generators.KINDS) and len(place) == _ALONE) else None

    def values_like(self, value: Any) -> list[Any]:
        """All that stands in tables and is of one class with a value."""
        return [each for each in self._values.values() if type(each) is type(value)]

    def name_of(self, kind: type) -> str:
        """What a class is called here, with its module."""
        return f"{kind.__module__}.{self._classes.get(kind, kind.__qualname__)}"

    def class_named(self, name: str) -> type | None:
        """The class of a name, if it was looked into, or stands in a module of one that was."""
        looked_into = [kind for kind in self._classes if self.name_of(kind) == name]
        in_modules = (each for each in self._in_modules(name) if isinstance(each, type) and self.name_of(each) == name)
        return next(iter(looked_into), None) or next(in_modules, None)  # none that a module has imported under another name

    def fixed(self, name: str, place: Place) -> Any:
        """The function, class or the like of a name: at its place, or where its module says; None where it is at neither.

        Since a state may come from a stranger, nothing is found but what the environment itself defines or keeps in a table,
        and what does no harm wherever it is called.
        """
        module, _, short = name.rpartition(".")
        of_library = getattr(sys.modules.get(module), short, None) if module in ("builtins", "numpy") else None
        there = None if _is_imported(self.at(place), place) else self.at(place)
        found = [there, *self._in_modules(name), of_library if is_harmless(of_library) else None]
        return next((each for each in found if name_of_fixed(each) == name), None)

    def _in_modules(self, name: str) -> Iterator[Any]:
        """What a name says, in the modules of the classes that were looked into."""
        for module in {kind.__module__ for kind in self._classes if name.startswith(f"{kind.__module__}.")}:
            found: Any = sys.modules.get(module)
            for part in name[len(module) + 1 :].split("."):
                found = getattr(found, part, None)
            yield found

    def _enter(self, value: Any, place: Place) -> None:
        if name_of_fixed(value) is not None:
            self._places.setdefault(id(value), place)
            self._values[place] = value
            return
        if id(value) in self._places or not _has_parts(value):
            return
        self._places[id(value)] = place
        self._values[place] = value
        if isinstance(value, generators.KINDS):
            self.generators[place] = value
            return
        if isinstance(value, np.ndarray) and (owner := owner_of(value)) is not None:
            self._memories.setdefault(id(owner), place)
        if len(place) < _DEEPEST:
            for step, part in _parts(value):
                self._enter(part, (*place, step))


def samples(kind: type, space: str) -> bool:
    """Whether methods of a class, or of one that it inherits from, draw samples, and use the space of a name."""
    methods = (
        function
        for base in kind.__mro__
        if base.__module__.split(".")[0] not in _WITHOUT_TABLES
        for value in vars(base).values()
        for function in _functions(value)
    )
    return any({"sample", space} <= _names(function.__code__).attributes for function in methods)


def _is_imported(value: Any, place: Place) -> bool:
    """Whether what a module has under a name of its own is of another package, such as what it has imported to use it."""
    return len(place) == _ALONE and not place[1] and not _is_near(_module_of(value), str(place[0]).split(".")[0])


def is_harmless(value: Any) -> bool:
    """Whether a function or class does nothing but compute, whatever it is called with."""
    return isinstance(value, np.ufunc) or (isinstance(value, type) and issubclass(value, (*PLAIN, np.generic)))


def _has_parts(value: Any) -> bool:
    if isinstance(value, (dict, list, tuple, deque, set, np.ndarray, mujoco.MjModel, *generators.KINDS)):
        return True
    if isinstance(value, (*PLAIN, pathlib.PurePath, gymnasium.Env)) or value is None or is_skipped(value):
        return False
    return has_attributes(value) and package_of(value) not in ("builtins", *ELSEWHERE)


def _parts(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, np.ndarray):
        yield from enumerate(value.ravel().tolist() if value.dtype.kind == "O" else ())
    elif isinstance(value, (list, tuple, deque)):
        if not _PLAIN_TYPES.issuperset(map(type, value)):
            yield from enumerate(value)
    elif isinstance(value, dict):
        for number, (key, part) in enumerate(list(value.items())):
            yield (key if type(key) is int else f"[{key}" if isinstance(key, str) else f"#{number}"), part
    elif not isinstance(value, set):
        for name, part in list(attributes(value)):
            yield f".{name}", part


class _Names:
    """What a function names.

    Attributes:
        chains: Names that stand for something in its module, each with the attributes that follow it at once.
        imported: Modules that it imports itself.
        attributes: All names of attributes and of what is imported.
    """

    def __init__(self, code: types.CodeType) -> None:
        self.chains: set[tuple[str, ...]] = set()
        self.imported: set[str] = set()
        self.attributes = set(code.co_names)
        chain: tuple[str, ...] = ()
        for step in dis.get_instructions(code):
            if chain and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                chain = (*chain, step.argval)
                self.chains.add(chain)
                continue
            chain = (step.argval,) if step.opname == "LOAD_GLOBAL" else ()
            if chain:
                self.chains.add(chain)
            elif step.opname == "IMPORT_NAME":
                self.imported.add(step.argval)
        for within in code.co_consts:
            if isinstance(within, types.CodeType):
                names = _names(within)
                self.chains |= names.chains
                self.imported |= names.imported
                self.attributes |= names.attributes


@functools.cache
def _names(code: types.CodeType) -> _Names:
    return _Names(code)


def _named_by(kind: type) -> dict[Place, Any]:
    """What the methods of a class name, and what is named by the functions among it; and the defaults of all these."""
    package = kind.__module__.split(".")[0]
    found: dict[Place, Any] = {}
    waiting = [function for value in vars(kind).values() for function in _functions(value)]
    while waiting:
        function = waiting.pop()
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        found[function.__module__, function.__qualname__, "defaults"] = defaults
        for place, value in _resolved(function, package):
            if place not in found and not (isinstance(value, type) and not _is_near(_module_of(value), package)):
                found[place] = value
                waiting += [each for each in _functions(value) if _is_near(each.__globals__, package)]
    return found


def _resolved(function: types.FunctionType, package: str) -> Iterator[tuple[Place, Any]]:
    names = _names(function.__code__)
    for chain in names.chains:
        module = function.__globals__
        for name in chain:
            value = module.get(name)
            if not isinstance(value, types.ModuleType):
                yield (module.get("__name__", ""), "", name), value
                break
            module = vars(value)
            if not _is_near(module, package):
                break
    for imported in names.imported:
        module = vars(sys.modules[imported]) if imported in sys.modules else {}
        if _is_near(module, package):
            yield from (((imported, "", name), module[name]) for name in names.attributes if name in module)


def _functions(value: Any) -> list[types.FunctionType]:
    functions: Iterable[Any] = (value,)
    if isinstance(value, property):
        functions = value.fget, value.fset
    elif isinstance(value, classmethod | staticmethod):
        functions = (value.__func__,)
    elif isinstance(value, functools.cached_property):
        functions = (value.func,)
    unwrapped = [inspect.unwrap(each) for each in functions if isinstance(each, types.FunctionType)]
    return [each for each in unwrapped if isinstance(each, types.FunctionType)]


def _module_of(value: Any) -> dict[str, Any]:
    name = getattr(value, "__module__", None)
    return vars(sys.modules[name]) if name in sys.modules else {}


def _is_near(module: dict[str, Any], package: str) -> bool:
    """Whether a module is of a package, or not installed."""
    file = module.get("__file__") or ""
    return module.get("__name__", "").split(".")[0] == package or (bool(file) and not file.startswith(_INSTALLED))
