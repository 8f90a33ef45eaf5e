"""Measures steps/s of SAC at one update a step: Stable-Baselines3's, ``agents.SAC`` with and without CBP, and SBX's.

``python benchmarks/off_policy.py [--env ID] [--repeats N] [--no-peers] [--output FILE.json]``. Networks of 256-256 ReLU units,
minibatches of 256, one environment, Stable-Baselines3's defaults. All contenders take turns of 100 steps, and ratios are taken
within a turn. Medians are printed with quartiles. Then comes what one update takes on one thread, part by part, beside the bare
matrix products. It fails if ``agents.SAC`` took Stable-Baselines3's own loop.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import peers
import stable_baselines3
import torch
from peers import SAC_STEPS
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from throughput import Processes, processor

import agents
from agents.sb3 import sac_kernels
from agents.sb3.threads import one_thread_each


def make(algorithm: type[stable_baselines3.SAC], vec_env: Any, policy: str = "MlpPolicy", **policy_kwargs: Any) -> Any:
    """A model that is warmed up. Units are mature from the start, so that they are replaced as in a long run."""
    model = algorithm(
        policy, vec_env, learning_starts=100, buffer_size=100_000, seed=0, device="cpu", policy_kwargs=policy_kwargs
    ).learn(300)
    if getattr(model, "slow_because", None):
        sys.exit(f"error: agents.SAC took Stable-Baselines3's own loop: {model.slow_because}")
    return model


def learning(model: Any) -> Callable[[], float]:
    """Measures steps/s of a model."""

    def measure() -> float:
        start = time.perf_counter()
        model.learn(SAC_STEPS, reset_num_timesteps=False)
        return SAC_STEPS / (time.perf_counter() - start)

    return measure


def operations(model: Any) -> float:
    """Floating-point operations of the matrix products in one update, those that nothing needs left out."""
    networks = model._networks
    rows, total = len(networks.batch.rewards), 0.0
    # Actor: s and s'. Critics: s with both actions, the targets' s'; a minibatch goes back through one critic to the actions.
    passes = [
        (networks.actor.layers, 2, 1.0),
        *[(critic.layers, 3, 1 + 1 / len(networks.critics)) for critic in networks.critics],
    ]
    for layers, forward, backward in passes:
        for k, weight in enumerate(layers.weights):
            total += 2 * rows * weight.size * (forward + 1 + (backward if k else 0))
    return total


def product_rate() -> float:
    """Operations/s of one product of 256×256 matrices on this thread."""
    x, w = torch.ones(256, 256), torch.ones(256, 256)
    taken = []
    for _ in range(200):
        start = time.thread_time()
        torch.mm(x, w)
        taken.append(time.thread_time() - start)
    return 2 * 256**3 / statistics.median(taken)


def stages(model: Any) -> dict[str, Callable[[], None]]:
    """The parts of one update."""
    networks = model._networks
    batch, actor, critics = networks.held_batch, networks.actor, networks.critics
    numbered = list(enumerate(critics))

    def each(function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> Callable[[], None]:
        def call() -> None:
            for own in arguments:
                function(*own)

        return call

    return {
        "actor, forward": each(sac_kernels.draw, networks.drawing),
        "critics and targets, forward": each(
            sac_kernels.look_ahead, [(k, batch, critic.held, critic.target) for k, critic in numbered]
        ),
        "critics, backward": each(sac_kernels.critic_gradients, [(batch, 0.1, critic.held) for critic in critics]),
        "critics, of the drawn actions": each(sac_kernels.judge_drawn, [(k, batch, critic.held) for k, critic in numbered]),
        "back to the actions": each(sac_kernels.pass_to_actions, [(k, batch, critic.held) for k, critic in numbered]),
        "actor, backward": each(
            sac_kernels.actor_gradients,
            [(rows.start, rows.stop, batch, 0.1, half) for rows, half in zip(actor.rows, actor.halves, strict=True)],
        ),
        "Adam": each(
            sac_kernels.step_adam,
            [
                actor.trained.next_step(model.actor.optimizer),
                *[critic.trained.next_step(model.critic.optimizer) for critic in critics],
            ],
        ),
        "targets follow": each(sac_kernels.follow, [(critic.followed, 0.005) for critic in critics]),
    }


def where_the_time_goes(ours: Any, theirs: Any, repeats: int = 200) -> dict[str, float]:
    """Milliseconds of one update on one thread, by its CPU clock: medians of calls in turns."""
    calls = {
        **stages(ours),
        "whole": lambda: ours.train(1, 256),
        "Stable-Baselines3's update": lambda: theirs.train(1, 256),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with one_thread_each():
        for _ in range(repeats):
            for name, call in calls.items():
                start = time.thread_time()
                call()
                taken[name].append(time.thread_time() - start)
        products = operations(ours) / product_rate()
    found = {name: 1000 * statistics.median(times) for name, times in taken.items()}
    found["Python, sampling and the rest"] = found["whole"] - sum(list(found.values())[:-2])
    found["bare matrix products"] = 1000 * products
    return {part: round(value, 2) for part, value in found.items()}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5", help="id of the environment (default: HalfCheetah-v5)")
    parser.add_argument("--repeats", type=int, default=31, help="turns (default: 31)")
    parser.add_argument("--no-peers", action="store_true", help="measure no other programs")
    parser.add_argument("--output", type=Path, help="also write the result to this JSON file")
    args = parser.parse_args()

    def monitored() -> gymnasium.Env[Any, Any]:
        return Monitor(gymnasium.make(args.env))

    theirs = make(stable_baselines3.SAC, DummyVecEnv([monitored]))
    ours = make(agents.SAC, agents.ThreadedVecEnv([monitored]))
    cbp = {"method_kwargs": {"maturity_threshold": 0}}
    contenders: dict[str, Callable[[], float]] = {
        "SB3 SAC": learning(theirs),
        "agents.SAC": learning(ours),
        "SB3 SAC + CBP": learning(make(stable_baselines3.SAC, DummyVecEnv([monitored]), "CBPMlpPolicy", **cbp)),
        "agents.SAC + CBP": learning(make(agents.SAC, agents.ThreadedVecEnv([monitored]), "CBPMlpPolicy", **cbp)),
    }
    os.environ["SAC_ENV"] = args.env
    others = (
        {} if args.no_peers else {name: Processes([peers.installed("sbx"), peers.__file__, name]) for name in peers.OFF_POLICY}
    )
    contenders |= {f"SBX SAC {process.answers[0]}": process.measure for process in others.values()}
    names = list(contenders)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(args.repeats):
        for name in names if turn % 2 == 0 else names[::-1]:
            rates[name].append(contenders[name]())
    for process in others.values():
        process.close()

    def ratio(numerator: str, denominator: str) -> dict[str, float]:
        quartiles = statistics.quantiles([a / b for a, b in zip(rates[numerator], rates[denominator], strict=True)], n=4)
        return dict(zip(("lower_quartile", "median", "upper_quartile"), (round(q, 2) for q in quartiles), strict=True))

    result = {
        "machine": {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "env": args.env,
        "repeats": args.repeats,
        "steps_per_second": {name: round(statistics.median(measured)) for name, measured in rates.items()},
        "ratios": {
            **{f"agents.SAC / {name}": ratio("agents.SAC", name) for name in names if name not in ("agents.SAC", names[3])},
            "agents.SAC + CBP / SB3 SAC + CBP": ratio(names[3], names[2]),
            "agents.SAC with CBP / without": ratio(names[3], names[1]),
        },
        "milliseconds_of_an_update_on_one_thread": where_the_time_goes(ours, theirs),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
