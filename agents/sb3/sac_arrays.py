"""What the compiled updates of :class:`agents.sb3.sac.SAC` work on: views of the networks' own memory, and one minibatch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import stable_baselines3
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn
from torch.optim import Optimizer

import cbp
from agents.sb3.arrays import Adam, Array, Layers, Norm
from agents.sb3.held import Held, hold
from agents.sb3.plastic import methods_of

_NONE = np.empty(0, np.float32)


class Drawn(NamedTuple):
    """Observations and the actions that a squashed Gaussian policy draws for them."""

    observations: Array  # (rows, inputs)
    noise: Array  # ε, (rows, dimensions), drawn before
    sigma: Array  # (rows, dimensions)
    log_probs: Array  # (rows,)
    judged: Array  # what critics receive, observations and actions: (rows, inputs + dimensions)

    @classmethod
    def of(cls, rows: int, inputs: int, dimensions: int) -> Drawn:
        """Room for some rows."""
        shapes = (rows, inputs), (rows, dimensions), (rows, dimensions), (rows,), (rows, inputs + dimensions)
        return cls(*(np.zeros(shape, np.float32) for shape in shapes))

    def observe(self, observations: Any) -> None:
        """Takes observations, and draws the noise for their actions."""
        self.observations[:] = observations.reshape(self.observations.shape)
        self.judged[:, : self.observations.shape[1]] = self.observations
        self.make_noise()

    def make_noise(self) -> None:
        """Draws the noise for the actions."""
        torch.from_numpy(self.noise).normal_()


class Minibatch(NamedTuple):
    """A minibatch of transitions, what the actor draws in it, and what the critics say of that."""

    now: Drawn  # s
    later: Drawn  # s'
    taken: Array  # s and the actions of the replay buffer: (rows, inputs + dimensions)
    rewards: Array
    discounts: Array  # γ, and 0 where an episode ended with the transition
    later_values: Array  # of the target networks: (critics, rows)
    values: Array  # of the actions drawn in s: (critics, rows)
    by_actions: Array  # the gradient of their minimum by the actions: (rows, dimensions)

    @classmethod
    def of(cls, rows: int, inputs: int, dimensions: int, critics: int) -> Minibatch:
        """Room for some rows."""
        shapes = (rows, inputs + dimensions), (rows,), (rows,), (critics, rows), (critics, rows), (rows, dimensions)
        arrays = (np.zeros(shape, np.float32) for shape in shapes)
        return cls(Drawn.of(rows, inputs, dimensions), Drawn.of(rows, inputs, dimensions), *arrays)

    def load(self, sampled: ReplayBufferSamples, gamma: float) -> None:
        """Takes what the replay buffer gave."""
        self.now.observe(sampled.observations.numpy())
        self.taken[:] = self.now.judged
        self.taken[:, self.now.observations.shape[1] :] = sampled.actions.numpy()
        self.rewards[:] = sampled.rewards.numpy()[:, 0]
        discounts = gamma if sampled.discounts is None else sampled.discounts.numpy()[:, 0]
        self.discounts[:] = (1 - sampled.dones.numpy()[:, 0]) * discounts
        self.later.observe(sampled.next_observations.numpy())


class Stored(NamedTuple):
    """The arrays of Stable-Baselines3's ``ReplayBuffer``, each ``(size, environments, …)``."""

    observations: NDArray[Any]
    next_observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: Array
    dones: Array
    timeouts: Array

    @classmethod
    def of(cls, buffer: ReplayBuffer) -> Stored:
        """Those of a buffer that keeps both observations of a transition; what is written into it later is seen."""
        shape = (*buffer.rewards.shape, -1)
        observations, next_observations = buffer.observations.reshape(shape), buffer.next_observations.reshape(shape)
        actions = buffer.actions.reshape(shape)
        return cls(observations, next_observations, actions, buffer.rewards, buffer.dones, buffer.timeouts)


