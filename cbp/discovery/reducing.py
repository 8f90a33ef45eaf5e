"""Operations that go over axes: sums, softmax, pooling, attention over positions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cbp.discovery.calls import Call, unknown
from cbp.discovery.following import Follower
from cbp.discovery.labels import CONSTANT, DATA, compress, uniform
from cbp.discovery.memory import UNCHANGED, Value, merged, signed
from cbp.discovery.pointwise import combine

_BICUBIC = 2  # the interpolation_mode of grid_sampler


def over_axes(follower: Follower, call: Call) -> list[Value]:
    """Sums, means and the like: over positions of one unit they carry it, over units they are statistics of them."""
    tensor = call.tensors[0]
    if follower.storages.find(tensor) is not None:
        return unknown(follower, call)
    value = follower.memory.value(tensor)
    axes = call.arguments.get("dim", None)
    if axes is None or axes == []:
        axes = list(range(tensor.ndim))
    axes = [axis % max(tensor.ndim, 1) for axis in (axes if isinstance(axes, list | tuple) else [axes])]
    labels = value.labels
    if tensor.ndim and any(labels.shape[axis] > 1 for axis in axes):
        if call.name == "logsumexp" or (call.name == "sum" and any(p.activation == "exp" for p in value.paths.values())):
            return unknown(follower, call)  # a softmax, written by hand
        kept = labels.amax(dim=axes, keepdim=True)
        labels = uniform(follower.units.statistic(labels), tensor.ndim).expand(kept.shape)
    keeps = call.returned[0].ndim == tensor.ndim
    if not keeps:
        labels = labels.reshape([size for axis, size in enumerate(labels.shape) if axis not in axes])
    return [Value(compress(labels), dict(value.paths)) for _ in call.returned]


def along_axis(follower: Follower, call: Call) -> list[Value]:
    """Softmax, sorting, cumulative sums: along an axis on which units vary they mix them."""
    if follower.storages.find(call.tensors[0]) is not None:
        return unknown(follower, call)
    value = follower.memory.value(call.tensors[0])
    axis = call.arguments.get("dim", -1)
    if value.labels.ndim and value.labels.shape[axis] > 1:
        return unknown(follower, call)
    activation = None if "log" in call.name else UNCHANGED  # which has other signs
    return [Value(value.labels, merged([value], activation)) for _ in call.returned]


def glu(follower: Follower, call: Call) -> list[Value]:
    """The first half of an axis times a function of the second."""
    value = follower.memory.value(call.tensors[0])
    axis = call.arguments.get("dim", -1)
    labels = value.labels
    halves = labels.chunk(2, dim=axis) if labels.shape[axis] > 1 else (labels, labels)
    return [Value(combine(follower, *halves, added=False), merged([value], "glu"))]


def positions(follower: Follower, call: Call, *, axes: int) -> list[Value]:
    """Pooling, padding and resizing of maps: they act on the last axes, the same for every unit."""
    if follower.storages.find(call.tensors[0]) is not None:
        return unknown(follower, call)
    value = follower.memory.value(call.tensors[0])
    labels = value.labels
    if any(size > 1 for size in labels.shape[-axes:]):
        return unknown(follower, call)
    overshoots = "bicubic" in call.name or call.arguments.get("interpolation_mode") == _BICUBIC
    return [Value(labels, merged([value], None if overshoots else UNCHANGED)) for _ in call.returned]


def pad(follower: Follower, call: Call) -> list[Value]:
    """Padding of positions, or with a constant along any axis."""
    axes = len(call["pad" if "pad" in call.arguments else "padding"]) // 2
    value = None if follower.storages.find(call.tensors[0]) else follower.memory.value(call.tensors[0])
    if value is not None and call.name == "constant_pad_nd" and any(n > 1 for n in value.labels.shape[-axes:]):
        full = value.labels.expand(call.tensors[0].shape)
        return [Value(compress(torch.constant_pad_nd(full, call["pad"], CONSTANT)), dict(value.paths))]
    padded = positions(follower, call, axes=axes)
    if call.name == "constant_pad_nd" and call["value"] < 0:  # which counts as the units' own
        return [replace(of, paths=signed(of.paths)) for of in padded]
    return padded


def attention(follower: Follower, call: Call) -> list[Value]:
    """Queries, keys and a mask are mixed, values are weighed by position."""
    for name, tensor in call.arguments.items():
        if isinstance(tensor, Tensor) and name != "value":
            follower.units.leave_out(follower.memory.value(tensor).labels, "decide in attention how positions are weighed")
    labels = follower.memory.value(call["value"]).labels
    rest = [Value(uniform(DATA, tensor.ndim)) for tensor in call.returned[1:]]
    if labels.shape[-2] > 1:
        return unknown(follower, call)
    if labels.shape[-3] > 1:  # several queries may share a head
        labels = labels.repeat_interleave(call.returned[0].shape[-3] // labels.shape[-3], dim=-3)
    return [Value(labels, merged([follower.memory.value(tensor) for tensor in call.tensors], None)), *rest]
