"""Normalise and project: keep each layer's weights as large as they began, in a network with norms.

Source: Lyle, Zheng, Khetarpal, Martens, van Hasselt, Pascanu, Dabney, *Normalization and effective learning rates in
reinforcement learning*, NeurIPS 2024 (arXiv 2407.01800).
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.exchanges import PerParameter
from cbp.method import Method, check_state
from cbp.weighted import Weight, Weights


class NormalizeAndProject(Method, name="nap"):
    """Scales each layer's weights, after every update, to the length that they had when the method was made.

        W ← W · ‖W₀‖_F / ‖W‖_F

    Behind a norm the scale of W has no effect on what the network computes, but the larger W is, the less an update turns it.
    The projection keeps that rate. The other half of the method is the norms: one between each layer and its activation, which
    the network has to bring (``PlasticMlpPolicy(layer_norm=True)``). What is treated are the weights among those that
    :class:`cbp.ShrinkPerturb` treats, but for those that begin at 0; what becomes 0 stays so. The gates of a recurrent layer,
    the queries, keys and values of attention, the groups of a convolution and the members of an ensemble have a length each; of
    weight normalisation the directions are treated. Biases and norms are left alone.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.

    Raises:
        ValueError: A model without layers that multiply.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> method = NormalizeAndProject(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> _ = nn.init.constant_(model.weight, -3.0)
        >>> method.step()
        []
        >>> model.weight.tolist()
        [[-1.0, -1.0]]
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:  # noqa: ARG002
        self._weights = Weights(model, kinds=("matrix",))
        self._lengths = PerParameter(model, self._weights.parameters, self._begin, may_be_sharded=True)

    def _begin(self, parameter: nn.Parameter) -> Tensor:
        weight = next(weight for weight in self._weights.now() if weight.parameter is parameter)
        return _lengths(weight.by_parts(parameter.detach()))

    def _treated(self) -> list[Weight]:
        lengths = self._lengths.now()
        return [weight for weight in self._weights.now() if lengths[weight.parameter].any() and weight.is_trained]

    @property
    def touched(self) -> list[str]:
        """The names of the weights that are not frozen."""
        return [weight.name for weight in self._treated()]

    @torch.no_grad()
    def step(self) -> list[Tensor]:
        """Projects the weights. Returns an empty list: no unit is replaced."""
        lengths = self._lengths.now()
        for weight in self._treated():
            parts = weight.by_parts(weight.parameter)
            begun, now = lengths[weight.parameter].to(parts), _lengths(parts)
            factors = torch.where((begun > 0) & (now > 0), begun / now, 1.0)  # what has become 0 has no direction
            parts.mul_(factors.view(-1, *[1] * (parts.ndim - 1)))
        return []

    def take_over(self, other: Self) -> None:
        """As for :class:`cbp.Method`."""
        self._lengths.take_over(other._lengths)

    def begin_anew(self) -> None:
        """Takes the lengths that the weights have now."""
        self._lengths.begin_anew()

    def state_dict(self) -> dict[str, Any]:
        """The lengths that weights are scaled to, by their names: ``(parts,)`` each; 0 for those that began at 0."""
        lengths = self._lengths.now()
        return {"lengths": {weight.name: lengths[weight.parameter].clone() for weight in self._weights.now()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the lengths of a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        check_state(state, {"lengths"})
        lengths = {name: torch.as_tensor(length).reshape(-1) for name, length in state["lengths"].items()}
        weights, kept = self._weights.now(), self._lengths.now()
        theirs = {name: len(length) for name, length in lengths.items()}
        own = {weight.name: len(kept[weight.parameter]) for weight in weights}
        if list(theirs.items()) != list(own.items()):
            raise ValueError(f"the state is of a model with weights (name: parts) {theirs}, this one has {own}")
        for weight in weights:
            kept[weight.parameter] = lengths[weight.name].to(kept[weight.parameter], copy=True)
        self._lengths.mark_loaded()


def _lengths(parts: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(parts.flatten(1), dim=1)
    return lengths
