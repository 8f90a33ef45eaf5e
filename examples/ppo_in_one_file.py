"""A training loop of one's own, in one file: PPO in plain PyTorch on a world that changes.

``python examples/ppo_in_one_file.py``; curves: ``tensorboard --logdir runs/ppo_in_one_file``.
"""

from __future__ import annotations

import argparse
from functools import partial

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Normal
from torch.utils.tensorboard import SummaryWriter

import cbp
import envs

N_ENVS, N_STEPS, EPOCHS, MINIBATCHES = 4, 128, 4, 4
GAMMA, LAMBDA, CLIP = 0.99, 0.95, 0.2


def make_env(period: int, seed: int) -> gymnasium.Env:
    """A HalfCheetah on a ground that changes little by little."""
    env = gymnasium.make("HalfCheetah-v5")
    # Every environment has the same seed here, so that all go through the same values.
    env = envs.NonStationary(env, schedule="random_walk", low=0.1, high=1.0, period=period, seed=seed)
    return gymnasium.wrappers.RecordEpisodeStatistics(env)


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs))


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--period", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-dir", default="runs/ppo_in_one_file")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    writer = SummaryWriter(args.log_dir)
    vector = SyncVectorEnv(
        [partial(make_env, args.period // N_ENVS, args.seed)] * N_ENVS, autoreset_mode=AutoresetMode.SAME_STEP
    )
    size, actions = vector.single_observation_space.shape[0], vector.single_action_space.shape[0]
    actor, critic, log_std = network(size, actions), network(size, 1), nn.Parameter(torch.zeros(actions))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters(), log_std], lr=3e-4)
    methods = [cbp.ContinualBackprop(each, optimizer, maturity_threshold=1_000, seed=args.seed) for each in (actor, critic)]

    observation = torch.as_tensor(vector.reset(seed=args.seed)[0], dtype=torch.float32)
    for step in range(0, args.steps, N_ENVS * N_STEPS):
        rollout: list[tuple[Tensor, ...]] = []
        for _ in range(N_STEPS):
            with torch.no_grad():
                policy = Normal(actor(observation), log_std.exp())
                action = policy.sample()
                log_prob, value = policy.log_prob(action).sum(-1), critic(observation)[:, 0]
            following, reward, terminated, truncated, infos = vector.step(np.clip(action.numpy(), -1, 1))
            done = torch.as_tensor(terminated | truncated, dtype=torch.float32)
            rollout.append((observation, action, log_prob, value, torch.as_tensor(reward, dtype=torch.float32), done))
            observation = torch.as_tensor(following, dtype=torch.float32)
            if "final_info" in infos:
                returns = infos["final_info"]["episode"]["r"][infos["_final_info"]]
                writer.add_scalar("charts/episodic_return", returns.mean(), step)
        writer.add_scalar("env/friction", infos["friction"][0], step)

        observations, taken, log_probs, values, rewards, dones = (torch.stack(column) for column in zip(*rollout, strict=True))
        with torch.no_grad():
            following_value = critic(observation)[:, 0]
        advantages = torch.zeros_like(rewards)
        advantage = torch.zeros(N_ENVS)
        for t in reversed(range(N_STEPS)):
            # TD error: r_t + γ·V(s_{t+1}) − V(s_t)
            error = rewards[t] + GAMMA * following_value * (1 - dones[t]) - values[t]
            advantage = error + GAMMA * LAMBDA * (1 - dones[t]) * advantage
            advantages[t], following_value = advantage, values[t]
        targets = (advantages + values).flatten()
        advantages = ((advantages - advantages.mean()) / (advantages.std() + 1e-8)).flatten()
        observations, taken, log_probs = observations.flatten(0, 1), taken.flatten(0, 1), log_probs.flatten()

        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(targets)).chunk(MINIBATCHES):
                new = Normal(actor(observations[chosen]), log_std.exp()).log_prob(taken[chosen]).sum(-1)
                ratio = (new - log_probs[chosen]).exp()
                gain = torch.min(ratio * advantages[chosen], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[chosen])
                loss = (critic(observations[chosen])[:, 0] - targets[chosen]).square().mean() - gain.mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for method in methods:
                    method.step()
        writer.add_scalar("cbp/replaced", sum(layer.replaced for method in methods for layer in method.layers), step)
    writer.close()
    vector.close()


if __name__ == "__main__":
    main()
