"""Measures steps/s of a training run, and what continual backpropagation and the callbacks cost of it.

``make bench``, or ``python benchmarks/cost.py [--repeats N] [--output FILE.json]``. The variants alternate within one process,
and the ratios are taken pair by pair, so that a machine whose speed drifts does not favour one; medians are printed, with the
quartiles of the ratios. Ratios are of processor time on one thread, which other processes disturb less than wall-clock time.
Network and batch sizes are the paper's: two hidden layers of 256 units, minibatches of 128 samples, 160 updates a rollout.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

from agents.build import make_model, make_vec_env
from agents.callbacks import PhaseCallback, UnitCallback
from agents.config import Config, with_overrides
from agents.logs import make_logger
from agents.run_folder import RunFolder

UPDATES_PER_EPOCH = 16
ROLLOUT = 2048


def make(method: str, **overrides: float | str) -> PPO:
    """A model of the default run, ready to learn."""
    hyperparameters, method_kwargs = with_overrides(method, overrides.items())
    config = Config(
        env="ant-nonstationary-v0",
        method=method,
        timesteps=ROLLOUT,
        period=60_000,
        param="friction",
        seed=0,
        n_envs=8,
        normalize=False,
        device="cpu",
        method_kwargs=method_kwargs,
        hyperparameters=hyperparameters,
    )
    model = make_model(config, make_vec_env(config))
    folder = RunFolder.create(Path(tempfile.mkdtemp()) / "run", config)
    model.set_logger(make_logger(folder))
    model.learn(ROLLOUT)
    return model


def cpu_seconds(action: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def alternate(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Processor times of two actions, measured in turn; which comes first changes each time."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        for which in (0, 1) if repeat % 2 == 0 else (1, 0):
            times[which].append(cpu_seconds((first, second)[which]))
    return times


def overhead(plain: list[float], more: list[float]) -> dict[str, float]:
    """What the second of a pair costs beyond the first, in per cent of the first: median and quartiles over the pairs."""
    extra = [100 * (b / a - 1) for a, b in zip(plain, more, strict=True)]
    low, median, high = statistics.quantiles(extra, n=4)
    return {"median_percent": round(median, 2), "lower_quartile": round(low, 2), "upper_quartile": round(high, 2)}


def stock(policy: str, **method_kwargs: float) -> PPO:
    """Stock PPO with stock Adam, as in ``PPO("MlpPolicy", env)`` but for the paper's network and batch sizes."""
    policy_kwargs: dict[str, object] = {"net_arch": [256, 256], "activation_fn": nn.ReLU}
    if method_kwargs:
        policy_kwargs["method_kwargs"] = method_kwargs
    model = PPO(policy, "ant-nonstationary-v0", n_steps=ROLLOUT, batch_size=128, policy_kwargs=policy_kwargs, device="cpu")
    return model.learn(ROLLOUT)


def cost_of_method(plain: PPO, cbp: PPO, repeats: int) -> dict[str, object]:
    """Time of one epoch of PPO.train(), 16 updates, with continual backpropagation and without."""
    plain.n_epochs = cbp.n_epochs = 1
    times = alternate(plain.train, cbp.train, 10 * repeats)
    return {
        "plain_ms_per_update": round(1e3 * statistics.median(times[0]) / UPDATES_PER_EPOCH, 3),
        "cbp_ms_per_update": round(1e3 * statistics.median(times[1]) / UPDATES_PER_EPOCH, 3),
        "cbp_costs": overhead(*times),
    }


def cost_of_callbacks(repeats: int) -> dict[str, object]:
    """Time of four rollouts and their updates, with the run's callbacks and without."""
    model = make("cbp", maturity_threshold=0)

    def learn(callbacks: list[BaseCallback]) -> None:
        model.learn(4 * ROLLOUT, callback=callbacks, reset_num_timesteps=False)

    with tempfile.TemporaryDirectory() as folder:
        callbacks: list[BaseCallback] = [PhaseCallback("friction", Path(folder, "episodes.csv")), UnitCallback()]
        times = alternate(lambda: learn([]), lambda: learn(callbacks), repeats)
    return {"seconds_per_rollout": round(statistics.median(times[0]) / 4, 3), "callbacks_cost": overhead(*times)}


def speed(repeats: int) -> dict[str, object]:
    """Environment steps per second of a whole run, wall-clock, rollouts and updates and callbacks, with and without CBP."""
    models = {method: make(method) for method in ("ppo-tuned", "cbp")}
    rates: dict[str, list[float]] = {method: [] for method in models}
    for _ in range(repeats):
        for method, model in models.items():
            start = time.perf_counter()
            model.learn(ROLLOUT, callback=[PhaseCallback("friction"), UnitCallback()], reset_num_timesteps=False)
            rates[method].append(ROLLOUT / (time.perf_counter() - start))
    return {method: round(statistics.median(measured)) for method, measured in rates.items()}


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12, help="measured pairs of each comparison (default: 12)")
    parser.add_argument("--output", type=Path, help="also write the result to this JSON file")
    args = parser.parse_args()
    result: dict[str, object] = {
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "repeats": args.repeats,
        "steps_per_second": speed(args.repeats),
    }
    torch.set_num_threads(1)  # threads that wait for each other would count as work
    # Mature from the start, so that units are replaced as often as in the long run.
    result["method_under_stock_ppo"] = cost_of_method(
        stock("MlpPolicy"), stock("CBPMlpPolicy", maturity_threshold=0), args.repeats
    )
    result["method_in_agents_train"] = cost_of_method(
        make("ppo-tuned", weight_decay=1e-4), make("cbp", maturity_threshold=0), args.repeats
    )
    result["callbacks"] = cost_of_callbacks(args.repeats)
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
