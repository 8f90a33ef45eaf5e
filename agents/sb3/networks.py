"""The networks inside Stable-Baselines3's policies: which there are, their hidden layers, and who trains them.

Policies are known by what they are made of, so that those of sb3-contrib and those of users are known too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.optim import Optimizer

import cbp
from agents.sb3.passes import example_pass, is_on_policy, run, sample_pass
from cbp.discovery.finding import Finder

FEATURES = "features"
"""The network that both policy and value share, where they share a features extractor with weights."""

# What the parts of a network are called in the names of layers.
_PARTS = {"features_extractor": "features", "latent_pi": "hidden", "mu": "hidden", "q_net": "hidden", "quantile_net": "hidden"}
# Where the networks of actor-critic policies with one optimizer lie: PPO and its like.
_PLACES = {
    "mlp_extractor.policy_net": "policy/hidden",
    "mlp_extractor.value_net": "value/hidden",
    "pi_features_extractor": "policy/features",
    "vf_features_extractor": "value/features",
    "lstm_actor": "policy/lstm",
    "lstm_critic": "value/lstm",
    "critic": "value/linear",
    "action_net": "policy/head",
    "value_net": "value/head",
}


def networks(policy: BasePolicy) -> dict[str, list[nn.Module]]:
    """The modules of each network in forward order, behind the features extractor and up to the head.

    Returns:
        The networks by the beginning of their layers' names: ``policy/`` and ``value/``; ``actor/`` and ``critic/qf0_``,
        ``critic/qf1_``; ``q_net/``.

    Raises:
        cbp.LayerError: A policy whose networks do not lie where those of Stable-Baselines3 do.
    """
    parts: Any = policy
    names = network_names(policy)
    if names == ["actor", "critic"]:
        actor = (
            _chain(policy, "actor.latent_pi", "actor.mu") if hasattr(parts.actor, "latent_pi") else _chain(policy, "actor.mu")
        )
        if not hasattr(parts.critic, "q_networks"):
            raise cbp.LayerError(f"this {type(policy).__name__} has no 'critic.q_networks', where its networks would be")
        return {"actor/": actor, **{f"critic/qf{i}_": in_turn(each) for i, each in enumerate(parts.critic.q_networks)}}
    if names[0] != "policy":
        return {f"{names[0]}/": _chain(policy, f"{names[0]}.{names[0]}")}
    return {
        "policy/": _chain(policy, "mlp_extractor.policy_net", "action_net"),
        "value/": _chain(policy, "mlp_extractor.value_net", "value_net"),
    }


def _chain(policy: BasePolicy, *paths: str) -> list[nn.Module]:
    """The modules at these paths in turn."""
    modules: list[nn.Module] = []
    for path in paths:
        try:
            part = policy.get_submodule(path)
        except AttributeError as error:
            raise cbp.LayerError(f"this {type(policy).__name__} has no '{path}', where its networks would be") from error
        modules += in_turn(part)
    return modules


def in_turn(part: nn.Module) -> list[nn.Module]:
    """The modules that a module calls in turn: those of a ``nn.Sequential`` without a forward of its own; else the module."""
    is_chain = isinstance(part, nn.Sequential) and type(part).forward is nn.Sequential.forward and "forward" not in vars(part)
    return [*part] if is_chain else [part]  # type: ignore[misc]


def owners(policy: BasePolicy) -> dict[str, Any]:
    """The modules that have an optimizer, by the network that it trains first: ``actor`` and ``critic``, or the policy itself.

    Raises:
        NotImplementedError: A policy without an optimizer, as of ARS.
    """
    parts: Any = policy
    if "actor" in network_names(policy):
        return {"actor": parts.actor, "critic": parts.critic}
    if not isinstance(getattr(policy, "optimizer", None), Optimizer):
        raise NotImplementedError(f"a {type(policy).__name__} has no optimizer, so nothing acts after its updates")
    return {network_names(policy)[0]: policy}


def network_names(policy: BasePolicy) -> list[str]:
    """The networks of a policy, targets left out: the first part of their layers' names."""
    if not is_on_policy(policy):
        if isinstance(getattr(policy, "actor", None), nn.Module):
            return ["actor", "critic"]
        for name in ("q_net", "quantile_net"):
            if hasattr(policy, name):
                return [name]
    shares = getattr(policy, "share_features_extractor", False) and any(True for _ in policy.features_extractor.parameters())
    return ["policy", "value", *([FEATURES] if shares else [])]


