"""What a changing world costs: the steps of Ant-v5 with and without ``envs.NonStationary``.

``python benchmarks/wrapper.py [--steps 200] [--turns 60]``, two minutes. All environments go through the same trajectory, since
the values are the Ant's own: the same seed, the same actions, the same bits. They take turns of so many steps on one thread;
the cost is the median over turns of the ratio within a turn. Changes are counted too: one every 1,000 steps, more than in any
run.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium
import numpy as np

import envs

SAME = {"name": "constant", "value": 1.0}
WRAPPED: dict[str, Any] = {
    "friction": {"parameter": "friction", "schedule": SAME},
    "friction, observed": {"parameter": "friction", "schedule": SAME, "observe": True},
    "friction and mass": {"parameter": {"friction": {"schedule": SAME}, "mass": {"schedule": SAME}}},
    "observation noise": {"parameter": "observation_noise", "schedule": {"name": "constant", "value": 0.0}},
    "action delay": {"parameter": "action_delay", "schedule": {"name": "constant", "value": 0.0}},
}


class Stepper:
    """One environment on its way."""

    def __init__(self, env: gymnasium.Env[Any, Any], steps: int) -> None:
        self._env = env
        self._actions = np.random.default_rng(0)
        self._steps = steps
        env.reset(seed=0)

    def turn(self) -> float:
        """Seconds for some steps."""
        actions = self._actions.uniform(-1, 1, (self._steps, 8))
        start = time.perf_counter()
        for action in actions:
            _, _, terminated, truncated, _ = self._env.step(action)
            if terminated or truncated:
                self._env.reset()
        return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=200, help="of a turn")
    parser.add_argument("--turns", type=int, default=60)
    args = parser.parse_args()
    steppers = {"": Stepper(gymnasium.make("Ant-v5"), args.steps)}
    for name, kwargs in WRAPPED.items():
        env = gymnasium.make("Ant-v5")
        steppers[name] = Stepper(envs.NonStationary(env, period=1_000, change_at="now", **kwargs), args.steps)
    seconds = np.array([[stepper.turn() for stepper in steppers.values()] for _ in range(args.turns + 1)])[1:]
    plain = seconds[:, 0]
    print(f"Ant-v5.step: {1e6 * np.median(plain) / args.steps:.0f} µs")
    print("| what changes | cost of a step (median) | quartiles |\n|---|---|---|")
    for column, name in enumerate(steppers):
        if name:
            low, middle, high = 100 * (np.percentile(seconds[:, column] / plain, [25, 50, 75]) - 1)
            print(f"| {name} | {middle:+.1f} % | {low:+.1f} … {high:+.1f} % |")


if __name__ == "__main__":
    main()
