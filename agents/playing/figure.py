"""Draws return against the value of a parameter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from agents.playing.episodes import MODES, Episode
from agents.playing.held import HeldParameter
from agents.runs.checkpoints import Trained
from agents.runs.config import Config

_COLOURS = dict(zip(MODES, ("#0072b2", "#d55e00"), strict=True))
_MOST_TICKS = 12  # as many values as have room for a number each on a logarithmic axis


def draw_evaluation(episodes: list[Episode], config: Config, trained: Trained, held: HeldParameter, path: Path) -> None:
    """Draws the return of each episode, and the mean of each mode, over the values.

    Args:
        episodes: What was played.
        config: Of the run.
        trained: The policy.
        held: The parameter that differs.
        path: The file to write; its ending says how.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axis: Axes = figure.subplots()
    values = sorted({episode.value for episode in episodes})
    number = 1 + max(episode.number for episode in episodes)
    for mode in dict.fromkeys(episode.mode for episode in episodes):
        of_mode, colour = [episode for episode in episodes if episode.mode == mode], _COLOURS[mode]
        axis.plot(
            [episode.value for episode in of_mode],
            [episode.total for episode in of_mode],
            ".",
            markersize=4,
            alpha=0.5,
            color=colour,
        )
        means = [np.mean([episode.total for episode in of_mode if episode.value == value]) for value in values]
        axis.plot(values, means, "o-", markersize=5, linewidth=1.5, color=colour, label=f"{mode}, mean of {number}")
    axis.plot([], [], ".", markersize=4, color="grey", label="episode")
    if held.current is not None:
        axis.axvline(held.current, color="0.4", linestyle="--", linewidth=1, zorder=0)
        words, place = f"current phase {trained.phase}:\n{held.shown(held.current)}", (held.current, 1.01)
        axis.annotate(words, place, xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
    if held.logarithmic(values):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        if len(values) <= _MOST_TICKS:
            axis.set_xticks(values)
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(held.name if held.change.unit == "1" else f"{held.name} ({held.change.unit})")
    axis.set_ylabel("episode return")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(f"{config.env}   method {config.method_words}   seed {config.seed}   {trained.steps:,} steps", fontsize=11)
    figure.savefig(path, dpi=120)
