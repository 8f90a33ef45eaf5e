"""What regularizers share that run a model again: on what it received, and with weights that it had."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import is_
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from cbp.discovery.recording import forked_generators, is_compiled, tensors_of, unwrapped
from cbp.exchanges import Exchanges
from cbp.groups import LayerError
from cbp.method import averaging_dtype, check_state
from cbp.regularizer import Regularizer
from cbp.replicas import Replicas, refuse_sharded
from cbp.taps import PAUSED, ArgumentsTap

Batch = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a call of a model."""


_OF_TORCH = vars(nn.Module()).keys()


class Replaying(Regularizer):
    """A regularizer whose term is made by further passes of the model, on batches that it was trained on.

    They are made in evaluation mode, under the autocast of the model's own pass, under forked random generators and with copies
    of the buffers and of other tensors that its modules keep, and what was put into lists and dictionaries is taken out again.
    So they leave no trace, and no other method sees them; only hooks of your own are called in them, too. Where gradients of
    several passes are added up, the last pass counts. Nothing is added in an update in which the term is not finite, as it is
    on a batch with a NaN, be it one whose own update a gradient scaler skipped.

    Args:
        model: Any module. Replicas add the mean of their terms' gradients if it is given as it is wrapped in
            ``DistributedDataParallel``.
        optimizer: Not touched.
        receives: The part of the model that receives what the model does, for a training loop that calls parts of the model
            alone. Default: the model.

    Raises:
        LayerError: The model's parameters are sharded, or it has none.
    """

    def __init__(self, model: nn.Module, optimizer: Any, receives: nn.Module | None = None) -> None:
        super().__init__(optimizer)
        self._model = unwrapped(model)
        refuse_sharded(self._model)
        self._replicas = Replicas(model)
        if not any(True for _ in self._model.parameters()):
            raise LayerError(f"{type(self._model).__name__} has no parameters")
        self._exchanges = Exchanges(model)
        if is_compiled(model):
            torch.compiler.reset()  # code that was compiled before would not call what watches
        self._tap = ArgumentsTap()
        watched = self._model if receives is None else receives
        self._handle = watched.register_forward_pre_hook(self._tap, with_kwargs=True)
        self._has_seen = False

    def _take_batch(self) -> Batch | None:
        """What the model received in its last pass in training; None where it made none since the last update.

        Raises:
            RuntimeError: It never made one.
        """
        batch, self._tap.arguments = self._tap.arguments, None
        if batch is None and not self._has_seen:
            raise RuntimeError(
                f"{type(self).__name__} has seen no forward pass of the model: call it in training mode, gradients on; if "
                "only its parts are called, say by receives=part which of them receives what the model does"
            )
        self._has_seen = True
        return batch

    def _replay(self, batch: Batch, weights: dict[str, Tensor] | None = None) -> Any:
        """What the model returns for a batch, with other weights than its own if they are given."""
        kept = [(module, module.training, dict(vars(module))) for module in self._model.modules()]
        on_gpu = any(tensor.device.type == "cuda" for tensor in self._model.parameters())
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        args, kwargs = tree_map_only(Tensor, Tensor.clone, batch)  # which the model may change in place
        with ExitStack() as stack:
            stack.enter_context(forked_generators(self._model))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            for kind, dtype in self._tap.autocast.items():
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            if on_gpu and any(isinstance(module, nn.RNNBase) for module, *_ in kept):
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # it has no gradients in evaluation mode
            stack.enter_context(_as_filled(attributes for *_, attributes in kept))
            paused = PAUSED.set(True)
            for module, _, attributes in kept:
                vars(module).update({name: value.clone() for name, value in attributes.items() if isinstance(value, Tensor)})
                module.training = False
            try:
                return torch.func.functional_call(self._model, {**buffers, **(weights or {})}, args, kwargs)
            finally:
                PAUSED.reset(paused)
                for module, training, attributes in kept:
                    vars(module).clear()
                    vars(module).update(attributes)
                    module.training = training  # of a scripted module it is no attribute of Python's

    def _factor(self, scale: float) -> float:
        self._is_scaled = scale != 1
        self._backpropagated = self.strength * scale  # the whole term is, as the loss was, through whatever precision
        return 1.0

    def _treats(self) -> list[nn.Parameter]:
        was_called = self._has_seen or self._tap.arguments is not None  # what is wrong is told where it was not
        return list(self._model.parameters()) if was_called else []

    def _gradients(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        batch = self._take_batch()
        if batch is None:
            return
        trained = [p for p in self._model.parameters() if p.grad is not None and p.requires_grad]
        with torch.enable_grad():
            term = self._term(batch)
        acts = term is not None and term.requires_grad
        if not trained or not self._on_any_replica(acts, trained[0]):
            return
        gradients: Sequence[Tensor | None] = [None] * len(trained)
        if term is not None and acts:
            with torch.enable_grad():
                weighted = term * self._backpropagated
            gradients = self._sound(term, torch.autograd.grad(weighted, trained, allow_unused=True))
        for parameter, gradient in zip(trained, gradients, strict=True):
            if not self._replicas.alone:  # all of them take part, each with what it has
                yield parameter, self._replicas.mean(torch.zeros_like(parameter) if gradient is None else gradient)
            elif gradient is not None:
                yield parameter, gradient

    def _sound(self, term: Tensor, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """The gradients, or zeros where the term overflowed; looked at on the device alone.

        Where gradients alone did, and are scaled still, they are left to the scaler, which has to find a smaller scale.
        """
        looked_at = [term] if self._is_scaled else [term, *(gradient for gradient in gradients if gradient is not None)]
        sound = torch.stack([tensor.isfinite().all().to(term.device) for tensor in looked_at]).all()
        return [g if g is None else torch.where(sound.to(g.device), g, 0) for g in gradients]

    def _on_any_replica(self, flag: bool, like: Tensor) -> bool:
        if self._replicas.alone:
            return flag
        return bool(self._replicas.total(torch.tensor(float(flag), device=like.device)) > 0)

    def _look(self) -> None:
        """Drops what was kept of passes of other parameters than those of now."""
        refuse_sharded(self._model)
        self._exchanges.follow(self._drop_others)

    def _drop_others(self) -> None:
        if not self._exchanges.are_renewed:
            self._drop()

    @abstractmethod
    def _drop(self) -> None:
        """Forgets all passes."""

    def _form(self) -> tuple[Any, ...]:
        """What a batch and weights from before must be made for to be of use: precision, names and shapes."""
        return next(self._model.parameters()).dtype, tuple(map(tuple, self._shapes()))

    def take_over(self, other: Self) -> None:
        """As for :class:`cbp.Method`; passes are gone on with where all parameters are the same."""
        own, theirs = list(self._model.parameters()), list(other._model.parameters())
        same = len(own) == len(theirs) and all(map(is_, own, theirs))
        self.load_state_dict({**other.state_dict(), "weights": self._shapes()})
        if not same:
            self._drop()

    @abstractmethod
    def _term(self, batch: Batch) -> Tensor | None:
        """The term without λ, called with gradients on; None where there is none yet.

        Args:
            batch: What the model received in the pass of this update.
        """

    def remove(self) -> None:
        """Takes off what watches the model; nothing is added to gradients afterwards."""
        self._handle.remove()
        self._tap.arguments, self._has_seen = None, True

    def _shapes(self) -> list[list[Any]]:
        return [[name, *parameter.shape] for name, parameter in self._model.named_parameters()]

    def _check(self, state: dict[str, Any], keys: set[str]) -> None:
        check_state(state, {"weights", *keys})
        if [list(shape) for shape in state["weights"]] != self._shapes():
            raise ValueError(f"the state is of a model with weights {state['weights']}, this one has {self._shapes()}")

    def _placed(self, value: Any) -> Any:
        """Saved tensors, on the model's device."""
        device = next(self._model.parameters()).device
        return tree_map_only(Tensor, lambda tensor: tensor.detach().clone().to(device), value)


def mean_square(values: Any, before: Any) -> Tensor:
    """The mean over all elements of the squared difference of two equal structures of tensors."""
    pairs = [pair for pair in zip(tensors_of(values), tensors_of(before), strict=True) if pair[0].is_floating_point()]
    # In half precision the sum would overflow, and small differences be lost.
    squares = [(now.to(averaging_dtype(now)) - then.to(now.device)).square().sum() for now, then in pairs]
    total = torch.stack([square.to(squares[0].device) for square in squares]).sum()
    return total / sum(now.numel() for now, _ in pairs)


@contextmanager
def _as_filled(modules: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Lists, dictionaries and the like among the attributes of modules hold afterwards what they held before.

    Those of other classes, which may forbid it, are left alone.
    """
    own = [value for attributes in modules for name, value in attributes.items() if name not in _OF_TORCH]
    held = [(value, copy.copy(value)) for value in own if type(value) in (list, dict, set, deque)]
    try:
        yield
    finally:
        for value, before in held:
            value.clear()
            value.extend(before) if isinstance(value, list | deque) else value.update(before)
