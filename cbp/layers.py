"""Finds a model's hidden layers: incoming weights, activation, outgoing weights, and a norm between.

The forward pass is traced symbolically (``torch.fx``), so layers are found by how values flow and not by the order or the
names of attributes: ``Sequential``, nested modules, functional activations and several heads on a trunk are all alike.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


class LayerError(ValueError):
    """The hidden layers of a model cannot be found, or do not fit together. The message names the layer."""


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """The modules around the units of one hidden layer.

    Attributes:
        incoming: The layer that computes the units, ``units = incoming.out_features``.
        outgoing: Every layer that receives them, each with ``in_features == units``.
        name: What messages and logs call the layer.
        activation: Lower-case name of the activation in the words of ``torch.nn.init.calculate_gain`` where it has one
            (``"relu"``, ``"tanh"``, ``"leaky_relu"``, …); ``None`` where it is not known or there is none.
        norms: Layer norms over the units, between ``incoming`` and ``outgoing``.

    Raises:
        LayerError: A width does not match, or there is no outgoing layer.
    """

    incoming: nn.Linear
    outgoing: tuple[nn.Linear, ...]
    name: str = "hidden"
    activation: str | None = None
    norms: tuple[nn.LayerNorm, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "outgoing", tuple(self.outgoing))
        object.__setattr__(self, "norms", tuple(self.norms))
        if not self.outgoing:
            raise LayerError(f"layer '{self.name}' has no outgoing layer")
        for linear in (self.incoming, *self.outgoing):
            if not isinstance(linear, nn.Linear):
                raise LayerError(f"layer '{self.name}' must lie between Linear layers, got a {type(linear).__name__}")
        for linear in self.outgoing:
            if linear.in_features != self.units:
                raise LayerError(
                    f"layer '{self.name}' has {self.units} units, but an outgoing layer receives {linear.in_features} values: "
                    "every value it receives must be one unit"
                )
        for norm in self.norms:
            if norm.normalized_shape != (self.units,):
                raise LayerError(
                    f"layer '{self.name}' has {self.units} units, but the LayerNorm behind it has shape {norm.normalized_shape}"
                )

    @property
    def units(self) -> int:
        """Number of units."""
        return self.incoming.out_features

    @property
    def non_negative(self) -> bool:
        """Whether what the outgoing layers receive is known to be never below zero."""
        return self.activation in ("relu", "relu6", "sigmoid", "hardsigmoid", "softplus") and not self.norms


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
    nn.LayerNorm: None,
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
_MIXING_FUNCTIONS = {
    F.linear, F.bilinear, torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.einsum, operator.matmul, "matmul", "mm", "bmm",
}  # fmt: skip


@dataclass
class _Value:
    """What a traced value is made of.

    ``source`` is the one Linear whose units it carries, each by itself, or None; ``mixed`` are the layers that reached it in
    any other way.
    """

    source: str | None = None
    activation: str | None = None
    norms: tuple[nn.LayerNorm, ...] = ()
    mixed: frozenset[str] = frozenset()

    @property
    def layers(self) -> frozenset[str]:
        return self.mixed | ({self.source} if self.source else frozenset())


@dataclass
class _Linear:
    module: nn.Linear
    activation: str | None = None
    norms: list[nn.LayerNorm] = field(default_factory=list)
    outgoing: list[nn.Linear] = field(default_factory=list)
    elsewhere: str | None = None  # what else receives the units, in words

    def as_hidden_layer(self, name: str) -> HiddenLayer:
        if self.elsewhere:
            raise LayerError(f"the units of layer '{name}' reach {self.elsewhere} besides the layers behind them")
        return HiddenLayer(self.module, tuple(self.outgoing), name, self.activation, tuple(dict.fromkeys(self.norms)))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Linear) or super().is_leaf_module(m, module_qualified_name)


def find_layers(model: nn.Module) -> list[HiddenLayer]:
    """Finds the hidden layers of a model made of Linear layers and activations.

    Between two Linear layers there may be activations (modules, functions or element-wise arithmetic), ``LayerNorm``,
    dropout and flattening. A Linear layer whose values feed no other layer is an output layer. No random number is drawn.

    Args:
        model: Any traceable module.

    Returns:
        The hidden layers in the order of the forward pass, named by their path in the model.

    Raises:
        LayerError: The forward pass cannot be traced, there are weights that are no Linear layer's, a layer is used twice, its
            units also reach something other than Linear layers, or there is no hidden layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> [(layer.name, layer.units, layer.activation) for layer in find_layers(model)]
        [('0', 8, 'relu'), ('2', 8, 'tanh')]
    """
    with _traced(model) as graph:
        linears = _linears(model, graph)
    hidden = [linear.as_hidden_layer(name) for name, linear in linears.items() if linear.outgoing]
    if not hidden:
        raise LayerError(
            f"{type(model).__name__} has no hidden layer: it needs a Linear layer that feeds another, found "
            f"{sorted(linears) or 'no Linear layer'}"
        )
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


def _linears(model: nn.Module, graph: fx.Graph) -> dict[str, _Linear]:
    """The Linear layers in the order of the forward pass, each with what receives its units."""
    linears: dict[str, _Linear] = {}
    values: dict[fx.Node, _Value] = {}
    for node in graph.nodes:
        inputs = [values[n] for n in node.all_input_nodes]
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Linear):
            values[node] = _pass_linear(str(node.target), module, inputs[0], linears)
        elif _is_unitwise(node, module) and (source := _common_source(inputs)):
            values[node] = _pass_unitwise(node, module, source, inputs)
        else:
            reached = frozenset().union(*(value.layers for value in inputs))
            _refuse_other_weights(node, module, reached)
            place = "the model's output" if node.op == "output" else f"'{_describe(node)}'"
            for name in reached:
                linears[name].elsewhere = linears[name].elsewhere or place
            values[node] = _Value(mixed=reached)
    return linears


def _refuse_other_weights(node: fx.Node, module: nn.Module | None, reached: frozenset[str]) -> None:
    """Weights that are no Linear layer's: a module with some, or a bare matrix that hidden units are multiplied with."""
    if module is not None and not isinstance(module, nn.LayerNorm) and any(True for _ in module.parameters()):
        raise LayerError(f"module '{node.target}' is a {type(module).__name__}, which is not supported yet")
    if reached and node.target in _MIXING_FUNCTIONS and (bare := [n for n in node.all_input_nodes if n.op == "get_attr"]):
        raise LayerError(
            f"'{bare[0].target}' multiplies the units of layer '{min(reached)}' without a Linear layer: not supported yet"
        )


