"""Stable-Baselines3's SAC, as it is, on a HalfCheetah whose legs grow weaker and stronger.

``python examples/sac_half_cheetah.py``
"""

from __future__ import annotations

import argparse

import gymnasium
from stable_baselines3 import SAC

import envs
from agents.callbacks import PhaseCallback


def main() -> None:
    """Trains, and prints the return of each phase."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--period", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    env = envs.NonStationary(
        gymnasium.make("HalfCheetah-v5"), parameter="strength", low=0.3, high=1.0, period=args.period, seed=args.seed
    )
    model = SAC("MlpPolicy", env, seed=args.seed)
    phases = PhaseCallback("strength")  # rewards by phase; SAC needs nothing of this package
    model.learn(args.steps, callback=phases)
    for number, phase in phases.phases.items():
        value = phase.values["strength"]
        print(f"phase {number}: strength {value:.2f}, {len(phase.returns)} episodes, mean return {phase.mean_return}")


if __name__ == "__main__":
    main()
