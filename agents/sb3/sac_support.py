"""Which models the fast path of ``agents.SAC`` can train, and what tells that a model is another than it was."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac import policies
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn
from torch.optim import Optimizer

from agents.sb3.networks import in_turn, networks
from agents.sb3.plastic import methods_of
from agents.sb3.policies import SACPlasticMlpPolicy
from agents.sb3.sac_arrays import Stored
from agents.sb3.support import (
    about_hooks,
    about_networks,
    about_numbers,
    about_optimizer,
    about_parameters,
    about_patches,
    about_spaces,
    all_modules_have_hooks,
    hooks_of,
    marks_of,
    marks_of_tensor,
)

_BETWEEN = [[nn.Linear, nn.ReLU], [nn.Linear, nn.Tanh]]
_EPSILON, _BOUNDS = 1e-6, (-20, 2)
"""Within log(1 − a²), and of log σ: compiled code has those of Stable-Baselines3."""


def unsupported(model: SAC) -> str | None:
    """Why a model cannot take the fast path, in words; None where it can."""
    policy = model.policy
    return (
        about_spaces(model.observation_space)
        or about_numbers(model.action_space)
        or _about_policy(policy)
        or _about_actions(policy)
        or about_networks([*networks(policy).values(), *map(in_turn, policy.critic_target.q_networks)], _BETWEEN)
        or about_parameters(policy.named_parameters(remove_duplicate=False))
        or about_optimizer(policy.actor.optimizer, policy.actor.parameters())
        or about_optimizer(policy.critic.optimizer, policy.critic.parameters())
        or _about_entropy(model)
        or about_hooks(policy, [policy.actor.optimizer, policy.critic.optimizer])
        or about_patches([*policy.modules(), policy.actor.action_dist, model.replay_buffer, *_optimizers(model)])
    )


def _about_policy(policy: SACPolicy) -> str | None:
    if type(policy) not in (SACPolicy, SACPlasticMlpPolicy):
        return f"the policy is a {type(policy).__name__}, not an MlpPolicy, PlasticMlpPolicy or CBPMlpPolicy"
    if policy.actor.use_sde:
        return "exploration depends on the state (use_sde)"
    for module, kind in ((policy.actor, Actor), (policy.critic, ContinuousCritic), (policy.critic_target, ContinuousCritic)):
        if type(module) is not kind:
            return f"a network is a {type(module).__name__}, not a {kind.__name__}"
        if type(module.features_extractor) is not FlattenExtractor:
            return f"observations pass a {type(module.features_extractor).__name__}, not a FlattenExtractor"
    head: Any = policy.actor.log_std
    if type(head) is not nn.Linear or head.bias is None:
        return f"log σ comes from {head}, not from a Linear layer with a bias"
    return None


def _about_actions(policy: SACPolicy) -> str | None:
    distribution: Any = policy.actor.action_dist
    if type(distribution) is not SquashedDiagGaussianDistribution or distribution.epsilon != _EPSILON:
        epsilon = getattr(distribution, "epsilon", None)
        return f"actions come from a {type(distribution).__name__} with epsilon {epsilon}, not from SB3's own with {_EPSILON}"
    bounds = policies.LOG_STD_MIN, policies.LOG_STD_MAX
    return None if bounds == _BOUNDS else f"log σ lies within {bounds}, not within {_BOUNDS}"


def acts_by_its_policy(model: SAC) -> bool:
    """Whether ``predict`` is Stable-Baselines3's own, which its loop acts by."""
    return type(model).predict is BaseAlgorithm.predict and "predict" not in vars(model)


def _about_entropy(model: SAC) -> str | None:
    if model.ent_coef_optimizer is None or model.log_ent_coef is None:
        return None
    optimizer = model.ent_coef_optimizer
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "the optimizer of the entropy coefficient has hooks, which compiled code would not call"
    coefficient: Any = model.log_ent_coef
    return about_parameters([("log_ent_coef", coefficient)]) or about_optimizer(optimizer, [coefficient])


def acting_marks(model: SAC) -> list[float]:
    """The first ones of :func:`marks`: numbers that change where the model no longer acts by the same arrays."""
    policy: Any = model.policy
    actor = policy.actor
    distribution = actor.action_dist
    of_actions = id(distribution), len(vars(distribution)), getattr(distribution, "epsilon", 0)
    bounds = policies.LOG_STD_MIN, policies.LOG_STD_MAX
    return [id(policy), len(vars(policy)), model.n_envs, *of_actions, *bounds, all_modules_have_hooks(), *marks_of(actor)]


def marks(model: SAC) -> list[float]:
    """Numbers that change where a model must be looked at anew: other modules, tensors, hooks, optimizers or methods."""
    policy = model.policy
    found = [
        *acting_marks(model),
        *map(id, methods_of(policy)),
        hooks_of(policy),
        len(policy._modules),
        len(policy._parameters),
    ]
    found += [*marks_of(policy.critic), *marks_of(policy.critic_target)]
    found += id(model.replay_buffer), len(vars(model.replay_buffer))
    if model.log_ent_coef is not None:
        found += id(model.log_ent_coef), *marks_of_tensor(model.log_ent_coef)
    found += [id(getattr(model.replay_buffer, name, None)) for name in Stored._fields]
    for optimizer in _optimizers(model):
        hooks = len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
        found += id(optimizer), len(vars(optimizer)), hooks
        first, *others = optimizer.param_groups
        found += [len(group["params"]) for group in optimizer.param_groups]
        found += bool(first.get("amsgrad")), bool(first.get("maximize")), bool(first.get("decoupled_weight_decay"))
        found += [group.get(name) == first[name] for group in others for name in first if name not in ("params", "lr")]
        for state in optimizer.state.values():
            found += [value.data_ptr() for value in state.values()]
    return found


def _optimizers(model: SAC) -> list[Optimizer]:
    found = [model.policy.actor.optimizer, model.policy.critic.optimizer, model.ent_coef_optimizer]
    return [optimizer for optimizer in found if optimizer is not None]
