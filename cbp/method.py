"""What methods against loss of plasticity share: when they act, their state, and how units are made anew."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.adam import Adam
from cbp.layers import BATCH_NORMS, HiddenLayer, LayerError, find_layers
from cbp.selection import renew, silence
from cbp.units import TrackedLayer

ResetOptimizer = Literal["none", "moments", "moments_and_step"]
Init = Literal["auto", "lecun", "kaiming", "xavier", "default"]

METHODS: dict[str, type[Method]] = {}
"""Every method by its name. ``class MyMethod(Method, name="my-method")`` adds one."""


class Method(ABC):
    """Acts around each update of an optimizer to keep a model plastic.

    A training loop calls :meth:`before_update` between ``loss.backward()`` and ``optimizer.step()``, and :meth:`step` after it.
    Both change weights, gradients and the optimizer's state in place and nothing else, so that any loop can carry any method.
    A method is made by ``Class(model, optimizer, **options)``; the options ``layers`` and ``seed``, where it has them, mean
    what they mean in :class:`ReplacingMethod`.

    Attributes:
        layers: What the method keeps of each hidden layer, in forward order; empty where it treats all weights alike.
    """

    layers: Sequence[TrackedLayer] = ()

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None and METHODS.setdefault(name, cls) is not cls:
            raise ValueError(f"there is a method '{name}' already: {METHODS[name].__module__}.{METHODS[name].__qualname__}")

    def before_update(self) -> None:  # noqa: B027  most methods act only afterwards
        """Acts on the gradients of the update that is about to be made."""

    @abstractmethod
    def step(self) -> list[Tensor]:
        """Acts after an update.

        Returns:
            For each of :attr:`layers` the indices of the units just replaced: int64, of shape ``(replaced,)``.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes with time, as tensors and numbers."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """


LayerType = TypeVar("LayerType", bound=TrackedLayer)


class ReplacingMethod(Method, Generic[LayerType]):
    """A method that makes units anew, each with fresh incoming weights, a zero bias and zero outgoing weights.

    A subclass says in :meth:`_judge` which units. Their values are those of the last forward pass in training mode with
    gradients on; a layer that this pass did not reach is left as it is. Each layer has a random generator of its own, so that
    layers may be treated one after the other or side by side; nothing is drawn from the global ones.

    Args:
        model: Any module whose hidden layers :func:`cbp.find_layers` finds; its forward pass is not changed.
        optimizer: The optimizer of the model's weights.
        reset_optimizer: What becomes of the optimizer's state for the weights of a replaced unit: ``"none"`` leaves it,
            ``"moments"`` zeroes every per-weight average, ``"moments_and_step"`` the step counts too, which needs
            :class:`cbp.Adam`.
        init: Distribution of fresh incoming weights, uniform on ±bound: ``"lecun"`` √(3/fan_in), ``"kaiming"``
            gain·√(3/fan_in), ``"xavier"`` gain·√(6/(fan_in+fan_out)), ``"default"`` √(1/fan_in) (torch's own for Linear), with
            the gain of the layer's activation; ``"auto"`` √3 times the root mean square of the layer's weights now.
        seed: Seed that the layers' generators are seeded from.
        layers: The hidden layers in forward order, where they cannot be found or only some shall be treated.

    Raises:
        ValueError: An option out of its range or an unknown name.
        TypeError: No optimizer, or ``"moments_and_step"`` with another than :class:`cbp.Adam`.
        LayerError: Hidden layers not found, of unequal widths, or with weights the optimizer does not hold.
    """

    layers: list[LayerType]

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        reset_optimizer: ResetOptimizer,
        init: Init,
        seed: int,
        layers: Sequence[HiddenLayer] | None,
    ) -> None:
        check_choice("reset_optimizer", reset_optimizer, ResetOptimizer)
        check_choice("init", init, Init)
        check_whole("seed", seed)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if reset_optimizer == "moments_and_step" and not isinstance(optimizer, Adam):
            raise TypeError(
                f"reset_optimizer='moments_and_step' needs cbp.Adam, which counts steps per element; got "
                f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
            )
        self.optimizer = optimizer
        self.reset_optimizer = reset_optimizer
        found = find_layers(model) if layers is None else list(layers)
        if not found:
            raise LayerError("no hidden layer was given")
        _check_optimizer_holds(optimizer, found)
        bounds = [_fresh_bound(layer, init) for layer in found]
        seeds = torch.randint(2**63 - 1, (len(found),), generator=torch.Generator().manual_seed(seed)).tolist()
        self.layers = [self._track(*layer) for layer in zip(found, bounds, seeds, strict=True)]

    @abstractmethod
    def _track(self, hidden: HiddenLayer, fresh_bound: float, seed: int) -> LayerType:
        """What is to be kept of a hidden layer, at the beginning."""

    @abstractmethod
    def _judge(self, layer: LayerType, received: list[Tensor]) -> Tensor:
        """Takes note of an update and returns the units to replace.

        Args:
            layer: The layer.
            received: What each of its outgoing layers received: ``(batch, units)`` each.

        Returns:
            Indices of units: int64, of shape ``(replaced,)``.
        """

    @torch.no_grad()
    def step(self) -> list[Tensor]:
        """Judges all units by the last forward pass and replaces those that are due.

        Returns:
            For each hidden layer, in forward order, the indices of the units just replaced: int64, of shape ``(replaced,)``.

        Raises:
            RuntimeError: No forward pass in training mode with gradients on since the last call.
        """
        received = [layer.take_received() for layer in self.layers]
        if not any(received):
            raise RuntimeError("step() found no forward pass since the last one: call the model in training mode, gradients on")
        # Every layer is judged by the weights that made this update, before any unit is replaced.
        replaced = [
            layer.nothing if h is None else self._judge(layer, h) for layer, h in zip(self.layers, received, strict=True)
        ]
        for layer, units in zip(self.layers, replaced, strict=True):
            if len(units):
                self._replace(layer, units)
        return replaced

    def _replace(self, layer: LayerType, units: Tensor) -> None:
        """Gives the units fresh incoming and zero outgoing weights, and forgets what was known about them."""
        hidden, bound = layer.hidden, layer.fresh_bound
        w_in, bias = hidden.incoming.weight, hidden.incoming.bias
        fresh = torch.empty((len(units), *w_in.shape[1:]), dtype=w_in.dtype)
        fresh.uniform_(-bound, bound, generator=layer.generator)
        renew((units,), w_in, fresh.to(w_in.device))
        self._reset_optimizer_state(w_in, 0, units)
        unitwise = [(bias, 0), *((norm.weight, 1) for norm in hidden.norms), *((norm.bias, 0) for norm in hidden.norms)]
        for parameter, value in unitwise:
            if parameter is not None:
                parameter.index_fill_(0, units, value)
                self._reset_optimizer_state(parameter, 0, units)
        for norm in hidden.norms:
            if isinstance(norm, BATCH_NORMS) and norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.index_fill_(0, units, 0)
                norm.running_var.index_fill_(0, units, 1)
        for k, outgoing in enumerate(hidden.outgoing):
            columns = hidden.columns_of(units, k)
            silence((columns,), outgoing.weight)
            self._reset_optimizer_state(outgoing.weight, 1, columns)
        layer.forget(units)

    def _reset_optimizer_state(self, parameter: Tensor, dim: int, units: Tensor) -> None:
        if self.reset_optimizer == "none":
            return
        for name, value in self.optimizer.state.get(parameter, {}).items():
            per_element = isinstance(value, Tensor) and value.shape == parameter.shape
            if per_element and (name != "step" or self.reset_optimizer == "moments_and_step"):
                value.index_fill_(dim, units, 0)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes with time, as tensors and numbers: what is known of each unit, counters, generators."""
        return {"layers": [layer.state_dict() for layer in self.layers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to a model with other hidden layers. Nothing is loaded then.
        """
        theirs, own = _shapes(state.get("layers", [])), _shapes([layer.state_dict() for layer in self.layers])
        if theirs != own:
            raise ValueError(f"the state is of hidden layers with {theirs}, this model has {own}")
        for layer, saved in zip(self.layers, state["layers"], strict=True):
            layer.load_state_dict(saved)


