"""What came of runs, read from their folders, and the compact form in which it is recorded."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.runs.config import Config
from agents.runs.errors import UserError, message_of
from agents.runs.logs import read_columns, write_csv
from agents.runs.recording import steps_between_rows
from agents.runs.run_folder import RunFolder, write_atomically
from agents.sb3.phases import Phase
from agents.supervised.config import LearningConfig

BINS = 20
"""Parts of equal length that a phase is cut into."""

RETURN = "return"
STD = "train/std"
"""The standard deviation of a Gaussian policy's actions, under SB3's name for it."""

TRAINABILITY = "trainability.csv"
MEASURED_BY = "trainability.json"  # the settings
RECORDED = ("config.json", "summary.json", "curve.csv", TRAINABILITY, MEASURED_BY)
_KIND = "policy-fresh-head"  # of the kinds of learning there, the one that is compared
_DIGITS = 5  # of what is recorded of supervised runs
_MEASURES = (
    *("dormant_fraction", "saturated_fraction", "gradient_dormant_fraction"),
    *("stable_rank", "probe_ntk_effective_rank", "weight_magnitude"),
)

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RunResult:
    """What came of a run.

    Attributes:
        path: Its folder.
        config: Its configuration.
        progress: How far it is, in words.
        complete: Whether that is all.
        versions: Those of its ``summary.json``; where a package had several, all of them.
        curve: Empty while the run is not complete. Of reinforcement learning, arrays of shape ``(phases, BINS)``: mean
            ``"return"`` of the episodes that ended, without those that began in an earlier phase where changes come in
            mid-episode, and the last value of each measure and of :data:`STD` (under its name in
            TensorBoard), in each part of each phase; NaN where there is none. Of supervised learning, arrays of shape
            ``(tasks, 1)``: every measure under its name in TensorBoard.
    """

    path: Path
    config: Config | LearningConfig
    progress: str
    complete: bool
    versions: dict[str, str]
    curve: dict[str, Array]


@dataclass(frozen=True, eq=False)
class AgentResult(RunResult):
    """What came of a run of reinforcement learning.

    Attributes:
        phases: The ``phases`` of its ``summary.json``; empty while it is not complete.
        cost: Microseconds of wall-clock time per environment step, since the start or the last resume; NaN where it was not
            recorded.
        scores: Of trainability at the end, by kind, a fresh network's being 1; empty where it was not measured.
        learned_for: The updates of each learning there; None where that was not recorded.
    """

    config: Config
    phases: list[dict[str, Any]]
    cost: float = math.nan
    scores: dict[str, float] = field(default_factory=dict)
    learned_for: int | None = None

    @property
    def trainability(self) -> float:
        """The score of the policy that is compared; NaN where it was not measured."""
        return self.scores.get(_KIND, math.nan)

    @property
    def phase_lengths(self) -> list[int]:
        """Steps that each phase lasts."""
        return _phase_lengths(self.config, self.phases)


@dataclass(frozen=True, eq=False)
class LearningResult(RunResult):
    """What came of a supervised run."""

    config: LearningConfig

    @property
    def diverged(self) -> bool:
        """Whether its score is no number from some task on."""
        return not np.isfinite(self.curve[f"task/{self.config.score}"]).all()


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """The folders of all runs below some folders, which may be runs themselves.

    Raises:
        UserError: A folder that does not exist, cannot be read, or has no run in it.
    """
    found: list[Path] = []
    for folder in folders:
        if not os.path.isdir(folder):  # noqa: PTH112  Path.is_dir raises where a name is too long
            raise UserError(f"'{folder}' is no folder")
        runs = sorted(_with_config(folder))
        if not runs:
            raise UserError(f"'{folder}' has no runs in it: no config.json at any depth")
        found += runs
    return list({run.resolve(): run for run in found}.values())


def _with_config(folder: Path) -> Iterator[Path]:
    """The folders at any depth, links to others followed, that have a config.json."""

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read '{error.filename}': {error.strerror}") from error

    met: set[Path] = set()
    for path, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        if (there := Path(path).resolve()) in met:  # a link that leads back
            folders.clear()
            continue
        met.add(there)
        if "config.json" in files:
            yield Path(path)


def read_run(path: Path) -> RunResult:
    """What came of the run in a folder, be it the run's own or one written by :func:`record`.

    Raises:
        UserError: The folder has no run, or its files cannot be read, contradict each other, or are of fewer steps than the
            run is to have.
    """
    folder, config = RunFolder.open(path, Config, LearningConfig)
    try:
        if isinstance(config, LearningConfig):
            return _read_learning(folder, config)
        assert isinstance(config, Config)  # noqa: S101
        summary = _read_summary(folder, "phases", "timesteps", "time")
        if not summary["complete"]:
            progress = f"{_steps_so_far(folder):,} of {config.timesteps:,} steps"
            return AgentResult(path, config, progress, False, {}, {}, [])
        phases = summary["phases"]
        _check_phases(phases, config.params)
        _check_length(summary, config)
        recorded = path / "curve.csv"
        curve = _read_curve(recorded, config, phases) if recorded.exists() else _make_curve(folder, config, summary)
        cost, scores = _cost(summary["time"]), _scores(path / TRAINABILITY, summary["timesteps"])
        learned_for = _learned_for(path / MEASURED_BY)
        progress = f"{summary['timesteps']:,} steps"
        return AgentResult(path, config, progress, True, _versions(summary), curve, phases, cost, scores, learned_for)
    except (*_OF_FILES, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"'{path}' cannot be read: {message_of(error) or type(error).__name__}") from error


# What reading numbers, CSV and JSON of any kind leads to.
_OF_FILES = (OSError, ValueError, OverflowError, RecursionError, MemoryError, csv.Error)


def _read_summary(folder: RunFolder, *names: str) -> dict[str, Any]:
    """What ``summary.json`` says, with these names where the run is complete."""
    if not folder.summary.exists():
        return {"complete": False}
    try:
        summary: dict[str, Any] = json.loads(folder.summary.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"summary.json is no JSON: {error}") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("complete"), bool):
        raise ValueError("summary.json does not say whether the run is complete")
    if missing := [name for name in ("versions", *names) if summary["complete"] and name not in summary]:
        raise ValueError(f"summary.json has no '{missing[0]}'")
    return summary


def _versions(summary: dict[str, Any]) -> dict[str, str]:
    versions, earlier = summary["versions"], summary.get("earlier_versions", [])
    for each in (*earlier, versions):
        if not isinstance(each, dict) or not all(isinstance(version, str) for version in each.values()):
            raise ValueError(f"summary.json has versions that are none: {each!r}")
    return {name: ", ".join(dict.fromkeys(each[name] for each in (*earlier, versions) if name in each)) for name in versions}


def _cost(time: dict[str, Any]) -> float:
    seconds, steps = time.get("seconds", 0), time.get("steps", 0)  # which runs recorded earlier do not have
    return 1e6 * seconds / steps if steps else math.nan


def _scores(path: Path, steps: int) -> dict[str, float]:
    """The scores at the end of a run, by kind; empty where that checkpoint was not measured."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["kind"]: float(row["score"]) for row in csv.DictReader(file) if int(row["steps"]) == steps}


