"""Stable-Baselines3's PPO with a faster loop: the same algorithm and draws, the same numbers up to float rounding.

Read from top to bottom, the file follows one rollout: :meth:`PPO.collect_rollouts` steps the environments, :meth:`PPO.train`
makes the updates, and the compiled functions at the end are what happens to one minibatch. The reason for each trick stands
beside it; its figures are those of two cores and the paper's network and batch sizes (``docs/performance.md``).
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  where numba's np.dot gets its BLAS from
import stable_baselines3
import torch
import torch.nn.functional as F
from numba import njit
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from threadpoolctl import ThreadpoolController
from torch import nn

import cbp
from agents.buffers import compute_advantages
from agents.networks import networks
from agents.support import unsupported

Array = NDArray[np.float32]
Losses = NDArray[np.float64]
_Function = TypeVar("_Function", bound=Callable[..., Any])


class PPO(stable_baselines3.PPO):
    """Stable-Baselines3's ``PPO``, faster on a CPU. Constructor, callbacks, logger, ``save`` and ``load`` are the same.

    The fast path is for Gaussian policies made of Linear layers with ReLU or Tanh (``MlpPolicy``, ``PlasticMlpPolicy``,
    ``CBPMlpPolicy``), trained by Adam in float32. Any other configuration takes Stable-Baselines3's own loop, with a warning
    that says why. Random numbers come from the same generators in the same order, and results equal those of
    Stable-Baselines3 up to float rounding. What either class saved, the other loads.

    Differences to know of:

    - While a rollout is being collected, callbacks find no ``values``, ``log_probs`` and ``obs_tensor`` in ``self.locals``:
      the first two are computed for the whole rollout at once, before ``on_rollout_end``.
    - Up to two threads train, never more than ``torch.get_num_threads()``: ``torch.set_num_threads(1)`` or the environment
      variable ``OMP_NUM_THREADS=1`` keep a run on one core. The number of threads does not change the result.
    - The networks are trained side by side where nothing couples them: ``max_grad_norm=math.inf``, ``target_kl=None``, and
      no method or continual backpropagation with ``utility="contribution"``. Other methods act between two updates of both.

    Attributes:
        slow_because: Why Stable-Baselines3's own loop was taken; None where it was not.

    Raises:
        ValueError: From ``learn``, where a loss is no longer a finite number.

    Example:
        >>> import math
        >>> from agents import PPO
        >>> model = PPO("MlpPolicy", "Pendulum-v1", n_steps=128, max_grad_norm=math.inf, device="cpu").learn(256)
        >>> model.slow_because is None
        True
    """

    slow_because: str | None = None

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collects a rollout, as in Stable-Baselines3."""
        if self._is_slow():
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        assert isinstance(self._last_obs, np.ndarray)  # noqa: S101
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        actor, critic = (_Forward(modules) for modules in networks(self.policy).values())
        low, high = self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        std = self.policy.log_std.detach().exp().numpy()
        means = np.empty_like(rollout_buffer.actions, dtype=np.float32)
        noise = torch.empty(means.shape[1:])
        cut_off: list[tuple[int, int, Any]] = []  # (step, environment, last observation) of episodes that hit a time limit
        with _one_thread_each():
            for n_steps in range(n_rollout_steps):
                # Of SB3's forward pass only what actions depend on, on tensors of the same shapes: 20 to 40 µs, not 150 to 200,
                # and the same actions to the bit, without which a chaotic simulation would take another course.
                mean = means[n_steps] = actor(self._last_obs)
                if math.isnan(mean.sum()):
                    raise ValueError(f"the policy's actions are not numbers, nan in {mean}: check observations and weights")
                actions = (mean + std * noise.normal_().numpy()).reshape(-1, *low.shape)
                clipped_actions = np.minimum(np.maximum(actions, low), high)

                new_obs, rewards, dones, infos = env.step(clipped_actions)

                self.num_timesteps += env.num_envs
                callback.update_locals(locals())
                if not callback.on_step():
                    return False
                self._update_info_buffer(infos, dones)
                if dones.any():
                    ends = [(i, infos[i].get("terminal_observation")) for i in np.flatnonzero(dones).tolist()]
                    cut_off += [(n_steps, i, o) for i, o in ends if o is not None and infos[i].get("TimeLimit.truncated")]
                rollout_buffer.observations[n_steps] = self._last_obs
                rollout_buffer.actions[n_steps] = actions.reshape(mean.shape)
                rollout_buffer.rewards[n_steps] = rewards
                rollout_buffer.episode_starts[n_steps] = self._last_episode_starts
                rollout_buffer.pos = n_steps + 1
                self._last_obs = new_obs  # type: ignore[assignment]
                self._last_episode_starts = dones
        n_steps = n_rollout_steps
        rollout_buffer.full = True

        # The values of the whole rollout in one pass.
        observations = rollout_buffer.observations.reshape(-1, *rollout_buffer.obs_shape)
        rollout_buffer.values[:] = critic(observations).reshape(rollout_buffer.values.shape)
        if cut_off:  # the episode would have gone on: r + γ·V(its last observation)
            of_cut_off = critic(np.stack([observation for _, _, observation in cut_off]))
            for (step, i, _), value in zip(cut_off, of_cut_off, strict=True):
                rollout_buffer.rewards[step, i] += self.gamma * value[0]
        last_values = torch.from_numpy(critic(new_obs))
        distribution = torch.distributions.Normal(torch.from_numpy(means), torch.from_numpy(std))
        log_probs = distribution.log_prob(torch.from_numpy(rollout_buffer.actions).float())  # type: ignore[no-untyped-call]
        rollout_buffer.log_probs[:] = log_probs.sum(dim=2).numpy()
        if type(rollout_buffer).compute_returns_and_advantage is RolloutBuffer.compute_returns_and_advantage:
            compute_advantages(rollout_buffer, last_values, dones)
        else:
            rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def train(self) -> None:
        """Makes the updates of one rollout, as in Stable-Baselines3."""
        if self._is_slow():
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        method = getattr(self.policy, "method", None)
        progress = self._current_progress_remaining
        settings = _Settings(
            clip_range=float(self.clip_range(progress)),  # type: ignore[operator]
            clip_range_vf=math.inf if self.clip_range_vf is None else float(self.clip_range_vf(progress)),  # type: ignore[operator]
            ent_coef=float(self.ent_coef),
            vf_coef=float(self.vf_coef),
            normalize_advantage=bool(self.normalize_advantage),
            decay_rate=method.decay_rate if type(method) is cbp.ContinualBackprop else -1.0,
        )
        compiled = method is None or (type(method) is cbp.ContinualBackprop and method.utility == "contribution")
        coupled = math.isfinite(self.max_grad_norm) or self.target_kl is not None or not compiled
        with _one_thread_each() as threads, torch.no_grad():
            actor, critic = (
                _Network(modules, log_std, self.policy.optimizer, self.batch_size, method)
                for modules, log_std in zip(networks(self.policy).values(), (self.policy.log_std, None), strict=True)
            )
            if coupled:
                losses, of_last_epoch = self._train_together(actor, critic, method, settings)
            else:
                losses, of_last_epoch = self._train_apart(actor, critic, method, settings, threads)
        if not np.isfinite(losses).all():
            raise ValueError("a loss is not a finite number: check rewards, observations and the learning rate")
        self._log(losses[0], losses[1, :, 0], of_last_epoch, settings)

    def _train_apart(
        self, actor: _Network, critic: _Network, method: cbp.ContinualBackprop | None, settings: _Settings, threads: int
    ) -> tuple[Losses, int]:
        """Trains each network by itself, side by side where there are two cores.

        Returns:
            The losses of each network and update, ``(2, updates, 4)``, and how many updates the last epoch had.
        """
        samples = _Samples.of(self.rollout_buffer, self.batch_size, self.n_epochs)
        updates = len(samples.bounds) - 1
        losses = np.zeros((2, updates, 4))

        @torch.no_grad()  # which torch has for each thread
        def train(network: _Network, losses: Losses) -> None:
            # When units are due is known before their utilities are, so that the compiled loop runs on until then.
            tracked = [layer for layer in network.hidden.values() if isinstance(layer, cbp.MaturingLayer)]
            due = [method.pass_updates(layer, updates) for layer in tracked] if method else []
            done = 0
            while done < updates:
                until = min((at for at, _ in due), default=updates)
                _updates(done, until, samples, settings, network.layers, network.adam, losses)
                done = until
                for k, layer in enumerate(tracked):
                    at, count = due[k]
                    if method and at == done:
                        if count:
                            method.replace_least_useful(layer, count)
                        passed, count = method.pass_updates(layer, updates - done)
                        due[k] = done + passed, count

        with ThreadPoolExecutor(min(2, threads)) as pool:
            list(pool.map(train, (actor, critic), losses))
        for network in (actor, critic):
            network.count(updates)
        self._n_updates += self.n_epochs
        return losses, updates // self.n_epochs

    def _train_together(
        self, actor: _Network, critic: _Network, method: cbp.Method | None, settings: _Settings
    ) -> tuple[Losses, int]:
        """Trains both networks update by update; returns what :meth:`_train_apart` does."""
        losses: list[Losses] = []
        for epoch in range(self.n_epochs):
            samples = _Samples.of(self.rollout_buffer, self.batch_size, epochs=1)
            self._n_updates += 1
            for t in range(len(samples.bounds) - 1):
                losses.append(np.zeros((2, 4)))
                for network, of_network in zip((actor, critic), losses[-1], strict=True):
                    _gradients(t, samples, settings, network.layers, of_network)
                divergence = losses[-1][0, _KL]
                if self.target_kl is not None and divergence > 1.5 * self.target_kl:
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
                    return np.stack(losses, axis=1), t + 1
                _clip_gradients(actor.adam.gradients, critic.adam.gradients, self.max_grad_norm)
                if method:
                    method.before_update()
                for network in (actor, critic):
                    network.count(1)
                    _adam_step(network.adam, float(network.states[0]["step"]))
                    for k, layer in network.hidden.items():
                        output = network.layers.outputs[k]
                        layer.receive(torch.from_numpy(output[: samples.bounds[t + 1] - samples.bounds[t]]))
                if method:
                    method.step()
        return np.stack(losses, axis=1), t + 1

    def _log(self, of_policy: Losses, of_value: Losses, of_last_epoch: int, settings: _Settings) -> None:
        record, values, returns = self.logger.record, self.rollout_buffer.values, self.rollout_buffer.returns
        record("train/entropy_loss", of_policy[:, _ENTROPY].mean())
        record("train/policy_gradient_loss", of_policy[:, _POLICY].mean())
        record("train/value_loss", of_value.mean())
        record("train/approx_kl", of_policy[-of_last_epoch:, _KL].mean())
        record("train/clip_fraction", of_policy[:, _CLIPPED].mean())
        last = of_policy[-1, _POLICY] + self.ent_coef * of_policy[-1, _ENTROPY] + self.vf_coef * of_value[-1]
        record("train/loss", last)
        record("train/explained_variance", explained_variance(values.flatten(), returns.flatten()))
        record("train/std", self.policy.log_std.exp().mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", settings.clip_range)
        if self.clip_range_vf is not None:
            record("train/clip_range_vf", settings.clip_range_vf)

    def _is_slow(self) -> bool:
        before, self.slow_because = self.slow_because, unsupported(self)
        if self.slow_because and self.slow_because != before:
            warnings.warn(f"training takes Stable-Baselines3's own, slower loop: {self.slow_because}", stacklevel=4)
        return self.slow_because is not None

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "slow_because"]


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Torch and BLAS with one thread for each of ours; gives torch's number of threads.

    Threads of their own go on spinning between two calls, on the cores where environments and networks work side by side: a
    rollout took 580 ms with them and takes 330 without.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas().limit(limits=1, user_api="blas"):
            yield threads
    finally:
        torch.set_num_threads(threads)


