"""Follows units through a recorded forward pass: which element of which tensor belongs to which unit.

A unit is born where a tensor is multiplied with a weight: each row of the weight is one. It is carried along by what acts on
each unit by itself, it becomes one with another where the two are multiplied with each other or added before either is used,
and it has an effect where it meets the columns of a weight. Whatever else it reaches leaves it out, with the reason. How each
operation carries units is in :mod:`cbp.discovery.operations`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cbp.discovery.labels import CONSTANT, DATA, FIRST_STATISTIC, uniform
from cbp.discovery.memory import Memory, Path, Value
from cbp.discovery.uniting import Units
from cbp.discovery.weights import Geometry, Storages, Weights

MIXED = "reach units of others through a sum or mean over units"
CARRYING = "scale inputs or a residual stream, which their columns carry too"
SPREAD = "scale several numbers that are not theirs"
OUTPUT = "reach the model's output besides the layers behind them"


class Key(NamedTuple):
    """Where slices are: a parameter's name, a dimension, the restriction of the others, and the groups of a convolution."""

    name: str
    dim: int
    within: tuple[tuple[int, int, int], ...]
    blocks: int = 1


@dataclass
class Producer:
    """Rows of a weight that make units: ``rows[i]`` is the number of the unit of index i along the dimension, or 0."""

    key: Key
    rows: Tensor
    module: str
    reason: str | None = None  # why its units are left out from the beginning
    consumed: bool = False  # whether anything that came from it has met another weight


