"""Draws a comparison of runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from agents.reporting.comparison import (
    CONFIDENCE,
    LEAST_SEEDS,
    Comparison,
    Statistic,
    centre_of,
    curves_of,
    fill,
    interval,
    single,
    values,
)
from agents.reporting.results import BINS, RETURN, STD, RunResult
from agents.runs.config import Config
from agents.runs.drawing import MEASURES, Span, from_zero, shade, short_number

# Colours that colour-blind readers tell apart (Okabe and Ito), one for each method; what differs within a method, and more
# methods than colours, have other lines.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
_STYLES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 4)), (0, (8, 2, 3, 2)))
_LABEL = 32  # characters of a line of the legend
_TITLE = 90  # of a line of the title
_SIGMA = "σ of actions"
_POINTS = 60  # of a curve of tasks; where there are more, some in a row are averaged


def draw_comparison(comparison: Comparison, statistic: Statistic, paths: Iterable[Path]) -> None:
    """Draws return or score, dormant units, rank, mean |w| and σ of each method over environment steps, examples or tasks.

    Phases of different runs are laid over each other, all equally wide, also where some last longer than others. With five
    seeds or more a line is the statistic over seeds in its interval; with fewer it lies between the single runs, drawn thinly.
    The measures of units are those of the network that acts, averaged over its layers.

    Args:
        comparison: The runs.
        statistic: What a line is over seeds.
        paths: The files to write; their endings say how.
    """
    config = comparison.config
    merged, first, factor = 1, 0.0, 1.0
    if isinstance(config, Config):
        network, length, label, curve, parts = (
            config.networks[0],
            1 if config.phases_differ else config.phase_steps,
            "episode return",
            RETURN,
            f",\n{config.networks[0]}",
        )
        width = length / BINS
    else:
        label, factor = config.shown_score
        network, length, curve, parts = "network", config.examples or 1, f"task/{config.score}", ""
        first = 0.0 if config.examples else -0.5  # a score over a task's examples, or at the end of a task
        merged = math.ceil(config.tasks / _POINTS)
        width = length * merged
    possible: list[tuple[str, Callable[[RunResult], list[NDArray[np.float64]]], float]] = [
        *((f"{words}{parts}", partial(curves_of, network=network, measure=name), scale) for name, words, scale in MEASURES),
        (_SIGMA, lambda result: [result.curve[STD]] if STD in result.curve else [], 1.0),
    ]
    rows = [row for row in possible if any(row[1](result) for result in comparison.all_runs)]
    in_legend = sum(1 + _words(label).count("\n") for label in comparison.runs)
    figure = Figure(figsize=(11, max(4.2 + 1.7 * len(rows), 0.5 + 0.2 * in_legend)), layout="constrained")
    axes = figure.subplots(1 + len(rows), 1, sharex=True, height_ratios=[2.6, *[1.0] * len(rows)], squeeze=False)[:, 0]
    axes[0].set_ylabel(label)
    draw = partial(_draw_methods, comparison=comparison, statistic=statistic, first=first, width=width, merged=merged)
    ends = draw(axes[0], curves=lambda result: [result.curve[curve]], scale=factor)
    if label.endswith("(%)"):  # an interval goes on where the accuracy cannot
        low, high = axes[0].get_ylim()
        axes[0].set_ylim(max(low, -2), min(high, 102))
    for axis, (words, curves, scale) in zip(axes[1:], rows, strict=True):
        axis.set_ylabel(words)
        ends |= draw(axis, curves=curves, scale=scale)
        if words == _SIGMA:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(NullLocator())
        else:
            from_zero(axis)
    figure.legend(handles=axes[0].get_legend_handles_labels()[0], loc="outside right upper", frameon=False, fontsize=9)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0)
    axes[-1].xaxis.set_major_formatter(FuncFormatter(short_number))
    if isinstance(config, Config):
        spans = _spans(comparison, length)
        for i, axis in enumerate(axes):
            shade(axis, spans, config.params, labelled=i == 0)
        steps = "environment steps" + (f" (all {config.n_envs} environments)" if config.n_envs > 1 else "")
        axes[-1].set_xlabel(f"phases, drawn equally wide; in {steps}, {config.change_words}" if config.phases_differ else steps)
        axes[-1].set_xlim(0, spans[-1].end)
        algo = "" if config.algo == "ppo" else f"   {config.algo}"
        title = f"{config.env}{algo}   {_what_is_drawn(comparison, statistic, ends)}"
    else:
        each = f", means of {merged} tasks" if merged > 1 else ""
        axes[-1].set_xlabel(("examples" if config.examples else "task") + each)
        axes[-1].set_xlim(first, config.tasks * length + first)
        title = f"{config.problem} ({config.dataset})   {_what_is_drawn(comparison, statistic, ends)}"
    figure.suptitle(textwrap.fill(title, _TITLE), x=0.01, ha="left", fontsize=11)  # the legend is right of it
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        for path in paths:
            figure.savefig(path, dpi=130)


def _what_is_drawn(comparison: Comparison, statistic: Statistic, ends: bool) -> str:
    name = {"mean": "mean", "iqm": "interquartile mean"}[statistic]
    numbers = sorted({len(by_seed) for by_seed in comparison.runs.values()})
    seeds = f"{numbers[0]} seed{'s' if numbers[0] > 1 else ''}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"
    marks = ", × where a seed has its last value" if ends else ""
    if numbers[-1] < LEAST_SEEDS:
        return f"{seeds}, single runs (thin) and their {name}; too few for an interval{marks}"
    few = f" from {LEAST_SEEDS} on, below it single runs (thin)" if numbers[0] < LEAST_SEEDS else ""
    return f"{name} over {seeds}, {100 * CONFIDENCE:.0f} % interval{few}{marks}"


def _draw_methods(
    axis: Axes,
    comparison: Comparison,
    statistic: Statistic,
    first: float,
    width: float,
    merged: int,
    curves: Callable[[RunResult], list[NDArray[np.float64]]],
    scale: float,
) -> bool:
    """Draws a line for each method; returns whether a seed ends before the others."""
    ends = False
    lines = _lines([next(iter(by_seed.values())).config.method for by_seed in comparison.runs.values()])
    for (label, by_seed), (colour, style) in zip(comparison.runs.items(), lines, strict=True):
        found = [of_run for of_run in map(curves, by_seed.values()) if of_run]
        if not found:
            continue
        phases = min(len(curve) for of_run in found for curve in of_run)
        drawn = [_mean([_in_a_row(curve[:phases]) for curve in of_run]) for of_run in found]
        samples = scale * np.array([_merge(run, merged) for run in _of_one_length(drawn)])
        steps = (np.arange(samples.shape[1]) + 0.5) * width + first
        centre, low, high = _over_seeds(samples, statistic)
        if len(samples) < LEAST_SEEDS:
            axis.plot(steps, samples.T, linestyle=style, color=colour, linewidth=0.6, alpha=0.7)
        axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.plot(steps, centre, linestyle=style, color=colour, linewidth=1.8, label=_words(label))
        for sample in samples:
            last = np.flatnonzero(np.isfinite(sample))[-1:]
            if last.size and last < len(sample) - 1:
                axis.plot(steps[last], sample[last], "x", color=colour, markersize=6, clip_on=False)
                ends = True
    return ends


def _of_one_length(runs: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Curves cut where the first one ends; one that ends more than a phase before the longest has gaps from there on."""
    longest = max(map(len, runs))
    length = min(len(run) for run in runs if len(run) > longest - BINS)
    gaps = np.full(length, np.nan)
    return [np.concatenate([run, gaps])[:length] for run in runs]


