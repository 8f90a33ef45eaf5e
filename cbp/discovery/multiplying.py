"""Operations that multiply with weights: where units are born, and where they have an effect."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cbp.discovery.calls import Call, aligned, mix, with_weights, zeros_along
from cbp.discovery.following import Follower
from cbp.discovery.labels import CONSTANT, DATA, FIRST_STATISTIC, compress, has_units, uniform, varying, without_constants
from cbp.discovery.memory import Path, Value, merged
from cbp.discovery.pointwise import combine, own
from cbp.discovery.uniting import ADDED
from cbp.discovery.weights import Weights


def matmul(follower: Follower, call: Call) -> list[Value]:
    """``mm``, ``bmm``, ``mv`` and their forms with something added."""
    *added, a, b = call.tensors
    vector = b.ndim == 1
    if vector:
        column = b.unsqueeze(1)
        if follower.storages.find(b) is None:
            known = follower.memory.value(b)
            follower.memory.put(column, replace(known, labels=known.labels.unsqueeze(1)))
        b = column
    value = _product(follower, a, b, call)
    if vector:
        value.labels = value.labels.squeeze(-1)
    if not added:
        return [value]
    (bias,) = added
    weights = follower.storages.find(bias)
    if weights is not None:
        own(follower, weights, value.labels, 0.0)
        return [value]
    other = follower.memory.value(bias)
    labels = combine(follower, value.labels, aligned(other.labels, value.labels.ndim), added=True)
    return [Value(labels, merged([value, other]))]


def _product(follower: Follower, a: Tensor, b: Tensor, call: Call) -> Value:
    """``(…, n, k) @ (…, k, m)``."""
    of_a, of_b = follower.storages.find(a), follower.storages.find(b)
    if of_a is not None and of_b is not None and follower.is_at_work(of_a) != follower.is_at_work(of_b):
        received, of_received = (b, of_b) if follower.is_at_work(of_a) else (a, of_a)  # a learned state or token: constants
        follower.otherwise.setdefault(of_received.name, call.name)
        follower.memory.put(received, Value(uniform(CONSTANT, received.ndim)))
        of_a, of_b = (None, of_b) if received is a else (of_a, None)
    if of_b is not None and of_a is None:
        return _times_weight(follower, a, of_b, call, rows=-2, inner=(-1, -2), columns=-1)
    if of_a is not None and of_b is None:
        return _times_weight(follower, b, of_a, call, rows=-1, inner=(-2, -1), columns=-2)
    if of_a is not None and of_b is not None:
        return mix(follower, call, "")[0]
    first, second = follower.memory.value(a), follower.memory.value(b)
    for value, other, columns in ((first, second, -1), (second, first, -2)):
        if value.computed:
            return _times_computed(follower, other, value, call, columns)
    return _of_two(follower, first, second, call)


def _times_computed(follower: Follower, value: Value, weight: Value, call: Call, columns: int) -> Value:
    names = "', '".join(sorted(weight.computed))
    follower.units.leave_out(value.labels, f"meet weights that are computed from '{names}' before they are used")
    follower.meet_weight(value)
    for name in weight.computed:
        follower.otherwise.setdefault(name, call.name)
    _, paths = follower.produce(None, columns, weight.computed)
    return Value(uniform(DATA, call.returned[0].ndim), paths)


def _of_two(follower: Follower, a: Value, b: Value, call: Call) -> Value:
    """A product of two tensors that depend on inputs: what weighs positions carries units, all else mixes them."""
    ndim = max(a.labels.ndim, b.labels.ndim)
    for value, other, inner in ((a, b, -1), (b, a, -2)):
        if has_units(value.labels) and not has_units(other.labels) and value.labels.shape[inner] == 1:
            labels = value.labels.clone()
            return Value(aligned(labels, ndim), merged([a, b], None))
    reason = f"are multiplied with other values in '{call.name}' and summed over units"
    if has_units(a.labels) and has_units(b.labels):
        follower.meet_weight(a, b)  # one is the other's
    return mix(follower, call, reason)[0]


def _times_weight(
    follower: Follower, tensor: Tensor, weights: Weights, call: Call, *, rows: int, inner: tuple[int, int], columns: int
) -> Value:
    """A tensor times a weight; ``inner`` is the axis that is summed over, in either."""
    value = follower.memory.value(tensor)
    ndim = call.returned[0].ndim if call.name not in ("mv", "addmv") else 2
    labels = aligned(value.labels, ndim)
    batch = labels.shape[:-2].numel()
    batched = [axis for axis in range(len(weights.steps) - 2) if bool(weights.steps[axis].any())]
    if batched:
        return _times_each(follower, tensor, labels, weights, call, inner, columns)
    zeros = zeros_along(tensor, inner[0])
    if labels.shape[inner[0]] == 1 and (labels.shape[rows] > 1 or batch > 1) and has_units(labels):
        # Positions are summed, with the same weights for every unit.
        follower.otherwise.setdefault(weights.name, call.name)
        follower.meet_weight(value)
        return Value(labels.clone(), merged([value], None))
    along = _same_in_rows(follower, labels.movedim(inner[0], -1).flatten(0, -2), weights.name)
    _meet(follower, along.expand(len(weights.steps[inner[1]])), weights, inner[1], value, zeros)
    produced, paths = follower.produce(weights, columns)
    shape = [1] * ndim
    shape[columns] = produced.numel()
    return Value(produced.reshape(shape), paths)


def _same_in_rows(follower: Follower, rows: Tensor, name: str) -> Tensor:
    """The labels of columns that are the same in all rows of ``(rows, columns)`` where they are not constant."""
    least = torch.where(rows == CONSTANT, torch.iinfo(torch.int64).max, rows).amin(dim=0)
    along = torch.where((rows == CONSTANT).all(dim=0), CONSTANT, least)
    mixed = ((rows != along) & (rows != CONSTANT)).any(dim=0)
    if bool(mixed.any()):
        follower.units.leave_out(rows[:, mixed], f"meet the weight '{name}' along two axes")
    return along.masked_fill(mixed, DATA)


def _meet(
    follower: Follower,
    along: Tensor,
    weights: Weights,
    axis: int,
    value: Value,
    zeros: Tensor,
    prefer: int = 1,
    blocks: int = 1,
) -> None:
    if bool((along <= FIRST_STATISTIC).any()):
        follower.units.leave_out(along[along <= FIRST_STATISTIC], "are combined before they meet a weight")
        along = along.masked_fill(along <= FIRST_STATISTIC, DATA)
    follower.consume(along, weights, axis, value, zeros, prefer, blocks)


def _times_each(
    follower: Follower, tensor: Tensor, labels: Tensor, weights: Weights, call: Call, inner: tuple[int, int], columns: int
) -> Value:
    """A batch of weights, as of an ensemble: each has rows and columns of its own."""
    value = follower.memory.value(tensor)
    size = len(weights.steps[0])
    if len(weights.steps) != 3 or labels.shape[-2 if inner[0] == -1 else -1] > 1:
        return with_weights(follower, call, f"meet the weights '{weights.name}' along two axes")[0]
    parts: list[Tensor] = []
    paths: dict[int, Path] = {}
    for i in range(size):
        one = Weights(weights.name, weights.shape, weights.base + int(weights.steps[0][i]), weights.steps[1:])
        along = labels[i if labels.shape[0] > 1 else 0].flatten().expand(len(one.steps[inner[1]]))
        _meet(follower, along, one, inner[1], value, zeros_along(tensor[i if len(tensor) > 1 else 0], inner[0]))
        produced, path = follower.produce(one, columns)
        parts.append(produced)
        paths |= path
    shape = [size, 1, 1]
    shape[columns] = -1
    return Value(torch.stack(parts).reshape(shape), paths)


def convolution(follower: Follower, call: Call) -> list[Value]:
    """Convolutions of any dimensions, in groups, depthwise and transposed."""
    maps, weight, bias = call["input"], call["weight"], call["bias"]
    weights = follower.storages.find(weight)
    if follower.storages.find(maps) is not None:
        return mix(follower, call, "")
    value = follower.memory.value(maps)
    if weights is None:
        known = follower.memory.value(weight)
        if known.computed:
            return [_times_computed(follower, value, known, call, 1)]
        return mix(follower, call, "meet the weights of a convolution that are no parameter")
    labels = without_constants(value.labels, 1)
    if any(axis != 1 for axis in varying(labels)):
        follower.units.leave_out(labels, "meet a convolution along its positions")
        labels = uniform(DATA, maps.ndim)
    groups, transposed = call["groups"], call["transposed"]
    inputs, ndim = maps.shape[1], maps.ndim
    along = labels.flatten().expand(inputs)
    if groups > 1 and inputs == groups and not transposed and has_units(along):
        return [_depthwise(follower, weights, bias, along, value, ndim)]
    if groups > 1 and transposed:
        return _without_rows(follower, call, weights.name, "a transposed convolution in groups")
    if groups > 1 and (weights.base or weights.shape != tuple(weight.shape)):
        return _without_rows(follower, call, weights.name, "a convolution in groups with a part of a parameter")
    inner, outer = (0, 1) if transposed else (1, 0)
    zeros = zeros_along(maps, 1)
    _meet(follower, along, weights, inner, value, zeros, inner, groups)
    produced, paths = follower.produce(weights, outer, prefer=outer)
    out = Value(produced.reshape(1, -1, *[1] * (ndim - 2)), paths)
    _own_bias(follower, bias, out.labels)
    return [out]


def _without_rows(follower: Follower, call: Call, name: str, kind: str) -> list[Value]:
    """A convolution of which no columns and rows can be told: both the units that it receives and its own are left out."""
    (out,) = mix(follower, call, f"meet {kind}")
    return [replace(out, paths=follower.produce_nothing(name, f"have the weights of {kind}"))]


def _own_bias(follower: Follower, bias: Tensor | None, labels: Tensor) -> None:
    weights = None if bias is None else follower.storages.find(bias)
    if bias is not None and weights is None:
        follower.units.leave_out(follower.memory.value(bias).labels, "are the bias of a convolution")
    if weights is not None:
        steps = (weights.steps[0], *[torch.zeros(1, dtype=torch.int64)] * (labels.ndim - 2))
        own(follower, replace(weights, steps=steps), labels, 0.0, axis=1)


def _depthwise(follower: Follower, weights: Weights, bias: Tensor | None, along: Tensor, value: Value, ndim: int) -> Value:
    """Each channel has kernels of its own, which are incoming weights of the unit too."""
    outputs = len(weights.steps[0])
    labels = along.repeat_interleave(outputs // len(along))
    geometry = weights.locate(0)
    produced, paths = follower.produce(weights, 0)
    if geometry is None:
        follower.units.leave_out(labels, f"meet the depthwise weight '{weights.name}' in a way that is not followed")
    else:
        both = (labels > 0) & (produced > 0)
        follower.units.unite(labels[both], produced[both], added=False)
        follower.units.leave_out(produced[~both & (produced > 0)], ADDED)
    out = follower.units.roots(labels).reshape(1, -1, *[1] * (ndim - 2))
    _own_bias(follower, bias, out)
    return Value(compress(out), merged([value, Value(out, paths)], None))
