"""Steps per second of every method on one core in the paper's setting, and what the paper's full set of runs costs.

``python benchmarks/methods.py [--repeats 5] [--rollouts 3]`` trains the methods in turns, each a few rollouts with the default
callbacks, on one thread. Run it on an idle machine; the cost is that of 30 runs of 50 million steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch

from agents.callbacks import PhaseCallback, PlasticityCallback
from agents.runs import presets
from agents.runs.build import make_model, make_vec_env
from agents.runs.commands import Parser, add_shared_options
from agents.runs.options import add_run_options, make_config

RUNS, STEPS = 30, 50_000_000  # paper: runs a method, steps a run


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
    speeds: dict[str, list[float]] = {method: [] for method in models}
    for _ in range(args.repeats):
        for method, model in models.items():
            steps = args.rollouts * model.n_steps
            start = time.perf_counter()
            model.learn(steps, [PhaseCallback("friction"), PlasticityCallback()], reset_num_timesteps=False)
            speeds[method].append(steps / (time.perf_counter() - start))
    print(f"| method | steps/s on one core | core-hours for {RUNS} runs of {STEPS // 10**6} million steps |\n|---|---|---|")
    hours = {method: RUNS * STEPS / statistics.median(of_method) / 3600 for method, of_method in speeds.items()}
    for method, of_method in speeds.items():
        print(f"| `{method}` | {statistics.median(of_method):,.0f} | {hours[method]:,.0f} |")
    print(f"| all {len(hours)} | | {sum(hours.values()):,.0f} |")


if __name__ == "__main__":
    main()
