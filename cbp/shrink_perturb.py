"""Shrink and perturb: make all weights a little smaller and a little random.

Sources: Ash and Adams, *On warm-starting neural network training*, NeurIPS 2020; at every update, Dohare et al., *Loss of
plasticity in deep continual learning*, Nature 632 (2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.exchanges import PerParameter
from cbp.method import Method, check_choice, check_number, check_state, check_whole, for_device
from cbp.weighted import Weights, root_mean_square, trained_names

Noise = Literal["normal", "fresh"]


class ShrinkPerturb(Method, name="shrink-perturb"):
    """Shrinks and perturbs the weights and biases of all layers that multiply, every ``period`` updates.

        θ ← λ·θ + σ·ε

    These are Linear and convolutional layers, recurrent ones, the projections of attention, what a parametrisation computes
    their weights from, and any other module with a ``weight`` of two or more dimensions. Embeddings, norms and bare parameters
    are left alone, frozen ones as long as they are. :attr:`touched` has the names.

    With ``noise="normal"``, ε is standard normal. With ``noise="fresh"`` it is drawn like fresh weights, uniform with each
    tensor's spread at the moment the method is made (√3 times its root mean square; a bias that begins at 0 is shrunk only).

    Two uses: at every update, with λ = 1 where the optimizer's weight decay shrinks already (Nature); and soft, now and then,
    a small step towards a fresh network (``noise="fresh"``, σ = 1 − λ).

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        shrink: λ, in [0, 1].
        perturb: σ, at least 0.
        period: Updates from one time to the next.
        noise: What ε is.
        seed: Seed of the noise; nothing is drawn from the global generators. Weights on a GPU have their noise drawn there, so
            that it is another than on the CPU.

    Raises:
        ValueError: An option out of its range or an unknown name, or a model without such layers.
        LayerError: The model's parameters are sharded.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> method = ShrinkPerturb(model, torch.optim.SGD(model.parameters(), lr=0.1), shrink=0.5, perturb=0.0)
        >>> before = model.weight.detach().clone()
        >>> method.step()
        []
        >>> torch.equal(model.weight, before / 2)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,  # noqa: ARG002
        shrink: float = 1.0,
        perturb: float = 1e-5,
        period: int = 1,
        noise: Noise = "normal",
        seed: int = 0,
    ) -> None:
        check_choice("noise", noise, Noise)
        self.shrink = check_number("shrink", shrink, 0, 1)
        self.perturb = check_number("perturb", perturb, 0)
        self.period = check_whole("period", period, least=1)
        self.noise = noise
        self._generator = torch.Generator().manual_seed(check_whole("seed", seed))
        self._updates = 0
        self._weights = Weights(model)
        self._spreads = PerParameter(model, self._weights.parameters, root_mean_square)

    @property
    def touched(self) -> list[str]:
        """The names of the parameters that are shrunk and perturbed: those that are not frozen."""
        return trained_names(self._weights.now())

    @torch.no_grad()
    def step(self) -> list[Tensor]:
        """Counts an update; shrinks and perturbs where it is time. Returns an empty list: no unit is replaced."""
        self._updates += 1
        spreads = self._spreads.now()
        if spreads and self._updates % self.period == 0:
            for parameter, drawn in zip(spreads, self._draw(spreads), strict=True):
                if parameter.requires_grad:
                    parameter.mul_(self.shrink).add_(drawn.to(parameter), alpha=self.perturb)
        return []

    def _draw(self, spreads: Mapping[nn.Parameter, float]) -> list[Tensor]:
        parameters = list(spreads)
        generator = for_device(self._generator, parameters[0].device)
        if self.noise == "fresh":
            bounds = [math.sqrt(3) * spread for spread in spreads.values()]
            return [
                torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device).uniform_(
                    -bound, bound, generator=generator
                )
                for parameter, bound in zip(parameters, bounds, strict=True)
            ]
        sizes = [parameter.numel() for parameter in parameters]
        drawn = torch.empty(self.padded(sum(sizes)), dtype=parameters[0].dtype, device=generator.device)
        parts = torch.split(drawn.normal_(generator=generator)[: sum(sizes)], sizes)
        return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]

    @staticmethod
    def padded(numbers: int) -> int:
        """How many normal numbers are drawn for so many: whole sixteens, as torch makes them.

        So the numbers of several updates are the same when they are drawn at once.
        """
        return -(-numbers // 16) * 16

    def take_over(self, other: Self) -> None:
        """As for :class:`cbp.Method`."""
        self._updates = other._updates
        self._generator.set_state(other._generator.get_state())
        self._spreads.take_over(other._spreads)

    def state_dict(self) -> dict[str, Any]:
        """Updates so far, the names, shapes and spreads of the weights, and the generator."""
        return {
            "updates": self._updates,
            "names": self._names(),
            "shapes": self._shapes(),
            "spreads": list(self._spreads.now().values()),
            "generator": self._generator.get_state(),
        }

    def _names(self) -> list[str]:
        return [weight.name for weight in self._weights.now()]

    def _shapes(self) -> list[list[int]]:
        return [list(parameter.shape) for parameter in self._weights.parameters()]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        check_state(state, {"updates", "shapes", "spreads", "generator"})
        if state.get("names", self._names()) != self._names():
            raise ValueError(f"the state is of a model with weights {state['names']}, this one has {self._names()}")
        if state["shapes"] != self._shapes():
            raise ValueError(f"the state is of a model with weights of shapes {state['shapes']}, this one has {self._shapes()}")
        self._updates = int(state["updates"])
        self._spreads.now().update(zip(self._weights.parameters(), map(float, state["spreads"]), strict=True))
        self._generator.set_state(state["generator"].cpu())
        self._spreads.mark_loaded()