def _words(label: str) -> str:
    """What stands in the legend."""
    return textwrap.fill(label.replace(",", ", "), _LABEL, break_on_hyphens=False)


def _lines(methods: Sequence[str]) -> list[tuple[str, Any]]:
    """A colour and a style for each of some curves, by their methods; no two alike as long as there are enough."""
    colours: dict[str, int] = {}
    taken: list[tuple[str, Any]] = []
    for method in methods:
        more, number = divmod(colours.setdefault(method, len(colours)), len(_COLOURS))
        own = [(_COLOURS[number], style) for style in (*_STYLES[more:], *_STYLES[:more])]
        others = [(colour, style) for style in _STYLES for colour in _COLOURS]
        taken.append(next((pair for pair in (*own, *others) if pair not in taken), own[0]))
    return taken


def _over_seeds(samples: NDArray[np.float64], statistic: Statistic) -> NDArray[np.float64]:
    """The statistic over seeds ``(seeds, points)`` and its interval, of the seeds that have a value there: ``(3, points)``."""
    found = np.full((3, samples.shape[1]), np.nan)
    known = np.isfinite(samples)
    for pattern in np.unique(known, axis=1).T:
        points = (known == pattern[:, None]).all(axis=0)
        some = samples[pattern][:, points]
        if len(some):
            found[0, points] = centre_of(some, statistic)
        if len(some) >= LEAST_SEEDS:
            found[1:, points] = interval(some, statistic)
    return found


def _merge(curve: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Means of so many values in a row; what is left over at the end is not drawn."""
    return np.asarray(curve[: len(curve) // number * number].reshape(-1, number).mean(axis=1))


def _mean(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.asarray(np.mean([row[: min(map(len, rows))] for row in rows], axis=0))


def _in_a_row(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """A curve ``(phases, BINS)`` in a row up to its last value, the gaps of each phase filled; one of tasks to its end."""
    if curve.shape[1] == 1:
        return curve[:, 0]
    known = np.flatnonzero(np.isfinite(curve))
    return np.concatenate([fill(phase) for phase in curve])[: known[-1] + 1 if len(known) else 0]


def _spans(comparison: Comparison, length: int) -> list[Span]:
    """The phases that every run has, with their value where it is the same for all seeds."""
    of_runs = [[single(of_phase) for of_phase in values(result)] for result in comparison.all_runs]
    number = min(map(len, of_runs))
    shared = all(of_run[:number] == of_runs[0][:number] for of_run in of_runs)
    return [Span(phase * length, (phase + 1) * length, of_runs[0][phase] if shared else None) for phase in range(number)]
