"""Operations that arrange elements anew: views, copies, selections, concatenations."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from cbp.discovery.calls import Call, aligned, mix, unknown, with_weights
from cbp.discovery.following import Follower
from cbp.discovery.labels import CONSTANT, DATA, compress, concatenated, has_units, reshaped, uniform
from cbp.discovery.memory import Value, merged, signed
from cbp.discovery.pointwise import combine
from cbp.discovery.weights import Weights

VIEWS = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
COPIES = {"clone", "_to_copy", "contiguous", "detach", "alias", "lift_fresh"}

_PERMUTING = {"permute", "transpose", "t", "movedim"}
_REORDERING = {"flip", "roll", "rot90", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"}
_CHOOSING = {"index", "index_select", "gather", "tril", "triu", "unfold", "repeat", "repeat_interleave"}  # or set to zero

_OF_A_TABLE = 2  # dimensions, as of embeddings


def rearrange(follower: Follower, call: Call) -> list[Value]:
    """Views, copies and selections of one tensor."""
    (tensor, *others) = call.tensors
    weights = follower.storages.find(tensor)
    if weights is not None:
        return _rearrange_parameter(follower, call, weights)
    value = follower.memory.value(tensor)
    for other in others:  # what is selected by is no unit
        if has_units(follower.memory.value(other).labels):
            return unknown(follower, call)
    if others and any(value.labels.shape[axis] > 1 for axis in _selected_axes(call)):
        return mix(follower, call, f"are selected by numbers in '{call.name}', which may be others in the next pass")
    if call.name in COPIES:
        labels = [value.labels]
    elif not tensor.numel() or not all(part.numel() for part in call.returned):
        return _without_elements(follower, call, value)
    elif call.name == "view_as_real":
        labels = [value.labels.unsqueeze(-1)]
    elif call.name in VIEWS:
        target = call.returned[0].shape
        labels = [reshaped(value.labels, tensor.shape, target)]
    else:
        arguments = {name: argument for name, argument in call.arguments.items() if argument is not tensor}
        first = next(name for name, argument in call.arguments.items() if argument is tensor)

        arguments = tree_map_only(Tensor, Tensor.cpu, arguments)  # labels are there, wherever the model is
        given = call.function(**{first: value.labels.expand(tensor.shape)}, **arguments)
        labels = [compress(part) for part in ([given] if isinstance(given, Tensor) else given)]
    keeps = len(labels) == 1 and call.returned[0].numel() == tensor.numel() and call.name not in _CHOOSING
    identity = value.identity if keeps else 0
    order = value.order if keeps and _keeps_order(call, value.labels) else 0
    return [Value(of, dict(value.paths), identity, value.computed, value.mask, order) for of in labels]


def _keeps_order(call: Call, labels: Tensor) -> bool:
    """Whether the elements of each unit follow each other as before."""
    if call.name not in _PERMUTING:
        return call.name not in _REORDERING
    units = labels[labels > 0]
    alone = len(torch.unique(units)) == len(units)  # so that the axes that vary have one element of each unit
    (tensor,) = call.tensors
    varies = [alone and size > 1 for size in aligned(labels, tensor.ndim).shape]
    empty = torch.empty([1 if of else size for of, size in zip(varies, tensor.shape, strict=True)], device="meta")
    moved = call.function(**{name: empty if argument is tensor else argument for name, argument in call.arguments.items()})
    steps = [step for size, step in zip(moved.shape, moved.stride(), strict=True) if size > 1]
    return steps == sorted(steps, reverse=True)


def view(follower: Follower, call: Call) -> list[Value]:
    """Views of the same numbers in another shape; parts of numbers, or several read as one, are others."""
    if call.returned[0].element_size() != call.tensors[0].element_size():
        return unknown(follower, call)
    return rearrange(follower, call)


def at_strides(follower: Follower, call: Call) -> list[Value]:
    """A view of a tensor's memory by strides of its own; what is in it beyond the tensor is not known."""
    (tensor,), (out,) = call.tensors, call.returned
    weights = follower.storages.find(tensor)
    if weights is not None:
        return _rearrange_parameter(follower, call, weights)
    value = follower.memory.value(tensor)
    beyond = torch.iinfo(torch.int64).min
    places = torch.arange(tensor.untyped_storage().nbytes() // tensor.element_size())
    laid_out = torch.full_like(places, beyond)
    laid_out[places.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())] = value.labels.expand(tensor.shape)
    labels = laid_out.as_strided(out.shape, out.stride(), out.storage_offset())
    if bool((labels == beyond).any()):
        return unknown(follower, call)
    return [Value(compress(labels), dict(value.paths), mask=value.mask, computed=value.computed)]


