"""L2 Init: regularisation towards the initial weights.

Source: Kumar, Marklund, Van Roy, *Maintaining plasticity in continual learning via regenerative regularization*, CoLLAs 2024
(arXiv 2308.11958), equation 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.discovery.recording import unwrapped
from cbp.exchanges import PerParameter
from cbp.method import check_number, check_state
from cbp.regularizer import Regularizer


class L2Init(Regularizer, name="l2-init"):
    """Adds λ‖θ − θ₀‖² to the loss, θ₀ the parameters at the moment the method is made.

    It does so by its gradient, 2λ(θ − θ₀), in :meth:`before_update`.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        strength: λ, at least 0.

    Raises:
        ValueError: ``strength`` out of its range, or an optimizer that maximises.

    Example:
        >>> import torch
        >>> model = nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> method = L2Init(model, optimizer, strength=0.5)
        >>> _ = nn.init.constant_(model.weight, model.weight.item() + 2)
        >>> (0 * model(torch.ones(1, 1))).sum().backward()
        >>> method.before_update()
        >>> round(model.weight.grad.item(), 6)
        2.0
        >>> optimizer.step()
        >>> method.step()
        []
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, strength: float = 1e-3) -> None:
        super().__init__(optimizer)
        self.strength = check_number("strength", strength, 0)
        self._initial = PerParameter(model, unwrapped(model).parameters, _copy, may_be_sharded=True)

    def _treats(self) -> list[nn.Parameter]:
        return list(self._initial.now())

    def _gradients(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        kept = self._initial.now()
        for parameter, initial in kept.items():
            if parameter.grad is not None:
                if initial.device != parameter.device:
                    kept[parameter] = initial.to(parameter.device)
                yield parameter, 2 * (parameter - kept[parameter])

    def take_over(self, other: Self) -> None:
        """As for :class:`cbp.Method`."""
        self._initial.take_over(other._initial)

    def begin_anew(self) -> None:
        """Takes the parameters as they are now for θ₀."""
        self._initial.begin_anew()

    def state_dict(self) -> dict[str, Any]:
        """The initial parameters, and their names."""
        return {"names": self._initial.names(), "initial": [initial.clone() for initial in self._initial.now().values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the initial parameters of a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        check_state(state, {"initial"})
        kept = self._initial.now().values()
        theirs, own = ([list(tensor.shape) for tensor in tensors] for tensors in (state["initial"], kept))
        if theirs != own:
            raise ValueError(f"the state is of a model with parameters of shapes {theirs}, this one has {own}")
        self._initial.check(state.get("names"))
        for initial, saved in zip(kept, state["initial"], strict=True):
            initial.copy_(saved)
        self._initial.mark_loaded()


def _copy(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().clone()
