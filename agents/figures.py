"""Draws a run, and a comparison of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from agents.comparison import (
    CONFIDENCE,
    LEAST_SEEDS,
    Comparison,
    Statistic,
    bootstrap_interval,
    centre_of,
    curves_of,
    fill,
    single,
    values,
)
from agents.config import Config
from agents.results import BINS, RETURN, RunResult, read_columns
from agents.run_folder import RunFolder
from agents.supervised.config import LearningConfig

_WINDOW = 20  # episodes in the running mean
_MAX_LABELS = 24  # more phases than this are shaded but not labelled


def draw_run(folder: RunFolder, config: Config) -> None:
    """Draws reward, utility and dormant units over environment steps, phases shaded, into the run's ``report.png``.

    Phases and their values are those of the first environment.

    Args:
        folder: The run; reads ``progress.csv`` and ``episodes.csv``.
        config: Its configuration.
    """
    progress, episodes = read_columns(folder.progress), read_columns(folder.episodes)
    if "time/total_timesteps" not in progress:
        return
    steps = progress["time/total_timesteps"]
    groups = [("dormant_fraction", "dormant units (%)", 100.0)]
    if any(name.endswith("/mean_utility") for name in progress):
        groups.insert(0, ("mean_utility", "mean utility", 1.0))

    figure = Figure(figsize=(10, 3.2 + 1.8 * len(groups)), layout="constrained")
    ratios = [2.0, *[1.2] * len(groups)]
    axes = figure.subplots(1 + len(groups), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    _draw_returns(axes[0], episodes)
    for axis, (measure, label, scale) in zip(axes[1:], groups, strict=True):
        _draw_layers(axis, progress, steps, measure, scale)
        axis.set_ylabel(label)
        if measure == "mean_utility":
            axis.set_yscale("log")  # layers differ by orders of magnitude
    spans = _phases(progress, steps, config.params)
    for i, axis in enumerate(axes):
        _shade(axis, spans, config.params, labelled=i == 0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0)
    axes[-1].set_xlabel("environment steps" + (f" (all {config.n_envs} environments)" if config.n_envs > 1 else ""))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(short_number))
    axes[-1].set_xlim(0, steps[-1])
    figure.suptitle(f"{config.env}   method {config.method}   seed {config.seed}", fontsize=11)
    figure.savefig(folder.figure, dpi=120)


def draw_learning(folder: RunFolder, config: LearningConfig) -> None:
    """Draws score, dormant units, rank and mean |w| over the tasks of a supervised run into the run's ``report.png``.

    Args:
        folder: The run; reads ``progress.csv``.
        config: Its configuration.
    """
    progress = read_columns(folder.progress)
    if "task/number" not in progress:
        return
    rows = [row for row in _MEASURES if any(name.endswith(f"/{row[0]}") for name in progress)]
    figure = Figure(figsize=(10, 3.2 + 1.6 * len(rows)), layout="constrained")
    axes = figure.subplots(1 + len(rows), 1, sharex=True, height_ratios=[2.0, *[1.0] * len(rows)], squeeze=False)[:, 0]
    style = "-" if len(progress["task/number"]) > _MAX_LABELS else ".-"
    words, factor = config.shown_score
    axes[0].plot(progress["task/number"], factor * progress[f"task/{config.score}"], style, color="tab:blue", linewidth=1.2)
    axes[0].set_ylabel(words)
    for axis, (measure, label, scale) in zip(axes[1:], rows, strict=True):
        for name in sorted(name for name in progress if name.endswith(f"/{measure}")):
            axis.plot(progress["task/number"], scale * progress[name], style, linewidth=1.2, label=name.split("/")[-2])
        axis.set_ylabel(label)
        _from_zero(axis)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0)
    axes[-1].set_xlabel(f"task{f' ({config.examples:,} examples each)' if config.examples else ''}")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{config.problem} ({config.dataset})   method {config.label}   seed {config.seed}", fontsize=11)
    figure.savefig(folder.figure, dpi=120)


def _draw_returns(axis: Axes, episodes: dict[str, NDArray[np.float64]]) -> None:
    axis.set_ylabel("episode return")
    if not len(episodes.get("return", [])):
        return
    steps, returns = episodes["step"], episodes["return"]
    axis.plot(steps, returns, ".", markersize=2, alpha=0.35, color="tab:blue", label="episode")
    sums = np.cumsum(np.insert(returns, 0, 0.0))
    ends = np.arange(1, len(returns) + 1)
    starts = np.maximum(ends - _WINDOW, 0)
    axis.plot(steps, (sums[ends] - sums[starts]) / (ends - starts), color="tab:blue", label=f"mean of last {_WINDOW}")
    # Single episodes far below the rest would flatten the curve.
    low, high = np.percentile(returns, [2, 100])
    margin = 0.05 * (high - low) or 1.0
    axis.set_ylim(low - margin, high + margin)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def _draw_layers(
    axis: Axes, progress: dict[str, NDArray[np.float64]], steps: NDArray[np.float64], measure: str, scale: float
) -> None:
    colours = {"policy": "tab:blue", "value": "tab:red"}
    for name, column in sorted(progress.items()):
        group, *path, last = name.split("/")
        if group in ("cbp", "plasticity") and last == measure:
            style = "-" if path[-1] == "hidden1" else "--"
            drawn = np.where(column > 0, scale * column, np.nan) if measure == "mean_utility" else scale * column
            recorded = np.isfinite(column)  # units are recorded after every few rollouts
            axis.plot(steps[recorded], drawn[recorded], style, color=colours.get(path[0]), linewidth=1.2, label=" ".join(path))
    if axis.lines:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    else:
        axis.text(
            0.5,
            0.5,
            "not recorded, or no meaning for this activation",
            transform=axis.transAxes,
            ha="center",
            color="grey",
        )


@dataclass(frozen=True)
class _Span:
    start: float
    end: float
    value: float | None  # None where it is not one value


def _phases(progress: dict[str, NDArray[np.float64]], steps: NDArray[np.float64], parameters: Sequence[str]) -> list[_Span]:
    if "env/phase" not in progress:
        return []
    phase = progress["env/phase"]
    value = progress[f"env/{parameters[0]}"] if len(parameters) == 1 else None
    changes = [0, *(np.flatnonzero(np.diff(phase)) + 1), len(steps)]
    # A row tells of the rollout that ends at its step.
    edges = [0.0, *(float(steps[i - 1]) for i in changes[1:])]
    return [
        _Span(start, end, None if value is None else float(value[i]))
        for (start, end), i in zip(pairwise(edges), changes, strict=False)
    ]


def _shade(axis: Axes, spans: list[_Span], parameters: Sequence[str], *, labelled: bool) -> None:
    known = bool(spans) and spans[0].value is not None
    for i, span in enumerate(spans):
        if i % 2:
            axis.axvspan(span.start, span.end, color="0.92", zorder=0, linewidth=0)
        if labelled and len(spans) <= _MAX_LABELS:
            name = str(i) if span.value is None else f"{span.value:.2g}"
            text = f"{parameters[0] if known else 'phase'}\n{name}" if i == 0 else name
            axis.annotate(
                text,
                ((span.start + span.end) / 2, 1.01),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=8,
            )


def short_number(number: float, _: Any) -> str:
    """A number of steps for an axis: ``"300k"``, ``"2M"``."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


