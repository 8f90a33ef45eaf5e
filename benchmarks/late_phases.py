"""Compares methods in some phases of recorded runs, where ``agents.report`` averages over all or tells each by itself.

``python benchmarks/late_phases.py FOLDER --phases 6-9 [--baseline NAME] [--without SEED …]`` prints for each method below
FOLDER the mean over seeds of a run's mean final return in these phases, and of the difference from the baseline with the same
seed, with the report's bootstrap intervals. Where all runs have one, the trainability at the end of the run likewise.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from nature import paired

from agents.reporting.comparison import Comparison, Estimate, compare
from agents.reporting.results import AgentResult, find_runs, read_run
from agents.runs.errors import UserError
from agents.runs.plan import parse_seeds


def words(found: Estimate, digits: int = 1) -> str:
    """Mean and interval."""
    interval = "" if found.low is None else f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return f"{found.centre:.{digits}f}{interval}"


def trainability(run: AgentResult) -> dict[str, float]:
    """The scores of the newest checkpoint, by kind; empty where none was measured."""
    path = run.path / "trainability.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row["kind"]: float(row["score"]) for row in csv.DictReader(file)}


def table(
    comparison: Comparison, title: str, of: Callable[[AgentResult], float], baseline: str, digits: int, *, seeds_own: bool
) -> None:
    """Prints a row for each method: its mean, the difference from the baseline, and one of them seed by seed."""
    print(f"\n| method | {title} | minus {baseline}, paired | seed by seed |")
    print("|---|---|---|---|")
    for method in comparison.runs:
        own, more = paired(comparison, of, method), paired(comparison, of, method, baseline)
        each = ", ".join(f"{x:.{digits}f}" if seeds_own else f"{x:+.0f}" for x in (own if seeds_own else more).each)
        print(f"| `{method}` | {words(own, digits)} | {words(more, digits)} | {each} |")


def main() -> None:
    """Reads and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="recorded runs")
    parser.add_argument("--phases", type=parse_seeds, required=True, help="such as 6-9")
    parser.add_argument("--baseline", default="backprop")
    parser.add_argument("--without", type=int, nargs="*", default=[], metavar="SEED", help="seeds to leave out")
    args = parser.parse_args()
    try:
        comparison = compare(run for run in map(read_run, find_runs([args.folder])) if run.config.seed not in args.without)
    except UserError as error:
        parser.error(str(error))

    def final_return(run: AgentResult) -> float:
        return float(np.mean([run.phases[phase]["final_return"] for phase in args.phases]))

    title = f"phases {', '.join(map(str, args.phases))}"
    table(comparison, title, final_return, args.baseline, 1, seeds_own=False)
    each = [trainability(run) for by_seed in comparison.runs.values() for run in by_seed.values()]
    for kind in each[0] if all(each) else ():
        table(comparison, kind, lambda run, kind=kind: trainability(run)[kind], args.baseline, 2, seeds_own=True)  # type: ignore[misc]


if __name__ == "__main__":
    main()
