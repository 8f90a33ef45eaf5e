"""Records one forward pass of a copy of a model, operation by operation, for a follower.

What runs is the model's own forward pass with its own control flow, on tensors of concrete shapes. It runs on a copy and under
forked random generators, so that it leaves no trace on the model.
"""

from __future__ import annotations

import copy
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import takewhile
from types import BuiltinFunctionType, FrameType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from cbp.discovery.calls import Call
from cbp.discovery.following import Follower
from cbp.discovery.fused import WRITTEN_OUT
from cbp.discovery.labels import CONSTANT, uniform
from cbp.discovery.memory import Value
from cbp.discovery.operations import follow
from cbp.groups import LayerError

Example = tuple[Any, ...] | dict[str, Any] | Callable[[nn.Module], Any]
"""Positional arguments of a forward pass, or keyword arguments, or a function that makes a pass with the model it is given."""


_ALONE = threading.RLock()
_RECORDING = ContextVar("_RECORDING", default=False)  # of this thread
_ROWS = 4  # of a batch, by which a pass can be made again: batch norms need two
_PLAIN = (Tensor, int, float, str, type(None))


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call of a model."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, example: Example) -> Arguments:
        """Those of an example.

        Raises:
            TypeError: It is neither a tuple nor a dictionary.
        """
        if isinstance(example, tuple):
            return cls(example)
        if isinstance(example, dict):
            return cls((), example)
        raise TypeError(
            "example must be a tuple of positional arguments, a dictionary of keyword arguments or a function of the "
            f"model, got a {type(example).__name__}"
        )

    def sample(self) -> Arguments | None:
        """Copies by which a pass can be made again, of a batch its first rows; None where not all are tensors and plain values.

        What comes with a sparse matrix, such as that of a graph, has no rows that stand alone, and is kept whole.
        """
        leaves, form = tree_flatten((self.args, self.kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if any(tensor.is_nested for tensor in tensors) or not all(isinstance(leaf, _PLAIN) for leaf in leaves):
            return None
        is_batch = all(tensor.layout is torch.strided for tensor in tensors)
        rows = next((len(tensor) for tensor in tensors if tensor.ndim), 0) if is_batch else 0

        def kept(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return (leaf[:_ROWS] if rows and leaf.ndim and len(leaf) == rows else leaf).detach().clone()

        return Arguments(*tree_unflatten([kept(leaf) for leaf in leaves], form))

    def like(self, model: nn.Module) -> Arguments:
        """The same on the device and in the precision of a model."""
        own = next(model.parameters())

        def suited(tensor: Tensor) -> Tensor:
            return tensor.to(own if tensor.is_floating_point() else own.device)

        return Arguments(*tree_map_only(Tensor, suited, (self.args, self.kwargs)))

    def call(self, model: nn.Module) -> Any:
        """Makes a pass with copies of the tensors among the arguments."""
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), (self.args, self.kwargs))
        return model(*args, **kwargs)


# Modules whose activation consists of several operations, and those that leave it as it is.
_ACTIVATION_MODULES: dict[type[nn.Module], str] = {
    nn.Softsign: "softsign", nn.Tanhshrink: "tanhshrink", nn.CELU: "celu", nn.ReLU6: "relu6", nn.LogSigmoid: "logsigmoid",
    nn.Threshold: "threshold", nn.PReLU: "prelu", nn.RReLU: "rrelu",
}  # fmt: skip


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of data parallelism and compilation.

    Raises:
        TypeError: It is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got a {type(model).__name__}")
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def is_compiled(model: nn.Module) -> bool:
    """Whether a model, in whatever wrappers, is compiled."""
    return any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules())


class SecondPassError(Exception):
    """A model that keeps tensors between calls cannot be called twice with the same arguments."""


def is_recording() -> bool:
    """Whether a pass is being recorded, in which nothing that watches a model acts: a model may hold its method."""
    return _RECORDING.get()


