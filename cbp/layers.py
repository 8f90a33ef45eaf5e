"""Finds a model's hidden layers: incoming weights, activation, outgoing weights, and a norm between.

The forward pass is traced symbolically (``torch.fx``), so layers are found by how values flow and not by the order or the
names of attributes: ``Sequential``, nested modules, functional activations and several heads on a trunk are all alike.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


class LayerError(ValueError):
    """The hidden layers of a model cannot be found, or do not fit together. The message names the layer."""


Weighted = nn.Linear | nn.Conv2d
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
Norm = nn.LayerNorm | nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """The modules around the units of one hidden layer. A convolution's units are its output channels.

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
        object.__setattr__(self, "outgoing", tuple(self.outgoing))
        object.__setattr__(self, "norms", tuple(self.norms))
        if not self.outgoing:
            raise LayerError(f"layer '{self.name}' has no outgoing layer")
        for layer in (self.incoming, *self.outgoing):
            if not isinstance(layer, Weighted):
                raise LayerError(f"layer '{self.name}' must lie between Linear or Conv2d layers, got a {type(layer).__name__}")
        for layer in self.outgoing:
            self._check_outgoing(layer)
        for norm in self.norms:
            self._check_norm(norm)

    def _check_outgoing(self, layer: Weighted) -> None:
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1:
                raise LayerError(
                    f"layer '{self.name}' is followed by a convolution in {layer.groups} groups, which is not supported yet"
                )
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

    @property
    def non_negative(self) -> bool:
        """Whether what the outgoing layers receive is known to be never below zero."""
        return self.activation in ("relu", "relu6", "sigmoid", "hardsigmoid", "softplus") and not self.norms

    @property
    def incoming_weight(self) -> Tensor:
        """``(units, inputs)``; the inputs of a convolution are channels × kernel."""
        return self.incoming.weight.flatten(1)

    def outgoing_weight(self, k: int) -> Tensor:
        """Weights of the ``k``-th outgoing layer, units last.

        ``(outputs, units)`` of a Linear, ``(outputs · kernel, units)`` of a convolution, and ``(positions, outputs, units)`` of
        a Linear layer behind a flattening.
        """
        weight = self.outgoing[k].weight
        if weight.ndim > 2:
            return weight.movedim(1, -1).reshape(-1, self.units)
        return weight if self.columns(k) == 1 else weight.reshape(len(weight), self.units, -1).movedim(-1, 0)

    def columns(self, k: int) -> int:
        """How many columns of the ``k``-th outgoing layer each unit feeds: its positions, behind a flattening; else 1."""
        return self.outgoing[k].weight.shape[1] // self.units

    def columns_of(self, units: Tensor, k: int) -> Tensor:
        """The columns of the ``k``-th outgoing layer that some units feed."""
        columns = self.columns(k)
        return units if columns == 1 else (units[:, None] * columns + torch.arange(columns, device=units.device)).flatten()


