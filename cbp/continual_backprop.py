"""Continual backpropagation: after each update, replace a few of the least useful units.

Source: Dohare et al., *Loss of plasticity in deep continual learning*, Nature 632 (2024), algorithm 1. Options beyond the
paper are those of the code published with it and of arXiv 2108.06325.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp import selection
from cbp import utility as utilities
from cbp.discovery.recording import Example
from cbp.fresh import Init
from cbp.groups import Group, HiddenLayer
from cbp.method import check_choice, check_number, check_whole
from cbp.optimizers import ResetOptimizer
from cbp.replacing import ReplacingMethod
from cbp.units import TrackedLayer

Utility = Literal[
    "contribution", "zero_contribution", "adaptable_contribution", "weight", "adaptation", "feature_by_input", "random"
]
Rounding = Literal["counter", "stochastic"]


class MaturingLayer(TrackedLayer):
    """A layer whose units are judged by running averages, once they are mature.

    Attributes:
        utility: ``(units,)``, running average of the units' utility; 0 at replacement.
        mean_activation: ``(edges, units)``, running mean of what each edge receives; 0 at replacement, and throughout where the
            utility does not use it.
        eligible: Number of units older than the maturity threshold.
        counter: Part of a unit still due (``rounding="counter"``).
        decay_rate: η of the running averages.
        maturity_threshold: m, the age in updates that mature units exceed.
    """

    _per_unit = ("utility", "mean_activation")

    def __init__(self, hidden: Group, fresh_bounds: list[float], seed: int, decay_rate: float, maturity_threshold: int) -> None:
        super().__init__(hidden, fresh_bounds, seed)
        self.mean_activation = self.utility.new_zeros(len(hidden.edges), hidden.units)
        self.counter = 0.0
        self.eligible = 0
        self.decay_rate = decay_rate
        self.maturity_threshold = maturity_threshold
        self._births = deque([(0, hidden.units)])  # (clock, number) of units that are not mature yet

    @property
    def non_negative(self) -> bool:
        """Whether what all edges receive is known to be never below zero."""
        return all(edge.non_negative for edge in self.hidden.edges)

    @property
    def corrected_utility(self) -> Tensor:
        """``(units,)``: u / (1 − η^age), what units are ranked by; 0 at age 0."""
        return self.bias_corrected(self.utility)

    def bias_corrected(self, average: Tensor) -> Tensor:
        """A running average that began at 0 with each unit, divided by 1 − η^age; 0 at age 0."""
        return selection.bias_corrected(average, self.age, self.decay_rate)

    def advance(self) -> None:
        """One update passes: a ← a + 1, and ``eligible`` counts who became mature."""
        super().advance()
        while self._births and self.clock - self._births[0][0] > self.maturity_threshold:
            self.eligible += self._births.popleft()[1]

    def forget(self, units: Tensor) -> None:
        """The units are new."""
        super().forget(units)
        self.eligible -= len(units)
        self._births.append((self.clock, len(units)))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers that change with time."""
        return {**super().state_dict(), "counter": self.counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`."""
        super().load_state_dict(state)
        self.counter = float(state["counter"])
        self._count_births()

    def take_over(self, other: TrackedLayer) -> None:
        """Goes on as another layer, of the same units with other outgoing weights."""
        super().take_over(other)
        assert isinstance(other, MaturingLayer)  # noqa: S101
        self.counter = other.counter
        self._count_births()

    def mature_after(self, maturity_threshold: int) -> None:
        """Sets the age that mature units exceed."""
        self.maturity_threshold = maturity_threshold
        self._count_births()

    def _count_births(self) -> None:
        ages = sorted(Counter(self.age.tolist()).items(), reverse=True)
        self.eligible = sum(number for age, number in ages if age > self.maturity_threshold)
        self._births = deque((self.clock - age, number) for age, number in ages if age <= self.maturity_threshold)


class ContinualBackprop(ReplacingMethod[MaturingLayer], name="cbp"):
    """Replaces a few of a network's least useful units after each optimizer step.

    A unit of least utility among those older than ``maturity_threshold`` updates gets fresh incoming weights, a zero bias and
    zero outgoing weights, so that what the network computes changes by exactly that unit's contribution.

    Call :meth:`step` after ``optimizer.step()``. The units' values are those of the last forward pass in training mode with
    gradients on; a layer that this pass did not reach is left as it is. A pass that gives a unit a NaN or an infinite value is
    an update in its age and leaves its averages as they were. Each layer has a random generator of its own, so that
    layers may be treated one after the other or side by side; nothing is drawn from the global ones.

    Args:
        model: Any module; its forward pass is not changed.
        optimizer: The optimizer of the model's weights, or a list of several.
        replacement_rate: ρ, the fraction of a layer's mature units replaced at each update, in [0, 1]. Default: the paper's
            value for reinforcement learning.
        maturity_threshold: m, the age in updates that a unit must exceed before it may be replaced. Default: as ρ.
        decay_rate: η, decay of the running averages, in [0, 1). Default: the paper's.
        utility: What is averaged for each unit; see :mod:`cbp.utility`. ``"random"`` ranks by fresh uniform numbers.
        rounding: How ρ·eligible, mostly below one, becomes whole units. ``"counter"`` adds it up (algorithm 1);
            ``"stochastic"`` replaces one unit with that probability (the published PPO runs).
        reset_optimizer: As for :class:`cbp.ReplacingMethod`.
        init: As there.
        seed: As there.
        layers: As there.
        example: As there.
        strict: As there.

    Attributes:
        layers: One :class:`MaturingLayer` per hidden layer, in forward order; empty until they are found.
        left_out: A line for each reason why units are left out.

    Raises:
        ValueError: An option out of its range or an unknown name.
        TypeError: As for :class:`cbp.ReplacingMethod`.
        LayerError: As there.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> method = ContinualBackprop(model, optimizer, replacement_rate=0.1, maturity_threshold=2)
        >>> for _ in range(5):
        ...     optimizer.zero_grad()
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     replaced = method.step()
        >>> [len(units) for units in replaced], method.layers[0].replaced
        ([1], 4)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        replacement_rate: float = 1e-4,
        maturity_threshold: int = 10_000,
        decay_rate: float = 0.99,
        utility: Utility = "contribution",
        rounding: Rounding = "counter",
        reset_optimizer: ResetOptimizer = "moments",
        init: Init = "auto",
        seed: int = 0,
        layers: Sequence[HiddenLayer | Group] | None = None,
        example: Example | None = None,
        strict: bool = False,
    ) -> None:
        check_choice("utility", utility, Utility)
        check_choice("rounding", rounding, Rounding)
        self.replacement_rate = check_number("replacement_rate", replacement_rate, 0, 1)
        self._maturity_threshold = check_whole("maturity_threshold", maturity_threshold, least=0)
        self._decay_rate = check_number("decay_rate", decay_rate, 0, below=1)
        self.utility = utility
        self.rounding = rounding
        super().__init__(model, optimizer, reset_optimizer, init, seed, layers, example, strict)

    @property
    def decay_rate(self) -> float:
        """Decay of the averages, η. It may be set while training goes on, as the next may."""
        return self._decay_rate

    @decay_rate.setter
    def decay_rate(self, value: float) -> None:
        self._decay_rate = check_number("decay_rate", value, 0, below=1)
        for layer in self.layers:
            layer.decay_rate = self._layers_decay_rate

    @property
    def _layers_decay_rate(self) -> float:
        return 0.0 if self.utility == "random" else self._decay_rate  # random numbers are ranked as they are

    @property
    def maturity_threshold(self) -> int:
        """The age in updates that units must exceed, m."""
        return self._maturity_threshold

    @maturity_threshold.setter
    def maturity_threshold(self, value: int) -> None:
        self._maturity_threshold = check_whole("maturity_threshold", value, least=0)
        for layer in self.layers:
            layer.mature_after(self._maturity_threshold)

    def _track(self, hidden: Group, fresh_bounds: list[float], seed: int) -> MaturingLayer:
        return MaturingLayer(hidden, fresh_bounds, seed, self._layers_decay_rate, self.maturity_threshold)

    def _judge(self, layer: MaturingLayer, received: list[Tensor]) -> Tensor:
        """Updates a layer's averages and ages; returns the units to replace, least useful first."""
        layer.advance()
        # u ← η·u + (1−η)·y
        now = self._replicas.mean(self._utility_now(layer, received))
        now = torch.where(now < math.inf, now, layer.utility)  # a NaN says nothing, as does what overflowed; none is below 0
        layer.utility.lerp_(now, 1 - layer.decay_rate)
        return self._least_useful(layer, self._due(layer))

    def pass_updates(self, layer: MaturingLayer, updates: int) -> tuple[int, int]:
        """Lets updates of one layer pass until units are due: for a training loop that averages the utilities itself.

        Together with :meth:`replace_least_useful` it does for a layer what :meth:`step` does, with the same random numbers.

        Args:
            layer: One of :attr:`layers`.
            updates: The most updates that may pass, at least 1.

        Returns:
            How many updates have passed, and how many units are to be replaced now.
        """
        for passed in range(1, updates + 1):
            layer.advance()
            if due := self._due(layer):
                return passed, due
        return updates, 0

    @torch.no_grad()
    def replace_least_useful(self, layer: MaturingLayer, count: int) -> Tensor:
        """Replaces the ``count`` least useful mature units of a layer and returns their indices, least useful first."""
        units = self._least_useful(layer, count)
        self._replace(layer, units)
        return units

    def _least_useful(self, layer: MaturingLayer, count: int) -> Tensor:
        if count == 0:
            return layer.nothing
        return selection.least_useful_first(layer.corrected_utility, layer.age, self.maturity_threshold)[:count]

    def _utility_now(self, layer: MaturingLayer, received: list[Tensor]) -> Tensor:
        """This batch's utility of each unit, over all outgoing layers together: ``(units,)``."""
        if self.utility == "random":
            return torch.rand(layer.hidden.units, generator=layer.generator).to(layer.utility)
        if self.utility == "adaptation":
            return utilities.adaptation(_incoming(layer))
        total = self._utility_towards(layer, 0, received[0])
        for k in range(1, len(received)):
            total = total + self._utility_towards(layer, k, received[k])
        return total / len(received) if self.utility == "feature_by_input" else total

    def _utility_towards(self, layer: MaturingLayer, k: int, h: Tensor) -> Tensor:
        """This batch's utility of each unit to the layer's ``k``-th outgoing layer, which received ``h``: ``(units,)``.

        Behind a convolution ``h`` is ``(batch, values, units)``. Another convolution uses every position with the same
        weights: the mean over positions counts. Where a unit has several columns, as of a Linear layer for its positions or of
        a convolution for its maps, their utilities add up.
        """
        w_out = layer.hidden.outgoing_weight(k)
        w_out = w_out.to(layer.utility)
        if w_out.ndim == 3 and self.utility != "feature_by_input":
            if layer.edges_seen[k]:
                by_column = _by_column(h, len(w_out), maps=layer.hidden.edges[k].weights.of_maps)
                return self._utility_of(layer, k, by_column, w_out).sum(dim=0)
            w_out = w_out.flatten(0, 1)  # every column counts as having received the mean of what another layer did
        utility = self._utility_of(layer, k, h, w_out)
        return utility if utility.ndim == 1 else utility.mean(dim=0)

    def _utility_of(self, layer: MaturingLayer, k: int, h: Tensor, w_out: Tensor) -> Tensor:
        """The utilities of :mod:`cbp.utility`, with positions or samples as leading dimension where there are positions."""
        if self.utility == "contribution":
            return utilities.contribution(h, w_out, non_negative=layer.hidden.edges[k].non_negative)
        if self.utility == "weight":
            return utilities.weight(w_out)
        # f ← η·f + (1−η)·mean h;  ĥ = f / (1 − η^a)
        mean = self._replicas.mean(h.mean(dim=tuple(range(h.ndim - 1))))
        mean = torch.where(mean.abs() < math.inf, mean, layer.mean_activation[k])
        layer.mean_activation[k].lerp_(mean, 1 - layer.decay_rate)
        h_mean = layer.bias_corrected(layer.mean_activation[k])
        if self.utility == "zero_contribution":
            return utilities.zero_contribution(h, h_mean, w_out)
        if self.utility == "adaptable_contribution":
            return utilities.adaptable_contribution(h, h_mean, _incoming(layer), w_out)
        return utilities.feature_by_input(h, h_mean, _incoming(layer))

    def _due(self, layer: MaturingLayer) -> int:
        """How many units to replace now. Known from past replacements: nothing is read back from the device."""
        expected = self.replacement_rate * layer.eligible
        if self.rounding == "counter":
            layer.counter += expected
            due = min(math.floor(layer.counter), layer.eligible)
            layer.counter -= due
            return due
        if 0 < expected < 1:
            return int(torch.rand((), generator=layer.generator).item() < expected)
        return math.floor(expected)


def _by_column(h: Tensor, columns: int, *, maps: bool) -> Tensor:
    """``(columns, samples, units)``: what is multiplied with each of a unit's columns: values in turn, or maps of them."""
    values = h.shape[1] if h.ndim == 3 else 1
    of_each = values // columns if maps and values % columns == 0 else 1
    return h.reshape(-1, columns, of_each, h.shape[-1]).movedim(1, 0).flatten(1, 2)


def _incoming(layer: MaturingLayer) -> Tensor:
    return layer.hidden.incoming_weight.to(layer.utility)