def _as_rows(observations: NDArray[Any]) -> Array:
    return observations.reshape(len(observations), -1).astype(np.float32, copy=False)


class _Forward:
    """A network's forward pass by the bare operations of its modules, whose own calls would take as long again."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        linears = [module for module in modules if isinstance(module, nn.Linear)]
        self._parameters = [(linear.weight.detach(), linear.bias.detach()) for linear in linears]
        self._activate = torch.tanh_ if isinstance(modules[1], nn.Tanh) else torch.relu_

    def __call__(self, observations: Any) -> Array:
        """What the network gives for some observations: ``(rows, out)``."""
        x = torch.empty(len(observations), self._parameters[0][0].shape[1])
        x.numpy()[:] = observations.reshape(x.shape)
        for weight, bias in self._parameters[:-1]:
            x = self._activate(F.linear(x, weight, bias))
        return F.linear(x, *self._parameters[-1]).numpy()


def _arrays(tensors: Iterable[torch.Tensor | None]) -> tuple[Array, ...]:
    """The tensors' own memory: what is written into the arrays need not be copied back."""
    return tuple(tensor.detach().numpy() for tensor in tensors if tensor is not None)


class _Samples(NamedTuple):
    """Minibatches, one after the other; number ``t`` has the rows ``bounds[t]`` to ``bounds[t + 1]``."""

    bounds: NDArray[np.int64]
    observations: Array
    actions: Array
    old_values: Array
    old_log_probs: Array
    advantages: Array
    returns: Array

    @classmethod
    def of(cls, buffer: RolloutBuffer, batch_size: int, epochs: int) -> _Samples:
        """The minibatches that Stable-Baselines3 draws in some epochs.

        The rows of a whole epoch are gathered at once, so that each minibatch lies in one piece.
        """
        drawn = [next(buffer.get()) for _ in range(epochs)]
        columns = [np.concatenate([epoch[k].numpy() for epoch in drawn]) for k in range(6)]
        rows = len(columns[0]) // epochs
        starts = [epoch * rows + start for epoch in range(epochs) for start in range(0, rows, batch_size)]
        return cls(np.array([*starts, epochs * rows]), _as_rows(columns[0]), *columns[1:])


