from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.sb3.buffers import NormalizedRolloutBuffer


def test_advantages_are_normalised_over_the_rollout_and_returns_are_not():
    box = spaces.Box(-1, 1, (1,), np.float32)
    buffer = NormalizedRolloutBuffer(3, box, box, gamma=0.5, gae_lambda=0.5, n_envs=1)
    # Rewards 1, 2, 3; values 1, 0, 2; an episode begins at the third step; the value after the last step is 4.
    for reward, value, start in ((1.0, 1.0, 1.0), (2.0, 0.0, 0.0), (3.0, 2.0, 1.0)):
        step = [np.zeros((1, 1))] * 2 + [np.array([reward]), np.array([start]), torch.tensor([value]), torch.zeros(1)]
        buffer.add(*step)
    buffer.compute_returns_and_advantage(torch.tensor([4.0]), np.array([False]))
    # δ = r + γ·V' − V, cut where an episode begins:  δ₂ = 3 + 0.5·4 − 2 = 3;  δ₁ = 2 − 0 = 2;  δ₀ = 1 + 0.5·0 − 1 = 0.
    # A₂ = 3;  A₁ = 2 (cut);  A₀ = 0 + 0.25·2 = 0.5.  Returns A + V: 1.5, 2, 5.
    assert buffer.returns.flatten().tolist() == pytest.approx([1.5, 2.0, 5.0])
    # Mean 5.5/3 = 1.8333; deviations −1.3333, 0.1667, 1.1667; squares sum to 1.7778 + 0.0278 + 1.3611 = 3.1667;
    # unbiased standard deviation √(3.1667/2) = 1.2583.
    assert buffer.advantages.flatten().tolist() == pytest.approx([-1.0596, 0.1325, 0.9272], abs=1e-4)
