"""Parseval regularisation: keep the rows of each hidden layer's weights orthogonal, and of one length.

Source: Chung, Cherif, Meger, Precup, *Parseval regularization for continual reinforcement learning*, NeurIPS 2024
(arXiv 2412.07224), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.discovery.finding import find_layers
from cbp.discovery.recording import Example, unwrapped
from cbp.exchanges import Exchanges
from cbp.groups import Group, HiddenLayer, LayerError, given
from cbp.method import check_number, check_state
from cbp.regularizer import Regularizer
from cbp.replicas import refuse_sharded
from cbp.weighted import Weight, is_stacked, known_weights, trained_names

_WIDTH = 64  # of the networks that the authors chose λ for; for others they multiply λ by (64 / width)²


class _Treated(NamedTuple):
    """A weight of a hidden layer of so many units; the rows that are theirs, part by part, or None where all are."""

    weight: Weight
    units: int
    rows: list[Tensor] | None
    dim: int


class Parseval(Regularizer, name="parseval"):
    """Adds λ·(64/n)²·‖WWᵀ − sI‖²_F to the loss, for the weights W of each hidden layer of n units.

    It does so by its gradient, 4λ·(64/n)²·(WWᵀ − sI)W, in :meth:`before_update`. W is ``(units, inputs)``; of a convolution the
    inputs are channels × kernel. The gates of a recurrent layer, groups of a convolution and members of an ensemble have
    a W each; where a gated layer is one Linear its units have several rows, all of which become orthogonal. Of a tensor that is
    a hidden layer's in part, such as that of queries, keys and values, W are the rows of its units. Heads, biases and norms are
    left alone. :attr:`touched` has the names.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        strength: λ, at least 0. Default: the authors', for networks of 64 units.
        scale: s, above 0: the square of the length of a row. Default: the authors', 2, the square of the gain √2 that the
            orthogonal initial weights have.
        layers: The hidden layers, where they cannot be found or only some shall be treated.
        example: What a forward pass is made with to find them, as for :func:`cbp.find_layers`.

    Raises:
        ValueError: An option out of its range, or an optimizer that maximises.
        LayerError: As :func:`cbp.find_layers`; or the weights of all layers are frozen, or the model's parameters are sharded.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 1))
        >>> method = Parseval(model, torch.optim.SGD(model.parameters(), lr=0.1), strength=0.5, scale=2.0)
        >>> _ = nn.init.zeros_(model[0].weight), nn.init.constant_(model[0].weight[0], 3.0)
        >>> (0 * model(torch.ones(1, 1))).sum().backward()
        >>> method.before_update()  # 4 · 0.5 · (3·3 − 2) · 3
        >>> model[0].weight.grad[0].item(), model[2].weight.grad[0, 0].item()
        (42.0, 0.0)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        strength: float = 1e-3,
        scale: float = 2.0,
        layers: Sequence[HiddenLayer | Group] | None = None,
        example: Example | None = None,
    ) -> None:
        super().__init__(optimizer)
        self.strength = check_number("strength", strength, 0)
        self.scale = check_number("scale", scale, 0, above=0)
        self._model = unwrapped(model)
        self._example = example
        self._are_given = layers is not None
        self._exchanges = Exchanges(model)
        refuse_sharded(self._model)
        self._treat(find_layers(model, example) if layers is None else given(layers, self._model))

    def _treat(self, groups: list[Group]) -> None:
        known = known_weights(self._model)
        names = {parameter: name for name, parameter in self._model.named_parameters()}
        self._treated: list[_Treated] = []
        for group in groups:
            for parameter in dict.fromkeys(slices.tensor for slices in group.fresh):
                if isinstance(parameter, nn.Parameter) and parameter in names:
                    weight = known.get(parameter) or _bare(names[parameter], parameter)
                    # Each member of an ensemble is a group, and all of them are treated with the first.
                    if not (weight.is_stacked and any(each.weight.parameter is parameter for each in self._treated)):
                        self._treated.append(_treated(group, weight))
        if not any(each.weight.is_trained for each in self._treated):
            raise LayerError(f"{type(self._model).__name__} has no hidden layer whose weights are trained")

    def _look(self) -> None:
        """Finds the layers anew where the model has others, unless they were given."""
        refuse_sharded(self._model)
        if not self._are_given:
            self._exchanges.follow(lambda: self._treat(find_layers(self._model, self._example)))

    @property
    def touched(self) -> list[str]:
        """The names of the weights that are not frozen."""
        return trained_names(self._weights())

    def _weights(self) -> list[Weight]:
        self._look()
        return list({each.weight.name: each.weight for each in self._treated}.values())

    def _treats(self) -> list[nn.Parameter]:
        self._look()
        return [each.weight.parameter for each in self._treated]

    def _gradients(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        for weight, units, rows, dim in self._treated:
            parameter = weight.parameter
            if parameter.grad is None:
                continue
            if rows is None:
                parts = weight.by_parts(parameter)
                yield parameter, weight.whole(self._gradient(parts.flatten(2), units).view_as(parts))
                continue
            gradient = torch.zeros_like(parameter)
            for some in (of_part.to(parameter.device) for of_part in rows):
                own = parameter.index_select(dim, some).movedim(dim, 0)
                gradient.index_copy_(dim, some, self._gradient(own.flatten(1)[None], units).view_as(own).movedim(0, dim))
            yield parameter, gradient

    def _gradient(self, w: Tensor, units: int) -> Tensor:
        """That of the term without λ: ``(parts, units, inputs)``, of as many matrices."""
        # (WWᵀ − sI)W = W(WᵀW) − sW: by the smaller of the two products.
        cube = w @ (w.mT @ w) if w.shape[1] > w.shape[2] else (w @ w.mT) @ w
        return cube.sub_(w, alpha=self.scale).mul_(4 * (_WIDTH / units) ** 2)

    def state_dict(self) -> dict[str, Any]:
        """The names and shapes of the weights; nothing changes with time."""
        return {"weights": [[weight.name, *weight.parameter.shape] for weight in self._weights()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that a state made by :meth:`state_dict` is of such a model; the layers may be others of it.

        Raises:
            ValueError: The state belongs to another model.
        """
        check_state(state, {"weights"})
        own = self.state_dict()["weights"]
        theirs = {name: shape for name, *shape in state["weights"]}
        both = [name for name, *_ in own if name in theirs]
        if not both or any(theirs[name] != shape for name, *shape in own if name in theirs):
            raise ValueError(f"the state is of a model with weights {state['weights']}, this one has {own}")


def _bare(name: str, parameter: nn.Parameter) -> Weight:
    """A parameter of no module that is known: a matrix, either way round, as the gradient is the same, or several."""
    stacked = is_stacked(parameter)
    return Weight(name, parameter, "matrix", len(parameter) if stacked else 1, is_stacked=stacked)


def _treated(group: Group, weight: Weight) -> _Treated:
    """What of a weight is the group's."""
    slices = [some for some in group.fresh if some.tensor is weight.parameter]
    dim, blocks = slices[0].dim, slices[0].blocks
    rows = torch.unique(torch.cat([some.index.flatten() for some in slices]))
    whole = weight.parameter.shape[dim]
    if len(rows) == whole * blocks or blocks > 1 or weight.is_stacked:
        return _Treated(weight, group.units, None, dim)
    of_part = rows // (whole // weight.parts)
    return _Treated(weight, group.units, [rows[of_part == part] for part in torch.unique(of_part)], dim)
