"""Draws a run."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from agents.config import Config
from agents.run_folder import RunFolder

_WINDOW = 20  # episodes in the running mean
_MAX_LABELS = 24  # more phases than this are shaded but not labelled


def draw_run(folder: RunFolder, config: Config) -> None:
    """Draws reward, utility and dormant units over environment steps, phases shaded, into the run's ``report.png``.

    Phases and their values are those of the first environment.

    Args:
        folder: The run; reads ``progress.csv`` and ``episodes.csv``.
        config: Its configuration.
    """
    progress, episodes = _read_columns(folder.progress), _read_columns(folder.episodes)
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
    spans = _phases(progress, steps, config.param)
    for i, axis in enumerate(axes):
        _shade(axis, spans, config.param, labelled=i == 0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0)
    axes[-1].set_xlabel("environment steps" + (f" (all {config.n_envs} environments)" if config.n_envs > 1 else ""))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(_short))
    axes[-1].set_xlim(0, steps[-1])
    figure.suptitle(f"{config.env}   method {config.method}   seed {config.seed}", fontsize=11)
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
    for name, values in sorted(progress.items()):
        group, *path, last = name.split("/")
        if group in ("cbp", "plasticity") and last == measure:
            style = "-" if path[-1] == "hidden1" else "--"
            drawn = np.where(values > 0, scale * values, np.nan) if measure == "mean_utility" else scale * values
            recorded = np.isfinite(values)  # units are recorded after every few rollouts
            axis.plot(steps[recorded], drawn[recorded], style, color=colours.get(path[0]), linewidth=1.2, label=" ".join(path))
    if axis.lines:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    else:
        axis.text(0.5, 0.5, "not defined for this activation", transform=axis.transAxes, ha="center", color="grey")


@dataclass(frozen=True)
class _Span:
    start: float
    end: float
    value: float


def _phases(progress: dict[str, NDArray[np.float64]], steps: NDArray[np.float64], parameter: str | None) -> list[_Span]:
    if "env/phase" not in progress or parameter is None:
        return []
    phase, value = progress["env/phase"], progress[f"env/{parameter}"]
    changes = [0, *(np.flatnonzero(np.diff(phase)) + 1), len(steps)]
    # A row tells of the rollout that ends at its step.
    edges = [0.0, *(float(steps[i - 1]) for i in changes[1:])]
    return [_Span(start, end, float(value[i])) for (start, end), i in zip(pairwise(edges), changes, strict=False)]


def _shade(axis: Axes, spans: list[_Span], parameter: str | None, *, labelled: bool) -> None:
    for i, span in enumerate(spans):
        if i % 2:
            axis.axvspan(span.start, span.end, color="0.92", zorder=0, linewidth=0)
        if labelled and len(spans) <= _MAX_LABELS:
            text = f"{parameter}\n{span.value:.2g}" if i == 0 else f"{span.value:.2g}"
            axis.annotate(
                text,
                ((span.start + span.end) / 2, 1.01),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=8,
            )


def _short(number: float, _: Any) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def _read_columns(path: Any) -> dict[str, NDArray[np.float64]]:
    """A CSV file by columns; what is no number is NaN."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([_number(row[name]) for row in rows]) for name in (rows[0] if rows else {})}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
