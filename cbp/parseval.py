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
from cbp.weighted import Weight, known_weights, trained_names

_WIDTH = 64  # of the networks that the authors chose λ for; for others they multiply λ by (64 / width)²


class Parseval(Regularizer, name="parseval"):
    """Adds λ·(64/n)²·‖WWᵀ − sI‖²_F to the loss, for the weights W of each hidden layer of n units.

    It does so by its gradient, 4λ·(64/n)²·(WWᵀ − sI)W, in :meth:`before_update`. W is ``(units, inputs)``; of a convolution the
    inputs are channels × kernel. The gates of a recurrent layer and the groups of a convolution have a W each; where a gated
    layer is one Linear its units have several rows, all of which become orthogonal. Heads, biases and norms are left alone.
    :attr:`touched` has the names.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        strength: λ, at least 0. Default: the authors', for networks of 64 units.
        scale: s, above 0: the square of the length of a row. Default: the authors', 2, the square of the gain √2 that the
            orthogonal initial weights have.
        layers: The hidden layers, where they cannot be found or only some shall be treated.
        example: What a forward pass is made with to find them, as for :func:`cbp.find_layers`.

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
        # By their tensors, of which a layer may have several slices.
        units = {slices.tensor: group.units for group in groups for slices in group.fresh}
        known = known_weights(model)
        names = {parameter: name for name, parameter in unwrapped(model).named_parameters()}
        # Bare parameters are matrices either way round: the gradient is the same.
        self._weights = {
            known.get(parameter) or Weight(names[parameter], parameter, "matrix"): width
            for parameter, width in units.items()
            if isinstance(parameter, nn.Parameter) and parameter in names
        }
        if not self.touched:
            raise LayerError(f"{type(model).__name__} has no hidden layer whose weights are trained")

    @property
    def touched(self) -> list[str]:
        """The names of the weights that are not frozen."""
        return trained_names(list(self._weights))

    def _gradients(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for weight, units in self._weights.items():
            parameter = weight.parameter
            if parameter.grad is not None:
                parts = weight.by_parts(parameter)
                w = parts.flatten(2)
                # (WWᵀ − sI)W = W(WᵀW) − sW: by the smaller of the two products.
                cube = w @ (w.mT @ w) if w.shape[1] > w.shape[2] else (w @ w.mT) @ w
                factor = 4 * (_WIDTH / units) ** 2
                yield parameter, weight.whole(cube.sub_(w, alpha=self.scale).mul_(factor).view_as(parts))

    def state_dict(self) -> dict[str, Any]:
        """The names and shapes of the weights; nothing changes with time."""
        return {"weights": [[weight.name, *weight.parameter.shape] for weight in self._weights]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that a state made by :meth:`state_dict` is of such a model.

        Raises:
            ValueError: The state belongs to another model.
        """
        own = self.state_dict()["weights"]
        if state.get("weights") != own:
            raise ValueError(f"the state is of a model with weights {state.get('weights')}, this one has {own}")
