"""A heat map of what continual backpropagation reaches by its replacement rate, its maturity threshold and its weight decay.

``python benchmarks/sensitivity.py FOLDER --output FILE.png`` reads runs of a sweep whose settings were varied, and draws the
mean return over all whole phases: a panel for each maturity threshold, a row for each ρ, a column for each weight decay. It
prints the same as a table, with intervals, or below five seeds with each seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agents.reporting.comparison import Estimate, compare, estimate, run_measures
from agents.reporting.results import AgentResult, find_runs, read_run
from agents.reporting.tables import cell, left_out, phase_range
from agents.runs.commands import Parser, run_command
from agents.runs.errors import UserError

PANELS, ROWS, COLUMNS = "maturity_threshold", "replacement_rate", "weight_decay"
WORDS = {PANELS: "maturity threshold (updates)", ROWS: "replacement rate ρ", COLUMNS: "weight decay"}


def settings_of(run: AgentResult) -> tuple[float, ...]:
    """Panel, row and column of a run."""
    values = {COLUMNS: run.config.hyperparameters.weight_decay, **run.config.method_kwargs}
    return tuple(values[name] for name in (PANELS, ROWS, COLUMNS))


def check_like(run: AgentResult, other: AgentResult) -> None:
    """Refuses two runs that differ in more than what is drawn.

    Raises:
        UserError: They do.
    """
    drawn = (PANELS, ROWS, COLUMNS)
    for name, own, theirs in run.config.differences(other.config):
        if name.split(".")[-1] not in (*drawn, "varied", "seed", "device"):
            raise UserError(
                f"runs must differ in {', '.join(drawn)} and seed alone: {name} is {own} in '{run.path}' and {theirs} in "
                f"'{other.path}'"
            )


def main() -> int:
    """Reads, prints and draws."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="runs of cbp, as trained or as recorded")
    parser.add_argument("--output", type=Path, required=True, help="the picture; its ending says which kind")
    args = parser.parse_args()
    if (kind := args.output.suffix[1:]) not in (kinds := FigureCanvasAgg.get_supported_filetypes()):
        raise UserError(
            f"--output must end in one of {', '.join(sorted(kinds))}, got '{args.output}'{'' if kind else ', without'}"
        )
    comparison = compare(map(read_run, find_runs([args.folder])))
    runs: dict[tuple[float, ...], dict[int, AgentResult]] = {}
    for by_seed in comparison.runs.values():
        for run in by_seed.values():
            if not isinstance(run, AgentResult) or run.config.method != "cbp":
                raise UserError(
                    f"'{args.folder}' must have runs of cbp by agents.train alone, got {run.config.method} in '{run.path}'"
                )
            check_like(run, comparison.all_runs[0])
            of_setting = runs.setdefault(settings_of(run), {})
            if run.config.seed in of_setting:
                raise UserError(f"'{of_setting[run.config.seed].path}' and '{run.path}' have the same settings and seed")
            of_setting[run.config.seed] = run
    found = {
        key: estimate([run_measures(run, comparison.phases)["area"] for run in of_key.values()], "mean")
        for key, of_key in runs.items()
    }
    print(f"| {WORDS[PANELS]} | {WORDS[ROWS]} | {WORDS[COLUMNS]} | mean return |\n|---|---|---|---|")
    for key in sorted(found):
        print(f"| {key[0]:,} | {key[1]:g} | {key[2]:g} | {cell(found[key])} |")
    for line in left_out(comparison):
        print(f"warning: {line}", file=sys.stderr)
    numbers = sorted({len(of_setting) for of_setting in runs.values()})
    seeds = " to ".join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    title = f"{comparison.config.world}: cbp, mean of {seeds} seed{'s' * (numbers[-1] > 1)}"
    draw(found, title, f"mean return, phases {phase_range(comparison.phases)}", args.output)
    return 0


def draw(found: dict[tuple[float, ...], Estimate], title: str, label: str, path: Path) -> None:
    """Draws a panel for each first setting, with a row for each second and a column for each third."""
    panels, rows, columns = (sorted({key[axis] for key in found}) for axis in range(3))
    centres = [value.centre for value in found.values()]
    numbers = {len(value.each) for value in found.values()}

    def number(*key: float) -> str:
        """Of how many seeds a mean is, where that differs."""
        return f"\n({len(found[key].each)})" if len(numbers) > 1 else ""

    figure = Figure(figsize=(1.5 + 3.2 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for panel, ax in zip(panels, axes, strict=True):
        grid = np.full((len(rows), len(columns)), np.nan)
        for (of_panel, row, column), value in found.items():
            if of_panel == panel:
                grid[rows.index(row), columns.index(column)] = value.centre
        image = ax.imshow(grid, vmin=min(centres), vmax=max(centres), cmap="cividis", origin="lower", aspect="auto")
        for (y, x), value in np.ndenumerate(grid):
            colour = "white" if value < (min(centres) + max(centres)) / 2 else "black"
            ax.text(
                x,
                y,
                "–" if np.isnan(value) else f"{value:,.0f}{number(panel, rows[y], columns[x])}",
                ha="center",
                va="center",
                color=colour,
            )
        ax.set_xticks(range(len(columns)), [f"{column:g}" for column in columns])
        ax.set_yticks(range(len(rows)), [f"{row:g}" for row in rows])
        ax.set_xlabel(WORDS[COLUMNS])
        ax.set_title(f"{WORDS[PANELS]} {panel:,}", fontsize=10)
    axes[0].set_ylabel(WORDS[ROWS])
    figure.colorbar(image, ax=list(axes), label=label)
    figure.suptitle(title, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(run_command(main))
