"""Proximal feature optimization: keep the units near what they were when the network acted.

Source: Moalla, Miele, Pyatko, Pascanu, Gulcehre, *No representation, no trust: connecting representation, collapse, and trust
issues in PPO*, NeurIPS 2024 (arXiv 2405.00662).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.discovery.finding import find_layers
from cbp.discovery.recording import Example, unwrapped
from cbp.groups import Group, HiddenLayer, LayerError, given
from cbp.method import check_number
from cbp.replaying import Batch, Replaying, mean_square
from cbp.replicas import refuse_sharded


class ProximalFeatures(Replaying, name="pfo"):
    """Adds λ · mean (z_θ(x) − z_θ'(x))² to the loss, z what a layer computes before its activation, x the minibatch.

    θ' are the weights that the model last acted with: those of its last pass without gradients or in evaluation mode before
    this update. For PPO these are the weights that collected the rollout. Nothing is added as long as the model never acted.
    The mean is over the minibatch and the units. Running statistics of norms are those of now on both sides. Of a module
    that is called several times in a pass the last call counts; one that the other weights do not call, or call with another
    number of samples, as an expert, is left out of the mean of this update.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        strength: λ, at least 0. Default: the authors' for ReLU on MuJoCo; for Tanh they take 1.
        all_layers: Whether all hidden layers count, or the last alone: those that feed no other. Default: the authors' code.
        layers: The hidden layers, where they cannot be found or only some shall be treated.
        example: What a forward pass is made with to find them, as for :func:`cbp.find_layers`.
        receives: As for :class:`cbp.Replaying`.

    Attributes:
        watched: The names of the hidden layers.

    Raises:
        ValueError: An option out of its range, or ``all_layers`` no truth value.
        LayerError: As :func:`cbp.find_layers`; or the model's parameters are sharded. From :meth:`before_update`, where a
            hidden layer's module returns something else than its units, as an LSTM.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
        >>> method = ProximalFeatures(model, torch.optim.SGD(model.parameters(), lr=1.0), strength=0.5)
        >>> x = torch.tensor([[2.0]])
        >>> _ = nn.init.constant_(model[0].weight, 1.0)
        >>> with torch.no_grad():
        ...     _ = model(x)  # acts
        >>> for weight in (1.0, 1.5):
        ...     _ = nn.init.constant_(model[0].weight, weight)
        ...     (0 * model(x)).sum().backward()
        ...     method.before_update()
        ...     _ = method.step()
        >>> model[0].weight.grad.item()  # 0.5 · 2 · (1.5 · 2 − 1 · 2) · 2
        2.0
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        strength: float = 10.0,
        all_layers: bool = False,
        layers: Sequence[HiddenLayer | Group] | None = None,
        example: Example | None = None,
        receives: nn.Module | None = None,
    ) -> None:
        self.strength = check_number("strength", strength, 0)
        if not isinstance(all_layers, bool):
            raise ValueError(f"all_layers must be True or False, got {all_layers!r}")
        self.all_layers = all_layers
        self._example = example
        self._are_given = layers is not None
        refuse_sharded(unwrapped(model))  # of which no pass is recorded either
        groups = find_layers(model, example) if layers is None else given(layers, unwrapped(model))
        super().__init__(model, optimizer, receives)
        self._watch(groups)
        self._then: dict[str, Tensor] | None = None

    def _watch(self, groups: list[Group]) -> None:
        groups = groups if self.all_layers else _last(groups)
        self.watched = [group.name for group in groups]
        self._modules = list(dict.fromkeys(slices.module for group in groups for slices in group.fresh))

    def _units(self, batch: Batch, weights: dict[str, Tensor] | None = None) -> dict[nn.Module, Tensor]:
        """What the layers that are called compute before their activations."""
        computed: dict[nn.Module, Any] = {}
        with ExitStack() as hooks:
            for module in self._modules:
                hook = module.register_forward_hook(lambda module, _, output: computed.__setitem__(module, _kept(output)))
                hooks.enter_context(hook)
            self._replay(batch, weights)
        for module, output in computed.items():
            if not isinstance(output, Tensor):
                raise LayerError(f"a {type(module).__name__} does not return what its units compute, which PFO compares")
        return computed

    def _term(self, batch: Batch) -> Tensor | None:
        self._look()
        if self._tap.acted:
            self._then = {name: parameter.detach().clone() for name, parameter in self._model.named_parameters()}
            self._tap.acted = False
        own = dict(self._model.named_parameters())
        if self._then is not None and {k: v.shape for k, v in self._then.items()} != {k: v.shape for k, v in own.items()}:
            self._then = None  # made otherwise since
        if self._then is None:
            return None
        with torch.no_grad():
            then = {name: self._then[name].to(parameter) for name, parameter in own.items()}
            before = self._units(batch, then)
        now = self._units(batch)
        # Other weights may route the batch's samples otherwise.
        both = [module for module in self._modules if module in now and module in before]
        both = [module for module in both if now[module].shape == before[module].shape]
        return mean_square([now[module] for module in both], [before[module] for module in both]) if both else None

    def _drop(self) -> None:
        self._then = None
        if not self._are_given:
            self._watch(find_layers(self._model, self._example))

    def state_dict(self) -> dict[str, Any]:
        """The weights that the model last acted with, and whether it acted since the last update."""
        self._look()
        then = None if self._then is None else {name: tensor.clone() for name, tensor in self._then.items()}
        return {"weights": self._shapes(), "then": then, "acted": self._tap.acted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        self._look()
        self._check(state, {"then", "acted"})
        self._then = self._placed(state["then"])
        self._tap.acted = bool(state["acted"])
        self._has_seen |= self._then is not None
        self._exchanges.mark_loaded()


def _kept(output: Any) -> Any:
    """What a layer computed, whatever an activation in place does to it afterwards."""
    return output.clone() if isinstance(output, Tensor) else output


def _last(groups: list[Group]) -> list[Group]:
    """The hidden layers that feed no other: one in front of each head, or each tower of heads."""
    hidden = {slices.module for group in groups for slices in group.fresh}
    return [group for group in groups if not any(edge.weights.module in hidden for edge in group.edges)] or groups[-1:]
