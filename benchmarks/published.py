"""The published code beside ours, with the same initial weights: does a run of the stationary Ant begin alike?

``python benchmarks/published.py CHECKOUT [--seeds 1,3] [--steps 40000]`` takes a checkout of
github.com/shibhansh/loss-of-plasticity and prints for each seed the mean return of a step, over stretches of the run, of its
PPO and of ``--method ppo --env ant-stationary --preset paper``. Its agent acts in Gymnasium's ``Ant-v4`` with the 84 zeros of
the old Ant behind each observation. Noise and order of the samples differ.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

from agents import train
from agents.runs.build import make_model, make_vec_env
from agents.runs.options import make_config
from agents.runs.plan import parse_seeds
from agents.sb3.networks import networks
from agents.sb3.ppo import PPO

ENDS = (2_048, 10_000, 20_000, 40_000, 70_000, 100_000)
INPUTS = 111


def ours(seed: int) -> PPO:
    """The command's model."""
    arguments = ["--env", "ant-stationary", "--preset", "paper", "--threads", "1"]
    config = make_config(train._parser().parse_args(arguments), "ppo", seed=seed)
    return make_model(config, make_vec_env(config))


def run_ours(model: PPO, steps: int) -> list[float]:
    """The reward of each step."""
    rewards: list[float] = []

    def keep(local: dict[str, Any], _: Any) -> bool:
        rewards.extend(local["rewards"].tolist())
        return True

    model.learn(steps, keep)
    return rewards[:steps]


def run_theirs(model: PPO, steps: int, seed: int) -> list[float]:
    """The same of the published code, from a model's initial weights."""
    from lop.algos.rl.agent import Agent
    from lop.algos.rl.buffer import Buffer
    from lop.algos.rl.ppo import PPO as Published  # noqa: N811
    from lop.nets.policies import MLPPolicy
    from lop.nets.valuefs import MLPVF

    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    policy = MLPPolicy(INPUTS, 8, act_type="ReLU", h_dim=[256, 256], init="lecun")
    value = MLPVF(INPUTS, act_type="ReLU", h_dim=[256, 256], init="lecun")
    for net, modules in zip((policy.mean_net, value.v_net), networks(model.policy).values(), strict=True):
        own = (module for module in modules if isinstance(module, nn.Linear))
        for layer, linear in zip((layer for layer in net if isinstance(layer, nn.Linear)), own, strict=True):
            with torch.no_grad():
                layer.weight[:, : linear.in_features] = linear.weight
                layer.bias[:] = linear.bias
    learner = Published(
        policy, Buffer(INPUTS, 8, 2048), 1e-4, g=0.99, vf=value, lm=0.95, Opt=torch.optim.Adam, n_itrs=10, n_slices=16
    )
    agent, env, rewards = Agent(policy, learner), gymnasium.make("Ant-v4"), []
    observation, _ = env.reset(seed=seed)
    for _ in range(steps):
        padded = np.concatenate([observation, np.zeros(INPUTS - len(observation))])
        action, log_prob, distribution, _ = agent.get_action(padded)
        observation, reward, terminated, truncated, _ = env.step(action)
        after = np.concatenate([observation, np.zeros(INPUTS - len(observation))])
        agent.log_update(padded, action, reward, after, log_prob, distribution, terminated or truncated)
        rewards.append(float(reward))
        if terminated or truncated:
            observation, _ = env.reset()
    return rewards


def main() -> None:
    """Runs both and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="of the published code")
    parser.add_argument("--seeds", default="1,3", help="of our runs (default: 1,3)")
    parser.add_argument("--steps", type=int, default=40_000, help="of a run (default: 40000)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(args.checkout))
    sys.modules["lop.envs"] = types.ModuleType("lop.envs")  # which needs the old gym
    ends = [0, *(end for end in ENDS if end < args.steps), args.steps]
    print(f"| seed | code | {' | '.join(f'to {end:,}' for end in ends[1:])} |\n|{'---|' * (len(ends) + 1)}")
    for seed in parse_seeds(args.seeds):
        model = ours(seed)
        for name, rewards in (("published", run_theirs(model, args.steps, seed)), ("ours", run_ours(model, args.steps))):
            cells = [f"{np.mean(rewards[first:last]):.2f}" for first, last in itertools.pairwise(ends)]
            print(f"| {seed} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
