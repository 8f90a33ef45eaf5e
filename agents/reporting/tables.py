"""The tables of a comparison, as Markdown and as CSV, and what is left out of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.reporting.comparison import (
    CONFIDENCE,
    LEAST_SEEDS,
    MEASURES,
    Comparison,
    Estimate,
    Statistic,
    estimate,
    paired_differences,
    phase_ends,
    phase_measures,
    run_measures,
    values,
    whole_phases,
)
from agents.reporting.departures import departures_of, in_words
from agents.reporting.results import AgentResult, RunResult
from agents.runs.config import Config
from agents.runs.protocols import PROTOCOLS, protocol_of
from agents.runs.verdict import LEAST_PHASES, Sign, and_list, judge
from agents.supervised.config import LearningConfig

_TENTHS = 10
_NAMED = 3  # of runs that lack a phase; what is longer is a number
_KINDS: dict[Statistic, str] = {"mean": "Student's", "iqm": "Student's, of a trimmed mean"}


def left_out(comparison: Comparison) -> list[str]:
    """What a reader must know is not in the averages."""
    lines = [f"left out, not complete: {run.path}, {run.progress}" for run in comparison.unfinished]
    lines += missing_seeds(comparison)
    lines += _not_of_presets(departures_of(comparison))
    lines += left_out_of_runs(comparison.all_runs, comparison.phases)
    return [*lines, *partly_measured(comparison)]


def _not_of_presets(by_method: dict[str, dict[str, Any]]) -> list[str]:
    """What all methods share of the settings in which they depart from their presets, and what only some have."""
    first, *others = by_method.values()
    shared = {name: value for name, value in first.items() if all(name in own and own[name] == value for own in others)}
    lines = (
        [f"not as in the preset: {in_words(shared)} of {'every method' if others else next(iter(by_method))}"] if shared else []
    )
    of_settings: dict[str, list[str]] = {}
    for method, settings in by_method.items():
        if own := {name: value for name, value in settings.items() if name not in shared}:
            of_settings.setdefault(in_words(own), []).append(method)
    return lines + [f"not as in the preset: {settings} of {', '.join(methods)}" for settings, methods in of_settings.items()]


def missing_seeds(comparison: Comparison) -> list[str]:
    """A line for each method that lacks seeds which others have."""
    return [
        f"missing, though other methods have it: {method} with seed {', '.join(map(str, seeds))}"
        for method, seeds in comparison.missing.items()
    ]


def left_out_of_runs(runs: Sequence[Any], phases: Sequence[int]) -> list[str]:
    """What is not in averages of these runs over these phases, whatever their methods are."""
    lines = []
    if partly := {phase for run in runs for phase in whole_phases(run)} - set(phases):
        numbers = ", ".join(map(str, sorted(partly)))
        without = sorted((run for run in runs if partly - set(whole_phases(run))), key=lambda run: len(whole_phases(run)))
        more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
        named = f"not in {', '.join(str(run.path) for run in without[:_NAMED])}{more}"
        lines.append(f"left out of all averages, because they are not whole in every run: phases {numbers}; {named}")
    for run in runs:
        if isinstance(run, AgentResult):
            if empty := [phase for phase in phases if not run.phases[phase]["episodes"]]:
                lines.append(f"no episode ended in phase{'s' if len(empty) > 1 else ''} {phase_range(empty)} of {run.path}")
        elif run.diverged:
            lines.append(f"diverged, its {run.config.score} is no number from some task on: {run.path}")
    packages = dict.fromkeys(name for run in runs for name in run.versions)
    if differing := [name for name in packages if len({one for run in runs for one in _versions(run, name)}) > 1]:
        lines.append(f"runs were made by different versions of {', '.join(differing)}")
    return lines


def _versions(run: RunResult, package: str) -> list[str]:
    """Those that a run was made by, of which it may have had several; one that is empty where it does not tell."""
    return run.versions.get(package, "").split(", ")


def partly_measured(comparison: Comparison) -> list[str]:
    """A line for each method with measures of some of its seeds, or of some of a seed's phases, alone."""
    lines = []
    for method, by_seed in comparison.runs.items():
        of_seeds = {seed: run_measures(run, comparison.phases) for seed, run in by_seed.items()}
        without: dict[str, list[str]] = {}
        for name, words in comparison.measures.items():
            lacking = [str(seed) for seed, measures in of_seeds.items() if np.isnan(measures[name])]
            if 0 < len(lacking) < len(by_seed):
                without.setdefault(", ".join(lacking), []).append(words)
        lines += [f"not measured of {method}, seed {seeds}: {', '.join(names)}" for seeds, names in without.items()]
        gaps: dict[tuple[str, str], list[str]] = {}
        for seed, run in by_seed.items():
            for phases, names in _gaps(run, comparison).items():
                gaps.setdefault((phases, names), []).append(str(seed))
        for (phases, names), seeds in gaps.items():
            lines.append(f"not measured of {method}, seed {', '.join(seeds)}, in phase {phases}: {names}")
    return lines


