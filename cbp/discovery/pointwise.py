"""Operations that act on each element by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cbp.discovery.calls import Call, aligned, normed
from cbp.discovery.following import CARRYING, MIXED, Follower
from cbp.discovery.labels import CONSTANT, DATA, FIRST_STATISTIC, compress, has_units, uniform, varying
from cbp.discovery.memory import UNCHANGED, Value, merged
from cbp.discovery.uniting import ADDED
from cbp.discovery.weights import Geometry, Weights

_OF_NORMS = {
    *("add", "sub", "rsub", "mul", "div", "pow", "sqrt", "rsqrt", "reciprocal", "neg", "abs", "square"),
    *("clamp", "clamp_min", "clamp_max", "maximum", "minimum"),
    *("eq", "ne", "gt", "ge", "lt", "le", "isnan", "isinf", "isfinite"),  # a look at whether all is well
}
"""What norms do to their statistics; another function of one is a gate."""


def pointwise(follower: Follower, call: Call, *, activation: str | None, added: bool = False) -> list[Value]:
    """One or several tensors, element by element. ``added``: what is not zero in one stays, whatever the other is."""
    weights = [follower.storages.find(tensor) for tensor in call.tensors]
    values = [follower.memory.value(tensor) for tensor, of in zip(call.tensors, weights, strict=True) if of is None]
    shape = torch.broadcast_shapes(*(tensor.shape for tensor in call.tensors))  # type: ignore[no-untyped-call]
    labels = uniform(CONSTANT, len(shape))
    met = [tensor for tensor, of in zip(call.tensors, weights, strict=True) if of is None]
    _note_spread(follower, met, values, shape)
    of_others = not follower.recurrent or any(value.paths for value in values if bool((value.labels == DATA).any()))
    if of_others and not added:
        _leave_out_scaling(follower, call, met, values)
    for value in values:
        labels = combine(follower, labels, aligned(value.labels, len(shape)), added=added, of_others=of_others)
    statistics = labels[labels <= FIRST_STATISTIC]
    if call.name not in _OF_NORMS and len(statistics):
        follower.units.leave_out(statistics, f"are combined before they meet '{call.name}'")
    if not bool((labels != CONSTANT).any()):
        return _of_parameters(follower, call, weights, values, scales=call.name in ("mul", "div"))
    in_norm = follower.module in follower.norms
    for of in filter(None, weights):
        if follower.recurrent and not follower.is_at_work(of):  # a learned first state, which is left as it is
            continue
        fresh = 0.0 if call.name in ("add", "sub", "rsub") else 1.0 if in_norm else None
        own(follower, of, labels, fresh)
    if activation is None and (in_norm or (any(value.mask for value in values) and call.name in ("mul", "div"))):
        activation = UNCHANGED
    paths = merged(values, activation)
    if has_units(labels) and _passes_at_zero(follower, call):
        paths = {number: replace(path, passes=True) for number, path in paths.items()}
    value = Value(labels, paths)
    return [normed(follower, value, labels) if in_norm else replace(value) for _ in call.returned]


def _note_spread(follower: Follower, tensors: Sequence[Tensor], values: Sequence[Value], shape: Sequence[int]) -> None:
    """Notes units of which one number meets many of the data, as a gate of one unit for all inputs."""
    for tensor, value in zip(tensors, values, strict=True):
        labels = aligned(value.labels, len(shape))
        once = {axis for axis in range(-len(shape), 0) if not _has_numbers_along(tensor, axis)}
        for other, of_other in zip(tensors, values, strict=True):
            several = any(_has_numbers_along(other, axis) for axis in once)
            if several and bool((of_other.labels == DATA).any()):
                both = torch.broadcast_tensors(labels, aligned(of_other.labels, len(shape)))  # type: ignore[no-untyped-call]
                follower.spread.append(torch.unique(both[0][(both[0] > 0) & (both[1] == DATA)]))


def _leave_out_scaling(follower: Follower, call: Call, tensors: Sequence[Tensor], values: Sequence[Value]) -> None:
    """Leaves out units each of which scales a number that is not its own and passes where the unit's weights are zero.

    Their columns carry these, too. A mask, one number for all units, or dropout's carries nothing.
    """
    ndim = max(tensor.ndim for tensor in call.tensors)
    for value in values:
        labels = aligned(value.labels, ndim)
        numbers = follower.units.producers_of(labels)
        passes = any(path.passes for number, path in value.paths.items() if number in numbers)
        if not numbers or not (passes or _passes_at_zero(follower, call)):
            continue
        own = [axis - ndim for axis in varying(labels)]
        for other, of_other in zip(tensors, values, strict=True):
            is_mask = other.dtype == torch.bool or of_other.mask
            if own and not is_mask and all(_has_numbers_along(other, axis) for axis in own):
                both = torch.broadcast_tensors(labels, aligned(of_other.labels, ndim))  # type: ignore[no-untyped-call]
                follower.units.leave_out(both[0][(both[0] > 0) & (both[1] == DATA)], CARRYING)


def _passes_at_zero(follower: Follower, call: Call) -> bool:
    """Whether a call gives another number than zero where units, their statistics and parameters are, and all else is one."""
    given = {}
    for name, argument in call.arguments.items():
        if isinstance(argument, Tensor):
            is_zero = follower.storages.find(argument) or has_units(follower.memory.value(argument).labels)
            given[name] = (torch.zeros if is_zero else torch.ones)((), dtype=argument.dtype)
        else:
            given[name] = argument
    out = call.function(**given)
    out = out if isinstance(out, Tensor) else out[0]
    return bool((out != 0) & ~out.isnan())


def _has_numbers_along(tensor: Tensor, axis: int) -> bool:
    """Whether a tensor has several numbers along an axis, which is counted from the last, and not one for all."""
    return -axis <= tensor.ndim and tensor.shape[axis] > 1 and tensor.stride(axis) != 0


def _of_parameters(
    follower: Follower, call: Call, weights: Sequence[Weights | None], values: Sequence[Value], *, scales: bool
) -> list[Value]:
    """Parameters and constants. A parameter times a constant still has zeros where the parameter has."""
    names = {of.name for of in weights if of} | {name for value in values for name in value.computed}
    given = [of for of in weights if of]
    (out,) = call.returned if len(call.returned) == 1 else [call.returned[0]]
    if scales and len(given) == 1 and len(names) == 1 and len(given[0].steps) == out.ndim:
        whole = all(len(step) == size for step, size in zip(given[0].steps, out.shape, strict=True))
        if whole and out.data_ptr() != call.tensors[0].data_ptr() and out.layout == torch.strided:
            follower.storages.add_copy(out, given[0])
            return [Value(uniform(CONSTANT, out.ndim))]
    for name in names:
        follower.otherwise.setdefault(name, call.name)
    return [Value(uniform(CONSTANT, tensor.ndim), computed=frozenset(names)) for tensor in call.returned]


def combine(follower: Follower, a: Tensor, b: Tensor, *, added: bool, of_others: bool = True) -> Tensor:
    """The labels of a function of two elements. Data beside units are others', or the past of a recurrent module."""
    a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
    both = (a > 0) & (b > 0) & (a != b)
    if bool(both.any()):
        _unite(follower, torch.stack([a[both], b[both]]), added=added)
    _meet_statistics(follower, a, b)
    _meet_statistics(follower, b, a)
    if added and of_others:
        follower.units.leave_out(torch.cat([a[(b == DATA) & (a > 0)], b[(a == DATA) & (b > 0)]]), ADDED)
    a, b = follower.units.roots(a), follower.units.roots(b)
    statistics = (a <= FIRST_STATISTIC) | (b <= FIRST_STATISTIC)
    merged = torch.where((a > 0) | (b == CONSTANT), a, torch.where((b > 0) | (a == CONSTANT), b, DATA))
    only = statistics & ~((a > 0) | (b > 0))
    if bool(only.any()):
        met = torch.stack([a, b])[:, only]
        alone = torch.unique(met[met <= FIRST_STATISTIC])
        merged = torch.where(only, int(alone[0]) if len(alone) == 1 else follower.units.statistic(met), merged)
    return compress(merged)


