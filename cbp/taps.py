"""Watching what modules receive and return, in training."""

from __future__ import annotations

import inspect
import math
from collections import deque
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

from cbp.groups import Place

PAUSED = ContextVar("PAUSED", default=False)
"""Whether no :class:`ArgumentsTap` looks, in this thread, as in passes that a method makes itself."""

is_transformed = torch._C._functorch.is_functorch_wrapped_tensor
# Compiled code of earlier versions writes gradients over a value that is kept, and over its copy, which it leaves out.
_OVERWRITTEN = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)


class Tap:
    """Forward hook that keeps the last values that passed a place in training mode with gradients on, without their graph.

    It holds no reference to anything else, so a deep copy or a pickle of a tapped model (a target network, say) stays as
    small as the model; a copy of model and method together keeps them connected.

    Args:
        key: Where the value is among what passes.
        calls: How many of the last calls count: as many as one forward pass makes. In compiled code, where the number of
            values that are kept would be compiled in, the last one alone.

    Attributes:
        received: The value of the last call.
    """

    def __init__(self, key: Any, calls: int = 1) -> None:
        self.received: Tensor | None = None
        self._odd = self._absent = False
        self._key = key
        self._calls = calls
        self._earlier: deque[Tensor] = deque(maxlen=calls - 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._key, self._calls))

    @property
    def misfit(self) -> bool:
        """Whether something else than a tensor was in its place, or nothing in every call: a recurrence may begin without."""
        return self._odd or (self._absent and self.received is None)

    def take(self) -> list[Tensor]:
        """The values that were kept, call by call, and forgets them."""
        kept = [] if self.received is None else [*self._earlier, self.received]
        self.received, self._odd, self._absent = None, False, False
        self._earlier.clear()
        return kept

    def take_over(self, other: Tap) -> None:
        """Goes on with the values of another one."""
        self.received = other.received
        self._earlier.extend(other._earlier)

    def _keep(self, value: Any) -> None:
        # What vmap and its like pass is no tensor of its own, and what a trace or an export passes no training.
        if _is_exporting():
            return
        if value is None:
            self._absent = True
        elif not isinstance(value, Tensor):
            self._odd = True
        elif torch.compiler.is_compiling():
            self.received = value.detach().neg().neg() if _OVERWRITTEN else value.detach()
        elif not (is_transformed(value) or torch._C._is_tracing()):
            if self.received is not None:
                self._earlier.append(self.received)
            self.received = value.detach()

    @staticmethod
    def on(place: Place) -> tuple[Tap, RemovableHandle]:
        """A new tap on a place, and the handle that takes it off."""
        if place.returned:
            returned = ReturnedTap(place.key, place.calls)
            return returned, place.module.register_forward_hook(returned)
        received = ReceivedTap(_position_and_name(place.module, place.key), place.calls)
        return received, place.module.register_forward_pre_hook(received, with_kwargs=True)


class ReceivedTap(Tap):
    """Keeps an argument of a module, whose key is its position and its name."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        """Keeps it; the signature is that of a torch forward pre-hook with keyword arguments.

        Tools that exchange modules, such as those for quantisation, hand a hook on as one without.
        """
        kwargs = kwargs or {}
        if module.training and torch.is_grad_enabled():
            # In models that were pickled by earlier releases one of the two.
            position, name = self._key if isinstance(self._key, tuple) else _both(self._key)
            self._keep(kwargs[name] if name in kwargs else args[position] if position < len(args) else None)


class ReturnedTap(Tap):
    """Keeps what a module returns, or a part of it."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """Keeps it; the signature is that of a torch forward hook."""
        if module.training and torch.is_grad_enabled():
            for key in self._key if isinstance(self._key, tuple) else [] if self._key is None else [self._key]:
                output = _part(output, key)
            self._keep(output)


class ArgumentsTap(Tap):
    """Keeps a copy of all arguments of a module.

    Attributes:
        acted: Whether the module was called otherwise than in training with gradients on.
        autocast: The precision that its last call in training was made in, by kinds of devices, where it was another.
    """

    def __init__(self, _key: None = None) -> None:  # which models that were pickled by earlier releases give
        super().__init__(None)
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self.acted = False
        self.autocast: dict[str, torch.dtype] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (), {"acted": self.acted})

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        """Keeps them; the signature is that of a torch forward pre-hook with keyword arguments, or without."""
        kwargs = kwargs or {}
        if _is_exporting():
            return
        if not torch.compiler.is_compiling() and (
            PAUSED.get()
            or torch._C._is_tracing()
            or any(is_transformed(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        ):
            return
        if module.training and torch.is_grad_enabled():
            self.arguments = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), (args, kwargs))
            if not torch.compiler.is_compiling():
                lowered = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
                self.autocast = {kind: torch.get_autocast_dtype(kind) for kind in lowered}
        else:
            self.acted = True


def _position_and_name(module: nn.Module, key: Any) -> tuple[float, str | None]:
    """Those of an argument of which one is known; it may be given in both ways."""
    parameters = inspect.signature(module.forward).parameters
    by_position = [name for name, of in parameters.items() if of.kind in (of.POSITIONAL_ONLY, of.POSITIONAL_OR_KEYWORD)]
    if isinstance(key, str):
        return by_position.index(key) if key in by_position else math.inf, key
    return key, by_position[key] if key < len(by_position) else None


def _both(key: int | str) -> tuple[float, str]:
    return (math.inf, key) if isinstance(key, str) else (key, "input")


def _part(value: Any, key: int | str) -> Any:
    """A part of what a module returns; None where it has no such part."""
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list | tuple) and isinstance(key, int) and key < len(value):
        return value[key]
    return None


def _is_exporting() -> bool:
    """``torch.compiler.is_exporting()``, which before PyTorch 2.13 is true within all compiled code."""
    return torch.compiler._is_exporting_flag