@contextmanager
def _recording() -> Iterator[None]:
    token = _RECORDING.set(True)
    try:
        yield
    finally:
        _RECORDING.reset(token)


def record(model: nn.Module, make_pass: Callable[[nn.Module], Any], follower: Follower, *, again: bool = True) -> None:
    """Follows one forward pass of a copy of a model.

    Args:
        model: The model. It is left as it is.
        make_pass: Makes the pass with the module that it is given.
        follower: Learns what happens.
        again: Whether a model that keeps units between calls is called a second time, in which they may be its past.

    Raises:
        LayerError: The model cannot be copied, or the pass fails or calls no module of the copy.
        SecondPassError: The second pass fails; what the follower has learnt is of no use then.
    """
    if lazy := next((name for name, parameter in model.named_parameters() if is_lazy(parameter)), None):
        raise LayerError(f"'{lazy}' has no shape yet: make one forward pass of {type(model).__name__} first")
    follower.shared |= _sharing(model)
    (duplicate,) = copied(model)
    follower.begin()
    for name, parameter in duplicate.named_parameters():
        follower.storages.add(name, parameter)
    for name, buffer in duplicate.named_buffers():
        follower.buffers.add(name, buffer)
        follower.memory.put(buffer, Value(uniform(CONSTANT, buffer.ndim)))
    with ExitStack() as stack:
        stack.enter_context(_recording())
        stack.enter_context(undisturbed(duplicate))
        stack.enter_context(must_be_called(duplicate))
        stack.enter_context(_watched(duplicate, follower))
        stack.enter_context(_Recorder(follower))
        try:
            returned = tensors_of(make_pass(duplicate))
        except Exception as error:  # whatever the model's own forward raises
            raise LayerError(f"the forward pass of {type(model).__name__} fails: {_first_line(error)}") from error
        if again and any(follower.memory.holds_units(tensor) for tensor in _kept(duplicate)):
            follower.begin_again()
            try:
                returned += tensors_of(make_pass(duplicate))
            except Exception as error:
                raise SecondPassError from error
    follower.finish(returned)


def _kept(model: nn.Module) -> list[Tensor]:
    """The tensors that modules have as buffers and attributes."""
    parts = [value for module in model.modules() for name, value in vars(module).items() if not _is_of_torch(name)]
    return [tensor for tensor in tensors_of(parts) if _is_followed(tensor)]


def _is_of_torch(name: str) -> bool:
    """Whether an attribute of a module has its parameters, or hooks, which may keep what passes."""
    return name == "_parameters" or "_hooks" in name


def _sharing(model: nn.Module) -> dict[str, str]:
    """The parameters some of whose memory is another parameter's or a buffer's, each with the other."""
    at: dict[int, list[tuple[str, Tensor]]] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if _is_followed(tensor) and tensor.numel() and tensor.device.type != "meta":
            at.setdefault(tensor.untyped_storage()._cdata, []).append((name, tensor.detach()))
    found: dict[str, str] = {}
    for members in at.values():
        members.sort(key=lambda member: int(member[1].storage_offset()))
        for i, (name, tensor) in enumerate(members):
            for other, of_other in takewhile(lambda member: member[1].storage_offset() <= _end(tensor), members[i + 1 :]):  # noqa: B023
                if _overlap(tensor, of_other):
                    found |= {name: other, other: name}
    return found


def _end(tensor: Tensor) -> int:
    """The place of the last of a tensor's elements in its storage."""
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset()) + reach


