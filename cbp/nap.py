"""Normalise and project: keep each layer's weights as large as they began, in a network with norms.

Source: Lyle, Zheng, Khetarpal, Martens, van Hasselt, Pascanu, Dabney, *Normalization and effective learning rates in
reinforcement learning*, NeurIPS 2024 (arXiv 2407.01800).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.method import Method
from cbp.weighted import weighted_parameters


class NormalizeAndProject(Method, name="nap"):
    """Scales each layer's weights, after every update, to the length that they had when the method was made.

        W ← W · ‖W₀‖_F / ‖W‖_F

    Behind a norm the scale of W has no effect on what the network computes, but the larger W is, the less an update turns it.
    The projection keeps that rate. The other half of the method is the norms: one between each layer and its activation, which
    the network has to bring (``PlasticMlpPolicy(layer_norm=True)``). What is treated are the weights among those that
    :class:`cbp.ShrinkPerturb` treats, but for those that begin at 0. Biases and norms are left alone.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.

    Attributes:
        touched: The names of the weights.

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
        found = {
            name: parameter for name, parameter in weighted_parameters(model).items() if parameter.ndim > 1 and parameter.any()
        }
        self.touched = list(found)
        self._weights = list(found.values())
        self._lengths = [torch.linalg.vector_norm(weight.detach()).item() for weight in self._weights]

    @torch.no_grad()
    def step(self) -> list[Tensor]:
        """Projects the weights. Returns an empty list: no unit is replaced."""
        for weight, length in zip(self._weights, self._lengths, strict=True):
            weight.mul_(length / torch.linalg.vector_norm(weight).clamp_min(torch.finfo(weight.dtype).tiny))
        return []

    def state_dict(self) -> dict[str, Any]:
        """The lengths that weights are scaled to, by their names."""
        return {"lengths": dict(zip(self.touched, self._lengths, strict=True))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the lengths of a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        lengths = state.get("lengths", {})
        if list(lengths) != self.touched:
            raise ValueError(f"the state is of a model with weights {list(lengths)}, this one has {self.touched}")
        self._lengths = [float(length) for length in lengths.values()]
