"""What methods that add a term to the loss share: they do so by its gradient."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from cbp.method import Method
from cbp.optimizers import check_gradients, refuse_maximizing


class Regularizer(Method):
    """A method that adds a term to the loss, by adding its gradient to those of the loss.

    It does so in :meth:`before_update`: to every parameter that has a gradient and is not frozen, and like the optimizer's
    weight decay behind any clipping of gradients. A subclass says in :meth:`_gradients` what is added.

    Attributes:
        strength: λ, what the term is multiplied with.
    """

    strength: float
    _regularized = False

    def __init__(self, optimizer: Any) -> None:
        refuse_maximizing(optimizer, type(self).__name__)

    @torch.no_grad()
    def before_update(self, scale: float = 1.0) -> None:
        """Adds the term's gradient.

        Args:
            scale: What the loss was multiplied with, where the gradients still are: ``scaler.get_scale()`` under a gradient
                scaler, unless ``scaler.unscale_(optimizer)`` was called before. Without it the term has no effect there.

        Raises:
            ValueError: ``scale`` is no finite number above 0.
            RuntimeError: No parameter has a gradient, or one has a sparse gradient.
        """
        _check_scale(scale)
        treated = list(self._treats())
        check_gradients(treated, type(self).__name__, dense=True)
        self._regularized = True
        factor = self._factor(scale)
        with torch.autocast(treated[0].device.type if treated else "cpu", enabled=False):
            for parameter, gradient in self._gradients():
                if parameter.grad is not None and parameter.requires_grad:
                    parameter.grad.add_(gradient, alpha=factor)

    def _factor(self, scale: float) -> float:
        """What the gradients of :meth:`_gradients` are multiplied with."""
        return self.strength * scale

    @abstractmethod
    def _treats(self) -> Iterable[nn.Parameter]:
        """The parameters that the term is made of."""

    @abstractmethod
    def _gradients(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Parameters that have a gradient, each with the gradient of the term without what :meth:`_factor` returns."""

    def step(self) -> list[Tensor]:
        """Has nothing left to do. Returns an empty list: no unit is replaced.

        Raises:
            RuntimeError: :meth:`before_update` was not called.
        """
        if not self._regularized:
            raise RuntimeError(
                f"{type(self).__name__} acts on gradients: call before_update() between loss.backward() and optimizer.step()"
            )
        self._regularized = False
        return []


def _check_scale(scale: object) -> None:
    if not (isinstance(scale, Real | Tensor) and 0 < float(scale) < math.inf):
        raise ValueError(f"scale must be a finite number above 0, got {scale!r}")
