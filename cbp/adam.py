"""Adam with a step count per element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT


class Adam(Optimizer):
    """Adam whose bias correction counts the steps of each weight by itself.

    A weight that is made anew in the middle of training (``ContinualBackprop(reset_optimizer="moments_and_step")``) then
    starts like any new weight: its first step has size lr. With one count per tensor, as in ``torch.optim.Adam``, zeroed
    moments under a large count make a first step of (1−β₁)/√(1−β₂)·lr: 3.2·lr at the default β. As long as no count is reset,
    the steps equal those of ``torch.optim.Adam`` up to rounding.

    State per parameter: ``step`` (a float: exact to 16 million steps in float32), ``exp_avg``, ``exp_avg_sq``, all of its
    shape.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Step size.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the denominator.
        weight_decay: Coupled L2 penalty: added to the gradient times the weight.

    Raises:
        ValueError: An option out of its range.

    Source: Kingma & Ba (2015), algorithm 1; the per-unit count is that of arXiv 2108.06325, algorithm 2. Defaults: torch's.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient.

        Args:
            closure: Evaluates the model anew and returns the loss, as for any torch optimizer.

        Returns:
            The closure's loss, or None.

        Raises:
            RuntimeError: A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if gradient.is_sparse:
            raise RuntimeError("cbp.Adam does not support sparse gradients")
        state = cast("dict[str, Tensor]", self.state[parameter])
        if not state:
            state["step"] = torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        step, m, v = state["step"], state["exp_avg"], state["exp_avg_sq"]
        beta1, beta2 = group["betas"]
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        step += 1
        m.lerp_(gradient, 1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # θ ← θ − lr · m̂ / (√v̂ + ε),  m̂ = m / (1 − β₁^t),  v̂ = v / (1 − β₂^t)
        m_hat = m / _bias_correction(beta1, step)
        v_hat = v / _bias_correction(beta2, step)
        parameter.addcdiv_(m_hat, v_hat.sqrt_().add_(group["eps"]), value=-group["lr"])


def _bias_correction(beta: float, step: Tensor) -> Tensor | float:
    """1 − β^t; through expm1, because 1 − 0.999^1 loses half its digits in float32."""
    return torch.expm1(step * math.log(beta)).neg_() if beta else 1.0