def _shapes(layers: list[dict[str, Any]]) -> list[dict[str, list[int]]]:
    return [{name: list(value.shape) for name, value in layer.items() if isinstance(value, Tensor)} for layer in layers]


def check_choice(option: str, value: object, choices: Any) -> None:
    """Refuses what is none of the values of a ``Literal``."""
    allowed = get_args(choices)
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"{option} must be one of {', '.join(allowed)}; got {value!r}{hint}")


def check_number(option: str, value: object, least: float, greatest: float = math.inf, *, below: float = math.inf) -> None:
    """Refuses what is no finite number of at least ``least``, at most ``greatest`` and under ``below``."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (abs(number) < math.inf and least <= number <= greatest and number < below):
        words = f">= {least:g}"
        if min(greatest, below) < math.inf:
            words = f"in [{least:g}, {greatest:g}]" if greatest < below else f"in [{least:g}, {below:g})"
        raise ValueError(f"{option} must be a finite number {words}, got {value!r}")


def check_whole(option: str, value: object, least: int | None = None) -> None:
    """Refuses what is no whole number, or one below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        raise ValueError(f"{option} must be a whole number{'' if least is None else f' >= {least}'}, got {value!r}")


def _check_optimizer_holds(optimizer: Optimizer, layers: list[HiddenLayer]) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for layer in layers:
        if not all(id(linear.weight) in held for linear in (layer.incoming, *layer.outgoing)):
            raise LayerError(f"the optimizer does not hold the weights around layer '{layer.name}'")


def _fresh_bound(layer: HiddenLayer, init: Init) -> float:
    """Bound of the uniform distribution that fresh incoming weights are drawn from."""
    weight = layer.incoming.weight
    fan_in = weight[0].numel() if layer.fan_in is None else layer.fan_in
    fan_out = layer.units * (weight[0, 0].numel())  # as torch counts a kernel
    match init:
        case "lecun":
            return math.sqrt(3 / fan_in)
        case "kaiming":
            return _gain(layer.activation) * math.sqrt(3 / fan_in)
        case "xavier":
            return _gain(layer.activation) * math.sqrt(6 / (fan_in + fan_out))
        case "default":
            return math.sqrt(1 / fan_in)
        case _:
            # A uniform distribution on ±b has root mean square b/√3.
            bound = math.sqrt(3) * layer.incoming.weight.detach().square().mean().sqrt().item()
            if bound == 0:
                raise LayerError(f"init='auto' takes the spread of layer '{layer.name}', whose weights are all zero")
            return bound


def _gain(activation: str | None) -> float:
    """PyTorch's recommended gain; for ELU and SiLU that of ReLU (published code), 1 for all others."""
    if activation in ("elu", "silu"):
        return nn.init.calculate_gain("relu")
    if activation in ("relu", "leaky_relu", "tanh", "sigmoid", "selu"):
        return nn.init.calculate_gain(activation)  # type: ignore[arg-type]
    return 1.0