class _Settings(NamedTuple):
    clip_range: float
    clip_range_vf: float  # infinite: none
    ent_coef: float
    vf_coef: float
    normalize_advantage: bool
    decay_rate: float  # of the units' utilities; negative: none to average


class _Layers(NamedTuple):
    """A network's Linear layers in forward order, and room for one minibatch.

    ``outputs`` has what each layer gives, a hidden one behind its activation; ``deltas`` the loss's gradient by what each
    gives before it. Both are ``(batch, out)``, weights ``(out, in)``. The value network has a ``log_std`` of no elements.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    log_std: Array
    weight_gradients: tuple[Array, ...]
    bias_gradients: tuple[Array, ...]
    log_std_gradient: Array
    outputs: tuple[Array, ...]
    deltas: tuple[Array, ...]
    utilities: tuple[Array, ...]
    tanh: bool


class _Adam(NamedTuple):
    """Flat views of a network's parameters and of what torch's Adam keeps for each."""

    parameters: tuple[Array, ...]
    gradients: tuple[Array, ...]
    exp_avg: tuple[Array, ...]
    exp_avg_sq: tuple[Array, ...]
    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    steps: float  # made before this rollout


class _Network:
    """One of the two networks while it is trained.

    Attributes:
        hidden: What the method keeps of the hidden layers that it treats, by their number from 0.
        states: Adam's state of each parameter.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        log_std: nn.Parameter | None,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        method: cbp.Method | None,
    ) -> None:
        linears = [module for module in modules if isinstance(module, nn.Linear)]
        parameters = [linear.weight for linear in linears] + [linear.bias for linear in linears]
        parameters += [] if log_std is None else [log_std]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if not optimizer.state[parameter]:  # as torch.optim.Adam before its first step
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter].update(step=torch.tensor(0.0), **zeros)
        self.states = [optimizer.state[parameter] for parameter in parameters]
        watched = {layer.hidden.incoming: layer for layer in method.layers} if method else {}
        self.hidden = {k: watched[linear] for k, linear in enumerate(linears[:-1]) if linear in watched}

        none = np.empty(0, np.float32)
        self.layers = _Layers(
            weights=_arrays(linear.weight for linear in linears),
            biases=_arrays(linear.bias for linear in linears),
            log_std=none if log_std is None else log_std.detach().numpy(),
            weight_gradients=_arrays(linear.weight.grad for linear in linears),
            bias_gradients=_arrays(linear.bias.grad for linear in linears),
            log_std_gradient=none if log_std is None else _arrays([log_std.grad])[0],
            outputs=tuple(np.empty((batch_size, linear.out_features), np.float32) for linear in linears),
            deltas=tuple(np.empty((batch_size, linear.out_features), np.float32) for linear in linears),
            utilities=tuple(self.hidden[k].utility.numpy() if k in self.hidden else none for k in range(len(linears) - 1)),
            tanh=isinstance(modules[1], nn.Tanh),
        )
        group = optimizer.param_groups[0]
        beta1, beta2 = group["betas"]

        def flat(tensors: Iterable[torch.Tensor | None]) -> tuple[Array, ...]:
            # One number of arrays for both networks, so that the same compiled code serves them.
            return (*(array.reshape(-1) for array in _arrays(tensors)), *([none] if log_std is None else []))

        self.adam = _Adam(
            parameters=flat(parameters),
            gradients=flat(parameter.grad for parameter in parameters),
            exp_avg=flat(state["exp_avg"] for state in self.states),
            exp_avg_sq=flat(state["exp_avg_sq"] for state in self.states),
            lr=float(group["lr"]),
            beta1=float(beta1),
            beta2=float(beta2),
            eps=float(group["eps"]),
            weight_decay=float(group["weight_decay"]),
            steps=float(self.states[0]["step"]),
        )

    def count(self, updates: int) -> None:
        """Counts Adam's steps."""
        for state in self.states:
            state["step"] += updates


