"""Rollout storage."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer


class NormalizedRolloutBuffer(RolloutBuffer):
    """SB3's rollout buffer with advantages normalised over the whole rollout, as in the paper's PPO.

    SB3's ``normalize_advantage=True`` normalises each minibatch by itself; use this buffer with ``normalize_advantage=False``.
    Returns, the targets of the value network, stay as they are. The standard deviation is the unbiased one, as in SB3.
    """

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """As in SB3; afterwards advantages have mean 0 and standard deviation 1 over steps and environments."""
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages = (self.advantages - self.advantages.mean()) / (self.advantages.std(ddof=1) + 1e-8)
