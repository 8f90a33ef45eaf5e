"""What objects have in their attributes, and which of it is state."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np

_NO_STATE: tuple[Any, ...] = (
    gymnasium.envs.registration.EnvSpec,
    type,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
    np.ufunc,
    types.ModuleType,
    logging.Logger,
    re.Pattern,
    np.dtype,
    weakref.ReferenceType,
    type(threading.Lock()),
    type(threading.RLock()),
)
"""What is no state: what an environment looks things up with, or is told when it is made."""

_FIXED = (type, types.FunctionType, types.BuiltinFunctionType, np.ufunc, re.Pattern, np.dtype)
"""Of these what they are is told, since an environment may choose among several."""

ELSEWHERE = ("mujoco", "glfw", "OpenGL", "pygame", "PIL")
"""Packages whose objects show or drive a simulation; its own state is saved by itself."""

PLAIN = (bool, int, float, complex, str, bytes)

_COMPILED = ("torch", "numba", "jax", "jaxlib", "functools")
"""Packages whose objects are functions where they can be called: compiled ones, and networks."""


def attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object: those in its dictionary, then those in slots."""
    yield from (_dictionary(owner) or {}).items()
    for kind in type(owner).__mro__:
        if "__slots__" in vars(kind):
            for name, slot in vars(kind).items():
                if isinstance(slot, types.MemberDescriptorType):
                    with contextlib.suppress(AttributeError):
                        yield name, slot.__get__(owner)


def has_attributes(value: Any) -> bool:
    """Whether an object may keep something in attributes."""
    return _dictionary(value) is not None or any(vars(kind).get("__slots__") for kind in type(value).__mro__)


def _dictionary(value: Any) -> dict[str, Any] | None:
    """Of an object's attributes; asked past the class, which may have an answer to any name."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return found if isinstance(found, dict) else None


def name_of_fixed(value: Any) -> str | None:
    """What is told of a function, a class or the like, which has no state but can be chosen; None of anything else."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    if not isinstance(value, _FIXED):
        return None
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    return f"{getattr(value, '__module__', None) or ''}.{name}" if name else repr(value)


def package_of(value: Any) -> str:
    """The package of an object's class; some of those that are written in C have none."""
    return getattr(type(value), "__module__", "builtins").split(".")[0]


def is_skipped(value: Any) -> bool:
    """Whether a value is no state: a function, or what shows or drives a simulation."""
    module = getattr(type(value), "__module__", "builtins")
    shows = module.split(".")[0] in ELSEWHERE and module != "pygame.sprite"
    draws = module == "gymnasium.envs.mujoco.mujoco_rendering"
    if type(value) in weakref.ProxyTypes:  # through which isinstance sees
        return True
    return isinstance(value, _NO_STATE) or _is_function(value) or draws or (shows and not is_sequence(value))


def is_sequence(value: Any) -> bool:
    """Whether an object is a vector or a rectangle of pygame, which are written to by their elements."""
    return package_of(value) == "pygame" and hasattr(type(value), "__setitem__") and hasattr(type(value), "__len__")


def owner_of(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """The array whose memory another looks at; itself, if it is its own; None where the memory is not NumPy's."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.base is None:
            return base
        base = base.base
    return None


def _is_function(value: Any) -> bool:
    """Whether what can be called is no more than a function, unlike an object that keeps something between calls."""
    kinds = {getattr(base, "__module__", "builtins").split(".")[0] for base in type(value).__mro__}
    return callable(value) and (not has_attributes(value) or bool(kinds.intersection(_COMPILED)))
