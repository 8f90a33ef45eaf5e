"""What an update of every method takes on one core in the paper's setting, and what the paper's full set of runs costs.

``python benchmarks/methods.py [--repeats 5] [--rollouts 3]`` trains the methods in turns, each a few rollouts with the default
callbacks, on one thread. Run it on an idle machine; the cost is that of 30 runs of 50 million steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.callbacks import PhaseCallback, PlasticityCallback
from agents.runs import presets
from agents.runs.build import make_model, make_vec_env
from agents.runs.commands import Parser, add_shared_options
from agents.runs.options import add_run_options, make_config

RUNS, STEPS = 30, 50_000_000  # paper: runs a method, steps a run


class Stopwatch:
    """Adds up the time that a model's updates take from now on."""

    def __init__(self, model: BaseAlgorithm) -> None:
        self.seconds = 0.0
        self._train = type(model).train.__get__(model)
        model.train = self._timed  # type: ignore[method-assign]

    def _timed(self) -> None:
        start = time.perf_counter()
        self._train()
        self.seconds += time.perf_counter() - start


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each method (default: 5)")
    parser.add_argument("--rollouts", type=int, default=3, help="rollouts in a turn (default: 3)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of short runs
    options = Parser()
    add_run_options(options)
    add_shared_options(options)
    paper = options.parse_args(["--env", "ant-nonstationary", "--preset", "paper"])
    models = {}
    for method in presets.METHODS:
        config = make_config(paper, method, seed=0)
        models[method] = make_model(config, make_vec_env(config))
        models[method].learn(config.hyperparameters.rollout_steps)  # compiles
    updates = models["ppo"].n_epochs * models["ppo"].n_steps // models["ppo"].batch_size
    speeds: dict[str, list[float]] = {method: [] for method in models}
    spent: dict[str, list[float]] = {method: [] for method in models}
    for _ in range(args.repeats):
        for method, model in models.items():
            steps = args.rollouts * model.n_steps
            trained = Stopwatch(model)
            start = time.perf_counter()
            model.learn(steps, [PhaseCallback("friction"), PlasticityCallback()], reset_num_timesteps=False)
            speeds[method].append(steps / (time.perf_counter() - start))
            spent[method].append(trained.seconds / (args.rollouts * updates))
    print(f"| method | an update (ms) | ÷ `ppo` | steps/s | core-hours for {RUNS} runs of {STEPS // 10**6} million steps |")
    print("|---|---|---|---|---|")
    hours = {method: RUNS * STEPS / statistics.median(of_method) / 3600 for method, of_method in speeds.items()}
    for method, of_method in speeds.items():
        ratio = statistics.median(own / plain for own, plain in zip(spent[method], spent["ppo"], strict=True))
        update, speed = statistics.median(spent[method]) * 1000, statistics.median(of_method)
        print(f"| `{method}` | {update:.2f} | {ratio:.2f} | {speed:,.0f} | {hours[method]:,.0f} |")
    print(f"| all {len(hours)} | | | | {sum(hours.values()):,.0f} |")


if __name__ == "__main__":
    main()
