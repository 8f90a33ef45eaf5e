"""Draws a supervised run."""

from __future__ import annotations

import re

from matplotlib.figure import Figure

from agents.runs.drawing import MAX_LABELS, MEASURES, from_zero
from agents.runs.logs import read_columns
from agents.runs.run_folder import RunFolder
from agents.supervised.config import LearningConfig


def draw_learning(folder: RunFolder, config: LearningConfig) -> None:
    """Draws score, dormant units, rank and mean |w| over the tasks of a supervised run into the run's ``report.png``.

    Args:
        folder: The run; reads ``progress.csv``.
        config: Its configuration.
    """
    progress = read_columns(folder.progress)
    if "task/number" not in progress:
        return
    rows = [row for row in MEASURES if any(name.endswith(f"/{row[0]}") for name in progress)]
    figure = Figure(figsize=(10, 3.2 + 1.6 * len(rows)), layout="constrained")
    axes = figure.subplots(1 + len(rows), 1, sharex=True, height_ratios=[2.0, *[1.0] * len(rows)], squeeze=False)[:, 0]
    style = "-" if len(progress["task/number"]) > MAX_LABELS else ".-"
    shown = [name for name in progress if any(name.endswith(f"/{row[0]}") for row in rows)]
    layers = sorted({_layer(name) for name in shown}, key=_naturally)
    colors = {layer: f"C{number % 10}" for number, layer in enumerate(layers)}
    words, factor = config.shown_score
    axes[0].plot(progress["task/number"], factor * progress[f"task/{config.score}"], style, color="tab:blue", linewidth=1.2)
    axes[0].set_ylabel(words)
    for axis, (measure, label, scale) in zip(axes[1:], rows, strict=True):
        for name in sorted((name for name in shown if name.endswith(f"/{measure}")), key=_naturally):
            layer = _layer(name)
            values = scale * progress[name]
            axis.plot(progress["task/number"], values, style, color=colors[layer], linewidth=1.2, label=layer)
        axis.set_ylabel(label)
        from_zero(axis)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0)
    axes[-1].set_xlabel(f"task{f' ({config.examples:,} examples each)' if config.examples else ''}")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{config.problem} ({config.dataset})   method {config.label}   seed {config.seed}", fontsize=11)
    figure.savefig(folder.figure, dpi=120)


def _layer(name: str) -> str:
    return name.split("/")[-2]


def _naturally(name: str) -> list[str | int]:
    """Sorts 3 before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
