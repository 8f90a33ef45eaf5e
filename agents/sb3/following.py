"""A policy that follows what trains it: its optimizers and modules may be exchanged, and others' steps may train it."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.policies import BasePolicy
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

import cbp
from agents.sb3.carrying import Carried
from agents.sb3.networks import owners
from cbp.optimizers import held_by

if TYPE_CHECKING:
    _Policy = BasePolicy
else:
    _Policy = object  # the class of the policy comes behind this one among the bases

_alive: weakref.WeakSet[Following] = weakref.WeakSet()


class Following(_Policy):
    """Makes its methods anew where others are trained than they were made for.

    Attributes:
        methods: The methods by the networks that they treat.
        left_out: A line for each reason why units are left out.
    """

    methods: dict[str, cbp.Method]
    left_out: list[str]
    _carried: list[Carried]
    _resting: Sequence[Carried] = ()  # what they were of networks that have nothing to treat now
    _trained: tuple[Any, ...] | None = None
    _others: weakref.WeakSet[Optimizer]

    def _carry(self) -> None:
        """Makes the methods and puts them to work."""
        raise NotImplementedError

    def _begin_to_follow(self) -> None:
        """Takes what is trained now for what the methods are made for."""
        self._trained = self._signature()
        self._others = weakref.WeakSet()  # optimizers that have been looked at
        if self._carried:
            _alive.add(self)
            for module in self.modules():
                if _after_loading not in module._load_state_dict_post_hooks.values():
                    module.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]

    def _signature(self) -> tuple[Any, ...]:
        """What tells whether other optimizers, other modules or other parameters are trained."""
        owned = list(owners(self).values())
        modules = [module for owner in owned for module in owner.modules()]
        trained = [parameter.requires_grad for owner in owned for parameter in owner.parameters()]
        return [id(owner.optimizer) for owner in owned], list(map(id, modules)), trained

    def _follow(self) -> None:
        """Makes the methods anew where that is due; units that are the same go on."""
        before = self._trained
        if before is None or (now := self._signature()) == before:
            return
        same_modules = now[1:] == before[1:]
        carried = [*self._carried, *self._resting]
        for old in carried:
            old.detach()
        try:
            self._carry()
        except cbp.LayerError as error:
            self._carried, self._resting = [], carried
            self._begin_to_follow()
            warnings.warn(f"the method of this {type(self).__name__} rests: {error}", stacklevel=3)
            return
        treated = [new.name for new in self._carried]
        self._resting = [old for old in carried if old.name not in treated]
        for new in self._carried:
            for old in carried:
                if old.name == new.name:
                    new.take_over(old)
        if not same_modules:
            layers = [layer for method in dict.fromkeys(self.methods.values()) for layer in method.layers]
            kept = sum(layer.clock > 0 for layer in layers)
            left_out = f"; left out: {'; '.join(self.left_out)}" if self.left_out else ""
            now_treated = (
                f"{len(layers)} hidden layers are treated now, of which {kept} keep their ages and utilities"
                if layers
                else "its method was made anew for what is trained now"
            )
            warnings.warn(
                f"modules of this {type(self).__name__} were exchanged or frozen: {now_treated}{left_out}",
                stacklevel=3,
            )

    def _notice(self, optimizer: Optimizer) -> None:
        """Takes note of a step of any optimizer."""
        if any(optimizer is carried.optimizer for carried in self._carried) or optimizer in self._others:
            return
        if any(optimizer is owner.optimizer for owner in owners(self).values()):
            self._follow()
            return
        self._others.add(optimizer)
        methods = list(dict.fromkeys(self.methods.values()))
        weights = [slices.tensor for method in methods for layer in method.layers for slices in layer.hidden.fresh]
        if not held_by([optimizer]).isdisjoint(weights or self.parameters()):
            warnings.warn(
                f"this {type(self).__name__} is trained by another optimizer ({type(optimizer).__name__}) than its own, after "
                "whose steps alone its method acts; make it the policy's: policy.optimizer = …",
                stacklevel=3,
            )

    def _take_loaded_weights(self, module: nn.Module) -> None:
        """Lets methods begin anew with weights that this module was given."""
        given = set(module.parameters())
        for carried in self._carried:
            if not given.isdisjoint(held_by([carried.optimizer])):
                carried.begin_anew()

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3, which calls this before updates."""
        if mode:
            self._follow()
        super().set_training_mode(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_others"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self._trained is not None:
            self._begin_to_follow()


def _after_loading(module: nn.Module, _: Any) -> None:
    for policy in list(_alive):
        policy._take_loaded_weights(module)


def _after_any_step(optimizer: Optimizer, *_: Any) -> None:
    for policy in list(_alive):
        policy._notice(optimizer)


register_optimizer_step_post_hook(_after_any_step)