# Colours that colour-blind readers tell apart (Okabe and Ito), one for each method; what differs within a method, and more
# methods than colours, have other lines.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
_STYLES = ("-", "--", ":", "-.")
_POINTS = 60  # of a curve of tasks; where there are more, some in a row are averaged
# What is drawn below the return: the measure, its name on the axis, its scale.
_MEASURES = (
    ("dormant_fraction", "dormant units (%)", 100.0),
    ("stable_rank", "stable rank", 1.0),
    ("weight_magnitude", "mean |w|", 1.0),
)


def draw_comparison(comparison: Comparison, statistic: Statistic, paths: Iterable[Path]) -> None:
    """Draws return or score, dormant units, rank and mean |w| of each method over environment steps, examples or tasks.

    Phases of different runs are laid over each other, each as long as the period. With five seeds or more a line is the
    statistic over seeds in its interval; with fewer it lies between the single runs, drawn thinly. The measures of units are
    those of the policy, averaged over its layers.

    Args:
        comparison: The runs.
        statistic: What a line is over seeds.
        paths: The files to write; their endings say how.
    """
    config = comparison.config
    merged, first, factor = 1, 0.0, 1.0
    if isinstance(config, Config):
        network, length, label, curve, parts = (
            "policy",
            config.period or config.timesteps,
            "episode return",
            RETURN,
            ",\npolicy",
        )
        width = length / BINS
    else:
        label, factor = config.shown_score
        network, length, curve, parts = "network", config.examples or 1, f"task/{config.score}", ""
        first = 0.0 if config.examples else -0.5  # a score over a task's examples, or at the end of a task
        merged = math.ceil(config.tasks / _POINTS)
        width = length * merged
    rows = [row for row in _MEASURES if any(curves_of(result, network, row[0]) for result in _all(comparison))]
    figure = Figure(figsize=(11, 4.2 + 1.7 * len(rows)), layout="constrained")
    axes = figure.subplots(1 + len(rows), 1, sharex=True, height_ratios=[2.6, *[1.0] * len(rows)], squeeze=False)[:, 0]
    axes[0].set_ylabel(label)
    draw = partial(_draw_methods, comparison=comparison, statistic=statistic, first=first, width=width, merged=merged)
    draw(axes[0], curves=lambda result: [result.curve[curve]], scale=factor)
    for axis, (measure, words, scale) in zip(axes[1:], rows, strict=True):
        axis.set_ylabel(f"{words}{parts}")
        draw(axis, curves=partial(curves_of, network=network, measure=measure), scale=scale)
        _from_zero(axis)
    axes[0].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0)
    axes[-1].xaxis.set_major_formatter(FuncFormatter(short_number))
    if isinstance(config, Config):
        spans = _spans(comparison, length)
        for i, axis in enumerate(axes):
            _shade(axis, spans, config.params, labelled=i == 0)
        axes[-1].set_xlabel("environment steps" + (f" (all {config.n_envs} environments)" if config.n_envs > 1 else ""))
        axes[-1].set_xlim(0, spans[-1].end)
        title = f"{config.env}   {_what_is_drawn(comparison, statistic)}"
    else:
        each = f", means of {merged} tasks" if merged > 1 else ""
        axes[-1].set_xlabel(("examples" if config.examples else "task") + each)
        axes[-1].set_xlim(first, config.tasks * length + first)
        title = f"{config.problem} ({config.dataset})   {_what_is_drawn(comparison, statistic)}"
    figure.suptitle(title, fontsize=11)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        for path in paths:
            figure.savefig(path, dpi=130)


