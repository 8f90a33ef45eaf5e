"""What optimizers remember of each weight, and how they forget it where a unit is made anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.adam import Adam
from cbp.groups import Group, Slices

ResetOptimizer = Literal["none", "moments", "moments_and_step"]

# What each class of optimizer remembers of a weight that does not begin at 0: where it begins, or the option that says so.
_BEGINNINGS: dict[str, dict[str, str | float]] = {
    "Adagrad": {"sum": "initial_accumulator_value"},
    "Rprop": {"step_size": "lr"},
    "RMSpropTF": {"square_avg": 1.0},  # timm's
    "RMSpropTFLike": {"square_avg": 1.0},  # Stable-Baselines3's
}
_KNOWN = (
    "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD",
    "SparseAdam",
)  # fmt: skip


def checked(optimizers: Optimizer | Sequence[Optimizer], reset: ResetOptimizer) -> list[Optimizer]:
    """One or several optimizers as a list.

    Raises:
        TypeError: There is none; or the reset is not possible with one of them.
    """
    found: list[Any] = list(optimizers) if isinstance(optimizers, list | tuple) else [optimizers]
    if not found:
        raise TypeError("optimizer must be a torch.optim.Optimizer or a list of them, got an empty list")
    for optimizer in found:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    for optimizer in _unwrapped(found):
        kind = type(optimizer)
        if reset == "moments_and_step" and not isinstance(optimizer, Adam) and not _within(optimizer):
            raise TypeError(
                f"reset_optimizer='moments_and_step' needs cbp.Adam, which counts steps per element; got "
                f"{kind.__module__}.{kind.__qualname__}"
            )
        if reset != "none" and _torchs(kind) not in (None, *_KNOWN):
            raise TypeError(
                f"what {kind.__module__}.{kind.__qualname__} remembers cannot be reset unit by unit: "
                "reset_optimizer must be 'none' with it"
            )
    return found


def _unwrapped(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """Some optimizers, each once, and in front of each those that it wraps."""
    found: list[Optimizer] = []
    seen: set[int] = set()

    def follow(optimizer: Optimizer) -> None:
        if id(optimizer) not in seen:
            seen.add(id(optimizer))
            for inner in _within(optimizer):
                follow(inner)
            found.append(optimizer)

    for optimizer in optimizers:
        follow(optimizer)
    return found


def _within(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers that another one has as attributes, or in lists of its own."""
    listed = [value if isinstance(value, list | tuple) else (value,) for value in vars(optimizer).values()]
    return [one for values in listed for one in values if isinstance(one, Optimizer)]


def _torchs(kind: type[Optimizer]) -> str | None:
    """The name of the class of torch that an optimizer's class is, or derives from."""
    torchs = (base for base in kind.__mro__ if base.__module__.startswith("torch.optim.") and base is not Optimizer)
    return next((base.__name__ for base in torchs), None)


def refuse_maximizing(optimizers: Any, method: str) -> None:
    """Refuses optimizers that maximise, for methods that add to a loss or judge by it.

    Raises:
        ValueError: One of them does.
    """
    for optimizer in optimizers if isinstance(optimizers, list | tuple) else [optimizers]:
        if any(group.get("maximize") for group in getattr(optimizer, "param_groups", ())):
            raise ValueError(
                f"{method} takes a loss that is minimised, got {type(optimizer).__name__} with maximize=True: minimise the "
                "negative instead"
            )


class NoGradientsError(RuntimeError):
    """None of the parameters that a method treats has a gradient."""


