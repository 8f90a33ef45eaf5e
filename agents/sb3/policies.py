"""Stable-Baselines3 policies that carry a method against loss of plasticity.

Stock ``PPO`` and ``A2C`` need no change: the method acts in a hook that torch calls after each optimizer step, its state
travels in the policy's ``state_dict``, and it is made together with the policy's networks.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import math
import sys
import warnings
from dataclasses import replace
from typing import Any, Literal, NoReturn

import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

import cbp
from agents.sb3.networks import hidden_layers, networks


class PlasticMlpPolicy(ActorCriticPolicy):
    """``MlpPolicy`` whose policy and value networks are kept plastic by a method.

    For ``PPO`` and ``A2C``, with every action space and optimizer that ``MlpPolicy`` has there. One method treats both
    networks, the last hidden layers with their heads included.

    Args:
        observation_space: Observation space, not a dictionary.
        action_space: Action space.
        lr_schedule: Learning rate schedule.
        method: Name of the method, one of :data:`cbp.METHODS`, or None for none.
        method_kwargs: Keyword arguments of the method, for ``"cbp"`` those of :class:`cbp.ContinualBackprop`. Without a
            ``seed`` the method's generator is seeded like torch's, so it follows the algorithm's ``seed``.
        method_layers: The hidden layers of each network that the method treats: ``"all"``, or the ``"first"`` alone.
        layer_norm: Whether each hidden layer is normalised (``LayerNorm``, with its affine weights) before its activation.
        padded_inputs: The number of inputs that ``"lecun"`` counts for the first layer of each network, as if observations were
            padded with zeros to it; None for the observation's own. Replaced units of that layer are drawn alike.
        weight_init: ``"sb3"`` leaves the weights to ``ortho_init``; ``"lecun"`` draws those of every Linear layer uniformly
            on ±√(3/fan_in) and zeroes the biases, as in the reinforcement learning of the paper.
        **kwargs: Those of ``MlpPolicy``. With ``activation_fn=cbp.CReLU`` a width in ``net_arch`` is that of what a layer
            gives: it has half as many units, each of which gives two values.

    Attributes:
        method: The method at work, or None.

    Raises:
        NotImplementedError: State-dependent exploration, another features extractor, a dictionary of observations; at the
            start of training, another algorithm.
        ValueError: An unknown method, method_layers or weight_init, or an option that the method refuses.

    Example:
        >>> import agents
        >>> from stable_baselines3 import PPO
        >>> model = PPO("CBPMlpPolicy", "CartPole-v1", policy_kwargs=dict(method_kwargs=dict(replacement_rate=1e-3)))
        >>> [layer.name for layer in model.policy.method.layers]
        ['policy/hidden1', 'policy/hidden2', 'value/hidden1', 'value/hidden2']
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        method: str | None = "cbp",
        method_kwargs: dict[str, Any] | None = None,
        method_layers: Literal["all", "first"] = "all",
        layer_norm: bool = False,
        weight_init: Literal["sb3", "lecun"] = "sb3",
        padded_inputs: int | None = None,
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        if isinstance(observation_space, spaces.Dict):
            raise NotImplementedError(f"{name} does not support dictionaries of observations yet; got {observation_space}")
        if kwargs.get("use_sde"):
            raise NotImplementedError(f"{name} does not support state-dependent exploration (use_sde=True) yet")
        extractor = kwargs.get("features_extractor_class", FlattenExtractor)
        if extractor is not FlattenExtractor:
            raise NotImplementedError(f"{name} supports FlattenExtractor only as yet; got {extractor.__name__}")
        if method is not None and method not in cbp.METHODS:
            close = difflib.get_close_matches(str(method), cbp.METHODS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"method must be one of {', '.join(cbp.METHODS)}, or None; got {method!r}{hint}")
        if method_layers not in ("all", "first"):
            raise ValueError(f"method_layers must be 'all' or 'first'; got {method_layers!r}")
        if weight_init not in ("sb3", "lecun"):
            raise ValueError(f"weight_init must be 'sb3' or 'lecun'; got {weight_init!r}")
        inputs = spaces.utils.flatdim(observation_space)
        if padded_inputs is not None and not (
            weight_init == "lecun" and isinstance(padded_inputs, int) and padded_inputs >= inputs
        ):
            raise ValueError(
                f"padded_inputs needs weight_init='lecun' and must be at least the {inputs} of the observation; "
                f"got {padded_inputs!r} with weight_init={weight_init!r}"
            )
        self._method_name = method
        self._method_kwargs = dict(method_kwargs or {})
        self._method_layers = method_layers
        self._layer_norm = layer_norm
        self._weight_init = weight_init
        self._padded_inputs = padded_inputs
        self._checked_timesteps: int | None = None
        self.method: cbp.Method | None = None
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        if self._weight_init == "lecun":
            first = [modules[0] for modules in networks(self).values()]
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    padded = self._padded_inputs if module in first else None
                    bound = math.sqrt(3 / (padded or module.in_features))
                    nn.init.uniform_(module.weight, -bound, bound)
                    nn.init.zeros_(module.bias)
        if self._method_name is not None:
            self.method = self._make_method(cbp.METHODS[self._method_name])
        self._attach()

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        if self.activation_fn is cbp.CReLU:
            self.mlp_extractor.policy_net = _halved(self.mlp_extractor.policy_net).to(self.device)
            self.mlp_extractor.value_net = _halved(self.mlp_extractor.value_net).to(self.device)
        if self._layer_norm:
            self.mlp_extractor.policy_net = _normalized(self.mlp_extractor.policy_net).to(self.device)
            self.mlp_extractor.value_net = _normalized(self.mlp_extractor.value_net).to(self.device)

    def _make_method(self, method: type[cbp.Method]) -> cbp.Method:
        layers = [
            replace(layer, fan_in=self._padded_inputs) if layer.name.endswith("/hidden1") else layer
            for layer in hidden_layers(self)
            if self._method_layers == "all" or layer.name.endswith("/hidden1")
        ]
        # initial_seed() is what torch was last seeded with (by SB3, with the algorithm's seed); it draws nothing.
        offered: dict[str, Any] = {"layers": layers, "seed": torch.initial_seed()}
        taken = {name: offered[name] for name in inspect.signature(method).parameters.keys() & offered.keys()}
        return method(self, self.optimizer, **{**taken, **self._method_kwargs})  # type: ignore[call-arg]

    def _attach(self) -> None:
        if self.method is not None:
            self.optimizer.register_step_pre_hook(self._before_update)
            self.optimizer.register_step_post_hook(self._after_update)

    def _before_update(self, *_: Any) -> None:
        assert self.method is not None  # noqa: S101
        self.method.before_update()

    def _after_update(self, *_: Any) -> None:
        assert self.method is not None  # noqa: S101
        self.method.step()

    def __getstate__(self) -> dict[str, Any]:
        # SB3 leaves the distribution of the last forward pass, with its graph, in action_dist; it cannot be copied.
        action_dist = copy.copy(self.action_dist)
        action_dist.distribution = None  # type: ignore[assignment]
        return {**self.__dict__, "action_dist": action_dist}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._attach()  # copies and pickles of a torch optimizer come without its hooks

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` holds beside the weights: the method's state."""
        return self.method.state_dict() if self.method else {}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what :meth:`get_extra_state` returned."""
        if self.method:
            self.method.load_state_dict(state)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "share_features_extractor": self.share_features_extractor,
            "method": self._method_name,
            "method_kwargs": self._method_kwargs,
            "method_layers": self._method_layers,
            "layer_norm": self._layer_norm,
            "weight_init": self._weight_init,
            "padded_inputs": self._padded_inputs,
        }

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3; at the start of training also refuses unsupported algorithms and warns of a run too short."""
        # SB3 gives a policy no reference to its algorithm, but collect_rollouts() and train() call this first.
        caller = sys._getframe(1).f_locals.get("self")
        if self.method is not None and isinstance(caller, BaseAlgorithm):
            self._check_algorithm(caller, self.method)
        super().set_training_mode(mode)

    def _check_algorithm(self, algorithm: BaseAlgorithm, method: cbp.Method) -> None:
        if self._checked_timesteps == algorithm._total_timesteps:
            return
        self._checked_timesteps = algorithm._total_timesteps
        if not isinstance(algorithm, PPO | A2C):
            _refuse(type(self).__name__, type(algorithm).__name__)
        if not isinstance(method, cbp.ContinualBackprop):
            return
        updates = updates_left(algorithm)
        oldest = max((int(layer.age.max()) for layer in method.layers), default=0)
        if oldest + updates <= method.maturity_threshold:
            warnings.warn(
                f"no unit will be replaced: units mature after {method.maturity_threshold:,} updates, and this run has "
                f"{oldest + updates:,}; train longer or lower maturity_threshold",
                stacklevel=4,
            )


def _halved(network: nn.Module) -> nn.Sequential:
    """A chain of Linear layers and CReLUs, which double what they receive, with half as many units in each layer."""
    modules = list(network.children())
    for k, module in enumerate(modules):
        if isinstance(module, nn.Linear):
            if module.out_features % 2:
                raise ValueError(
                    f"activation_fn=cbp.CReLU needs an even number of values in each layer; got {module.out_features}"
                )
            modules[k] = nn.Linear(module.in_features, module.out_features // 2)
    return nn.Sequential(*modules)


def _normalized(network: nn.Module) -> nn.Sequential:
    """A chain of Linear layers and activations with a norm behind each Linear layer."""
    modules: list[nn.Module] = []
    for module in network.children():
        modules += [module, nn.LayerNorm(module.out_features)] if isinstance(module, nn.Linear) else [module]
    return nn.Sequential(*modules)


class CBPMlpPolicy(PlasticMlpPolicy):
    """``MlpPolicy`` with continual backpropagation: ``PlasticMlpPolicy(method="cbp")``."""


def replaced_units(policy: BasePolicy) -> dict[str, int]:
    """Units replaced so far in each network, ``policy`` and ``value``; empty where no method replaces units."""
    replaced: dict[str, int] = {}
    method = getattr(policy, "method", None)
    for layer in method.layers if method else []:
        network = layer.name.split("/")[0]
        replaced[network] = replaced.get(network, 0) + layer.replaced
    return replaced


def updates_left(algorithm: OnPolicyAlgorithm) -> int:
    """Minibatch updates between now and the end of the current ``learn()``."""
    rollout = algorithm.n_steps * algorithm.n_envs
    rollouts = math.ceil((algorithm._total_timesteps - algorithm.num_timesteps) / rollout)
    if isinstance(algorithm, PPO):
        return rollouts * algorithm.n_epochs * math.ceil(rollout / algorithm.batch_size)
    return rollouts


def register() -> None:
    """Makes the policies known to Stable-Baselines3 by name, also where only to refuse them by name."""
    for algorithm in (PPO, A2C, SAC, DDPG, TD3, DQN):  # DDPG before TD3, whose names it shares until it has its own
        names = [f"{prefix}{kind}Policy" for prefix in ("Plastic", "CBP") for kind in ("Mlp", "Cnn", "MultiInput")]
        refused = {name: _refusal(name, algorithm.__name__) for name in names}
        algorithm.policy_aliases = {**refused, **algorithm.policy_aliases}
    for supported in (PPO, A2C):
        supported.policy_aliases.update({"PlasticMlpPolicy": PlasticMlpPolicy, "CBPMlpPolicy": CBPMlpPolicy})


def _refusal(name: str, algorithm: str) -> type[BasePolicy]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        _refuse(name, algorithm)

    return type(name, (BasePolicy,), {"__new__": refuse})


def _refuse(policy: str, algorithm: str) -> NoReturn:
    raise NotImplementedError(
        f"{policy} for {algorithm} is not supported yet; supported are CBPMlpPolicy and PlasticMlpPolicy for PPO and A2C"
    )
