"""An environment whose numbers do not depend on the agent, for tests that compare two training loops step by step."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv


class Tape(gymnasium.Env):
    """What it shows and pays does not depend on the actions; some episodes terminate, others are cut off."""

    observation_space = spaces.Box(-np.inf, np.inf, (2, 3), np.float64)
    action_space = spaces.Box(np.array([-1, -2, 0], np.float32), np.array([1, 3, 4], np.float32))

    def __init__(self, seed):
        self.numbers = np.random.default_rng(seed)

    def observe(self):
        return self.numbers.normal(size=(2, 3))

    def reset(self, *, seed=None, options=None):
        return self.observe(), {}

    def step(self, action):
        ends = self.numbers.random()
        return self.observe(), self.numbers.normal(), ends < 0.03, bool(ends > 0.95), {"ends": ends}


def tapes(n_envs=1):
    return DummyVecEnv([lambda i=i: Monitor(Tape(i)) for i in range(n_envs)])
