"""Puts a method of :mod:`cbp` on a network."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

import cbp

_NORMS = (nn.LayerNorm, nn.BatchNorm2d)


def make_method(
    name: str | None,
    network: nn.Module,
    optimizer: Optimizer,
    kwargs: dict[str, Any],
    *,
    layers: Sequence[cbp.Group],
    seed: int,
) -> cbp.Method | None:
    """The method that acts around each update of a network; None for none.

    Args:
        name: One of :data:`cbp.METHODS`; None for none.
        network: What it acts on.
        optimizer: Of the network.
        kwargs: The method's keyword arguments.
        layers: The hidden layers, for methods that take them.
        seed: Of what the method draws, if it does.

    Raises:
        ValueError: An option out of its range, or a network without the layers or norms that the method needs.
    """
    if name is None:
        return None
    make: Any = cbp.METHODS[name]
    if name == "nap" and not any(isinstance(module, _NORMS) for module in network.modules()):
        raise ValueError("method 'nap' needs a network with norms, and this one has none: layer_norm=true, or a resnet")
    offered: dict[str, Any] = {"layers": layers, "seed": seed}
    if "layers" in inspect.signature(make).parameters and not layers:
        raise ValueError(f"method '{name}' acts on hidden layers, and the network has none: network must not be linear")
    taken = {name: offered[name] for name in inspect.signature(make).parameters.keys() & offered.keys()}
    method: cbp.Method = make(network, optimizer, **kwargs, **taken)
    return method


def count_on(method: cbp.Method | None, last: cbp.Method | None) -> None:
    """Counts the units that the method of a fresh network replaces on top of those of the last one, if there was one."""
    if method is not None and last is not None:
        for layer, before in zip(method.layers, last.layers, strict=True):
            layer.replaced = before.replaced
