"""The compiled mathematics of one update of SAC: what the actor draws, the losses of critics and actor, target networks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from agents.sb3.arrays import Adam, Array, Layers
from agents.sb3.held import Held
from agents.sb3.kernels import adam_step, compiled, pass_backward, pass_forward
from agents.sb3.sac_arrays import Drawn, Minibatch, Stored

_LEAST, _MOST = np.float32(-20), np.float32(2)  # log σ, as in Stable-Baselines3
_EPS = np.float32(1e-6)  # within log(1 − a²), as there
_HALF_LOG_2PI = np.float32(0.5 * math.log(2 * math.pi))


@compiled
def draw(held_drawn: Held[Drawn], actor: Held[Layers]) -> None:
    """Draws a = tanh(μ(s) + σ(s)·ε) and gives log π(a|s) = Σ log N(ε) − log σ − log(1 − a² + 10⁻⁶)."""
    drawn, layers = held_drawn.value, actor.value
    pass_forward(drawn.observations, layers)
    heads, inputs = layers.outputs[-1], drawn.observations.shape[1]
    dimensions = drawn.noise.shape[1]
    for i in range(len(drawn.noise)):
        log_prob = np.float32(0)
        for j in range(dimensions):
            log_sigma, noise = min(max(heads[i, dimensions + j], _LEAST), _MOST), drawn.noise[i, j]
            sigma = math.exp(log_sigma)
            action = math.tanh(heads[i, j] + sigma * noise)
            drawn.sigma[i, j] = sigma
            drawn.judged[i, inputs + j] = action
            log_prob -= np.float32(0.5) * noise * noise + log_sigma + _HALF_LOG_2PI
            log_prob -= math.log(np.float32(1) - action * action + _EPS)
        drawn.log_probs[i] = log_prob


@compiled
def gather(
    buffer: Held[Stored], rows: NDArray[np.int64], environments: NDArray[np.int64], minibatch: Held[Minibatch], gamma: float
) -> None:
    """Takes transitions from a replay buffer: of each the row and the environment."""
    stored, batch = buffer.value, minibatch.value
    inputs = batch.now.observations.shape[1]
    for i in range(len(rows)):
        row, k = rows[i], environments[i]
        for j in range(inputs):
            batch.now.observations[i, j] = batch.now.judged[i, j] = batch.taken[i, j] = stored.observations[row, k, j]
            batch.later.observations[i, j] = batch.later.judged[i, j] = stored.next_observations[row, k, j]
        for j in range(stored.actions.shape[2]):
            batch.taken[i, inputs + j] = stored.actions[row, k, j]
        batch.rewards[i] = stored.rewards[row, k]
        ended = stored.dones[row, k] * (np.float32(1) - stored.timeouts[row, k])
        batch.discounts[i] = (np.float32(1) - ended) * np.float32(gamma)


@compiled
def look_ahead(k: int, minibatch: Held[Minibatch], held_critic: Held[Layers], held_target: Held[Layers]) -> None:
    """What critic ``k`` says of the actions that were taken, and its target network of what follows."""
    batch, target = minibatch.value, held_target.value
    pass_forward(batch.later.judged, target)
    batch.later_values[k] = target.outputs[-1][:, 0]
    pass_forward(batch.taken, held_critic.value)


@compiled
def critic_gradients(minibatch: Held[Minibatch], ent_coef: float, held_critic: Held[Layers]) -> float:
    """Gradients of ½·mean (Q(s, a) − y)² with y = r + γ·(min Q'(s', a') − α·log π(a'|s')), and the loss."""
    batch, critic = minibatch.value, held_critic.value
    rows = len(batch.rewards)
    loss = 0.0
    for i in range(rows):
        value = batch.later_values[0, i]
        for k in range(1, len(batch.later_values)):
            value = min(value, batch.later_values[k, i])
        value -= np.float32(ent_coef) * batch.later.log_probs[i]
        error = critic.outputs[-1][i, 0] - (batch.rewards[i] + batch.discounts[i] * value)
        loss += 0.5 * error * error / rows
        critic.deltas[-1][i, 0] = error / np.float32(rows)
    pass_backward(batch.taken, critic)
    return loss


@compiled
def judge_drawn(k: int, minibatch: Held[Minibatch], held_critic: Held[Layers]) -> None:
    """What critic ``k`` says of the actions that the actor draws in s."""
    batch, critic = minibatch.value, held_critic.value
    pass_forward(batch.now.judged, critic)
    batch.values[k] = critic.outputs[-1][:, 0]


@compiled
def step_adam(adam: Held[Adam], steps: float) -> None:
    """The step of Adam that has this number, from 1."""
    adam_step(adam.value, steps)


@compiled
def follow(followed: Held[tuple[tuple[Array, ...], tuple[Array, ...]]], tau: float) -> None:
    """θ' ← (1 − τ)·θ' + τ·θ, of parameters θ and a target's θ'."""
    parameters, target_parameters = followed.value
    keep, take = np.float32(1 - tau), np.float32(tau)
    for k in range(len(parameters)):
        parameter, target = parameters[k], target_parameters[k]
        for i in range(len(parameter)):
            target[i] = keep * target[i] + take * parameter[i]


@compiled
def pass_to_actions(k: int, minibatch: Held[Minibatch], held_critic: Held[Layers]) -> None:
    """∂Q/∂a, for the rows in which critic ``k`` says the least: the others do not depend on it. No weight's gradient."""
    batch, critic = minibatch.value, held_critic.value
    rows = np.empty(len(batch.rewards), np.int64)
    found = 0
    for i in range(len(rows)):
        if np.argmin(batch.values[:, i]) == k:
            rows[found] = i
            found += 1
    if found == 0:
        return
    delta = critic.deltas[-1][:found]
    delta[:] = 1
    for layer in range(len(critic.weights) - 1, 0, -1):
        below = critic.deltas[layer - 1][:found]
        np.dot(delta, critic.weights[layer], below)
        for i in range(found):
            h = critic.outputs[layer - 1][rows[i]]
            for j in range(len(h)):
                if critic.tanh:
                    below[i, j] *= np.float32(1) - h[j] * h[j]
                else:
                    below[i, j] *= np.float32(h[j] > 0)
        delta = below
    inputs = batch.now.observations.shape[1]
    by_actions = np.dot(delta, np.ascontiguousarray(critic.weights[0][:, inputs:]))
    for i in range(found):
        batch.by_actions[rows[i]] = by_actions[i]


@compiled
def actor_gradients(first: int, last: int, minibatch: Held[Minibatch], ent_coef: float, held_actor: Held[Layers]) -> float:
    """Gradients of mean (α·log π(a|s) − min Q(s, a)) from some rows of a minibatch, and their share of the loss."""
    batch, actor = minibatch.value, held_actor.value
    rows, inputs, dimensions = len(batch.rewards), batch.now.observations.shape[1], batch.by_actions.shape[1]
    alpha, one = np.float32(ent_coef), np.float32(1)
    heads, deltas = actor.outputs[-1], actor.deltas[-1]
    loss = 0.0
    for i in range(first, last):
        loss += (alpha * batch.now.log_probs[i] - batch.values[:, i].min()) / rows
        for j in range(dimensions):
            action = batch.now.judged[i, inputs + j]
            left = one - action * action
            by_action = alpha * (action + action) / (left + _EPS) - batch.by_actions[i, j]
            by_gaussian = by_action * left / np.float32(rows)  # behind the tanh
            deltas[i - first, j] = by_gaussian
            by_log_sigma = by_gaussian * batch.now.sigma[i, j] * batch.now.noise[i, j] - alpha / np.float32(rows)
            within = _LEAST <= heads[i - first, dimensions + j] <= _MOST
            deltas[i - first, dimensions + j] = by_log_sigma if within else np.float32(0)
    pass_backward(batch.now.observations[first:last], actor)
    return loss


@compiled
def add(into: tuple[Array, ...], others: tuple[Array, ...]) -> None:
    """Adds arrays to others."""
    for k in range(len(into)):
        for i in range(len(into[k])):
            into[k][i] += others[k][i]
