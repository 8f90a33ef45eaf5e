"""The share of the training time that each of the default callbacks takes, at its default frequency.

``python benchmarks/callbacks.py [--steps 131072]`` trains for a few minutes on an idle machine and clocks the callbacks' own
calls: the default run of ``agents.train``, and Stable-Baselines3's stock PPO and SAC with ``PlasticityCallback``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from agents.callbacks import PhaseCallback, PlasticityCallback, ProgressCallback, VerdictCallback
from agents.runs.build import make_model, make_vec_env
from agents.runs.commands import Parser, add_shared_options
from agents.runs.logs import make_logger
from agents.runs.options import add_run_options, make_config
from agents.runs.run_folder import RunFolder


def clock(callback: BaseCallback, seconds: dict[str, float]) -> None:
    """Adds up the seconds of all of a callback's calls."""
    name = type(callback).__name__
    seconds[name] = 0.0

    def clocked(function: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            start = time.perf_counter()
            result = function()
            seconds[name] += time.perf_counter() - start
            return result

        return call

    for method in ("_on_training_start", "_on_rollout_start", "_on_step", "_on_rollout_end"):
        setattr(callback, method, clocked(getattr(callback, method)))


def measure(title: str, model: BaseAlgorithm, steps: int, callbacks: list[BaseCallback]) -> None:
    """Trains and prints a row for each callback."""
    seconds: dict[str, float] = {}
    for callback in callbacks:
        clock(callback, seconds)
    start = time.perf_counter()
    model.learn(steps, callbacks, reset_num_timesteps=False)
    whole = time.perf_counter() - start
    for name, of_callback in seconds.items():
        print(f"| {title} | {name} | {100 * of_callback / whole:.2f} |", flush=True)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=131_072, help="steps to train; SAC a tenth of them (default: 131072)")
    args = parser.parse_args()
    options = Parser()
    add_run_options(options)
    add_shared_options(options)
    config = make_config(options.parse_args(["--env", "ant-nonstationary"]), "cbp", seed=0)
    model = make_model(config, make_vec_env(config))
    model.learn(config.hyperparameters.rollout_steps)  # compiles
    folder = RunFolder(Path(mkdtemp()))
    model.set_logger(make_logger(folder))
    phases, plasticity = PhaseCallback("friction", folder.episodes), PlasticityCallback(probe_path=folder.probe)
    verdicts, progress = VerdictCallback(phases, plasticity, "cbp"), ProgressCallback(args.steps, phases)
    print("| training | callback | % of its time |\n|---|---|---|")
    measure("`agents.train`, default run", model, args.steps, [phases, plasticity, verdicts, progress])
    ppo = PPO("MlpPolicy", "ant-nonstationary-v0", device="cpu")
    measure("stock PPO, `MlpPolicy`", ppo, args.steps // 4, [PlasticityCallback()])
    measure(
        "stock SAC, `MlpPolicy`",
        SAC("MlpPolicy", "ant-nonstationary-v0", device="cpu"),
        args.steps // 10,
        [PlasticityCallback()],
    )


if __name__ == "__main__":
    main()
