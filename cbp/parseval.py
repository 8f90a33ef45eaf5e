"""Parseval regularisation: keep the rows of each hidden layer's weights orthogonal, and of one length.

Source: Chung, Cherif, Meger, Precup, *Parseval regularization for continual reinforcement learning*, NeurIPS 2024
(arXiv 2412.07224), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.discovery.finding import find_layers
from cbp.discovery.recording import Example, unwrapped
from cbp.groups import Group, HiddenLayer, LayerError
from cbp.method import check_number
from cbp.regularizer import Regularizer

_WIDTH = 64  # of the networks that the authors chose λ for; for others they multiply λ by (64 / width)²


class Parseval(Regularizer, name="parseval"):
    """Adds λ·(64/n)²·‖WWᵀ − sI‖²_F to the loss, for the weights W of each hidden layer of n units.

    It does so by its gradient, 4λ·(64/n)²·(WWᵀ − sI)W, in :meth:`before_update`. W is ``(units, inputs)``; of a convolution the
    inputs are channels × kernel, and of a gated or recurrent layer each unit has several rows, all of which become orthogonal.
    Heads, biases and norms are left alone. :attr:`touched` has the names.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        strength: λ, at least 0. Default: the authors', for networks of 64 units.
        scale: s, above 0: the square of the length of a row. Default: the authors', 2, the square of the gain √2 that the
            orthogonal initial weights have.
        layers: The hidden layers, where they cannot be found or only some shall be treated.
        example: What a forward pass is made with to find them, as for :func:`cbp.find_layers`.

    Attributes:
        touched: The names of the weights.

    Raises:
        ValueError: An option out of its range.
        LayerError: As :func:`cbp.find_layers`; or the weights of all layers are frozen.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 1))
        >>> method = Parseval(model, torch.optim.SGD(model.parameters(), lr=0.1), strength=0.5, scale=2.0)
        >>> _ = nn.init.zeros_(model[0].weight), nn.init.constant_(model[0].weight[0], 3.0)
        >>> (0 * model(torch.ones(1, 1))).sum().backward()
        >>> method.before_update()  # 4 · 0.5 · (3·3 − 2) · 3
        >>> model[0].weight.grad[0].item(), model[2].weight.grad[0, 0].item()
        (42.0, 0.0)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],  # noqa: ARG002
        strength: float = 1e-3,
        scale: float = 2.0,
        layers: Sequence[HiddenLayer | Group] | None = None,
        example: Example | None = None,
    ) -> None:
        check_number("strength", strength, 0)
        check_number("scale", scale, 0)
        if scale == 0:
            raise ValueError(f"scale must be above 0, got {scale!r}")
        self.strength = float(strength)
        self.scale = float(scale)
        found = find_layers(model, example) if layers is None else layers
        groups = [layer.as_group() if isinstance(layer, HiddenLayer) else layer for layer in found]
        # By their tensors, of which a layer may have several slices: the axis of the units, and how many there are.
        weights = {slices.tensor: (slices.dim, group.units) for group in groups for slices in group.fresh}
        names = {id(parameter): name for name, parameter in unwrapped(model).named_parameters() if parameter.requires_grad}
        self._weights = [weight for weight in weights if id(weight) in names and isinstance(weight, nn.Parameter)]
        self._units = [weights[weight] for weight in self._weights]
        if not self._weights:
            raise LayerError(f"{type(model).__name__} has no hidden layer whose weights are trained")
        self.touched = [names[id(weight)] for weight in self._weights]

    def _gradients(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for weight, (dim, units) in zip(self._weights, self._units, strict=True):
            if weight.grad is not None:
                turned = weight.movedim(dim, 0)
                w = turned.flatten(1)
                # (WWᵀ − sI)W = W(WᵀW) − sW: by the smaller of the two products.
                cube = w @ (w.T @ w) if len(w) > w.shape[1] else (w @ w.T) @ w
                factor = 4 * (_WIDTH / units) ** 2
                yield weight, cube.sub_(w, alpha=self.scale).mul_(factor).view_as(turned).movedim(0, dim)

    def state_dict(self) -> dict[str, Any]:
        """The names and shapes of the weights; nothing changes with time."""
        return {"weights": [[name, *weight.shape] for name, weight in zip(self.touched, self._weights, strict=True)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that a state made by :meth:`state_dict` is of such a model.

        Raises:
            ValueError: The state belongs to another model.
        """
        own = self.state_dict()["weights"]
        if state.get("weights") != own:
            raise ValueError(f"the state is of a model with weights {state.get('weights')}, this one has {own}")
