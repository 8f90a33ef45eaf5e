"""L2 Init: regularisation towards the initial weights.

Source: Kumar, Marklund, Van Roy, *Maintaining plasticity in continual learning via regenerative regularization*, CoLLAs 2024
(arXiv 2308.11958), equation 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.method import Method, check_number


class L2Init(Method, name="l2-init"):
    """Adds λ‖θ − θ₀‖² to the loss, θ₀ the parameters at the moment the method is made.

    It does so by its gradient, 2λ(θ − θ₀), in :meth:`before_update`: to every parameter that has a gradient, and like the
    optimizer's weight decay behind any clipping of gradients.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        strength: λ, at least 0.

    Raises:
        ValueError: ``strength`` out of its range.

    Example:
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

    def __init__(self, model: nn.Module, optimizer: Optimizer, strength: float = 1e-3) -> None:  # noqa: ARG002
        check_number("strength", strength, 0)
        self.strength = float(strength)
        self._parameters = list(model.parameters())
        self._initial = [parameter.detach().clone() for parameter in self._parameters]
        self._regularized = False

    @torch.no_grad()
    def before_update(self, scale: float = 1.0) -> None:
        """Adds 2λ(θ − θ₀) to the gradients.

        Args:
            scale: What the loss was multiplied with, where the gradients still are: ``scaler.get_scale()`` under a gradient
                scaler, unless ``scaler.unscale_(optimizer)`` was called before. Without it the term has no effect there.
        """
        self._regularized = True
        for k, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                if self._initial[k].device != parameter.device:
                    self._initial[k] = self._initial[k].to(parameter.device)
                parameter.grad.add_(parameter - self._initial[k], alpha=2 * self.strength * scale)

    def step(self) -> list[Tensor]:
        """Has nothing left to do. Returns an empty list: no unit is replaced.

        Raises:
            RuntimeError: :meth:`before_update` was not called.
        """
        if not self._regularized:
            raise RuntimeError("L2Init acts on gradients: call before_update() between loss.backward() and optimizer.step()")
        self._regularized = False
        return []

    def state_dict(self) -> dict[str, Any]:
        """The initial parameters."""
        return {"initial": [initial.clone() for initial in self._initial]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the initial parameters of a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        if "initial" not in state:
            raise ValueError("the state lacks the initial parameters")
        theirs, own = ([list(tensor.shape) for tensor in tensors] for tensors in (state.get("initial", []), self._initial))
        if theirs != own:
            raise ValueError(f"the state is of a model with parameters of shapes {theirs}, this one has {own}")
        for initial, saved in zip(self._initial, state["initial"], strict=True):
            initial.copy_(saved)
