"""UPGD: move useful weights less, and perturb the others.

Source: Elsayed and Mahmood, *Addressing loss of plasticity and catastrophic forgetting in continual learning*, ICLR 2024
(arXiv 2404.00781), section 3 and algorithm 1, with first-order global weight utility.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.exchanges import PerParameter
from cbp.method import Method, averaging_dtype, check_number, check_state, check_whole, for_device, in_reals
from cbp.optimizers import check_gradients, checked, held_of, refuse_maximizing


@dataclass
class _Average:
    """Of the utilities of a parameter, over so many updates."""

    utility: Tensor
    updates: int = 0

    @classmethod
    def of(cls, parameter: nn.Parameter) -> _Average:
        weights = in_reals(parameter.detach())
        return cls(torch.zeros_like(weights, dtype=averaging_dtype(weights)))

    def corrected(self, decay_rate: float) -> Tensor:
        return self.utility / (1 - decay_rate**self.updates)


class UPGD(Method, name="upgd"):
    """Utility-based perturbed gradient descent, around any optimizer: it gates the optimizer's own step.

    The utility of a weight is what the loss would rise by, to first order, were the weight zero. With its gradient g, its
    average u and t updates, and the optimizer's step Δw and step size α:

        u ← β·u + (1−β)·(−g·w),   û = u / (1 − β^t),   Ū = sigmoid(û / max û)
        w ← (1 − α·λ)·w + 2·(1 − Ū)·(Δw − α·σ·ξ)

    with ξ standard normal and the maximum over all weights together. With plain SGD, Δw = −α·g, that is the paper's UPGD with
    step size 2α; with Adam it is the authors' adaptive UPGD. The 2 is from the authors' code: a weight without utility, for
    which Ū is ½, moves as the optimizer says.

    Args:
        model: Any module; what is treated are those of its parameters that the optimizer holds.
        optimizer: The optimizer of the model's weights, or a list of several. Its own weight decay is a part of Δw.
        decay_rate: β, in [0, 1). Default: the authors', as those below.
        sigma: σ of the noise, at least 0.
        weight_decay: λ, at least 0.
        seed: Seed of the noise; nothing is drawn from the global generators.

    Raises:
        ValueError: An option out of its range, or the optimizer holds none of the model's parameters, maximises, or has no
            ``lr`` or None, as where it chooses its step sizes itself.
        LayerError: The model's parameters are sharded.
        TypeError: No optimizer.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[1.0, -1.0]]))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> method = UPGD(model, optimizer, sigma=0.0, weight_decay=0.0)
        >>> model(torch.ones(1, 2)).sum().backward()  # g = 1 for both: utilities −1 and 1, of which the greatest is 1
        >>> method.before_update()
        >>> optimizer.step()
        >>> method.step()
        []
        >>> [round(w, 4) for w in model.weight.flatten().tolist()]  # 1 − 0.2·(1 − sigmoid(−1)), −1 − 0.2·(1 − sigmoid(1))
        [0.8538, -1.0538]
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        decay_rate: float = 0.999,
        sigma: float = 0.001,
        weight_decay: float = 0.001,
        seed: int = 0,
    ) -> None:
        self.decay_rate = check_number("decay_rate", decay_rate, 0, below=1)
        self.sigma = check_number("sigma", sigma, 0)
        self.weight_decay = check_number("weight_decay", weight_decay, 0)
        self._generator = torch.Generator().manual_seed(check_whole("seed", seed))
        self._optimizers = checked(optimizer, "none")
        refuse_maximizing(self._optimizers, "UPGD")
        self._rates()
        self._averages = PerParameter(model, partial(held_of, model, self._optimizers), _Average.of, self._optimizers)
        self._before: dict[nn.Parameter, Tensor] | None = None

    @torch.no_grad()
    def before_update(self) -> None:
        """Averages the utilities, and keeps the weights as they are. Gradients must be unscaled, and are left alone.

        Raises:
            RuntimeError: No parameter has a gradient, or one has a sparse gradient.
        """
        averages = self._averages.now()
        check_gradients(averages, "UPGD", dense=True)
        self._before = {}
        for parameter, average in averages.items():
            if parameter.grad is not None and parameter.requires_grad:
                weights = in_reals(parameter)
                utility = average.utility = average.utility.to(weights.device, averaging_dtype(weights))
                now = (-in_reals(parameter.grad) * weights).to(utility)
                # Gradients that overflowed, as at times under a gradient scaler, say nothing.
                utility.lerp_(torch.where(now.isfinite(), now, utility), 1 - self.decay_rate)
                average.updates += 1
                self._before[parameter] = weights.clone()

    @torch.no_grad()
    def step(self) -> list[Tensor]:
        """Gates the update just made and adds the noise. Returns an empty list: no unit is replaced.

        Raises:
            RuntimeError: :meth:`before_update` was not called.
            ValueError: The optimizer has no ``lr`` any more.
        """
        if self._before is None:
            raise RuntimeError("UPGD needs the gradients: call before_update() between loss.backward() and optimizer.step()")
        before, self._before = self._before, None
        averages = self._averages.now()
        before = {parameter: old for parameter, old in before.items() if parameter in averages}
        corrected = {parameter: averages[parameter].corrected(self.decay_rate) for parameter in before}
        if not corrected:
            return []
        device = next(iter(before)).device
        greatest = torch.stack([utility.max().to(device) for utility in corrected.values()]).max()
        generator = for_device(self._generator, device)
        rates = self._rates()
        for parameter, old in before.items():
            rate = rates[parameter]
            share = corrected[parameter] / greatest.clamp_min(torch.finfo(greatest.dtype).tiny).to(old.device)
            gate = 2 * (1 - torch.sigmoid(share)).to(old)
            moved = in_reals(parameter).sub_(old)
            if self.sigma:
                drawn = torch.empty(old.shape, dtype=old.dtype, device=generator.device).normal_(generator=generator)
                moved.sub_(drawn.to(old), alpha=rate * self.sigma)
            moved.mul_(gate).add_(old, alpha=1 - rate * self.weight_decay)
        return []

    def _rates(self) -> dict[nn.Parameter, float]:
        """The step size of each parameter, now."""
        rates: dict[nn.Parameter, float] = {}
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                if group.get("lr") is None:
                    found = "lr=None" if "lr" in group else "no lr"
                    raise ValueError(
                        f"UPGD takes step sizes from the optimizer's lr, got {type(optimizer).__name__} with {found}"
                    )
                rates |= dict.fromkeys(group["params"], float(group["lr"]))
        return rates

    def take_over(self, other: Self) -> None:
        """As for :class:`cbp.Method`."""
        self._generator.set_state(other._generator.get_state())
        self._averages.take_over(other._averages)

    def state_dict(self) -> dict[str, Any]:
        """The names of the parameters, the averages of their utilities, how many updates are in each, and the generator."""
        averages = self._averages.now().values()
        return {
            "names": self._averages.names(),
            "utilities": [average.utility.clone() for average in averages],
            "updates": [average.updates for average in averages],
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        check_state(state, {"utilities", "updates", "generator"})
        averages = self._averages.now().values()
        theirs = [list(utility.shape) for utility in state["utilities"]]
        own = [list(average.utility.shape) for average in averages]
        if theirs != own:
            raise ValueError(f"the state is of parameters of shapes {theirs}, this optimizer holds {own}")
        self._averages.check(state.get("names"))
        for average, utility, updates in zip(averages, state["utilities"], state["updates"], strict=True):
            average.utility.copy_(utility)
            average.updates = int(updates)
        self._generator.set_state(state["generator"].cpu())
        self._averages.mark_loaded()
