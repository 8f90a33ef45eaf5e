"""A call of an operation, and what every way of carrying units needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from cbp.discovery.following import Follower, Path, Value
from cbp.discovery.labels import CONSTANT, DATA, uniform

UNCHANGED = "unchanged"  # an activation that is that of the input


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


def without_units(call: Call, values: list[Value]) -> list[Value]:
    """Numbers of inputs or of none, and what units that are left out have become."""
    data = any(bool((value.labels == DATA).any()) for value in values)
    label = DATA if data else CONSTANT
    computed = frozenset() if data else frozenset().union(*(value.computed for value in values))
    mask = call.name == "bernoulli" or (any(value.mask for value in values) and not data)
    paths = merged(values)
    return [Value(uniform(label, tensor.ndim), dict(paths), computed=computed, mask=mask) for tensor in call.returned]


def unknown(follower: Follower, call: Call) -> list[Value]:
    """An operation of which nothing is known mixes all that reaches it."""
    return mix(follower, call, f"reach '{call.name}', which does not act on each unit by itself")


def mix(follower: Follower, call: Call, reason: str) -> list[Value]:
    """Leaves out all units that a call receives, for this reason; what it returns is data."""
    values, computed = [], set()
    for tensor in call.tensors:
        weights = follower.storages.find(tensor)
        if weights:
            follower.otherwise.setdefault(weights.name, call.name)
            computed.add(weights.name)
        else:
            values.append(follower.value(tensor))
            follower.leave_out(values[-1].labels, reason)
            computed |= values[-1].computed
    data = any(bool((value.labels != CONSTANT).any()) for value in values)
    names = frozenset() if data else frozenset(computed)
    label = DATA if data else CONSTANT
    return [Value(uniform(label, tensor.ndim), merged(values), computed=names) for tensor in call.returned]


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


def aligned(labels: Tensor, ndim: int) -> Tensor:
    """The labels with axes of size 1 before them, as tensors of fewer axes broadcast."""
    return labels.reshape((1,) * (ndim - labels.ndim) + labels.shape)


def normed(follower: Follower, value: Value, labels: Tensor) -> Value:
    """What the norm at work has made of a value."""
    paths = {number: replace(path, norms=path.norms | {follower.module}) for number, path in value.paths.items()}
    return Value(labels, paths)
