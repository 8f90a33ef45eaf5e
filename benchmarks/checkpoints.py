"""Measures what a checkpoint of SAC costs whose replay buffer holds a million transitions.

``python benchmarks/checkpoints.py [--rows N] [--new N] [--output FILE.json]``. The model is that of
``agents.train --algo sac --env ant-nonstationary``, its transitions are random numbers. After a checkpoint of all that came
before, some come that are new, as many as a run takes between two checkpoints; then comes the checkpoint that is measured.
Files are written to a temporary place.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from agents.runs.build import make_model, make_vec_env
from agents.runs.checkpoints import Checkpoints
from agents.runs.config import Config, with_overrides
from agents.runs.logs import make_logger
from agents.runs.run_folder import RunFolder


def _model(config: Config, folder: RunFolder) -> OffPolicyAlgorithm:
    model = make_model(config, make_vec_env(config))
    assert isinstance(model, OffPolicyAlgorithm)  # noqa: S101
    model.set_logger(make_logger(folder))
    model._setup_learn(1, None, reset_num_timesteps=False)
    return model


def _add(model: OffPolicyAlgorithm, rows: int, numbers: np.random.Generator) -> None:
    buffer = model.replay_buffer
    assert buffer is not None  # noqa: S101
    first, last = model.num_timesteps, model.num_timesteps + rows
    for array in (buffer.observations, buffer.actions, buffer.rewards):
        array[first:last] = numbers.normal(size=array[first:last].shape)
    buffer.next_observations[first : last - 1] = buffer.observations[first + 1 : last]
    buffer.next_observations[last - 1] = 0
    model.num_timesteps = last
    buffer.pos, buffer.full = last % buffer.buffer_size, last >= buffer.buffer_size


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="transitions in the buffer (default: 1,000,000)")
    parser.add_argument(
        "--new", type=int, default=30_000, help="those that are new: 5 minutes at 100 steps/s (default: 30,000)"
    )
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    values, method_kwargs = with_overrides("backprop", [("buffer_size", args.rows)], "sac")
    config = Config(
        *("ant-nonstationary-v0", "backprop", args.rows, args.rows // 10, "friction", 0, 1, False, "cpu"),
        method_kwargs=method_kwargs,
        hyperparameters=values,
        algo="sac",
    )
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place) / "run", config)
        model, checkpoints, numbers = _model(config, folder), Checkpoints(folder, {}), np.random.default_rng(0)
        _add(model, args.rows - args.new, numbers)
        checkpoints.save(model)
        before = {path for path in folder.checkpoints.rglob("*") if path.is_file()}
        _add(model, args.new, numbers)
        cpu, wall = time.process_time(), time.perf_counter()
        checkpoints.save(model)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        new = [path for path in folder.checkpoints.rglob("*") if path.is_file() and path not in before]
        found = {
            "cpu_seconds": round(cpu, 3),
            "seconds": round(wall, 3),
            "megabytes": round(sum(path.stat().st_size for path in new) / 1e6, 1),
            "megabytes_of_all": round(
                sum(path.stat().st_size for path in folder.checkpoints.rglob("*") if path.is_file()) / 1e6, 1
            ),
        }
        cpu = time.process_time()
        model.logger.close()
        Checkpoints(folder, {}).load(config)
        found["cpu_seconds_to_resume"] = round(time.process_time() - cpu, 3)
    print(json.dumps(found, indent=2))
    if args.output:
        args.output.write_text(json.dumps({"rows": args.rows, "new": args.new, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
