"""Which elements of a parameter the elements of a tensor are, through views, copies and casts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Geometry(NamedTuple):
    """Slices of a parameter: ``indices[i]`` along ``dim``, within ``(dimension, start, length)`` of other dimensions."""

    dim: int
    indices: Tensor
    within: tuple[tuple[int, int, int], ...]
    blocks: int = 1  # groups of a convolution, whose inputs are counted through


@dataclass(frozen=True)
class Weights:
    """A tensor made of a parameter's elements: element ``(i, j, …)`` is number ``base + steps[0][i] + steps[1][j] + …``.

    Attributes:
        name: The parameter's.
        shape: The parameter's.
        base: Number of the first element.
        steps: For each axis of the tensor what its index adds: int64.
    """

    name: str
    shape: tuple[int, ...]
    base: int
    steps: tuple[Tensor, ...]

    def locate(self, axis: int, prefer: int = 0) -> Geometry | None:
        """The slices of the parameter that lie along an axis of the tensor; None where they are no slices of one dimension.

        ``prefer`` is the dimension that a single slice is of, where it might be of several.
        """
        others = [step for i, step in enumerate(self.steps) if i != axis % len(self.steps) and bool(step.any())]
        rest = torch.zeros(1, dtype=torch.int64)
        for step in others:
            rest = (rest[:, None] + step).flatten()
        along = self._coordinates(self.base + self.steps[axis])
        across = self._coordinates(self.base + self.steps[axis][0] + rest)
        varying = [dim for dim, index in enumerate(along) if len(index) > 1 and bool((index != index[0]).any())]
        fixed = [dim for dim, index in enumerate(across) if bool((index == index[0]).all())]
        if not varying:
            varying = [prefer] if prefer in fixed else fixed[:1]
        if len(varying) != 1 or varying[0] not in fixed:
            return None
        dim = varying[0]
        within = []
        count = 1
        for other, index in enumerate(across):
            if other != dim:
                start, length = int(index.min()), int(index.max() - index.min()) + 1
                count *= length
                if length < self.shape[other]:
                    within.append((other, start, length))
        if count != len(rest):
            return None
        return Geometry(dim, along[dim], tuple(within))

    def _coordinates(self, numbers: Tensor) -> list[Tensor]:
        coordinates = []
        for size in reversed(self.shape):
            coordinates.append(numbers % size)
            numbers = numbers // size
        return coordinates[::-1]


@dataclass
class Storages:
    """The parameters of a model by where they lie in memory, and the copies that were made of their elements."""

    _parameters: dict[int, list[tuple[str, Tensor]]] = field(default_factory=dict)
    _copies: dict[int, tuple[str, tuple[int, ...], Tensor]] = field(default_factory=dict)

    def add(self, name: str, parameter: Tensor) -> None:
        """Takes note of a parameter."""
        if parameter.is_contiguous():
            self._parameters.setdefault(_storage(parameter), []).append((name, parameter))
        elif parameter.layout == torch.strided:
            steps = [torch.arange(size) * parameter.shape[i + 1 :].numel() for i, size in enumerate(parameter.shape)]
            self.add_copy(parameter, Weights(name, tuple(parameter.shape), 0, tuple(steps)))

    def add_copy(self, copy: Tensor, weights: Weights) -> None:
        """Takes note of a tensor that has the weights' elements in its own memory, at most multiplied with constants."""
        numbers = torch.tensor(weights.base)
        for step in weights.steps:
            numbers = numbers[..., None] + step
        laid_out = torch.full((copy.untyped_storage().nbytes() // copy.element_size(),), -1)
        laid_out.as_strided(copy.shape, copy.stride(), copy.storage_offset()).copy_(numbers)
        self._copies[_storage(copy)] = weights.name, weights.shape, laid_out

    def drop_copy(self, tensor: Tensor) -> None:
        """A tensor's memory no longer has what was noted of it."""
        self._copies.pop(_storage(tensor), None)

    def parameter(self, tensor: Tensor) -> str | None:
        """The name of the parameter whose memory a tensor is in."""
        weights = self.find(tensor)
        return weights.name if weights else None

    def find(self, tensor: Tensor) -> Weights | None:
        """What a tensor is of a parameter, if that is all it is."""
        storage = _storage(tensor)
        if storage in self._copies:
            name, shape, laid_out = self._copies[storage]
            numbers = laid_out.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            base = int(numbers[(0,) * tensor.ndim]) if numbers.numel() else 0
            steps = tuple(
                numbers[tuple(slice(None) if i == axis else 0 for i in range(tensor.ndim))] - base
                for axis in range(tensor.ndim)
            )
            total = torch.tensor(base)
            for step in steps:
                total = total[..., None] + step
            return Weights(name, shape, base, steps) if torch.equal(total, numbers) and base >= 0 else None
        for name, parameter in self._parameters.get(storage, ()):
            first = tensor.storage_offset() - parameter.storage_offset()
            if 0 <= first < max(parameter.numel(), 1):
                steps = tuple(torch.arange(size) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
                return Weights(name, tuple(parameter.shape), int(first), steps)
        return None


def _storage(tensor: Tensor) -> int:
    storage: int = tensor.untyped_storage()._cdata
    return storage
