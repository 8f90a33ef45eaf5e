"""The weights of a model that multiply, and the matrices that they hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor, nn

from cbp.discovery.recording import unwrapped
from cbp.exchanges import Exchanges, refuse_lazy
from cbp.method import averaging_dtype
from cbp.replicas import is_flattened, refuse_flattened

_Parametrized = nn.utils.parametrize.ParametrizationList
_NO_MATRICES = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


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
        is_stacked: Whether it has its parts along a first dimension of their own: the members of an ensemble.
    """

    name: str
    parameter: nn.Parameter
    kind: str
    parts: int = 1
    axis: int = 0
    is_bilinear: bool = False
    is_stacked: bool = False

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
        if self.is_stacked:
            return tensor.mT
        if self.is_bilinear:
            return tensor.view(1, len(tensor), -1)
        split: Tensor = tensor[None] if self.parts == 1 else tensor.unflatten(0, (self.parts, -1))  # type: ignore[no-untyped-call]
        return split.movedim(1 + self.axis, 1) if self.axis else split

    def whole(self, parts: Tensor) -> Tensor:
        """The tensor of the parameter's shape that has these parts."""
        if self.is_stacked:
            return parts.mT
        return (parts.movedim(1, 1 + self.axis) if self.axis else parts).reshape(self.parameter.shape)


def weights_of(model: nn.Module) -> list[Weight]:
    """The weights and biases of all layers that multiply, in the model's order.

    These are Linear and convolutional layers, recurrent ones, the projections of attention, what a parametrisation computes
    their weights from, and any other module with a ``weight`` of two or more dimensions. Embeddings, also where a layer has the
    weight of one, norms and bare parameters are left out. A norm that was written by hand is known by a weight such as
    ``(channels, 1, 1)``. In a module that torch does not have, a weight of three dimensions is that of an ensemble,
    ``(members, inputs, outputs)``; with a ``kernel_size``, or a bias for each of its rows, that of a convolution.

    Raises:
        ValueError: The model has no such layer, or none that is trained; or it is lazy and has not been called yet; or its
            parameters are parts of a vector, as those of ``FullyShardedDataParallel``.
    """
    refuse_lazy(model)
    found = known_weights(model)
    if not any(parameter.requires_grad for parameter in found):
        raise ValueError(
            f"{type(model).__name__} has no layer that multiplies with weights of its own, or all are frozen; "
            "weights that are an embedding's too are left alone"
        )
    return list(found.values())


def known_weights(model: nn.Module) -> dict[nn.Parameter, Weight]:
    """As :func:`weights_of`, by their tensors; there may be none."""
    refuse_flattened(model)
    names = {parameter: name for name, parameter in unwrapped(model).named_parameters()}
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    left_alone = {parameter for embedding in embeddings for parameter in embedding.parameters(recurse=False)}
    found: dict[nn.Parameter, Weight] = {}
    for path, module in model.named_modules():
        of = model.get_submodule(path.rpartition(".parametrizations.")[0]) if isinstance(module, _Parametrized) else module
        if _multiplies(module) and not isinstance(of, _NO_MATRICES):
            for attribute, parameter in module.named_parameters(recurse=False):
                if not parameter.is_floating_point() or parameter in left_alone:
                    continue
                if _is_magnitude(module, attribute):
                    weight = Weight(names[parameter], parameter, "magnitude")
                else:
                    weight = _weight(names[parameter], module, attribute, parameter)
                if of is not module and (attribute == "original" or (weight.kind == "matrix" and _has_magnitude(module))):
                    # It has the form of the weight that is computed from it, if it has as many rows.
                    of_owner = _weight(names[parameter], of, path.rpartition(".")[2], parameter)
                    fits = of_owner.parts > 0 and len(parameter) % of_owner.parts == 0
                    weight = of_owner if fits else weight
                found.setdefault(parameter, weight)
    return found


