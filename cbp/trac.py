"""TRAC: scale how far the weights have come from where they began, by what that distance was worth.

Source: Muppidi, Zhang, Yang, *Fast TRAC: a parameter-free optimizer for lifelong reinforcement learning*, NeurIPS 2024
(arXiv 2405.16642), algorithms 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.exchanges import PerParameter
from cbp.method import Method, averaging_dtype, check_number, check_state, in_reals
from cbp.optimizers import check_gradients, checked, held_of, refuse_maximizing

_FIRST_SIGMA = 1e-8  # the authors' code


@dataclass
class _Way:
    """Of a parameter: where it began, and the sum of the optimizer's steps."""

    first: Tensor
    offset: Tensor

    @classmethod
    def of(cls, parameter: nn.Parameter) -> _Way:
        return cls(parameter.detach().clone(), torch.zeros_like(parameter, dtype=averaging_dtype(parameter)))


class Trac(Method, name="trac"):
    """Tunes, around any optimizer, how much of the way that it has gone from the first weights counts.

    With θ₀ the weights at the moment the method is made, g the gradients, and Δ the sum of the optimizer's steps, all weights
    together:

        h = ⟨g, Δ⟩,   then Δ ← Δ + the optimizer's step
        for each decay β_j:   v_j ← β_j²·v_j + h²,   σ_j ← β_j·σ_j − h,   s_j = ε / erfi(1/√2) · erfi(σ_j / (√(2·v_j) + ε'))
        θ ← θ₀ + max(0, Σ_j s_j)·Δ

    Nothing needs to be tuned: where steps away from θ₀ lower the loss the scale grows, and where they no longer do the weights
    come back.

    Args:
        model: Any module; what is treated are those of its parameters that the optimizer holds, as they are when the method is
            made, or when the optimizer gets them: what is loaded into them later is taken back by the next update.
        optimizer: The optimizer of the model's weights, or a list of several.
        decay_rates: β, each in [0, 1]. Default: the paper's, as those below.
        first_scale: ε, above 0.
        eps: ε', above 0.

    Attributes:
        scale: max(0, Σ_j s_j) at the last update; 0 before the first.

    Raises:
        ValueError: An option out of its range, or an optimizer that maximises.
        LayerError: The model's parameters are sharded.
        TypeError: No optimizer.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> method = Trac(model, optimizer)
        >>> scales = []
        >>> for _ in range(40):  # always in the same direction
        ...     optimizer.zero_grad()
        ...     model(torch.ones(1, 1)).sum().backward()
        ...     method.before_update()
        ...     optimizer.step()
        ...     _ = method.step()
        ...     scales.append(method.scale)
        >>> 0 < scales[0] < scales[20] < scales[-1]
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        decay_rates: Sequence[float] = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999),
        first_scale: float = 1e-8,
        eps: float = 1e-8,
    ) -> None:
        if not isinstance(decay_rates, list | tuple) or not decay_rates:
            raise ValueError(f"decay_rates must be a list of numbers in [0, 1], got {decay_rates!r}")
        self.decay_rates = [check_number("decay_rates", decay_rate, 0, 1) for decay_rate in decay_rates]
        self.first_scale = check_number("first_scale", first_scale, 0, above=0)
        self.eps = check_number("eps", eps, 0, above=0)
        self.scale = 0.0
        self._optimizers = checked(optimizer, "none")
        refuse_maximizing(self._optimizers, "Trac")
        self._ways = PerParameter(model, partial(held_of, model, self._optimizers), _Way.of, self._optimizers)
        self._variances, self._sums = self._nothing_yet()
        self._before: dict[nn.Parameter, Tensor] | None = None
        self._product = 0.0

    def _nothing_yet(self) -> tuple[list[float], list[float]]:
        """The first variances and sums."""
        return [0.0] * len(self.decay_rates), [_FIRST_SIGMA] * len(self.decay_rates)

    @torch.no_grad()
    def before_update(self) -> None:
        """Multiplies gradients and offsets, and keeps the weights as they are. Gradients must be unscaled; reads the device.

        Raises:
            RuntimeError: No parameter has a gradient.
        """
        ways = self._ways.now()
        check_gradients(ways, "Trac", dense=False)
        trained = [parameter for parameter in ways if parameter.grad is not None and parameter.requires_grad]
        self._before = {parameter: parameter.clone() for parameter in trained}
        products = []
        for parameter in self._before:
            way = ways[parameter]
            way.first = way.first.to(parameter)
            way.offset = way.offset.to(parameter.device, averaging_dtype(parameter))
            product = in_reals(parameter.grad) * in_reals(way.offset)  # type: ignore[arg-type]
            products.append(product.sum(dtype=torch.float64).cpu())
        self._product = torch.stack(products).sum().item() if products else 0.0

    @torch.no_grad()
    def step(self) -> list[Tensor]:
        """Scales the way from the first weights. Returns an empty list: no unit is replaced.

        Raises:
            RuntimeError: :meth:`before_update` was not called.
        """
        if self._before is None:
            raise RuntimeError("Trac needs the gradients: call before_update() between loss.backward() and optimizer.step()")
        before, self._before = self._before, None
        if not math.isfinite(self._product):  # gradients overflowed, as at times under a gradient scaler, which makes no step
            return []
        if len(self._sums) != len(self.decay_rates):  # which were set since
            self._variances, self._sums = self._nothing_yet()
        h, scale = self._product, 0.0
        for j, beta in enumerate(self.decay_rates):
            self._variances[j] = beta**2 * self._variances[j] + h**2
            self._sums[j] = beta * self._sums[j] - h
            x = self._sums[j] / (math.sqrt(2 * self._variances[j]) + self.eps)
            scale += self.first_scale / _erfi(1 / math.sqrt(2)) * _erfi(x)
        self.scale = max(0.0, scale)
        ways = self._ways.now()
        for parameter, old in before.items():
            if (way := ways.get(parameter)) is None:  # exchanged since
                continue
            way.offset.add_(parameter - old)
            parameter.copy_(way.first).add_(way.offset, alpha=self.scale)
        return []

    def take_over(self, other: Self) -> None:
        """As for :class:`cbp.Method`."""
        self.scale, self._variances, self._sums = other.scale, list(other._variances), list(other._sums)
        self._ways.take_over(other._ways)

    def begin_anew(self) -> None:
        """Takes the weights as they are now for the first ones, and nothing for what was made of them."""
        self.scale, self._variances, self._sums = 0.0, *self._nothing_yet()
        self._ways.begin_anew()

    def state_dict(self) -> dict[str, Any]:
        """The names of the parameters, the first weights, the offsets, and what the scale is made from."""
        ways = self._ways.now().values()
        return {
            "names": self._ways.names(),
            "decay_rates": list(self.decay_rates),
            "first": [way.first.clone() for way in ways],
            "offsets": [way.offset.clone() for way in ways],
            "variances": list(self._variances),
            "sums": list(self._sums),
            "scale": self.scale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`; the scale begins anew where that has other decay rates.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        check_state(state, {"first", "offsets", "variances", "sums", "scale"})
        ways = self._ways.now().values()
        theirs = [list(first.shape) for first in state["first"]]
        own = [list(way.first.shape) for way in ways]
        if theirs != own:
            raise ValueError(f"the state is of parameters of shapes {theirs}, this optimizer holds {own}")
        self._ways.check(state.get("names"))
        for way, first, offset in zip(ways, state["first"], state["offsets"], strict=True):
            way.first.copy_(first)
            way.offset.copy_(offset)
        self.scale = float(state["scale"])
        if state.get("decay_rates", self.decay_rates) != self.decay_rates or len(state["sums"]) != len(self.decay_rates):
            self._variances, self._sums = self._nothing_yet()
        else:
            self._variances = [float(variance) for variance in state["variances"]]
            self._sums = [float(total) for total in state["sums"]]
        self._ways.mark_loaded()


def _erfi(x: float) -> float:
    """The imaginary error function, 2/√π · Σ_n x^(2n+1) / (n!·(2n+1)); infinite where a float cannot hold it."""
    if abs(x) > 26:  # e^(26²) is beyond 10²⁹³
        return math.copysign(math.inf, x)
    total = term = x
    n = 0
    while abs(term) > 1e-18 * abs(total):
        n += 1
        term *= x * x / n
        total += term / (2 * n + 1)
    return 2 / math.sqrt(math.pi) * total