def _without_elements(follower: Follower, call: Call, value: Value) -> list[Value]:
    """Views and selections of no elements, as of an expert that receives no sample: the last axes keep their units."""
    shape, out = call.tensors[0].shape, []
    for part in call.returned:
        kept = 0
        while kept < min(len(shape), part.ndim) and shape[-1 - kept] == part.shape[-1 - kept]:
            kept += 1
        varies = [size for size, of in zip(part.shape, value.labels.shape, strict=False) if of > 1]
        if len(part.shape) == len(shape) and 0 in varies:  # none of the units
            out.append(Value(uniform(CONSTANT, part.ndim)))
            continue
        if any(size > 1 for size in value.labels.shape[: len(shape) - kept]):
            return mix(follower, call, f"are in a tensor without elements that '{call.name}' arranges")
        labels = value.labels.reshape(value.labels.shape[len(shape) - kept :])
        out.append(Value(aligned(labels, part.ndim), dict(value.paths)))
    return out


def _rearrange_parameter(follower: Follower, call: Call, weights: Weights) -> list[Value]:
    """A view lies in the parameter's memory, where it is found again; a copy is noted if it has the same order."""
    storage = call.tensors[0].untyped_storage()._cdata
    if all(tensor.untyped_storage()._cdata == storage for tensor in call.returned):
        return [Value(uniform(CONSTANT, tensor.ndim)) for tensor in call.returned]
    (out,) = call.returned
    if call.name == "repeat" and len(call.tensors[0].shape) == len(out.shape):
        steps = tuple(step.repeat(n) for step, n in zip(weights.steps, call["repeats"], strict=True))
        follower.storages.add_copy(out, replace(weights, steps=steps))
        return [Value(uniform(CONSTANT, out.ndim))]
    if call.name in COPIES and out.shape == call.tensors[0].shape:
        follower.storages.add_copy(out, weights)
        return [Value(uniform(CONSTANT, out.ndim))]
    if sum(size > 1 for size in weights.shape) > _OF_A_TABLE:  # weights of experts, say, of which data choose
        return with_weights(follower, call)
    return unknown(follower, call)


def _selected_axes(call: Call) -> list[int]:
    """The axes along which a call selects by tensors."""
    if "dim" in call.arguments:
        return [call["dim"]]
    axes: list[int] = []
    axis = 0
    for index in call.arguments.get("indices", ()):
        covered = index.ndim if index is not None and index.dtype == torch.bool else 1
        if index is not None:
            axes += range(axis, axis + covered)
        axis += covered
    return axes


def write_at(follower: Follower, call: Call) -> list[Value]:
    """Elements at positions by number are replaced, or reduced with others, as over the edges of a graph."""
    into, axis = call["self"], call["dim"]
    source = call.arguments.get("src", call.arguments.get("source"))
    by_number = [tensor for tensor in call.tensors if tensor is not into and tensor is not source]
    if not into.ndim:
        return unknown(follower, call)
    value = _written(follower, call, source)
    apart = [size for i, size in enumerate(value.labels.shape) if i - axis not in (0, into.ndim)]
    beside = [size for i, size in enumerate(into.shape) if i - axis not in (0, into.ndim)]
    if any(size not in (1, other) for size, other in zip(apart, beside, strict=True)):
        return unknown(follower, call)
    return _write(follower, call, value, [axis], by_number)