# What a row of losses holds; the value network's has its loss in the first place.
_POLICY, _ENTROPY, _CLIPPED, _KL = range(4)


def _compiled(function: _Function) -> _Function:
    """Compiled by numba at its first call, kept on disk, and run without the interpreter's lock, so in two threads at once.

    An update of a network takes 30 operations and, in torch, as many turns at the lock: two threads gained little that way.
    """
    return cast("_Function", njit(nogil=True, cache=True, error_model="numpy")(function))


@_compiled
def _updates(
    first: int, last: int, samples: _Samples, settings: _Settings, layers: _Layers, adam: _Adam, losses: Losses
) -> None:
    """The updates of one network from ``first`` to before ``last``."""
    for t in range(first, last):
        _gradients(t, samples, settings, layers, losses[t])
        _adam_step(adam, adam.steps + t + 1)
        if settings.decay_rate >= 0:
            _average_utilities(samples.bounds[t + 1] - samples.bounds[t], layers, settings.decay_rate)


@_compiled
def _gradients(t: int, samples: _Samples, settings: _Settings, layers: _Layers, losses: Losses) -> None:
    """Forward and backward pass of minibatch ``t``."""
    start, stop = samples.bounds[t], samples.bounds[t + 1]
    x = samples.observations[start:stop]
    _pass_forward(x, layers)
    if len(layers.log_std):
        _policy_loss(start, stop, samples, settings, layers, losses)
    else:
        _value_loss(start, stop, samples, settings, layers, losses)
    _pass_backward(x, layers)


