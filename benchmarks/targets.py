"""What target networks should do when units are replaced: follow by themselves (drift), or receive them at once (copy).

``python benchmarks/targets.py`` trains DQN on CartPole (hard copies of the target) and SAC on Pendulum (averages) without
replacement, and goes on from there in three ways: without, and with the least useful unit of each layer replaced now and then,
targets drifting or copying. It prints over seeds how far the targets' Q is from the online networks' on states of the replay
buffer, in percent of Q's standard deviation, and the return at the end. Minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
import io
import math
import statistics
import warnings
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from torch import Tensor

import agents  # noqa: F401  (makes the policies known)
from agents.sb3.plastic import methods_of, replaced_units

WIDTH = 64
EVERY = 20  # updates from one replacement in a layer to the next
STATES, EPISODES = 256, 10
OFF_POLICY: dict[str, Any] = {"buffer_size": 20_000, "learning_starts": 500, "device": "cpu"}
# Algorithm, environment, settings, steps before, and steps with replacement: 1,000 updates.
SETTINGS: dict[str, tuple[Any, str, dict[str, Any], int, int]] = {
    "DQN": (
        DQN,
        "CartPole-v1",
        {"learning_rate": 1e-3, "target_update_interval": 500, "exploration_final_eps": 0.05},
        16_000,
        4_000,
    ),
    "SAC": (SAC, "Pendulum-v1", {"learning_rate": 1e-3}, 3_000, 1_000),
}
CHOICES = {"none": ("drift", 0.0), "drift": ("drift", 1.0), "copy": ("copy", 1.0)}


class Gap(BaseCallback):
    """Keeps |Q − Q̄| on fixed states, in standard deviations of Q, before each step."""

    def __init__(self) -> None:
        super().__init__()
        self.gaps: list[float] = []

    def _on_training_start(self) -> None:
        state = np.random.get_state()  # noqa: NPY002  (what SB3 draws from: the same draws with and without this)
        self.batch = self.model.replay_buffer.sample(STATES)  # type: ignore[attr-defined]
        np.random.set_state(state)  # noqa: NPY002

    @torch.no_grad()
    def _on_step(self) -> bool:
        online, target = both(self.model, self.batch)
        self.gaps.append(((online - target).abs().mean() / online.std()).item())
        return True


def both(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    """Q of the online and of the target networks."""
    policy = model.policy
    if isinstance(model, DQN):
        return policy.q_net(batch.observations), policy.q_net_target(batch.observations)
    judged = batch.observations, batch.actions
    return torch.cat(policy.critic(*judged)), torch.cat(policy.critic_target(*judged))


def trained(name: str, seed: int) -> tuple[Any, io.BytesIO]:
    """A model after training without replacement, and its file."""
    algorithm, env, settings, steps, _ = SETTINGS[name]
    method = {"replacement_rate": 0.0, "maturity_threshold": 100}
    kwargs = {"net_arch": [WIDTH, WIDTH], "method_kwargs": method}
    model = algorithm("CBPMlpPolicy", env, seed=seed, policy_kwargs=kwargs, **OFF_POLICY, **settings).learn(steps)
    file = io.BytesIO()
    model.save(file)
    return model, file


def went_on(name: str, base: Any, file: io.BytesIO, choice: str) -> tuple[float, float, int]:
    """The mean gap in percent, the return at the end, and the number of units replaced."""
    target_units, replaces = CHOICES[choice]
    kwargs = {**base.policy_kwargs, "target_units": target_units}
    file.seek(0)
    env = gymnasium.make(SETTINGS[name][1])
    model = type(base).load(file, env=env, device="cpu", custom_objects={"policy_kwargs": kwargs})
    model.replay_buffer = copy.deepcopy(base.replay_buffer)
    for method in methods_of(model.policy):
        method.replacement_rate = replaces / (EVERY * WIDTH)  # type: ignore[attr-defined]
    gap = Gap()
    model.learn(SETTINGS[name][4], gap, reset_num_timesteps=False)
    model.set_random_seed(0)
    returns = evaluate_policy(model, model.get_env(), EPISODES, warn=False, return_episode_rewards=True)[0]
    return 100 * statistics.mean(gap.gaps), float(np.mean(returns)), sum(replaced_units(model.policy).values())


def shown(values: list[float], digits: int) -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):,.{digits}f} ± {error:,.{digits}f}"


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each algorithm (default: 5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "no unit", UserWarning)
    print("| algorithm | units replaced | targets | distance of the targets, % of Q's spread | return |\n|---|---|---|---|---|")
    for name in SETTINGS:
        results: dict[str, list[tuple[float, float, int]]] = {choice: [] for choice in CHOICES}
        for seed in range(args.seeds):
            base, file = trained(name, seed)
            for choice, of_choice in results.items():
                of_choice.append(went_on(name, base, file, choice))
        for choice, of_choice in results.items():
            gaps, returns, replaced = (list(column) for column in zip(*of_choice, strict=True))
            what = "as ever" if choice == "none" else choice
            print(f"| {name} | {statistics.mean(replaced):.0f} | {what} | {shown(gaps, 1)} | {shown(returns, 0)} |", flush=True)


if __name__ == "__main__":
    main()
