"""What the figures of runs share: phases shaded, axes, and which measures of units are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase

PICTURES = [f".{ending}" for ending in FigureCanvasBase.get_supported_filetypes() if ending != "pgf"]
"""How names of pictures may end; ``.pgf`` would need LaTeX."""

MAX_LABELS = 24
"""More phases than this are shaded but not labelled; more tasks are drawn without a mark for each."""

MEASURES = (
    ("dormant_fraction", "dormant units (%)", 100.0),
    ("stable_rank", "stable rank", 1.0),
    ("weight_magnitude", "mean |w|", 1.0),
)
"""What is drawn below the return: the measure, its name on the axis, its scale."""


@dataclass(frozen=True)
class Span:
    """A phase as it is drawn.

    Attributes:
        start: Its first step.
        end: The first step after it.
        value: The parameter's; None where it is not one value.
    """

    start: float
    end: float
    value: float | None


def shade(axis: Axes, spans: list[Span], parameters: Sequence[str], *, labelled: bool) -> None:
    """Shades every other phase; ``labelled`` writes the values above, with the name of the parameter before the first."""
    known = bool(spans) and spans[0].value is not None
    for i, span in enumerate(spans):
        if i % 2:
            axis.axvspan(span.start, span.end, color="0.92", zorder=0, linewidth=0)
        if labelled and len(spans) <= MAX_LABELS:
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


def from_zero(axis: Axes) -> None:
    """No measure of units is below zero: nor is the axis, but for the width of a line."""
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, -0.02 * high), high)
