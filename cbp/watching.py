"""Notices at little cost that a model runs otherwise than it was recorded."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from cbp.discovery.recording import Arguments
from cbp.optimizers import held_by


class Watch:
    """Hooks on a model that say when its groups of units must be found, or found anew.

    Three things tell: the model is called with arguments of other types; a module is called that was not called when the pass
    was recorded; modules or weights were exchanged, or others are trained, which :meth:`exchanged` compares when asked to.

    Like a :class:`cbp.taps.Tap` it does not carry its method along into a copy of the model alone.

    Attributes:
        awake: Whether a module was called that was not before.
        stale: Whether the next call of the model must be recorded.
        was_called: Whether the model was ever called itself, and not its parts alone.
    """

    def __init__(self, model: nn.Module, owner: Any) -> None:
        self.awake = False
        self.stale = True
        self.was_called = False
        self._known: set[tuple[object, ...]] = set()
        self._arguments: tuple[Any, Any] | None = None
        self._modules: list[nn.Module] = []
        self._forms: list[tuple[str, torch.Size, bool]] = []
        self._frozen: list[nn.Parameter] = []
        self._asleep: set[nn.Module] = set()
        self._sleepers: list[RemovableHandle] = []
        self._owner: Callable[[], Any] = weakref.ref(owner)
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return (_inert, ())

    def own(self, owner: Any) -> None:
        """A copy of model and method together belongs to the copied method."""
        self._owner = weakref.ref(owner)

    def recorded(self, model: nn.Module, optimizers: Sequence[Optimizer], called: Iterable[str]) -> None:
        """A pass was recorded in which these modules were called, of a model that these optimizers train."""
        self.awake = self.stale = False
        self._modules = list(model.modules())
        self._forms = _forms(model, optimizers)
        self._frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        for handle in self._sleepers:
            handle.remove()
        called = set(called)
        self._asleep = {
            module
            for name, module in model.named_modules()
            if name not in called
            and any(True for _ in module.parameters(recurse=False))
            and not isinstance(module, torch.jit.ScriptModule)
        }
        self._sleepers = [module.register_forward_pre_hook(self._wake) for module in self._asleep]

    def knows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call with arguments of these types was recorded."""
        self._known.add(_signature(args, kwargs))

    def exchanged(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> bool:
        """Whether the model has other modules than when it was recorded, or its weights are others.

        That is, have other names or shapes, are held by an optimizer or no longer, or were frozen and are trained now.
        """
        now = list(model.modules())
        same = len(now) == len(self._modules) and all(a is b for a, b in zip(now, self._modules, strict=True))
        same = same and _forms(model, optimizers) == self._forms
        return not same or any(parameter.requires_grad for parameter in self._frozen)

    def remove(self) -> None:
        """Takes off the hooks."""
        for handle in (*self._handles, *self._sleepers):
            handle.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or not module.training or not torch.is_grad_enabled():
            return
        self.was_called = True
        if self.stale or _signature(args, kwargs) not in self._known:
            self._find(args, kwargs)
        if self._sleepers:
            self._arguments = args, kwargs

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        if self._arguments is not None:
            arguments, self._arguments = self._arguments, None
            if self.awake:
                self._find(*arguments)

    def _wake(self, module: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG002
        if module in self._asleep and module.training and torch.is_grad_enabled():
            self.awake = True

    def _find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        owner = self._owner()
        if owner is not None:
            self.knows(args, kwargs)
            owner.find(Arguments(args, kwargs))


def _forms(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[tuple[str, torch.Size, bool]]:
    """Name and shape of each parameter, and whether an optimizer holds it."""
    held = held_by(optimizers)
    return [(name, parameter.shape, parameter in held) for name, parameter in model.named_parameters()]


def _signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[object, ...]:
    return (*map(type, args), *((name, type(value)) for name, value in sorted(kwargs.items())))


def _inert() -> Watch:
    watch = Watch.__new__(Watch)
    watch.awake = watch.stale = watch.was_called = False
    watch._known, watch._arguments, watch._asleep = set(), None, set()
    watch._modules, watch._forms, watch._frozen, watch._sleepers, watch._handles = [], [], [], [], []
    watch._owner = _nobody
    return watch


def _nobody() -> None:
    """Owns what watches a copy of a model without its method."""
