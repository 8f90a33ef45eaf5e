"""Puts a method of :mod:`cbp` on a network."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

import cbp


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
        ValueError: An option out of its range.
    """
    if name is None:
        return None
    make: Any = cbp.METHODS[name]
    offered: dict[str, Any] = {"layers": layers, "seed": seed}
    taken = {name: offered[name] for name in inspect.signature(make).parameters.keys() & offered.keys()}
    method: cbp.Method = make(network, optimizer, **kwargs, **taken)
    return method