class Tap:
    """Forward pre-hook that keeps the last input a layer received in training mode with gradients on.

    It holds no reference to anything else, so a deep copy or a pickle of a tapped model (a target network, say) stays as
    small as the model; a copy of model and method together keeps them connected.
    """

    def __init__(self) -> None:
        self.received: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the input; the signature is that of a torch forward pre-hook with keyword arguments."""
        if module.training and torch.is_grad_enabled():
            self.received = args[0] if args else kwargs["input"]

    def __reduce__(self) -> tuple[type[Tap], tuple[()]]:
        return (Tap, ())

    @classmethod
    def on(cls, module: nn.Module) -> Tap:
        """A new tap on what ``module`` receives."""
        tap = cls()
        module.register_forward_pre_hook(tap, with_kwargs=True)
        return tap


# What acts on each unit by itself (dropout, reshaping of batch dimensions and norms count: one value in, one value out, for
# every unit). The value is the activation's name, None for what leaves it as it is.
_UNITWISE_MODULES: dict[type[nn.Module], str | None] = {
    nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.SELU: "selu",
    nn.GELU: "gelu", nn.ELU: "elu", nn.CELU: "celu", nn.SiLU: "silu", nn.Mish: "mish", nn.Softplus: "softplus",
    nn.Softsign: "softsign", nn.ReLU6: "relu6", nn.Hardtanh: "hardtanh", nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid", nn.LogSigmoid: "logsigmoid", nn.Tanhshrink: "tanhshrink", nn.PReLU: "prelu",
    nn.RReLU: "rrelu", nn.Threshold: "threshold",
    nn.Identity: None, nn.Dropout: None, nn.AlphaDropout: None, nn.FeatureAlphaDropout: None, nn.Flatten: None,
    nn.LayerNorm: None, nn.BatchNorm1d: None, nn.BatchNorm2d: None,
}  # fmt: skip
# On maps of a convolution also what pools positions.
_POOLING_MODULES = {
    nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout2d, nn.Upsample,
    nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
}  # fmt: skip
_POOLING_FUNCTIONS: set[Callable[..., Any]] = {
    F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.dropout2d, F.interpolate,
    torch.max_pool2d,
}  # fmt: skip
_UNITWISE_FUNCTIONS: dict[Callable[..., Any], str | None] = {
    torch.relu: "relu", F.relu: "relu", F.leaky_relu: "leaky_relu", torch.tanh: "tanh", F.tanh: "tanh",
    torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid", F.selu: "selu", torch.selu: "selu", F.gelu: "gelu", F.elu: "elu",
    F.celu: "celu", F.silu: "silu", F.mish: "mish", F.softplus: "softplus", F.softsign: "softsign", F.relu6: "relu6",
    F.hardtanh: "hardtanh", F.hardswish: "hardswish", F.hardsigmoid: "hardsigmoid", F.logsigmoid: "logsigmoid",
    F.dropout: None, F.alpha_dropout: None, torch.flatten: None,
    torch.sin: "sin", torch.abs: "abs", torch.square: "square", torch.exp: "exp", torch.clamp: "clamp",
    torch.relu_: "relu", F.relu_: "relu",
}  # fmt: skip
_UNITWISE_METHODS: dict[str, str | None] = {
    "relu": "relu", "relu_": "relu", "tanh": "tanh", "tanh_": "tanh", "sigmoid": "sigmoid", "clamp": "clamp",
    "flatten": None, "contiguous": None, "float": None, "double": None, "clone": None,
}  # fmt: skip

_ARITHMETIC = {
    operator.mul, operator.add, operator.sub, operator.truediv, operator.neg, operator.pow, operator.iadd, operator.isub,
    operator.imul, operator.itruediv, torch.mul, torch.add,
}  # fmt: skip
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_MIXING_FUNCTIONS = {
    F.linear, F.bilinear, F.conv2d, torch.conv2d, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.einsum,
    operator.matmul, "matmul", "mm", "bmm",
}  # fmt: skip


_SHAPE_QUERIES = {"size", "dim", "numel", "shape", "device", "dtype", "ndim"}


@dataclass
class _Value:
    """What a traced value is made of.

    ``source`` is the one layer whose units it carries, each by itself, or None; ``mixed`` are the layers that reached it in
    any other way, ``summed`` if that way is addition, unit by unit, as in a residual network. ``maps`` says whether each unit
    is a map of positions, as behind a convolution.
    """

    source: str | None = None
    activation: str | None = None
    norms: tuple[Norm, ...] = ()
    mixed: frozenset[str] = frozenset()
    maps: bool = False
    summed: bool = False

    @property
    def layers(self) -> frozenset[str]:
        return self.mixed | ({self.source} if self.source else frozenset())


_SHAPE = _Value()  # a number that tells of a shape, and of no unit


@dataclass
class _Found:
    module: Weighted
    activation: str | None = None
    norms: list[Norm] = field(default_factory=list)
    outgoing: list[Weighted] = field(default_factory=list)
    elsewhere: str | None = None  # what else receives the units, in words
    summed: bool = False

    def as_hidden_layer(self, name: str) -> HiddenLayer:
        if self.elsewhere:
            raise LayerError(f"the units of layer '{name}' reach {self.elsewhere} besides the layers behind them")
        return HiddenLayer(self.module, tuple(self.outgoing), name, self.activation, tuple(dict.fromkeys(self.norms)))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Weighted) or super().is_leaf_module(m, module_qualified_name)


def find_layers(model: nn.Module) -> list[HiddenLayer]:
    """Finds the hidden layers of a model made of Linear layers, convolutions and activations.

    Between two of them there may be activations (modules, functions or element-wise arithmetic), ``LayerNorm``, batch norms,
    dropout, flattening, and behind a ``Conv2d`` pooling. A layer whose values feed no other is an output layer. Layers whose
    units are added to those of others, as at the end of a residual block, are left out, with a warning that names them. No
    random number is drawn.

    Args:
        model: Any traceable module.

    Returns:
        The hidden layers in the order of the forward pass, named by their path in the model.

    Raises:
        LayerError: The forward pass cannot be traced, there are weights of another kind, a layer is used twice, its units also
            reach something else, or there is no hidden layer.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 2))
        >>> [(layer.name, layer.units, layer.activation) for layer in find_layers(model)]
        [('0', 8, 'relu'), ('3', 16, 'tanh')]
    """
    with _traced(model) as graph:
        found = _find(model, graph)
    hidden = [layer.as_hidden_layer(name) for name, layer in found.items() if layer.outgoing and not layer.summed]
    summed = ", ".join(f"'{name}'" for name, layer in found.items() if layer.outgoing and layer.summed)
    why = f"the units of {summed} are added to those of others, so that no weight is theirs alone to begin anew"
    if not hidden:
        raise LayerError(
            f"{type(model).__name__} has no hidden layer: it needs a Linear or Conv2d layer that feeds another, found "
            f"{sorted(found) or 'no such layer'}" + (f"; {why}" if summed else "")
        )
    if summed:
        warnings.warn(f"some layers are left out: {why}", stacklevel=2)
    return hidden


@contextmanager
def _traced(model: nn.Module) -> Iterator[fx.Graph]:
    """The graph of the forward pass. Leaves no trace on the model or on torch's random state."""
    before = set(vars(model))
    try:
        with torch.random.fork_rng(devices=[]):  # a forward pass may draw numbers that do not depend on its input
            yield _trace(model)
    finally:
        for name in set(vars(model)) - before:  # the tracer hangs tensors that forward() makes onto the model
            delattr(model, name)


