"""Stable-Baselines3's PPO with a faster loop: the same algorithm and draws, the same numbers up to float rounding.

Follows one rollout from top to bottom: :meth:`PPO.collect_rollouts` steps the environments, :meth:`PPO.train` makes the
updates. :mod:`agents.sb3.arrays` prepares what the compiled mathematics of :mod:`agents.sb3.kernels` works on. The reason for
each trick stands beside it, with figures of two cores and the paper's network and batch sizes (``docs/performance.md``).
"""

from __future__ import annotations

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeGuard

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv

import cbp
from agents.sb3.acting import Acting
from agents.sb3.arrays import Forward, Losses, NetworkArrays, Samples, Settings
from agents.sb3.buffers import compute_advantages
from agents.sb3.kernels import (
    CLIPPED,
    ENTROPY,
    KL,
    POLICY,
    adam_step,
    average_utilities,
    clip_gradients,
    clip_own_gradients,
    compute_gradients,
    make_updates,
)
from agents.sb3.native import NativeEnvs, Steps, act_all
from agents.sb3.networks import networks
from agents.sb3.rollout import CompiledRollout, natives_of, sees_every_step, simulates
from agents.sb3.support import unsupported
from agents.sb3.threads import one_thread_each

CutOff = list[tuple[int, int, Any]]
"""Step, environment and last observation of episodes that hit a time limit."""