def network_of(name: str) -> str:
    """The network of a layer."""
    return name.split("/")[0]


def hidden_layers(policy: BasePolicy) -> list[cbp.Group]:
    """The hidden layers of a policy: ``policy/hidden1``, ``policy/hidden2``, …, ``value/hidden1``, ….

    SAC and TD3 have ``actor/hidden1`` and ``critic/qf0_hidden1``, DQN ``q_net/hidden1``. Layers of a features extractor are
    ``…/features1``, or ``features/hidden1`` where policy and value share it; recurrent ones ``policy/lstm1``. Other layers have
    their paths behind the network's name.

    Returns:
        Them in forward order; the last of each network feeds its head. Without hidden layers (``net_arch=[]``) an empty list.

    Raises:
        cbp.LayerError: No forward pass of the policy could be followed.
    """
    return find(policy)[0]


def find(policy: BasePolicy) -> tuple[list[cbp.Group], list[str]]:
    """The hidden layers, as :func:`hidden_layers` names them, and a line for each reason why others are left out."""
    finder = Finder(policy)
    finder.follow(example_pass)
    groups, reasons = finder.groups()
    places = _places(policy)
    numbers: dict[str, int] = {}
    named = []
    for group in groups:
        label = _label(group.name, places)
        if label is not None:
            numbers[label] = numbers.get(label, 0) + 1
            name = f"{label}{numbers[label]}"
        else:
            network = _network_at(group.name, places)
            name = f"{network}/{group.name.removeprefix(f'{network}.')}"
        named.append(replace(group, name=name))
    return named, reasons


@torch.no_grad()
def inputs(policy: BasePolicy, observations: Any, actions: Tensor | None = None) -> dict[str, tuple[nn.Sequential, Tensor]]:
    """Each network as a chain from what it receives behind the features extractor to its head, and what that is.

    Args:
        policy: As for :func:`networks`.
        observations: As for :func:`agents.sb3.passes.activations`.
        actions: As there.

    Returns:
        The chain and ``(samples, inputs)`` of each network, by its name: ``policy`` and ``value``, ``actor`` and
        ``critic/qf0``, ….

    Raises:
        cbp.LayerError: As for :func:`networks`; or a network does something else than its modules in turn, such as an addition.
    """
    found = {prefix: nn.Sequential(*modules) for prefix, modules in networks(policy).items()}
    received = _received(policy, found, lambda: run(policy, observations, actions))
    return {prefix.rstrip("/_"): (chain, received[prefix]) for prefix, chain in found.items()}


@torch.no_grad()
def _received(policy: BasePolicy, chains: dict[str, nn.Sequential], make_pass: Callable[[], None]) -> dict[str, Tensor]:
    """What each of some chains receives in a pass without dropout; refused is one that gives something else than its head."""
    received: dict[str, Any] = {}
    given: dict[str, Any] = {}
    modes = [(module, module.training) for module in policy.modules()]
    try:
        policy.train(False)
        with ExitStack() as hooks:
            for prefix, chain in chains.items():
                first, last = chain[0], chain[-1]
                receive = first.register_forward_pre_hook(lambda _, args, prefix=prefix: received.update({prefix: args}))
                give = last.register_forward_hook(lambda _, __, output, prefix=prefix: given.update({prefix: output}))
                hooks.enter_context(receive)
                hooks.enter_context(give)
            make_pass()
        for prefix, chain in chains.items():
            if not _are_alike(chain, received.get(prefix), given.get(prefix)):
                path = prefix.rstrip("/_")
                raise cbp.LayerError(f"network '{path}' of this {type(policy).__name__} is no chain of its modules alone")
    finally:
        for module, mode in modes:
            module.training = mode
    return {prefix: args[0] for prefix, args in received.items()}


