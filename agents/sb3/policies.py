"""Plastic policies for the algorithms of Stable-Baselines3, and how those find them by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NoReturn

from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn import policies as dqn
from stable_baselines3.sac import policies as sac
from stable_baselines3.td3 import policies as td3
from torch import nn

import cbp
from agents.sb3.networks import networks
from agents.sb3.plastic import Plastic
from agents.sb3.plastic import replaced_units as replaced_units

KINDS = ("Mlp", "Cnn", "MultiInput")


# One update a step, of the 160 a 2,048 steps that the paper's ρ is for: as many replacements a step.
ACTOR_CRITIC_OPTIONS: dict[str, dict[str, Any]] = {
    "cbp": {"replacement_rate": 8e-6},  # ours; published is none for SAC or TD3
    "redo": {"threshold": 0.0, "period": 1000},  # the authors' configuration for SAC
}
# One update every four steps.
Q_OPTIONS: dict[str, dict[str, Any]] = {
    "cbp": {"replacement_rate": 3e-5},  # ours; published is none for DQN
    "redo": {"threshold": 0.025, "period": 1000},  # the paper's for DQN
}


class PlasticMlpPolicy(Plastic, ActorCriticPolicy):
    """``MlpPolicy`` whose policy and value networks are kept plastic by a method.

    For ``PPO``, ``A2C`` and sb3-contrib's ``TRPO``, with every action space and optimizer that ``MlpPolicy`` has there. One
    method treats both networks, the last hidden layers with their heads included. Other algorithms find policies of their own
    by the same name: ``SAC("PlasticMlpPolicy", env)``.

    Args:
        observation_space: Observation space, not a dictionary.
        action_space: Action space.
        lr_schedule: Learning rate schedule.
        method_layers: The hidden layers of each network that the method treats: ``"all"``, or the ``"first"`` alone.
        layer_norm: Whether each hidden layer is normalised (``LayerNorm``, with its affine weights) before its activation.
        decay_log_std: Whether the optimizer's ``weight_decay`` acts on ``log_std`` too, as with SB3's own policies and in the
            published code: it draws the standard deviation of the actions towards 1, so that the agent goes on exploring.
        padded_inputs: The number of inputs that ``"lecun"`` counts for the first layer of each network, as if observations were
            padded with zeros to it; None for the observation's own. Replaced units of that layer are drawn alike.
        weight_init: ``"sb3"`` leaves the weights to ``ortho_init``; ``"lecun"`` draws those of every Linear layer uniformly
            on ±√(3/fan_in) and zeroes the biases, as in the reinforcement learning of the paper.
        **kwargs: Those of :class:`agents.sb3.plastic.Plastic` (``method``, ``method_kwargs``) and of ``MlpPolicy``. With
            ``activation_fn=cbp.CReLU`` a width in ``net_arch`` is that of what a layer gives: it has half as many units, each
            of which gives two values.

    Attributes:
        method: The method at work, or None.

    Raises:
        ValueError: An unknown method_layers or weight_init, or ``decay_log_std=False`` for actions that are not Gaussian.

    Example:
        >>> import agents
        >>> from stable_baselines3 import PPO
        >>> model = PPO("CBPMlpPolicy", "CartPole-v1", policy_kwargs=dict(method_kwargs=dict(replacement_rate=1e-3)))
        >>> [layer.name for layer in model.policy.method.layers]
        ['policy/hidden1', 'policy/hidden2', 'value/hidden1', 'value/hidden2']
    """

    algorithms = (PPO, A2C)
    doubles = True

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        method_layers: Literal["all", "first"] = "all",
        layer_norm: bool = False,
        weight_init: Literal["sb3", "lecun"] = "sb3",
        padded_inputs: int | None = None,
        decay_log_std: bool = True,
        **kwargs: Any,
    ) -> None:
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
        method = kwargs.get("method", "cbp")
        if method_layers == "first" and method in cbp.METHODS and not _takes_layers(cbp.METHODS[method]):
            raise ValueError(f"method_layers='first' is for methods of hidden layers; {method} treats the network as a whole")
        self._method_layers = method_layers
        self._layer_norm = layer_norm
        self._weight_init = weight_init
        self._padded_inputs = padded_inputs
        self._decay_log_std = decay_log_std
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
        if not self._decay_log_std:
            if not hasattr(self, "log_std"):
                raise ValueError(
                    f"decay_log_std=False is for Gaussian actions; these come from a {type(self.action_dist).__name__}"
                )
            (group,) = self.optimizer.param_groups
            group["params"] = [parameter for parameter in group["params"] if parameter is not self.log_std]
            self.optimizer.add_param_group({"params": [self.log_std], "weight_decay": 0.0})

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        if self.activation_fn is cbp.CReLU:
            self.mlp_extractor.policy_net = _halved(self.mlp_extractor.policy_net).to(self.device)
            self.mlp_extractor.value_net = _halved(self.mlp_extractor.value_net).to(self.device)
        if self._layer_norm:
            self.mlp_extractor.policy_net = _normalized(self.mlp_extractor.policy_net).to(self.device)
            self.mlp_extractor.value_net = _normalized(self.mlp_extractor.value_net).to(self.device)

    def _find(self) -> tuple[list[cbp.Group], list[str]]:
        groups, reasons = super()._find()
        layers = [
            replace(layer, fan_in=self._padded_inputs) if layer.name.endswith("/hidden1") else layer
            for layer in groups
            if self._method_layers == "all" or layer.name.endswith("/hidden1")
        ]
        return layers, reasons

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "method_layers": self._method_layers,
            "layer_norm": self._layer_norm,
            "weight_init": self._weight_init,
            "padded_inputs": self._padded_inputs,
            "decay_log_std": self._decay_log_std,
        }


def _takes_layers(method: type[cbp.Method]) -> bool:
    """Whether a method treats the hidden layers that it is given."""
    return "layers" in inspect.signature(method).parameters and not issubclass(method, cbp.Replaying)


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


class PlasticCnnPolicy(Plastic, ActorCriticCnnPolicy):
    """``CnnPolicy`` of PPO and A2C that is kept plastic, its channels too: see :class:`agents.sb3.plastic.Plastic`."""

    algorithms = (PPO, A2C)


class CBPCnnPolicy(PlasticCnnPolicy):
    """``CnnPolicy`` with continual backpropagation: ``PlasticCnnPolicy(method="cbp")``."""


class PlasticMultiInputPolicy(Plastic, MultiInputActorCriticPolicy):
    """``MultiInputPolicy`` of PPO and A2C that is kept plastic: see :class:`agents.sb3.plastic.Plastic`."""

    algorithms = (PPO, A2C)


class CBPMultiInputPolicy(PlasticMultiInputPolicy):
    """``MultiInputPolicy`` with continual backpropagation: ``PlasticMultiInputPolicy(method="cbp")``."""


class SACPlasticMlpPolicy(Plastic, sac.SACPolicy):
    """``MlpPolicy`` of SAC, kept plastic."""

    algorithms = (SAC,)
    default_options = ACTOR_CRITIC_OPTIONS


class SACPlasticCnnPolicy(Plastic, sac.CnnPolicy):
    """``CnnPolicy`` of SAC, kept plastic."""

    algorithms = (SAC,)
    default_options = ACTOR_CRITIC_OPTIONS


class SACPlasticMultiInputPolicy(Plastic, sac.MultiInputPolicy):
    """``MultiInputPolicy`` of SAC, kept plastic."""

    algorithms = (SAC,)
    default_options = ACTOR_CRITIC_OPTIONS


class TD3PlasticMlpPolicy(Plastic, td3.TD3Policy):
    """``MlpPolicy`` of TD3 and DDPG, kept plastic."""

    algorithms = (TD3,)
    default_options = ACTOR_CRITIC_OPTIONS


class TD3PlasticCnnPolicy(Plastic, td3.CnnPolicy):
    """``CnnPolicy`` of TD3 and DDPG, kept plastic."""

    algorithms = (TD3,)
    default_options = ACTOR_CRITIC_OPTIONS


class TD3PlasticMultiInputPolicy(Plastic, td3.MultiInputPolicy):
    """``MultiInputPolicy`` of TD3 and DDPG, kept plastic."""

    algorithms = (TD3,)
    default_options = ACTOR_CRITIC_OPTIONS


class DQNPlasticMlpPolicy(Plastic, dqn.DQNPolicy):
    """``MlpPolicy`` of DQN, kept plastic."""

    algorithms = (DQN,)
    default_options = Q_OPTIONS


class DQNPlasticCnnPolicy(Plastic, dqn.CnnPolicy):
    """``CnnPolicy`` of DQN, kept plastic."""

    algorithms = (DQN,)
    default_options = Q_OPTIONS


class DQNPlasticMultiInputPolicy(Plastic, dqn.MultiInputPolicy):
    """``MultiInputPolicy`` of DQN, kept plastic."""

    algorithms = (DQN,)
    default_options = Q_OPTIONS


def name_policies(algorithm: type[BaseAlgorithm], policies: Mapping[str, type[BasePolicy]]) -> None:
    """Makes policies known to an algorithm as ``Plastic…Policy`` and ``CBP…Policy``.

    Args:
        algorithm: The algorithm.
        policies: By the names that they shall have there.
    """
    # DDPG shares its names with TD3, and others may with theirs: each gets a table of its own.
    algorithm.policy_aliases = {**algorithm.policy_aliases, **policies}


def by_kind(*policies: type[Any]) -> dict[str, type[BasePolicy]]:
    """Policies for vectors, images and dictionaries by both of their names."""
    named = zip(KINDS, policies, strict=False)
    return {f"{prefix}{kind}Policy": policy for kind, policy in named for prefix in ("Plastic", "CBP")}


def refuse(algorithm: type[BaseAlgorithm], kinds: tuple[str, ...], why: str) -> None:
    """Makes an algorithm refuse policies of some kinds by their names.

    Args:
        algorithm: The algorithm.
        kinds: Of policies, of :data:`KINDS`.
        why: What the error says behind the names.
    """

    def refusal(name: str) -> type[BasePolicy]:
        def refuse(*_: Any, **__: Any) -> NoReturn:
            raise NotImplementedError(f"{name} for {algorithm.__name__} is not supported: {why}")

        return type(name, (BasePolicy,), {"__new__": refuse})

    names = [f"{prefix}{kind}Policy" for kind in kinds for prefix in ("Plastic", "CBP")]
    name_policies(algorithm, {name: refusal(name) for name in names})


ON_POLICY: dict[str, type[Plastic]] = {
    "PlasticMlpPolicy": PlasticMlpPolicy,
    "CBPMlpPolicy": CBPMlpPolicy,
    "PlasticCnnPolicy": PlasticCnnPolicy,
    "CBPCnnPolicy": CBPCnnPolicy,
    "PlasticMultiInputPolicy": PlasticMultiInputPolicy,
    "CBPMultiInputPolicy": CBPMultiInputPolicy,
}


def register() -> None:
    """Makes the policies known by name to Stable-Baselines3's algorithms."""
    name_policies(PPO, ON_POLICY)
    name_policies(A2C, ON_POLICY)
    name_policies(SAC, by_kind(SACPlasticMlpPolicy, SACPlasticCnnPolicy, SACPlasticMultiInputPolicy))
    name_policies(DQN, by_kind(DQNPlasticMlpPolicy, DQNPlasticCnnPolicy, DQNPlasticMultiInputPolicy))
    for algorithm in (TD3, DDPG):
        name_policies(algorithm, by_kind(TD3PlasticMlpPolicy, TD3PlasticCnnPolicy, TD3PlasticMultiInputPolicy))
