"""A method at work on an optimizer: it acts after each step, and its state is part of the optimizer's."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

import cbp
from agents.sb3.networks import network_of
from cbp.method import options_of
from cbp.optimizers import NoGradientsError

_KEY = "methods"  # in the optimizer's state


class Carried:
    """A method that acts around each step of an optimizer.

    Args:
        name: What its state is called within the optimizer's, which may carry several.
        method: The method.
        optimizer: Whose steps it follows. It may act on weights that others hold, too.
        in_turns: Whether other networks have the same optimizer and methods of their own: its steps that follow no pass of this
            one's networks are not its updates.
        targets: For each module of the networks its like in their target networks, which receive each fresh unit at once; empty
            where they are left alone.
    """

    def __init__(
        self,
        name: str,
        method: cbp.Method,
        optimizer: Optimizer,
        *,
        in_turns: bool = False,
        targets: Mapping[nn.Module, nn.Module] | None = None,
    ) -> None:
        self.name = name
        self.method = method
        self.optimizer = optimizer
        self._in_turns = in_turns
        self._targets = dict(targets or {})
        self._has_warned = False
        self._was_loaded = False  # from the policy's state, where the first releases had the method's
        self._weights_came = self._state_came = False  # since the last update, a state without weights before it
        self._rests = False  # in this step, which has gradients of other networks alone
        self._handles: list[RemovableHandle] = []
        self._given = self._options()
        self.attach()

    def attach(self) -> None:
        """Puts the hooks on the optimizer; copies and pickles of one come without."""
        optimizer = self.optimizer
        self._handles = [
            optimizer.register_step_pre_hook(self.before_update),
            optimizer.register_step_post_hook(self.after_update),
            optimizer.register_state_dict_post_hook(self._add_state),
            optimizer.register_load_state_dict_pre_hook(self._take_state),
        ]

    def detach(self) -> None:
        """Takes the hooks off, and what the method watches the networks with."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if isinstance(self.method, cbp.ReplacingMethod | cbp.Replaying):
            self.method.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": bool(self._handles)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handles = []
        if state["_handles"]:  # else it rests
            self.attach()

    def state_dict(self) -> dict[str, Any]:
        """The method's state, and its options as they are now."""
        own = {"options": self._options(), "given": dict(self._given), "kind": type(self.method).__name__}
        return {**self.method.state_dict(), **own}

    def _options(self) -> dict[str, Any]:
        """The method's options as they are now, as numbers and words of Python, be they set as NumPy's."""
        options = {name: getattr(self.method, name, None) for name in options_of(type(self.method))}
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
        return {name: value for name, value in plain.items() if _is_plain(value)}

    def _take_options(self, options: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        """Sets the options that were set on another one, but for those that the two were given differently."""
        for name in options.keys() & set(options_of(type(self.method))):
            given_alike = given.get(name) == self._given.get(name)
            if given_alike and getattr(self.method, name, None) != options[name]:
                setattr(self.method, name, options[name])

    def load_first_release(self, state: Mapping[str, Any]) -> None:
        """As :meth:`load_state_dict`, from a policy's state; the optimizer's, which is loaded next, says nothing of methods."""
        self.load_state_dict(state)
        self._was_loaded = True

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`, or from one of the method alone.

        Options that were set since go on too, but for those that the two were given differently.
        """
        of_method = dict(state)
        options = of_method.pop("options", {})
        given = of_method.pop("given", self._given)  # which earlier releases did not keep
        own = type(self.method).__name__
        if (kind := of_method.pop("kind", own)) != own:
            raise ValueError(f"the state is of {kind}, and this policy carries {own}")
        bounds = []
        if isinstance(self.method, cbp.ReplacingMethod):
            of_method = self._for_own_layers(of_method)
            if given.get("init") != self._given.get("init"):
                bounds = [layer.fresh_bounds for layer in self.method.layers]
        before = self._options()
        self._take_options(options, given)  # by which a state may be read
        try:
            self.method.load_state_dict(of_method)
        except ValueError:
            self._take_options(before, self._given)
            raise
        for layer, own_bounds in zip(self.method.layers, bounds, strict=False):
            layer.fresh_bounds = own_bounds

    def _for_own_layers(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state with this model's layers: weights may be frozen here or have been there, of which no file tells."""
        own = {layer.name: layer for layer in self.method.layers}
        saved = {layer.get("name"): layer for layer in state.get("layers", [])}
        if not own or None in saved or saved.keys() == own.keys() or not saved.keys() & own.keys():
            return state
        told = [f"{', '.join(sorted(saved.keys() - own.keys()))} is left aside"] if saved.keys() - own.keys() else []
        told += [f"{', '.join(sorted(own.keys() - saved.keys()))} stays as it is"] if own.keys() - saved.keys() else []
        warnings.warn(
            f"hidden layers are frozen here or were when the state was saved: what is known of {' and of '.join(told)}",
            stacklevel=4,
        )
        return {**state, "layers": [saved.get(name) or layer.state_dict() for name, layer in own.items()]}

    def take_over(self, other: Carried) -> None:
        """Goes on where another of this policy left off, with the units and weights that both treat."""
        self._take_options(other._options(), other._given)
        self.method.take_over(other.method)

    def begin_anew(self) -> None:
        """Takes weights that were loaded for those that the method began with, unless its own state came with them.

        A state comes after its weights, or before them with no update between.
        """
        if not self._was_loaded and not self._state_came:
            self._weights_came = True
            self.method.begin_anew()

    def before_update(self, *_: Any) -> None:
        """What the method does before the optimizer's step."""
        self._rests = self._weights_came = self._state_came = False
        try:
            self._before_update()
        except NoGradientsError:
            self._rest()

    def _rest(self) -> None:
        """Lets a step pass that has gradients of other networks alone, as those of TRPO; called while the error is handled."""
        if all(parameter.grad is None for group in self.optimizer.param_groups for parameter in group["params"]):
            raise
        self._rests = True

    def _before_update(self) -> None:
        if isinstance(self.method, cbp.CChain):
            loss = _loss(self.name)
            self.method.before_update(loss=loss)
            if loss is None and not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"the loss of {self.name} is not found, which train() of Stable-Baselines3 calls {self.name}_loss or loss: "
                    f"λ of c-chain stays {self.method.strength:g} instead of following it",
                    stacklevel=2,
                )
        else:
            self.method.before_update()

    def after_update(self, *_: Any) -> None:
        """What the method does after the optimizer's step."""
        if self._in_turns and isinstance(self.method, cbp.ReplacingMethod) and not self.method.has_seen:
            return
        if self._rests:
            return
        try:
            replaced = self.method.step()
        except NoGradientsError:
            self._rest()
            return
        if self._targets and isinstance(self.method, cbp.ReplacingMethod):
            for layer, units in zip(self.method.layers, replaced, strict=True):
                if len(units):
                    self._copy_to_targets(layer.hidden, units)

    @torch.no_grad()
    def _copy_to_targets(self, hidden: cbp.Group, units: Tensor) -> None:
        for slices in hidden.written():
            if (target := self._targets.get(slices.module)) is not None:
                slices.copy(units, to=replace(slices, module=target).tensor)

    def _add_state(self, optimizer: Optimizer, state: dict[str, Any]) -> None:  # noqa: ARG002
        state[_KEY] = {**state.get(_KEY, {}), self.name: self.state_dict()}

    def _take_state(self, optimizer: Optimizer, state: dict[str, Any]) -> None:  # noqa: ARG002
        saved = self._saved(state.get(_KEY, {}))
        if saved is None:  # it is that of an optimizer without a method
            self.begin_anew()
            self._was_loaded = False
            return
        try:
            self.load_state_dict(saved)
        except ValueError as error:  # which Stable-Baselines3 would take for that of a DQN of an early release
            methods = ", ".join(state[_KEY])
            raise RuntimeError(
                f"what the optimizer's state has of a method ({methods}) cannot be loaded into that of {self.name}: {error}"
            ) from error
        self._state_came, self._weights_came = not self._weights_came, False

    def _saved(self, states: Mapping[str, Any]) -> Any:
        """What there is of this method among the saved states of the optimizer's methods; None if there is nothing.

        Units are known by the networks that they are in, so one method for several networks goes on where several, or one for
        others of them, left off.
        """
        saved = states.get(self.name)
        own = {network_of(layer.name) for layer in self.method.layers}
        layers = {layer.get("name"): layer for each in states.values() for layer in each.get("layers", [])}
        if not own or not layers or None in layers or (len(states) == 1 and not self._in_turns):
            return saved
        of_own = [layer for name, layer in layers.items() if network_of(name) in own]
        return {**(saved or next(iter(states.values()))), "layers": of_own} if of_own else saved


def _is_plain(value: object) -> bool:
    """Whether an option is a number, a word or a list of such."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def _loss(network: str) -> Any:
    """The loss that an algorithm takes a step by, from the variables of its ``train``; None where it has another name.

    Stable-Baselines3 hands its losses to nobody.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "train" and isinstance(frame.f_locals.get("self"), BaseAlgorithm):
            return frame.f_locals.get(f"{network}_loss", frame.f_locals.get("loss"))
        frame = frame.f_back
    return None
