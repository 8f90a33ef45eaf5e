"""What a method keeps of the units of one hidden layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cbp.layers import HiddenLayer, Tap


class TrackedLayer:
    """What a method keeps of the units of one hidden layer.

    Attributes:
        hidden: The modules around the units.
        utility: ``(units,)``, what the method judges its units by; 0 at replacement.
        clock: Updates so far.
        replaced: Number of units replaced so far.
        fresh_bound: Fresh incoming weights are uniform on ±this.
        generator: Random numbers of this layer.
        nothing: No units: int64, of shape ``(0,)``.
    """

    _per_unit: tuple[str, ...] = ("utility",)  # tensors that are 0 at replacement, units in the last dimension

    def __init__(self, hidden: HiddenLayer, fresh_bound: float, seed: int) -> None:
        weight = hidden.incoming.weight
        self.hidden = hidden
        self.fresh_bound = fresh_bound
        self.generator = torch.Generator().manual_seed(seed)
        self.utility = torch.zeros(hidden.units, dtype=weight.dtype, device=weight.device)
        self.nothing = torch.empty(0, dtype=torch.int64, device=weight.device)
        self.replaced = 0
        self._taps = [Tap.on(linear) for linear in hidden.outgoing]
        # Ages follow from a clock and the times of birth, so that an update without replacement touches neither.
        self.clock = 0
        self._born = torch.zeros(hidden.units, dtype=torch.int64, device=weight.device)

    @property
    def name(self) -> str:
        """The layer's path in the model, or the name it was given."""
        return self.hidden.name

    @property
    def age(self) -> Tensor:
        """``(units,)`` int64, updates since each unit was made."""
        return self.clock - self._born

    @property
    def corrected_utility(self) -> Tensor:
        """``(units,)``, what units are ranked by."""
        return self.utility

    def receive(self, h: Tensor) -> None:
        """Says what the outgoing layers received, ``(batch, units)``, where no forward pass of theirs did."""
        for tap in self._taps:
            tap.received = h

    def take_received(self) -> list[Tensor] | None:
        """What each outgoing layer received in the last forward pass, and forgets it.

        Each ``(batch, units)``, or ``(batch, positions, units)`` behind a convolution. An outgoing layer that was not called
        counts as if it had received what the first called one did; None if none was, or if the batch was empty.
        """
        received, known = [], None
        for k, tap in enumerate(self._taps):
            h, tap.received = tap.received, None
            received.append(None if h is None else self._as_batch(h, k))
            if known is None and h is not None and h.numel():
                known = received[-1]
        if known is None:
            return None
        if known.device != self.utility.device:
            self._move_to(known.device)
        return [known if h is None else h for h in received]

    def _as_batch(self, h: Tensor, k: int) -> Tensor:
        units, columns = self.hidden.units, self.hidden.columns(k)
        if self.hidden.outgoing[k].weight.ndim > 2:  # (batch, units, height, width)
            h = h.reshape(-1, units, h.shape[-2] * h.shape[-1]).transpose(1, 2)
        elif columns > 1:
            h = h.reshape(-1, units, columns).transpose(1, 2)
        elif h.ndim != 2:
            h = h.reshape(-1, units)
        # Under automatic mixed precision layers receive half precision.
        return h if h.dtype == self.utility.dtype else h.to(self.utility.dtype)

    def advance(self) -> None:
        """One update passes: a ← a + 1."""
        self.clock += 1

    def forget(self, units: Tensor) -> None:
        """The units are new."""
        for name in self._per_unit:
            value: Tensor = getattr(self, name)
            value.index_fill_(-1, units, 0)
        self._born.index_fill_(0, units, self.clock)
        self.replaced += len(units)

    def _move_to(self, device: torch.device) -> None:
        for name in (*self._per_unit, "nothing", "_born"):
            setattr(self, name, getattr(self, name).to(device))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers that change with time."""
        return {
            **{name: getattr(self, name).clone() for name in self._per_unit},
            "age": self.age,
            "clock": self.clock,
            "replaced": self.replaced,
            "fresh_bound": self.fresh_bound,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`."""
        for name in self._per_unit:
            getattr(self, name).copy_(state[name])
        self.clock = int(state["clock"])
        self._born.copy_(self.clock - state["age"])
        self.replaced = int(state["replaced"])
        self.fresh_bound = float(state["fresh_bound"])
        self.generator.set_state(state["generator"].cpu())