@_compiled
def _pass_forward(x: Array, layers: _Layers) -> None:
    """h_k = act(W_k h_(k−1) + b_k); the last layer has no activation."""
    last = len(layers.weights) - 1
    h = x
    for k in range(last + 1):
        out, bias = layers.outputs[k][: len(x)], layers.biases[k]
        np.dot(h, layers.weights[k].T, out)
        for i in range(out.shape[0]):
            for j in range(out.shape[1]):
                out[i, j] += bias[j]
        if k < last:
            if layers.tanh:
                _tanh(out)
            else:
                for i in range(out.shape[0]):
                    for j in range(out.shape[1]):
                        out[i, j] = max(out[i, j], np.float32(0))
        h = out


@_compiled
def _tanh(x: Array) -> None:
    """Tanh in place, by tanh z = e / (e + 2) with e = exp(2z) − 1.

    Made of sums and products alone, so that the compiler does 16 at a time: ten times as fast as a call for each. e comes from
    a Taylor series at z/16 and exp(2y) − 1 = (exp(y) − 1)·(exp(y) − 1 + 2), used five times.
    """
    rows, columns = x.shape
    one, two, bound = np.float32(1), np.float32(2), np.float32(9)  # tanh 9 is 1 in float32
    for i in range(rows):
        for j in range(columns):
            y = max(min(x[i, j], bound), -bound) * np.float32(1 / 16)
            e = one + y * np.float32(1 / 8)
            for n in (7, 6, 5, 4, 3, 2):
                e = one + y * np.float32(1 / n) * e
            e *= y
            for _ in range(5):
                e *= e + two
            x[i, j] = e / (e + two)


