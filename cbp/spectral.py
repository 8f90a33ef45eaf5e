"""Spectral regularisation: keep the largest singular value of each layer's weights near 1.

Source: Lewandowski, Bortkiewicz, Kumar, György, Schuurmans, Ostaszewski, Machado, *Learning continually by spectral
regularization*, ICLR 2025 (arXiv 2406.06811), section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import Optimizer

from cbp.exchanges import PerParameter
from cbp.method import check_number, check_state, check_whole
from cbp.regularizer import Regularizer
from cbp.weighted import Weights, trained_names


class Spectral(Regularizer, name="spectral"):
    """Adds λ·Σ_l [(σ_l^k − 1)² + ‖b_l‖^2k] to the loss, σ_l the largest singular value of the weights of layer l, b_l its bias.

    It does so by the gradients 2λk·(σ^k − 1)·σ^(k−1)·uvᵀ and 2λk·‖b‖^(2k−2)·b in :meth:`before_update`, with u and v the
    singular vectors of σ. These are followed by one power iteration an update: v ← Wᵀu/‖Wᵀu‖ with u = Wv/‖Wv‖, exact at the
    moment the method is made. The layers are those that multiply (:class:`cbp.ShrinkPerturb` says which); W is ``(outputs,
    inputs)``, of a convolution the inputs are channels × kernel. The gates of a recurrent layer, the queries, keys and values
    of attention and the groups of a convolution are layers of their own. Behind a parametrisation W is what the weights are
    computed from; of weight normalisation the directions alone, which has no effect on what the network computes.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        strength: λ, at least 0. Default: ours.
        exponent: k, at least 1. Default: the paper's.

    Raises:
        ValueError: An option out of its range, a model without layers that multiply, or an optimizer that maximises.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
        >>> method = Spectral(model, torch.optim.SGD(model.parameters(), lr=0.1), strength=0.25, exponent=2)
        >>> (0 * model(torch.ones(1, 2))).sum().backward()
        >>> method.before_update()  # 2 · 0.25 · 2 · (3² − 1) · 3, in the direction of the first axes
        >>> model.weight.grad.tolist()
        [[24.0, 0.0], [0.0, 0.0]]
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, strength: float = 1e-4, exponent: int = 2) -> None:
        super().__init__(optimizer)
        self.strength = check_number("strength", strength, 0)
        self.exponent = check_whole("exponent", exponent, least=1)
        self._weights = Weights(model, kinds=("matrix", "bias"))
        self._vectors = PerParameter(model, self._matrices, self._begin, may_be_sharded=True)

    def _matrices(self) -> list[nn.Parameter]:
        return [weight.parameter for weight in self._weights.now() if weight.kind == "matrix"]

    def _begin(self, parameter: nn.Parameter) -> Tensor:
        weight = next(weight for weight in self._weights.now() if weight.parameter is parameter)
        return _first_right_vectors(weight.by_parts(parameter.detach()).flatten(2))

    @property
    def touched(self) -> list[str]:
        """The names of the weights and biases that are not frozen."""
        return trained_names(self._weights.now())

    def _treats(self) -> list[nn.Parameter]:
        return self._weights.parameters()

    def _gradients(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        k, vectors = self.exponent, self._vectors.now()
        for weight in self._weights.now():
            parameter = weight.parameter
            if parameter.grad is None:
                continue
            parts = weight.by_parts(parameter)
            if weight.kind == "matrix":
                w = parts.flatten(2)
                before = vectors[parameter].to(w)
                u = normalize(w @ before[..., None], dim=1)
                along = (w.mT @ u).squeeze(2)
                sigma = torch.linalg.vector_norm(along, dim=1, keepdim=True)
                vectors[parameter] = v = torch.where(sigma > 0, along / sigma, before)
                factor = 2 * k * (sigma**k - 1) * sigma ** (k - 1)
                gradient = (u * (factor * v)[:, None]).view_as(parts)
            else:
                gradient = 2 * k * parts.square().sum(1, keepdim=True) ** (k - 1) * parts
            yield parameter, weight.whole(gradient)

    def take_over(self, other: Self) -> None:
        """As for :class:`cbp.Method`."""
        self._vectors.take_over(other._vectors)

    def state_dict(self) -> dict[str, Any]:
        """The names of the weights, and the singular vectors v, layer by layer: ``(parts, inputs)`` each."""
        return {"names": self._vectors.names(), "vectors": [vector.clone() for vector in self._vectors.now().values()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the vectors of a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        check_state(state, {"vectors"})
        kept = self._vectors.now()
        theirs, own = ([v.numel() for v in vectors] for vectors in (state["vectors"], kept.values()))
        if theirs != own:
            raise ValueError(f"the state is of a model whose layers have {theirs} inputs, this one has {own}")
        self._vectors.check(state.get("names"))
        for (parameter, mine), vector in zip(list(kept.items()), state["vectors"], strict=True):
            kept[parameter] = vector.to(mine, copy=True).view_as(mine)
        self._vectors.mark_loaded()


def _first_right_vectors(weights: Tensor) -> Tensor:
    """The right singular vectors of the largest singular values, from the smaller of WᵀW and WWᵀ: cheaper than an SVD."""
    w = weights.double()
    is_wide = w.shape[1] < w.shape[2]
    v: Tensor = torch.linalg.eigh(w @ w.mT if is_wide else w.mT @ w).eigenvectors[..., -1]
    if is_wide:
        v = (w.mT @ v[..., None]).squeeze(2)
        v = normalize(torch.where(v.any(dim=1, keepdim=True), v, torch.ones_like(v)), dim=1)
    return v.to(weights)
