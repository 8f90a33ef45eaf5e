"""Self-normalised resets: replace a unit when it has been silent for longer than its own past makes likely.

Source: Farias and Jozefiak, *Self-normalized resets for plasticity in continual learning*, ICLR 2025 (arXiv 2410.20098),
algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.discovery.recording import Example
from cbp.fresh import Init
from cbp.groups import Group, HiddenLayer
from cbp.method import check_number, check_whole
from cbp.optimizers import ResetOptimizer
from cbp.replacing import ReplacingMethod
from cbp.units import TrackedLayer


class FiringLayer(TrackedLayer):
    """A layer whose units fire or are silent, sample by sample.

    Attributes:
        utility: ``(units,)``, how likely a silence as long as the present one is; 1 for a unit that fired in the last update.
        silence: ``(units,)`` float64, samples since the unit fired, counted in whole minibatches.
        fired: ``(units,)`` float64, samples on which it fired.
        seen: ``(units,)`` float64, samples up to the last minibatch in which it fired.
    """

    _per_unit = ("utility", "silence", "fired", "seen")
    _in_double = ("silence", "fired", "seen")

    def __init__(self, hidden: Group, fresh_bounds: list[float], seed: int) -> None:
        super().__init__(hidden, fresh_bounds, seed)
        self.silence, self.fired, self.seen = torch.zeros(3, hidden.units, dtype=torch.float64, device=self.utility.device)


class SelfNormalizedResets(ReplacingMethod[FiringLayer], name="snr"):
    """Replaces a unit once its silence rejects, at the level η, that it still fires as it did.

    A unit fires on a sample where its value is above zero. With A_i the time between two firings of unit i, and a_i the
    samples since it last fired, the unit is replaced when (algorithm 1)

        P(A_i ≥ a_i) ≤ η

    The distribution of A_i is taken as geometric with the unit's own rate p_i = fired_i / seen_i since it was made, so that
    P(A_i > a) = (1 − p_i)^a. Minibatches are sets, so a silence is counted in whole minibatches without a firing. A value that
    is NaN is no firing, one that is infinite is.

    Args:
        model: As for :class:`cbp.ReplacingMethod`.
        optimizer: As there.
        rejection: η, in (0, 1]. Default: the authors' code's.
        max_silence: Samples of silence after which a unit is replaced in any case, at least 1; what a unit that never fired is
            given. Default: ours.
        min_silence: Samples of silence before which the test rejects nothing, for a rate is known from few samples at first.
            Default: the authors' code's.
        reset_optimizer: As there. Default: the authors' code's.
        init: As there.
        seed: As there.
        layers: As there.
        example: As there.
        strict: As there.

    Attributes:
        layers: One :class:`FiringLayer` per hidden layer.

    Raises:
        ValueError: An option out of its range or an unknown name.
        TypeError: As for :class:`cbp.ReplacingMethod`.
        LayerError: As there. Layers with another activation than ReLU, which does not tell firing from silence, are left out.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> method = SelfNormalizedResets(model, torch.optim.SGD(model.parameters(), lr=0.1), max_silence=16)
        >>> _ = nn.init.constant_(model[0].bias[:3], -100.0)  # three units that never fire
        >>> for _ in range(2):
        ...     _ = model(torch.rand(8, 4))
        ...     replaced = method.step()
        >>> {0, 1, 2} <= set(replaced[0].tolist())
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        rejection: float = 0.01,
        max_silence: int = 20_000,
        min_silence: int = 100,
        reset_optimizer: ResetOptimizer = "moments",
        init: Init = "auto",
        seed: int = 0,
        layers: Sequence[HiddenLayer | Group] | None = None,
        example: Example | None = None,
        strict: bool = False,
    ) -> None:
        self.rejection = check_number("rejection", rejection, 0, 1, above=0)
        self.max_silence = check_whole("max_silence", max_silence, least=1)
        self.min_silence = check_whole("min_silence", min_silence, least=0)
        super().__init__(model, optimizer, reset_optimizer, init, seed, layers, example, strict)

    def _unfit(self, group: Group) -> str | None:
        if group.norms:
            return f"layer '{group.name}' has a norm, behind which firing cannot be told from silence: not supported yet"
        for activation in {edge.activation for edge in group.edges} - {"relu", "relu6"}:
            has = f"activation '{activation}'" if activation else "no activation that is known, or several"
            return f"layer '{group.name}' has {has}, which does not tell firing from silence: self-normalised resets need ReLU"
        return None

    def _track(self, hidden: Group, fresh_bounds: list[float], seed: int) -> FiringLayer:
        return FiringLayer(hidden, fresh_bounds, seed)

    def _judge_all(self, layers: list[FiringLayer], received: list[list[Tensor]]) -> list[Tensor]:
        rejected = [self._rejected(layer, h) for layer, h in zip(layers, received, strict=True)]
        # One look for all layers, at most, and at numbers that are there already when one of them is due.
        if not rejected or not torch.cat([of_layer.to(rejected[0].device) for of_layer in rejected]).any():
            return [layer.nothing for layer in layers]
        return [of_layer.nonzero().flatten() for of_layer in rejected]

    def _judge(self, layer: FiringLayer, received: list[Tensor]) -> Tensor:
        return self._rejected(layer, received).nonzero().flatten()

    def _rejected(self, layer: FiringLayer, received: list[Tensor]) -> Tensor:
        """Takes note of an update; ``(units,)``, whether a unit's silence is too long."""
        layer.advance()
        on_samples = [h > 0 if h.ndim == 2 else (h > 0).any(dim=1) for h in received]  # a map fires where any position does
        counts = torch.stack([fires.sum(dim=0) for fires in on_samples]).amax(dim=0)
        samples: Tensor | int = max(map(len, received))  # some receive a part of the batch
        if not self._replicas.alone:
            together = self._replicas.total(torch.cat([counts, counts.new_tensor([samples])]))
            counts, samples = together[:-1], together[-1]
        fires = counts > 0
        layer.seen += torch.where(fires, layer.silence + samples, 0)
        layer.fired += counts
        layer.silence = torch.where(fires, 0, layer.silence + samples)
        rate = layer.fired / layer.seen.clamp_min(1)
        layer.utility.copy_((1 - rate) ** layer.silence)
        long_enough = layer.silence >= float(self.min_silence)
        rejected: Tensor = (layer.utility <= self.rejection) & long_enough | (layer.silence >= float(self.max_silence))
        return rejected
