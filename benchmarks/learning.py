"""Shows that the default run learns, and how it learns with other settings and in Stable-Baselines3's own loop.

``python benchmarks/learning.py [--seeds 0-4] [--variants default,paper,…] [--run-dir DIR] [--output FILE.md]`` trains the
default run in each variant and with each seed; those that are complete in DIR are not run again. It compares

- within the default run, for every phase with ten episodes or more, the mean return of the first tenth of its episodes with
  that of the last tenth;
- each variant with the default (``sb3`` with ``unpadded``), paired by seed, which has the same frictions: the mean return of
  all steps, and of those of the second half of the run, with the 95 % t interval of the difference.

Two runs at a time, one thread each.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy.stats import t as student

FAST = ["-m", "agents.train"]
SLOW = ["-c", "import agents.sb3.ppo as ppo, agents.train as train; ppo.unsupported = lambda model: 'asked for'; train.main()"]
UNPADDED, WIDE, PATIENT = (["--set", value] for value in ("padded_inputs=null", "log_std_init=0", "learning_rate=1e-4"))
VARIANTS = {
    "default": [],
    "unpadded": UNPADDED,  # first weights for the 27 inputs there are, not for the paper's 111
    "sb3": UNPADDED,  # the same, with the updates and the policy in Stable-Baselines3's own loop
    "wide": WIDE,  # the paper's σ
    "patient": PATIENT,  # the paper's step size
    "paper": WIDE + PATIENT,
}
BESIDE = {"sb3": "unpadded"}  # what a variant is compared with, where it is not the default


def train(folder: Path, variant: str, seed: int) -> None:
    """Trains one seed, or goes on with it."""
    summary = folder / "summary.json"
    if summary.exists() and json.loads(summary.read_text())["complete"]:
        return
    begin = ["--env", "ant-nonstationary", "--seed", str(seed), "--run-dir", str(folder), *VARIANTS[variant]]
    resumable = any((folder / "checkpoints").glob("[0-9]*"))
    command = [sys.executable, *(SLOW if variant == "sb3" else FAST), *(["--resume", str(folder)] if resumable else begin)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def episodes(folder: Path) -> list[dict[str, float]]:
    """The episodes of a run."""
    with (folder / "episodes.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def rises(folder: Path) -> list[tuple[float, float, float]]:
    """For each phase: friction, and mean return of the first and of the last tenth of its episodes."""
    phases: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for row in episodes(folder):
        phases[row["phase"]].append((row["friction"], row["return"]))
    result = []
    for _, of_phase in sorted(phases.items()):
        if len(of_phase) < 10:
            continue
        returns = [value for _, value in of_phase]
        tenth = math.ceil(len(returns) / 10)
        result.append((of_phase[0][0], statistics.mean(returns[:tenth]), statistics.mean(returns[-tenth:])))
    return result


def mean_returns(folder: Path) -> tuple[float, float]:
    """The mean return of all steps, each of which has its episode's, and of those in the second half of the run."""
    rows = episodes(folder)
    ends, returns, lengths = (np.array([row[name] for row in rows]) for name in ("step", "return", "length"))
    late = ends > ends.max() / 2
    return float(np.average(returns, weights=lengths)), float(np.average(returns[late], weights=lengths[late]))


def interval(differences: list[float]) -> str:
    """Mean and 95 % t interval."""
    mean, error = statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    half = student.ppf(0.975, len(differences) - 1) * error
    return f"{mean:+.0f} ({mean - half:+.0f} to {mean + half:+.0f})"


def main() -> None:
    """Trains, compares, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4", help="first and last seed (default: 0-4)")
    parser.add_argument("--variants", default="default", help=f"some of {','.join(VARIANTS)} (default: default)")
    parser.add_argument(
        "--run-dir", type=Path, default=Path("runs/learning"), help="where the runs go (default: runs/learning)"
    )
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    args = parser.parse_args()
    first, last = map(int, args.seeds.split("-"))
    asked = args.variants.split(",")
    seeds = range(first, last + 1)
    variants = list(dict.fromkeys(["default", *(BESIDE[name] for name in asked if name in BESIDE), *asked]))
    if unknown := [variant for variant in variants if variant not in VARIANTS]:
        parser.error(f"--variants takes {', '.join(VARIANTS)}; got {', '.join(unknown)}")
    if len(variants) > 1 and len(seeds) < 2:
        parser.error(f"variants are compared over two seeds or more, got --seeds {args.seeds}")
    folders = {(variant, seed): args.run_dir / variant / f"seed{seed}" for seed, variant in itertools.product(seeds, variants)}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda key: train(folders[key], *key), folders))

    lines = ["| seed | phase by phase: friction, mean return of the first → of the last tenth of its episodes |", "|---|---|"]
    of_default = {seed: rises(folders["default", seed]) for seed in seeds}
    for seed, phases in of_default.items():
        lines.append(f"| {seed} | {'; '.join(f'{friction:.2g}: {start:.0f} → {end:.0f}' for friction, start, end in phases)} |")
    risen = sum(end > start for (_, start, end), *_ in of_default.values())
    lines.append(f"\nThe return rose within the first phase in {risen} of {len(seeds)} seeds.\n")
    if len(variants) > 1:
        returns = {variant: [mean_returns(folders[variant, seed]) for seed in seeds] for variant in variants}
        lines += ["| variant | minus | mean return | difference | second half | difference |", "|---|---|---|---|---|---|"]
        for variant, pairs in returns.items():
            beside = "" if variant == "default" else BESIDE.get(variant, "default")
            cells = [beside and f"`{beside}`"]
            for ours, theirs in zip(zip(*pairs, strict=True), zip(*returns[beside or variant], strict=True), strict=True):
                cells.append(f"{statistics.mean(ours):.0f}")
                cells.append(interval([a - b for a, b in zip(ours, theirs, strict=True)]) if beside else "")
            lines.append(f"| `{variant}` | {' | '.join(cells)} |")
    text = "\n".join(lines)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
