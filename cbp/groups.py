"""Groups of units: what belongs to each unit of a hidden layer, wherever in the model it lies.

A unit may be a row of a Linear layer, a channel of a convolution, three rows of a GRU, or a row of each half of a gated layer.
To the code that replaces units, all are alike: slices of tensors that are drawn anew, slices that are set to a value, and
slices of the weights that receive the unit, which are zeroed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


class LayerError(ValueError):
    """The hidden layers of a model cannot be found, or do not fit together. The message names the layer."""


NON_NEGATIVE = ("relu", "relu6", "sigmoid", "hardsigmoid", "softplus")


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of a parameter or buffer that belong to the units of a group, along one dimension.

    Attributes:
        module: The module that owns the tensor. The tensor is looked up when it is needed, since a module may be moved.
        attribute: Its name there.
        dim: The dimension that the slices are taken along.
        index: ``(units, k)`` int64, the ``k`` slices of each unit.
        within: ``(dimension, start, length)`` of other dimensions to which the slices are restricted.
        blocks: How many groups a convolution is in. Its weight has in dimension 1 the inputs of one group alone; here they are
            counted through all groups, and each has the rows of its own.
        in_order: Whether the slices are all there are, unit by unit.
        per_unit: How many slices each unit has.
    """

    module: nn.Module
    attribute: str
    dim: int
    index: Tensor
    within: tuple[tuple[int, int, int], ...] = ()
    blocks: int = 1
    in_order: bool = field(init=False)
    per_unit: int = field(init=False)

    @property
    def tensor(self) -> Tensor:
        """The whole parameter or buffer."""
        tensor: Tensor = getattr(self.module, self.attribute)
        return tensor

    @property
    def is_there(self) -> bool:
        """Whether the module still has the tensor: one that was pruned when its units were found may not be any more."""
        if not self.computed:
            return True
        return self.attribute in vars(self.module) or hasattr(type(self.module), self.attribute)  # and not computed for that

    @property
    def computed(self) -> bool:
        """Whether the tensor is no parameter and no buffer, but is computed from others, as pruning and normalisation do."""
        return self.attribute not in self.module._parameters and self.attribute not in self.module._buffers

    @property
    def of_maps(self) -> bool:
        """Whether the tensor has kernels, so that each of its columns is multiplied with a map and not with one value."""
        return self.tensor.ndim - sum(length == 1 for _, _, length in self.within) > 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_unit", self.index.shape[1])
        size = self.index.numel()
        in_order = size == self.tensor.shape[self.dim] * self.blocks and torch.equal(self.index.flatten(), torch.arange(size))
        object.__setattr__(self, "in_order", in_order)

    def view(self, tensor: Tensor | None = None) -> Tensor:
        """The tensor, or another of its shape, restricted to where the slices lie: a view."""
        view = self.tensor if tensor is None else tensor
        for dim, start, length in self.within:
            view = view.narrow(dim, start, length)
        return view

    def of(self, units: Tensor) -> Tensor:
        """The slices of some units, unit by unit: int64, on the units' device."""
        if self.in_order and self.per_unit == 1:
            return units
        return self.index.to(units.device)[units].flatten()

    def fill(self, units: Tensor, value: float, tensor: Tensor | None = None) -> None:
        """Sets the slices of some units to a value, in place; of another tensor of the same shape, if it is given."""
        if self.blocks > 1:
            view, index = self._by_block(tensor), self.of(units)
            view[index // view.shape[1], index % view.shape[1]] = value
            return
        view = self.view(tensor)
        view.index_fill_(self.dim, self.of(units).to(view.device), value)

    def copy(self, units: Tensor, to: Tensor) -> None:
        """Copies the slices of some units into another tensor of the same shape, in place."""
        if self.blocks > 1:
            view, other = self._by_block(), self._by_block(to)
            index = self.of(units).to(view.device)
            block, column = index // view.shape[1], index % view.shape[1]
            other[block.to(to.device), column.to(to.device)] = view[block, column].to(to)
            return
        view = self.view()
        index = self.of(units).to(view.device)
        self.view(to).index_copy_(self.dim, index.to(to.device), view.index_select(self.dim, index).to(to))

    def _by_block(self, tensor: Tensor | None = None) -> Tensor:
        """``(groups, inputs of a group, outputs of a group, …)``: a view."""
        view = self.tensor if tensor is None else tensor
        return view.reshape(self.blocks, -1, *view.shape[1:]).movedim(2, 1)  # no copy: one dimension is split

    def units_first(self, tensor: Tensor | None = None) -> Tensor:
        """``(units, …)``, the numbers of each unit; of another tensor of the same shape, if it is given."""
        view = self.view(tensor).movedim(self.dim, 0)
        if not self.in_order:
            view = view[self.index.flatten().to(view.device)]
        return view.flatten(1) if self.per_unit == 1 else view.reshape(len(self.index), -1)

    def units_last(self) -> Tensor:
        """``(outputs, units)``, or ``(k, outputs, units)`` where each unit has ``k`` > 1 slices: its positions, say."""
        view = self.view()
        if self.blocks > 1:
            view = self._by_block().flatten(0, 1).flatten(1).T
        elif view.ndim != 2 or self.dim != 1:
            view = view.movedim(self.dim, -1).reshape(-1, view.shape[self.dim])
        if not self.in_order:
            view = view.index_select(-1, self.index.flatten().to(view.device))
        return view if self.per_unit == 1 else view.reshape(len(view), len(self.index), -1).movedim(-1, 0)


@dataclass(frozen=True, eq=False)
class Place:
    """Where the values of units can be seen: at what a module receives or returns.

    Attributes:
        module: The module.
        returned: Whether it returns the values; else it receives them.
        key: Position or name of the argument, position or key in what is returned, a tuple of them where it is nested, or None
            for what is returned itself.
        axis: The axis of the units, counted from the last, −1.
        index: ``(units, k)`` int64, where the units' values are along it.
        within: ``(axis, start, length)`` of other axes, counted from the last too, to which the units are restricted.
        size: Of the axis, where it is known.
        calls: How often the units pass there in one forward pass, as in an encoder of two inputs.
    """

    module: nn.Module
    returned: bool
    key: int | str | tuple[int, ...] | None
    axis: int
    index: Tensor
    within: tuple[tuple[int, int, int], ...] = ()
    size: int | None = None
    calls: int = 1
    _in_order: bool = field(init=False, repr=False)
    _shape: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_in_order", torch.equal(self.index.flatten(), torch.arange(self.index.numel())))
        object.__setattr__(self, "_shape", tuple(self.index.shape))

    def as_batch(self, h: Tensor) -> Tensor | None:
        """What was seen there as ``(batch, units)``, or ``(batch, values, units)`` where a unit has several values.

        These are the positions of a map, and of units that have several maps one map after the other. None if it has another
        form than the units were found in.
        """
        size = h.shape[self.axis] if h.ndim >= -self.axis else None
        if size is None or self.size not in (None, size):
            return None
        for axis, start, length in self.within:
            if h.ndim < -axis or h.shape[axis] < start + length:
                return None
            h = h.narrow(axis, start, length)
        units, k = self._shape
        whole = self._in_order and size == units * k
        if self.axis < -1:
            h = h.reshape(-1, size, h.shape[self.axis + 1 :].numel()).transpose(1, 2)
        elif h.ndim != 2:
            h = h.reshape(-1, size)
        if not whole:
            h = h.index_select(-1, self.index.flatten().to(h.device))
        if k > 1:
            h = h.reshape(*h.shape[:-1], units, k).movedim(-1, 1)
            h = h.flatten(1, 2) if h.ndim == 4 else h
        return h


@dataclass(frozen=True, eq=False)
class Edge:
    """One way on which units have an effect: outgoing weights, and what they are multiplied with.

    Attributes:
        weights: The columns that the units feed.
        place: Where what they receive can be seen.
        activation: Lower-case name of the last activation on the way, in the words of ``torch.nn.init.calculate_gain`` where it
            has one (``"relu"``, ``"tanh"``, …); None where it is not known or there is none.
        norms: Whether a norm lies on the way.
    """

    weights: Slices
    place: Place
    activation: str | None = None
    norms: bool = False

    @property
    def non_negative(self) -> bool:
        """Whether what arrives is known to be never below zero."""
        return self.activation in NON_NEGATIVE and not self.norms


@dataclass(frozen=True, eq=False)
class Group:
    """The units of one hidden layer.

    Attributes:
        name: What messages and logs call it: the path of the layer that computes the units.
        units: How many.
        fresh: What is drawn anew when a unit is replaced: its incoming weights.
        fixed: What is set to a value then: biases to 0, a norm's weight to 1, a batch norm's statistics to 0 and 1,
            any other weight of its own, such as a slope, to the mean at the moment the units were found.
        edges: Its outgoing weights, which are zeroed, each with where its activation is seen.
        norms: The modules of the norms between, in which the units have weights or which couple them.
        coupled: Whether a norm's statistics are over several units, so that replacing one of them changes the others.
        fan_in: Inputs of a unit, as the distributions of fresh weights count them; None for those of the weights.
    """

    name: str
    units: int
    fresh: tuple[Slices, ...]
    fixed: tuple[tuple[Slices, float], ...]
    edges: tuple[Edge, ...]
    norms: tuple[nn.Module, ...] = ()
    coupled: bool = False
    fan_in: int | None = None

    @property
    def incoming(self) -> Any:
        """The layer that computes the units, or the first where several do: a module."""
        return self.fresh[0].module

    @property
    def outgoing(self) -> tuple[Any, ...]:
        """The modules of the outgoing weights, edge by edge."""
        return tuple(edge.weights.module for edge in self.edges)

    @property
    def activation(self) -> str | None:
        """The activation, where it is the same on all edges; else None."""
        names = {edge.activation for edge in self.edges}
        return next(iter(names)) if len(names) == 1 else None

    @property
    def incoming_weight(self) -> Tensor:
        """``(units, inputs)``; the inputs of a convolution are channels × kernel."""
        parts = [slices.units_first() for slices in self.fresh]
        return parts[0] if len(parts) == 1 else torch.cat([part.to(parts[0].device) for part in parts], dim=1)

    def outgoing_weight(self, k: int) -> Tensor:
        """Weights of the ``k``-th edge, units last.

        ``(outputs, units)``, with outputs × kernel for a convolution; ``(positions, outputs, units)`` where each unit feeds
        several columns, as behind a flattening.
        """
        return self.edges[k].weights.units_last()

    def columns(self, k: int) -> int:
        """How many columns of the ``k``-th edge each unit feeds: its positions, behind a flattening; else 1."""
        return self.edges[k].weights.per_unit

    def written(self) -> tuple[Slices, ...]:
        """All that a replacement writes."""
        return (*self.fresh, *(slices for slices, _ in self.fixed), *(edge.weights for edge in self.edges))


def computed(group: Group) -> str | None:
    """Which tensor of those that a replacement writes is computed from others, so that this is lost; None if none is."""
    of = next((slices for slices in group.written() if slices.computed), None)
    if of is None:
        return None
    return f"layer '{group.name}' has a {type(of.module).__name__} whose {of.attribute} is computed from other tensors"


Weighted = nn.Linear | nn.Conv2d
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
Norm = nn.LayerNorm | BatchNorm


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """The modules around the units of one hidden layer, said by hand. A convolution's units are its output channels.

    Attributes:
        incoming: The layer that computes the units, a Linear or a Conv2d.
        outgoing: Every layer that receives them: Linear layers behind a Linear; behind a Conv2d others, or Linear layers behind
            a flattening, where each unit feeds one column for each of its positions.
        name: What messages and logs call the layer.
        activation: Lower-case name of the activation in the words of ``torch.nn.init.calculate_gain`` where it has one
            (``"relu"``, ``"tanh"``, ``"leaky_relu"``, …); ``None`` where it is not known or there is none.
        norms: Layer and batch norms over the units, between ``incoming`` and ``outgoing``.
        fan_in: Inputs of a unit, as the distributions of fresh weights count them; None for those of ``incoming``.

    Raises:
        LayerError: A width does not match, a kind of layer is not supported, or there is no outgoing layer.
    """

    incoming: Weighted
    outgoing: tuple[Weighted, ...]
    name: str = "hidden"
    activation: str | None = None
    norms: tuple[Norm, ...] = ()
    fan_in: int | None = None

    def __post_init__(self) -> None:
        for name in ("outgoing", "norms"):
            modules = getattr(self, name)
            if isinstance(modules, nn.Module) or not isinstance(modules, Iterable):
                raise LayerError(f"{name} of layer '{self.name}' must be a list of modules, got a {type(modules).__name__}")
            object.__setattr__(self, name, tuple(modules))
        if not self.outgoing:
            raise LayerError(f"layer '{self.name}' has no outgoing layer")
        for layer in (self.incoming, *self.outgoing):
            if not isinstance(layer, Weighted):
                raise LayerError(f"layer '{self.name}' must lie between Linear or Conv2d layers, got a {type(layer).__name__}")
            if getattr(layer.forward, "__func__", None) not in (nn.Linear.forward, nn.Conv2d.forward):
                raise LayerError(
                    f"layer '{self.name}' must lie between Linear or Conv2d layers as torch runs them, got a "
                    f"{type(layer).__name__} with a forward of its own: let it be found"
                )
        for layer in self.outgoing:
            self._check_outgoing(layer)
        for norm in self.norms:
            self._check_norm(norm)

    def _check_outgoing(self, layer: Weighted) -> None:
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1:
                raise LayerError(f"layer '{self.name}' is followed by a convolution in {layer.groups} groups: let it be found")
            received, fits = layer.in_channels, layer.in_channels == self.units
        else:
            of_positions = isinstance(self.incoming, nn.Conv2d) and layer.in_features % self.units == 0
            received, fits = layer.in_features, layer.in_features == self.units or of_positions
        if not fits:
            raise LayerError(
                f"layer '{self.name}' has {self.units} units, but an outgoing layer receives {received} values: "
                "every value it receives must be one unit"
            )

    def _check_norm(self, norm: Norm) -> None:
        if not isinstance(norm, Norm):
            raise LayerError(
                f"norms of layer '{self.name}' must be LayerNorm, BatchNorm1d or BatchNorm2d, got a {type(norm).__name__}: let "
                "the layer be found"
            )
        if isinstance(norm, nn.LayerNorm):
            # Of a convolution, over channels and positions together: its affine weights are (channels, height, width).
            fits = norm.normalized_shape[0] == self.units
            fits &= len(norm.normalized_shape) == (3 if isinstance(self.incoming, nn.Conv2d) else 1)
            shape = str(norm.normalized_shape)
        else:
            fits, shape = norm.num_features == self.units, f"({norm.num_features},)"
        if not fits:
            raise LayerError(
                f"layer '{self.name}' has {self.units} units, but the {type(norm).__name__} behind it has shape {shape}"
            )

    @property
    def units(self) -> int:
        """Number of units."""
        return self.incoming.weight.shape[0]

    def as_group(self) -> Group:
        """The same as a group of units."""
        return Group(
            name=self.name,
            units=self.units,
            fresh=(self._slices(self.incoming, "weight"),),
            fixed=tuple(self._fixed()),
            edges=tuple(self._edge(layer) for layer in self.outgoing),
            norms=self.norms,
            coupled=any(isinstance(norm, nn.LayerNorm) for norm in self.norms),
            fan_in=self.fan_in,
        )

    def _slices(self, module: nn.Module, attribute: str, dim: int = 0, per_unit: int = 1) -> Slices:
        return Slices(module, attribute, dim, torch.arange(self.units * per_unit).view(self.units, per_unit))

    def _fixed(self) -> list[tuple[Slices, float]]:
        values = [(self.incoming, "bias", 0.0)]
        for norm in self.norms:
            values += [(norm, "weight", 1.0), (norm, "bias", 0.0)]  # type: ignore[list-item]
        for norm in self.norms:
            if isinstance(norm, BatchNorm):
                values += [(norm, "running_mean", 0.0), (norm, "running_var", 1.0)]  # type: ignore[list-item]
        return [(self._slices(module, name), value) for module, name, value in values if getattr(module, name) is not None]

    def _edge(self, layer: Weighted) -> Edge:
        weights = self._slices(layer, "weight", 1, layer.weight.shape[1] // self.units)
        axis = -3 if isinstance(layer, nn.Conv2d) else -1
        place = Place(layer, False, 0, axis, weights.index)
        return Edge(weights, place, self.activation, bool(self.norms))


def given(layers: Any, model: nn.Module) -> list[Group]:
    """Hidden layers that are given by hand, as groups.

    Raises:
        TypeError: They are no list of hidden layers.
        LayerError: There is none, or one is of another model.
    """
    allowed = "layers must be a list of cbp.HiddenLayer or of what cbp.find_layers returns"
    if not isinstance(layers, Iterable):
        raise TypeError(f"{allowed}, got a {type(layers).__name__}")
    layers = list(layers)
    if not layers:
        raise LayerError("no hidden layer was given")
    modules = set(model.modules())
    groups: list[Group] = []
    for layer in layers:
        if not isinstance(layer, HiddenLayer | Group):
            raise TypeError(f"{allowed}, got a {type(layer).__name__} in it")
        group = layer.as_group() if isinstance(layer, HiddenLayer) else layer
        if foreign := next((slices.module for slices in group.written() if slices.module not in modules), None):
            raise LayerError(f"layer '{group.name}' has a {type(foreign).__name__} that is not in this {type(model).__name__}")
        groups.append(group)
    return groups
