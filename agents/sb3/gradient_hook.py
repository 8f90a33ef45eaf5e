"""A hook that only looks: compiled updates call it as torch's optimizers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


class GradientHook:
    """Sees the gradients that an optimizer is about to take a step by; changes nothing.

    Args:
        see: Is called before each step, with the gradients in the parameters' ``grad``.
    """

    def __init__(self, see: Callable[[], None]) -> None:
        self._see = see

    def __call__(self, *_: Any) -> None:
        """What torch calls."""
        self._see()


def gradient_hooks(optimizer: Optimizer) -> list[GradientHook]:
    """The hooks of an optimizer that only look."""
    return [hook for hook in optimizer._optimizer_step_pre_hooks.values() if isinstance(hook, GradientHook)]