def _what_is_drawn(comparison: Comparison, statistic: Statistic) -> str:
    name = {"mean": "mean", "iqm": "interquartile mean"}[statistic]
    numbers = sorted({len(by_seed) for by_seed in comparison.runs.values()})
    seeds = f"{numbers[0]} seed{'s' if numbers[0] > 1 else ''}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"
    if numbers[-1] < LEAST_SEEDS:
        return f"{seeds}, single runs (thin) and their {name}; too few for an interval"
    return f"{name} over {seeds}, {100 * CONFIDENCE:.0f} % bootstrap interval (percentile)"


def _all(comparison: Comparison) -> list[Any]:
    return [result for by_seed in comparison.runs.values() for result in by_seed.values()]


def _draw_methods(
    axis: Axes,
    comparison: Comparison,
    statistic: Statistic,
    first: float,
    width: float,
    merged: int,
    curves: Callable[[RunResult], list[NDArray[np.float64]]],
    scale: float,
) -> None:
    methods = [next(iter(by_seed.values())).config.method for by_seed in comparison.runs.values()]
    for k, (label, by_seed) in enumerate(comparison.runs.items()):
        more, number = divmod(list(dict.fromkeys(methods)).index(methods[k]), len(_COLOURS))
        colour, style = _COLOURS[number], _STYLES[(more + methods[:k].count(methods[k])) % len(_STYLES)]
        drawn = [_mean([_until_last(curve) for curve in of_run]) for of_run in map(curves, by_seed.values()) if of_run]
        if not drawn:
            continue
        samples = scale * np.array([_merge(run[: min(map(len, drawn))], merged) for run in drawn])
        steps = (np.arange(samples.shape[1]) + 0.5) * width + first
        if len(samples) < LEAST_SEEDS:
            axis.plot(steps, samples.T, style, color=colour, linewidth=0.6, alpha=0.7)
        else:
            axis.fill_between(steps, *bootstrap_interval(samples, statistic), color=colour, alpha=0.2, linewidth=0)
        axis.plot(steps, centre_of(samples, statistic), style, color=colour, linewidth=1.8, label=label)


def _from_zero(axis: Axes) -> None:
    """No measure of units is below zero: nor is the axis, but for the width of a line."""
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, -0.02 * high), high)


def _merge(curve: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Means of so many values in a row; what is left over at the end is not drawn."""
    return np.asarray(curve[: len(curve) // number * number].reshape(-1, number).mean(axis=1))


def _mean(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.asarray(np.mean([row[: min(map(len, rows))] for row in rows], axis=0))


def _until_last(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """A curve ``(phases, BINS)`` in a row, up to its last value, with the gaps of each phase filled."""
    known = np.flatnonzero(np.isfinite(curve))
    return np.concatenate([fill(phase) for phase in curve])[: known[-1] + 1 if len(known) else 0]


def _spans(comparison: Comparison, length: int) -> list[_Span]:
    """The phases that every run has, with their value where it is the same for all seeds."""
    of_runs = [[single(of_phase) for of_phase in values(result)] for result in _all(comparison)]
    number = min(map(len, of_runs))
    shared = all(of_run[:number] == of_runs[0][:number] for of_run in of_runs)
    return [_Span(phase * length, (phase + 1) * length, of_runs[0][phase] if shared else None) for phase in range(number)]
