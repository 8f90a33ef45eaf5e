"""Shows that the default run learns: does the return rise within a phase of constant friction?

``python benchmarks/learning.py [--seeds 0-4] [--run-dir DIR] [--output FILE.md]`` trains the default run with each seed (those
that are complete in DIR are not run again) and compares, for every phase with ten episodes or more, the mean return of the
first tenth of its episodes with that of the last tenth. Two runs at a time, one thread each.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def train(folder: Path, seed: int) -> None:
    """Trains one seed, or goes on with it."""
    summary = folder / "summary.json"
    if summary.exists() and json.loads(summary.read_text())["complete"]:
        return
    begin = ["--env", "ant-nonstationary", "--seed", str(seed), "--run-dir", str(folder)]
    resumable = any((folder / "checkpoints").glob("[0-9]*"))
    command = [sys.executable, "-m", "agents.train", *(["--resume", str(folder)] if resumable else begin)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def rises(folder: Path) -> list[tuple[float, float, float]]:
    """For each phase: friction, and mean return of the first and of the last tenth of its episodes."""
    phases: dict[int, list[tuple[float, float]]] = defaultdict(list)
    with (folder / "episodes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            phases[int(row["phase"])].append((float(row["friction"]), float(row["return"])))
    result = []
    for _, episodes in sorted(phases.items()):
        if len(episodes) < 10:
            continue
        returns = [value for _, value in episodes]
        tenth = math.ceil(len(returns) / 10)
        result.append((episodes[0][0], statistics.mean(returns[:tenth]), statistics.mean(returns[-tenth:])))
    return result


def main() -> None:
    """Trains, compares, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4", help="first and last seed (default: 0-4)")
    parser.add_argument(
        "--run-dir", type=Path, default=Path("runs/learning"), help="where the runs go (default: runs/learning)"
    )
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    first, last = map(int, args.seeds.split("-"))
    folders = {seed: args.run_dir / f"seed{seed}" for seed in range(first, last + 1)}
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, folders.values(), folders))

    lines = ["| seed | phase by phase: friction, mean return of the first → of the last tenth of its episodes |", "|---|---|"]
    for seed, folder in folders.items():
        cells = [f"{friction:.2g}: {start:.0f} → {end:.0f}" for friction, start, end in rises(folder)]
        lines.append(f"| {seed} | {'; '.join(cells)} |")
    risen = sum(end > start for _, start, end in (rises(folder)[0] for folder in folders.values()))
    lines.append(f"\nThe return rose within the first phase in {risen} of {len(folders)} seeds.")
    text = "\n".join(lines)
    print(text)
    if args.output:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
