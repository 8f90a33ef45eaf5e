"""FIRE: where the task changes, take the nearest weights that neither stretch nor shrink.

Source: Han, Park, Oh, Kim, Lee, Kim, *FIRE: Frobenius-isometry reinitialization for balancing the stability-plasticity
tradeoff*, ICLR 2026 (arXiv 2602.08040).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.method import Method, check_state, check_whole
from cbp.weighted import Weights, trained_names


class Fire(Method, name="fire"):
    """Projects the weights of all layers onto orthogonal ones each time it is told of a change.

        W ← √(d_out / d_in) · U·Vᵀ   with W = U·S·Vᵀ

    Of all weights whose rows (or columns, whichever are fewer) are orthogonal and of equal length, these are the nearest to W.
    U·Vᵀ is approximated by Newton and Schulz's iteration from W / ‖W‖_F:

        X ← 1.5·X − 0.5·X·Xᵀ·X

    A convolution is treated position by position of its kernel, each divided by the number of positions. The gates of a
    recurrent layer, the queries, keys and values of attention and the groups of a convolution have a matrix each. Of weight
    normalisation the directions are treated. Biases, norms and the optimizer's state are left alone. What is treated are the
    weights among those that :class:`cbp.ShrinkPerturb` treats.

    The method needs a signal: call :meth:`change` where the task has changed. :meth:`step` does nothing.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        iterations: Of Newton and Schulz, at least 1. Default: the authors'.

    Raises:
        ValueError: ``iterations`` out of its range, or a model without layers that multiply.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, -0.5]]))
        >>> method = Fire(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> method.change()
        >>> model.weight.round(decimals=4).tolist()
        [[1.0, 0.0], [0.0, -1.0]]
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, iterations: int = 10) -> None:  # noqa: ARG002
        self.iterations = check_whole("iterations", iterations, least=1)
        self._weights = Weights(model, kinds=("matrix",))

    @property
    def touched(self) -> list[str]:
        """The names of the weights that are not frozen."""
        return trained_names(self._weights.now())

    @torch.no_grad()
    def change(self) -> None:
        """Projects the weights."""
        for weight in self._weights.now():
            if weight.is_trained:
                parts = weight.by_parts(weight.parameter)
                _, outputs, inputs, *kernel = parts.shape
                positions = math.prod(kernel)
                scale = math.sqrt(outputs / inputs) / positions
                orthogonal = self._orthogonal(parts.flatten(3).movedim(3, 1) if kernel else parts[:, None])
                parts.copy_((scale * orthogonal).movedim(1, 3).reshape(parts.shape))

    def _orthogonal(self, matrices: Tensor) -> Tensor:
        """The nearest matrices with orthogonal rows or columns: ``(…, outputs, inputs)``."""
        wide = matrices.shape[-2] < matrices.shape[-1]
        x: Tensor = matrices if wide else matrices.mT
        x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        for _ in range(self.iterations):
            x = 1.5 * x - 0.5 * (x @ x.mT) @ x
        orthogonal: Tensor = x if wide else x.mT
        return orthogonal

    def step(self) -> list[Tensor]:
        """Does nothing. Returns an empty list: no unit is replaced."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """The names and shapes of the weights; nothing changes with time."""
        return {"weights": self._weights.shapes()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that a state made by :meth:`state_dict` is of such a model.

        Raises:
            ValueError: The state belongs to another model.
        """
        check_state(state, {"weights"})
        own = self.state_dict()["weights"]
        if state["weights"] != own:
            raise ValueError(f"the state is of a model with weights {state['weights']}, this one has {own}")
