"""Selective weight reinitialisation: draw the least useful weights anew, one by one.

Source: Hernandez-Garcia, Dohare, Luo, Sutton, *Reinitializing weights vs units for maintaining plasticity in neural networks*,
CoLLAs 2025 (arXiv 2508.00212).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.exchanges import PerParameter
from cbp.method import Method, averaging_dtype, check_choice, check_number, check_state, check_whole
from cbp.optimizers import NoGradientsError
from cbp.weighted import Weights, root_mean_square, trained_names

Utility = Literal["gradient", "magnitude"]
Selection = Literal["proportional", "threshold"]


@dataclass
class _Kept:
    """Of a weight: the bound of fresh numbers, and the average of the utilities once there is one."""

    bound: float
    average: Tensor | None = None

    @classmethod
    def of(cls, parameter: nn.Parameter) -> _Kept:
        return cls(math.sqrt(3) * root_mean_square(parameter))


class SelectiveWeightReinitialization(Method, name="swr"):
    """Draws the weights of least utility anew, every ``period`` updates, in each weight and each bias by itself.

    The utility of a weight w with gradient g is |g·w| (``"gradient"``) or |w| (``"magnitude"``). Of the N weights of a tensor
    those are drawn anew that are

    - ``"proportional"``: the ρ·N of least utility: ⌊ρ·N⌋, and one more with the probability of the rest; equal ones by chance;
    - ``"threshold"``: of a utility of at most ρ times the tensor's mean.

    With ``"gradient"`` and without an average, an update in which all gradients are zeros, as of a hinge loss of 0, draws
    nothing anew.

    Fresh weights are uniform with each tensor's spread at the moment the method is made (±√3 times its root mean square); a
    bias that begins at 0 becomes 0. The optimizer's state is left alone. What is treated is what :class:`cbp.ShrinkPerturb`
    treats. The gradients are those of the update just made: call :meth:`step` before they are zeroed.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        factor: ρ, at least 0, with ``"proportional"`` at most 1. Default: the authors' best for a large network.
        period: Updates from one time to the next. Default: as ``factor``.
        utility: What is judged. Default: the authors'.
        selection: How many are drawn anew. Default: as ``factor``; with ``"proportional"`` their best are a factor of 0.4 and a
            period of 4,096.
        decay_rate: Of a running average of the utilities, in [0, 1), which begins anew in a tensor in which a weight was drawn.
            Default: the authors', none.
        seed: Seed of the generator of fresh weights; nothing is drawn from the global ones.

    Attributes:
        drawn: How many weights were drawn anew so far.

    Raises:
        ValueError: An option out of its range or an unknown name, or a model without layers that multiply.
        LayerError: The model's parameters are sharded.
        RuntimeError: From :meth:`step`, where there are no gradients to judge by.

    Example:
        >>> model = nn.Linear(100, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> method = SelectiveWeightReinitialization(model, optimizer, 0.03, period=1, selection="proportional")
        >>> least = model.weight.abs().flatten().argsort()[:3]  # under an input of ones all gradients are 1
        >>> before = model.weight.detach().clone()
        >>> model(torch.ones(1, 100)).sum().backward()
        >>> method.step(), method.drawn
        ([], 3)
        >>> (model.weight != before).flatten().nonzero().flatten().equal(least.sort().values)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,  # noqa: ARG002
        factor: float = 1e-5,
        period: int = 2048,
        utility: Utility = "gradient",
        selection: Selection = "threshold",
        decay_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_choice("utility", utility, Utility)
        check_choice("selection", selection, Selection)
        check_number("factor", factor, 0, 1 if selection == "proportional" else math.inf)
        check_number("decay_rate", decay_rate, 0, below=1)
        self.factor = float(factor)
        self.period = check_whole("period", period, least=1)
        self.utility = utility
        self.selection = selection
        self.decay_rate = float(decay_rate)
        self.drawn = 0
        self._updates = 0
        self._generator = torch.Generator().manual_seed(check_whole("seed", seed))
        self._weights = Weights(model, kinds=("matrix", "bias"))
        self._kept = PerParameter(model, self._weights.parameters, _Kept.of)

    @property
    def touched(self) -> list[str]:
        """The names of the parameters that are not frozen."""
        return trained_names(self._weights.now())

    @torch.no_grad()
    def step(self) -> list[Tensor]:
        """Draws weights anew where it is time. Returns an empty list: no unit is replaced."""
        kept = self._kept.now()
        if self.utility == "gradient" and all(parameter.grad is None for parameter in kept):
            raise NoGradientsError("utility='gradient' finds no gradients: call step() before optimizer.zero_grad()")
        self._updates += 1
        due = self._updates % self.period == 0
        if due or self.decay_rate:
            for parameter in kept:
                if not parameter.requires_grad:
                    continue
                if self.utility == "magnitude":
                    self._treat(parameter, parameter.abs(), due=due)
                elif parameter.grad is not None:
                    self._treat(parameter, (parameter * parameter.grad).abs_(), due=due)
        return []

    def _treat(self, parameter: nn.Parameter, utility: Tensor, *, due: bool) -> None:
        kept = self._kept.now()[parameter]
        if self.decay_rate:
            average = kept.average = self._average(parameter).to(parameter.device, averaging_dtype(parameter))
            # Gradients that overflowed, as at times under a gradient scaler, say nothing.
            utility = average.lerp_(torch.where(utility.isfinite(), utility.to(average), average), 1 - self.decay_rate)
        else:
            kept.average = None
        index = self._least(utility.flatten()) if due else None
        if index is not None and len(index) and (utility.any() or self._any_gradient()):
            fresh = torch.empty(len(index), dtype=parameter.dtype)
            fresh.uniform_(-kept.bound, kept.bound, generator=self._generator)
            parameter.put_(index, fresh.to(parameter.device))
            self.drawn += len(index)
            if kept.average is not None:
                kept.average.zero_()

    def _least(self, utility: Tensor) -> Tensor:
        """The weights of a tensor to draw anew: flat indices.

        Of equal ones they are chosen by chance: all weights of a unit that is never active have the utility 0, also those that
        were just drawn, and it becomes active again only where many of them are.
        """
        if self.selection == "threshold":
            mean = utility.mean()
            return ((utility <= self.factor * mean) & mean.isfinite()).nonzero().flatten()
        expected = self.factor * len(utility)
        count = math.floor(expected)
        if expected > count:
            count += torch.rand((), generator=self._generator).item() < expected - count
        if count == 0:
            return torch.empty(0, dtype=torch.int64, device=utility.device)
        last = utility.kthvalue(count).values
        below = (utility < last).nonzero().flatten()
        equal = ((utility == last) & last.isfinite()).nonzero().flatten()
        if len(equal) > count - len(below):
            order = torch.randperm(len(equal), generator=self._generator)[: count - len(below)]
            equal = equal[order.to(equal.device)]
        return torch.cat([below, equal])

    def _any_gradient(self) -> bool:
        """Whether the update told anything: of gradients it did not where all are zeros, as of a hinge loss of 0."""
        gradients = [parameter.grad for parameter in self._kept.now()]
        return self.utility == "magnitude" or any(gradient is not None and bool(gradient.any()) for gradient in gradients)

    def take_over(self, other: Self) -> None:
        """As for :class:`cbp.Method`."""
        self._updates, self.drawn = other._updates, other.drawn
        self._generator.set_state(other._generator.get_state())
        self._kept.take_over(other._kept)

    def state_dict(self) -> dict[str, Any]:
        """Updates so far, the names, shapes and bounds of the weights, averages where there are any, and the generator."""
        kept = self._kept.now()
        return {
            "updates": self._updates,
            "drawn": self.drawn,
            "weights": self._weights.shapes(),
            "bounds": [of_weight.bound for of_weight in kept.values()],
            "averages": [self._average(parameter).clone() for parameter in kept] if self.decay_rate else [],
            "generator": self._generator.get_state(),
        }

    def _average(self, parameter: nn.Parameter) -> Tensor:
        """That of a weight's utilities, 0 where none was averaged yet."""
        average = self._kept.now()[parameter].average
        return torch.zeros_like(parameter, dtype=averaging_dtype(parameter)) if average is None else average

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`. Averages that it does not have begin at 0.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        check_state(state, {"updates", "drawn", "weights", "bounds", "averages", "generator"})
        if state["weights"] != self._weights.shapes():
            raise ValueError(f"the state is of a model with weights {state['weights']}, this one has {self._weights.shapes()}")
        self._updates, self.drawn = int(state["updates"]), int(state["drawn"])
        kept = self._kept.now()
        averages = state["averages"] or [None] * len(kept)
        for (parameter, of_weight), bound, average in zip(kept.items(), state["bounds"], averages, strict=True):
            of_weight.bound = float(bound)
            of_weight.average = None if average is None else average.detach().to(parameter.device, copy=True)
        self._generator.set_state(state["generator"].cpu())
        self._kept.mark_loaded()