def _pass_linear(name: str, module: nn.Linear, received: _Value, linears: dict[str, _Linear]) -> _Value:
    for other, linear in linears.items():
        if linear.module.weight is module.weight:
            shared = "" if other == name else f" (it shares its weights with '{other}')"
            raise LayerError(f"layer '{name}' is used more than once in the forward pass{shared}")
    if received.source:
        before = linears[received.source]
        before.outgoing.append(module)
        before.activation = received.activation
        before.norms.extend(received.norms)
    elif received.mixed:
        culprit = min(received.mixed)
        raise LayerError(
            f"the units of layer '{culprit}' reach layer '{name}' through {linears[culprit].elsewhere}, "
            "which does not act on each unit by itself"
        )
    linears[name] = _Linear(module)
    return _Value(source=name)


def _is_unitwise(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return type(module) in _UNITWISE_MODULES
    return (node.op == "call_function" and (node.target in _UNITWISE_FUNCTIONS or node.target in _ARITHMETIC)) or (
        node.op == "call_method" and node.target in _UNITWISE_METHODS
    )


def _common_source(inputs: list[_Value]) -> str | None:
    """The one layer that all inputs carry the units of, if there is one."""
    sources = {value.source for value in inputs}
    return sources.pop() if len(sources) == 1 else None


def _pass_unitwise(node: fx.Node, module: nn.Module | None, source: str, inputs: list[_Value]) -> _Value:
    before = inputs[0]
    if module is not None:
        activation = _UNITWISE_MODULES[type(module)] or before.activation
    elif node.target in _ARITHMETIC:
        activation = None  # no activation with a name
    elif node.op == "call_function":
        activation = _UNITWISE_FUNCTIONS[node.target] or before.activation  # type: ignore[index]
    else:
        activation = _UNITWISE_METHODS[str(node.target)] or before.activation
    norms = before.norms + ((module,) if isinstance(module, nn.LayerNorm) else ())
    return _Value(source, activation, norms)


def _describe(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))
