"""Lets the networks of a policy learn random targets, beside fresh networks of the same kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

import cbp
from agents.sb3.networks import inputs, network_of, networks
from agents.sb3.threads import one_thread_each
from cbp.trainability import MakeOptimizer, Score


class Targets(NamedTuple):
    """A kind of learning random targets: which network learns them, and whether its head is a fresh one."""

    network: str
    has_fresh_head: bool


def targets_of(acting: str, judging: str) -> dict[str, Targets]:
    """The kinds of learning random targets, by their names."""
    networks = {"policy": acting} | ({} if judging == acting else {"value": judging})
    kinds = {"targets": False, "fresh-head": True}
    return {f"{name}-{kind}": Targets(network, has) for name, network in networks.items() for kind, has in kinds.items()}


def score(trainability: cbp.Trainability, policy: BasePolicy, targets: Targets) -> Score:
    """The score of one of a policy's networks beside the fresh ones of :func:`beside_fresh`."""
    network = _network(policy, _first_of(policy, targets.network))
    with one_thread_each():
        return trainability(network, head=str(len(network) - 1) if targets.has_fresh_head else None)


def beside_fresh(
    policy: BasePolicy,
    network: str,
    observations: Any,
    actions: Tensor | None,
    optimizer: MakeOptimizer,
    make: Callable[[], BasePolicy] | None = None,
    **settings: int,
) -> cbp.Trainability:
    """Lets fresh networks learn that are like one of a policy's.

    Args:
        policy: Any of Stable-Baselines3's whose networks :func:`agents.sb3.networks.networks` knows.
        network: Which of them; of twin critics the first.
        observations: On which they learn, of the policy's space.
        actions: That critics receive with them.
        optimizer: Makes their optimizers.
        make: Makes a policy of the same kind with fresh weights. Default: from what the policy says of its construction, which
            leaves out the options that classes of others add.
        **settings: Of :class:`cbp.Trainability`.

    Raises:
        ValueError: The network has no hidden layer.
    """
    name = _first_of(policy, network)
    if sum(isinstance(module, nn.Linear) for module in networks(policy)[name]) < 2:
        raise ValueError(
            f"the {network} network is a head alone behind its features extractor, without a hidden layer (net_arch)"
        )
    batch, _ = policy.obs_to_tensor(observations)
    _, seen = inputs(policy, batch, actions)[name.rstrip("/_")]
    with one_thread_each():
        return cbp.Trainability(
            lambda: _network(make() if make else _made_like(policy), name), seen, optimizer=optimizer, **settings
        )


def _made_like(policy: BasePolicy) -> BasePolicy:
    arguments = policy._get_constructor_parameters()
    return type(policy)(**arguments | ({"method": None} if "method" in arguments else {}))


def _first_of(policy: BasePolicy, network: str) -> str:
    """How the names of a network's layers begin; of twin critics those of the first."""
    return next(name for name in networks(policy) if network_of(name) == network)


def _network(policy: BasePolicy, name: str) -> nn.Sequential:
    """The network up to its head: an activation behind it, as in the actors of TD3 and DDPG, bounds what can be learned."""
    modules = networks(policy)[name]
    head = max(i for i, module in enumerate(modules) if any(True for _ in module.parameters()))
    return nn.Sequential(*modules[: head + 1])
