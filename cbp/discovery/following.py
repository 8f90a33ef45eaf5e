"""Follows units through a recorded forward pass: which element of which tensor belongs to which unit.

A unit is born where a tensor is multiplied with a weight: each row of the weight is one. It is carried along by what acts on
each unit by itself, it becomes one with another where the two are multiplied with each other or added before either is used,
and it has an effect where it meets the columns of a weight. Whatever else it reaches leaves it out, with the reason. How each
operation carries units is in :mod:`cbp.discovery.operations`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cbp.discovery.labels import CONSTANT, DATA, FIRST_STATISTIC, compress, uniform
from cbp.discovery.weights import Geometry, Storages, Weights

UNCHANGED = "unchanged"  # an activation that is that of the input


class Key(NamedTuple):
    """Where slices are: a parameter's name, a dimension, the restriction of the others, and the groups of a convolution."""

    name: str
    dim: int
    within: tuple[tuple[int, int, int], ...]
    blocks: int = 1


@dataclass(frozen=True)
class Path:
    """What units have gone through since they were born.

    Attributes:
        activation: The last one's name.
        norms: The modules of norms.
    """

    activation: str | None = None
    norms: frozenset[str] = frozenset()


@dataclass
class Value:
    """What is known of a tensor.

    Attributes:
        labels: See :mod:`cbp.discovery.labels`.
        paths: The producers whose units have come here in any way, with what they went through.
        identity: Equal for tensors that hold the same elements in another arrangement.
        computed: The parameters that it is computed from, where it is computed from nothing else.
        mask: Whether it is made of random numbers, as dropout's.
    """

    labels: Tensor
    paths: dict[int, Path] = field(default_factory=dict)
    identity: int = 0
    computed: frozenset[str] = frozenset()
    mask: bool = False


def merged(values: Sequence[Value], activation: str | None = UNCHANGED) -> dict[int, Path]:
    """The producers whose units are in any of the values, with a new activation if one is given."""
    paths: dict[int, Path] = {}
    for value in values:
        for number, path in value.paths.items():
            known = paths.get(number, path)
            same = known.activation == path.activation
            paths[number] = Path(path.activation if same else None, known.norms | path.norms)
    if activation != UNCHANGED:
        paths = {number: replace(path, activation=activation) for number, path in paths.items()}
    return paths


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

    ``seen`` has ``(module, identity, activation and norms)`` of the last time for each producer.
    """

    key: Key
    columns: Tensor
    seen: dict[int, tuple[str, int, Path]] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A tensor at the border of a module."""

    module: str
    returned: bool
    key: Any
    labels: Tensor