def _gaps(run: Any, comparison: Comparison) -> dict[str, str]:
    """The phases in which an episode ended and some measures, which other phases of the run have, are missing; and which."""
    if not isinstance(run, AgentResult):
        return {}
    rows = {phase: phase_measures(run, phase) for phase in comparison.phases if run.phases[phase]["episodes"]}
    found: dict[str, list[str]] = {}
    for name, words in comparison.measures.items():
        if name == "drop":  # which the first phase cannot have, nor one after a phase without an episode
            continue
        lacking = [str(phase) for phase, of_phase in rows.items() if np.isnan(of_phase[name])]
        if 0 < len(lacking) < len(rows):
            found.setdefault(", ".join(lacking), []).append(words)
    return {phases: ", ".join(names) for phases, names in found.items()}


def told_of_changes(comparison: Comparison) -> list[str]:
    """A line that names the methods that get a signal, where others do without."""
    told = [method for method, by_seed in comparison.runs.items() if any(_is_told(run.config) for run in by_seed.values())]
    if not told or len(told) == len(comparison.runs):
        return []
    what = "task" if isinstance(comparison.all_runs[0].config, LearningConfig) else "phase"
    return [f"told when a {what} begins, which the other methods are not: {', '.join(told)}"]


def _is_told(config: Config | LearningConfig) -> bool:
    return config.needs_signal if isinstance(config, LearningConfig) else config.preset.needs_signal


def csv_table(comparison: Comparison) -> str:
    """A row for each whole phase, or for each task, of each run."""
    text = io.StringIO()
    table = csv.writer(text)
    config = comparison.config
    parameters = config.params if isinstance(config, Config) else ()
    unit = "phase" if isinstance(config, Config) else "task"
    names = list(phase_measures(comparison.all_runs[0], comparison.phases[0]))
    table.writerow(["method", "seed", unit, *parameters, *names])
    for run in comparison.all_runs:
        for phase in whole_phases(run):
            of_world = values(run)[phase].values() if isinstance(run, AgentResult) else ()
            numbers = phase_measures(run, phase).values()
            cells = ["" if np.isnan(number) else repr(float(number)) for number in numbers]
            table.writerow([run.config.label, run.config.seed, phase, *of_world, *cells])
    return text.getvalue()


