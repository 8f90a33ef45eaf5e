"""Continual backpropagation: after each update, replace a few of the least useful units.

Source: Dohare et al., *Loss of plasticity in deep continual learning*, Nature 632 (2024), algorithm 1. Options beyond the
paper are those of the code published with it and of arXiv 2108.06325.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp import utility as utilities
from cbp.adam import Adam
from cbp.layers import HiddenLayer, LayerError, find_layers
from cbp.units import TrackedLayer

Utility = Literal[
    "contribution", "zero_contribution", "adaptable_contribution", "weight", "adaptation", "feature_by_input", "random"
]
Rounding = Literal["counter", "stochastic"]
ResetOptimizer = Literal["none", "moments", "moments_and_step"]
Init = Literal["auto", "lecun", "kaiming", "xavier", "default"]


class ContinualBackprop:
    """Replaces a few of a network's least useful units after each optimizer step.

    A unit of least utility among those older than ``maturity_threshold`` updates gets fresh incoming weights, a zero bias and
    zero outgoing weights, so that what the network computes changes by exactly that unit's contribution.

    Call :meth:`step` after ``optimizer.step()``. The units' values are those of the last forward pass in training mode with
    gradients on; a layer that this pass did not reach is left as it is. Each layer has a random generator of its own, so that
    layers may be treated one after the other or side by side; nothing is drawn from the global ones.

    Args:
        model: Any module whose hidden layers :func:`cbp.find_layers` finds; its forward pass is not changed.
        optimizer: The optimizer of the model's weights.
        replacement_rate: ρ, the fraction of a layer's mature units replaced at each update, in [0, 1]. Default: the paper's
            value for reinforcement learning.
        maturity_threshold: m, the age in updates that a unit must exceed before it may be replaced. Default: as ρ.
        decay_rate: η, decay of the running averages, in [0, 1). Default: the paper's.
        utility: What is averaged for each unit; see :mod:`cbp.utility`. ``"random"`` ranks by fresh uniform numbers.
        rounding: How ρ·eligible, mostly below one, becomes whole units. ``"counter"`` adds it up (algorithm 1);
            ``"stochastic"`` replaces one unit with that probability (the published PPO runs).
        reset_optimizer: What becomes of the optimizer's state for the weights of a replaced unit: ``"none"`` leaves it,
            ``"moments"`` zeroes every per-weight average, ``"moments_and_step"`` the step counts too, which needs
            :class:`cbp.Adam`.
        init: Distribution of fresh incoming weights, uniform on ±bound: ``"lecun"`` √(3/fan_in), ``"kaiming"``
            gain·√(3/fan_in), ``"xavier"`` gain·√(6/(fan_in+fan_out)), ``"default"`` √(1/fan_in) (torch's own for Linear), with
            the gain of the layer's activation; ``"auto"`` √3 times the root mean square of the layer's weights now.
        seed: Seed that the layers' generators are seeded from.
        layers: The hidden layers in forward order, where they cannot be found or only some shall be treated.

    Attributes:
        layers: One :class:`TrackedLayer` per hidden layer, in forward order.

    Raises:
        ValueError: An option out of its range or an unknown name.
        TypeError: No optimizer, or ``"moments_and_step"`` with another than :class:`cbp.Adam`.
        LayerError: Hidden layers not found, of unequal widths, or with weights the optimizer does not hold.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> method = ContinualBackprop(model, optimizer, replacement_rate=0.1, maturity_threshold=2)
        >>> for _ in range(5):
        ...     optimizer.zero_grad()
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     replaced = method.step()
        >>> [len(units) for units in replaced], method.layers[0].replaced
        ([1], 4)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        replacement_rate: float = 1e-4,
        maturity_threshold: int = 10_000,
        decay_rate: float = 0.99,
        utility: Utility = "contribution",
        rounding: Rounding = "counter",
        reset_optimizer: ResetOptimizer = "moments",
        init: Init = "auto",
        seed: int = 0,
        layers: Sequence[HiddenLayer] | None = None,
    ) -> None:
        if not (isinstance(replacement_rate, int | float) and 0 <= replacement_rate <= 1):
            raise ValueError(f"replacement_rate must be a number in [0, 1], got {replacement_rate!r}")
        if isinstance(maturity_threshold, bool) or not isinstance(maturity_threshold, int) or maturity_threshold < 0:
            raise ValueError(f"maturity_threshold must be a whole number of updates >= 0, got {maturity_threshold!r}")
        if not (isinstance(decay_rate, int | float) and 0 <= decay_rate < 1):
            raise ValueError(f"decay_rate must be a number in [0, 1), got {decay_rate!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed must be a whole number, got {seed!r}")
        _check_choice("utility", utility, Utility)
        _check_choice("rounding", rounding, Rounding)
        _check_choice("reset_optimizer", reset_optimizer, ResetOptimizer)
        _check_choice("init", init, Init)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if reset_optimizer == "moments_and_step" and not isinstance(optimizer, Adam):
            raise TypeError(
                f"reset_optimizer='moments_and_step' needs cbp.Adam, which counts steps per element; got "
                f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
            )
        self.replacement_rate = float(replacement_rate)
        self.maturity_threshold = maturity_threshold
        self.decay_rate = float(decay_rate)
        self.utility = utility
        self.rounding = rounding
        self.reset_optimizer = reset_optimizer
        self.optimizer = optimizer
        found = find_layers(model) if layers is None else list(layers)
        if not found:
            raise LayerError("no hidden layer was given")
        _check_optimizer_holds(optimizer, found)
        # Random numbers are ranked as they are, not averaged.
        decay_rate = 0.0 if utility == "random" else self.decay_rate
        seeds = torch.randint(2**63 - 1, (len(found),), generator=torch.Generator().manual_seed(seed)).tolist()
        self.layers = [
            TrackedLayer(layer, decay_rate, _fresh_bound(layer, init), own) for layer, own in zip(found, seeds, strict=True)
        ]

    @torch.no_grad()
    def step(self) -> list[Tensor]:
        """Updates utilities and ages from the last forward pass and replaces the units that are due.

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

    def _judge(self, layer: TrackedLayer, received: list[Tensor]) -> Tensor:
        """Updates a layer's averages and ages; returns the units to replace, least useful first."""
        layer.advance(self.maturity_threshold)
        # u ← η·u + (1−η)·y
        layer.utility.lerp_(self._utility_now(layer, received), 1 - layer.decay_rate)
        return self._least_useful(layer, self._due(layer))

    def pass_updates(self, layer: TrackedLayer, updates: int) -> tuple[int, int]:
        """Lets updates of one layer pass until units are due: for a training loop that averages the utilities itself.

        Together with :meth:`replace_least_useful` it does for a layer what :meth:`step` does, with the same random numbers.

        Args:
            layer: One of :attr:`layers`.
            updates: The most updates that may pass, at least 1.

        Returns:
            How many updates have passed, and how many units are to be replaced now.
        """
        for passed in range(1, updates + 1):
            layer.advance(self.maturity_threshold)
            if due := self._due(layer):
                return passed, due
        return updates, 0

    @torch.no_grad()
    def replace_least_useful(self, layer: TrackedLayer, count: int) -> Tensor:
        """Replaces the ``count`` least useful mature units of a layer and returns their indices, least useful first."""
        units = self._least_useful(layer, count)
        self._replace(layer, units)
        return units

    def _least_useful(self, layer: TrackedLayer, count: int) -> Tensor:
        if count == 0:
            return layer.nothing
        # NaN sorts last. A unit whose utility is not a number goes first, one that is not mature never.
        rank = layer.corrected_utility.nan_to_num(nan=-math.inf)
        return rank.masked_fill(layer.age <= self.maturity_threshold, math.nan).argsort(stable=True)[:count]

    def _utility_now(self, layer: TrackedLayer, received: list[Tensor]) -> Tensor:
        """This batch's utility of each unit, over all outgoing layers together: ``(units,)``."""
        if self.utility == "random":
            return torch.rand(layer.hidden.units, generator=layer.generator).to(layer.utility)
        if self.utility == "adaptation":
            return utilities.adaptation(layer.hidden.incoming.weight)
        total = self._utility_towards(layer, 0, received[0])
        for k in range(1, len(received)):
            total = total + self._utility_towards(layer, k, received[k])
        return total / len(received) if self.utility == "feature_by_input" else total

    def _utility_towards(self, layer: TrackedLayer, k: int, h: Tensor) -> Tensor:
        """This batch's utility of each unit to the layer's ``k``-th outgoing layer, which received ``h``: ``(units,)``."""
        w_out = layer.hidden.outgoing[k].weight
        if self.utility == "contribution":
            return utilities.contribution(h, w_out, non_negative=layer.non_negative)
        if self.utility == "weight":
            return utilities.weight(w_out)
        # f ← η·f + (1−η)·mean h;  ĥ = f / (1 − η^a)
        layer.mean_activation[k].lerp_(h.mean(dim=0), 1 - layer.decay_rate)
        h_mean = layer.bias_corrected(layer.mean_activation[k])
        if self.utility == "zero_contribution":
            return utilities.zero_contribution(h, h_mean, w_out)
        if self.utility == "adaptable_contribution":
            return utilities.adaptable_contribution(h, h_mean, layer.hidden.incoming.weight, w_out)
        return utilities.feature_by_input(h, h_mean, layer.hidden.incoming.weight)

    def _due(self, layer: TrackedLayer) -> int:
        """How many units to replace now. Known from past replacements: nothing is read back from the device."""
        expected = self.replacement_rate * layer.eligible
        if self.rounding == "counter":
            layer.counter += expected
            due = min(math.floor(layer.counter), layer.eligible)
            layer.counter -= due
            return due
        if 0 < expected < 1:
            return int(torch.rand((), generator=layer.generator).item() < expected)
        return math.floor(expected)

    def _replace(self, layer: TrackedLayer, units: Tensor) -> None:
        """Gives the units fresh incoming and zero outgoing weights, and forgets what was known about them."""
        hidden, bound = layer.hidden, layer.fresh_bound
        w_in, bias = hidden.incoming.weight, hidden.incoming.bias
        fresh = torch.empty((len(units), hidden.incoming.in_features), dtype=w_in.dtype)
        fresh.uniform_(-bound, bound, generator=layer.generator)
        w_in.index_copy_(0, units, fresh.to(w_in.device))
        self._reset_optimizer_state(w_in, 0, units)
        unitwise = [(bias, 0), *((norm.weight, 1) for norm in hidden.norms), *((norm.bias, 0) for norm in hidden.norms)]
        for parameter, value in unitwise:
            if parameter is not None:
                parameter.index_fill_(0, units, value)
                self._reset_optimizer_state(parameter, 0, units)
        for outgoing in hidden.outgoing:
            outgoing.weight.index_fill_(1, units, 0)
            self._reset_optimizer_state(outgoing.weight, 1, units)
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
        shapes = [tuple(saved["mean_activation"].shape) for saved in state["layers"]]
        own = [tuple(layer.mean_activation.shape) for layer in self.layers]
        if shapes != own:
            raise ValueError(f"the state is of hidden layers with (outgoing layers, units) {shapes}, this model has {own}")
        for layer, saved in zip(self.layers, state["layers"], strict=True):
            layer.load_state_dict(saved, self.maturity_threshold)


def _check_choice(option: str, value: object, choices: Any) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"{option} must be one of {', '.join(allowed)}; got {value!r}{hint}")


def _check_optimizer_holds(optimizer: Optimizer, layers: list[HiddenLayer]) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for layer in layers:
        if not all(id(linear.weight) in held for linear in (layer.incoming, *layer.outgoing)):
            raise LayerError(f"the optimizer does not hold the weights around layer '{layer.name}'")


def _fresh_bound(layer: HiddenLayer, init: Init) -> float:
    """Bound of the uniform distribution that fresh incoming weights are drawn from."""
    fan_in, fan_out = layer.incoming.in_features, layer.units
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
    """PyTorch's recommended gain, 1 where it names none."""
    if activation in ("relu", "leaky_relu", "tanh", "sigmoid", "selu"):
        return nn.init.calculate_gain(activation)  # type: ignore[arg-type]
    return 1.0