def _learned_for(path: Path) -> int | None:
    return int(json.loads(path.read_text(encoding="utf-8"))["updates"]) if path.exists() else None


def _read_learning(folder: RunFolder, config: LearningConfig) -> LearningResult:
    summary = _read_summary(folder)
    recorded = folder.path / "curve.csv"
    columns = read_columns(recorded if recorded.exists() else folder.progress, strict=summary["complete"])
    tasks = len(columns.get("task/number", ()))
    progress = f"{tasks:,} of {config.tasks:,} tasks"
    if not summary["complete"]:
        return LearningResult(folder.path, config, progress, False, {}, {})
    if tasks != config.tasks or (columns["task/number"] != np.arange(tasks)).any():
        raise ValueError(f"{progress} are there, though summary.json says that it is complete")
    curve = {name: values[:, None] for name, values in columns.items() if not name.startswith("time/")}
    if f"task/{config.score}" not in columns:
        raise ValueError(f"there is no column 'task/{config.score}'")
    return LearningResult(folder.path, config, progress, True, _versions(summary), curve)


def _record_learning(result: LearningResult, folder: Path) -> None:
    names = ["task/number", *sorted(name for name in result.curve if name != "task/number")]
    rows = []
    for task in range(len(result.curve["task/number"])):
        values = [result.curve[name][task, 0] for name in names]
        rows.append(["" if np.isnan(value) else f"{value:.{_DIGITS}g}" for value in values])
    write_csv(folder / "curve.csv", names, rows)


