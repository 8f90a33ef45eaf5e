"""What a method keeps of the units of one hidden layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cbp.groups import Edge, Group, Place, Slices
from cbp.replicas import check_whole_tensor
from cbp.taps import Tap


class TrackedLayer:
    """What a method keeps of the units of one hidden layer.

    Attributes:
        hidden: What belongs to the units.
        utility: ``(units,)``, what the method judges its units by; 0 at replacement. In float32 at least.
        clock: Updates so far.
        replaced: Number of units replaced so far.
        fresh_bounds: Fresh incoming weights are uniform on ± these, one for each of ``hidden.fresh``.
        fixed: What a new unit has where a weight is its own, such as a gain: one value for each of ``hidden.fixed``.
        generator: Random numbers of this layer.
        nothing: No units: int64, of shape ``(0,)``.
        edges_called: For each edge whether the last forward pass went over it.
        fits: Whether what passed the edges' places then was of the form that the units were found in.
        edges_seen: For each edge whether it received anything then, and not an empty batch.
    """

    _per_unit: tuple[str, ...] = ("utility",)  # tensors that are 0 at replacement, units in the last dimension
    _in_double: tuple[str, ...] = ()  # those among them that are float64 whatever the weights are

    def __init__(self, hidden: Group, fresh_bounds: list[float], seed: int) -> None:
        weight = hidden.fresh[0].tensor
        self.hidden = hidden
        self.fresh_bounds = fresh_bounds
        self.fixed = [value for _, value in hidden.fixed]
        self.generator = torch.Generator().manual_seed(seed)
        self.utility = torch.zeros(hidden.units, dtype=_at_least_single(weight), device=weight.device)
        self.nothing = torch.empty(0, dtype=torch.int64, device=weight.device)
        self.replaced = 0
        self.fits = True
        self.edges_called = self.edges_seen = [True] * len(hidden.edges)
        self._taps, self._handles = map(list, zip(*(Tap.on(edge.place) for edge in hidden.edges), strict=True))
        # Ages follow from a clock and the times of birth, so that an update without replacement touches neither.
        self.clock = 0
        self._born = torch.zeros(hidden.units, dtype=torch.int64, device=weight.device)

    @property
    def name(self) -> str:
        """The layer's path in the model, or the name it was given."""
        return self.hidden.name

    @property
    def fresh_bound(self) -> float:
        """The first of :attr:`fresh_bounds`; mostly the only one."""
        return self.fresh_bounds[0]

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

    @property
    def has_received(self) -> bool:
        """Whether something was received that was not taken yet."""
        return any(tap.received is not None for tap in self._taps)

    def take_received(self) -> list[Tensor] | None:
        """What each edge received in the last forward pass, and forgets it.

        Each ``(batch, units)``, or ``(batch, values, units)`` as :meth:`cbp.groups.Place.as_batch` has it, in the precision of
        the utility. An edge that received nothing, as an expert without samples, counts as if it had received what the first
        did that received anything; None if none did.

        Raises:
            LayerError: The weights of the units are sharded over processes, since they were found.
        """
        self.fits = all(slices.is_there for slices in self.hidden.written())
        if not self.fits:
            for tap in self._taps:
                tap.take()
            self.edges_called = self.edges_seen = [False] * len(self._taps)
            return None
        slices = self.hidden.fresh[0]
        if (weight := slices.module._parameters.get(slices.attribute)) is not None:  # others are not to be computed here
            check_whole_tensor(self.name, weight)
        received = [self._received_by(edge, tap) for edge, tap in zip(self.hidden.edges, self._taps, strict=True)]
        self.edges_called = [h is not None for h in received]
        self.edges_seen = [h is not None and h.numel() > 0 for h in received]
        seen = [h for h in received if h is not None and h.numel()]
        if not seen:
            return None
        like = self.utility
        if any(h.dtype != like.dtype or h.device != like.device for h in seen):
            self._suit(seen[0].device)
            seen = [h.to(self.utility) for h in seen]
        own = iter(seen)
        return [next(own) if is_seen else seen[0] for is_seen in self.edges_seen]

    def _received_by(self, edge: Edge, tap: Tap) -> Tensor | None:
        """What an edge received in all calls of its module: those on maps of the last one's size, side by side."""
        self.fits &= not tap.misfit
        parts: list[Tensor] = []
        for value in tap.take():
            h = edge.place.as_batch(value)
            if h is None:
                self.fits = False
            else:
                parts.append(h)
        if len(parts) < 2:
            return parts[0] if parts else None
        return torch.cat([part for part in parts if part.shape[1:] == parts[-1].shape[1:]])

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

    def remove(self) -> None:
        """Takes off what watches the modules."""
        for handle in self._handles:
            handle.remove()

    def _suit(self, device: torch.device) -> None:
        """Follows a model that was moved, or cast."""
        dtype = _at_least_single(self.hidden.fresh[0].tensor)
        for name in self._per_unit:
            setattr(self, name, getattr(self, name).to(device, None if name in self._in_double else dtype))
        self.nothing, self._born = self.nothing.to(device), self._born.to(device)

    def take_over(self, other: TrackedLayer) -> None:
        """Goes on as another layer, of the same units with other outgoing weights."""
        for name in self._per_unit:
            own, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs if theirs.shape == own.shape else theirs.mean(dim=0).expand(own.shape).clone())
        for name in ("generator", "clock", "replaced", "fresh_bounds", "_born"):
            setattr(self, name, getattr(other, name))
        of_own = {_part(slices): value for (slices, _), value in zip(other.hidden.fixed, other.fixed, strict=True)}
        self.fixed = [
            of_own.get(_part(slices), value) for (slices, _), value in zip(self.hidden.fixed, self.fixed, strict=True)
        ]
        before = {_where(edge.place): tap for edge, tap in zip(other.hidden.edges, other._taps, strict=True)}
        for edge, tap in zip(self.hidden.edges, self._taps, strict=True):
            if _where(edge.place) in before:
                tap.take_over(before[_where(edge.place)])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers that change with time, and the layer's name."""
        return {
            "name": self.name,
            **{name: getattr(self, name).clone() for name in self._per_unit},
            "age": self.age,
            "clock": self.clock,
            "replaced": self.replaced,
            "fresh_bounds": list(self.fresh_bounds),
            "fixed": list(self.fixed),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`; one of earlier releases may be without ``fixed``."""
        for name in self._per_unit:
            getattr(self, name).copy_(state[name])
        self.clock = int(state["clock"])
        self._born.copy_(self.clock - state["age"])
        self.replaced = int(state["replaced"])
        self.fresh_bounds = [float(bound) for bound in state["fresh_bounds"]]
        fixed = [float(value) for value in state.get("fixed", ())]
        self.fixed = fixed if len(fixed) == len(self.fixed) else self.fixed
        self.generator.set_state(state["generator"].cpu())


def _where(place: Place) -> tuple[object, ...]:
    return id(place.module), place.returned, place.key


def _part(slices: Slices) -> tuple[object, ...]:
    return id(slices.module), slices.attribute, slices.dim, slices.within


def _at_least_single(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
