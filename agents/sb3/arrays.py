"""What the compiled updates of :class:`agents.sb3.ppo.PPO` work on: views of the networks' own memory, and minibatches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from torch import nn

import cbp

Array = NDArray[np.float32]
Losses = NDArray[np.float64]


def _as_rows(observations: NDArray[Any]) -> Array:
    return observations.reshape(len(observations), -1).astype(np.float32, copy=False)


def norms_of(modules: Sequence[nn.Module]) -> list[nn.LayerNorm]:
    """The norms of a network's hidden layers: one for each, or none at all."""
    return [module for module in modules if isinstance(module, nn.LayerNorm)]


class Forward:
    """A network's forward pass by the bare operations of its modules, whose own calls would take as long again.

    The weights are copied.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        linears = [module for module in modules if isinstance(module, nn.Linear)]
        self._parameters = [(linear.weight.detach().clone(), linear.bias.detach().clone()) for linear in linears]
        self._norms = [
            (list(norm.normalized_shape), norm.weight.detach().clone(), norm.bias.detach().clone(), norm.eps)
            for norm in norms_of(modules)
        ]
        self._activate = torch.tanh_ if isinstance(modules[-2], nn.Tanh) else torch.relu_

    def __call__(self, observations: Any) -> Array:
        """What the network gives for some observations: ``(rows, out)``."""
        x = torch.empty(len(observations), self._parameters[0][0].shape[1])
        x.numpy()[:] = observations.reshape(x.shape)
        for k, (weight, bias) in enumerate(self._parameters[:-1]):
            x = F.linear(x, weight, bias)
            if self._norms:
                x = F.layer_norm(x, *self._norms[k])
            x = self._activate(x)
        return F.linear(x, *self._parameters[-1]).numpy()


def _arrays(tensors: Iterable[torch.Tensor | None]) -> tuple[Array, ...]:
    """The tensors' own memory: what is written into the arrays need not be copied back."""
    return tuple(tensor.detach().numpy() for tensor in tensors if tensor is not None)


class Samples(NamedTuple):
    """Minibatches, one after the other; number ``t`` has the rows ``bounds[t]`` to ``bounds[t + 1]``."""

    bounds: NDArray[np.int64]
    observations: Array
    actions: Array
    old_values: Array
    old_log_probs: Array
    advantages: Array
    returns: Array

    @classmethod
    def of(cls, buffer: RolloutBuffer, batch_size: int, epochs: int) -> Samples:
        """The minibatches that Stable-Baselines3 draws in some epochs.

        The rows of a whole epoch are gathered at once, so that each minibatch lies in one piece.
        """
        drawn = [next(buffer.get()) for _ in range(epochs)]
        columns = [np.concatenate([epoch[k].numpy() for epoch in drawn]) for k in range(6)]
        rows = len(columns[0]) // epochs
        starts = [epoch * rows + start for epoch in range(epochs) for start in range(0, rows, batch_size)]
        return cls(np.array([*starts, epochs * rows]), _as_rows(columns[0]), *columns[1:])


class Settings(NamedTuple):
    """Hyperparameters of the losses in a rollout."""

    clip_range: float
    clip_range_vf: float  # infinite: none
    ent_coef: float
    vf_coef: float
    normalize_advantage: bool
    max_grad_norm: float  # of each network by itself; infinite: none
    decay_rate: float  # of the units' utilities; negative: none to average


class Norm(NamedTuple):
    """A LayerNorm, and room for one minibatch."""

    weight: Array
    bias: Array
    weight_gradient: Array
    bias_gradient: Array
    normalised: Array  # before weight and bias, (batch, units)
    scale: Array  # what they were divided by, (batch,)
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm | None, batch_size: int, kind: np.dtype[Any]) -> Norm:
        """That of a hidden layer; of None one without elements."""
        if norm is None:
            none = np.empty(0, kind)
            return cls(none, none, none, none, none.reshape(0, 0), none, 0.0)
        weight, bias, of_weight, of_bias = _arrays([norm.weight, norm.bias, norm.weight.grad, norm.bias.grad])
        normalised, scale = np.empty((batch_size, len(weight)), kind), np.empty(batch_size, kind)
        return cls(weight, bias, of_weight, of_bias, normalised, scale, norm.eps)