def _overlap(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one storage have elements in the same places."""
    numbers = torch.arange(max(_end(first), _end(second)) + 1)
    of_each = [numbers.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()) for tensor in (first, second)]
    return bool(torch.isin(*of_each).any())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def copied(model: nn.Module, *others: Any) -> tuple[Any, ...]:
    """A deep copy of a model, and of what else refers to its parts.

    Raises:
        LayerError: It cannot be copied.
    """
    try:
        return copy.deepcopy((model, *others), left_by_passes(model))
    except Exception as error:
        raise LayerError(
            f"{type(model).__name__} cannot be copied ({_first_line(error)}), so that its forward pass cannot be recorded; "
            "give its hidden layers: layers=[cbp.HiddenLayer(model.first, [model.second]), …]"
        ) from error


def left_by_passes(model: nn.Module) -> dict[int, Any]:
    """For ``copy.deepcopy`` of a model copies of the tensors that an earlier pass left in it, whose graph cannot be copied."""
    values = (value for module in model.modules() for value in vars(module).values())
    left = (tensor for value in values for tensor in tensors_of(value) if not tensor.is_leaf)
    return {id(tensor): tensor.detach().clone() for tensor in left}


RECURRENCES = {module.forward for module in (nn.RNN, nn.GRU, nn.LSTM, nn.RNNCell, nn.GRUCell, nn.LSTMCell)}
_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType)
_WITHOUT_TENSORS = (nn.Module, str, bytes, type, int, float, complex, ModuleType, *_FUNCTIONS)


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors within lists, tuples, dictionaries and objects with attributes."""
    found, waiting, met = [], [value], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found.append(value)
        elif id(value) not in met and not isinstance(value, _WITHOUT_TENSORS):
            met.add(id(value))
            if isinstance(value, dict):
                waiting += value.values()
            elif isinstance(value, list | tuple | set | deque):
                waiting += iter(value)  # a subclass may have no length
            else:
                waiting += getattr(value, "__dict__", {}).values()
                slots = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
                names = [name for of_kind in slots for name in ((of_kind,) if isinstance(of_kind, str) else of_kind)]
                waiting += [getattr(value, name, None) for name in names]
    return found


@contextmanager
def forked_generators(model: nn.Module) -> Iterator[None]:
    """Global generators, from which the model's forward may draw, are afterwards where they were."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    numpy = sys.modules.get("numpy")
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        if numpy is not None:
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        forked = [device.index or 0 for device in devices if device.type == "cuda"]
        stack.enter_context(torch.random.fork_rng(devices=forked))
        yield


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Gradients on, generators forked, compiled code off; and attention and recurrence in plain operations.

    In one thread at a time: each puts back what it found of torch's flags, which all threads share.
    """
    with ExitStack() as stack:
        stack.enter_context(_ALONE)
        mkldnn, cudnn = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
        stack.enter_context(forked_generators(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        if torch._C._autograd._top_saved_tensors_default_hooks(False) is not None:
            # A checkpoint around the model's own pass counts what that saves for its gradients, and not what is saved here.
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor))
        torch._C._set_mkldnn_enabled(False)
        torch._C._set_cudnn_enabled(False)
        try:
            yield
        finally:
            torch._C._set_mkldnn_enabled(mkldnn)
            torch._C._set_cudnn_enabled(cudnn)


@contextmanager
def must_be_called(model: nn.Module) -> Iterator[None]:
    """Refuses a pass that calls no module of the model.

    Raises:
        LayerError: There was none, as in one that is made with another model than it is given.
    """
    called: set[nn.Module] = set()
    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_pre_hook(lambda module, *_: called.add(module)))
        yield
    if not called:
        raise LayerError(
            f"the example calls no module of the {type(model).__name__} that it is given: it must make its pass with that, as "
            "lambda model: model(x) does"
        )


