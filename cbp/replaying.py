"""What regularizers share that run a model again: on what it received, and with weights that it had."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from cbp.discovery.recording import is_compiled, tensors_of, unwrapped
from cbp.regularizer import Regularizer
from cbp.replicas import Replicas, refuse_sharded
from cbp.taps import ArgumentsTap

Batch = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a call of a model."""


class Replaying(Regularizer):
    """A regularizer whose term is made by further passes of the model, on batches that it was trained on.

    They are made in evaluation mode, so that dropout draws nothing and running statistics stay as they are, and for no other
    method to see.

    Args:
        model: Any module. Replicas add the mean of their terms' gradients if it is given as it is wrapped in
            ``DistributedDataParallel``.
        receives: The part of the model that receives what the model does, for a training loop that calls parts of the model
            alone. Default: the model.

    Raises:
        LayerError: The model's parameters are sharded.
    """

    def __init__(self, model: nn.Module, receives: nn.Module | None = None) -> None:
        refuse_sharded(model)
        self._replicas = Replicas(model)
        self._model = unwrapped(model)
        if is_compiled(model):
            torch.compiler.reset()  # code that was compiled before would not call what watches
        self._tap = ArgumentsTap()
        self._handle = (receives or self._model).register_forward_pre_hook(self._tap, with_kwargs=True)
        self._has_seen = False

    def _take_batch(self) -> Batch | None:
        """What the model received in its last pass in training; None where it made none since the last update.

        Raises:
            RuntimeError: It never made one.
        """
        arguments, self._tap.arguments = self._tap.arguments, None
        if arguments is None:
            if not self._has_seen:
                raise RuntimeError(
                    f"{type(self).__name__} has seen no forward pass of the model: call it in training mode, gradients on; if "
                    "only its parts are called, say by receives=part which of them receives what the model does"
                )
            return None
        self._has_seen = True
        batch: Batch = tree_map_only(Tensor, Tensor.clone, arguments)
        return batch

    def _replay(self, batch: Batch, weights: dict[str, Tensor] | None = None) -> Any:
        """What the model returns for a batch, with other weights than its own if they are given."""
        modes = [(module, module.training) for module in self._model.modules()]
        acted = self._tap.acted
        args, kwargs = batch
        for module, _ in modes:
            module.training = False
        try:
            with torch.compiler.set_stance("force_eager"):
                if weights is None:
                    return self._model(*args, **kwargs)
                return torch.func.functional_call(self._model, weights, args, kwargs)
        finally:
            self._tap.acted = acted
            for module, mode in modes:
                module.training = mode

    def _gradients(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        batch = self._take_batch()
        if batch is None:
            return
        parameters = [parameter for parameter in self._model.parameters() if parameter.grad is not None]
        with torch.enable_grad():
            term = self._term(batch)
        if term is None or not parameters or not term.requires_grad:
            return
        gradients = torch.autograd.grad(term, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                yield parameter, self._replicas.mean(gradient)

    @abstractmethod
    def _term(self, batch: Batch) -> Tensor | None:
        """The term without λ, called with gradients on; None where there is none yet.

        Args:
            batch: What the model received in the pass of this update.
        """

    def remove(self) -> None:
        """Takes off what watches the model; nothing is added to gradients afterwards."""
        self._handle.remove()
        self._has_seen = True

    def _shapes(self) -> list[list[Any]]:
        return [[name, *parameter.shape] for name, parameter in self._model.named_parameters()]

    def _check(self, state: dict[str, Any], keys: set[str]) -> None:
        if missing := {"weights", *keys} - state.keys():
            raise ValueError(f"the state lacks {', '.join(sorted(missing))}")
        if [list(shape) for shape in state["weights"]] != self._shapes():
            raise ValueError(f"the state is of a model with weights {state['weights']}, this one has {self._shapes()}")

    def _placed(self, value: Any) -> Any:
        """Saved tensors, on the model's device."""
        device = next(self._model.parameters()).device
        return tree_map_only(Tensor, lambda tensor: tensor.detach().clone().to(device), value)


def mean_square(values: Any, before: Any) -> Tensor:
    """The mean over all elements of the squared difference of two equal structures of tensors."""
    pairs = [pair for pair in zip(tensors_of(values), tensors_of(before), strict=True) if pair[0].is_floating_point()]
    total = torch.stack([(now - then).square().sum() for now, then in pairs]).sum()
    return total / sum(now.numel() for now, _ in pairs)