def check_place(result: RunResult, folder: Path) -> None:
    """Refuses to record a run where anything else is than what was recorded of it before.

    Raises:
        UserError: The folder has a run of other settings or results, one that is trained there, or other files; or it cannot be
            read.
    """
    advice = f"'{result.path}' is to be recorded to another folder"
    if not (folder / "config.json").exists():
        if taken := [name for name in RECORDED if os.path.lexists(folder / name)]:
            raise UserError(f"'{folder}' has a {taken[0]} of no run, which is not overwritten: {advice}")
        return
    _, there = RunFolder.open(folder, Config, LearningConfig)
    for name, own, theirs in result.config.differences(there):
        raise UserError(
            f"'{folder}' has another run, which is not overwritten: its {name} is {theirs}, that of '{result.path}' {own}; "
            "record it to another folder"
        )
    if trained := [name for name in ("checkpoints", "progress.csv", "episodes.csv") if (folder / name).exists()]:
        raise UserError(f"'{folder}' is a run itself, with its {trained[0]}: {advice}")
    if _results(folder) not in (None, _results(result.path)):
        raise UserError(f"'{folder}' has other results of this run, which are not overwritten: {advice}")


def _results(folder: Path) -> dict[str, Any] | None:
    """What a ``summary.json`` says but for times; None where there is none."""
    path = folder / "summary.json"
    try:
        summary: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        return None if summary is None else {name: value for name, value in summary.items() if name != "time"}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"'{path}' cannot be read: {message_of(error)}") from error


def record(result: RunResult, folder: Path) -> None:
    """Writes what a report needs of a complete run: ``config.json``, ``curve.csv`` and ``summary.json``, tens of kB in all.

    And ``trainability.csv`` with its settings, where it was measured. The summary, which says that all is there, comes last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.json", (result.path / "config.json").read_text(encoding="utf-8"))
    if isinstance(result, LearningResult):
        _record_learning(result, folder)
    else:
        assert isinstance(result, AgentResult)  # noqa: S101
        _record_agent(result, folder)
    measured = [name for name in (TRAINABILITY, MEASURED_BY) if (result.path / name).exists()]
    for name in (*measured, "summary.json"):
        write_atomically(folder / name, (result.path / name).read_text(encoding="utf-8"))


def _record_agent(result: AgentResult, folder: Path) -> None:
    names, rows = sorted(result.curve), []
    for phase in range(len(result.phases)):
        for part in range(BINS):
            values = [result.curve[name][phase, part] for name in names]
            rows.append([phase, part, *("" if np.isnan(value) else repr(float(value)) for value in values)])
    write_csv(folder / "curve.csv", ["phase", "bin", *names], rows)


def time_in_phase(steps: Array, envs: Array, phases: Array) -> Array:
    """When, by the clock of its environment's own phase, each of some episodes ended.

    Environments change at the end of their own episodes, so a phase begins for each at another step.

    Args:
        steps: Steps of the run, over all environments, at the end of each episode, in their order: ``(episodes,)``.
        envs: The environment of each.
        phases: The phase of each.

    Returns:
        Steps of the run since the last episode of an earlier phase ended in the same environment.
    """
    times = np.empty_like(steps)
    for env in np.unique(envs):
        own = envs == env
        own_steps, own_phases = steps[own], phases[own]
        starts = {phase: max(own_steps[own_phases < phase], default=0.0) for phase in np.unique(own_phases)}
        times[own] = own_steps - np.array([starts[phase] for phase in own_phases])
    return times


def _times(config: Config, of_summary: list[dict[str, Any]], steps: Array, envs: Array, phases: Array) -> Array:
    """As :func:`time_in_phase`; where changes come in mid-episode, since the step in which all environments changed."""
    if not config.changes_now:
        return time_in_phase(steps, envs, phases)
    starts = np.cumsum([0.0, *(phase["steps"] for phase in of_summary)])
    times: Array = steps - starts[phases.astype(int)]
    return times


def part_of_phase(times: Array, length: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of the :data:`BINS` parts of its phase each time falls in; what is later is in the last.

    The length is that of all phases, or of the phase of each time. Part b reaches from just after b/BINS of it to (b + 1)/BINS.
    """
    parts: NDArray[np.int64] = np.clip(np.ceil(times * BINS / length) - 1, 0, BINS - 1).astype(np.int64)
    return parts


