"""Answers the questions of ``runs/nature/PROTOCOL.md`` from the recorded runs, by its rules.

``python benchmarks/nature.py [FOLDER] [--output FILE.md]`` reads the runs below FOLDER (default: ``runs/nature``) and prints a
row for each statement: the mean difference over seeds, its 95 % interval by a bootstrap, as the protocol has it, what follows,
and for comparison Student's interval, which is the wider and the report's (``benchmarks/intervals.py``).

Signs count in question 3: "`ppo` − `cbp`" is the difference of two signed changes, not of their sizes. It would support the
statement, too, if under `cbp` a measure changed more than under `ppo`, but the other way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats

from agents.reporting.comparison import LEAST_SEEDS, Comparison, Estimate, compare, estimate
from agents.reporting.results import AgentResult, find_runs, read_run
from agents.reporting.tables import left_out
from agents.runs.commands import Parser, run_command
from agents.runs.config import Config
from agents.runs.errors import UserError
from agents.runs.protocols import protocol_of
from agents.runs.run_folder import write_atomically

PROTOCOL = "nature-slippery-ant"
PHASES, LATE = 10, range(5, 10)  # of a run; those that are compared, counted from 0
LAST_LAYER = "plasticity/policy/hidden2"
RISES, FALLS = 1, -1
CHANGES = {"dormant_fraction": RISES, "weight_magnitude": RISES, "stable_rank": FALLS}


def late_return(run: AgentResult) -> float:
    """The mean return over the late phases, each of which counts alike."""
    return float(np.mean([run.phases[phase]["mean_return"] for phase in LATE]))


def change(measure: str) -> Callable[[AgentResult], float]:
    """By how much a measure of the policy's last hidden layer changes from the end of the first phase to that of the last."""

    def of(run: AgentResult) -> float:
        curve = run.curve[f"{LAST_LAYER}/{measure}"]
        first, last = (row[np.isfinite(row)][-1] for row in (curve[0], curve[PHASES - 1]))
        return float(last - first)

    return of


def by_seed(
    comparison: Comparison, of: Callable[[AgentResult], float], method: str, other: str | None = None
) -> dict[int, float]:
    """What a method has more than another with each seed that both have a value with; without another, what it has."""
    runs = comparison.runs.get(method, {})
    others = comparison.runs.get(other, {}) if other else {}
    differences = {
        seed: of(run) - (of(others[seed]) if other else 0.0) for seed, run in runs.items() if other is None or seed in others
    }
    return {seed: value for seed, value in differences.items() if np.isfinite(value)}


def paired(comparison: Comparison, of: Callable[[AgentResult], float], method: str, other: str | None = None) -> Estimate:
    """The mean over seeds of :func:`by_seed`."""
    return estimate(list(by_seed(comparison, of, method, other).values()), "mean")


def bootstrap(each: list[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean over seeds by the percentile method, where there are enough of them."""
    if len(each) < LEAST_SEEDS:
        return None
    ends = stats.bootstrap((each,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(ends.low), float(ends.high)


def answer(each: list[float], expected: int, words: tuple[str, str]) -> str:
    """The first of two words where the interval lies on the expected side of 0, the second where it lies on the other."""
    ends = bootstrap(each)
    if ends is None:
        return f"open: {len(each)} of {LEAST_SEEDS} seeds"
    sides = [expected * end for end in ends]
    return words[0] if min(sides) > 0 else words[1] if max(sides) < 0 else "open"


def answers(comparison: Comparison) -> list[str]:
    """The table, line by line."""
    support = ("supported", "contradicted")
    rows = [("1. plasticity is lost: `ppo` − `reset-all`, return", paired(comparison, late_return, "ppo", "reset-all"), FALLS)]
    rows += [
        (f"2. it is kept: `cbp` − `{other}`, return", paired(comparison, late_return, "cbp", other), RISES)
        for other in ("ppo", "ppo-tuned", "l2")
    ]
    for name, direction in CHANGES.items():
        rows.append((f"3. {name} under `ppo`, last − first phase", paired(comparison, change(name), "ppo"), direction))
        rows.append(("3. the same, `ppo` − `cbp`, with signs", paired(comparison, change(name), "ppo", "cbp"), direction))
    lines = ["| statement | seeds | mean | 95 % interval | answer | Student's interval |", "|---|---|---|---|---|---|"]
    for statement, found, expected in rows:
        words = ("lost", "not lost") if statement.startswith("1.") else support
        mean = f"{found.centre:,.4g}" if found.each else ""
        interval = "{:,.4g} to {:,.4g}".format(*ends) if (ends := bootstrap(found.each)) else ""
        wider = "" if found.low is None else f"{found.low:,.4g} to {found.high:,.4g}"
        cells = [statement, len(found.each), mean, interval, answer(found.each, expected, words), wider]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main() -> int:
    """Reads, prints and writes."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs/nature"), help="recorded runs (default: runs/nature)"
    )
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    comparison = compare(read_run(path) for path in find_runs([args.folder]))
    if not isinstance(comparison.config, Config) or protocol_of(comparison.config) != PROTOCOL:
        raise UserError(f"'{args.folder}' must have runs of {PROTOCOL}, got those of {comparison.config.world}")
    for line in left_out(comparison):
        print(f"warning: {line}", file=sys.stderr)
    text = "\n".join(answers(comparison))
    if args.output:
        write_atomically(args.output, text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
