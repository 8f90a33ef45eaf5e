"""Lets the networks of a policy learn random targets, beside fresh networks of the same kind."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

import cbp
from agents.sb3.networks import inputs, network_of, networks
from agents.sb3.threads import one_thread_each
from cbp.trainability import MakeOptimizer, Score


def targets_of(acting: str, judging: str) -> dict[str, str]:
    """The kinds of learning random targets, and the network that learns them in each."""
    return {"policy-targets": acting} | ({} if judging == acting else {"value-targets": judging})


def score(trainability: cbp.Trainability, policy: BasePolicy, network: str) -> Score:
    """The score of one of a policy's networks beside the fresh ones of :func:`beside_fresh`."""
    with one_thread_each():
        return trainability(_network(policy, _first_of(policy, network)))


def beside_fresh(
    policy: BasePolicy,
    network: str,
    observations: Any,
    actions: Tensor | None,
    optimizer: MakeOptimizer,
    **settings: int,
) -> cbp.Trainability:
    """Lets fresh networks learn that are like one of a policy's.

    Args:
        policy: Any of Stable-Baselines3's whose networks :func:`agents.sb3.networks.networks` knows.
        network: Which of them; of twin critics the first.
        observations: On which they learn, of the policy's space.
        actions: That critics receive with them.
        optimizer: Makes their optimizers.
        **settings: Of :class:`cbp.Trainability`.
    """
    name = _first_of(policy, network)
    arguments = policy._get_constructor_parameters()
    arguments |= {"method": None} if "method" in arguments else {}
    batch, _ = policy.obs_to_tensor(observations)
    _, seen = inputs(policy, batch, actions)[name.rstrip("/_")]
    with one_thread_each():
        return cbp.Trainability(lambda: _network(type(policy)(**arguments), name), seen, optimizer=optimizer, **settings)


def _first_of(policy: BasePolicy, network: str) -> str:
    """How the names of a network's layers begin; of twin critics those of the first."""
    return next(name for name in networks(policy) if network_of(name) == network)


def _network(policy: BasePolicy, name: str) -> nn.Module:
    return nn.Sequential(*networks(policy)[name])