def _check_phases(phases: list[dict[str, Any]], params: tuple[str, ...]) -> None:
    if not phases or not isinstance(phases, list):
        raise ValueError("summary.json has no phases")
    for phase in phases:
        if missing := [name for name in ("final_return", "episodes", "steps") if name not in phase]:
            raise ValueError(f"summary.json has a phase without '{missing[0]}'")
        final, number, steps = phase["final_return"], phase["episodes"], phase["steps"]
        if not (type(number) is int and type(steps) is int and (final is None) == (number == 0)):
            raise ValueError(f"summary.json has a phase of {steps!r} steps and {number!r} episodes with final return {final!r}")
        _check_numbers(phase, ("mean_return", "final_return", "final_return_error", *params))


def _check_numbers(phase: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        value = phase.get(name)
        if not (value is None or (type(value) in (int, float) and (name == "final_return_error" or math.isfinite(value)))):
            raise ValueError(f"summary.json has a {name.replace('_', ' ')} of {value!r}")


def _check_length(summary: dict[str, Any], config: Config) -> None:
    steps, of_phases = summary["timesteps"], sum(phase["steps"] for phase in summary["phases"])
    if type(steps) is not int or steps != of_phases:
        raise ValueError(f"summary.json has {steps!r} timesteps, and {of_phases} in its phases")
    if steps < config.timesteps:
        raise ValueError(
            f"{steps:,} of {config.timesteps:,} steps are there, though summary.json says that it is complete; "
            "agents.train --resume goes on with it"
        )


def _phase_lengths(config: Config, phases: list[dict[str, Any]]) -> list[int]:
    """Steps that each phase lasts: the period, or what it lasted where phases differ; without changes the whole run."""
    return [max(1, phase["steps"]) if config.phases_differ else config.phase_steps for phase in phases]


def _check_episodes(episodes: dict[str, Array], of_summary: list[dict[str, Any]]) -> None:
    phases = len(of_summary)
    if episodes and not np.isin(episodes["phase"], np.arange(phases)).all():
        raise ValueError(f"episodes.csv has episodes in other phases than the {phases} of summary.json")
    ended = np.bincount(episodes["phase"].astype(int), minlength=phases).tolist() if episodes else [0] * phases
    if ended != [phase["episodes"] for phase in of_summary]:
        raise ValueError(f"episodes.csv has {ended} episodes by phase, summary.json {[p['episodes'] for p in of_summary]}")
    if episodes and not np.isfinite(episodes["return"]).all():
        raise ValueError("episodes.csv has a return that is no finite number")
    for number, phase in enumerate(of_summary):
        if phase.get("mean_return") is None:
            continue
        of_episodes = Phase({}, returns=episodes["return"][episodes["phase"] == number].tolist())
        for name in ("mean_return", "final_return"):
            own, told = getattr(of_episodes, name), phase[name]
            if not math.isclose(own, told, rel_tol=1e-6, abs_tol=1e-6):
                words = name.replace("_", " ")
                raise ValueError(f"episodes.csv has a {words} of {own} in phase {number}, summary.json one of {told}")


def _check_progress(steps: Array, last: int, most_between: int) -> None:
    if not (np.diff(steps) > 0).all() or steps[-1] != last:
        raise ValueError(f"progress.csv does not go on from step to step up to {last:,}, where summary.json ends")
    between = np.diff(steps, prepend=0)
    if (between > most_between).any():
        end = int(np.argmax(between))
        raise ValueError(
            f"progress.csv has lost rows: there is none between steps {steps[end] - between[end]:,.0f} and {steps[end]:,.0f}, "
            f"and the run wrote one every {most_between:,} steps or more often"
        )


def _make_curve(folder: RunFolder, config: Config, summary: dict[str, Any]) -> dict[str, Array]:
    if not folder.progress.exists():
        raise ValueError("there is neither curve.csv, which a record has, nor progress.csv, which a run has")
    episodes, progress = (read_columns(path, strict=True) for path in (folder.episodes, folder.progress))
    of_summary = summary["phases"]
    _check_episodes(episodes, of_summary)
    phases, length = len(of_summary), np.array(_phase_lengths(config, of_summary))
    curve = {RETURN: np.full((phases, BINS), np.nan)}
    if episodes:
        times = _times(config, of_summary, episodes["step"], episodes["env"], episodes["phase"])
        # What an episode was rewarded that began before its phase is in part, or most of it, of the phase before.
        within = (episodes["length"] * config.n_envs <= times) | (not config.changes_now)
        of_episodes = episodes["phase"].astype(int)[within]
        cells = of_episodes * BINS + part_of_phase(times[within], length[of_episodes])
        counts = np.bincount(cells, minlength=phases * BINS).reshape(phases, BINS)
        sums = np.bincount(cells, weights=episodes["return"][within], minlength=phases * BINS).reshape(phases, BINS)
        np.divide(sums, counts, out=curve[RETURN], where=counts > 0)
    if "time/total_timesteps" not in progress:
        raise ValueError("progress.csv has no rows, or no column time/total_timesteps")
    steps = progress["time/total_timesteps"]
    _check_progress(steps, summary["timesteps"], steps_between_rows(config))
    phase = progress.get("env/phase", np.zeros_like(steps))
    if not np.isin(phase, np.arange(phases)).all():
        raise ValueError(f"progress.csv has rows whose env/phase is none of the {phases} phases of summary.json")
    phase = phase.astype(int)
    # A row tells of the rollout that ends at its step, and of the phase of the first environment there.
    parts = part_of_phase(_times(config, of_summary, steps, np.zeros_like(steps), phase), length[phase])
    for name in sorted(progress):
        if name == STD or name.split("/")[-1] in _MEASURES:
            curve[name] = np.full((phases, BINS), np.nan)
            recorded = np.isfinite(progress[name])
            curve[name][phase[recorded], parts[recorded]] = progress[name][recorded]
    return curve


def _read_curve(path: Path, config: Config, of_summary: list[dict[str, Any]]) -> dict[str, Array]:
    columns, phases = read_columns(path, strict=True), len(of_summary)
    if missing := [name for name in ("phase", "bin", RETURN) if name not in columns]:
        raise ValueError(f"{path.name} has no column '{missing[0]}', or no rows")
    if len(columns["phase"]) != phases * BINS:
        raise ValueError(f"{path.name} has {len(columns['phase'])} rows, not {BINS} for each of {phases} phases")
    rows = np.arange(phases * BINS)
    if (columns["phase"] != rows // BINS).any() or (columns["bin"] != rows % BINS).any():
        raise ValueError(f"{path.name} does not have the {BINS} parts of each phase in their order")
    curve = {name: values.reshape(phases, BINS) for name, values in columns.items() if name not in ("phase", "bin")}
    if np.isinf(curve[RETURN]).any():
        raise ValueError(f"{path.name} has a return that is no finite number")
    for number, (phase, returns) in enumerate(zip(of_summary, curve[RETURN], strict=True)):
        there, ended = np.isfinite(returns).any(), phase["episodes"] > 0
        if there != ended and not (config.changes_now and ended):  # where all may have begun in the phase before
            raise ValueError(f"{path.name} and summary.json differ in whether an episode ended in phase {number}")
    return curve


def _steps_so_far(folder: RunFolder) -> int:
    steps = read_columns(folder.progress).get("time/total_timesteps", np.zeros(1))
    return int(np.max(steps[np.isfinite(steps)], initial=0))