def put(follower: Follower, call: Call) -> list[Value]:
    """Elements at positions by number, or where a mask is true, are replaced."""
    into, axes = call["self"], _selected_axes(call)
    indices = [index for index in call["indices"] if index is not None]
    by_number = max(1 if index.dtype == torch.bool else index.ndim for index in indices)
    first, selected = axes[0], axes[-1] + 1 - axes[0]
    value = _written(follower, call, call["values"])
    labels = aligned(value.labels, into.ndim - selected + by_number)
    chosen = labels.shape[first : first + by_number]
    if len(axes) < selected or any(size > 1 for size in chosen):
        return unknown(follower, call)
    labels = labels.reshape(*labels.shape[:first], *[1] * selected, *labels.shape[first + by_number :])
    return _write(follower, call, replace(value, labels=labels), axes, indices)


def _written(follower: Follower, call: Call, source: Tensor | None) -> Value:
    """What is written: a number, a parameter, such as a token for what is masked, or a tensor of the pass."""
    weights = None if source is None else follower.storages.find(source)
    if weights is not None:
        follower.otherwise.setdefault(weights.name, call.name)
        return Value(uniform(CONSTANT, len(weights.steps)), computed=frozenset({weights.name}))
    return Value(uniform(CONSTANT, call["self"].ndim)) if source is None else follower.memory.value(source)


def _write(follower: Follower, call: Call, value: Value, axes: list[int], indices: list[Tensor]) -> list[Value]:
    if follower.storages.find(call["self"]) is not None or any(has_units(follower.memory.value(of).labels) for of in indices):
        return unknown(follower, call)
    values = [follower.memory.value(call["self"]), value]
    if any(of.labels.shape[axis] > 1 for of in values for axis in axes):
        return unknown(follower, call)
    labels = combine(follower, *(of.labels for of in values), added=True)
    computed = frozenset() if bool((labels != CONSTANT).any()) else values[0].computed | value.computed
    return [Value(labels, merged(values, None), computed=computed)]


def copy(follower: Follower, call: Call) -> list[Value]:
    """One tensor written into another."""
    written, source = call.tensors
    weights = follower.storages.find(source)
    if weights is not None or follower.storages.find(written) is not None:
        return unknown(follower, call)
    value = follower.memory.value(source)
    return [Value(aligned(value.labels, written.ndim), dict(value.paths))]


def concatenate(follower: Follower, call: Call) -> list[Value]:
    """``cat`` and ``stack``: each tensor keeps its units."""
    parts, values = [], []
    computed: set[str] = set()
    beside_weights = False
    for tensor in call.tensors:
        weights = follower.storages.find(tensor)
        value = Value(uniform(CONSTANT, tensor.ndim)) if weights else follower.memory.value(tensor)
        if weights:
            follower.otherwise.setdefault(weights.name, call.name)
            computed.add(weights.name)
        computed |= value.computed
        if tensor.ndim == 1 and tensor.numel() == 0 and call.name == "cat":  # torch lets it pass
            continue
        beside_weights |= weights is not None  # whose signs may change
        values.append(value)
        parts.append((value.labels, tensor.shape))
    axis = call.arguments.get("dim", 0)
    labels, shapes = [of for of, _ in parts], [tuple(shape) for _, shape in parts]
    if call.name == "stack":
        axis %= call.returned[0].ndim
        labels = [of.unsqueeze(axis) for of in labels]
        shapes = [(*shape[:axis], 1, *shape[axis:]) for shape in shapes]
    paths = merged(values)
    together = concatenated(labels, shapes, axis)
    names = frozenset() if bool((together != CONSTANT).any()) else frozenset(computed)
    return [Value(together, signed(paths) if beside_weights else paths, computed=names)]


def look_up(follower: Follower, call: Call) -> list[Value]:
    """Rows of a table by indices: data."""
    return [Value(uniform(DATA, value.labels.ndim)) for value in mix(follower, call, f"reach '{call.name}'")]


def constants(follower: Follower, call: Call) -> list[Value]:  # noqa: ARG001
    """Tensors that take their shape alone from another."""
    return [Value(uniform(CONSTANT, tensor.ndim)) for tensor in call.returned]