def _are_alike(chain: nn.Sequential, received: Any, given: Any) -> bool:
    try:
        return torch.allclose(chain(*received), given, rtol=1e-3, atol=1e-7, equal_nan=True)
    except Exception:  # whatever modules raise that are not called so
        return False


class _SideBySide(nn.Module):
    """Networks that receive the same, as one."""

    def __init__(self, parts: list[nn.Sequential]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """What each of them gives, one beside the other: ``(samples, outputs of all)``."""
        return torch.cat([part(x) for part in self.parts], dim=-1)


def chain_of(policy: BasePolicy, name: str) -> tuple[nn.Module, nn.Module] | None:
    """A network of a policy as a module that can be called, from behind the features extractor to its head.

    Args:
        policy: As for :func:`networks`.
        name: The network, as in :func:`network_names`.

    Returns:
        The module, which is never called in training, and that part of it which then receives what it does; None for a
        features extractor.

    Raises:
        cbp.LayerError: As for :func:`inputs`.
    """
    chains = {prefix: nn.Sequential(*modules) for prefix, modules in networks(policy).items() if network_of(prefix) == name}
    if not chains:
        return None
    _received(policy, chains, lambda: sample_pass(policy))
    parts = [*chains.values()]
    return parts[0] if len(parts) == 1 else _SideBySide(parts), parts[0][0]


def modules_of(policy: BasePolicy, names: list[str]) -> nn.Module:
    """A module that holds the weights of some networks, and no others: the policy itself where it has nothing else."""
    if names == network_names(policy) and names[0] == "policy":
        return policy
    places = _places(policy)
    holding = {path: module for path, module in policy.named_modules() if any(True for _ in module.parameters(recurse=False))}
    own = {path: module for path, module in holding.items() if _network_at(path, places) in names}
    found, bare = [], []
    for path, module in own.items():
        below = [other for other in holding if other.startswith(f"{path}." if path else "")]
        if all(other in own for other in below):
            found.append(module)
        else:  # as the policy itself, whose log σ is one of its networks' alone
            bare += list(module.parameters(recurse=False))
    part = nn.ModuleList(found)
    for k, parameter in enumerate(bare):
        part.register_parameter(f"bare{k}", parameter)
    return part


def targets(policy: BasePolicy) -> dict[nn.Module, nn.Module]:
    """For each module of a network that has a target network, its like there."""
    found: dict[nn.Module, nn.Module] = {}
    for network, target in target_pairs(policy):
        like = dict(target.named_modules())
        found |= {module: like[path] for path, module in network.named_modules()}
    return found


def target_pairs(policy: BasePolicy) -> list[tuple[nn.Module, nn.Module]]:
    """Each network that has a target network, and this."""
    pairs = ((network, getattr(policy, f"{name}_target", None)) for name, network in policy.named_children())
    return [(network, target) for network, target in pairs if isinstance(target, nn.Module)]


def _places(policy: BasePolicy) -> dict[str, str]:
    if "policy" not in network_names(policy):
        return {}
    extractor = "features/hidden" if getattr(policy, "share_features_extractor", True) else "policy/features"
    return {"features_extractor": extractor, **_PLACES}


def _network_at(path: str, places: dict[str, str]) -> str:
    """The network of what lies at a path; the first of all for what is elsewhere in a policy with one optimizer."""
    label = _label(path, places)
    if label is not None:
        return network_of(label)
    return "policy" if places else path.split(".")[0]


def _label(path: str, places: dict[str, str]) -> str | None:
    """What a layer's name begins with, before its number; None for a layer at another place."""
    for prefix, label in places.items():
        if path == prefix or path.startswith(f"{prefix}."):
            return label
    if places:
        return None
    network, _, rest = path.partition(".")
    part = rest.split(".")[0]
    if re.fullmatch(r"qf\d+", part):
        return f"{network}/{part}_hidden"
    return f"{network}/{_PARTS[part]}" if part in _PARTS else None
