"""Checks that replacing units changes a model by what they contribute, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cbp import fresh
from cbp.discovery.finding import find_layers
from cbp.discovery.recording import Arguments, Example, copied, tensors_of, undisturbed, unwrapped
from cbp.groups import Group

_ROUNDING = 1000  # times the machine epsilon of the outputs, in units of their greatest value


class VerifyError(AssertionError):
    """Replacing units of a group does something else than it should. The message names the group."""


def verify(model: nn.Module, example: Example, layers: Sequence[Group] | None = None) -> float:
    """Checks on copies of a model that its units are replaced as they should be.

    Of each hidden layer a third of the units, at least one, are replaced. Then

    - the outputs equal those of a copy in which only the outgoing weights of these units are zeroed;
    - the gradient of the outputs with respect to the fresh incoming weights is zero: no other path is left;
    - nothing else has changed, of no parameter or buffer.

    Where a norm is over several units, replacing one changes the others: there the outputs and gradients are not compared, but
    the deviation counts.

    Args:
        model: The model, in training or evaluation mode; it is left as it is.
        example: As for :func:`cbp.find_layers`.
        layers: The hidden layers to check; those that are found, by default.

    Returns:
        The largest deviation of an output, relative to the greatest output. Without norms over units it is rounding.

    Raises:
        VerifyError: One of the above does not hold.
        LayerError: There is no hidden layer, or the forward pass fails.
    """
    model = unwrapped(model)
    layers = find_layers(model, example) if layers is None else layers
    return max(_verify_group(model, example, group) for group in layers)


def _verify_group(model: nn.Module, example: Example, group: Group) -> float:
    make_pass = example if callable(example) else Arguments.of(example).call
    units = torch.arange(0, group.units, 3)
    replaced, ablated = (copied(model, group) for _ in range(2))
    with torch.no_grad():
        for edge in ablated[1].edges:
            edge.weights.fill(units, 0.0)
        generator = torch.Generator().manual_seed(0)
        for slices in replaced[1].fresh:
            fresh.draw(slices, units, 1.0, generator)
        for slices, value in replaced[1].fixed:
            slices.fill(units, value)
        for edge in replaced[1].edges:
            edge.weights.fill(units, 0.0)
    _check_the_rest(model, replaced[0], group, units)
    outputs, gradients = _run(make_pass, replaced[0], replaced[1])
    expected, _ = _run(make_pass, ablated[0], ablated[1])
    deviation = max(_deviation(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))
    precision = max(torch.finfo(output.dtype).eps for output in outputs)
    if group.coupled:
        return deviation
    if not deviation <= _ROUNDING * precision:
        raise VerifyError(
            f"layer '{group.name}': the outputs deviate by {deviation:.2g} of the greatest from those without these units"
        )
    for slices, gradient, greatest in gradients:
        own = slices.view(gradient).index_select(slices.dim, slices.of(units.to(gradient.device))).abs().max().item()
        if own > _ROUNDING * precision * greatest:
            raise VerifyError(
                f"layer '{group.name}': outputs depend on fresh weights, the gradient by '{slices.attribute}' is {own:.2g}"
            )
    return deviation


def _run(
    make_pass: Callable[[nn.Module], Any], model: nn.Module, group: Group, *, by_backward: bool = False
) -> tuple[list[Tensor], list[tuple[Any, Tensor, float]]]:
    """Outputs, and the gradients of a mixture of them by the incoming weights, with the greatest of all gradients."""
    with undisturbed(model):
        torch.manual_seed(0)
        outputs = [output for output in tensors_of(make_pass(model)) if output.is_floating_point()]
        total = sum((output * torch.rand_like(output)).sum() for output in outputs if output.requires_grad)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
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
            return _run(make_pass, model, group, by_backward=True)  # reentrant checkpoints allow nothing else
    by_parameter = dict(zip(map(id, parameters), found, strict=False))
    greatest = max((gradient.abs().max().item() for gradient in by_parameter.values() if gradient is not None), default=0.0)
    gradients = [
        (slices, gradient, greatest) for slices in group.fresh if (gradient := by_parameter.get(id(slices.tensor))) is not None
    ]
    return [output.detach() for output in outputs], gradients


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    greatest = theirs.abs().max().item() if theirs.numel() else 0.0
    difference = (ours - theirs).abs().max().item() if theirs.numel() else 0.0
    return difference / max(greatest, torch.finfo(theirs.dtype).tiny) if difference else 0.0


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