class Trained:
    """A network that is trained by Adam.

    Attributes:
        parameters: In one order, as flat views.
        gradients: Likewise; the parameters' ``grad`` is what is computed into them.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], gradients: Sequence[Array], optimizer: Optimizer) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient)
            if not optimizer.state[parameter]:  # as torch.optim.Adam before its first step
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter].update(step=torch.tensor(0.0), **zeros)
        states = [optimizer.state[parameter] for parameter in parameters]
        self.parameters = _flat(parameters)
        self.gradients = tuple(gradient.reshape(-1) for gradient in gradients)
        self._exp_avg, self._exp_avg_sq = (_flat(state[name] for state in states) for name in ("exp_avg", "exp_avg_sq"))
        self._counts = tuple(state["step"].numpy() for state in states)
        self._options: tuple[float, float, float, float, float] | None = None  # with which _adam was made

    def next_step(self, optimizer: Optimizer) -> tuple[Held[Adam], float]:
        """Counts a step; returns what ``step_adam`` takes for it, with the optimizer's options as they are now."""
        for count in self._counts:
            count += 1
        group = optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        options = float(group["lr"]), float(beta1), float(beta2), float(group["eps"]), float(group["weight_decay"])
        if options != self._options:
            self._options = options
            decays = np.full(len(self.parameters), options[4], self.parameters[0].dtype)
            kept = self._exp_avg, self._exp_avg_sq
            self._adam = hold(Adam(self.parameters, self.gradients, *kept, *options[:4], decays, 0.0))
        return self._adam, float(self._counts[0])


class CriticArrays:
    """One of the critics with its target network.

    Attributes:
        layers: The critic, and ``held`` as compiled code has it.
        target: Its target network, likewise.
        trained: What Adam works on.
        followed: The flat views of its parameters, and those of the target's.
        hidden: What a method keeps of the hidden layers that it treats, by their number from 0.
    """

    def __init__(
        self, chain: Sequence[nn.Module], target: Sequence[nn.Module], optimizer: Optimizer, rows: int, hidden: dict[Any, Any]
    ) -> None:
        linears, of_target = _linears(chain), _linears(target)
        weights, biases = _values(linears)
        gradients = [np.zeros_like(array) for array in (*weights, *biases)]
        self.layers = _layers(weights, biases, gradients, rows, tanh=_has_tanh(chain))
        self.held = hold(self.layers)
        self.target = hold(_layers(*_values(of_target), [_NONE] * len(gradients), rows, tanh=_has_tanh(chain)))
        self.trained = Trained(_parameters(linears), gradients, optimizer)
        self.followed = hold((self.trained.parameters, _flat(_parameters(of_target))))
        self.hidden = {k: hidden[linear] for k, linear in enumerate(linears) if linear in hidden}


