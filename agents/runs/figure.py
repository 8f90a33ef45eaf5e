"""Draws a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from agents.runs.config import Config
from agents.runs.drawing import Span, shade, short_number
from agents.runs.logs import read_columns
from agents.runs.run_folder import RunFolder

_WINDOW = 20  # episodes in the running mean


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
        shade(axis, spans, config.params, labelled=i == 0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0)
    axes[-1].set_xlabel("environment steps" + (f" (all {config.n_envs} environments)" if config.n_envs > 1 else ""))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(short_number))
    axes[-1].set_xlim(0, steps[-1])
    figure.suptitle(f"{config.env}   method {config.method_words}   seed {config.seed}", fontsize=11)
    figure.savefig(folder.figure, dpi=120)


def _draw_returns(axis: Axes, episodes: dict[str, NDArray[np.float64]]) -> None:
    axis.set_ylabel("episode return")
    known = np.isfinite(episodes.get("return", []))
    if not known.any():
        return
    steps, returns = episodes["step"][known], episodes["return"][known]
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
    colours = {"policy": "tab:blue", "value": "tab:red", "actor": "tab:blue", "critic": "tab:red", "q_net": "tab:blue"}
    for name, column in sorted(progress.items()):
        group, *path, last = name.split("/")
        if group in ("cbp", "plasticity") and last == measure:
            style = "-" if path[-1].endswith("hidden1") else "--"
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


def _phases(progress: dict[str, NDArray[np.float64]], steps: NDArray[np.float64], parameters: Sequence[str]) -> list[Span]:
    if "env/phase" not in progress:
        return []
    phase = progress["env/phase"]
    value = progress[f"env/{parameters[0]}"] if len(parameters) == 1 else None
    changes = [0, *(np.flatnonzero(np.diff(phase)) + 1), len(steps)]
    # A row tells of the rollout that ends at its step.
    edges = [0.0, *(float(steps[i - 1]) for i in changes[1:])]
    return [
        Span(start, end, None if value is None else float(value[i]))
        for (start, end), i in zip(pairwise(edges), changes, strict=False)
    ]
