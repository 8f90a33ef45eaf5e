"""Networks of the problems that are learned example by example: their first weights, and what is measured of their units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

import cbp
from cbp import metrics

MODULES: dict[str, tuple[type[nn.Module], float]] = {
    "relu": (nn.ReLU, math.sqrt(2)),
    "tanh": (nn.Tanh, 5 / 3),
    "sigmoid": (nn.Sigmoid, 1.0),
    "elu": (nn.ELU, math.sqrt(2)),
    "leaky_relu": (nn.LeakyReLU, math.sqrt(2 / (1 + 0.01**2))),
    "swish": (nn.SiLU, math.sqrt(2)),
    "crelu": (cbp.CReLU, math.sqrt(2)),
}
"""The six activations of the paper, and CReLU. Each has the gain of its initial weights, which for ELU and swish is that of
ReLU (published code); for CReLU too (ours: of its two values mostly one is above zero)."""


def draw_weights(seed: int, shapes: Iterable[tuple[int, int]], gain: float) -> list[Tensor]:
    """First weights: Kaiming-uniform with the gain of the activation, those of the last layer without gain.

    Args:
        seed: What they are drawn from.
        shapes: ``(units, inputs)`` of each layer.
        gain: Of the activation.
    """
    generator = torch.Generator().manual_seed(seed)
    *hidden, head = shapes
    bounds = [*(gain * math.sqrt(3 / inputs) for _, inputs in hidden), math.sqrt(3 / head[1])]
    return [
        torch.empty(shape).uniform_(-bound, bound, generator=generator)
        for shape, bound in zip([*hidden, head], bounds, strict=True)
    ]


def make_mlp(
    inputs: int, net_arch: Sequence[int], outputs: int, activation: str, *, layer_norm: bool, seed: int, dtype: torch.dtype
) -> nn.Sequential:
    """A network with the first weights of :func:`draw_weights`; biases are 0. The global generator is left as it was.

    Args:
        inputs: How many.
        net_arch: How many values each hidden layer gives; of CReLU, which gives two for each unit, twice its units.
        outputs: How many.
        activation: A key of :data:`MODULES`.
        layer_norm: Whether there is a norm in front of each activation.
        seed: Of the weights.
        dtype: Of the weights.

    Raises:
        ValueError: An odd number of values behind CReLU.
    """
    make, gain = MODULES[activation]
    values = 2 if activation == "crelu" else 1
    for width in net_arch:
        if width % values:
            raise ValueError(f"net_arch counts the values that a layer gives, with crelu two for each unit: even, got {width}")
    sizes = (inputs, *net_arch, outputs)
    shapes = [(width // values, before) for before, width in pairwise(sizes[:-1])] + [(outputs, sizes[-2])]
    modules: list[nn.Module] = []
    for weight in draw_weights(seed, shapes, gain):
        with torch.random.fork_rng(devices=[]):
            linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.zero_()
        norm = [nn.LayerNorm(linear.out_features, dtype=dtype)] if layer_norm else []
        modules += [linear, *norm, make()]
    return nn.Sequential(*modules[: len(modules) - 1 - layer_norm])


def measure_units(h: Tensor, activation: str) -> dict[str, float]:
    """Stable rank of a layer's values ``(samples, units)``, and of ReLU the dormant units; NaN where it has diverged."""
    found = {"stable_rank": metrics.stable_rank(h)}
    if activation == "relu":
        found["dormant_fraction"] = metrics.dormant_fraction(h)
    return found
