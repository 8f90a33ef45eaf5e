"""What acts and judges in a rollout of :class:`agents.sb3.ppo.PPO`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.sb3.arrays import Forward
from agents.sb3.native import Policy, Steps
from agents.sb3.networks import networks
from agents.sb3.support import all_modules_have_hooks, marks_of


class Acting:
    """A policy as it is when this is made, its weights copied.

    Attributes:
        actor: What acts, as compiled code has it.
        critic: Gives the values of observations.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        modules = networks(policy)
        self._policy = policy
        self._parameters = list(policy.parameters())
        self._std = policy.log_std.detach().exp().numpy()
        self.actor = Policy.of(modules["policy/"], self._std, policy.action_space)  # type: ignore[arg-type]
        self.critic = Forward(modules["value/"])
        self._marks = self._look()

    def _look(self) -> list[float]:
        versions = [parameter._version for parameter in self._parameters]
        others = id(self._policy.action_dist), all_modules_have_hooks()
        return [*others, *marks_of(self._policy), *versions, *self._policy.log_std.tolist()]

    def is_other(self, policy: ActorCriticPolicy) -> bool:
        """Whether a policy is another than at the last look.

        Of weights that were written into past torch, as through ``.data``, those of log σ alone are seen.
        """
        if policy is not self._policy:
            return True
        before, self._marks = self._marks, self._look()
        return before != self._marks

    def judge(self, buffer: RolloutBuffer, steps: Steps, which: slice) -> None:
        """Gives a buffer the values and log-probabilities of some steps, each in one pass."""
        values, observations = buffer.values[which], buffer.observations[which]
        values[:] = self.critic(observations.reshape(-1, *buffer.obs_shape)).reshape(values.shape)
        distribution = torch.distributions.Normal(torch.from_numpy(steps.means[which]), torch.from_numpy(self._std))
        log_probs = distribution.log_prob(torch.from_numpy(steps.actions[which]))  # type: ignore[no-untyped-call]
        buffer.log_probs[which] = log_probs.sum(dim=2).numpy()

    def bootstrap(self, buffer: RolloutBuffer, cut_off: Sequence[tuple[int, int, Any]], gamma: float) -> None:
        """Adds to the rewards where an episode would have gone on: r + γ·V(its last observation).

        Args:
            buffer: Has the rewards.
            cut_off: Step, environment and last observation.
            gamma: γ.
        """
        if cut_off:
            of_cut_off = self.critic(np.stack([observation for _, _, observation in cut_off]))
            for (step, i, _), value in zip(cut_off, of_cut_off, strict=True):
                buffer.rewards[step, i] += gamma * value[0]