def _unite(follower: Follower, pairs: Tensor, *, added: bool) -> None:
    """Units that stand in the same place, ``(2, pairs)``, become one; not those that stand beside several of others.

    A gate of one unit, say, is no part of the units that it scales: it is left out, and they are not.
    """
    pairs = torch.unique(pairs.sort(dim=0)[0], dim=1)
    units, partners = torch.unique(pairs, return_counts=True)
    beside_several = torch.isin(pairs, units[partners > 1])
    alone = ~beside_several.any(dim=0)
    follower.units.unite(*pairs[:, alone], added=added)
    if added:
        follower.units.leave_out(pairs[:, ~alone], ADDED)
    else:
        follower.units.leave_out(pairs[beside_several], "scale several units of others")


def _meet_statistics(follower: Follower, units: Tensor, statistics: Tensor) -> None:
    """A norm divides units by what it computes from them; a statistic of others mixes them."""
    met = (units > 0) & (statistics <= FIRST_STATISTIC)
    for number in torch.unique(statistics[met]).tolist():
        its_units = torch.unique(units[met & (statistics == number)])
        if follower.units.is_of(number, its_units):
            follower.couple(its_units, follower.module)
            follower.normed.setdefault(number, []).append(its_units)
        else:
            follower.units.leave_out(torch.tensor([number]), MIXED)