@_compiled
def _policy_loss(start: int, stop: int, samples: _Samples, settings: _Settings, layers: _Layers, losses: Losses) -> None:
    """The clipped surrogate loss with entropy bonus, and its gradients by the means and by log σ."""
    rows, dimensions = stop - start, len(layers.log_std)
    means, deltas = layers.outputs[-1], layers.deltas[-1]
    mean, scale = 0.0, 1.0
    if settings.normalize_advantage and rows > 1:
        advantages = samples.advantages[start:stop]
        mean = advantages.sum() / rows
        scale = math.sqrt(np.square(advantages - mean).sum() / (rows - 1)) + 1e-8
    precision, by_log_std = np.empty(dimensions), np.zeros(dimensions)
    normaliser = 0.0
    for j in range(dimensions):
        precision[j] = math.exp(-2.0 * layers.log_std[j])
        normaliser += layers.log_std[j] + 0.5 * math.log(2 * math.pi)
    for i in range(rows):
        squares = 0.0
        for j in range(dimensions):
            squares += (samples.actions[start + i, j] - means[i, j]) ** 2 * precision[j]
        log_ratio = -0.5 * squares - normaliser - samples.old_log_probs[start + i]
        ratio = math.exp(log_ratio)
        clipped = min(max(ratio, 1 - settings.clip_range), 1 + settings.clip_range)
        advantage = (samples.advantages[start + i] - mean) / scale
        losses[_POLICY] -= min(advantage * ratio, advantage * clipped) / rows
        losses[_CLIPPED] += (abs(ratio - 1) > settings.clip_range) / rows
        losses[_KL] += (ratio - 1 - log_ratio) / rows
        # Where the clipped product is the smaller one the loss does not depend on the policy.
        by_log_prob = 0.0
        if ratio == clipped or advantage * ratio < advantage * clipped:
            by_log_prob = -advantage * ratio / rows
        for j in range(dimensions):
            scaled = (samples.actions[start + i, j] - means[i, j]) * precision[j]
            deltas[i, j] = by_log_prob * scaled
            by_log_std[j] += by_log_prob * (scaled * scaled / precision[j] - 1)
    losses[_ENTROPY] = -(normaliser + 0.5 * dimensions)
    for j in range(dimensions):
        layers.log_std_gradient[j] = by_log_std[j] - settings.ent_coef


@_compiled
def _value_loss(start: int, stop: int, samples: _Samples, settings: _Settings, layers: _Layers, losses: Losses) -> None:
    """The mean squared error of the values, and its gradient."""
    rows = stop - start
    values, deltas = layers.outputs[-1], layers.deltas[-1]
    for i in range(rows):
        change = values[i, 0] - samples.old_values[start + i]
        clipped = min(max(change, -settings.clip_range_vf), settings.clip_range_vf)
        error = samples.old_values[start + i] + clipped - samples.returns[start + i]
        losses[0] += error**2 / rows
        deltas[i, 0] = settings.vf_coef * 2 * error / rows if clipped == change else 0.0


