"""Compares methods in some phases of recorded runs, where ``agents.report`` averages over all or tells each by itself.

``python benchmarks/late_phases.py FOLDER --phases 6-9 [--baseline NAME] [--without SEED …]`` prints for each method below
FOLDER the mean over seeds of a run's mean final return in these phases, and of the difference from the baseline with the same
seed, with the report's bootstrap intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from nature import paired

from agents.reporting.comparison import Estimate, compare
from agents.reporting.results import AgentResult, find_runs, read_run
from agents.runs.errors import UserError
from agents.runs.plan import parse_seeds


def words(found: Estimate) -> str:
    """Mean and interval."""
    interval = "" if found.low is None else f" [{found.low:.1f}, {found.high:.1f}]"
    return f"{found.centre:.1f}{interval}"


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

    print(f"| method | phases {', '.join(map(str, args.phases))} | minus {args.baseline}, paired | seed by seed |")
    print("|---|---|---|---|")
    for method in comparison.runs:
        own, more = paired(comparison, final_return, method), paired(comparison, final_return, method, args.baseline)
        print(f"| `{method}` | {words(own)} | {words(more)} | {', '.join(f'{difference:+.0f}' for difference in more.each)} |")


if __name__ == "__main__":
    main()
