"""The networks inside Stable-Baselines3's policies: their hidden layers, and how all of them are run at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

import cbp


def networks(policy: BasePolicy) -> dict[str, list[nn.Module]]:
    """The modules of each network in forward order, behind the features extractor and up to the head.

    Args:
        policy: A policy of PPO or A2C, of SAC, of TD3 or DDPG, or of DQN. Target networks are left out.

    Returns:
        The networks by the beginning of their layers' names: ``policy/`` and ``value/``; ``actor/`` and ``critic/qf0_``,
        ``critic/qf1_``; ``q_net/``.

    Raises:
        NotImplementedError: A policy of another kind.
    """
    if isinstance(policy, ActorCriticPolicy):
        extractor = policy.mlp_extractor
        return {
            "policy/": [*extractor.policy_net, policy.action_net],
            "value/": [*extractor.value_net, policy.value_net],
        }
    if isinstance(policy, SACPolicy | TD3Policy):
        actor = policy.actor
        chain = [*actor.latent_pi, actor.mu] if isinstance(policy, SACPolicy) else [*actor.mu]  # type: ignore[misc]
        critics = {f"critic/qf{i}_": [*network] for i, network in enumerate(policy.critic.q_networks)}  # type: ignore[misc]
        return {"actor/": chain, **critics}
    if isinstance(policy, DQNPolicy):
        return {"q_net/": [*policy.q_net.q_net]}
    raise NotImplementedError(f"a {type(policy).__name__} is not supported yet; supported are PPO, A2C, SAC, TD3, DDPG and DQN")


def hidden_layers(policy: BasePolicy) -> list[cbp.Group]:
    """The hidden layers of a policy's networks: ``policy/hidden1``, ``policy/hidden2``, …, ``value/hidden1``, ….

    Args:
        policy: A policy whose networks are made of Linear layers, such as ``MlpPolicy``; see :func:`networks`.

    Returns:
        Each network's layers in forward order; the last of each feeds its head. A network without hidden layers
        (``net_arch=[]``) has none.

    Raises:
        cbp.LayerError: The networks are made of something else.
        NotImplementedError: A policy of another kind.
    """
    found = []
    for prefix, modules in networks(policy).items():
        linears = [module for module in modules if isinstance(module, nn.Linear)]
        if len(linears) > 1:
            first = linears[0].weight
            layers = cbp.find_layers(nn.Sequential(*modules), (first.new_zeros(2, first.shape[1]),))
            found += [replace(layer, name=f"{prefix}hidden{i}") for i, layer in enumerate(layers, start=1)]
    return found


@torch.no_grad()
def activations(policy: BasePolicy, layers: list[cbp.Group], observations: Any, actions: Tensor | None = None) -> list[Tensor]:
    """What the layers behind each hidden layer receive: a list of ``(samples, units)``. Nothing is sampled.

    Args:
        policy: The policy.
        layers: Hidden layers of the policy, see :func:`hidden_layers`.
        observations: A tensor ``(samples, …)``, or a dictionary of such.
        actions: What the critics of SAC and TD3 judge, in [−1, 1]: ``(samples, dimensions)``.
    """
    received: dict[int, Tensor] = {}
    hooks = [
        layer.outgoing[0].register_forward_pre_hook(lambda _, args, i=i: received.__setitem__(i, args[0]))
        for i, layer in enumerate(layers)
    ]
    try:
        _run(policy, observations, actions)
    finally:
        for hook in hooks:
            hook.remove()
    return [received[i].flatten(1) for i in range(len(layers))]


@torch.no_grad()
def inputs(policy: BasePolicy, observations: Any, actions: Tensor | None = None) -> dict[str, tuple[nn.Sequential, Tensor]]:
    """Each network as a chain from what it receives behind the features extractor to its head, and what that is.

    Args:
        policy: As for :func:`networks`.
        observations: As for :func:`activations`.
        actions: As there.

    Returns:
        The chain and ``(samples, inputs)`` of each network, by its name: ``policy`` and ``value``, ``actor`` and
        ``critic/qf0``, ….
    """
    found = networks(policy)
    received: dict[str, Tensor] = {}
    hooks = [
        modules[0].register_forward_pre_hook(lambda _, args, prefix=prefix: received.__setitem__(prefix, args[0]))
        for prefix, modules in found.items()
    ]
    try:
        _run(policy, observations, actions)
    finally:
        for hook in hooks:
            hook.remove()
    return {prefix.rstrip("/_"): (nn.Sequential(*modules), received[prefix]) for prefix, modules in found.items()}


def _run(policy: BasePolicy, observations: Any, actions: Tensor | None) -> None:
    if isinstance(policy, ActorCriticPolicy):
        policy.get_distribution(observations)
        policy.predict_values(observations)
    elif isinstance(policy, SACPolicy):
        policy.actor.get_action_dist_params(observations)
        policy.critic(observations, actions)
    elif isinstance(policy, TD3Policy):
        policy.actor(observations)
        policy.critic(observations, actions)
    elif isinstance(policy, DQNPolicy):
        policy.q_net(observations)
