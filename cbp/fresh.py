"""Distributions of fresh incoming weights."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from cbp.groups import Group, Slices
from cbp.weighted import root_mean_square

Init = Literal["auto", "lecun", "kaiming", "xavier", "default"]


def bounds(group: Group, init: Init) -> list[float]:
    """Bounds of the uniform distributions that fresh incoming weights are drawn from, one for each of ``group.fresh``.

    ``"lecun"`` √(3/fan_in), ``"kaiming"`` gain·√(3/fan_in), ``"xavier"`` gain·√(6/(fan_in+fan_out)), ``"default"`` √(1/fan_in),
    with the gain of the group's activation; ``"auto"`` √3 times the root mean square of the weights now.
    """
    return [_bound(group, slices, init) for slices in group.fresh]


def without_spread(group: Group, init: Init) -> str | None:
    """Why nothing can be drawn for a group: ``"auto"``, and its weights are all zero."""
    if any(bounds(group, init)):
        return None
    return f"init='auto' takes the spread of layer '{group.name}', whose weights are all zero"


def _bound(group: Group, slices: Slices, init: Init) -> float:
    view = slices.view()
    fan_in = view.select(slices.dim, 0).numel() if group.fan_in is None else group.fan_in
    kernel = view[0, 0].numel() if view.ndim > 2 else 1
    fan_out = group.units * kernel  # as torch counts a kernel
    match init:
        case "lecun":
            return math.sqrt(3 / fan_in)
        case "kaiming":
            return _gain(group.activation) * math.sqrt(3 / fan_in)
        case "xavier":
            return _gain(group.activation) * math.sqrt(6 / (fan_in + fan_out))
        case "default":
            return math.sqrt(1 / fan_in)
        case _:
            # A uniform distribution on ±b has root mean square b/√3.
            weights = view if slices.in_order else slices.units_first()
            return math.sqrt(3) * root_mean_square(weights)


def draw(slices: Slices, units: Tensor, bound: float, generator: torch.Generator) -> None:
    """Draws the slices of some units anew, in place. The numbers do not depend on the device."""
    view = slices.view().movedim(slices.dim, 0)
    index = slices.of(units)
    fresh = torch.empty((len(index), *view.shape[1:]), dtype=view.dtype)
    fresh.uniform_(-bound, bound, generator=generator)
    view[index] = fresh.to(view.device)


def _gain(activation: str | None) -> float:
    """PyTorch's recommended gain; for ELU and SiLU that of ReLU (published code), 1 for all others."""
    if activation in ("elu", "silu"):
        return nn.init.calculate_gain("relu")
    if activation in ("relu", "leaky_relu", "tanh", "sigmoid", "selu"):
        return nn.init.calculate_gain(activation)  # type: ignore[arg-type]
    return 1.0
