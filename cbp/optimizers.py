"""What optimizers remember of each weight, and how they forget it where a unit is made anew."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.adam import Adam
from cbp.groups import Group, Slices

ResetOptimizer = Literal["none", "moments", "moments_and_step"]

_OF_ADAM: dict[str, str | float | None] = {"step": 0.0, "exp_avg": 0.0, "exp_avg_sq": 0.0, "max_exp_avg_sq": 0.0}
# What each class of torch's optimizers remembers of a weight, and those of others where it does not begin at 0, and where it
# begins: a number, or the option that says so; None for the average of the weights themselves.
_BEGINNINGS: dict[str, dict[str, str | float | None]] = {
    "ASGD": {"ax": None},
    "Adadelta": {"square_avg": 0.0, "acc_delta": 0.0},
    "Adafactor": {"row_var": 0.0, "col_var": 0.0, "variance": 0.0},
    "Adagrad": {"sum": "initial_accumulator_value"},
    "Adam": _OF_ADAM,
    "AdamW": _OF_ADAM,
    "Adamax": {"exp_avg": 0.0, "exp_inf": 0.0},
    "Muon": {"momentum_buffer": 0.0},
    "NAdam": _OF_ADAM,
    "RAdam": _OF_ADAM,
    "RMSprop": {"square_avg": 0.0, "momentum_buffer": 0.0, "grad_avg": 0.0},
    "RMSpropTF": {"square_avg": 1.0},  # timm's
    "RMSpropTFLike": {"square_avg": 1.0},  # Stable-Baselines3's
    "Rprop": {"prev": 0.0, "step_size": "lr"},
    "SGD": {"momentum_buffer": 0.0},
    "SparseAdam": _OF_ADAM,
    # which divide by these: D-Adaptation's (and pytorch_optimizer's, under another name), pytorch_optimizer's
    "DAdaptAdaGrad": {"alphak": 1e-6, "alpha_k": 1e-6},
    "BSAM": {"s": 1.0},
    "VSGD": {"bg": "pbg2", "bhg": "pbhg2"},
}
# The first weights, under the names that MADGRAD, D-Adaptation and Prodigy give them: the weights may be far from them by now.
_FIRST_WEIGHTS = ("x0", "p0")


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
        if reset != "none" and _torchs(kind) not in (None, *_BEGINNINGS):
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


@dataclass(frozen=True)
class Remembered:
    """A state that an optimizer keeps of the slices of a parameter.

    Attributes:
        state: The state, of the whole parameter.
        slices: The slices.
        beginning: Where it begins; None for the weights themselves.
    """

    state: Tensor
    slices: Slices
    beginning: float | None

    @torch.no_grad()
    def begin_anew(self, units: Tensor) -> None:
        """Begins anew what is remembered of some units, whose weights are the new ones by now."""
        if self.beginning is None:
            self.slices.copy(units, self.state)
        elif self.slices.blocks > 1:
            self.slices.fill(units.to(self.state.device), self.beginning, self.state)
        else:
            state = self.state
            for dim, start, length in self.slices.within:
                if state.shape[dim] > 1:
                    state = state.narrow(dim, start, length)
            state.index_fill_(self.slices.dim, self.slices.of(units).to(state.device), self.beginning)


def remembered(optimizers: Sequence[Optimizer], slices: Slices, reset: ResetOptimizer) -> Iterator[Remembered]:
    """What the optimizers remember of some slices, and where it begins. The weights must be those of before the replacement."""
    parameter = slices.tensor
    if reset == "none" or not isinstance(parameter, nn.Parameter):
        return
    seen: list[Any] = []
    for optimizer in _unwrapped(optimizers):
        states = optimizer.state.get(parameter, {})
        if any(states is other for other in seen):  # a wrapper shows what is that of the one within
            continue
        seen.append(states)
        for name, state in states.items():
            if (
                isinstance(state, Tensor)
                and (state.is_floating_point() or state.is_complex())  # whole numbers may be codes of others
                and _is_per_slice(state, parameter, slices)
                and (name != "step" or reset == "moments_and_step")
            ):
                yield Remembered(state, slices, _beginning(optimizer, name, state, parameter))


def _is_per_slice(value: Tensor, parameter: Tensor, slices: Slices) -> bool:
    """Whether a state has entries of its own for the slices: one for each element, or one for whole rows or columns."""
    if slices.blocks > 1:
        return value.shape == parameter.shape
    return (
        value.ndim == parameter.ndim
        and value.shape[slices.dim] == parameter.shape[slices.dim]
        and all(size in (1, whole) for size, whole in zip(value.shape, parameter.shape, strict=True))
    )


def _beginning(optimizer: Optimizer, name: str, state: Tensor, parameter: Tensor) -> float | None:
    """Where a state begins, by the first of the optimizer's classes that says so; None for the weights themselves."""
    beginnings: ChainMap[str, str | float | None] = ChainMap(
        *(_BEGINNINGS.get(kind.__name__, {}) for kind in type(optimizer).__mro__)
    )
    if name not in beginnings:
        return None if _is_of_weights(name, state, parameter) else 0.0
    beginning = beginnings[name]
    if isinstance(beginning, str):
        groups = (group for group in optimizer.param_groups if any(parameter is held for held in group["params"]))
        return float(next(groups, optimizer.defaults).get(beginning, 0.0))
    return beginning


@torch.no_grad()
def _is_of_weights(name: str, state: Tensor, weights: Tensor) -> bool:
    """Whether a state s is a copy of the weights w, or an average of them: ‖s − w‖² < ¼·(‖s‖² + ‖w‖²).

    Moments have about 1 for the ¼, and zeros have 1. The ``z`` of schedule-free optimizers strays further from the weights, but
    not as far as a right angle; that of FTRL, a sum of gradients, points away from them.
    """
    if state.shape != weights.shape or name in _FIRST_WEIGHTS:
        return state.shape == weights.shape
    state = state.to(torch.promote_types(state.dtype, torch.float32))
    weights = weights.to(state)
    apart, both = (state - weights).abs().square().sum(), state.abs().square().sum() + weights.abs().square().sum()
    return bool(apart < (both if name == "z" else both / 4))