def own(follower: Follower, weights: Weights, labels: Tensor, value: float | None, axis: int | None = None) -> None:
    """A parameter's elements meet units, each its own; elements that several units share belong to none.

    What meets data is noted, too: units cannot have it for themselves.
    """
    axes = varying(labels)
    if axis is None and len(axes) > 1:
        _own_each(follower, weights, labels, value, axes[0])
        return
    if not bool(((labels > 0) | (labels == DATA)).any()):
        return
    if axis is None and not axes and labels.numel() == 1 and int(labels) == DATA:
        _own_by_data(follower, weights, value)
        return
    axis = (labels.ndim - 1 if axis is None and not axes else axes[0] if axis is None else axis) - labels.ndim
    if -axis > len(weights.steps):
        return
    size = len(weights.steps[axis])
    if size == 1 and labels.shape[axis] > 1:
        return
    along = labels.movedim(axis, -1).reshape(-1, labels.shape[axis])[0].expand(size) if labels.numel() else labels
    if size > 1 and not bool(weights.steps[axis].any()):
        return
    geometry = weights.locate(axis)
    if geometry is not None:
        met = (along > 0) | (along == DATA)
        part = Geometry(geometry.dim, geometry.indices[met], geometry.within)
        follower.own_slices(weights.name, weights.shape, part, along[met], value)


def _own_by_data(follower: Follower, weights: Weights, value: float | None) -> None:
    """All elements of a parameter meet data, along whichever of its dimensions units may have theirs."""
    for axis, step in enumerate(weights.steps):
        geometry = weights.locate(axis) if bool(step.any()) or weights.shape == (1,) else None
        if geometry is not None:
            follower.own_slices(weights.name, weights.shape, geometry, torch.full((len(geometry.indices),), DATA), value)


def _own_each(follower: Follower, weights: Weights, labels: Tensor, value: float | None, axis: int) -> None:
    """As :func:`own`, for one index of an axis after another, where the parameter has it too."""
    i = len(weights.steps) - labels.ndim + axis
    if i >= 0 and len(weights.steps[i]) == labels.shape[axis]:
        for index, step in enumerate(weights.steps[i].tolist()):
            steps = (*weights.steps[:i], torch.zeros(1, dtype=torch.int64), *weights.steps[i + 1 :])
            own(follower, replace(weights, base=weights.base + step, steps=steps), labels.narrow(axis, index, 1), value)


def elu(follower: Follower, call: Call) -> list[Value]:
    """ELU, and what torch makes of it with other constants."""
    name = "selu" if call.arguments.get("scale", 1) != 1 else "celu" if call.arguments.get("input_scale", 1) != 1 else "elu"
    return pointwise(follower, call, activation=name)


def hardtanh(follower: Follower, call: Call) -> list[Value]:
    """Hardtanh, which is ReLU6 between 0 and 6."""
    bounds = call.arguments.get("min_val", -1), call.arguments.get("max_val", 1)
    return pointwise(follower, call, activation="relu6" if bounds == (0, 6) else "hardtanh")


def where(follower: Follower, call: Call) -> list[Value]:
    """Elements of one or the other; a condition of the input's has no part in them."""
    condition, *others = call.tensors
    if others and (follower.memory.value(condition).labels == DATA).all():
        (value,) = pointwise(follower, replace(call, tensors=others), activation=None, added=True)
        return [replace(value, labels=aligned(value.labels, call.returned[0].ndim))]
    return pointwise(follower, call, activation=None, added=True)
