"""Draws how well the networks of checkpoints still learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from agents.runs.config import Config
from agents.runs.drawing import short_number

_COLOURS = {
    "policy-targets": "#0072b2",
    "policy-fresh-head": "#56b4e9",
    "value-targets": "#d55e00",
    "value-fresh-head": "#e69f00",
    "return": "#009e73",
}
_WORDS = {
    "policy-targets": "policy: network, random targets",
    "policy-fresh-head": "policy: hidden layers, random targets",
    "value-targets": "value: network, random targets",
    "value-fresh-head": "value: hidden layers, random targets",
    "return": "agent, reward",
}
_LEAST, _GREATEST = -1.0, 3.0  # what is drawn of intervals, which may be wide


def draw_trainability(rows: list[dict[str, Any]], config: Config, value: float | None, path: Path) -> None:
    """Draws scores with their intervals over environment steps.

    Args:
        rows: Of ``trainability.csv``.
        config: Of the run.
        value: At which the parameter was held while agents learned; None for none.
        path: The file to write; its ending says how.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis: Axes = figure.subplots()
    axis.axhline(1, color="0.4", linestyle="--", linewidth=1, label="a fresh network")
    kinds = [kind for kind in _COLOURS if any(row["kind"] == kind for row in rows)]
    for kind in kinds:
        of_kind = sorted((row for row in rows if row["kind"] == kind), key=lambda row: int(row["steps"]))
        steps = [row["steps"] for row in of_kind]
        words = _WORDS[kind]
        if kind == "return" and value is not None:
            words += f" at {' and '.join(config.params)} {value:.3g}"
        axis.plot(steps, [row["score"] for row in of_kind], "o-", markersize=4, color=_COLOURS[kind], label=words)
        axis.fill_between(
            steps,
            [max(row["low"], _LEAST) for row in of_kind],
            [min(row["high"], _GREATEST) for row in of_kind],
            color=_COLOURS[kind],
            alpha=0.2,
            linewidth=0,
        )
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=min(0.0, *(max(row["low"], _LEAST) for row in rows)))
    axis.xaxis.set_major_formatter(FuncFormatter(short_number))
    axis.set_xlabel("environment steps of the run" + (f" (all {config.n_envs} environments)" if config.n_envs > 1 else ""))
    axis.set_ylabel("trainability (area under learning curve ÷ fresh)")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(f"{config.env}   method {config.method}   seed {config.seed}", fontsize=11)
    figure.savefig(path, dpi=120)
