"""Which models the fast path of ``agents.PPO`` can train."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from agents.sb3.arrays import norms_of
from agents.sb3.networks import networks
from agents.sb3.plastic import methods_of
from agents.sb3.policies import CBPMlpPolicy, PlasticMlpPolicy
from cbp.taps import ReceivedTap

_BETWEEN = [[nn.Linear, *norm, activation] for norm in ([], [nn.LayerNorm]) for activation in (nn.ReLU, nn.Tanh)]
"""What a hidden layer is made of: all of a network are alike."""


def unsupported(model: PPO) -> str | None:
    """Why a model cannot take the fast path, in words; None where it can."""
    policy = model.policy
    return (
        _about_spaces(model.observation_space)
        or _about_policy(policy)
        or _about_networks(policy)
        or _about_parameters(policy)
        or _about_optimizer(policy)
        or _about_hooks(policy)
        or _about_buffer(model.rollout_buffer)
    )


def _about_spaces(observation_space: spaces.Space[object]) -> str | None:
    if not isinstance(observation_space, spaces.Box) or is_image_space(observation_space):
        return f"the observation space is {observation_space}, not a Box of numbers"
    return None


def _about_policy(policy: ActorCriticPolicy) -> str | None:
    if type(policy) not in (ActorCriticPolicy, PlasticMlpPolicy, CBPMlpPolicy):
        return f"the policy is a {type(policy).__name__}, not an MlpPolicy, PlasticMlpPolicy or CBPMlpPolicy"
    if type(policy.action_dist) is not DiagGaussianDistribution or policy.squash_output:
        return f"actions come from a {type(policy.action_dist).__name__}, not from a Gaussian"
    return None


def _about_networks(policy: ActorCriticPolicy) -> str | None:
    for module, supported in ((policy.features_extractor, FlattenExtractor), (policy.mlp_extractor, MlpExtractor)):
        if type(module) is not supported:
            return f"observations pass a {type(module).__name__}, not a {supported.__name__}"
    actor, critic = networks(policy).values()
    if len({*actor, *critic}) < len(actor) + len(critic):
        return "the networks share a module"
    for modules in (actor, critic):
        if len(modules) == 1:
            return "a network has no hidden layer"
        kinds = [type(module) for module in modules]
        if not any(kinds == [*between * (len(kinds) // len(between)), nn.Linear] for between in _BETWEEN):
            return (
                "a network is not made of Linear layers with ReLU or Tanh between, or with LayerNorm and ReLU or Tanh: "
                f"{nn.Sequential(*modules)}"
            )
        linears, norms = [module for module in modules if isinstance(module, nn.Linear)], norms_of(modules)
        if any(layer.bias is None for layer in (*linears, *norms)):
            return "a Linear layer or a LayerNorm has no bias"
        for linear, norm in zip(linears, norms, strict=False):
            if norm.normalized_shape != (linear.out_features,) or norm.eps != norms[0].eps:
                return f"the norms of a network are not alike: {nn.Sequential(*modules)}"
    return None


def _about_parameters(policy: ActorCriticPolicy) -> str | None:
    for name, parameter in policy.named_parameters():
        if not parameter.requires_grad:
            return f"{name} is frozen"
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu" or not parameter.is_contiguous():
            return f"{name} is {parameter.dtype} on {parameter.device}, not contiguous torch.float32 on cpu"
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return f"{name} has hooks, which compiled code would not call"
    return None


def _about_optimizer(policy: ActorCriticPolicy) -> str | None:
    optimizer = policy.optimizer
    if type(optimizer) is not torch.optim.Adam:
        return f"the optimizer is {type(optimizer).__module__}.{type(optimizer).__qualname__}, not torch.optim.Adam"
    held = [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]
    if [sorted(group) for group in held] != [sorted(id(parameter) for parameter in policy.parameters())]:
        return "the optimizer does not hold the policy's parameters, and no others, in one group"
    for option in ("amsgrad", "maximize", "decoupled_weight_decay"):
        if optimizer.param_groups[0].get(option):
            return f"the optimizer is Adam with {option}"
    if len({float(state["step"]) for state in optimizer.state.values()}) > 1:
        return "the optimizer has made more steps for some parameters than for others"
    return None


def _about_hooks(policy: ActorCriticPolicy) -> str | None:
    methods = len(methods_of(policy))
    if methods > 1:
        return f"the networks have {methods} methods, not one"
    own = 2 * methods  # of the optimizer: the method's hooks before and after its step
    for module in policy.modules():
        before = list(module._forward_pre_hooks.values())
        if own and len(before) == 1 and isinstance(before[0], ReceivedTap):
            before = []
        if before or module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
            return f"a {type(module).__name__} has hooks, which compiled code would not call"
    if len(policy.optimizer._optimizer_step_pre_hooks) + len(policy.optimizer._optimizer_step_post_hooks) > own:
        return "the optimizer has hooks, which compiled code would not call"
    return None


def _about_buffer(buffer: RolloutBuffer) -> str | None:
    for name in ("add", "get", "_get_samples"):
        if getattr(type(buffer), name) is not getattr(RolloutBuffer, name):
            return f"{type(buffer).__name__} has a method {name}() of its own"
    return None
