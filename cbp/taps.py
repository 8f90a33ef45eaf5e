"""Watching what modules receive and return, in training."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

from cbp.groups import Place

_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor
# Compiled code of earlier versions writes gradients over a value that is kept, and over its copy, which it leaves out.
_OVERWRITTEN = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)


class Tap:
    """Forward hook that keeps the last value that passed a place in training mode with gradients on, without its graph.

    It holds no reference to anything else, so a deep copy or a pickle of a tapped model (a target network, say) stays as
    small as the model; a copy of model and method together keeps them connected.
    """

    def __init__(self, key: int | str | tuple[int, ...] | None) -> None:
        self.received: Tensor | None = None
        self._key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._key,))

    def _keep(self, value: Any) -> None:
        # What vmap and its like pass is no tensor of its own, and what a trace or an export passes no training.
        if _is_exporting():
            return
        if torch.compiler.is_compiling() and _OVERWRITTEN:
            self.received = value.detach().neg().neg()
        elif torch.compiler.is_compiling() or not (_is_transformed(value) or torch._C._is_tracing()):
            self.received = value.detach()

    @staticmethod
    def on(place: Place) -> tuple[Tap, RemovableHandle]:
        """A new tap on a place, and the handle that takes it off."""
        if place.returned:
            returned = ReturnedTap(place.key)
            return returned, place.module.register_forward_hook(returned)
        received = ReceivedTap(place.key)
        return received, place.module.register_forward_pre_hook(received, with_kwargs=True)


class ReceivedTap(Tap):
    """Keeps an argument of a module."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps it; the signature is that of a torch forward pre-hook with keyword arguments."""
        if module.training and torch.is_grad_enabled():
            key = self._key
            if isinstance(key, int) and len(args) > key:
                self._keep(args[key])
            else:
                self._keep(kwargs[key if isinstance(key, str) else "input"])


class ReturnedTap(Tap):
    """Keeps what a module returns, or a part of it."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """Keeps it; the signature is that of a torch forward hook."""
        if module.training and torch.is_grad_enabled():
            for key in self._key if isinstance(self._key, tuple) else [] if self._key is None else [self._key]:
                output = output[key]
            self._keep(output)


class ArgumentsTap(Tap):
    """Keeps a copy of all arguments of a module.

    Attributes:
        acted: Whether the module was called otherwise than in training with gradients on.
        autocast: The precision that its last call in training was made in, by kinds of devices, where it was another.
        paused: Whether no tap of this kind looks, as in passes that a method makes itself.
    """

    paused: ClassVar[bool] = False

    def __init__(self, key: int | str | tuple[int, ...] | None = None) -> None:
        super().__init__(key)
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self.acted = False
        self.autocast: dict[str, torch.dtype] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._key,), {"acted": self.acted})

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps them; the signature is that of a torch forward pre-hook with keyword arguments."""
        if ArgumentsTap.paused or _is_exporting():
            return
        if not torch.compiler.is_compiling() and (
            torch._C._is_tracing()
            or any(_is_transformed(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        ):
            return
        if module.training and torch.is_grad_enabled():
            self.arguments = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), (args, kwargs))
            if not torch.compiler.is_compiling():
                lowered = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
                self.autocast = {kind: torch.get_autocast_dtype(kind) for kind in lowered}
        else:
            self.acted = True


def _is_exporting() -> bool:
    """``torch.compiler.is_exporting()``, which before PyTorch 2.13 is true within all compiled code."""
    return torch.compiler._is_exporting_flag
