"""Notice that a model has other parameters than before, such as those of a new head."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from torch import nn

from cbp.discovery.recording import unwrapped

Kept = TypeVar("Kept")


class Exchanges:
    """Tells whether a model's parameters are other tensors than when it was last asked, or more, or fewer.

    Args:
        model: Any module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = unwrapped(model)
        self._known = list(self._model.parameters())

    def noticed(self) -> bool:
        """Whether there were any since the last call."""
        known, self._known = self._known, list(self._model.parameters())
        return len(known) != len(self._known) or any(a is not b for a, b in zip(known, self._known, strict=True))


def taken_up(
    kept: Mapping[nn.Parameter, Kept], parameters: Iterable[nn.Parameter], begin: Callable[[nn.Parameter], Kept]
) -> dict[nn.Parameter, Kept]:
    """What is kept of each parameter: as before, or begun where it is new. That of parameters that are gone is dropped."""
    return {parameter: kept[parameter] if parameter in kept else begin(parameter) for parameter in parameters}
