"""Spectral regularisation: keep the largest singular value of each layer's weights near 1.

Source: Lewandowski, Bortkiewicz, Kumar, György, Schuurmans, Ostaszewski, Machado, *Learning continually by spectral
regularization*, ICLR 2025 (arXiv 2406.06811), section 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import Optimizer

from cbp.method import check_number, check_whole
from cbp.regularizer import Regularizer
from cbp.weighted import output_axes, weighted_parameters


class Spectral(Regularizer, name="spectral"):
    """Adds λ·Σ_l [(σ_l^k − 1)² + ‖b_l‖^2k] to the loss, σ_l the largest singular value of the weights of layer l, b_l its bias.

    It does so by the gradients 2λk·(σ^k − 1)·σ^(k−1)·uvᵀ and 2λk·‖b‖^(2k−2)·b in :meth:`before_update`, with u and v the
    singular vectors of σ. These are followed by one power iteration an update: v ← Wᵀu/‖Wᵀu‖ with u = Wv/‖Wv‖, exact at the
    moment the method is made. The layers are those that multiply (:class:`cbp.ShrinkPerturb` says which); W is ``(outputs,
    inputs)``, of a convolution the inputs are channels × kernel.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        strength: λ, at least 0. Default: ours.
        exponent: k, at least 1. Default: the paper's.

    Attributes:
        touched: The names of the weights and biases.

    Raises:
        ValueError: An option out of its range, or a model without layers that multiply.

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

    def __init__(self, model: nn.Module, optimizer: Optimizer, strength: float = 1e-4, exponent: int = 2) -> None:  # noqa: ARG002
        check_number("strength", strength, 0)
        self.strength = float(strength)
        self.exponent = check_whole("exponent", exponent, least=1)
        found = weighted_parameters(model)
        self.touched = list(found)
        self._parameters = list(found.values())
        self._axes = output_axes(model, self._parameters)
        self._vectors = [
            _first_right_vector(p.detach().movedim(axis, 0).flatten(1))
            for p, axis in zip(self._parameters, self._axes, strict=True)
            if p.ndim > 1
        ]

    def _gradients(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        k, i = self.exponent, -1
        for parameter, axis in zip(self._parameters, self._axes, strict=True):
            i += parameter.ndim > 1
            if parameter.grad is None:
                continue
            if parameter.ndim > 1:
                turned = parameter.movedim(axis, 0)
                w = turned.flatten(1)
                u = normalize(w @ self._vectors[i].to(w), dim=0)
                along = w.T @ u
                sigma = torch.linalg.vector_norm(along)
                self._vectors[i] = v = torch.where(sigma > 0, along / sigma, self._vectors[i].to(w))
                gradient = 2 * k * (sigma**k - 1) * sigma ** (k - 1) * torch.outer(u, v)
                yield parameter, gradient.view_as(turned).movedim(0, axis)
            else:
                yield parameter, 2 * k * parameter.square().sum() ** (k - 1) * parameter

    def state_dict(self) -> dict[str, Any]:
        """The singular vectors v, layer by layer."""
        return {"vectors": [vector.clone() for vector in self._vectors]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the vectors of a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        theirs, own = ([len(vector) for vector in vectors] for vectors in (state.get("vectors", []), self._vectors))
        if theirs != own:
            raise ValueError(f"the state is of a model whose layers have {theirs} inputs, this one has {own}")
        self._vectors = [vector.to(own, copy=True) for vector, own in zip(state["vectors"], self._vectors, strict=True)]


def _first_right_vector(weight: Tensor) -> Tensor:
    """The right singular vector of the largest singular value, from the smaller of WᵀW and WWᵀ: cheaper than an SVD."""
    w = weight.double()
    is_wide = w.shape[0] < w.shape[1]
    v: Tensor = torch.linalg.eigh(w @ w.T if is_wide else w.T @ w).eigenvectors[:, -1]
    if is_wide:
        v = w.T @ v
        v = normalize(v if v.any() else torch.ones_like(v), dim=0)
    return v.to(weight)
