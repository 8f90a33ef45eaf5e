"""Whether an environment goes by a number that it keeps: tried on copies of it, in which this is another one."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from envs.checks import ParameterError, env_name

_ROUNDED = 1e-9
"""Relative and absolute; ours."""


def try_out(name: str, env: gymnasium.Env[Any, Any], trial: Callable[[Any], None]) -> None:
    """Tries an environment of a class that is neither Gymnasium's nor this package's; those are known.

    Args:
        name: Of the parameter.
        env: The environment, wrapped or not.
        trial: Tries the environment without its wrappers. Raises :class:`envs.ParameterError` to refuse it.

    Raises:
        ParameterError: It is refused.

    Warns:
        UserWarning: It could not be tried, as one that cannot be copied.
    """
    base = env.unwrapped
    if type(base).__module__.split(".")[0] in ("gymnasium", "envs"):
        return
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002  what some environments draw from
    try:
        trial(base)
    except ParameterError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split()):.80}"
        warnings.warn(
            f"{name}: whether {env_name(env)} goes by it could not be tried on a copy ({why}); envs.verify says whether it has "
            "an effect",
            stacklevel=2,
        )
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)


def play_two(base: Any, *changes: Callable[[Any], None], steps: int) -> Iterator[tuple[tuple[Any, ...], ...]]:
    """Steps copies of an environment, each with a change of its own, side by side: same seeds, same random actions.

    Args:
        base: The environment without its wrappers. It is left alone.
        changes: What is done to each copy after each of its resets.
        steps: How many.

    Yields:
        What each copy has returned for a step.
    """
    copies = [_copied(base) for _ in changes]
    actions = copy.deepcopy(base.action_space)
    actions.seed(0)
    begins = True
    for step in range(steps):
        for each, change in zip(copies, changes, strict=True):
            if begins:
                each.render_mode = None  # no window
                each.reset(seed=step)
                change(each)
        action = actions.sample()
        made = tuple(each.step(copy.deepcopy(action)) for each in copies)
        yield made
        begins = any(bool(terminated or truncated) for _, _, terminated, truncated, _ in made)


def _copied(base: Any) -> Any:
    """A copy by its attributes. Gymnasium's own way makes it anew, from arguments that a derived class may not take."""
    twin = object.__new__(type(base))
    renderer = getattr(base, "mujoco_renderer", None)  # which belongs to the environment's window
    vars(twin).update(copy.deepcopy(vars(base), {id(base): twin, id(renderer): None}))
    return twin


def differ(one: Any, other: Any) -> bool:
    """Whether observations or rewards are others, by more than what rounding makes of a number that cancels out."""
    for array, of_other in zip(leaves(one), leaves(other), strict=True):
        if array.dtype.kind not in "biufc" or array.shape != of_other.shape:
            if not np.array_equal(array, of_other):
                return True
        elif not np.allclose(array, of_other, rtol=_ROUNDED, atol=_ROUNDED, equal_nan=True):
            return True
    return False


def leaves(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """What an observation consists of, however deep."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from leaves(item)
    else:
        yield np.asarray(value)