def check_gradients(parameters: Iterable[nn.Parameter], method: str, *, dense: bool) -> None:
    """Refuses gradients that are not there yet, and sparse ones where they cannot be dealt with.

    Raises:
        NoGradientsError: None of the parameters that are trained has a gradient.
        RuntimeError: One has a sparse gradient.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if trained and all(parameter.grad is None for parameter in trained):
        where = "call before_update() between loss.backward() and optimizer.step()"
        raise NoGradientsError(f"{method} finds no gradients: {where}")
    for parameter in trained if dense else []:
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise RuntimeError(
                f"{method} needs dense gradients, and that of a parameter of shape {tuple(parameter.shape)} is sparse: make "
                "its embedding with sparse=False"
            )


def held_by(optimizers: Sequence[Optimizer]) -> set[Tensor]:
    """The parameters that some optimizers update."""
    return {parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]}


def held_of(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[nn.Parameter]:
    """The parameters of a model that some optimizers hold, in the model's order.

    Raises:
        ValueError: There is none.
    """
    theirs = held_by(optimizers)
    held = [parameter for parameter in model.parameters() if parameter in theirs]
    if not held:
        raise ValueError(f"the optimizer holds none of the parameters of {type(model).__name__}")
    return held


def untrained(optimizers: Sequence[Optimizer], group: Group) -> str | None:
    """Why the units of a group may not be replaced: one of their weights is frozen, or none of the optimizers holds it."""
    fixed = [slices for slices, _ in group.fixed]  # may be set without being trained
    held = held_by(optimizers)
    for slices in group.written():
        tensor = slices.tensor
        if isinstance(tensor, nn.Parameter):
            where = f"'{slices.attribute}' of the {type(slices.module).__name__} around layer '{group.name}'"
            if not tensor.requires_grad:
                return f"{where} is frozen"
            if slices not in fixed and tensor not in held:
                return f"the optimizer does not hold the weights around layer '{group.name}': {where}"
    return None


@torch.no_grad()
def forget(optimizers: Sequence[Optimizer], slices: Slices, units: Tensor, reset: ResetOptimizer) -> None:
    """Begins anew what the optimizers remember of the slices of some units."""
    parameter = slices.tensor
    if reset == "none" or not isinstance(parameter, nn.Parameter):
        return
    begun: list[Any] = []
    for optimizer in _unwrapped(optimizers):
        state = optimizer.state.get(parameter, {})
        if any(state is other for other in begun):  # a wrapper shows what is that of the one within
            continue
        begun.append(state)
        for name, value in state.items():
            if (
                isinstance(value, Tensor)
                and (value.is_floating_point() or value.is_complex())  # whole numbers may be codes of others
                and _is_per_slice(value, parameter, slices)
                and (name != "step" or reset == "moments_and_step")
            ):
                _begin(optimizer, name, value, slices, units)


def _is_per_slice(value: Tensor, parameter: Tensor, slices: Slices) -> bool:
    """Whether a state has entries of its own for the slices: one for each element, or one for whole rows or columns."""
    if slices.blocks > 1:
        return value.shape == parameter.shape
    return (
        value.ndim == parameter.ndim
        and value.shape[slices.dim] == parameter.shape[slices.dim]
        and all(size in (1, whole) for size, whole in zip(value.shape, parameter.shape, strict=True))
    )


def _begin(optimizer: Optimizer, name: str, value: Tensor, slices: Slices, units: Tensor) -> None:
    for dim, start, length in slices.within:
        if value.shape[dim] > 1:
            value = value.narrow(dim, start, length)
    index = slices.of(units).to(value.device)
    if isinstance(optimizer, torch.optim.ASGD) and name == "ax" and slices.blocks == 1:  # the average of the weights themselves
        value.index_copy_(slices.dim, index, slices.view().index_select(slices.dim, index))
        return
    beginning = _beginning(optimizer, name, slices.tensor)
    if slices.blocks > 1:
        slices.fill(units.to(value.device), beginning, value)
    else:
        value.index_fill_(slices.dim, index, beginning)


def _beginning(optimizer: Optimizer, name: str, parameter: Tensor) -> float:
    """Where a state begins, by the first of the optimizer's classes that says so."""
    known = (_BEGINNINGS.get(kind.__name__, {}) for kind in type(optimizer).__mro__)
    beginning = next((states[name] for states in known if name in states), 0.0)
    if isinstance(beginning, str):
        groups = (group for group in optimizer.param_groups if any(parameter is held for held in group["params"]))
        return float(next(groups, optimizer.defaults).get(beginning, 0.0))
    return beginning
