"""Notice that a model has other parameters than before, such as those of a new head."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from operator import is_
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from cbp.discovery.recording import unwrapped
from cbp.replicas import refuse_sharded

Kept = TypeVar("Kept")
_Place = tuple[nn.Module, str]


class Exchanges:
    """Tells whether a model has other modules or parameters than when it was last asked, or its optimizers hold others.

    It is asked at every update, so it compares what modules hold, and walks through the model only where that has changed.

    Args:
        model: Any module.
        optimizers: Whose parameters count, too.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer] = ()) -> None:
        self.model = unwrapped(model)
        self._optimizers = optimizers
        self._modules = list(self.model.modules())
        self._known = self._held()
        self._loaded: dict[_Place, nn.Parameter] = {}

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

    def names_of(self, parameters: Iterable[nn.Parameter]) -> list[str]:
        """The names of some parameters in the model."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [names[parameter] for parameter in parameters]

    def follow(self, look: Callable[[], object]) -> None:
        """Lets a method look at the model again where there were any since the last call; if it fails, at the next one too."""
        now = self._held()
        if len(now) != len(self._known) or not all(map(is_, now, self._known)):
            look()
            self._modules = list(self.model.modules())
            self._known = self._held()
        self._loaded = {}

    def mark_loaded(self) -> None:
        """A state was loaded: until the next look ``model.load_state_dict(assign=True)`` may exchange what it is of."""
        self._loaded = self._places()

    def renewed(self) -> dict[nn.Parameter, nn.Parameter]:
        """In a look after :meth:`mark_loaded`, parameters with those of their shape that were in their places then."""
        loaded = ((parameter, self._loaded.get(place)) for place, parameter in self._places().items())
        return {parameter: old for parameter, old in loaded if old is not None and old.shape == parameter.shape}

    @property
    def are_renewed(self) -> bool:
        """Whether :meth:`renewed` has all parameters, and modules are what they were."""
        return len(self.renewed()) == len(self._loaded) > 0 and list(self.model.modules()) == self._modules

    def _places(self) -> dict[_Place, nn.Parameter]:
        """The parameters, each by the first module that has it and its name there."""
        places: dict[nn.Parameter, _Place] = {}
        for module in self.model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    places.setdefault(parameter, (module, name))
        return {place: parameter for parameter, place in places.items()}


class PerParameter(Generic[Kept]):
    """What a method keeps of each parameter that it treats, as the model has them now.

    Of a parameter that is new it begins to keep something; what was kept of one that is gone is dropped, unless it was loaded
    and not looked at since, as where the model's own state is loaded after the method's, with ``assign=True``. Of one that has
    another shape than before, as by ``weight.data = larger``, what is kept begins anew with a warning.

    Args:
        model: The method's.
        find: The parameters that it treats. A bound method, or a partial, so that a copy of the method finds those of its own
            model.
        begin: What is kept of one at first; a bound method, or a function of a module.
        optimizers: Where those that they hold are treated alone.
        may_be_sharded: Whether the method is right on parameters that are spread over processes, such as those of FSDP2.

    Raises:
        LayerError: They are, and it is not; from :meth:`now` where they are since.
    """

    def __init__(
        self,
        model: nn.Module,
        find: Callable[[], Iterable[nn.Parameter]],
        begin: Callable[[nn.Parameter], Kept],
        optimizers: Sequence[Optimizer] = (),
        *,
        may_be_sharded: bool = False,
    ) -> None:
        self._may_be_sharded = may_be_sharded
        self._find = find
        self._begin = begin
        self._exchanges = Exchanges(model, optimizers)
        self._kept: dict[nn.Parameter, Kept] = {}
        self._shapes: dict[nn.Parameter, torch.Size] = {}
        self._look()

    def now(self) -> dict[nn.Parameter, Kept]:
        """All of it, in the order of the parameters."""
        self._exchanges.follow(self._look)
        if resized := [p for p, shape in self._shapes.items() if p.shape != shape]:
            changes = [
                f"'{name}' has the shape {tuple(p.shape)}, and had {tuple(self._shapes[p])}"
                for name, p in zip(self._exchanges.names_of(resized), resized, strict=True)
            ]
            warnings.warn(f"{'; '.join(changes)}: what is kept of it begins anew", stacklevel=3)
            self._look()
        return self._kept

    def _look(self) -> None:
        if not self._may_be_sharded:
            refuse_sharded(self._exchanges.model)
        found = list(self._find())
        if any(map(is_lazy, found)):
            refuse_lazy(self._exchanges.model)
        loaded = {new: self._kept[old] for new, old in self._exchanges.renewed().items() if old in self._kept}
        kept = {p: of_it for p, of_it in self._kept.items() if p.shape == self._shapes[p]} | loaded
        self._kept = {p: kept[p] if p in kept else self._begin(p) for p in found}
        self._shapes = {p: p.shape for p in self._kept}

    def names(self) -> list[str]:
        """Those of the parameters in the model, in their order."""
        return self._exchanges.names_of(self.now())

    def mark_loaded(self) -> None:
        """What is kept was loaded just now."""
        self._exchanges.mark_loaded()

    def check(self, names: Sequence[str] | None) -> None:
        """Refuses what was kept of other parameters; states of earlier releases have no names.

        Raises:
            ValueError: The names are others.
        """
        if names is not None and list(names) != self.names():
            raise ValueError(f"the state is of the parameters {', '.join(names)}, here they are {', '.join(self.names())}")

    def begin_anew(self) -> None:
        """Begins with all parameters as they are."""
        self._kept = {}
        self._look()

    def take_over(self, other: PerParameter[Kept]) -> None:
        """Goes on with what another one keeps of those parameters that both treat."""
        own = self.now()
        own |= {p: other._kept[p] for p in own if p in other._kept and p.shape == other._shapes[p]}


def refuse_lazy(model: nn.Module) -> None:
    """Refuses a model whose parameters get their sizes by its first pass.

    Raises:
        ValueError: One of them has none yet.
    """
    if lazy := next((name for name, parameter in model.named_parameters() if is_lazy(parameter)), None):
        raise ValueError(f"'{lazy}' has no size yet: call the model once before")
