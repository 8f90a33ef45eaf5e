"""Notices at little cost that a model runs otherwise than it was recorded."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from cbp.discovery.recording import Arguments, is_recording
from cbp.groups import Group, LayerError
from cbp.optimizers import held_by
from cbp.taps import is_transformed

_KINDS = 32  # of calls that are recorded: one of them may be a number that counts on


class Watch:
    """Hooks on a model that say when its groups of units must be found, or found anew.

    Three things tell: the model is called with arguments of another kind; a module is called that was not called when the pass
    was recorded; modules or weights were exchanged, or others are trained, which :meth:`exchanged` compares when asked to. A
    module that is called for itself cannot be seen by recording the model.

    Like a :class:`cbp.taps.Tap` it does not carry its method along into a copy of the model alone.

    Attributes:
        awake: Whether a module was called that was not before.
        stale: Whether the next call of the model must be recorded.
        was_called: Whether the model was ever called itself, and not its parts alone.
        strayed: The path of a module that was not called before, and received units outside of a call of the model.
    """

    def __init__(self, model: nn.Module, owner: Any) -> None:
        self.awake = False
        self.stale = True
        self.was_called = False
        self.strayed: str | None = None
        self._known: set[object] = set()
        self._arguments: tuple[Any, Any] | None = None
        self._modules: list[nn.Module] = []
        self._forms: list[tuple[str, torch.Size, bool]] = []
        self._frozen: list[nn.Parameter] = []
        self._asleep: dict[nn.Module, str] = {}
        self._looks: Counter[str] = Counter()
        self._sleepers: list[RemovableHandle] = []
        self._owner: Callable[[], Any] = weakref.ref(owner)
        self._handles = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, always_call=True),  # also where a checkpoint stops a pass early
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
            module: name
            for name, module in model.named_modules()
            if name not in called and _has_weights(module) and not isinstance(module, torch.jit.ScriptModule)
        }
        self._sleepers = [module.register_forward_pre_hook(self._wake, with_kwargs=True) for module in self._asleep]
        self.strayed = self.strayed if self.strayed in self._asleep.values() else None

    def knows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call with such arguments was recorded."""
        self._known.add(self._kind((args, kwargs)))

    def _is_known(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call with such arguments was recorded."""
        return self._kind((args, kwargs)) in self._known

    def _kind(self, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> object:
        """What is told apart of arguments; after many kinds their types alone."""
        kind = _signature(arguments)
        if kind in self._known or len(self._known) < _KINDS:
            return kind
        args, kwargs = arguments
        return (*map(type, args), *((name, type(kwargs[name])) for name in sorted(kwargs)))

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

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        kwargs = kwargs or {}  # a hook that another tool moved to another module gets none
        if torch.compiler.is_compiling() or not module.training or not torch.is_grad_enabled() or is_recording():
            return
        self.was_called = True
        if self.stale or not self._is_known(args, kwargs):
            self._find(module, args, kwargs)
        if self._sleepers:
            self._arguments = args, kwargs

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """Called where a pass ends or is broken off, of which nothing was returned."""
        if self._arguments is not None:
            arguments, self._arguments = self._arguments, None
            if self.awake and output is not None:
                self._find(module, *arguments)

    def _wake(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if module not in self._asleep or not module.training or not torch.is_grad_enabled():
            return
        if self._arguments is not None:
            self.awake = True
        elif self.strayed is None and not torch.compiler.is_compiling() and not is_recording():
            self._look(self._asleep[module], args, kwargs or {})

    def _look(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Notes a module that receives units, looking at its calls 1, 2, 4, 8, … since it reads a graph."""
        self._looks[name] += 1
        looks = self._looks[name]
        owner = self._owner()
        if owner is not None and looks & (looks - 1) == 0:
            received = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and not is_transformed(leaf)]
            if _are_units(received, [layer.hidden for layer in owner.layers]):
                self.strayed = name

    def _find(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = (*tree_leaves((args, kwargs)), *module.parameters())
        if torch._C._is_tracing() or any(isinstance(tensor, Tensor) and is_transformed(tensor) for tensor in tensors):
            return
        owner = self._owner()
        if owner is not None:
            self.knows(args, kwargs)
            try:
                owner.find(Arguments(args, kwargs))
            except LayerError as error:
                if owner.strict or not owner.layers:
                    raise
                self.stale = True
                warnings.warn(f"nothing is replaced until the hidden layers can be found anew: {error}", stacklevel=2)


def _has_weights(module: nn.Module) -> bool:
    """Whether a module has parameters of its own, or in a list or dictionary, which is never called."""
    lists = (child for child in module.children() if isinstance(child, nn.ParameterList | nn.ParameterDict))
    return any(True for part in (module, *lists) for _ in part.parameters(recurse=False))


def _are_units(tensors: Iterable[Tensor], groups: Iterable[Group]) -> bool:
    """Whether the graph of any tensor leads to weights that make units of a group, and not through those that they feed."""
    groups = list(groups)
    makes = {id(slices.tensor) for group in groups for slices in group.fresh}
    fed = {id(edge.weights.tensor) for group in groups for edge in group.edges}
    waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    met = set(waiting)
    while waiting:
        nodes = [node for node, _ in waiting.pop().next_functions if node is not None]
        weights = {id(_leaf(node)) for node in nodes}
        if weights & makes:
            return True
        if not weights & fed:
            waiting += set(nodes) - met
            met.update(nodes)
    return False


def _leaf(node: Any) -> Tensor | None:
    """The parameter that a node of a graph is a view or a cast of, if it is one."""
    while not hasattr(node, "variable"):
        if node is None or len(node.next_functions) != 1:
            return None
        ((node, _),) = node.next_functions
    return node.variable  # type: ignore[no-any-return]


def _forms(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[tuple[str, torch.Size, bool]]:
    """Name and shape of each parameter, and whether an optimizer holds it."""
    held = held_by(optimizers)
    return [(name, parameter.shape, parameter in held) for name, parameter in model.named_parameters()]


def _signature(value: object) -> object:
    """What may decide the way of a pass: types, the values of whole numbers, flags and names, and what containers hold."""
    if isinstance(value, Mapping):
        return type(value), *((key, _signature(value[key])) for key in sorted(value, key=str))
    if isinstance(value, list | tuple):
        return type(value), *map(_signature, value)
    return (type(value), value) if isinstance(value, int | str) else type(value)


def _inert() -> Watch:
    watch = Watch.__new__(Watch)
    watch.awake = watch.stale = watch.was_called = False
    watch.strayed, watch._looks = None, Counter()
    watch._known, watch._arguments, watch._asleep = set(), None, {}
    watch._modules, watch._forms, watch._frozen, watch._sleepers, watch._handles = [], [], [], [], []
    watch._owner = _nobody
    return watch


def _nobody() -> None:
    """Owns what watches a copy of a model without its method."""
