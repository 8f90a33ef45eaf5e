"""Which unit each element of a tensor belongs to, and how that is carried along.

The labels of a tensor are an int64 tensor that broadcasts to its shape: along an axis on which they do not vary it has size 1.
A label above 0 is a unit's number; the others are :data:`CONSTANT`, :data:`DATA`, and from :data:`FIRST_STATISTIC` downwards
the numbers of statistics, such as a norm's mean over units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CONSTANT = 0  # depends on no input
DATA = -1  # depends on inputs, or on units in a way that is not followed
FIRST_STATISTIC = -2


def uniform(label: int, ndim: int) -> Tensor:
    """The labels of a tensor whose elements are all alike."""
    return torch.full((1,) * ndim, label, dtype=torch.int64)


def has_units(labels: Tensor) -> bool:
    """Whether any element belongs to a unit, or is a statistic of units."""
    return bool(((labels > 0) | (labels <= FIRST_STATISTIC)).any())


def compress(labels: Tensor) -> Tensor:
    """The same labels, with size 1 along every axis on which they do not vary."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1:
            first = labels.narrow(axis, 0, 1)
            if labels.stride(axis) == 0 or bool((labels == first).all()):
                labels = first
    return labels


def without_constants(labels: Tensor, units: int) -> Tensor:
    """The same labels, with size 1 along axes, but for that of the units, on which constants, as padding, join one label."""
    least, most = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    for axis in set(range(labels.ndim)) - {units % labels.ndim}:
        constant = labels == CONSTANT
        low = labels.masked_fill(constant, most).amin(dim=axis, keepdim=True)
        high = labels.masked_fill(constant, least).amax(dim=axis, keepdim=True)
        alone = constant.all(dim=axis, keepdim=True)
        if bool(((low == high) | alone).all()):
            labels = low.masked_fill(alone, CONSTANT)
    return labels


def varying(labels: Tensor) -> list[int]:
    """The axes along which compressed labels vary."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def reshaped(labels: Tensor, shape: Sequence[int], target: Sequence[int]) -> Tensor:
    """The labels of a tensor of one shape that is viewed in another.

    Only the axes that vary are laid out; a large batch takes no room.
    """
    source, small = [], []
    i = j = 0
    while i < len(shape) or j < len(target):  # the axes i to i_end become the axes j to j_end: their products are equal
        i_end, j_end = min(i + 1, len(shape)), min(j + 1, len(target))
        while math.prod(shape[i:i_end]) != math.prod(target[j:j_end]):
            if math.prod(shape[i:i_end]) < math.prod(target[j:j_end]):
                i_end += 1
            else:
                j_end += 1
        varies = any(size > 1 for size in labels.shape[i:i_end])
        source += [size if varies else 1 for size in shape[i:i_end]]
        small += [size if varies else 1 for size in target[j:j_end]]
        i, j = i_end, j_end
    return compress(labels.expand(source).reshape(small))


def concatenated(parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], axis: int) -> Tensor:
    """The labels of the concatenation of tensors of these shapes."""
    axis %= len(shapes[0])
    varies = [any(part.shape[i] > 1 for part in parts) for i in range(len(shapes[0]))]
    expanded = [
        part.expand([size if varies[i] or i == axis else 1 for i, size in enumerate(shape)])
        for part, shape in zip(parts, shapes, strict=True)
    ]
    return compress(torch.cat(expanded, dim=axis))
