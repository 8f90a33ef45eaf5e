"""Continual backpropagation written from its definitions: one unit, one weight, one number at a time.

Slow and plain on purpose; `test_continual_backprop.py` compares `cbp.ContinualBackprop` with it. Numbers are Python floats,
so the networks that follow it are float64. All that it shares with the package is where random numbers come from: a CPU
generator for each layer, drawn from in the order that the method promises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# Gains of the activations: √2 for relu, √(2/(1+0.01²)) for leaky relu, 5/3 for tanh, 3/4 for selu; √2 for elu and silu too
# (published code), else 1.
GAINS = {
    "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + 0.01**2)), "tanh": 5 / 3, "selu": 3 / 4,
    "elu": math.sqrt(2), "silu": math.sqrt(2),
}  # fmt: skip
SMALLEST_DIVISOR = 2.0**-52  # the machine epsilon of float64


def generators(seed: int, layers: int) -> list[torch.Generator]:
    """The generators of a method's layers, seeded by the first whole numbers below 2⁶³ − 1 of one with the method's seed."""
    seeds = torch.randint(2**63 - 1, (layers,), generator=torch.Generator().manual_seed(seed))
    return [torch.Generator().manual_seed(int(own)) for own in seeds]


@dataclass
class Layer:
    """One hidden layer: its modules, and what is known of each unit."""

    incoming: nn.Linear
    outgoing: list[nn.Linear]
    activation: str | None = None
    norms: list[nn.LayerNorm] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.units = self.incoming.out_features
        self.fan_in = self.incoming.in_features
        self.utility = [0.0] * self.units
        self.age = [0] * self.units
        self.running_mean = [[0.0] * self.units for _ in self.outgoing]
        self.counter = 0.0
        self.generator = torch.Generator()


class Oracle:
    def __init__(
        self,
        layers: list[Layer],
        optimizer: torch.optim.Optimizer,
        replacement_rate: float,
        maturity_threshold: int,
        decay_rate: float = 0.99,
        utility: str = "contribution",
        rounding: str = "counter",
        reset_optimizer: str = "moments",
        init: str = "auto",
        seed: int = 0,
    ) -> None:
        self.layers = layers
        self.optimizer = optimizer
        self.replacement_rate = replacement_rate
        self.maturity_threshold = maturity_threshold
        self.decay_rate = decay_rate
        self.utility = utility
        self.rounding = rounding
        self.reset_optimizer = reset_optimizer
        for layer, generator in zip(layers, generators(seed, len(layers)), strict=True):
            layer.generator = generator
        self.bounds = [self.bound(layer, init) for layer in layers]

    @staticmethod
    def bound(layer: Layer, init: str) -> float:
        gain = GAINS.get(layer.activation or "", 1.0)
        if init == "lecun":
            return math.sqrt(3 / layer.fan_in)
        if init == "kaiming":
            return gain * math.sqrt(3 / layer.fan_in)
        if init == "xavier":
            return gain * math.sqrt(6 / (layer.fan_in + layer.units))
        if init == "default":
            return math.sqrt(1 / layer.fan_in)
        squares = [w**2 for row in layer.incoming.weight.tolist() for w in row]
        return math.sqrt(3) * math.sqrt(sum(squares) / len(squares))

    @torch.no_grad()
    def step(self, received: list[list[Tensor] | None]) -> list[list[int]]:
        """One step after an optimizer's step.

        Args:
            received: For each layer what each of its outgoing layers received, (batch, units); None: the layer was not reached.

        Returns:
            For each layer the units replaced, least useful first.
        """
        replaced: list[list[int]] = []
        for layer, inputs in zip(self.layers, received, strict=True):
            replaced.append([] if inputs is None else self.test(layer, [h.tolist() for h in inputs]))
        for layer, units, bound in zip(self.layers, replaced, self.bounds, strict=True):
            if units:
                self.replace(layer, units, bound)
        return replaced

    def test(self, layer: Layer, inputs: list[list[list[float]]]) -> list[int]:
        for i in range(layer.units):
            layer.age[i] += 1
        eta = self.decay_rate
        if self.utility == "random":
            layer.utility = torch.rand(layer.units, generator=layer.generator).tolist()
        else:
            for i in range(layer.units):
                layer.utility[i] = eta * layer.utility[i] + (1 - eta) * self.utility_now(layer, i, inputs)

        eligible = [i for i in range(layer.units) if layer.age[i] > self.maturity_threshold]
        due = self.due(layer, len(eligible))
        return sorted(eligible, key=lambda i: (self.corrected_utility(layer, i), i))[:due]

    def corrected_utility(self, layer: Layer, i: int) -> float:
        if layer.age[i] == 0 or self.utility == "random":
            return layer.utility[i]
        return layer.utility[i] / (1 - self.decay_rate ** layer.age[i])

    def utility_now(self, layer: Layer, i: int, inputs: list[list[list[float]]]) -> float:
        """What this batch says about unit i."""
        eta = self.decay_rate
        w_in = layer.incoming.weight[i].tolist()
        mean_w_in = max(sum(abs(w) for w in w_in) / len(w_in), SMALLEST_DIVISOR)
        if self.utility == "adaptation":
            return 1 / mean_w_in

        of_heads = []
        for k, (linear, rows) in enumerate(zip(layer.outgoing, inputs, strict=True)):
            h = [row[i] for row in rows]
            sum_w_out = sum(abs(w) for w in linear.weight[:, i].tolist())
            mean_h = sum(h) / len(h)
            layer.running_mean[k][i] = eta * layer.running_mean[k][i] + (1 - eta) * mean_h
            h_hat = layer.running_mean[k][i] / (1 - eta ** layer.age[i])
            mean_abs = sum(abs(x) for x in h) / len(h)
            mean_deviation = sum(abs(x - h_hat) for x in h) / len(h)
            of_heads.append(
                {
                    "contribution": mean_abs * sum_w_out,
                    "zero_contribution": mean_deviation * sum_w_out,
                    "adaptable_contribution": mean_deviation * sum_w_out / mean_w_in,
                    "weight": sum_w_out,
                    "feature_by_input": mean_deviation / mean_w_in,
                }[self.utility]
            )
        if self.utility == "feature_by_input":
            return sum(of_heads) / len(of_heads)
        return sum(of_heads)

    def due(self, layer: Layer, eligible: int) -> int:
        expected = self.replacement_rate * eligible
        if self.rounding == "counter":
            layer.counter += expected
            due = min(math.floor(layer.counter), eligible)
            layer.counter -= due
            return due
        if 0 < expected < 1:
            return 1 if torch.rand((), generator=layer.generator).item() < expected else 0
        return math.floor(expected)

    def replace(self, layer: Layer, units: list[int], bound: float) -> None:
        weight = layer.incoming.weight
        uniform = torch.rand((len(units), layer.fan_in), generator=layer.generator, dtype=weight.dtype).tolist()
        for n, i in enumerate(units):
            for j in range(layer.fan_in):
                weight[i, j] = (2 * uniform[n][j] - 1) * bound
                self.forget(weight, (i, j))
            if layer.incoming.bias is not None:
                layer.incoming.bias[i] = 0
                self.forget(layer.incoming.bias, (i,))
            for norm in layer.norms:
                norm.weight[i], norm.bias[i] = 1, 0
                self.forget(norm.weight, (i,))
                self.forget(norm.bias, (i,))
            for linear in layer.outgoing:
                for k in range(linear.out_features):
                    linear.weight[k, i] = 0
                    self.forget(linear.weight, (k, i))
            layer.utility[i] = 0.0
            layer.age[i] = 0
            for means in layer.running_mean:
                means[i] = 0.0

    def forget(self, parameter: Tensor, element: tuple[int, ...]) -> None:
        """What the optimizer remembers about one element of a parameter."""
        for name, value in self.optimizer.state[parameter].items():
            if self.reset_optimizer == "none" or not isinstance(value, Tensor) or value.shape != parameter.shape:
                continue
            if name != "step" or self.reset_optimizer == "moments_and_step":
                value[element] = 0
