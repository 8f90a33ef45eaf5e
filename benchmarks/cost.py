"""Measures what continual backpropagation costs in the updates of Stable-Baselines3's own ``PPO``, or of ``agents.PPO``.

``python benchmarks/cost.py [--fast] [--repeats N] [--output FILE.json]``. The updates of a rollout with and without it
alternate within one process, and ratios are taken pair by pair, so that a machine whose speed drifts does not favour one; the
median is printed, with the quartiles. Ratios are of processor time on one thread, which other processes disturb less than
wall-clock time. Network and batch sizes are the paper's: two hidden layers of 256 units, minibatches of 128 samples; gradients
are clipped as by default. What CBP costs of the whole training is in ``throughput.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from stable_baselines3 import PPO
from torch import nn

import agents
import envs  # noqa: F401  makes ant-nonstationary-v0 known

ROLLOUT = 2048
UPDATES = 160  # of a rollout: 10 epochs of minibatches of 128


def make(algorithm: type[PPO], policy: str, **method_kwargs: float) -> PPO:
    """With stock Adam, as in ``PPO("MlpPolicy", env)`` but for the paper's network and batch sizes."""
    policy_kwargs: dict[str, object] = {"net_arch": [256, 256], "activation_fn": nn.ReLU}
    if method_kwargs:
        policy_kwargs["method_kwargs"] = method_kwargs
    model = algorithm(
        policy, "ant-nonstationary-v0", n_steps=ROLLOUT, batch_size=128, policy_kwargs=policy_kwargs, device="cpu"
    )
    return model.learn(ROLLOUT)


def cpu_seconds(model: PPO) -> float:
    """Processor time of the updates of one rollout."""
    start = time.process_time()
    model.train()
    return time.process_time() - start


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="of agents.PPO")
    parser.add_argument("--repeats", type=int, default=20, help="measured pairs of 160 updates (default: 20)")
    parser.add_argument("--output", type=Path, help="also write the result to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other would count as work
    # Mature from the start, so that units are replaced as often as in a long run.
    algorithm = agents.PPO if args.fast else PPO
    plain, cbp = make(algorithm, "MlpPolicy"), make(algorithm, "CBPMlpPolicy", maturity_threshold=0)
    times: dict[PPO, list[float]] = {plain: [], cbp: []}
    for repeat in range(args.repeats):
        for model in (plain, cbp) if repeat % 2 == 0 else (cbp, plain):
            times[model].append(cpu_seconds(model))
    extra = [100 * (with_cbp / without - 1) for without, with_cbp in zip(times[plain], times[cbp], strict=True)]
    low, median, high = statistics.quantiles(extra, n=4)
    result = {
        "repeats": args.repeats,
        "plain_ms_per_update": round(1e3 * statistics.median(times[plain]) / UPDATES, 3),
        "cbp_ms_per_update": round(1e3 * statistics.median(times[cbp]) / UPDATES, 3),
        "cbp_costs_percent": {"median": round(median, 2), "lower_quartile": round(low, 2), "upper_quartile": round(high, 2)},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
