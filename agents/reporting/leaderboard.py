"""A page with a table for each protocol, drawn from recorded runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agents.reporting.comparison import Comparison, Estimate, Statistic, check_worlds, compare, estimate, run_measures
from agents.reporting.departures import departures, in_words
from agents.reporting.results import AgentResult, find_runs, read_run
from agents.reporting.tables import cell, left_out_of_runs, missing_seeds, partly_measured, phase_range, row
from agents.runs.config import Config
from agents.runs.errors import UserError
from agents.runs.protocols import PROTOCOLS, protocol_of
from agents.runs.run_folder import RunFolder
from agents.supervised.config import LearningConfig

Boards = Mapping[str, Sequence[Comparison]]
"""Of each protocol, the runs that may be compared with one another: those with the same settings beside the method's."""

COLUMNS = {
    "area": "return",
    "final_return": "final return",
    "trainability": "trainability",
    "dormant_policy": "dormant (%)",
    "cost": "µs per step",
}
"""Measures, and what they are called at the head of the table."""

MARK = "<!-- What follows is drawn from recorded runs by the command above. -->"
"""The line of the page below which all is drawn anew."""


def read_runs_of_agents(folders: Iterable[Path]) -> list[AgentResult]:
    """What came of all runs of reinforcement learning below some folders.

    Raises:
        UserError: A folder without runs, or a run that cannot be read.
    """
    found = []
    for path in find_runs(folders):
        if isinstance(RunFolder.open(path, Config, LearningConfig)[1], Config):
            result = read_run(path)
            assert isinstance(result, AgentResult)  # noqa: S101
            found.append(result)
    return found


def sort_runs(results: Iterable[AgentResult]) -> tuple[Boards, list[str]]:
    """Runs by protocol, and within it by the settings in which they depart from it.

    Returns:
        The boards, in the order of protocols; and lines about the runs that are on none.

    Raises:
        UserError: Runs of one method that differ, or a seed that met other worlds.
    """
    groups: dict[str, dict[str, list[AgentResult]]] = {}
    lines, strangers = [], []
    for result in results:
        name = protocol_of(result.config)
        if name is None:
            strangers.append(f"{result.path}, {result.progress}")
        elif not result.complete:
            lines.append(f"left out, not complete: {result.path}, {result.progress}")
        else:
            groups.setdefault(name, {}).setdefault(_departures(result.config, name), []).append(result)
    for of_protocol in groups.values():
        check_worlds(run for group in of_protocol.values() for run in group)
    if strangers:
        more = f"; and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        lines.append(f"left out, of no protocol: {strangers[0]}{more}")
    return {name: [compare(group) for group in groups[name].values()] for name in PROTOCOLS if name in groups}, lines


def _departures(config: Config, name: str) -> str:
    return in_words(departures(config, PROTOCOLS[name].run))


def leaderboard(page: str, boards: Boards, statistic: Statistic) -> str:
    """The page, with what stands below its mark drawn anew.

    Args:
        page: As it was; empty where there is none yet.
        boards: What :func:`sort_runs` returned.
        statistic: What is taken over seeds.
    """
    lines = [page.partition(MARK)[0].strip() or "# Leaderboard", "", MARK, ""]
    if statistic == "iqm":
        lines += ["Over seeds, what follows are interquartile means.", ""]
    for name, comparisons in boards.items():
        lines += [f"## {name}", "", PROTOCOLS[name].source, "", *_table(name, comparisons, statistic), ""]
    if missing := [f"`{name}`" for name in PROTOCOLS if name not in boards]:
        lines += ["## Without recorded runs", "", f"{', '.join(missing)}.", ""]
    return "\n".join(lines)


def _table(name: str, comparisons: Sequence[Comparison], statistic: Statistic) -> list[str]:
    phases = sorted(set.intersection(*(set(comparison.phases) for comparison in comparisons)))
    rows, partly = [], []
    if not phases:
        raise UserError(f"no phase is whole in every run of {name}")
    all_runs = [run for comparison in comparisons for run in comparison.all_runs]
    measured = [run for run in all_runs if math.isfinite(run.trainability)]
    usual = Counter(run.learned_for for run in measured).most_common(1)[0][0] if measured else None
    for label, runs in _by_label(name, comparisons).items():
        measures = [
            {
                **run_measures(run, phases),
                "trainability": run.trainability if run.learned_for == usual else math.nan,
                "cost": run.cost,
            }
            for run in runs
        ]
        estimates = [estimate([of_run[column] for of_run in measures], statistic) for column in COLUMNS]
        rows.append((label, len(runs), estimates))
        scored = sum(math.isfinite(of_run["trainability"]) for of_run in measures)
        if 0 < scored < len(runs):
            partly.append(f"{label} {scored} of {len(runs)}")
    rows.sort(key=lambda of_row: -_or_last(of_row[2][0]))
    environments = comparisons[0].config
    assert isinstance(environments, Config)  # noqa: S101
    counted = f"Phases {phase_range(phases)} of {environments.env}, {environments.change_words} steps."
    missing = [line for comparison in comparisons for line in (*missing_seeds(comparison), *partly_measured(comparison))]
    notes = [f"- {line}" for line in (*missing, *left_out_of_runs(all_runs, phases))]
    if partly:
        notes.append(f"- Seeds of which trainability was measured: {'; '.join(partly)}.")
    others = sorted({f"`{run.config.method}`, seed {run.config.seed}" for run in measured if run.learned_for != usual})
    if others:
        by = usual or "an unknown number of"
        notes.append(f"- Trainability that was not measured by {by} updates is left out: {'; '.join(others)}.")
    return [
        counted,
        "",
        row(["method", "seeds", *COLUMNS.values()]),
        row(["---"] * (2 + len(COLUMNS))),
        *(row([label, str(seeds), *map(cell, estimates)]) for label, seeds, estimates in rows),
        *(["", *notes] if notes else []),
    ]


def _by_label(name: str, comparisons: Sequence[Comparison]) -> dict[str, list[AgentResult]]:
    """The runs of each row. Those of a sweep over values, one of which is the method's own, are beside those without."""
    found: dict[str, dict[int, AgentResult]] = {}
    for comparison in comparisons:
        for by_seed in comparison.runs.values():
            for seed, run in by_seed.items():
                of_label = found.setdefault(_name(run.config, name), {})
                if seed in of_label:
                    label = _name(run.config, name)
                    raise UserError(f"'{of_label[seed].path}' and '{run.path}' are both {label} with seed {seed}")
                of_label[seed] = run
    return {label: list(of_label.values()) for label, of_label in found.items()}


def _or_last(value: Estimate) -> float:
    return value.centre if math.isfinite(value.centre) else -math.inf


def _name(config: Config, protocol: str) -> str:
    other = _departures(config, protocol)
    return f"`{config.method}`{' †' if config.preset.needs_signal else ''}" + (f", {other}" if other else "")
