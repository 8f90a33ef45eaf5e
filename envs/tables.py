"""What an environment draws from without owning it: tables and random generators that stand in classes and modules."""

from __future__ import annotations

import dis
import functools
import inspect
import logging
import pathlib
import random
import re
import sys
import sysconfig
import threading
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium
import numpy as np

Place = tuple[str | int, ...]
"""Where something stands: module, class (empty: in the module itself) and name; then indices, ``[key`` and ``.attribute``."""

NO_STATE: tuple[Any, ...] = (
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

ELSEWHERE = ("mujoco", "glfw", "OpenGL", "pygame", "PIL")
"""Packages whose objects show or drive a simulation; its own state is saved by itself."""

PLAIN = (bool, int, float, complex, str, bytes)

_PLAIN_TYPES = frozenset(PLAIN)

_COMPILED = ("torch", "numba", "jax", "jaxlib", "functools")
"""Packages whose objects are functions where they can be called: compiled ones, and networks."""

_DRAWING = (np.random.Generator, np.random.RandomState, random.Random, gymnasium.Space)

_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

_WITHOUT_TABLES = sys.stdlib_module_names | {"gymnasium", "stable_baselines3", "envs", "agents"}
"""Packages whose classes take nothing from tables."""

_DEEPEST = 8
"""Of what stands within what; deeper there are no tables but whole libraries."""


class Tables:
    """What stands in classes and in modules, by its place and the other way round.

    An environment may choose from it: ``self.task = self.TASKS[i]``. Such a task is saved with its place and is taken from
    there again. To write the attributes of one into another would change what all environments of the class choose from.

    Of a class everything counts; of modules what its methods name, and the functions that these call, in the class's package
    and in modules that are not installed.
    """

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}
        self._values: dict[Place, Any] = {}  # kept, so that their ids stay theirs
        self._memories: dict[int, Place] = {}
        self._known: set[type] = set()
        self.generators: dict[Place, Any] = {}

    def look_into(self, kind: type) -> None:
        """Finds what stands in a class, in those that it inherits from, and in their modules."""
        for base in kind.__mro__:
            if base in self._known or base.__module__.split(".")[0] in _WITHOUT_TABLES:
                continue
            self._known.add(base)
            for name, value in vars(base).items():
                if not name.startswith("__"):
                    self._find(value, (base.__module__, base.__qualname__, name))
            for (module, name), value in _named_by(base).items():
                self._find(value, (module, "", name))

    def place(self, value: Any) -> Place | None:
        """Where a value stands; None where it is in no table."""
        return self._places.get(id(value))

    def place_of_memory(self, owner: np.ndarray[Any, Any]) -> Place | None:
        """Where an array stands that has its numbers in the memory of ``owner``; None where none does."""
        return self._memories.get(id(owner))

    def at(self, place: Place) -> Any:
        """What stands there; None where nothing does."""
        return self._values.get(place)

    def _find(self, value: Any, place: Place) -> None:
        if isinstance(value, _DRAWING):
            self.generators[place] = value
        else:
            self._enter(value, place)

    def _enter(self, value: Any, place: Place) -> None:
        if id(value) in self._places or not _has_parts(value):
            return
        self._places[id(value)] = place
        self._values[place] = value
        if isinstance(value, np.ndarray) and (owner := owner_of(value)) is not None:
            self._memories.setdefault(id(owner), place)
        if len(place) < _DEEPEST:
            for step, part in _parts(value):
                self._enter(part, (*place, step))


def attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object: those in its dictionary, then those in slots."""
    yield from getattr(owner, "__dict__", {}).items()
    for kind in type(owner).__mro__:
        if "__slots__" in vars(kind):
            for name, value in vars(kind).items():
                if isinstance(value, types.MemberDescriptorType) and hasattr(owner, name):
                    yield name, getattr(owner, name)


def has_attributes(value: Any) -> bool:
    """Whether an object may keep something in attributes."""
    return hasattr(value, "__dict__") or any(vars(kind).get("__slots__") for kind in type(value).__mro__)


def package_of(value: Any) -> str:
    """The package of an object's class; some of those that are written in C have none."""
    return getattr(type(value), "__module__", "builtins").split(".")[0]


def is_function(value: Any) -> bool:
    """Whether what can be called is no more than a function, unlike an object that keeps something between calls."""
    kinds = {getattr(base, "__module__", "builtins").split(".")[0] for base in type(value).__mro__}
    return callable(value) and (not has_attributes(value) or bool(kinds.intersection(_COMPILED)))


def owner_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """The array whose memory another looks at; itself, if it is its own; None where the memory is not NumPy's."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.base is None:
            return base
        base = base.base
    return None


def _has_parts(value: Any) -> bool:
    if isinstance(value, (dict, list, tuple, deque, set, np.ndarray)):
        return True
    if isinstance(value, (*PLAIN, *NO_STATE, gymnasium.Env)) or value is None or is_function(value):
        return False
    return has_attributes(value) and package_of(value) not in ("builtins", *ELSEWHERE)


def _parts(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, np.ndarray):
        yield from enumerate(value.ravel().tolist() if value.dtype.kind == "O" else ())
    elif isinstance(value, (list, tuple, deque)):
        if not _PLAIN_TYPES.issuperset(map(type, value)):
            yield from enumerate(value)
    elif isinstance(value, dict):
        for key, part in list(value.items()):
            if type(key) in (str, int):
                yield (f"[{key}" if isinstance(key, str) else key), part
    elif not isinstance(value, set):
        for name, part in list(attributes(value)):
            yield f".{name}", part


def _named_by(kind: type) -> dict[tuple[str, str], Any]:
    """What the methods of a class name, by module and name; and what is named by the functions among it."""
    package = kind.__module__.split(".")[0]
    found: dict[tuple[str, str], Any] = {}
    waiting = [function for value in vars(kind).values() for function in _functions(value)]
    while waiting:
        function = waiting.pop()
        names, parts = _names(function.__code__)
        for module, name, value in _resolved(function.__globals__, names, parts, package):
            if (module, name) not in found:
                found[module, name] = value
                waiting += [each for each in _functions(value) if _is_near(each.__globals__, package)]
    return found


def _resolved(
    of_module: dict[str, Any], names: Iterable[str], parts: frozenset[str], package: str
) -> Iterator[tuple[str, str, Any]]:
    """What names stand for in a module; of a module among it, what it has under the names of attributes."""
    for name in names:
        value = of_module.get(name)
        if not isinstance(value, types.ModuleType):
            yield of_module.get("__name__", ""), name, value
        elif _is_near(vars(value), package):
            further = parts - {name}
            yield from _resolved(vars(value), further, further, package)


@functools.cache
def _names(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The names in a code that stand for something in its module, and those of attributes."""
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    parts = set(code.co_names)
    for within in code.co_consts:
        if isinstance(within, types.CodeType):
            own, parts = own | _names(within)[0], parts | _names(within)[1]
    return frozenset(own), frozenset(parts)


def _functions(value: Any) -> list[types.FunctionType]:
    functions: tuple[Any, ...] = (value,)
    if isinstance(value, property):
        functions = value.fget, value.fset
    elif isinstance(value, classmethod | staticmethod):
        functions = (value.__func__,)
    unwrapped = [inspect.unwrap(each) for each in functions if isinstance(each, types.FunctionType)]
    return [each for each in unwrapped if isinstance(each, types.FunctionType)]


def _is_near(module: dict[str, Any], package: str) -> bool:
    """Whether a module is of a package, or not installed."""
    file = module.get("__file__") or ""
    return module.get("__name__", "").split(".")[0] == package or (bool(file) and not file.startswith(_INSTALLED))