class Weights:
    """The weights of a model that a method treats, looked up anew where the model's parameters were exchanged.

    Args:
        model: Any module.
        kinds: Those of :class:`Weight` that are treated.

    Raises:
        ValueError: As :func:`weights_of`; from :meth:`now` where the parameters were made parts of a vector since.
    """

    def __init__(self, model: nn.Module, kinds: Collection[str] = ("matrix", "bias", "magnitude")) -> None:
        self._model = model
        self._kinds = kinds
        self._exchanges = Exchanges(model)
        self._found = self._of_kinds(weights_of(model))

    def _of_kinds(self, weights: Iterable[Weight]) -> list[Weight]:
        return [weight for weight in weights if weight.kind in self._kinds]

    def now(self) -> list[Weight]:
        """The weights that the model has now, in its order."""
        self._exchanges.follow(self._look)
        if self._found and is_flattened(self._found[0].parameter):  # since they were looked up: they are the same parameters
            refuse_flattened(self._model)
        return self._found

    def _look(self) -> None:
        self._found = self._of_kinds(known_weights(self._model).values())

    def parameters(self) -> list[nn.Parameter]:
        """Their tensors."""
        return [weight.parameter for weight in self.now()]

    def shapes(self) -> list[list[Any]]:
        """The name and the sizes of each."""
        return [[weight.name, *weight.parameter.shape] for weight in self.now()]


def root_mean_square(tensor: Tensor) -> float:
    """The spread of a weight around 0."""
    return tensor.detach().to(averaging_dtype(tensor)).square().mean().sqrt().item()


def trained_names(weights: Iterable[Weight]) -> list[str]:
    """The names of those that are not frozen now."""
    return [weight.name for weight in weights if weight.is_trained]


def _multiplies(module: nn.Module) -> bool:
    """Whether a module multiplies with weights of its own."""
    if isinstance(module, _NO_MATRICES):
        return False
    if isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention | _Parametrized):
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
    if isinstance(module, nn.modules.conv._ConvNd):
        return Weight(name, parameter, kind, module.groups, axis=int(kind == "matrix" and module.transposed))
    if nn.utils.parametrize.is_parametrized(module, "weight"):  # it is not to be computed here
        of_weight: Any = module.parametrizations["weight"]  # type: ignore[index]
        weight = parameter if attribute == "weight" else getattr(of_weight, "original", getattr(of_weight, "original1", None))
    else:
        weight = getattr(module, "weight", None)
    if is_stacked(weight, module):
        if parameter is weight:
            return Weight(name, parameter, kind, len(weight), is_stacked=True)
        return Weight(name, parameter, "bias", len(weight) if parameter.ndim > 1 else 1)  # (members, 1, outputs), say
    # The Linear of GPT-2 in transformers.
    inputs_first = kind == "matrix" and _class_of(module).__name__ == "Conv1D" and hasattr(module, "nf")
    return Weight(name, parameter, kind, axis=int(inputs_first), is_bilinear=isinstance(module, nn.Bilinear))


def is_stacked(weight: Tensor | None, module: nn.Module | None = None) -> TypeGuard[Tensor]:
    """Whether a weight, bare or of a module that torch does not have, is that of an ensemble: a matrix for each member."""
    if not isinstance(weight, Tensor) or weight.ndim != 3 or _class_of(module).__module__.startswith("torch."):
        return False
    bias = getattr(module, "bias", None)
    is_kernel = hasattr(module, "kernel_size") or (isinstance(bias, Tensor) and bias.shape == weight.shape[:1])
    return not is_kernel


def _class_of(module: nn.Module | None) -> type:
    """The class of a module before any of its tensors was parametrised."""
    return type(module) if module is None else nn.utils.parametrize.type_before_parametrizations(module)


def _has_magnitude(module: nn.Module) -> bool:
    return isinstance(module, _Parametrized) and any(type(step).__name__ == "_WeightNorm" for step in module)


def _is_magnitude(module: nn.Module, attribute: str) -> bool:
    if isinstance(module, _Parametrized):
        return attribute == "original0" and _has_magnitude(module)
    return attribute.endswith("_g") and hasattr(module, f"{attribute[:-2]}_v")  # of the weight norm of older torch
