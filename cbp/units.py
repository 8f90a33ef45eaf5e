"""What is known about the units of one hidden layer: utilities, ages, how many are mature."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import torch
from torch import Tensor

from cbp.layers import HiddenLayer, Tap


class TrackedLayer:
    """What is known about the units of one hidden layer.

    Attributes:
        hidden: The modules around the units.
        utility: ``(units,)``, running average of the units' utility; 0 at replacement.
        mean_activation: ``(outgoing layers, units)``, running mean of what each outgoing layer receives; 0 at replacement, and
            throughout where the utility does not use it.
        eligible: Number of units older than the maturity threshold.
        replaced: Number of units replaced so far.
        counter: Part of a unit still due (``rounding="counter"``).
        decay_rate: η of the running averages.
        fresh_bound: Fresh incoming weights are uniform on ±this.
        generator: Random numbers of this layer.
        non_negative: Whether what the outgoing layers receive is known to be never below zero.
    """

    def __init__(self, hidden: HiddenLayer, decay_rate: float, fresh_bound: float, seed: int) -> None:
        weight = hidden.incoming.weight
        self.hidden = hidden
        self.fresh_bound = fresh_bound
        self.generator = torch.Generator().manual_seed(seed)
        self.utility = torch.zeros(hidden.units, dtype=weight.dtype, device=weight.device)
        self.mean_activation = torch.zeros(len(hidden.outgoing), hidden.units, dtype=weight.dtype, device=weight.device)
        self.nothing = torch.empty(0, dtype=torch.int64, device=weight.device)
        self.counter = 0.0
        self.replaced = 0
        self.eligible = 0
        self.decay_rate = decay_rate
        self.non_negative = hidden.non_negative
        self._taps = [Tap.on(linear) for linear in hidden.outgoing]
        # Ages follow from a clock and the times of birth, so that an update without replacement touches neither.
        self._clock = 0
        self._born = torch.zeros(hidden.units, dtype=torch.int64, device=weight.device)
        self._births = deque([(0, hidden.units)])  # (clock, number) of units that are not mature yet

    @property
    def name(self) -> str:
        """The layer's path in the model, or the name it was given."""
        return self.hidden.name

    @property
    def age(self) -> Tensor:
        """``(units,)`` int64, updates since each unit was made."""
        return self._clock - self._born

    @property
    def corrected_utility(self) -> Tensor:
        """``(units,)``: u / (1 − η^age), what units are ranked by; 0 at age 0."""
        return self.bias_corrected(self.utility)

    def bias_corrected(self, average: Tensor) -> Tensor:
        """A running average that began at 0 with each unit, divided by 1 − η^age; 0 at age 0."""
        age = self.age
        correction = 1 - self.decay_rate ** age.double()
        return torch.where(age > 0, average / correction, 0).to(average.dtype)

    def receive(self, h: Tensor) -> None:
        """Says what the outgoing layers received, ``(batch, units)``, where no forward pass of theirs did."""
        for tap in self._taps:
            tap.received = h

    def take_received(self) -> list[Tensor] | None:
        """What each outgoing layer received in the last forward pass, each ``(batch, units)``, and forgets it.

        An outgoing layer that was not called counts as if it had received what the first called one did; None if none was, or
        if the batch was empty.
        """
        received, known = [], None
        for tap in self._taps:
            h, tap.received = tap.received, None
            received.append(h)
            if known is None and h is not None and h.numel():
                known = h
        if known is None:
            return None
        if known.device != self.utility.device:
            self._move_to(known.device)
        return [self._as_batch(known if h is None else h) for h in received]

    def _as_batch(self, h: Tensor) -> Tensor:
        if h.ndim != 2:
            h = h.reshape(-1, self.hidden.units)
        # Under automatic mixed precision layers receive half precision.
        return h if h.dtype == self.utility.dtype else h.to(self.utility.dtype)

    def advance(self, maturity_threshold: int) -> None:
        """One update passes: a ← a + 1, and ``eligible`` counts who became mature."""
        self._clock += 1
        while self._births and self._clock - self._births[0][0] > maturity_threshold:
            self.eligible += self._births.popleft()[1]

    def forget(self, units: Tensor) -> None:
        """The units are new."""
        self.utility.index_fill_(0, units, 0)
        self._born.index_fill_(0, units, self._clock)
        self.mean_activation.index_fill_(1, units, 0)
        self.eligible -= len(units)
        self.replaced += len(units)
        self._births.append((self._clock, len(units)))

    def _move_to(self, device: torch.device) -> None:
        for name in ("utility", "mean_activation", "nothing", "_born"):
            setattr(self, name, getattr(self, name).to(device))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers that change with time."""
        return {
            "utility": self.utility.clone(),
            "age": self.age,
            "mean_activation": self.mean_activation.clone(),
            "counter": self.counter,
            "replaced": self.replaced,
            "fresh_bound": self.fresh_bound,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], maturity_threshold: int) -> None:
        """Goes on from a state made by :meth:`state_dict`."""
        self.utility.copy_(state["utility"])
        self._clock = 0
        self._born.copy_(-state["age"])
        self.mean_activation.copy_(state["mean_activation"])
        self.counter = float(state["counter"])
        self.replaced = int(state["replaced"])
        self.fresh_bound = float(state["fresh_bound"])
        self.generator.set_state(state["generator"].cpu())
        ages = sorted(Counter(self.age.tolist()).items(), reverse=True)
        self.eligible = sum(number for age, number in ages if age > maturity_threshold)
        self._births = deque((-age, number) for age, number in ages if age <= maturity_threshold)