class Layers(NamedTuple):
    """A network's Linear layers in forward order, and room for one minibatch.

    ``outputs`` has what each layer gives, a hidden one behind its activation; ``deltas`` the loss's gradient by what each
    gives before it. Both are ``(batch, out)``, weights ``(out, in)``. The value network has a ``log_std`` of no elements.
    Norms stand between a hidden layer's sums and its activation; where there are none, their arrays have no elements.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    log_std: Array
    weight_gradients: tuple[Array, ...]
    bias_gradients: tuple[Array, ...]
    log_std_gradient: Array
    outputs: tuple[Array, ...]
    deltas: tuple[Array, ...]
    norms: tuple[Norm, ...]
    utilities: tuple[Array, ...]
    tanh: bool


class Adam(NamedTuple):
    """Flat views of a network's parameters and of what torch's Adam keeps for each."""

    parameters: tuple[Array, ...]
    gradients: tuple[Array, ...]
    exp_avg: tuple[Array, ...]
    exp_avg_sq: tuple[Array, ...]
    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decays: Array  # of each parameter
    steps: float  # made before this rollout


class NetworkArrays:
    """One of the two networks while it is trained.

    Attributes:
        hidden: What the method keeps of the hidden layers that it treats, by their number from 0.
        states: Adam's state of each parameter.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        log_std: nn.Parameter | None,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        method: cbp.Method | None,
    ) -> None:
        linears = [module for module in modules if isinstance(module, nn.Linear)]
        norms = norms_of(modules)
        layers: list[nn.Linear | nn.LayerNorm] = [*linears, *norms]
        parameters = [layer.weight for layer in layers] + [layer.bias for layer in layers]
        parameters += [] if log_std is None else [log_std]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if not optimizer.state[parameter]:  # as torch.optim.Adam before its first step
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter].update(step=torch.tensor(0.0), **zeros)
        self.states = [optimizer.state[parameter] for parameter in parameters]
        watched = {layer.hidden.incoming: layer for layer in method.layers} if method else {}
        self.hidden = {k: watched[linear] for k, linear in enumerate(linears[:-1]) if linear in watched}

        kind = linears[0].weight.detach().numpy().dtype
        none = np.empty(0, kind)
        self.layers = Layers(
            weights=_arrays(linear.weight for linear in linears),
            biases=_arrays(linear.bias for linear in linears),
            log_std=none if log_std is None else log_std.detach().numpy(),
            weight_gradients=_arrays(linear.weight.grad for linear in linears),
            bias_gradients=_arrays(linear.bias.grad for linear in linears),
            log_std_gradient=none if log_std is None else _arrays([log_std.grad])[0],
            outputs=tuple(np.empty((batch_size, linear.out_features), kind) for linear in linears),
            deltas=tuple(np.empty((batch_size, linear.out_features), kind) for linear in linears),
            norms=tuple(Norm.of(norm, batch_size, kind) for _, norm in itertools.zip_longest(linears[:-1], norms)),
            utilities=tuple(self.hidden[k].utility.numpy() if k in self.hidden else none for k in range(len(linears) - 1)),
            tanh=isinstance(modules[-2], nn.Tanh),
        )
        groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
        group = groups[id(parameters[0])]
        beta1, beta2 = group["betas"]

        def flat(tensors: Iterable[torch.Tensor | None]) -> tuple[Array, ...]:
            # One number of arrays for both networks, so that the same compiled code serves them.
            return (*(array.reshape(-1) for array in _arrays(tensors)), *([none] if log_std is None else []))

        self.adam = Adam(
            parameters=flat(parameters),
            gradients=flat(parameter.grad for parameter in parameters),
            exp_avg=flat(state["exp_avg"] for state in self.states),
            exp_avg_sq=flat(state["exp_avg_sq"] for state in self.states),
            lr=float(group["lr"]),
            beta1=float(beta1),
            beta2=float(beta2),
            eps=float(group["eps"]),
            weight_decays=np.array([*(groups[id(parameter)]["weight_decay"] for parameter in parameters), 0.0], kind),
            steps=float(self.states[0]["step"]),
        )

    def count(self, updates: int) -> None:
        """Counts Adam's steps."""
        for state in self.states:
            state["step"] += updates