def markdown_table(comparison: Comparison, statistic: Statistic, baseline: str) -> str:
    """The whole table, with headings.

    Args:
        comparison: The runs.
        statistic: What is taken over seeds.
        baseline: The method that differences are taken from.
    """
    over = {"mean": "Mean", "iqm": "Interquartile mean"}[statistic]
    missing = [f"- {line}" for line in (*left_out(comparison), *told_of_changes(comparison))]
    lines = [
        *_heading(comparison, over),
        f"with a {100 * CONFIDENCE:.0f} % interval over seeds ({_KINDS[statistic]}).",
        f"Below {LEAST_SEEDS} seeds there is none, and the values of the seeds stand in parentheses.",
        "",
        *([*missing, ""] if missing else []),
        "## Methods",
        "",
        row(["", *(f"{method} ({len(by_seed)})" for method, by_seed in comparison.runs.items())]),
        row(["---"] * (1 + len(comparison.runs))),
    ]
    of_methods = {
        method: [run_measures(run, comparison.phases) for run in by_seed.values()]
        for method, by_seed in comparison.runs.items()
    }
    for name, words in comparison.measures.items():
        estimates = [estimate([row[name] for row in rows], statistic) for rows in of_methods.values()]
        if any(each.each for each in estimates):
            lines.append(row([words, *map(cell, estimates)]))
    others = [method for method in comparison.runs if method != baseline]
    if others:
        differences = {method: paired_differences(comparison, method, baseline, statistic) for method in others}
        lines += ["", f"## Minus {baseline}, paired by seed", "", row(["", *others]), row(["---"] * (1 + len(others)))]
        rows = {words: [differences[method][name] for method in others] for name, words in comparison.measures.items()}
        rows = {words: estimates for words, estimates in rows.items() if any(each.each for each in estimates)}
        lines += [row([words, *(cell(each, signed=True) for each in estimates)]) for words, estimates in rows.items()]
        lines += [] if rows else ["", f"No other method has a seed in common with {baseline}."]
    config = comparison.config
    if isinstance(config, Config):
        lines += _of_protocol(comparison, config, statistic)
        lines += ["", "## Signs of loss of plasticity", "", *_signs(comparison, config)]
        lines += ["", "## Final return by phase", "", *_by_phase(comparison, statistic), ""]
    else:
        lines += ["", f"## {config.score.capitalize()} by tenth of the tasks", "", *_by_tenth(comparison, statistic), ""]
    return "\n".join(lines)


def _heading(comparison: Comparison, over: str) -> list[str]:
    """What the comparison is of, and what is averaged."""
    config, labels = comparison.config, ", ".join(comparison.runs)
    if isinstance(config, LearningConfig):
        stream = "".join(f", {name} {value}" for name, value in config.stream.items())
        length = f"{config.tasks:,} tasks{f' of {config.examples:,} examples' if config.examples else ''}"
        data = f"Data: {config.dataset}{stream}. {length}. {over} over seeds,"
        return [f"# {config.problem}: {labels}", "", data]
    environments = f"{config.n_envs} environment{'s' if config.n_envs > 1 else ''}"
    change = f", {config.change_words}" if config.period else ""
    return [
        f"# {config.env}: {labels}",
        "",
        f"{config.timesteps:,} steps of {environments}{change}.",
        f"{over} over seeds of each run's mean over phases {phase_range(comparison.phases)},",
    ]


def phase_range(phases: Sequence[int]) -> str:
    """Phases in words: ``"0 to 8"``, or one by one where some between them are missing."""
    whole = len(phases) > 1 and phases[-1] - phases[0] == len(phases) - 1
    return f"{phases[0]} to {phases[-1]}" if whole else ", ".join(map(str, phases))


def _of_protocol(comparison: Comparison, config: Config, statistic: Statistic) -> list[str]:
    """What the source of a protocol reports, of runs of one: a row for each method."""
    name = protocol_of(config)
    if name is None or not PROTOCOLS[name].table:
        return []
    protocol = PROTOCOLS[name]
    lines = ["", f"## As its source reports `{name}`", "", protocol.source, ""]
    lines += [row(["", *(MEASURES[measure] for measure in protocol.table)]), row(["---"] * (1 + len(protocol.table)))]
    settings = departures_of(comparison)
    for method, by_seed in comparison.runs.items():
        measures = [run_measures(run, comparison.phases) for run in by_seed.values()]
        cells = [cell(estimate([of_run[measure] for of_run in measures], statistic)) for measure in protocol.table]
        label = f"{method}, {in_words(settings[method])}" if settings[method] else method
        lines.append(row([f"{label} ({len(by_seed)})", *cells]))
    return lines


