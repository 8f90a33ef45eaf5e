"""How many updates an algorithm makes of each network, and whether a method does anything in that time."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

import cbp
from agents.sb3.networks import network_of


def updates_left(algorithm: BaseAlgorithm, networks: Collection[str] = ("policy", "value")) -> float:
    """Updates of an optimizer between now and the end of the current ``learn()``.

    Args:
        algorithm: One of Stable-Baselines3 or sb3-contrib.
        networks: Those that the optimizer trains: the one that is updated most often counts.

    Returns:
        Minibatch updates: of PPO epochs × minibatches a rollout, of SAC and DQN ``gradient_steps`` each ``train_freq`` from
        ``learning_starts`` on, of the actor of TD3 one in ``policy_delay`` of them. Infinite where only the episodes' lengths
        tell.
    """
    steps = algorithm._total_timesteps - algorithm.num_timesteps
    if isinstance(algorithm, OffPolicyAlgorithm):
        updates = _off_policy(algorithm, steps)
        delay: int = getattr(algorithm, "policy_delay", 1)
        return updates // delay if set(networks) == {"actor"} and updates < math.inf else updates
    model: Any = algorithm
    rollout: int = model.n_steps * model.n_envs
    rollouts = math.ceil(steps / rollout)
    # PPO and those like it; TRPO's policy has one update a rollout, its value network several.
    epochs = getattr(model, "n_epochs", getattr(model, "n_critic_updates", None) if set(networks) != {"policy"} else None)
    return rollouts if epochs is None else rollouts * epochs * math.ceil(rollout / model.batch_size)


def _updates_of_a_rollout(algorithm: Any) -> int:
    """Minibatch updates that PPO, or an algorithm like it, makes from one rollout."""
    minibatches: int = math.ceil(algorithm.n_steps * algorithm.n_envs / algorithm.batch_size)
    return minibatches * int(algorithm.n_epochs)


def _off_policy(algorithm: OffPolicyAlgorithm, steps: int) -> float:
    frequency: Any = algorithm.train_freq
    if frequency.unit is TrainFrequencyUnit.EPISODE:
        learning = max(min(steps, algorithm._total_timesteps - algorithm.learning_starts), 0)
        return learning if algorithm.gradient_steps < 0 else math.inf
    # It learns at the end of each cycle that ends after learning_starts; a run ends with a whole cycle.
    cycle: int = frequency.frequency * algorithm.n_envs
    begun = max(algorithm.num_timesteps, algorithm.learning_starts) // cycle
    times = max(math.ceil(algorithm._total_timesteps / cycle) - begun, 0)
    return times * (cycle if algorithm.gradient_steps < 0 else algorithm.gradient_steps)


def too_short(algorithm: BaseAlgorithm, methods: Mapping[str, cbp.Method]) -> list[str]:
    """A line for each method that does nothing in the current ``learn()``, or not all that it says.

    No unit matures, or its period or its warm-up is longer, or it acts on gradients and the policy has none, as that of TRPO.

    Args:
        algorithm: As for :func:`updates_left`.
        methods: By the networks that they treat.
    """
    lines = []
    names = {kind: name for name, kind in cbp.METHODS.items()}
    for method in dict.fromkeys(methods.values()):
        treated = [network for network, of_network in methods.items() if of_network is method]
        if hasattr(algorithm, "n_critic_updates") and "policy" in treated and _acts_on_gradients(method):
            others = [network for network in treated if network != "policy"]
            still = f"it acts on {' and '.join(others)} alone" if others else "it does nothing"
            name = type(algorithm).__name__
            lines.append(f"{names[type(method)]} acts on gradients, which {name} gives its policy none of: {still}")
            if not others:
                continue
        if isinstance(method, cbp.ProximalFeatures) and _updates_of_a_rollout(algorithm) == 1:
            lines.append("pfo does nothing: it acts from the second update of a rollout on, and each has one")
            continue
        at_end = {network: _updates_at_the_end(algorithm, method, network) for network in treated}
        waits = _first_update(method)
        short = {network: updates for network, updates in at_end.items() if updates < waits}
        for updates in dict.fromkeys(short.values()):
            alike = [network for network in short if short[network] == updates]
            where = "" if alike == list(methods) else f" of {' and '.join(alike)}"
            if isinstance(method, cbp.ContinualBackprop):
                why, option = f"no unit{where} will be replaced: units mature after {waits - 1:,} updates", "maturity_threshold"
            elif isinstance(method, cbp.CChain):
                stays = f"λ of {names[type(method)]}{where} stays {method.strength:g}"
                why, option = f"{stays}: it follows the loss after {waits:,} updates", "warm_up or measure_every"
            else:
                why, option = f"{names[type(method)]}{where} does nothing: its period is {waits:,} updates", "period"
            lines.append(f"{why}, and this run has {updates:,}; train longer or lower {option}")
    return lines


def _first_update(method: cbp.Method) -> int:
    """The update from which on a method does all that it says."""
    if isinstance(method, cbp.ContinualBackprop):
        return method.maturity_threshold + 1
    if isinstance(method, cbp.CChain):
        return method.warm_up * method.measure_every
    return getattr(method, "period", 1)


def _acts_on_gradients(method: cbp.Method) -> bool:
    """Whether a method changes gradients, or judges by them."""
    judges = isinstance(method, cbp.ReGraMa | cbp.SelectiveWeightReinitialization)
    return judges or type(method).before_update is not cbp.Method.before_update


def _updates_at_the_end(algorithm: BaseAlgorithm, method: cbp.Method, network: str) -> float:
    """What the ages, or the clock, of a network's units will be; infinite for one without units."""
    has_clock = hasattr(method, "period") or isinstance(method, cbp.CChain)
    begun: int = method.state_dict().get("updates", 0) if has_clock else 0
    if isinstance(method, cbp.ReplacingMethod):
        layers = [layer for layer in method.layers if network_of(layer.name) == network]
        ages = [layer.age.max() if isinstance(method, cbp.ContinualBackprop) else layer.clock for layer in layers]
        begun = max(map(int, ages), default=2**62)
    return begun + updates_left(algorithm, [network])
