"""Measures the resident size of a long training run, a line for each million steps.

``python benchmarks/memory.py [--millions N] [--output FILE.json]``. It trains as ``agents.train`` does, with CBP and all
default callbacks, and writes a run folder and its logs to a temporary place. Linux only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from throughput import STEPS, default_callbacks, ours

MILLION = 1_000_000


class Resident(BaseCallback):
    """Notes the resident size, in MiB, after each million steps."""

    def __init__(self) -> None:
        super().__init__()
        self.mebibytes: dict[int, float] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        millions = self.num_timesteps // MILLION
        if millions and millions not in self.mebibytes:
            status = Path("/proc/self/status").read_text()
            self.mebibytes[millions] = round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)
            print(f"{millions} M steps: {self.mebibytes[millions]} MiB", flush=True)


def main() -> None:
    """Trains, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=5, help="million steps to train (default: 5)")
    parser.add_argument("--output", type=Path, help="also write the result to this JSON file")
    args = parser.parse_args()
    resident = Resident()
    ours("cbp", n_envs=16).learn(args.millions * MILLION + STEPS, callback=[resident, *default_callbacks()])
    first, last = resident.mebibytes[1], resident.mebibytes[args.millions]
    result = {"mebibytes_by_million_steps": resident.mebibytes, "last / first": round(last / first, 4)}
    print(json.dumps(result, indent=2))
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