@contextmanager
def _watched(model: nn.Module, follower: Follower) -> Iterator[None]:
    """Tells the follower of each call of a module."""
    stack: list[tuple[str, bool, bool]] = []

    def hook(name: str, module: nn.Module, hooks: ExitStack) -> None:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stack.append((follower.module, follower.recurrent, follower.overridden))
            given: dict[Any, Tensor] = {key: value for key, value in (*enumerate(args), *kwargs.items()) if _is_followed(value)}
            with _disable_current_modes():
                follower.enter(module, name, given)
            follower.module, follower.recurrent = name, isinstance(module, nn.RNNBase | nn.RNNCellBase)
            follower.overridden = follower.recurrent and getattr(module.forward, "__func__", None) not in RECURRENCES
            follower.called.add(name)

        def leave(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
            follower.module, follower.recurrent, follower.overridden = stack.pop()
            parts: dict[Any, Any] = {None: output}
            if isinstance(output, dict):
                parts = output
            elif isinstance(output, list | tuple):
                parts = dict(enumerate(output))
            if isinstance(module, nn.LSTM) and isinstance(output, tuple) and len(output) > 1:  # the states of all layers
                parts |= {(1, k): state for k, state in enumerate(output[1])}
            returned = {key: value for key, value in parts.items() if _is_followed(value)}
            with _disable_current_modes():
                follower.leave(module, name, returned, _ACTIVATION_MODULES.get(type(module)))

        hooks.enter_context(module.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.enter_context(module.register_forward_hook(leave))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hook(name, module, hooks)
        yield


def _runs_torchs_recurrence() -> bool:
    """Whether an operation is one of torch's own recurrence, and not what a subclass adds to it."""
    codes = {forward.__code__ for forward in RECURRENCES}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in codes:
        frame = frame.f_back
    return frame is not None


def _is_followed(value: Any) -> bool:
    if not isinstance(value, Tensor) or torch._C._functorch.is_functorch_wrapped_tensor(value):
        return False
    return value.layout == torch.strided and not value.is_nested


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells the follower of each operation."""

    supports_higher_order_operators = True

    def __init__(self, follower: Follower) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._follower = follower

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in WRITTEN_OUT:
            with self:
                return WRITTEN_OUT[func](*args, **kwargs)
        given = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        if isinstance(func, HigherOrderOperator):  # which takes functions, and calls them where nothing is seen
            self._leave_out(func, given)
            return func(*args, **kwargs)
        # What an operation works on in place is noted as it was before.
        was = (args, kwargs)
        if func._schema.is_mutable and all(map(_is_followed, given)):
            was = tree_map_only(Tensor, Tensor.detach, was)
        out = func(*args, **kwargs)
        returned = [tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]
        if returned:
            self._note(func, was, {id(tensor) for tensor in given}, returned)
        elif func is torch.ops.aten._local_scalar_dense.default and given[0].dtype != torch.bool:  # a look whether all is well
            labels = self._follower.memory.value(given[0]).labels
            self._follower.units.leave_out(labels, "are read as a number, whose use is not followed")
        return out

    def _note(self, func: Any, was: tuple[Any, Any], given: set[int], returned: list[Tensor]) -> None:
        follower = self._follower
        if follower.overridden:
            follower.recurrent = _runs_torchs_recurrence()
        tensors = [tensor for tensor in tree_leaves(was) if isinstance(tensor, Tensor)]
        if not all(map(_is_followed, [*tensors, *returned])):
            self._leave_out(func, tensors)
            return
        call = Call(func.overloadpacket.__name__.removesuffix("_"), func, _bound(func, *was), tensors, returned)
        for tensor, value in zip(returned, follow(follower, call), strict=True):
            if not (func._schema.is_mutable and id(tensor) in given):
                follower.memory.put(tensor, value)
                continue
            if (name := follower.storages.parameter(tensor)) is not None:
                follower.otherwise.setdefault(name, call.name)
                follower.storages.drop_copy(tensor)
            follower.memory.overwritten(tensor, value)

    def _leave_out(self, func: Any, tensors: Iterable[Tensor]) -> None:
        follower = self._follower
        for tensor in filter(_is_followed, tensors):
            if (name := follower.storages.parameter(tensor)) is not None:
                follower.otherwise.setdefault(name, str(func))
                continue
            value = follower.memory.value(tensor)
            follower.meet_weight(value)
            follower.units.leave_out(value.labels, f"reach '{func}', which is not followed")


def _bound(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of the operation's schema, with its defaults."""
    bound = dict(kwargs)
    for argument, value in zip(func._schema.arguments, args, strict=False):
        bound[argument.name] = value
    for argument in func._schema.arguments:
        if argument.name not in bound and argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound
