"""Which models the fast path of ``agents.PPO`` can train."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.optim import Optimizer

from agents.sb3.arrays import norms_of
from agents.sb3.gradient_hook import gradient_hooks
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
        about_spaces(model.observation_space)
        or _about_policy(policy)
        or _about_extractors(policy)
        or about_networks(networks(policy).values(), _BETWEEN)
        or about_parameters(policy.named_parameters(remove_duplicate=False))
        or about_optimizer(policy.optimizer, policy.parameters(), decays_differ=True)
        or about_hooks(policy, [policy.optimizer])
        or _about_buffer(model.rollout_buffer)
        or about_patches([*policy.modules(), policy.action_dist, policy.optimizer, model.rollout_buffer])
    )


def about_spaces(observation_space: spaces.Space[object]) -> str | None:
    """What compiled code cannot do with observations."""
    if not isinstance(observation_space, spaces.Box) or is_image_space(observation_space):
        return f"the observation space is {observation_space}, not a Box of numbers"
    return about_numbers(observation_space)


def about_numbers(space: spaces.Space[object]) -> str | None:
    """What compiled code cannot do with the numbers of a space."""
    if space.dtype is not None and space.dtype.kind == "f" and space.dtype not in (np.float32, np.float64):
        return f"a space has numbers in {space.dtype}, not in float32 or float64: {space}"
    return None


def _about_policy(policy: ActorCriticPolicy) -> str | None:
    if type(policy) not in (ActorCriticPolicy, PlasticMlpPolicy, CBPMlpPolicy):
        return f"the policy is a {type(policy).__name__}, not an MlpPolicy, PlasticMlpPolicy or CBPMlpPolicy"
    if type(policy.action_dist) is not DiagGaussianDistribution or policy.squash_output:
        return f"actions come from a {type(policy.action_dist).__name__}, not from a Gaussian"
    return None


def _about_extractors(policy: ActorCriticPolicy) -> str | None:
    extractors = policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor
    parts: list[tuple[nn.Module, type[nn.Module]]] = [(extractor, FlattenExtractor) for extractor in extractors]
    parts.append((policy.mlp_extractor, MlpExtractor))
    for module, supported in parts:
        if type(module) is not supported:
            return f"observations pass a {type(module).__name__}, not a {supported.__name__}"
    return None


def about_networks(chains: Collection[Sequence[nn.Module]], between: Sequence[Sequence[type[nn.Module]]]) -> str | None:
    """What compiled code cannot do with networks.

    Args:
        chains: The modules of each in forward order.
        between: What a hidden layer may be made of.
    """
    if len({module for modules in chains for module in modules}) < sum(map(len, chains)):
        return "the networks share a module"
    for modules in chains:
        if len(modules) == 1 and isinstance(modules[0], nn.Linear):
            return "a network has no hidden layer"
        kinds = [type(module) for module in modules]
        if not any(kinds == [*layer] * (len(kinds) // len(layer)) + [nn.Linear] for layer in between):
            normed = ", or with LayerNorm and ReLU or Tanh" if any(nn.LayerNorm in layer for layer in between) else ""
            network = nn.Sequential(*modules)
            return f"a network is not made of Linear layers with ReLU or Tanh between{normed}: {network}"
        linears, norms = [module for module in modules if isinstance(module, nn.Linear)], norms_of(modules)
        if any(layer.bias is None for layer in (*linears, *norms)):
            return "a Linear layer or a LayerNorm has no bias"
        for linear, norm in zip(linears, norms, strict=False):
            if norm.normalized_shape != (linear.out_features,) or norm.eps != norms[0].eps:
                return f"the norms of a network are not alike: {nn.Sequential(*modules)}"
    return None


def about_parameters(named: Iterable[tuple[str, nn.Parameter]]) -> str | None:
    """What compiled code cannot do with parameters, given with their names."""
    names: dict[int, str] = {}
    for name, parameter in named:
        if (other := names.setdefault(parameter.data_ptr(), name)) != name:
            return f"{name} is {other}, too: compiled code trains each by itself"
        if not parameter.requires_grad and not name.startswith("critic_target."):  # which no gradient trains
            return f"{name} is frozen"
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu" or not parameter.is_contiguous():
            return f"{name} is {parameter.dtype} on {parameter.device}, not contiguous torch.float32 on cpu"
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return f"{name} has hooks, which compiled code would not call"
    return None


def about_optimizer(optimizer: Optimizer, parameters: Iterable[nn.Parameter], *, decays_differ: bool = False) -> str | None:
    """What compiled code cannot do with an optimizer, which should hold these parameters.

    Args:
        optimizer: Steps the networks.
        parameters: Theirs.
        decays_differ: Whether the weight decay may differ from parameter to parameter.
    """
    if type(optimizer) is not torch.optim.Adam:
        return f"the optimizer is {type(optimizer).__module__}.{type(optimizer).__qualname__}, not torch.optim.Adam"
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    if sorted(held) != sorted(id(parameter) for parameter in parameters):
        return "the optimizer does not hold the policy's parameters, and no others"
    first, *others = optimizer.param_groups
    same = {"params", "weight_decay"} if decays_differ else {"params"}
    if differing := [name for group in others for name in first if name not in same and group[name] != first[name]]:
        return f"the optimizer has groups with another {differing[0]}"
    for option in ("amsgrad", "maximize", "decoupled_weight_decay"):
        if optimizer.param_groups[0].get(option):
            return f"the optimizer is Adam with {option}"
    states = [optimizer.state.get(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    if len({float(state["step"]) if state else 0.0 for state in states}) > 1:  # without a state none was made
        return "the optimizer has made more steps for some parameters than for others"
    return None


def about_hooks(policy: BasePolicy, optimizers: Sequence[Optimizer]) -> str | None:
    """Hooks that compiled code would not call: all but those of one method for each optimizer, and those that only look."""
    methods = len(methods_of(policy))
    if methods > len(optimizers):
        return f"the networks have {methods} methods, not {'one' if len(optimizers) == 1 else len(optimizers)}"
    if all_modules_have_hooks():
        return "all modules have hooks, which compiled code would not call"
    for module in policy.modules():
        before = list(module._forward_pre_hooks.values())
        if methods and len(before) == 1 and isinstance(before[0], ReceivedTap):
            before = []
        if before or module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
            return f"a {type(module).__name__} has hooks, which compiled code would not call"
    # Of the optimizer: the method's hooks before and after its step, and those that only look.
    allowed = 2 * methods + sum(len(gradient_hooks(each)) for each in optimizers)
    if sum(len(each._optimizer_step_pre_hooks) + len(each._optimizer_step_post_hooks) for each in optimizers) > allowed:
        return "the optimizer has hooks, which compiled code would not call"
    return None


def about_patches(parts: Iterable[object]) -> str | None:
    """Methods that an object has instead of those of its class, which compiled code would not call.

    Not the one that counts calls, which torch's schedules of the learning rate give an optimizer.
    """
    for part in parts:
        for name, value in vars(part).items():
            if inspect.isfunction(getattr(type(part), name, None)) and not hasattr(value, "_wrapped_by_lr_sched"):
                return f"{type(part).__name__}.{name}() was replaced on an object, which compiled code would not call"
    return None


def _about_buffer(buffer: RolloutBuffer) -> str | None:
    for name in ("add", "get", "_get_samples"):
        if getattr(type(buffer), name) is not getattr(RolloutBuffer, name):
            return f"{type(buffer).__name__} has a method {name}() of its own"
    return None


def marks_of(network: nn.Module) -> list[int]:
    """Numbers that change where modules, tensors or hooks of a network are others."""
    found: list[int] = []
    modules: list[Any] = [network]
    for module in modules:  # which its children are added to: network.modules() takes twice as long
        modules += filter(None, module._modules.values())
        found += id(module), len(vars(module)), hooks_of(module)
        for parameter in module._parameters.values():
            if parameter is not None:
                found += marks_of_tensor(parameter)
    return found


def marks_of_tensor(tensor: Any) -> tuple[int, ...]:
    """Numbers that change where a tensor's memory, gradient or hooks are others."""
    hooks = id(tensor._backward_hooks), id(tensor._post_accumulate_grad_hooks)
    return tensor.data_ptr(), tensor.requires_grad, id(tensor.grad), *hooks


def all_modules_have_hooks() -> bool:
    """Whether torch calls something for the modules of every model."""
    return bool(_has_any_global_hook())  # type: ignore[no-untyped-call]


def hooks_of(module: Any) -> int:
    """How many hooks a module has."""
    forward = len(module._forward_pre_hooks) + len(module._forward_hooks)
    return forward + len(module._backward_hooks) + len(module._backward_pre_hooks)
