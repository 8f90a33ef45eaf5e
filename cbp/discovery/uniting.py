"""The units that a pass has shown: which have become one, and which are left out, with the reason."""

from __future__ import annotations

import torch
from torch import Tensor

from cbp.discovery.labels import DATA, FIRST_STATISTIC

ADDED = "are added to those of others, so that no weight is theirs alone to begin anew"


class Units:
    """Sets of units, by the numbers in :mod:`cbp.discovery.labels`, from 1 on."""

    def __init__(self) -> None:
        self._table = torch.zeros(1, dtype=torch.int64)  # of each unit the lowest number among those it is one with
        self._producer_of = torch.zeros(1, dtype=torch.int64)
        self._consumed = torch.zeros(1, dtype=torch.bool)
        self._reason = torch.zeros(1, dtype=torch.int64)  # 0: none; index in _reasons
        self._reasons = [""]
        self._statistics: list[set[int]] = []

    def new(self, number: int, producer: int) -> Tensor:
        """The numbers of new units that a producer, by its number, has."""
        first = len(self._table)
        units = torch.arange(first, first + number)
        self._table = torch.cat([self._table, units])
        self._producer_of = torch.cat([self._producer_of, torch.full((number,), producer)])
        self._consumed = torch.cat([self._consumed, torch.zeros(number, dtype=torch.bool)])
        self._reason = torch.cat([self._reason, torch.zeros(number, dtype=torch.int64)])
        return units

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
        """The producers of units and of those that they are one with, by number."""
        numbers: list[int] = torch.unique(self._producer_of[self._members_of(units[units > 0])]).tolist()
        return numbers

    def members(self) -> tuple[Tensor, Tensor]:
        """For every unit from 1 on the number it is one with, and its producer."""
        return self._table[1:], self._producer_of[1:]

    def consume(self, units: Tensor) -> None:
        """Units have met the columns of a weight."""
        self._consumed[self._members_of(units)] = True

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

    def not_among(self, statistic: int, units: Tensor) -> Tensor:
        """The units that a statistic is of, but for these."""
        whole = torch.tensor(sorted(self._statistics[FIRST_STATISTIC - statistic]))
        return whole[~torch.isin(self._table[whole], self._table[units])]

    def is_of(self, statistic: int, units: Tensor) -> bool:
        """Whether a statistic is of all these units."""
        whole = torch.tensor(sorted(self._statistics[FIRST_STATISTIC - statistic]))
        return bool(torch.isin(self._table[units], self._table[whole]).all())
