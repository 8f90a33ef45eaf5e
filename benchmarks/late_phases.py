"""Compares methods in some phases of recorded runs, where ``agents.report`` averages over all or tells each by itself.

``python benchmarks/late_phases.py FOLDER --phases 6-9 [--baseline NAME] [--without SEED …]`` prints for each method below
FOLDER the mean over seeds of a run's mean final return in these phases, which must be whole in every run, and of the difference
from the baseline with the same seed, with the report's intervals. Likewise the mean return in these phases, the dormant units
and the standard deviation of the actions at their ends, and the trainability at the end of those runs that were measured there.
Seeds without a value in one of the phases are in no mean.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from nature import by_seed

from agents.reporting.comparison import Comparison, Estimate, compare, estimate, phase_measures
from agents.reporting.results import STD, AgentResult, find_runs, read_run
from agents.reporting.tables import left_out, phase_range
from agents.runs.commands import Parser, run_command
from agents.runs.config import Config
from agents.runs.errors import UserError
from agents.runs.plan import parse_seeds


def words(found: Estimate, digits: int = 1) -> str:
    """Mean and interval."""
    interval = "" if found.low is None else f" [{found.low:.{digits}f}, {found.high:.{digits}f}]"
    return f"{found.centre:.{digits}f}{interval}"


def table(
    comparison: Comparison, title: str, of: Callable[[AgentResult], float], baseline: str, digits: int, *, seeds_own: bool
) -> None:
    """Prints a row for each method: its mean, the difference from the baseline, and one of them seed by seed."""
    print(f"\n| method | {title} | minus {baseline}, paired | seeds | seed by seed |")
    print("|---|---|---|---|---|")
    for method in comparison.runs:
        own, more = by_seed(comparison, of, method), by_seed(comparison, of, method, baseline)
        shown = own if seeds_own else more
        each = ", ".join(f"{x:.{digits}f}" if seeds_own else f"{x:+.0f}" for x in shown.values())
        seeds = phase_range(list(shown)) or "none"
        means = [words(estimate(list(values.values()), "mean"), digits) if values else "–" for values in (own, more)]
        print(f"| `{method}` | {means[0]} | {means[1]} | {seeds} | {each} |")


def tables_of_scores(comparison: Comparison, baseline: str) -> None:
    """Prints a table for each kind of trainability, of the runs that were measured by as many updates as most."""
    scored = [run for by_seed in comparison.runs.values() for run in by_seed.values() if run.scores]
    updates = [number for number, _ in Counter(run.learned_for for run in scored).most_common(1)]
    for run in scored:
        if run.learned_for not in updates:
            print(
                f"warning: trainability by {run.learned_for} updates, not {updates[0]}, is left out: {run.path}",
                file=sys.stderr,
            )
    for kind in dict.fromkeys(kind for run in scored for kind in run.scores):
        measured = {
            method: {seed: run for seed, run in by_seed.items() if kind in run.scores and run.learned_for in updates}
            for method, by_seed in comparison.runs.items()
        }
        of_those = replace(comparison, runs={method: by_seed for method, by_seed in measured.items() if by_seed})
        table(of_those, kind, lambda run, kind=kind: run.scores[kind], baseline, 2, seeds_own=True)  # type: ignore[misc]


def main() -> int:
    """Reads and prints."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="recorded runs")
    parser.add_argument("--phases", required=True, help="such as 6-9")
    parser.add_argument("--baseline", default="backprop")
    parser.add_argument("--without", type=int, nargs="*", default=[], metavar="SEED", help="seeds to leave out")
    args = parser.parse_args()
    phases = parse_seeds(args.phases, "--phases")
    comparison = compare(run for run in map(read_run, find_runs([args.folder])) if run.config.seed not in args.without)
    if not isinstance(comparison.config, Config):
        raise UserError(f"'{args.folder}' has runs of agents.learn, which have tasks and no phases")
    if args.baseline not in comparison.runs:
        raise UserError(f"--baseline must be one of {', '.join(comparison.runs)}, got '{args.baseline}'")
    if parts := [phase for phase in phases if phase not in comparison.phases]:
        whole = ", ".join(map(str, comparison.phases))
        raise UserError(f"--phases must be whole in every run, {whole}; got {', '.join(map(str, parts))}")
    for line in left_out(comparison):
        print(f"warning: {line}", file=sys.stderr)

    def final_return(run: AgentResult) -> float:
        finals = [run.phases[phase]["final_return"] for phase in phases]
        return float(np.mean([np.nan if final is None else final for final in finals]))

    def mean_of(measure: str) -> Callable[[AgentResult], float]:
        return lambda run: float(np.mean([phase_measures(run, phase)[measure] for phase in phases]))

    of_phases = f"phases {', '.join(map(str, phases))}"
    table(comparison, f"final return, {of_phases}", final_return, args.baseline, 1, seeds_own=False)
    table(comparison, f"mean return, {of_phases}", mean_of("area"), args.baseline, 1, seeds_own=False)
    first = comparison.config.networks[0]
    table(comparison, f"dormant units of {first} (%)", mean_of("dormant_policy"), args.baseline, 2, seeds_own=True)
    if any(STD in run.curve for run in comparison.runs[args.baseline].values()):
        table(comparison, "standard deviation of the actions", mean_of("std"), args.baseline, 4, seeds_own=True)
    tables_of_scores(comparison, args.baseline)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