_SIGNS: dict[Sign, str] = {
    "units": "dormant or saturated units",
    "rank": "falling rank",
    "return": "return falling at like values",
    "control": "return below a fresh network's",
}


def _signs(comparison: Comparison, config: Config) -> list[str]:
    """In how many seeds of each method the verdict sees each sign, of those in which it could be looked for."""
    phases = comparison.phases
    fresh = {seed: phase_ends(run, phases) for seed, run in comparison.runs.get("reset-all", {}).items()}
    verdicts = {
        method: [
            judge(phase_ends(run, phases), and_list(config.params), method, None if method == "reset-all" else fresh.get(seed))
            for seed, run in by_seed.items()
        ]
        for method, by_seed in comparison.runs.items()
    }
    lines = [row(["seeds with the sign after the last phase", *verdicts]), row(["---"] * (1 + len(verdicts)))]
    for sign, words in _SIGNS.items():
        judged = [[verdict for verdict in of_method if sign in verdict.judged] for of_method in verdicts.values()]
        cells = [f"{sum(sign in verdict.signs for verdict in each)} of {len(each)}" if each else "–" for each in judged]
        lines.append(row([words, *cells]))
    if len(phases) < LEAST_PHASES:
        number = f"{len(phases)} phase{'s' if len(phases) > 1 else ''}"
        lines += ["", f"With {number} it is too early to tell; {LEAST_PHASES} are needed."]
    if fresh:
        lines += ["", "`reset-all` cannot lose plasticity from phase to phase: its signs are false alarms."]
    else:
        lines += ["", "There is no fresh-network control (`reset-all`), so a harder world cannot be told from a worse learner."]
    return lines


def _by_phase(comparison: Comparison, statistic: Statistic) -> list[str]:
    lines = [row(["phase", *comparison.runs]), row(["---"] * (1 + len(comparison.runs)))]
    for phase in comparison.phases:
        finals = [
            [phase_measures(run, phase)["final_return"] for run in by_seed.values()] for by_seed in comparison.runs.values()
        ]
        lines.append(row([str(phase), *(cell(estimate(of_method, statistic)) for of_method in finals)]))
    return lines


def _by_tenth(comparison: Comparison, statistic: Statistic) -> list[str]:
    lines = [row(["tasks", *comparison.runs]), row(["---"] * (1 + len(comparison.runs)))]
    for tasks in np.array_split(comparison.phases, min(_TENTHS, len(comparison.phases))):
        cells = [
            cell(
                estimate(
                    [float(np.mean([phase_measures(run, task)[run.config.score] for task in tasks])) for run in runs], statistic
                )
            )
            for runs in (by_seed.values() for by_seed in comparison.runs.values())
        ]
        lines.append(row([f"{tasks[0]}–{tasks[-1]}" if len(tasks) > 1 else f"{tasks[0]}", *cells]))
    return lines


def row(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def cell(value: Estimate, *, signed: bool = False) -> str:
    """A statistic with its interval; without one, with the values of the seeds."""
    if not value.each:
        return "–"
    sign = "+" if signed else ""
    if value.low is None or value.high is None:
        each = f" ({', '.join(_number(number, sign) for number in value.each)})" if len(value.each) > 1 else ""
        return _number(value.centre, sign) + each
    return f"{_number(value.centre, sign)} [{_number(value.low, sign)}, {_number(value.high, sign)}]"


def _number(number: float, sign: str) -> str:
    digits = 0 if abs(number) >= 100 or number == 0 else 1 if abs(number) >= 10 else 2 if abs(number) >= 0.1 else 4
    return f"{number:{sign},.{digits}f}"