class Follower:
    """What is known of all tensors of one or several forward passes of a model.

    Attributes:
        storages: Where the parameters lie in memory.
        buffers: Where the buffers do.
        producers: In the order of the forward pass.
        uses: Of each weight's columns.
        own: Elements of parameters and buffers that belong to units: ``(unit numbers, value at replacement)`` by key.
        otherwise: Parameters that are used in another way, with the operation's name.
        called: The modules that were called.
        seen_at: The borders that each identity has passed.
        last_at: For each pass what was the last at each border, ``(module, returned, key)``.
        module: The module at work.
        norms: The modules that couple units.
        recurrent: Whether that is a recurrent one, whose state is its own.
    """

    def __init__(self) -> None:
        self.producers: list[Producer] = []
        self.uses: dict[Key, Use] = {}
        self.own: dict[Key, tuple[Tensor, float | None]] = {}
        self.otherwise: dict[str, str] = {}
        self.called: set[str] = set()
        self.seen_at: dict[int, list[Seen]] = {}
        self.last_at: list[dict[tuple[object, ...], Seen]] = []
        self.coupled: set[int] = set()
        self.norms: set[str] = set()
        self.begin()
        self._numbers: dict[Key, int] = {}
        self._table = torch.zeros(1, dtype=torch.int64)  # of each unit the lowest number among those it is one with
        self._producer_of = torch.zeros(1, dtype=torch.int64)
        self._consumed = torch.zeros(1, dtype=torch.bool)
        self._reason = torch.zeros(1, dtype=torch.int64)  # 0: none; index in _reasons
        self._reasons = [""]
        self._statistics: list[set[int]] = []
        self._identities = count(1)

    # What is known of tensors

    def begin(self) -> None:
        """A new forward pass: nothing is known of any tensor."""
        self.storages, self.buffers = Storages(), Storages()
        self.last_at.append({})
        self._padded: dict[str, int] = {}
        self.module = ""
        self.recurrent = False
        self._values: dict[int, dict[_View, Value]] = {}
        self._kept: list[Tensor] = []  # so that no memory is used twice

    def put(self, tensor: Tensor, value: Value) -> None:
        """Says what a tensor is."""
        if value.identity == 0:
            value.identity = next(self._identities)
        self._kept.append(tensor)
        self._values.setdefault(tensor.untyped_storage()._cdata, {})[_key(tensor)] = value

    def value(self, tensor: Tensor) -> Value:
        """What a tensor is; one that the pass did not make counts as data."""
        known = self._values.get(tensor.untyped_storage()._cdata, {}).get(_key(tensor))
        if known is None:
            known = Value(uniform(DATA, tensor.ndim))
            self.put(tensor, known)
        known.labels = self.roots(known.labels)
        return known

    def overwritten(self, tensor: Tensor, value: Value) -> None:
        """A tensor was written in place, and with it what other views of its memory hold."""
        self.put(tensor, value)
        views = self._values[tensor.untyped_storage()._cdata]
        if len(views) == 1:
            return
        written = torch.full((tensor.untyped_storage().nbytes() // tensor.element_size(),), _NOT_WRITTEN)
        own = _key(tensor)
        written.as_strided(own.shape, own.stride, own.offset).copy_(value.labels.expand(own.shape))
        for key, old in list(views.items()):
            if key.element_size != own.element_size:
                self.leave_out(old.labels, "lie in memory that is written as another type")
            elif key != own:
                now = written.as_strided(key.shape, key.stride, key.offset)
                kept = now == _NOT_WRITTEN
                if not bool(kept.any()):
                    views[key] = Value(compress(now), dict(value.paths), value.identity if now.numel() == tensor.numel() else 0)
                elif not bool(kept.all()):
                    views[key] = Value(compress(torch.where(kept, self.roots(old.labels), now)), merged([old, value]))
                views[key].identity = views[key].identity or self.new_identity()

    def new_identity(self) -> int:
        """A number for a tensor of new elements."""
        return next(self._identities)

    # Units

    def roots(self, labels: Tensor) -> Tensor:
        """The labels with one number for units that have become one, and data for those that are left out."""
        units = labels > 0
        if not bool(units.any()):
            return labels
        root = self._table[labels.clamp_min(0)]
        root = torch.where(self._reason[root] > 0, DATA, root)
        return torch.where(units, root, labels)

    def root_of(self, units: Tensor) -> Tensor:
        """The number that each unit is one with, left out or not."""
        return self._table[units]

    def reason(self, unit: int) -> str | None:
        """Why a unit is left out, or None."""
        return self._reasons[int(self._reason[self._table[unit]])] or None

    def producers_of(self, units: Tensor) -> list[int]:
        """The producers of units, by number."""
        numbers: list[int] = torch.unique(self._producer_of[units[units > 0]]).tolist()
        return numbers

    def members(self) -> tuple[Tensor, Tensor]:
        """For every unit from 1 on the number it is one with, and its producer."""
        return self._table[1:], self._producer_of[1:]

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
            number = self._computed_producer(names)
            return uniform(DATA, 1), {number: Path()}
        key = Key(weights.name, geometry.dim, geometry.within)
        if key not in self._numbers:
            self._numbers[key] = len(self.producers)
            self.producers.append(Producer(key, torch.zeros(weights.shape[geometry.dim], dtype=torch.int64), self.module))
        number = self._numbers[key]
        rows = self.producers[number].rows
        fresh = torch.unique(geometry.indices[rows[geometry.indices] == 0])
        if len(fresh):
            first = len(self._table)
            rows[fresh] = torch.arange(first, first + len(fresh))
            self._table = torch.cat([self._table, rows[fresh]])
            self._producer_of = torch.cat([self._producer_of, torch.full((len(fresh),), number)])
            self._consumed = torch.cat([self._consumed, torch.zeros(len(fresh), dtype=torch.bool)])
            self._reason = torch.cat([self._reason, torch.zeros(len(fresh), dtype=torch.int64)])
        return self.roots(rows[geometry.indices]), {number: Path()}

    def _computed_producer(self, names: list[str]) -> int:
        key = Key(names[0], -1, ())
        if key not in self._numbers:
            reason = f"have weights that are computed from '{', '.join(names)}' before they are used"
            self._numbers[key] = len(self.producers)
            self.producers.append(Producer(key, torch.zeros(0, dtype=torch.int64), self.module, reason))
        return self._numbers[key]

    def meet_weight(self, *values: Value) -> None:
        """What the values are made of has met another weight, and so is of hidden layers."""
        for value in values:
            for number in value.paths:
                self.producers[number].consumed = True

    def consume(self, labels: Tensor, weights: Weights, axis: int, value: Value, prefer: int = 1, blocks: int = 1) -> None:
        """Units meet the columns of a weight along its axis. They are left out where these are no slices of one dimension.

        Args:
            labels: ``(columns,)``.
            weights: The weight.
            axis: The columns' axis.
            value: What holds the units.
            prefer: As in :meth:`cbp.discovery.weights.Weights.locate`.
            blocks: Groups of a convolution, whose columns are counted through all of them.
        """
        self.meet_weight(value)
        geometry = weights.locate(axis, prefer) if blocks == 1 else Geometry(axis, torch.arange(len(labels)), (), blocks)
        if geometry is None:
            self.leave_out(labels, f"meet the weight '{weights.name}' in a way that no column of it is theirs")
            self.otherwise.setdefault(weights.name, "reshaping")
            return
        units = labels[labels > 0]
        self._consumed[self._members_of(units)] = True
        self._claim(geometry, weights, labels, value)

    def _claim(self, geometry: Geometry, weights: Weights, labels: Tensor, value: Value) -> None:
        key = Key(weights.name, geometry.dim, geometry.within, geometry.blocks)
        columns = weights.shape[geometry.dim] * geometry.blocks
        use = self.uses.setdefault(key, Use(key, torch.zeros(columns, dtype=torch.int64)))
        if self.recurrent:  # the state of the past is the same units'
            labels = torch.where(labels == DATA, CONSTANT, labels)
        before = self.roots(use.columns[geometry.indices])
        clash = (before != CONSTANT) & (labels != CONSTANT) & (before != labels)
        if bool(clash.any()):
            reason = f"feed columns of '{weights.name}' that something else feeds too: it is used more than once"
            self.leave_out(torch.stack([before, labels])[:, clash], reason)
        use.columns[geometry.indices] = torch.where(labels != CONSTANT, labels, before)
        for number in self.producers_of(labels):
            identity = self._padded.get(self.module, value.identity)
            use.seen[number] = self.module, identity, value.paths.get(number, Path())

    def own_slices(self, name: str, shape: Iterable[int], geometry: Geometry, labels: Tensor, value: float | None) -> None:
        """Slices of a parameter or buffer belong to units by themselves; ``value`` is what a new unit has there.

        None stands for the mean of all of them.
        """
        key = Key(name, geometry.dim, geometry.within)
        owners, _ = self.own.setdefault(key, (torch.zeros(tuple(shape)[geometry.dim], dtype=torch.int64), value))
        before = self.roots(owners[geometry.indices])
        clash = (before != CONSTANT) & (before != labels)
        if bool(clash.any()):
            self.leave_out(torch.stack([before, labels])[:, clash], f"share '{name}' with others: it is used more than once")
        owners[geometry.indices] = labels

    def unite(self, first: Tensor, second: Tensor, *, added: bool) -> None:
        """Units that stand in the same place become one: ``first[i]`` with ``second[i]``, all above 0.

        Added to each other they do so only before either has an effect of its own; else no weight is theirs alone.
        """
        if added:
            used = self._is_consumed(first) | self._is_consumed(second)
            self.leave_out(torch.stack([first, second])[:, used], ADDED)
            first, second = first[~used], second[~used]
        while True:
            a, b = self._table[first], self._table[second]
            if torch.equal(a, b):
                return
            low, high = torch.minimum(a, b), torch.maximum(a, b)
            lowest = torch.arange(len(self._table)).scatter_reduce(0, high, low, "amin")
            self._table = lowest[self._table]

    def _members_of(self, units: Tensor) -> Tensor:
        return torch.isin(self._table, self._table[units])

    def _is_consumed(self, units: Tensor) -> Tensor:
        consumed = torch.unique(self._table[self._consumed])
        return torch.isin(self._table[units], consumed)

    def leave_out(self, labels: Tensor, reason: str) -> None:
        """Leaves out the units among labels, and those of which a statistic is among them."""
        for number in torch.unique(labels[labels <= FIRST_STATISTIC]).tolist():
            self.leave_out(torch.tensor(sorted(self._statistics[FIRST_STATISTIC - number])), reason)
        units = torch.unique(self.roots(labels[labels > 0]))
        units = units[units > 0]
        if len(units):
            self._reasons.append(reason)
            members = self._members_of(units)
            self._reason[members] = len(self._reasons) - 1

    # Statistics of units, such as a norm's

    def statistic(self, labels: Tensor) -> int:
        """The label of a statistic of the units among labels, and of those whose statistics are among them."""
        units = set(torch.unique(labels[labels > 0]).tolist())
        for number in torch.unique(labels[labels <= FIRST_STATISTIC]).tolist():
            units |= self._statistics[FIRST_STATISTIC - number]
        self._statistics.append(units)
        return FIRST_STATISTIC - (len(self._statistics) - 1)

    def is_of(self, statistic: int, units: Tensor) -> bool:
        """Whether a statistic is of all these units."""
        whole = torch.tensor(sorted(self._statistics[FIRST_STATISTIC - statistic]))
        return bool(torch.isin(self._table[units], self._table[whole]).all())

    def couple(self, units: Tensor, module: str) -> None:
        """A norm's statistics are over these units."""
        self.norms.add(module)
        self.coupled.update(torch.unique(units[units > 0]).tolist())

    # Modules

    def enter(self, module: nn.Module, name: str, given: dict[int | str, Tensor]) -> None:
        """A module is called with these tensors."""
        for key, tensor in given.items():
            self._pass_border(Seen(name, False, key, self.value(tensor).labels), tensor)
            if isinstance(module, nn.modules.conv._ConvNd) and module.padding_mode != "zeros":
                self._padded[name] = self.value(tensor).identity  # it pads before it multiplies

    def leave(self, module: nn.Module, name: str, returned: dict[Any, Tensor], activation: str | None) -> None:
        """A module returns these tensors; ``activation`` is its name, if it is one."""
        for key, tensor in returned.items():
            value = self.value(tensor)
            if activation is not None:
                value.paths = {number: replace(path, activation=activation) for number, path in value.paths.items()}
            self._pass_border(Seen(name, True, key, value.labels), tensor)
            if isinstance(module, nn.RNNBase | nn.RNNCellBase):
                self._show_state(name, Seen(name, True, key, value.labels), value)

    def _pass_border(self, seen: Seen, tensor: Tensor) -> None:
        self.seen_at.setdefault(self.value(tensor).identity, []).append(seen)
        self.last_at[-1][seen.module, seen.returned, seen.key] = seen

    def _show_state(self, name: str, seen: Seen, value: Value) -> None:
        """What a recurrent module returns is what its own weights received at its last steps; of lower layers their states."""
        for use in self.uses.values():
            for number, (module, identity, _) in use.seen.items():
                if module == name and number in value.paths and identity not in self.seen_at:
                    self.seen_at[identity] = [seen]

    def finish(self, returned: Iterable[Tensor]) -> None:
        """The forward pass is over, and the model returns these tensors."""
        for tensor in returned:
            labels = self.value(tensor).labels
            units = torch.unique(labels[labels > 0])
            self.leave_out(units, OUTPUT)
            self.leave_out(labels[labels <= FIRST_STATISTIC], OUTPUT)
        self._values.clear()
        self._kept.clear()


ADDED = "are added to those of others, so that no weight is theirs alone to begin anew"
OUTPUT = "reach the model's output besides the layers behind them"
_NOT_WRITTEN = torch.iinfo(torch.int64).min


class _View(NamedTuple):
    """Where in its memory a tensor lies."""

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    element_size: int


def _key(tensor: Tensor) -> _View:
    return _View(int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.element_size())
