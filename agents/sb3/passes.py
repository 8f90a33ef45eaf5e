"""Forward passes of Stable-Baselines3's policies: one to find their layers by, one to measure them."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

import cbp

_ROWS = 2


def is_on_policy(policy: BasePolicy) -> bool:
    """Whether a policy is that of PPO and its like, whatever else its parts are called."""
    return hasattr(policy, "evaluate_actions")


def example_pass(policy: Any) -> None:
    """A pass of all networks that are trained, as in training, on observations of zeros: what comes out is of no use."""
    observations, actions = _rows(policy)
    if is_on_policy(policy):
        _evaluate(policy, observations, actions)
    elif isinstance(getattr(policy, "actor", None), nn.Module):
        policy.actor(observations)
        policy.critic(observations, actions.float())
    else:
        _values(policy, observations)


def sample_pass(policy: Any) -> None:
    """A pass of all networks on observations and actions drawn from their spaces, in which nothing else is drawn."""
    observations, actions = _rows(policy, sample=True)
    if hasattr(policy, "lstm_actor"):
        _evaluate(policy, observations, actions)
    else:
        run(policy, observations, actions.float())


def _evaluate(policy: Any, observations: Any, actions: Tensor) -> None:
    if hasattr(policy, "lstm_actor"):
        states, starts = _states(policy, _ROWS), torch.zeros(_ROWS, device=policy.device)
        policy.evaluate_actions(observations, actions, states, starts)
    else:
        policy.evaluate_actions(observations, actions)


def _values(policy: Any, observations: Any) -> None:
    """The pass of a policy that chooses by the values of actions."""
    (policy.q_net if hasattr(policy, "q_net") else policy.quantile_net)(observations)


def _states(policy: Any, rows: int) -> Any:
    """What a recurrent policy remembers at the beginning of episodes."""

    def of(lstm: nn.LSTM) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(lstm.num_layers, rows, lstm.hidden_size, device=policy.device)
        return zeros, zeros.clone()

    return SimpleNamespace(pi=of(policy.lstm_actor), vf=of(policy.lstm_critic or policy.lstm_actor))


def _rows(policy: BasePolicy, *, sample: bool = False) -> tuple[Any, Tensor]:
    """Observations and actions of zeros, or of samples of their spaces."""
    found: list[Any] = []
    for space in copy.deepcopy([policy.observation_space, policy.action_space]):  # each has a generator, which is left alone
        space.seed(0)
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else [("", space)]
        arrays = {key: _array(part, sample) for key, part in parts}
        found.append(obs_as_tensor(arrays if isinstance(space, spaces.Dict) else arrays[""], policy.device))
    observations, actions = found
    return observations, actions.flatten(1) if isinstance(policy.action_space, spaces.Box) else actions


def _array(space: spaces.Space[Any], sample: bool) -> np.ndarray:
    # The probabilities of binary actions are computed from floats.
    kind = np.float32 if isinstance(space, spaces.MultiBinary) else space.dtype
    if sample:
        return np.stack([space.sample() for _ in range(_ROWS)]).astype(kind)
    return np.zeros((_ROWS, *(space.shape or ())), kind)


@torch.no_grad()
def activations(policy: BasePolicy, layers: list[cbp.Group], observations: Any, actions: Tensor | None = None) -> list[Tensor]:
    """What the layers behind each hidden layer receive: a list of ``(samples, positions, units)``. Nothing is sampled.

    Args:
        policy: The policy.
        layers: Hidden layers of the policy, see :func:`agents.sb3.networks.hidden_layers`. Channels of images have several
            positions, other units one.
        observations: A tensor ``(samples, …)``, or a dictionary of such.
        actions: What the critics of SAC and TD3 judge, in [−1, 1]: ``(samples, …)``.
    """
    received: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for i, layer in enumerate(layers):
            hooks.enter_context(_watch(layer.edges[0].place, received, i))
        run(policy, observations, actions)
    # A map with one position alone has no dimension for it.
    of_maps = [layer.fresh[0].tensor.ndim > 2 and received[i].ndim > 2 for i, layer in enumerate(layers)]
    return [received[i] if of_map else received[i].flatten(1).unsqueeze(1) for i, of_map in enumerate(of_maps)]


def _watch(place: Any, received: dict[int, Tensor], i: int) -> Any:
    def keep(value: Any) -> None:
        received[i] = place.as_batch(value)

    if place.returned:
        return place.module.register_forward_hook(
            lambda _, __, output: keep(output if place.key is None else output[place.key])
        )
    return place.module.register_forward_pre_hook(lambda _, args: keep(args[place.key]))


def run(policy: Any, observations: Any, actions: Tensor | None) -> None:
    """Runs all networks of a policy without sampling."""
    if is_on_policy(policy):
        policy.get_distribution(observations)
        policy.predict_values(observations)
    elif isinstance(getattr(policy, "actor", None), nn.Module):
        actor = policy.actor
        getattr(actor, "get_action_dist_params", actor)(observations)
        assert actions is not None  # noqa: S101
        policy.critic(observations, actions.flatten(1))
    else:
        _values(policy, observations)