class PPO(stable_baselines3.PPO):
    """Stable-Baselines3's ``PPO``, faster on a CPU. Constructor, callbacks, logger, ``save`` and ``load`` are the same.

    The fast path is for Gaussian policies made of Linear layers with ReLU or Tanh, with or without LayerNorm (``MlpPolicy``,
    ``PlasticMlpPolicy``, ``CBPMlpPolicy``), trained by Adam in float32. Any other configuration takes Stable-Baselines3's own
    loop, with a warning that says why. Random numbers come from the same generators in the same order, and results equal those
    of Stable-Baselines3 up to float rounding. What either class saved, the other loads, but for ``clip_each_network``, which is
    unknown there: Stable-Baselines3's clips both gradients to one norm.

    Differences to know of:

    - Rollouts of the environments that :mod:`envs.native` knows run in compiled code, physics and policy together, on
      ``torch.get_num_threads()`` threads, unless a callback has to see every step: any that does not say
      ``every_step = False``. Callbacks that say so are called after the rollout, for the steps in which something happened.
      What is learned is the same to the bit.
    - Where environments are stepped together, what a callback changes of the policy in ``_on_step`` acts from the next step on.
      Two changes act from the next rollout on: weights other than σ that are written through ``.data``, and, with a warning,
      whatever has no fast path.
    - Callbacks find no ``values``, ``log_probs`` and ``obs_tensor`` in ``self.locals``: the first two are computed for the
      whole rollout at once, before ``on_rollout_end``.
    - Up to two threads train, never more than ``torch.get_num_threads()``: ``torch.set_num_threads(1)`` or the environment
      variable ``OMP_NUM_THREADS=1`` keep a run on one core. The number of threads does not change the result.
    - The networks are trained side by side. Where something couples them they meet in each update: the clipping of both
      gradients to one norm (``max_grad_norm``, without ``clip_each_network=True``), ``target_kl``, or a method other than
      continual backpropagation with ``utility="contribution"``.

    Args:
        *args: Those of Stable-Baselines3's ``PPO``.
        clip_each_network: Whether ``max_grad_norm`` bounds the gradient of each network by itself, as in rsl_rl, rather than
            that of both together.
        **kwargs: Those of Stable-Baselines3's ``PPO``.

    Attributes:
        slow_because: Why Stable-Baselines3's own loop was taken; None where it was not.
        stepped_in_python_because: Why the environments are not of those that compiled code steps; None where they are.

    Raises:
        ValueError: From ``learn``, where a loss is no longer a finite number, or where ``clip_each_network`` meets a
            configuration that has no fast path.

    Example:
        >>> import math
        >>> from agents import PPO
        >>> model = PPO("MlpPolicy", "Pendulum-v1", n_steps=128, max_grad_norm=math.inf, device="cpu").learn(256)
        >>> model.slow_because is None
        True
    """

    slow_because: str | None = None
    stepped_in_python_because: str | None = None
    clip_each_network: bool = False

    def __init__(self, *args: Any, clip_each_network: bool = False, **kwargs: Any) -> None:
        self.clip_each_network = clip_each_network
        super().__init__(*args, **kwargs)

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
        if self._is_slow():
            return self._go_on_slowly(env, callback, rollout_buffer, n_rollout_steps)
        acting = Acting(self.policy)
        steps = Steps.of(rollout_buffer, n_rollout_steps)
        natives = self._natives(env)
        with one_thread_each() as threads:
            if natives is None or sees_every_step(callback):
                critic = self._step_through(env, callback, rollout_buffer, acting, steps)
            else:
                rollout = CompiledRollout(natives, self._last_obs, acting.actor, steps, threads)
                critic = self._run_through(env, callback, rollout_buffer, acting, rollout)
            if critic is None:
                return False
            self._complete(rollout_buffer, critic)
        n_steps, new_obs, dones = n_rollout_steps, self._last_obs, self._last_episode_starts
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _go_on_slowly(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
        """Collects a rollout by Stable-Baselines3's own loop, where callbacks know that it begins."""
        before = vars(callback).get("on_rollout_start")
        callback.on_rollout_start = lambda: None  # type: ignore[method-assign]
        try:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        finally:
            del callback.on_rollout_start
            if before is not None:
                callback.on_rollout_start = before  # type: ignore[method-assign]

    def _complete(self, rollout_buffer: RolloutBuffer, critic: Forward) -> None:
        """Completes a rollout that was judged: its advantages."""
        rollout_buffer.full = True
        dones = self._last_episode_starts
        assert dones is not None  # noqa: S101
        last_values = torch.from_numpy(critic(self._last_obs))
        if type(rollout_buffer).compute_returns_and_advantage is RolloutBuffer.compute_returns_and_advantage:
            compute_advantages(rollout_buffer, last_values, dones)
        else:
            rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)

    def _step_through(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, acting: Acting, steps: Steps
    ) -> Forward | None:
        """Steps all environments together, calls the callbacks at each step, and judges the steps.

        Returns:
            The critic as it is at the end; None where a callback stops training.
        """
        cut_off: CutOff = []
        begun = 0  # the step from which on this policy acts
        clipped = np.empty_like(steps.actions[0])
        for n_steps in range(len(steps.rewards)):
            steps.observations[n_steps] = self._last_obs.reshape(steps.observations[n_steps].shape)  # type: ignore[union-attr]
            torch.from_numpy(steps.noise[n_steps]).normal_()
            if not act_all(n_steps, acting.actor, steps, clipped):
                raise ValueError(
                    f"the policy's actions are not numbers, nan in {steps.means[n_steps]}: check observations and weights"
                )
            actions = steps.actions[n_steps].reshape(-1, *self.action_space.shape)  # type: ignore[misc]
            clipped_actions = clipped.reshape(actions.shape).copy()
            if self.action_space.dtype != np.float32:  # whose limits lie between numbers in float32
                clipped_actions = np.clip(actions, self.action_space.low, self.action_space.high)  # type: ignore[attr-defined]

            new_obs, rewards, dones, infos = env.step(clipped_actions)

            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return None
            if acting.is_other(self.policy):
                acting.judge(rollout_buffer, steps, slice(begun, n_steps + 1))
                acting.bootstrap(rollout_buffer, cut_off, self.gamma)
                acting, begun, cut_off = self._acting_now(acting), n_steps + 1, []
            self._note(n_steps, infos, dones, cut_off)
            rollout_buffer.actions[n_steps] = steps.actions[n_steps].reshape(rollout_buffer.actions[n_steps].shape)
            rollout_buffer.rewards[n_steps] = rewards
            rollout_buffer.episode_starts[n_steps] = self._last_episode_starts
            rollout_buffer.pos = n_steps + 1
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones
        acting.judge(rollout_buffer, steps, slice(begun, None))
        acting.bootstrap(rollout_buffer, cut_off, self.gamma)
        return acting.critic

    def _acting_now(self, before: Acting) -> Acting:
        """What acts where a callback has changed the policy within a rollout."""
        reason = unsupported(self)
        if reason is None:
            return Acting(self.policy)
        warnings.warn(
            f"a change of the policy by a callback acts from the next rollout on, not at once: {reason}", stacklevel=5
        )
        return before

    def _run_through(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, acting: Acting, rollout: CompiledRollout
    ) -> Forward | None:
        """Runs the rollout in compiled code and tells the callbacks what happened; returns what :meth:`_step_through` does."""
        cut_off: CutOff = []
        before, steps = self.num_timesteps, rollout.steps
        for t in range(len(steps.noise)):  # as many numbers at once as under SB3, or they would be other ones
            torch.from_numpy(steps.noise[t]).normal_()
        rollout.run()
        happened = rollout.dones
        rollout_buffer.actions[:] = steps.actions.reshape(rollout_buffer.actions.shape)
        rollout_buffer.rewards[:] = steps.rewards
        rollout_buffer.episode_starts[0] = self._last_episode_starts
        rollout_buffer.episode_starts[1:] = happened[:-1]
        rollout_buffer.pos = len(happened)
        self._last_obs, self._last_episode_starts = rollout.observations, happened[-1]
        for n_steps, infos, dones, rewards in rollout.events():  # noqa: B007  callbacks find them in their locals
            self.num_timesteps = before + (n_steps + 1) * env.num_envs
            actions = steps.actions[n_steps]
            callback.update_locals(locals())
            if not callback.on_step():
                self.num_timesteps = before + happened.size
                return None
            self._note(n_steps, infos, dones, cut_off)
        acting.judge(rollout_buffer, steps, slice(None))
        acting.bootstrap(rollout_buffer, cut_off, self.gamma)
        return acting.critic

    def _note(self, n_steps: int, infos: list[dict[str, Any]], dones: np.ndarray, cut_off: CutOff) -> None:
        """Keeps the statistics of a step's episodes, and where a time limit cut one off."""
        self._update_info_buffer(infos, dones)
        if dones.any():
            ends = [(i, infos[i].get("terminal_observation")) for i in np.flatnonzero(dones).tolist()]
            cut_off += [(n_steps, i, o) for i, o in ends if o is not None and infos[i].get("TimeLimit.truncated")]

    def train(self) -> None:
        """Makes the updates of one rollout, as in Stable-Baselines3."""
        if self._is_slow():
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        method = getattr(self.policy, "method", None)
        progress = self._current_progress_remaining
        settings = Settings(
            clip_range=float(self.clip_range(progress)),  # type: ignore[operator]
            clip_range_vf=math.inf if self.clip_range_vf is None else float(self.clip_range_vf(progress)),  # type: ignore[operator]
            ent_coef=float(self.ent_coef),
            vf_coef=float(self.vf_coef),
            normalize_advantage=bool(self.normalize_advantage),
            max_grad_norm=float(self.max_grad_norm) if self.clip_each_network else math.inf,
            decay_rate=method.decay_rate if _is_compiled(method) else -1.0,
        )
        clipped_together = math.isfinite(self.max_grad_norm) and not self.clip_each_network
        acts_alone = method is None or _is_compiled(method)
        coupled = clipped_together or self.target_kl is not None or not acts_alone
        with one_thread_each() as threads, torch.no_grad():
            actor, critic = (
                NetworkArrays(modules, log_std, self.policy.optimizer, self.batch_size, method)
                for modules, log_std in zip(networks(self.policy).values(), (self.policy.log_std, None), strict=True)
            )
            if coupled:
                losses, of_last_epoch = self._train_together(actor, critic, method, settings, threads)
            else:
                losses, of_last_epoch = self._train_apart(actor, critic, method, settings, threads)
        if not np.isfinite(losses).all():
            raise ValueError("a loss is not a finite number: check rewards, observations and the learning rate")
        self._log(losses[0], losses[1, :, 0], of_last_epoch, settings)

    def _train_apart(
        self,
        actor: NetworkArrays,
        critic: NetworkArrays,
        method: cbp.ContinualBackprop | None,
        settings: Settings,
        threads: int,
    ) -> tuple[Losses, int]:
        """Trains each network by itself, side by side where there are two cores.

        Returns:
            The losses of each network and update, ``(2, updates, 4)``, and how many updates the last epoch had.
        """
        samples = Samples.of(self.rollout_buffer, self.batch_size, self.n_epochs)
        updates = len(samples.bounds) - 1
        losses = np.zeros((2, updates, 4))

        @torch.no_grad()  # which torch has for each thread
        def train(network: NetworkArrays, losses: Losses) -> None:
            # When units are due is known before their utilities are, so that the compiled loop runs on until then.
            tracked = _maturing(network)
            due = [method.pass_updates(layer, updates) for layer in tracked] if method else []
            done = 0
            while done < updates:
                until = min((at for at, _ in due), default=updates)
                make_updates(done, until, samples, settings, network.layers, network.adam, losses)
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
        self, actor: NetworkArrays, critic: NetworkArrays, method: cbp.Method | None, settings: Settings, threads: int
    ) -> tuple[Losses, int]:
        """Trains both networks side by side, but so that they meet in each update; returns what :meth:`_train_apart` does."""
        losses: list[Losses] = []
        with ThreadPoolExecutor(1) as pool:
            for epoch in range(self.n_epochs):
                samples = Samples.of(self.rollout_buffer, self.batch_size, epochs=1)
                self._n_updates += 1
                for t in range(len(samples.bounds) - 1):
                    losses.append(np.zeros((2, 4)))
                    of_both = [
                        (t, samples, settings, network.layers, of_network)
                        for network, of_network in zip((actor, critic), losses[-1], strict=True)
                    ]
                    other = pool.submit(compute_gradients, *of_both[1]) if threads > 1 else None
                    compute_gradients(*of_both[0])
                    if other is None:
                        compute_gradients(*of_both[1])
                    else:
                        other.result()
                    divergence = losses[-1][0, KL]
                    if self.target_kl is not None and divergence > 1.5 * self.target_kl:
                        if self.verbose >= 1:
                            print(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
                        return np.stack(losses, axis=1), t + 1
                    self._clip(actor, critic)
                    if method:
                        method.before_update()
                    for network in (actor, critic):
                        network.count(1)
                        adam_step(network.adam, float(network.states[0]["step"]))
                    if method:
                        _act(method, (actor, critic), samples.bounds[t + 1] - samples.bounds[t])
        return np.stack(losses, axis=1), t + 1

    def _clip(self, actor: NetworkArrays, critic: NetworkArrays) -> None:
        if self.clip_each_network:
            for network in (actor, critic):
                clip_own_gradients(network.adam.gradients, self.max_grad_norm)
        else:
            clip_gradients(actor.adam.gradients, critic.adam.gradients, self.max_grad_norm)

    def _log(self, of_policy: Losses, of_value: Losses, of_last_epoch: int, settings: Settings) -> None:
        record, values, returns = self.logger.record, self.rollout_buffer.values, self.rollout_buffer.returns
        record("train/entropy_loss", of_policy[:, ENTROPY].mean())
        record("train/policy_gradient_loss", of_policy[:, POLICY].mean())
        record("train/value_loss", of_value.mean())
        record("train/approx_kl", of_policy[-of_last_epoch:, KL].mean())
        record("train/clip_fraction", of_policy[:, CLIPPED].mean())
        last = of_policy[-1, POLICY] + self.ent_coef * of_policy[-1, ENTROPY] + self.vf_coef * of_value[-1]
        record("train/loss", last)
        record("train/explained_variance", explained_variance(values.flatten(), returns.flatten()))
        record("train/std", self.policy.log_std.exp().mean().item())
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", settings.clip_range)
        if self.clip_range_vf is not None:
            record("train/clip_range_vf", settings.clip_range_vf)

    def _natives(self, env: VecEnv) -> NativeEnvs | None:
        natives = natives_of(env)
        before, self.stepped_in_python_because = self.stepped_in_python_because, natives if isinstance(natives, str) else None
        if self.stepped_in_python_because not in (None, before) and simulates(env):
            warnings.warn(f"environments are stepped in Python, which is slower: {natives}", stacklevel=4)
        return None if isinstance(natives, str) else natives

    def _is_slow(self) -> bool:
        before, self.slow_because = self.slow_because, unsupported(self)
        if self.slow_because and self.clip_each_network and math.isfinite(self.max_grad_norm):
            raise ValueError(f"clip_each_network needs the fast path: {self.slow_because}")
        if self.slow_because and self.slow_because != before:
            warnings.warn(f"training takes Stable-Baselines3's own, slower loop: {self.slow_because}", stacklevel=4)
        return self.slow_because is not None

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "slow_because", "stepped_in_python_because"]


def _is_compiled(method: cbp.Method | None) -> TypeGuard[cbp.ContinualBackprop]:
    """Whether the method's utilities are averaged by compiled code."""
    return type(method) is cbp.ContinualBackprop and method.utility == "contribution"


def _maturing(network: NetworkArrays) -> list[cbp.MaturingLayer]:
    return [layer for layer in network.hidden.values() if isinstance(layer, cbp.MaturingLayer)]


def _act(method: cbp.Method, of_both: tuple[NetworkArrays, NetworkArrays], rows: int) -> None:
    """What a method does after an update of both networks by a minibatch of so many rows."""
    if not _is_compiled(method):
        for network in of_both:
            for k, layer in network.hidden.items():
                layer.receive(torch.from_numpy(network.layers.outputs[k][:rows]))
        method.step()
        return
    for network in of_both:
        average_utilities(rows, network.layers, method.decay_rate)
        for layer in _maturing(network):
            _, due = method.pass_updates(layer, 1)
            if due:
                method.replace_least_useful(layer, due)
