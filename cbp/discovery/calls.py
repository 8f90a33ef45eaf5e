"""A call of an operation, and what every way of carrying units needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cbp.discovery.following import Follower
from cbp.discovery.labels import CONSTANT, DATA, uniform
from cbp.discovery.memory import Value, is_nowhere_negative, merged


@dataclass
class Call:
    """One call of an operation.

    Attributes:
        name: The operation's, without the underscore of those that work in place.
        function: The operation.
        arguments: By their names in its schema.
        tensors: The tensors among them, in order.
        returned: The tensors that it gave.
    """

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    tensors: list[Tensor]
    returned: list[Tensor]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


Operation = Callable[[Follower, Call], list[Value]]


_SHIFTS = {"add", "sub", "rsub"}  # which may make random signs of zeros and ones


def without_units(call: Call, values: list[Value]) -> list[Value]:
    """Numbers of inputs or of none, and what units that are left out have become."""
    data = any(bool((value.labels == DATA).any()) for value in values)
    label = DATA if data else CONSTANT
    computed = frozenset() if data else frozenset().union(*(value.computed for value in values))
    mask = call.name == "bernoulli" or (any(value.mask for value in values) and call.name not in _SHIFTS and not data)
    mask = mask and all(is_nowhere_negative(tensor) for tensor in call.returned)
    paths = merged(values)
    return [Value(uniform(label, tensor.ndim), dict(paths), computed=computed, mask=mask) for tensor in call.returned]


def zeros_along(tensor: Tensor, axis: int) -> Tensor:
    """At each index of an axis whether a tensor is zero there throughout; a tensor on the meta device is nowhere."""
    if tensor.is_meta:
        return torch.zeros(tensor.shape[axis], dtype=torch.bool)
    return (tensor == 0).movedim(axis, 0).flatten(1).all(dim=1).cpu()


def unknown(follower: Follower, call: Call) -> list[Value]:
    """An operation of which nothing is known mixes all that reaches it."""
    return mix(follower, call, f"reach '{call.name}', which does not act on each unit by itself")


def with_weights(follower: Follower, call: Call, reason: str = "") -> list[Value]:
    """As :func:`unknown`, or as :func:`mix` for a reason, where what weights make of data may be units: they are left out."""
    names = {weights.name for weights in map(follower.storages.find, call.tensors) if weights}
    for tensor in call.tensors:
        if follower.storages.find(tensor) is None:
            names |= follower.memory.value(tensor).computed
    values = mix(follower, call, reason) if reason else unknown(follower, call)
    for value in values if names else ():
        if bool((value.labels == DATA).any()):
            for name in sorted(names):
                value.paths |= follower.produce_nothing(name, f"have weights in '{call.name}', which is not followed")
    return values


def mix(follower: Follower, call: Call, reason: str) -> list[Value]:
    """Leaves out all units that a call receives, for this reason; what it returns is data."""
    values, computed = [], set()
    meets = False
    for tensor in call.tensors:
        weights = follower.storages.find(tensor)
        if weights:
            follower.otherwise.setdefault(weights.name, call.name)
            computed.add(weights.name)
            meets = True
        else:
            values.append(follower.memory.value(tensor))
            follower.units.leave_out(values[-1].labels, reason)
            computed |= values[-1].computed
    if meets:
        follower.meet_weight(*values)
    data = any(bool((value.labels != CONSTANT).any()) for value in values)
    names = frozenset() if data else frozenset(computed)
    label = DATA if data else CONSTANT
    return [Value(uniform(label, tensor.ndim), merged(values), computed=names) for tensor in call.returned]


def aligned(labels: Tensor, ndim: int) -> Tensor:
    """The labels with axes of size 1 before them, as tensors of fewer axes broadcast."""
    return labels.reshape((1,) * (ndim - labels.ndim) + labels.shape)


def normed(follower: Follower, value: Value, labels: Tensor) -> Value:
    """What the norm at work has made of a value."""
    paths = {number: replace(path, norms=path.norms | {follower.module}) for number, path in value.paths.items()}
    return Value(labels, paths)
