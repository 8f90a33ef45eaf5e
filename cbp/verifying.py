"""Checks that replacing units changes a model by what they contribute, and by nothing else."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cbp import fresh
from cbp.discovery.finding import find_layers
from cbp.discovery.recording import Arguments, Example, copied, must_be_called, tensors_of, undisturbed, unwrapped
from cbp.groups import Group, HiddenLayer, LayerError, given

_EPSILONS = 1000  # that count as rounding
_MOST = 0.01  # that does so at all: in half precision a thousand epsilons are more than the whole
_PASSES = 10  # times what two equal passes differ by, as where a device adds up in any order

Pass = Callable[[nn.Module], Any]


class VerifyError(AssertionError):
    """Replacing units of a group does something else than it should. The message names the group."""


def verify(model: nn.Module, example: Example, layers: Sequence[HiddenLayer | Group] | None = None) -> float:
    """Checks on copies of a model that its units are replaced as they should be.

    Of each hidden layer a third of the units, at least one, are replaced. Then

    - the outputs equal those of a copy in which only the outgoing weights of these units are zeroed;
    - the gradient of the outputs with respect to the fresh incoming weights is zero: no other path is left;
    - nothing else has changed, of no parameter or buffer.

    Where a norm is over several units, replacing one changes the others, and gradients reach it. By how much the outputs
    deviate counts, and is no error; but they must be equal, too, once the norm gives the other units what it gives them in the
    copy.

    Args:
        model: The model, in training or evaluation mode; it is left as it is.
        example: As for :func:`cbp.find_layers`.
        layers: The hidden layers to check; those that are found, by default.

    Returns:
        The largest deviation of an output, relative to the greatest of its numbers that change. Without norms over units it is
        rounding.

    Raises:
        VerifyError: One of the above does not hold.
        LayerError: There is no hidden layer, or one is of another model; the forward pass fails, calls no module of the copy,
            or returns nothing that could be compared.
        TypeError: The model is no module, or ``layers`` no list of hidden layers.

    Warns:
        UserWarning: The pass has no gradients; or a norm over units is no module of its own, so that outputs were not compared.
    """
    model = unwrapped(model)
    groups = find_layers(model, example) if layers is None else given(layers, model)
    make_pass = example if callable(example) else Arguments.of(example).call
    first, second = (_outputs(make_pass, copied(model)[0]) for _ in range(2))
    if not first:
        raise LayerError(f"the pass of {type(model).__name__} returns no floating-point numbers that could be compared")
    has_gradients = any(output.requires_grad for output in first)
    before = [(output.detach(), again.detach()) for output, again in zip(first, second, strict=True)]
    del first, second  # their graphs
    if not has_gradients:
        warnings.warn(
            "the pass has no gradients: whether fresh weights have other paths is seen by its outputs alone", stacklevel=2
        )
    return max(_verify_group(model, make_pass, group, before) for group in groups)


def _verify_group(model: nn.Module, make_pass: Pass, group: Group, before: list[tuple[Tensor, Tensor]]) -> float:
    units = torch.arange(0, group.units, 3)
    replaced, of_replaced = _replaced(model, group, units)
    _check_the_rest(model, replaced, group, units)
    ablated, of_ablated = copied(model, group)
    with torch.no_grad():
        for edge in of_ablated.edges:
            edge.weights.fill(units, 0.0)
    with _norms_kept(of_ablated) as calls:
        expected = _outputs(make_pass, ablated)
    outputs = _outputs(make_pass, replaced)
    deviation = max(_deviation(*each)[0] for each in zip(outputs, expected, before, strict=True))
    if not group.coupled:
        _check_outputs(group, outputs, expected, before)
        _check_gradients(of_replaced, units, _gradients(make_pass, replaced, outputs))
    elif calls and all(calls) and _are_apart(group):
        decoupled, of_decoupled = _replaced(model, group, units)
        with _norms_given(of_decoupled, calls):
            _check_outputs(group, _outputs(make_pass, decoupled), expected, before)
    else:
        warnings.warn(
            f"layer '{group.name}': outputs were not compared, for a norm over its units is no module of its own", stacklevel=4
        )
    return deviation


def _replaced(model: nn.Module, group: Group, units: Tensor) -> tuple[nn.Module, Group]:
    """A copy of the model in which the units are replaced, and its group."""
    copy, of_copy = copied(model, group)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for slices in of_copy.fresh:
            fresh.draw(slices, units, 1.0, generator)
        for slices, value in of_copy.fixed:
            slices.fill(units, value)
        for edge in of_copy.edges:
            edge.weights.fill(units, 0.0)
    return copy, of_copy


def _outputs(make_pass: Pass, model: nn.Module) -> list[Tensor]:
    """The numbers that a pass returns; complex ones as pairs."""
    with undisturbed(model), must_be_called(model):
        torch.manual_seed(0)
        outputs = tensors_of(make_pass(model))
        outputs = [torch.view_as_real(output.resolve_conj()) if output.is_complex() else output for output in outputs]
    return [output for output in outputs if output.is_floating_point()]


# Outputs


def _check_outputs(group: Group, outputs: list[Tensor], expected: list[Tensor], before: list[tuple[Tensor, Tensor]]) -> None:
    for ours, theirs, equal in zip(outputs, expected, before, strict=True):
        _, deviation = _deviation(ours, theirs, equal)
        if deviation > _rounding(ours.dtype):
            raise VerifyError(
                f"layer '{group.name}': the outputs deviate by {deviation:.2g} of their change from those without these units"
            )


def _deviation(ours: Tensor, theirs: Tensor, equal: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """How far an output is from another, relative to the greatest number that changes, and to the greatest change.

    The changes are those from the unchanged model's. What two equal passes of it differ by is no deviation.
    """
    if len({tensor.shape for tensor in (ours, theirs, *equal)}) > 1:
        return math.inf, math.inf
    ours, theirs, before, again = (tensor.detach().to("cpu", torch.float64) for tensor in (ours, theirs, *equal))
    apart = _difference(ours, theirs)
    changes = torch.maximum(_difference(before, ours), _difference(before, theirs))
    numbers = torch.stack([ours, theirs, before]).abs()[:, (apart > 0) | (changes > 0)]
    deviation = apart.max().item() if apart.numel() else 0.0
    if deviation <= min(_PASSES * _greatest(_difference(before, again)), _MOST * _greatest(numbers)):
        return 0.0, 0.0
    tiny = torch.finfo(torch.float64).tiny
    return deviation / max(_greatest(numbers), tiny), deviation / max(_greatest(changes), tiny)


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """Element by element; equal ones have none, be they infinite or NaN."""
    equal = (ours == theirs) | (ours.isnan() & theirs.isnan())
    return (ours - theirs).abs().nan_to_num(math.inf, math.inf).masked_fill(equal, 0.0)


def _greatest(numbers: Tensor) -> float:
    """The greatest that is finite."""
    finite = numbers[numbers.isfinite()]
    return finite.max().item() if finite.numel() else 0.0


def _rounding(dtype: torch.dtype) -> float:
    return min(_EPSILONS * torch.finfo(dtype).eps, _MOST)


# What is not the units'


def _check_the_rest(model: nn.Module, replaced: nn.Module, group: Group, units: Tensor) -> None:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    now = dict(replaced.named_parameters()) | dict(replaced.named_buffers())
    names = {id(tensor): name for name, tensor in tensors.items()}
    touched: dict[str, Tensor] = {name: torch.zeros_like(tensor, dtype=torch.bool) for name, tensor in tensors.items()}
    for slices in group.written():
        slices.fill(units, True, touched[names[id(slices.tensor)]])
    for name, tensor in tensors.items():
        changed = (tensor != now[name]) & ~(tensor.isnan() & now[name].isnan())
        if bool((changed & ~touched[name]).any()):
            raise VerifyError(f"layer '{group.name}': replacing its units changes others' elements of '{name}'")


# Norms over units


def _are_apart(group: Group) -> bool:
    """Whether the norms have none of the weights around the units within them."""
    around = {slices.module for slices in (*group.fresh, *(edge.weights for edge in group.edges))}
    return not any(around & set(norm.modules()) for norm in group.norms)


@contextmanager
def _norms_kept(group: Group) -> Iterator[list[tuple[Tensor, Tensor] | None]]:
    """What the norms receive and return in a pass, call by call; None where these are no two tensors of one shape."""
    calls: list[tuple[Tensor, Tensor] | None] = []

    def keep(norm: nn.Module, args: Any, kwargs: Any, returned: Any) -> None:  # noqa: ARG001
        received = _received(args, kwargs, returned)
        calls.append(None if received is None else (received.detach().clone(), returned.detach().clone()))

    with _hooked(group.norms, keep):
        yield calls


@contextmanager
def _norms_given(group: Group, calls: list[tuple[Tensor, Tensor] | None]) -> Iterator[None]:
    """Lets the norms return what they did in another pass, but for units that they receive as others than there."""
    waiting = iter(calls)

    def give(norm: nn.Module, args: Any, kwargs: Any, returned: Any) -> Any:  # noqa: ARG001
        received, then = _received(args, kwargs, returned), next(waiting, None)
        if received is None or then is None:  # the pass took another way
            return returned
        others = torch.isclose(received, then[0], rtol=_rounding(received.dtype), atol=0.0, equal_nan=True)
        return torch.where(others, then[1], returned)

    with _hooked(group.norms, give):
        yield


def _received(args: Any, kwargs: Any, returned: Any) -> Tensor | None:
    """The tensor that a norm has made another of."""
    shape = returned.shape if isinstance(returned, Tensor) else None
    return next((part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor) and part.shape == shape), None)


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        yield


# Gradients


def _check_gradients(group: Group, units: Tensor, gradients: dict[int, Tensor]) -> None:
    for slices in group.fresh:
        gradient = gradients.get(id(slices.tensor))
        if gradient is None:
            continue
        own = slices.view(gradient).index_select(slices.dim, slices.of(units.to(gradient.device))).abs().max().item()
        if own > _rounding(gradient.dtype) * gradient.abs().max().item():
            raise VerifyError(
                f"layer '{group.name}': outputs depend on fresh weights, the gradient by '{slices.attribute}' is {own:.2g}"
            )


def _gradients(make_pass: Pass, model: nn.Module, outputs: list[Tensor], *, by_backward: bool = False) -> dict[int, Tensor]:
    """Those of a mixture of the outputs, by the parameters' ids."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with undisturbed(model):
        torch.manual_seed(0)
        total = sum((output * torch.rand_like(output)).sum() for output in outputs if output.requires_grad)
        found: Sequence[Tensor | None] = []
        if by_backward:
            model.zero_grad()
            total.backward()  # type: ignore[union-attr]
            found = [parameter.grad for parameter in parameters]
        elif isinstance(total, Tensor):
            try:
                found = torch.autograd.grad(total, parameters, allow_unused=True)
            except RuntimeError as error:
                if "use_reentrant" not in str(error):
                    raise
                # Reentrant checkpoints allow nothing else.
                return _gradients(make_pass, model, _outputs(make_pass, model), by_backward=True)
    return {id(parameter): gradient for parameter, gradient in zip(parameters, found, strict=False) if gradient is not None}
