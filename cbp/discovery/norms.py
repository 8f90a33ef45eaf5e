"""Norms: what they divide by is computed from positions, or from other units."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cbp.discovery.calls import Call, normed, unknown
from cbp.discovery.following import Follower
from cbp.discovery.labels import CONSTANT, DATA, uniform, varying
from cbp.discovery.memory import Value
from cbp.discovery.pointwise import own


def batch_norm(follower: Follower, call: Call) -> list[Value]:
    """Each channel is normalised by itself."""
    value = follower.memory.value(call["input"])
    if any(axis != 1 for axis in varying(value.labels)):
        return unknown(follower, call)
    labels = value.labels
    for name, fresh in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
        _own_of_norm(follower, call.arguments.get(name), labels, fresh, axis=1)
    return [normed(follower, value, labels), *[Value(uniform(CONSTANT, t.ndim)) for t in call.returned[1:]]]


def layer_norm(follower: Follower, call: Call) -> list[Value]:
    """Units are normalised together, unless the norm goes over positions alone."""
    value = follower.memory.value(call["input"])
    labels, axes = value.labels, len(call["normalized_shape"])
    for name, fresh in (("weight", 1.0), ("bias", 0.0)):
        _own_of_norm(follower, call.arguments.get(name), labels, fresh)
    if any(size > 1 for size in labels.shape[-axes:]):
        follower.couple(labels, follower.module)
    return [normed(follower, value, labels), *[Value(uniform(DATA, t.ndim)) for t in call.returned[1:]]]


def group_norm(follower: Follower, call: Call) -> list[Value]:
    """The units of each group are normalised together; of groups of one, each by itself."""
    value = follower.memory.value(call["input"])
    labels = value.labels
    if any(axis != 1 for axis in varying(labels)):
        return unknown(follower, call)
    for name, fresh in (("weight", 1.0), ("bias", 0.0)):
        _own_of_norm(follower, call.arguments.get(name), labels, fresh, axis=1)
    if call["group"] < call["C"]:
        follower.couple(labels, follower.module)
    return [normed(follower, value, labels), *[Value(uniform(DATA, t.ndim)) for t in call.returned[1:]]]


def _own_of_norm(follower: Follower, tensor: Tensor | None, labels: Tensor, fresh: float, axis: int | None = None) -> None:
    weights = None if tensor is None else follower.storages.find(tensor) or follower.buffers.find(tensor)
    if weights is None:
        return
    if axis is None:
        own(follower, weights, labels, fresh)
    else:
        steps = (weights.steps[0], *[torch.zeros(1, dtype=torch.int64)] * (labels.ndim - axis - 1))
        own(follower, replace(weights, steps=steps), labels, fresh, axis=axis)