@dataclass
class Use:
    """Columns of a weight: which unit each index along the dimension receives, and where that was seen.

    ``seen`` has ``(module, identity and order, activation and norms)`` of the last time for each producer.
    """

    key: Key
    columns: Tensor
    seen: dict[int, tuple[str, tuple[int, int], Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A tensor at the border of a module, and how many tensors with the same units passed there without others between."""

    module: str
    returned: bool
    key: Any
    labels: Tensor
    order: int = 0
    calls: int = 1


class Follower:
    """What is known of all tensors of one or several forward passes of a model.

    Attributes:
        units: The units.
        memory: The tensors of the pass.
        storages: Where the parameters lie in memory.
        buffers: Where the buffers do.
        producers: In the order of the forward pass.
        uses: Of each weight's columns.
        own: Elements of parameters and buffers that belong to units: ``(unit numbers, value at replacement)`` by key.
        otherwise: Parameters that are used in another way, with the operation's name.
        shared: Parameters and buffers that share memory, each with the other.
        normed: For each statistic that has met units which it is of, these.
        met_zeros: Of each weight's columns those that have received zeros that do not depend on the input, 1, and those that
            have received other constants, -1.
        spread: Units of which one number has met many of the data.
        called: The modules that were called.
        seen_at: The borders that each identity has passed.
        last_at: For each pass what was the last at each border, ``(module, returned, key)``.
        module: The module at work.
        norms: The modules that couple units.
        recurrent: Whether that is a recurrent one of torch, whose state is its own, and at its own work.
        overridden: Whether it is one whose forward is a subclass's.
    """

    def __init__(self) -> None:
        self.units = Units()
        self.memory = Memory(self.units)
        self.producers: list[Producer] = []
        self.uses: dict[Key, Use] = {}
        self.own: dict[Key, tuple[Tensor, float | None]] = {}
        self.otherwise: dict[str, str] = {}
        self.shared: dict[str, str] = {}
        self.met_zeros: dict[Key, Tensor] = {}
        self.spread: list[Tensor] = []
        self.normed: dict[int, list[Tensor]] = {}
        self.called: set[str] = set()
        self.seen_at: dict[int, list[Seen]] = {}
        self.last_at: list[dict[tuple[object, ...], Seen]] = []
        self.coupled: set[int] = set()
        self.norms: set[str] = set()
        self.begin()
        self._numbers: dict[Key, int] = {}

    def begin(self) -> None:
        """A new forward pass: nothing is known of any tensor."""
        self.storages, self.buffers = Storages(), Storages()
        self.last_at.append({})
        self.begin_again()
        self._padded: dict[str, tuple[int, int]] = {}
        self.module = ""
        self.recurrent = self.overridden = False
        self.memory.clear()

    def begin_again(self) -> None:
        """The model is called from the beginning; what is known of tensors holds."""
        self._passing: dict[tuple[object, ...], Seen] = {}

    # Units

    def produce(
        self, weights: Weights | None, axis: int, computed: Iterable[str] = (), prefer: int = 0
    ) -> tuple[Tensor, dict[int, Path]]:
        """Units of the rows of a weight: their labels along its axis, and their producer.

        The same rows, when they are used again, are the same units. A weight that is computed from parameters has rows that
        cannot be drawn anew: its units are left out from the beginning.
        """
        geometry = weights.locate(axis, prefer) if weights else None
        if weights is None or geometry is None:
            names = sorted(computed) or [weights.name if weights else "?"]
            reason = f"have weights that are computed from '{', '.join(names)}' before they are used"
            return uniform(DATA, 1), self.produce_nothing(names[0], reason)
        key = Key(weights.name, geometry.dim, geometry.within)
        if key not in self._numbers:
            self._numbers[key] = len(self.producers)
            self.producers.append(Producer(key, torch.zeros(weights.shape[geometry.dim], dtype=torch.int64), self.module))
        number = self._numbers[key]
        rows = self.producers[number].rows
        fresh = torch.unique(geometry.indices[rows[geometry.indices] == 0])
        if len(fresh):
            rows[fresh] = self.units.new(len(fresh), number)
        return self.units.roots(rows[geometry.indices]), {number: Path()}

    def produce_nothing(self, name: str, reason: str) -> dict[int, Path]:
        """The producer of a weight whose units are left out for this reason from the beginning."""
        key = Key(name, -1, ())
        if key not in self._numbers:
            self._numbers[key] = len(self.producers)
            self.producers.append(Producer(key, torch.zeros(0, dtype=torch.int64), self.module, reason))
        return {self._numbers[key]: Path()}

    def meet_weight(self, *values: Value) -> None:
        """What the values are made of has met another weight, and so is of hidden layers."""
        for value in values:
            for number in value.paths:
                self.producers[number].consumed = True

    def consume(
        self, labels: Tensor, weights: Weights, axis: int, value: Value, zeros: Tensor, prefer: int = 1, blocks: int = 1
    ) -> None:
        """Units meet the columns of a weight along its axis. They are left out where these are no slices of one dimension.

        Args:
            labels: ``(columns,)``.
            weights: The weight.
            axis: The columns' axis.
            value: What holds the units.
            zeros: ``(columns,)``: where it is zero, throughout.
            prefer: As in :meth:`cbp.discovery.weights.Weights.locate`.
            blocks: Groups of a convolution, whose columns are counted through all of them.
        """
        self.meet_weight(value)
        geometry = weights.locate(axis, prefer) if blocks == 1 else Geometry(axis, torch.arange(len(labels)), (), blocks)
        if geometry is None:
            self.units.leave_out(labels, f"meet the weight '{weights.name}' in a way that no column of it is theirs")
            self.otherwise.setdefault(weights.name, "reshaping")
            return
        self._leave_out_spread(labels)
        self.units.consume(labels[labels > 0])
        key = self._claim(geometry, weights, labels, value)
        met = self.met_zeros.setdefault(key, torch.zeros_like(self.uses[key].columns))
        now = met[geometry.indices]
        now = torch.where((labels == CONSTANT) & zeros & (now == 0), 1, torch.where((labels == CONSTANT) & ~zeros, -1, now))
        met[geometry.indices] = now

    def _leave_out_spread(self, labels: Tensor) -> None:
        """Leaves out units that stand in several columns since one number of theirs has met many of the data."""
        if self.spread:
            units, columns = torch.unique(self.units.roots(labels), return_counts=True)
            several = units[(units > 0) & (columns > 1)]
            spread = self.units.roots(torch.cat(self.spread))
            self.units.leave_out(several[torch.isin(several, spread)], SPREAD)

    def _claim(self, geometry: Geometry, weights: Weights, labels: Tensor, value: Value) -> Key:
        key = Key(weights.name, geometry.dim, geometry.within, geometry.blocks)
        columns = weights.shape[geometry.dim] * geometry.blocks
        use = self.uses.setdefault(key, Use(key, torch.zeros(columns, dtype=torch.int64)))
        if self.recurrent and not value.paths:  # a state that is given is the same units' past
            labels = torch.where(labels == DATA, CONSTANT, labels)
        before = self.units.roots(use.columns[geometry.indices])
        clash = (before != CONSTANT) & (labels != CONSTANT) & (before != labels)
        if bool(clash.any()):
            reason = f"feed columns of '{weights.name}' that something else feeds too: it is used more than once"
            self.units.leave_out(torch.stack([before, labels])[:, clash], reason)
        use.columns[geometry.indices] = torch.where(labels != CONSTANT, labels, before)
        for number in self.units.producers_of(labels):
            arranged = self._padded.get(self.module, (value.identity, value.order))
            use.seen[number] = self.module, arranged, value.paths.get(number, Path())
        return key

    def own_slices(self, name: str, shape: Iterable[int], geometry: Geometry, labels: Tensor, value: float | None) -> None:
        """Slices of a parameter or buffer belong to units by themselves; ``value`` is what a new unit has there.

        None stands for the mean of all of them.
        """
        key = Key(name, geometry.dim, geometry.within)
        owners, _ = self.own.setdefault(key, (torch.zeros(tuple(shape)[geometry.dim], dtype=torch.int64), value))
        before = self.units.roots(owners[geometry.indices])
        clash = (before != CONSTANT) & (before != labels)
        if bool(clash.any()):
            self.units.leave_out(
                torch.stack([before, labels])[:, clash], f"share '{name}' with others: it is used more than once"
            )
        owners[geometry.indices] = labels

    def couple(self, units: Tensor, module: str) -> None:
        """A norm's statistics are over these units."""
        self.norms.add(module)
        self.coupled.update(torch.unique(units[units > 0]).tolist())

    # Modules

    def is_at_work(self, weights: Weights) -> bool:
        """Whether a parameter is that of the module at work."""
        return weights.name.rpartition(".")[0] == self.module

    def enter(self, module: nn.Module, name: str, given: dict[int | str, Tensor]) -> None:
        """A module is called with these tensors."""
        for key, tensor in given.items():
            self._pass_border(Seen(name, False, key, self.memory.value(tensor).labels), tensor)
            if isinstance(module, nn.modules.conv._ConvNd) and (module.padding_mode != "zeros" or module.padding == "same"):
                value = self.memory.value(tensor)
                self._padded[name] = value.identity, value.order  # it pads before it multiplies

    def leave(self, module: nn.Module, name: str, returned: dict[Any, Tensor], activation: str | None) -> None:
        """A module returns these tensors; ``activation`` is its name, if it is one."""
        for key, tensor in returned.items():
            value = self.memory.value(tensor)
            if activation is not None:
                value.paths = {number: replace(path, activation=activation) for number, path in value.paths.items()}
            self._pass_border(Seen(name, True, key, value.labels), tensor)
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                self._show_state(name, Seen(name, True, key, value.labels), value)
        if isinstance(module, nn.RNNBase):
            self._claim_states(module, returned)
        elif isinstance(module, nn.RNNCellBase):
            state = returned.get(0 if isinstance(module, nn.LSTMCell) and 0 in returned else None)
            if state is not None:  # a subclass may return otherwise
                value = self.memory.value(state)
                self._claim_state(module.weight_hh, value.labels, value, unless_taken=True)

    def _claim_states(self, module: nn.RNNBase, returned: dict[Any, Tensor]) -> None:
        """The next step of each layer receives its state, also where this pass has no next step."""
        last = returned.get((1, 0) if isinstance(module, nn.LSTM) else 1)
        if last is None:
            return
        states = self.memory.value(last)
        suffixes = ["", "_reverse"] if module.bidirectional else [""]
        for k, (layer, suffix) in enumerate(product(range(module.num_layers), suffixes)):
            labels = states.labels[k if states.labels.shape[0] > 1 else 0]
            is_last = layer == module.num_layers - 1 and 0 in returned
            self._claim_state(
                getattr(module, f"weight_hh_l{layer}{suffix}"), labels, self.memory.value(returned[0]) if is_last else states
            )

    def _claim_state(self, weight: Tensor, labels: Tensor, value: Value, *, unless_taken: bool = False) -> None:
        weights = self.storages.find(weight)
        geometry = weights.locate(1, 1) if weights else None
        if weights is None or geometry is None:
            self.units.leave_out(labels, "have a recurrent weight that is computed before it is used")
            return
        labels = labels.reshape(-1, labels.shape[-1])[0].clamp_min(CONSTANT).expand(len(geometry.indices))
        use = self.uses.get(Key(weights.name, geometry.dim, geometry.within))
        seen = dict(use.seen) if use else {}
        if use and unless_taken:
            labels = torch.where(use.columns[geometry.indices] == CONSTANT, labels, CONSTANT)
        self.units.consume(labels[labels > 0])
        self.uses[self._claim(geometry, weights, labels, value)].seen |= seen

    def _pass_border(self, seen: Seen, tensor: Tensor) -> None:
        where = seen.module, seen.returned, seen.key
        before = self._passing.get(where)
        if before is not None and torch.equal(self.units.roots(before.labels), self.units.roots(seen.labels)):
            seen = replace(seen, calls=before.calls + 1)
        value = self.memory.value(tensor)
        seen = replace(seen, order=value.order)
        self.seen_at.setdefault(value.identity, []).append(seen)
        self.last_at[-1][where] = self._passing[where] = seen

    def _show_state(self, name: str, seen: Seen, value: Value) -> None:
        """What a recurrent module returns is what its own weights received at its last steps; of lower layers their states."""
        for use in self.uses.values():
            for number, (module, (identity, order), _) in use.seen.items():
                if module == name and number in value.paths and identity not in self.seen_at:
                    self.seen_at[identity] = [replace(seen, order=order)]

    def finish(self, returned: Iterable[Tensor]) -> None:
        """The forward pass is over, and the model returns these tensors."""
        for tensor in returned:
            labels = self.memory.value(tensor).labels
            units = torch.unique(labels[labels > 0])
            self.units.leave_out(units, OUTPUT)
            self.units.leave_out(labels[labels <= FIRST_STATISTIC], OUTPUT)
        for number, met in self.normed.items():
            self.units.leave_out(self.units.not_among(number, torch.cat(met)), MIXED)
        self.normed.clear()
        self.storages, self.buffers = Storages(), Storages()
        self.memory.clear()