@_compiled
def _pass_backward(x: Array, layers: _Layers) -> None:
    """Gradients of weights and biases from the last layer's deltas: ∂W_k = δ_kᵀ h_(k−1), δ_(k−1) = δ_k W_k · act'."""
    for k in range(len(layers.weights) - 1, -1, -1):
        delta, bias_gradient = layers.deltas[k][: len(x)], layers.bias_gradients[k]
        h = layers.outputs[k - 1][: len(x)] if k else x
        np.dot(delta.T, h, layers.weight_gradients[k])
        bias_gradient[:] = 0
        for i in range(delta.shape[0]):
            for j in range(delta.shape[1]):
                bias_gradient[j] += delta[i, j]
        if k:
            below = layers.deltas[k - 1][: len(x)]
            np.dot(delta, layers.weights[k], below)
            for i in range(below.shape[0]):
                for j in range(below.shape[1]):
                    if layers.tanh:
                        below[i, j] *= np.float32(1) - h[i, j] * h[i, j]
                    else:
                        below[i, j] *= np.float32(h[i, j] > 0)


@_compiled
def _clip_gradients(of_actor: tuple[Array, ...], of_critic: tuple[Array, ...], max_norm: float) -> None:
    """Scales all gradients to a common norm of at most ``max_norm``, as torch's ``clip_grad_norm_``."""
    squares = 0.0
    for gradient in of_actor:
        squares += np.square(gradient).sum()
    for gradient in of_critic:
        squares += np.square(gradient).sum()
    factor = np.float32(max_norm / (math.sqrt(squares) + 1e-6))
    if factor < 1:
        for gradient in of_actor:
            gradient *= factor
        for gradient in of_critic:
            gradient *= factor


@_compiled
def _adam_step(adam: _Adam, step: float) -> None:
    """θ ← θ − lr · m̂ / (√v̂ + ε), with the weight decay λθ added to the gradient: torch's Adam in one pass."""
    step_size = np.float32(adam.lr / (1 - adam.beta1**step))
    root = np.float32(1 / math.sqrt(1 - adam.beta2**step))
    eps, decay = np.float32(adam.eps), np.float32(adam.weight_decay)
    keep1, keep2 = np.float32(1 - adam.beta1), np.float32(1 - adam.beta2)
    beta2 = np.float32(adam.beta2)
    for k in range(len(adam.parameters)):
        parameter, gradient, m, v = adam.parameters[k], adam.gradients[k], adam.exp_avg[k], adam.exp_avg_sq[k]
        for i in range(len(parameter)):
            g = gradient[i] + decay * parameter[i]
            m[i] += keep1 * (g - m[i])
            v[i] = beta2 * v[i] + keep2 * g * g
            parameter[i] -= step_size * m[i] / (np.sqrt(v[i]) * root + eps)


@_compiled
def _average_utilities(rows: int, layers: _Layers, decay_rate: float) -> None:
    """``ContinualBackprop(utility="contribution")`` while h is in the cache: u ← η·u + (1−η)·mean|h|·Σ_k|w_out,k|."""
    for k in range(len(layers.utilities)):
        utility, h, w_out = layers.utilities[k], layers.outputs[k], layers.weights[k + 1]
        activity, magnitude = np.zeros_like(utility), np.zeros_like(utility)
        for i in range(rows):
            for j in range(len(utility)):
                activity[j] += abs(h[i, j])
        for i in range(len(w_out)):
            for j in range(len(utility)):
                magnitude[j] += abs(w_out[i, j])
        share = np.float32((1 - decay_rate) / rows)
        for j in range(len(utility)):
            utility[j] = np.float32(decay_rate) * utility[j] + share * activity[j] * magnitude[j]
