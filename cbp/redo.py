"""ReDo: every so often, recycle the units that are hardly active beside the others of their layer.

Source: Sokar, Agarwal, Castro, Evci, *The dormant neuron phenomenon in deep reinforcement learning*, ICML 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp import utility as utilities
from cbp.discovery.recording import Example
from cbp.fresh import Init
from cbp.groups import Group, HiddenLayer
from cbp.method import check_number, check_whole
from cbp.optimizers import ResetOptimizer
from cbp.replacing import ReplacingMethod
from cbp.units import TrackedLayer


class ReDo(ReplacingMethod[TrackedLayer], name="redo"):
    """Replaces, every ``period`` updates, all units that are dormant.

    A unit is dormant where its score, its mean activity in units of its layer's, is at most τ (equation 1 and definition 3.1):

        s_i = E|h_i| / (1/H · Σ_k E|h_k|) ≤ τ

    with the mean E over the minibatch of the update just made. In a layer where nothing is active all units are dormant.
    A check in which a value of the layer is NaN or infinite is left out.

    Args:
        model: As for :class:`cbp.ReplacingMethod`.
        optimizer: As there.
        threshold: τ, at least 0. Default: that of PPO on Ant in the code published with Dohare et al. (2024).
        period: Updates from one check to the next. Default: as there, where no other is given.
        reset_optimizer: As there. Default: as the authors do.
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

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> _ = nn.init.constant_(model[0].bias[:3], -100.0)  # three units that are never active
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> method = ReDo(model, optimizer, period=1)
        >>> model(torch.rand(8, 4)).mean().backward()
        >>> optimizer.step()
        >>> {0, 1, 2} <= set(method.step()[0].tolist())
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        threshold: float = 0.1,
        period: int = 1000,
        reset_optimizer: ResetOptimizer = "moments",
        init: Init = "auto",
        seed: int = 0,
        layers: Sequence[HiddenLayer | Group] | None = None,
        example: Example | None = None,
        strict: bool = False,
    ) -> None:
        self.threshold = check_number("threshold", threshold, 0)
        self.period = check_whole("period", period, least=1)
        super().__init__(model, optimizer, reset_optimizer, init, seed, layers, example, strict)

    def _track(self, hidden: Group, fresh_bounds: list[float], seed: int) -> TrackedLayer:
        return TrackedLayer(hidden, fresh_bounds, seed)

    def _judge(self, layer: TrackedLayer, received: list[Tensor]) -> Tensor:
        layer.advance()
        magnitude = None if layer.clock % self.period else self._magnitude(layer, received)
        # Gradients or activations that overflowed, as at times under a gradient scaler, say nothing.
        if magnitude is None or not magnitude.isfinite().all():
            return layer.nothing
        layer.utility.copy_(magnitude / magnitude.mean().clamp_min(torch.finfo(magnitude.dtype).tiny))
        return (layer.utility <= self.threshold).nonzero().flatten()

    def _magnitude(self, layer: TrackedLayer, received: list[Tensor]) -> Tensor | None:  # noqa: ARG002
        """What is compared with the layer's mean, ``(units,)``; None where there is nothing to judge by."""
        return self._replicas.mean(torch.stack([utilities.activity(h.flatten(0, -2)) for h in received]).sum(dim=0))
