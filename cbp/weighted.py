"""The weights of a model that multiply."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from cbp.discovery.recording import unwrapped


def weighted_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights and biases of all layers that multiply, by their paths in the model.

    These are Linear and convolutional layers, recurrent ones, the projections of attention, what a parametrisation computes
    their weights from, and any other module with a ``weight`` of two or more dimensions. Embeddings, norms, bare parameters and
    frozen ones are left out. A norm that was written by hand is known by a weight such as ``(channels, 1, 1)``.

    Raises:
        ValueError: The model has no such layer.
    """
    names = {parameter: name for name, parameter in unwrapped(model).named_parameters()}
    weighted = [module for module in model.modules() if _multiplies(module)]
    found = dict.fromkeys(p for module in weighted for p in module.parameters(recurse=False) if p.requires_grad)
    if not found:
        raise ValueError(f"{type(model).__name__} has no layer that multiplies with weights of its own")
    return {names[parameter]: parameter for parameter in found}


def output_axes(model: nn.Module, weights: Iterable[nn.Parameter]) -> list[int]:
    """The axis of the outputs in each of some weights: 0, but 1 in those of transposed convolutions."""
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    turned = {id(module.weight) for module in model.modules() if isinstance(module, transposed)}
    return [int(id(weight) in turned) for weight in weights]


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
