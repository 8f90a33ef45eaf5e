"""ReGraMa: every so often, recycle the units whose incoming weights hardly receive a gradient.

Source: Liu, Wu, Obando-Ceron, Castro, Courville, Pan, *Measure gradients, not activations! Enhancing neuronal activity in deep
reinforcement learning*, NeurIPS 2025 (arXiv 2505.24061).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.discovery.recording import Example
from cbp.fresh import Init
from cbp.groups import Group, HiddenLayer
from cbp.optimizers import NoGradientsError, ResetOptimizer
from cbp.redo import ReDo
from cbp.units import TrackedLayer


class ReGraMa(ReDo, name="regrama"):
    """Replaces, every ``period`` updates, all units that learn hardly anything: :class:`cbp.ReDo` by gradients.

    The score of a unit is the mean magnitude of the gradient of its incoming weights, in units of its layer's; it is replaced
    where that is at most τ:

        s_i = mean_j|∂L/∂w_ij| / (1/H · Σ_k mean_j|∂L/∂w_kj|) ≤ τ

    The gradients are those of the update just made, as the optimizer received them: call :meth:`step` before they are zeroed.
    In a layer where no gradient arrives, all being 0, all units are replaced, but for an update in which none arrives in any,
    as from a hinge loss of 0: it tells nothing. A layer without gradients (frozen, or not part of the loss) is left as it is,
    as is one in which a gradient is NaN or infinite.

    Args:
        model: As for :class:`cbp.ReplacingMethod`.
        optimizer: As there.
        threshold: τ, at least 0. Default: that of the implementation in LucMc/continual-learning. A unit behind which weights
            are small gets small gradients, and a replaced one begins with zeros there: where τ is large and the period short,
            the same units are replaced at each check.
        period: Updates from one check to the next. Default: as ``threshold``.
        reset_optimizer: As there. Default: as ``threshold``, and in :class:`cbp.ReDo`.
        init: As there.
        seed: As there.
        layers: As there.
        example: As there.
        strict: As there.

    Attributes:
        layers: One :class:`cbp.TrackedLayer` per hidden layer; its ``utility`` is the score at the last check.

    Raises:
        ValueError: An option out of its range or an unknown name.
        TypeError: As for :class:`cbp.ReplacingMethod`.
        LayerError: As there.
        RuntimeError: From :meth:`step`, where no layer has gradients.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> _ = nn.init.zeros_(model[2].weight[:, :3].detach())  # three units behind which no gradient arrives
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> method = ReGraMa(model, optimizer, period=1)
        >>> model(torch.rand(8, 4)).mean().backward()
        >>> optimizer.step()
        >>> {0, 1, 2} <= set(method.step()[0].tolist())
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        threshold: float = 0.01,
        period: int = 1000,
        reset_optimizer: ResetOptimizer = "moments",
        init: Init = "auto",
        seed: int = 0,
        layers: Sequence[HiddenLayer | Group] | None = None,
        example: Example | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(model, optimizer, threshold, period, reset_optimizer, init, seed, layers, example, strict)

    def _judge_all(self, layers: list[TrackedLayer], received: list[list[Tensor]]) -> list[Tensor]:
        if layers and all(_gradient(layer) is None for layer in layers):
            raise NoGradientsError("ReGraMa judges by gradients, and there are none: call step() before optimizer.zero_grad()")
        return super()._judge_all(layers, received)

    def _magnitude(self, layer: TrackedLayer, received: list[Tensor]) -> Tensor | None:  # noqa: ARG002
        gradient = _gradient(layer)
        if gradient is None or not (gradient.any() or self._any_gradient()):
            return None
        return gradient.abs().mean(dim=1, dtype=layer.utility.dtype)

    def _any_gradient(self) -> bool:
        gradients = map(_gradient, self.layers)
        return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def _gradient(layer: TrackedLayer) -> Tensor | None:
    """``(units, inputs)``, the gradients of the units' incoming weights; None where one of these has none."""
    parts = [(slices, slices.tensor.grad) for slices in layer.hidden.fresh if slices.tensor.is_leaf]
    found = [slices.units_first(gradient) for slices, gradient in parts if gradient is not None]
    return torch.cat(found, dim=1) if found and len(found) == len(layer.hidden.fresh) else None