def _trace(model: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:  # whatever the model's own forward raises under tracing
        raise LayerError(
            f"the forward pass of {type(model).__name__} cannot be traced ({error}); give its hidden layers: "
            "layers=[cbp.HiddenLayer(model.first, [model.second]), …]"
        ) from error


def _find(model: nn.Module, graph: fx.Graph) -> dict[str, _Found]:
    """The Linear layers and convolutions in the order of the forward pass, each with what receives its units."""
    found: dict[str, _Found] = {}
    values: dict[fx.Node, _Value] = {}
    for node in graph.nodes:
        given = [values[n] for n in node.all_input_nodes]
        inputs = [value for value in given if value is not _SHAPE]
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        source = _common_source(inputs)
        if isinstance(module, Weighted):
            values[node] = _pass_weighted(str(node.target), module, inputs[0], found)
        elif _asks_for_shape(node) or (given and not inputs):
            values[node] = _SHAPE
        elif source and source.maps and _flattens(node, module):
            values[node] = replace(source, maps=False)
        elif source and _is_unitwise(node, module, source):
            values[node] = _pass_unitwise(node, module, source)
        elif _is_sum(node, inputs):
            values[node] = _pass_sum(inputs, found)
        elif len(inputs) == 1 and inputs[0].summed and (_flattens(node, module) or _is_unitwise(node, module, inputs[0])):
            values[node] = inputs[0]
        else:
            reached = frozenset().union(*(value.layers for value in inputs))
            _refuse_other_weights(node, module, reached)
            place = "the model's output" if node.op == "output" else f"'{_describe(node)}'"
            for name in reached:
                found[name].elsewhere = found[name].elsewhere or place
            values[node] = _Value(mixed=reached)
    return found


def _is_sum(node: fx.Node, inputs: list[_Value]) -> bool:
    return node.target in _SUMS and len(inputs) > 1 and all(value.source or value.summed for value in inputs)


def _pass_sum(inputs: list[_Value], found: dict[str, _Found]) -> _Value:
    reached = frozenset().union(*(value.layers for value in inputs))
    for name in reached:
        found[name].summed = True
    return _Value(mixed=reached, maps=inputs[0].maps, summed=True)


def _refuse_other_weights(node: fx.Node, module: nn.Module | None, reached: frozenset[str]) -> None:
    """Weights that are of no known layer: a module with some, or a bare matrix that hidden units are multiplied with."""
    if module is not None and not isinstance(module, Norm) and any(True for _ in module.parameters()):
        raise LayerError(f"module '{node.target}' is a {type(module).__name__}, which is not supported yet")
    if reached and node.target in _MIXING_FUNCTIONS and (bare := [n for n in node.all_input_nodes if n.op == "get_attr"]):
        raise LayerError(
            f"'{bare[0].target}' multiplies the units of layer '{min(reached)}' without a Linear layer: not supported yet"
        )


def _pass_weighted(name: str, module: Weighted, received: _Value, found: dict[str, _Found]) -> _Value:
    for other, layer in found.items():
        if layer.module.weight is module.weight:
            shared = "" if other == name else f" (it shares its weights with '{other}')"
            raise LayerError(f"layer '{name}' is used more than once in the forward pass{shared}")
    if received.source and received.maps and isinstance(module, nn.Linear):
        raise LayerError(
            f"the units of layer '{received.source}' reach layer '{name}' as maps that are not flattened, so that it acts on "
            "positions and not on units"
        )
    if received.source:
        before = found[received.source]
        before.outgoing.append(module)
        before.activation = received.activation
        before.norms.extend(received.norms)
    elif received.summed:
        for summand in received.mixed:
            found[summand].outgoing.append(module)
    elif received.mixed:
        culprit = min(received.mixed)
        raise LayerError(
            f"the units of layer '{culprit}' reach layer '{name}' through {found[culprit].elsewhere}, "
            "which does not act on each unit by itself"
        )
    found[name] = _Found(module)
    return _Value(source=name, maps=isinstance(module, nn.Conv2d))


def _asks_for_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _SHAPE_QUERIES
    return node.target is getattr and node.args[1] in _SHAPE_QUERIES


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether maps ``(batch, units, height, width)`` become ``(batch, columns)``, the columns of each unit side by side."""
    if module is not None:
        return isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
    arguments: tuple[Any, ...] = node.args[1:]
    if node.target in ("flatten", torch.flatten):
        return (*arguments, *node.kwargs.values()) in ((1,), (1, -1))
    if node.target in ("view", "reshape", torch.reshape):
        shape = arguments[0] if arguments and isinstance(arguments[0], list | tuple) else arguments
        return len(shape) == 2
    if node.target in ("mean", torch.mean):
        dims: Any = arguments[0] if arguments else node.kwargs.get("dim")
        keeps = node.kwargs.get("keepdim", len(arguments) > 1 and arguments[1])
        return isinstance(dims, list | tuple) and sorted(dim % 4 for dim in dims) == [2, 3] and not keeps
    return False


def _is_unitwise(node: fx.Node, module: nn.Module | None, source: _Value) -> bool:
    if module is not None:
        return (type(module) in _UNITWISE_MODULES and not (source.maps and isinstance(module, nn.Flatten))) or (
            source.maps and type(module) in _POOLING_MODULES
        )
    if source.maps and (node.target in _POOLING_FUNCTIONS or node.target in ("flatten", torch.flatten)):
        return node.target in _POOLING_FUNCTIONS
    return (node.op == "call_function" and (node.target in _UNITWISE_FUNCTIONS or node.target in _ARITHMETIC)) or (
        node.op == "call_method" and node.target in _UNITWISE_METHODS
    )


def _common_source(inputs: list[_Value]) -> _Value | None:
    """The first of the values, where all carry the units of one layer, each by itself."""
    sources = {value.source for value in inputs}
    return inputs[0] if len(sources) == 1 and None not in sources else None


def _pass_unitwise(node: fx.Node, module: nn.Module | None, before: _Value) -> _Value:
    if module is not None:
        activation = _UNITWISE_MODULES.get(type(module)) or before.activation
    elif node.target in _ARITHMETIC:
        activation = None  # no activation with a name
    elif node.op == "call_function":
        activation = _UNITWISE_FUNCTIONS.get(node.target) or before.activation  # type: ignore[arg-type]
    else:
        activation = _UNITWISE_METHODS[str(node.target)] or before.activation
    norms = before.norms + ((module,) if isinstance(module, Norm) else ())
    return replace(before, activation=activation, norms=norms)


def _describe(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))
