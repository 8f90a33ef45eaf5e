"""Learning curves of the paper's setting, to be laid beside those of the published code.

``python benchmarks/parity.py [--run-dir DIR] [--workers N] [--seeds 0-5] [--only-record]``

Trains ``--preset paper`` for a million steps: ``ppo`` and ``cbp`` on the stationary Ant, ``ppo`` on an Ant whose friction is
held at 0.02 and at 1.9. From the runs that are complete it writes ``curves.csv`` to ``runs/parity``, a row for each 100,000
steps of each run, with mean return and mean length of the episodes that ended in them, and ``table.md``, the same over seeds,
with intervals. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agents.reporting.comparison import LEAST_SEEDS, interval
from agents.runs.logs import read_columns
from agents.runs.plan import parse_seeds
from agents.runs.run_folder import RunFolder, write_atomically
from agents.runs.summary import is_complete

STEPS, BIN = 1_000_000, 100_000
RECORDED = Path(__file__).parents[1] / "runs" / "parity"


class Setting(NamedTuple):
    """An environment and a method."""

    name: str
    method: str
    options: list[str]


def held(friction: str) -> list[str]:
    """The Ant whose friction changes, with one value for the whole run."""
    return ["--env", "ant-nonstationary", "--schedule", f"constant,value={friction}", "--period", str(STEPS)]


SETTINGS = [
    Setting("stationary", "ppo", ["--env", "ant-stationary"]),
    Setting("stationary", "cbp", ["--env", "ant-stationary"]),
    Setting("friction 0.02", "ppo", held("0.02")),
    Setting("friction 1.9", "ppo", held("1.9")),
]


def folder_of(run_dir: Path, setting: Setting, seed: int) -> RunFolder:
    """Where a run lies."""
    return RunFolder(run_dir / setting.name.replace(" ", "-") / setting.method / f"seed{seed}")


def train(run_dir: Path, setting: Setting, seed: int) -> None:
    """Trains a run from where it is to its end."""
    folder = folder_of(run_dir, setting, seed)
    if is_complete(folder):
        return
    command = [sys.executable, "-m", "agents.train"]
    if folder.config.exists():
        command += ["--resume", str(folder.path)]
    else:
        command += [*setting.options, "--preset", "paper", "--timesteps", str(STEPS), "--method", setting.method]
        command += ["--seed", str(seed), "--threads", "1", "--run-dir", str(folder.path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{folder.path}: {done.stderr.splitlines()[-1] if done.stderr else f'exit code {done.returncode}'}")
    print(f"complete: {folder.path}", flush=True)


def curve(folder: RunFolder) -> Iterator[tuple[float, float, int]]:
    """Mean return, mean length and number of the episodes that ended in each 100,000 steps."""
    episodes = read_columns(folder.episodes)
    bins = np.minimum((episodes["step"] - 1) // BIN, STEPS // BIN - 1)  # the last rollout ends a little later
    for k in range(STEPS // BIN):
        ended = bins == k
        yield float(episodes["return"][ended].mean()), float(episodes["length"][ended].mean()), int(ended.sum())


def record(run_dir: Path, seeds: list[int]) -> None:
    """Writes ``curves.csv`` and ``table.md``."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["setting", "method", "seed", "steps", "mean_return", "mean_length", "episodes"])
    lines = [
        "# The paper's setting, a million steps",
        "",
        "Mean over seeds of the mean return of the episodes that ended in each 100,000 steps, with 95 % intervals (Student's);",
        f"their mean length. Fewer than {LEAST_SEEDS} seeds have no interval. Made by `python benchmarks/parity.py`.",
    ]
    for setting in SETTINGS:
        folders = {seed: folder_of(run_dir, setting, seed) for seed in seeds}
        curves = {seed: list(curve(folder)) for seed, folder in folders.items() if is_complete(folder)}
        for seed, of_seed in curves.items():
            for k, (mean_return, length, number) in enumerate(of_seed, start=1):
                rows.writerow([setting.name, setting.method, seed, k * BIN, f"{mean_return:.6g}", f"{length:.6g}", number])
        if curves:
            lines += ["", f"## {setting.name}, {setting.method}: {len(curves)} seeds", ""]
            lines += table(np.array([*curves.values()]))
    recorded = RECORDED / "curves.csv"
    if recorded.exists() and len(recorded.read_text().splitlines()) > len(text.getvalue().splitlines()):
        raise SystemExit(f"{recorded} has more runs than are complete in {run_dir}; it is left as it is")
    RECORDED.mkdir(parents=True, exist_ok=True)
    write_atomically(recorded, text.getvalue())
    write_atomically(RECORDED / "table.md", "\n".join([*lines, ""]))


def table(curves: np.ndarray) -> list[str]:
    """A row for each 100,000 steps of curves ``(seeds, bins, 3)``."""
    returns, lengths = curves[..., 0], curves[..., 1].mean(axis=0)
    ends = np.array(interval(returns, "mean")).T if len(returns) >= LEAST_SEEDS else None
    lines = ["| steps | return | of the seeds | length |", "|---|---|---|---|"]
    for k, length in enumerate(lengths):
        brackets = "" if ends is None else f" [{ends[k][0]:,.0f}, {ends[k][1]:,.0f}]"
        spread = f"{returns[:, k].min():,.0f} to {returns[:, k].max():,.0f}"
        lines.append(f"| {(k + 1) * BIN:,} | {returns[:, k].mean():,.0f}{brackets} | {spread} | {length:.0f} |")
    return lines


def main() -> None:
    """Trains what is missing, seed by seed, and records what is complete."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run-dir", metavar="DIR", type=Path, default=Path("runs/parity-runs"), help="where the runs lie")
    parser.add_argument("--workers", metavar="N", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--seeds", metavar="S", default="0-5", help="such as 0-4 or 0,1,5 (default: 0-5)")
    parser.add_argument("--only-record", action="store_true", help="train nothing")
    args = parser.parse_args()
    seeds = parse_seeds(args.seeds)
    try:
        if not args.only_record:
            with ThreadPoolExecutor(args.workers) as pool:
                stationary, others = SETTINGS[:2], SETTINGS[2:]
                todo = [(args.run_dir, setting, seed) for some in (stationary, others) for seed in seeds for setting in some]
                list(pool.map(lambda job: train(*job), todo))
    finally:
        record(args.run_dir, seeds)


if __name__ == "__main__":
    main()
