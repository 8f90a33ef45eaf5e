"""The weights of a model that multiply, and the matrices that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from cbp.discovery.recording import unwrapped


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight of a layer that multiplies, or its bias.

    Attributes:
        name: Its path in the model.
        parameter: The tensor.
        kind: ``matrix``; ``bias``, added to what a matrix gives; ``magnitude``, the lengths that weight normalisation gives to
            the rows of a matrix.
        parts: Of how many layers side by side it is: the gates of a recurrent layer, the queries, keys and values of attention,
            the groups of a convolution.
        axis: Of a matrix, that of the outputs: 0, but 1 where the inputs come first, as in a transposed convolution.
        is_bilinear: Whether each pair of two inputs has a weight.
    """

    name: str
    parameter: nn.Parameter
    kind: str
    parts: int = 1
    axis: int = 0
    is_bilinear: bool = False

    @property
    def is_trained(self) -> bool:
        """Whether it is not frozen now."""
        return self.parameter.requires_grad

    def by_parts(self, tensor: Tensor) -> Tensor:
        """A view of the parameter, or of a tensor of its shape, part by part.

        Returns:
            Of a matrix ``(parts, outputs, inputs, *kernel)``, of a bias ``(parts, outputs)``.
        """
        if self.kind != "matrix":
            return tensor.view(self.parts, -1)
        if self.is_bilinear:
            return tensor.view(1, len(tensor), -1)
        split: Tensor = tensor[None] if self.parts == 1 else tensor.unflatten(0, (self.parts, -1))  # type: ignore[no-untyped-call]
        return split.movedim(1 + self.axis, 1) if self.axis else split

    def whole(self, parts: Tensor) -> Tensor:
        """The tensor of the parameter's shape that has these parts."""
        return (parts.movedim(1, 1 + self.axis) if self.axis else parts).reshape(self.parameter.shape)


def weights_of(model: nn.Module) -> list[Weight]:
    """The weights and biases of all layers that multiply, in the model's order.

    These are Linear and convolutional layers, recurrent ones, the projections of attention, what a parametrisation computes
    their weights from, and any other module with a ``weight`` of two or more dimensions. Embeddings, norms and bare parameters
    are left out. A norm that was written by hand is known by a weight such as ``(channels, 1, 1)``.

    Raises:
        ValueError: The model has no such layer, or none that is trained.
    """
    found = known_weights(model)
    if not any(parameter.requires_grad for parameter in found):
        raise ValueError(f"{type(model).__name__} has no layer that multiplies with weights of its own, or all are frozen")
    return list(found.values())


def known_weights(model: nn.Module) -> dict[nn.Parameter, Weight]:
    """As :func:`weights_of`, by their tensors; there may be none."""
    names = {parameter: name for name, parameter in unwrapped(model).named_parameters()}
    found: dict[nn.Parameter, Weight] = {}
    for module in model.modules():
        if _multiplies(module):
            for attribute, parameter in module.named_parameters(recurse=False):
                found.setdefault(parameter, _weight(names[parameter], module, attribute, parameter))
    return found


def trained_names(weights: Sequence[Weight]) -> list[str]:
    """The names of those that are not frozen now."""
    return [weight.name for weight in weights if weight.is_trained]


def _multiplies(module: nn.Module) -> bool:
    """Whether a module multiplies with weights of its own."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag | nn.LayerNorm | nn.modules.batchnorm._NormBase):
        return False
    if isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention | nn.utils.parametrize.ParametrizationList):
        return True
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        return False
    is_scale = weight.ndim > 2 and weight.numel() == max(weight.shape) and not isinstance(module, nn.modules.conv._ConvNd)
    return not is_scale


def _weight(name: str, module: nn.Module, attribute: str, parameter: nn.Parameter) -> Weight:
    """What one parameter of a module that multiplies is."""
    kind = "matrix" if parameter.ndim > 1 else "bias"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return Weight(name, parameter, kind, 1 if attribute.startswith("weight_hr") else len(parameter) // module.hidden_size)
    if isinstance(module, nn.MultiheadAttention):  # bias_k and bias_v are (1, 1, units)
        return Weight(name, parameter, "bias" if "bias" in attribute else kind, 3 if attribute.startswith("in_proj") else 1)
    if _is_magnitude(module, attribute):
        return Weight(name, parameter, "magnitude")
    if isinstance(module, nn.modules.conv._ConvNd):
        return Weight(name, parameter, kind, module.groups, axis=int(kind == "matrix" and module.transposed))
    # The Linear of GPT-2 in transformers.
    inputs_first = kind == "matrix" and type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    return Weight(name, parameter, kind, axis=int(inputs_first), is_bilinear=isinstance(module, nn.Bilinear))


def _is_magnitude(module: nn.Module, attribute: str) -> bool:
    if isinstance(module, nn.utils.parametrize.ParametrizationList):
        return attribute == "original0" and any(type(step).__name__ == "_WeightNorm" for step in module)
    return attribute.endswith("_g") and hasattr(module, f"{attribute[:-2]}_v")  # of the weight norm of older torch
