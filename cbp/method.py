"""What methods against loss of plasticity share: when they act, their state, and how their options are checked."""

from __future__ import annotations

import difflib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from numbers import Integral, Real
from typing import Any, Self, get_args

import torch
from torch import Tensor

from cbp.units import TrackedLayer

METHODS: dict[str, type[Method]] = {}
"""Every method by its name. ``class MyMethod(Method, name="my-method")`` adds one."""


class Method(ABC):
    """Acts around each update of an optimizer to keep a model plastic.

    A training loop calls :meth:`before_update` between ``loss.backward()`` and ``optimizer.step()``, and :meth:`step` after it.
    Both change weights, gradients and the optimizer's state in place and nothing else, so that any loop can carry any method.
    What a model gets later, or in another's place, such as a larger head, is taken up by the next call as it is then.
    A method is made by ``Class(model, optimizer, **options)``; the options ``layers`` and ``seed``, where it has them, mean
    what they mean in :class:`ReplacingMethod`.

    Attributes:
        layers: What the method keeps of each hidden layer, in forward order; empty where it treats all weights alike.
    """

    layers: Sequence[TrackedLayer] = ()

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None and METHODS.setdefault(name, cls) is not cls:
            raise ValueError(f"there is a method '{name}' already: {METHODS[name].__module__}.{METHODS[name].__qualname__}")

    def before_update(self) -> None:  # noqa: B027  most methods act only afterwards
        """Acts on the gradients of the update that is about to be made."""

    def change(self) -> None:  # noqa: B027  most methods need no signal
        """Is told that the task has changed, between two updates. Most methods find out, or do without."""

    def take_over(self, other: Self) -> None:
        """Goes on where another one of its kind left off, with what that kept of the tensors that both treat.

        What this one alone treats begins as it is now. The other may not act afterwards. Unless a method says otherwise, it
        loads the other's state, if that is for it.
        """
        with suppress(ValueError):
            self.load_state_dict(other.state_dict())

    def begin_anew(self) -> None:  # noqa: B027  most do not look back
        """Takes the weights as they are now for those that it began with, as after those of another model were loaded."""

    @abstractmethod
    def step(self) -> list[Tensor]:
        """Acts after an update.

        Returns:
            For each of :attr:`layers` the indices of the units just replaced: int64, of shape ``(replaced,)``.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes with time, as tensors and numbers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """


_NO_OPTIONS = {"model", "optimizer", "layers", "example", "strict", "receives", "seed"}


def options_of(method: type[Method]) -> list[str]:
    """The names of a method's options: what it is made with, but for the model, what is found in it, and the seed."""
    return [name for name in inspect.signature(method).parameters if name not in _NO_OPTIONS]


def averaging_dtype(tensor: Tensor) -> torch.dtype:
    """What a slow average of a tensor is kept in: in half precision small changes of it would be lost."""
    return torch.promote_types(tensor.dtype, torch.float32)


def in_reals(tensor: Tensor) -> Tensor:
    """A view of complex numbers as pairs of real ones; a real tensor as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def for_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """The generator itself, which is on the CPU; one on the device, seeded from it, where weights are on a GPU.

    The CPU's generator is what a method saves, so that its state is the same wherever the weights are.
    """
    if device.type not in ("cuda", "mps", "xpu"):
        return generator
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def check_choice(option: str, value: object, choices: Any) -> None:
    """Refuses what is none of the values of a ``Literal``."""
    allowed = get_args(choices)
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"{option} must be one of {', '.join(allowed)}; got {value!r}{hint}")


def check_number(
    option: str,
    value: object,
    least: float,
    greatest: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Returns a finite number, of NumPy too, from ``least`` to ``greatest``, greater than ``above`` and less than ``below``.

    Raises:
        ValueError: It is none.
    """
    number = _number(value)
    if not (abs(number) < math.inf and least <= number <= greatest and number < below):
        words = f">= {least:g}"
        if min(greatest, below) < math.inf:
            words = f"in [{least:g}, {greatest:g}]" if greatest < below else f"in [{least:g}, {below:g})"
        raise ValueError(f"{option} must be a finite number {words}, got {value!r}")
    if number <= above:
        raise ValueError(f"{option} must be above {above:g}, got {value!r}")
    return number


def check_whole(option: str, value: object, least: int | None = None) -> int:
    """Returns a whole number, be it of NumPy or written ``1e4``, that is at least ``least``.

    Raises:
        ValueError: It is none.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    is_whole = is_number and (isinstance(value, Integral) or float(value).is_integer())  # type: ignore[arg-type]
    number = int(value) if is_whole else 0  # type: ignore[call-overload]
    if not is_whole or (least is not None and number < least):
        raise ValueError(f"{option} must be a whole number{'' if least is None else f' >= {least}'}, got {value!r}")
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"{option} must fit into 64 bits, got {value!r:.40}")
    return number


def check_state(state: object, needed: set[str]) -> None:
    """Refuses what is no state of a method, and one without some of its parts.

    Raises:
        ValueError: It is no dictionary, or lacks a part.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"the state must be a dictionary, as state_dict() returns it, got {type(state).__name__}")
    if missing := needed - state.keys():
        raise ValueError(f"the state lacks {', '.join(sorted(missing))}")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
