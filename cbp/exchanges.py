"""Notice that a model has other parameters than before, such as those of a new head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer

from cbp.discovery.recording import unwrapped

Kept = TypeVar("Kept")


class Exchanges:
    """Tells whether a model has other modules or parameters than when it was last asked, or its optimizers hold others.

    It is asked at every update, so it compares what modules hold, and walks through the model only where that has changed.

    Args:
        model: Any module.
        optimizers: Whose parameters count, too.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer] = ()) -> None:
        self._model = unwrapped(model)
        self._optimizers = optimizers
        self._look()

    def _look(self) -> None:
        self._modules = list(self._model.modules())
        self._known = self._held()

    def _held(self) -> list[Any]:
        """The parameters and modules of each module, and the parameters of each optimizer."""
        held: list[Any] = []
        for module in self._modules:
            held += module._parameters.values()
            held += module._modules.values()
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                held += group["params"]
        return held

    def noticed(self) -> bool:
        """Whether there were any since the last call."""
        now = self._held()
        if len(now) == len(self._known) and all(map(is_, now, self._known)):
            return False
        self._look()
        return True


def shared(own: Mapping[nn.Parameter, Kept], others: Mapping[nn.Parameter, Kept]) -> dict[nn.Parameter, Kept]:
    """What another one keeps of the parameters that one keeps something of, too."""
    return {parameter: others[parameter] for parameter in own if parameter in others}


def taken_up(
    kept: Mapping[nn.Parameter, Kept], parameters: Iterable[nn.Parameter], begin: Callable[[nn.Parameter], Kept]
) -> dict[nn.Parameter, Kept]:
    """What is kept of each parameter: as before, or begun where it is new. That of parameters that are gone is dropped."""
    return {parameter: kept[parameter] if parameter in kept else begin(parameter) for parameter in parameters}