class ActorArrays:
    """The actor, whose two heads are one layer here.

    Attributes:
        layers: For a whole minibatch, and ``held`` as compiled code has them.
        halves: The same for each half of it, with gradients of their own, and ``rows`` which these are.
        trained: What Adam works on: the gradients are those of the first half.
        gradients: Those of both halves, as flat views.
        hidden: As of a critic.
        dimensions: Of an action.
    """

    def __init__(self, actor: Any, rows: int, hidden: dict[Any, Any]) -> None:
        linears = _linears(actor.latent_pi)
        self._heads = [actor.mu, actor.log_std]
        self._head = tuple(np.concatenate(values) for values in _values(self._heads))
        weights, biases = ([*values, head] for values, head in zip(_values(linears), self._head, strict=True))
        first, second = ([np.zeros_like(array) for array in (*weights, *biases)] for _ in range(2))
        self.layers = _layers(weights, biases, first, rows, tanh=_has_tanh([*actor.latent_pi, actor.mu]))
        self.rows = slice(0, rows // 2), slice(rows // 2, rows)
        parts = (_part(self.layers, gradients, at) for gradients, at in zip((first, second), self.rows, strict=True))
        self.held, self.halves = hold(self.layers), tuple(map(hold, parts))
        self.dimensions = dimensions = len(self._head[1]) // 2
        depth = len(weights)
        split = [part for array in (first[depth - 1], first[-1]) for part in (array[:dimensions], array[dimensions:])]
        self.trained = Trained(
            [*_parameters(linears), *_parameters(self._heads)],
            [*first[: depth - 1], *first[depth:-1], *split],
            actor.optimizer,
        )
        self.gradients = tuple(tuple(array.reshape(-1) for array in arrays) for arrays in (first, second))
        self.hidden = {k: hidden[linear] for k, linear in enumerate(linears) if linear in hidden}

    def refresh(self) -> None:
        """Copies the heads, which lie apart, into their common layer."""
        for place, values in zip(self._head, _values(self._heads), strict=True):
            np.concatenate(values, out=place)

    def for_rows(self, rows: int) -> Layers:
        """The layers with room for another number of rows."""
        like = self.layers
        gradients = [*like.weight_gradients, *like.bias_gradients]
        return _layers(like.weights, like.biases, gradients, rows, tanh=like.tanh)


class Networks:
    """All networks of a model of SAC, with room for one minibatch and for one step of the environments.

    Attributes:
        actor: The actor.
        critics: The critics.
        batch: The minibatch, and ``held_batch`` as compiled code has it.
        stored: What minibatches are gathered from, where the replay buffer has no sampling of its own.
        drawing: What is drawn in it, each with the actor's layers for it.
        steps: What is drawn in the environments, and ``acting`` with the actor's layers for it.
        ent_coef: Of the logarithm of the entropy coefficient, where it is learned.
    """

    def __init__(self, model: stable_baselines3.SAC, rows: int) -> None:
        policy: Any = model.policy
        hidden = {k: v for method in methods_of(policy) for k, v in watched_layers(method).items()}
        self.actor = ActorArrays(policy.actor, rows, hidden)
        self.critics = [
            CriticArrays(list(network), list(target), policy.critic.optimizer, rows, hidden)
            for network, target in zip(policy.critic.q_networks, policy.critic_target.q_networks, strict=True)
        ]
        dimensions = self.actor.dimensions
        inputs = self.actor.layers.weights[0].shape[1]
        self.batch = Minibatch.of(rows, inputs, dimensions, len(self.critics))
        self.held_batch = hold(self.batch)
        buffer = model.replay_buffer
        self.stored = hold(Stored.of(buffer)) if buffer is not None and is_plain(buffer) else None
        later = hold(self.actor.for_rows(rows))
        self.drawing = [(hold(self.batch.now), self.actor.held), (hold(self.batch.later), later)]
        self.steps = Drawn.of(model.n_envs, inputs, dimensions)
        self.acting = hold(self.steps), hold(self.actor.for_rows(model.n_envs))
        self.ent_coef: Trained | None = None
        if model.ent_coef_optimizer is not None and model.log_ent_coef is not None:
            self.ent_coef = Trained([model.log_ent_coef], [np.zeros(1, np.float32)], model.ent_coef_optimizer)


def is_plain(buffer: ReplayBuffer) -> bool:
    """Whether a replay buffer samples as Stable-Baselines3's own does by default."""
    return type(buffer) is ReplayBuffer and not buffer.optimize_memory_usage


def watched_layers(method: cbp.Method | None) -> dict[Any, Any]:
    """What a method keeps of each hidden layer, by the Linear layer that makes it."""
    return {layer.hidden.incoming: layer for layer in method.layers} if method else {}


def _linears(modules: Iterable[nn.Module]) -> list[nn.Linear]:
    return [module for module in modules if isinstance(module, nn.Linear)]


def _has_tanh(modules: Sequence[nn.Module]) -> bool:
    return isinstance(modules[-2], nn.Tanh)


def _parameters(linears: Sequence[nn.Linear]) -> list[torch.Tensor]:
    return [linear.weight for linear in linears] + [linear.bias for linear in linears]


def _values(linears: Sequence[nn.Linear]) -> tuple[list[Array], list[Array]]:
    return [linear.weight.detach().numpy() for linear in linears], [linear.bias.detach().numpy() for linear in linears]


def _flat(tensors: Iterable[torch.Tensor]) -> tuple[Array, ...]:
    return tuple(tensor.detach().numpy().reshape(-1) for tensor in tensors)


def _layers(weights: Sequence[Array], biases: Sequence[Array], gradients: Sequence[Array], rows: int, *, tanh: bool) -> Layers:
    depth = len(weights)
    no_norm = Norm.of(None, rows, np.dtype(np.float32))
    return Layers(
        weights=tuple(weights),
        biases=tuple(biases),
        log_std=_NONE,
        weight_gradients=tuple(g.reshape(-1, 1) if g.ndim < 2 else g for g in gradients[:depth]),
        bias_gradients=tuple(gradients[depth:]),
        log_std_gradient=_NONE,
        outputs=tuple(np.empty((rows, len(bias)), np.float32) for bias in biases),
        deltas=tuple(np.empty((rows, len(bias)), np.float32) for bias in biases),
        norms=(no_norm,) * (depth - 1),
        utilities=(_NONE,) * (depth - 1),
        tanh=tanh,
    )


def _part(layers: Layers, gradients: Sequence[Array], rows: slice) -> Layers:
    depth = len(layers.weights)
    return layers._replace(
        weight_gradients=tuple(gradients[:depth]),
        bias_gradients=tuple(gradients[depth:]),
        outputs=tuple(output[rows] for output in layers.outputs),
        deltas=tuple(delta[rows] for delta in layers.deltas),
    )
