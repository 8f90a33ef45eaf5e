"""Stable-Baselines3's SAC with faster updates: the same algorithm and draws, the same numbers up to float rounding.

:meth:`SAC.train` makes the updates, :meth:`SAC._sample_action` acts. :mod:`agents.sb3.sac_update` has the part of each thread
in an update. :mod:`agents.sb3.sac_arrays` prepares what the compiled mathematics of :mod:`agents.sb3.sac_kernels` works on.
``docs/performance.md`` has what each part takes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.sac.policies import SACPolicy

from agents.sb3.gradient_hook import gradient_hooks
from agents.sb3.meeting import Party, meet_in_parties
from agents.sb3.plastic import carried_by
from agents.sb3.sac_arrays import ActorArrays, CriticArrays, Networks
from agents.sb3.sac_kernels import add, draw, gather, step_adam
from agents.sb3.sac_support import acting_marks, acts_by_its_policy, marks, unsupported
from agents.sb3.sac_update import Losses, find_actors_gradients, find_critics_gradients, total
from agents.sb3.threads import one_thread_each, second_thread


class SAC(stable_baselines3.SAC):
    """Stable-Baselines3's ``SAC``, faster on a CPU. Constructor, callbacks, logger, ``save`` and ``load`` are the same.

    The fast path is for networks made of Linear layers with ReLU or Tanh (``MlpPolicy``, ``PlasticMlpPolicy``,
    ``CBPMlpPolicy``), trained by Adam in float32. Any other configuration takes Stable-Baselines3's own loop, with a warning
    that says why. Random numbers come from the same generators in the same order, and results equal those of
    Stable-Baselines3 up to float rounding. What either class saved, the other loads.

    Up to two threads train, never more than ``torch.get_num_threads()``; their number does not change the result. Environments
    are stepped as under Stable-Baselines3: those of :class:`agents.ThreadedVecEnv` by compiled code, one environment too.

    The critics' ``grad`` is that of their own loss; under Stable-Baselines3 the actor's loss adds to it after their step. With
    ``MlpPolicy`` networks stay in evaluation mode, as nothing in them has another.

    Attributes:
        slow_because: Why Stable-Baselines3's own loop was taken; None where it was not.

    Raises:
        ValueError: From ``learn``, where a loss is no longer a finite number.

    Example:
        >>> from agents import SAC
        >>> model = SAC("MlpPolicy", "Pendulum-v1", learning_starts=10, device="cpu").learn(20)
        >>> model.slow_because is None
        True
    """

    slow_because: str | None = None
    _marks: list[float] | None = None
    _networks: Networks | None = None

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Makes some updates, as in Stable-Baselines3."""
        if type(self.policy) is not SACPolicy:  # a plastic one looks at what is trained; layers of the fast path have no mode
            self.policy.set_training_mode(True)
        networks = self._look_up(batch_size)
        if networks is None or gradient_steps == 0:
            super().train(gradient_steps, batch_size)
            return
        optimizers = [self.actor.optimizer, self.critic.optimizer, self.ent_coef_optimizer]
        self._update_learning_rate([optimizer for optimizer in optimizers if optimizer is not None])
        with one_thread_each() as threads, torch.no_grad():
            pool = second_thread() if threads > 1 else None
            moves_targets = [step % self.target_update_interval == 0 for step in range(gradient_steps)]
            losses = [self._update(networks, pool, moves_targets=moves) for moves in moves_targets]
        self._n_updates += gradient_steps
        means = np.mean(losses, axis=0)
        if not np.isfinite(means).all():
            raise ValueError("a loss is not a finite number: check rewards, observations and the learning rate")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in zip(("ent_coef", "actor_loss", "critic_loss", "ent_coef_loss"), means, strict=True):
            if name != "ent_coef_loss" or networks.ent_coef is not None:
                self.logger.record(f"train/{name}", value)

    def _update(self, networks: Networks, pool: ThreadPoolExecutor | None, *, moves_targets: bool) -> tuple[float, ...]:
        """One update of all networks; returns the entropy coefficient and the losses of actor, critics and coefficient."""
        self._sample(networks)
        networks.actor.refresh()
        ent_coef = self._ent_coef(networks)
        of_critics, of_actor = self._learn(networks, ent_coef, self.tau if moves_targets else None, pool)
        self._step_actor(networks)
        return ent_coef, of_actor, of_critics, self._learn_ent_coef(networks)

    def _sample(self, networks: Networks) -> None:
        """Draws a minibatch, and the noise for its actions; a plain ``ReplayBuffer`` is read without tensors between."""
        buffer: Any = self.replay_buffer
        batch, stored = networks.batch, networks.stored
        rows = len(batch.rewards)
        if stored is None or self._vec_normalize_env is not None:
            batch.load(buffer.sample(rows, env=self._vec_normalize_env), self.gamma)
            return
        of_rows, of_environments = (np.random.randint(0, n, size=rows) for n in (buffer.size(), buffer.n_envs))  # noqa: NPY002
        gather(stored, of_rows, of_environments, networks.held_batch, self.gamma)
        batch.now.make_noise()
        batch.later.make_noise()

    def _ent_coef(self, networks: Networks) -> float:
        """The entropy coefficient as it is before an update, which is that of the update's losses."""
        if networks.ent_coef is None:
            return float(self.ent_coef_tensor)
        return float(np.exp(networks.ent_coef.parameters[0][0]))

    def _learn_ent_coef(self, networks: Networks) -> float:
        """Trains the entropy coefficient, where it is learned; returns its loss."""
        if networks.ent_coef is None or self.ent_coef_optimizer is None:
            return 0.0
        before = networks.ent_coef.parameters[0][0]
        gradient = -np.mean(networks.batch.now.log_probs + np.float32(self.target_entropy))
        networks.ent_coef.gradients[0][0] = gradient
        step_adam(*networks.ent_coef.next_step(self.ent_coef_optimizer))
        return float(before * gradient)

    def _learn(
        self, networks: Networks, ent_coef: float, tau: float | None, pool: ThreadPoolExecutor | None
    ) -> tuple[float, float]:
        """Trains the critics and computes the actor's gradients, on one or two threads; returns the losses of both."""
        optimizer = self.critic.optimizer
        is_carried, is_seen = bool(carried_by(self.policy, optimizer)), bool(gradient_hooks(optimizer))

        def take_part(party: Party) -> tuple[Losses, Losses]:
            of_critics = find_critics_gradients(party, networks, ent_coef)
            if is_carried or is_seen:
                party.let_one(lambda: self._before_update(optimizer))
            for critic in party.share(networks.critics):
                step_adam(*critic.trained.next_step(optimizer))
            if is_carried:
                party.let_one(lambda: self._after_update(optimizer, networks.critics))
            return of_critics, find_actors_gradients(party, networks, ent_coef, tau)

        of_critics, of_actor = zip(*meet_in_parties(take_part, pool), strict=True)
        return total(of_critics), total(of_actor)

    def _step_actor(self, networks: Networks) -> None:
        """Trains the actor by the gradients of both halves of the minibatch."""
        actor, optimizer = networks.actor, self.actor.optimizer
        add(*actor.gradients)
        self._before_update(optimizer)
        step_adam(*actor.trained.next_step(optimizer))
        self._after_update(optimizer, [actor])

    def _before_update(self, optimizer: torch.optim.Optimizer) -> None:
        """What methods and callbacks do with the gradients that are there."""
        for each in carried_by(self.policy, optimizer):
            each.before_update()
        for look in gradient_hooks(optimizer):
            look()

    def _after_update(self, optimizer: torch.optim.Optimizer, networks: Sequence[ActorArrays | CriticArrays]) -> None:
        """What methods do with networks that were trained, told what their units gave in the pass of this update."""
        carried = carried_by(self.policy, optimizer)
        for network in networks if carried else ():
            for k, layer in network.hidden.items():
                layer.receive(torch.from_numpy(network.layers.outputs[k]))
        for each in carried:
            each.after_update()

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The actions of a step, and as they are kept in the replay buffer."""
        is_ours = self.num_timesteps >= learning_starts and acts_by_its_policy(self)
        networks = self._look_up(self.batch_size, acting=True) if is_ours else None
        if networks is None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        drawn = networks.steps
        networks.actor.refresh()
        drawn.observe(self._last_obs)
        draw(*networks.acting)
        actions = drawn.judged[:, -networks.actor.dimensions :].reshape(-1, *self.action_space.shape)  # type: ignore[misc]
        scaled = self.policy.scale_action(self.policy.unscale_action(actions))
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _look_up(self, batch_size: int, *, acting: bool = False) -> Networks | None:
        """The networks' arrays, looked up anew where something has changed; None where there is no fast path."""
        now = [batch_size, *(acting_marks(self) if acting else marks(self))]
        if self._marks is None or now != (self._marks[: len(now)] if acting else self._marks):
            before, self.slow_because = self.slow_because, unsupported(self) or _about_rows(batch_size)
            self._networks = None if self.slow_because else Networks(self, batch_size)
            self._marks = [batch_size, *marks(self)]
            if self.slow_because and self.slow_because != before:
                warnings.warn(f"training takes Stable-Baselines3's own, slower loop: {self.slow_because}", stacklevel=4)
        return self._networks

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "slow_because", "_marks", "_networks"]

    def __getstate__(self) -> dict[str, Any]:
        """Without the arrays, which a copy looks up in its own networks."""
        return {name: value for name, value in vars(self).items() if name not in ("_marks", "_networks")}


def _about_rows(batch_size: int) -> str | None:
    return None if batch_size > 1 else "minibatches have one transition"
