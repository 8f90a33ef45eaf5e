"""What is known of each tensor of a pass, by where it lies in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from cbp.discovery.labels import CONSTANT, DATA, compress, has_units, uniform
from cbp.discovery.uniting import Units
from cbp.groups import NON_NEGATIVE

UNCHANGED = "unchanged"  # an activation that is that of the input
_NOT_WRITTEN = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Path:
    """What units have gone through since they were born.

    Attributes:
        activation: The last one's name.
        norms: The modules of norms.
        passes: Whether they are not zero where their weights are, as sigmoids and ``1 + h``: what they scale passes then.
    """

    activation: str | None = None
    norms: frozenset[str] = frozenset()
    passes: bool = False


@dataclass
class Value:
    """What is known of a tensor.

    Attributes:
        labels: See :mod:`cbp.discovery.labels`.
        paths: The producers whose units have come here in any way, with what they went through.
        identity: Equal for tensors that hold the same elements in another arrangement.
        order: Equal for those of them in which the elements of each unit follow each other in the same order.
        computed: The parameters that it is computed from, where it is computed from nothing else.
        mask: Whether it is made of random numbers, as dropout's.
    """

    labels: Tensor
    paths: dict[int, Path] = field(default_factory=dict)
    identity: int = 0
    computed: frozenset[str] = frozenset()
    mask: bool = False
    order: int = 0


def merged(values: Sequence[Value], activation: str | None = UNCHANGED) -> dict[int, Path]:
    """The producers whose units are in any of the values, with a new activation if one is given."""
    paths: dict[int, Path] = {}
    for value in values:
        for number, path in value.paths.items():
            known = paths.get(number, path)
            same = known.activation == path.activation
            activation_of_all = path.activation if same else None
            paths[number] = Path(activation_of_all, known.norms | path.norms, known.passes or path.passes)
    if activation != UNCHANGED:
        paths = {number: replace(path, activation=activation) for number, path in paths.items()}
    return paths


def signed(paths: dict[int, Path]) -> dict[int, Path]:
    """The paths of units beside numbers that may be below zero: no activation says any more that none is."""
    return {
        number: replace(path, activation=None) if path.activation in NON_NEGATIVE else path for number, path in paths.items()
    }


def is_nowhere_negative(tensor: Tensor) -> bool:
    """Whether a tensor has numbers, and none below zero."""
    return not (tensor.is_meta or tensor.is_complex() or bool((tensor < 0).any()))


def _has_constants_below_zero(labels: Tensor, tensor: Tensor) -> bool:
    """Whether constants below zero stand beside units, as padding does, or what a tensor held before units were written."""
    others = labels != CONSTANT
    if not bool((labels > 0).any()) or bool(others.all()):
        return False
    return not is_nowhere_negative(tensor.masked_fill(others.to(tensor.device), 0))


class Memory:
    """The tensors of a pass.

    Args:
        units: The units that they hold.
    """

    def __init__(self, units: Units) -> None:
        self._units = units
        self._identity = 0  # the last that was given
        self._values: dict[int, dict[_View, Value]] = {}
        self._kept: list[Tensor] = []  # so that no memory is used twice

    def clear(self) -> None:
        """Nothing is known of any tensor."""
        self._values.clear()
        self._kept.clear()

    def put(self, tensor: Tensor, value: Value) -> None:
        """Says what a tensor is."""
        if value.identity == 0:
            value.identity = self.new_identity()
        if value.order == 0:
            value.order = self.new_identity()
        if _has_constants_below_zero(value.labels, tensor):
            value.paths = signed(value.paths)
        self._kept.append(tensor)
        self._values.setdefault(tensor.untyped_storage()._cdata, {})[_key(tensor)] = value

    def value(self, tensor: Tensor) -> Value:
        """What a tensor is; one that the pass did not make counts as data."""
        known = self._values.get(tensor.untyped_storage()._cdata, {}).get(_key(tensor))
        if known is None:
            known = Value(uniform(DATA, tensor.ndim))
            self.put(tensor, known)
        known.labels = self._units.roots(known.labels)
        return known

    def holds_units(self, tensor: Tensor) -> bool:
        """Whether a tensor of the pass has units that are not left out."""
        known = self._values.get(tensor.untyped_storage()._cdata, {}).get(_key(tensor))
        return known is not None and has_units(self._units.roots(known.labels))

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
                self._units.leave_out(old.labels, "lie in memory that is written as another type")
            elif key != own:
                now = written.as_strided(key.shape, key.stride, key.offset)
                kept = now == _NOT_WRITTEN
                if not bool(kept.any()):
                    views[key] = Value(compress(now), dict(value.paths), value.identity if now.numel() == tensor.numel() else 0)
                elif not bool(kept.all()):
                    labels, paths = torch.where(kept, self._units.roots(old.labels), now), merged([old, value])
                    if _has_constants_below_zero(labels, tensor.as_strided(key.shape, key.stride, key.offset)):
                        paths = signed(paths)
                    views[key] = Value(compress(labels), paths)
                views[key].identity = views[key].identity or self.new_identity()
                views[key].order = views[key].order or self.new_identity()

    def new_identity(self) -> int:
        """A number for a tensor of new elements."""
        self._identity += 1
        return self._identity


class _View(NamedTuple):
    """Where in its memory a tensor lies."""

    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    element_size: int


def _key(tensor: Tensor) -> _View:
    return _View(int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.element_size())
