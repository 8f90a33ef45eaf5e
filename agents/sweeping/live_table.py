"""A sweep on the screen: one table that follows its runs."""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agents.runs.config import Config
from agents.runs.plan import Run
from agents.supervised.config import LearningConfig

_SECONDS_BETWEEN_LINES = 60.0  # where the screen is no terminal
_COLUMNS = ("run", "state", "steps", "phase", "steps/s", "reward", "time left", "")
_LEARNING_COLUMNS = ("run", "state", "examples", "task", "examples/s", "score", "time left", "")
_COLOURS = {"waiting": "dim", "running": "bold", "complete": "green", "stopped": "yellow", "failed": "red"}


class LiveTable:
    """Run, state, phase or task, speed, reward or score and time left, read from the runs' folders.

    On a terminal one table is drawn again and again; elsewhere a change of a state gets a line, and running runs
    one a minute.

    Args:
        runs: The sweep's runs, all of one kind.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._columns = _COLUMNS if isinstance(runs[0].config, Config) else _LEARNING_COLUMNS
        self._console = Console(file=sys.stdout)
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._states = {run.name: run.state for run in runs}
        self._said = time.monotonic()

    def __enter__(self) -> LiveTable:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line above the table."""
        self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def update(self) -> None:
        """Shows how the runs are now."""
        if self._console.is_terminal:
            self._live.update(self._table(), refresh=True)
            return
        due = time.monotonic() - self._said > _SECONDS_BETWEEN_LINES
        self._said = time.monotonic() if due else self._said
        for run in self._runs:
            if run.state != self._states[run.name] or (due and run.state == "running"):
                self._states[run.name] = run.state
                cells = [f"{name} {cell}".strip() for name, cell in zip(self._columns, _cells(run), strict=True) if cell]
                self.say(", ".join(cells[1:]).replace("state", run.name, 1))

    def _table(self) -> Table:
        table = Table()
        for column in self._columns:
            table.add_column(column, justify="left" if column in ("run", "state", "") else "right")
        shown = self._runs
        room = self._console.height - 6
        if len(shown) > room:  # the finished ones make room first, then those that wait
            order = {"running": 0, "failed": 1, "waiting": 2, "stopped": 3, "complete": 4}
            shown = sorted(shown, key=lambda run: order[run.state])[: max(room, 1)]
        for run in shown:
            table.add_row(*map(Text, _cells(run)), style=_COLOURS[run.state])  # as it is, brackets too
        states = [run.state for run in self._runs]
        table.caption = ", ".join(f"{states.count(state)} {state}" for state in _COLOURS if state in states)
        return table


def _cells(run: Run) -> list[str]:
    row, config = _last_row(run.folder.progress), run.config
    if isinstance(config, Config):
        steps, total = int(_number(row, "time/total_timesteps")), config.timesteps
        phase, speed, score = row.get("env/phase") or "", _number(row, "time/fps"), row.get("rollout/ep_rew_mean")
        shown = f"{_number(row, 'rollout/ep_rew_mean'):.0f}" if score else ""
    else:
        assert isinstance(config, LearningConfig)  # noqa: S101
        steps, speed = int(_number(row, "time/total_examples")), _number(row, "time/examples_per_second")
        tasks, score = int(_number(row, "task/number")) + bool(steps), row.get(f"task/{config.score}")
        total = steps * config.tasks // max(tasks, 1)  # tasks are of about equal length
        phase, shown = str(tasks), f"{config.score} {_number(row, f'task/{config.score}'):.3g}" if score else ""
    left = (total - steps) / speed if speed else 0
    running = run.state == "running" and speed > 0
    return [
        run.name,
        run.state,
        f"{steps:,} of {total:,}" if steps else "",
        phase if steps else "",
        f"{speed:,.0f}" if running else "",
        shown,
        str(timedelta(seconds=round(max(left, 0)))) if running else "",
        run.note,
    ]


def _number(row: dict[str, str], name: str) -> float:
    """A number of a row; 0 where there is none, or what a power failure left of it."""
    try:
        number = float(row.get(name) or 0)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _last_row(path: Path) -> dict[str, str]:
    """The last complete row of a CSV file that another process is writing."""
    try:
        with path.open("rb") as file:
            head = file.readline()
            file.seek(max(len(head), path.stat().st_size - 4 * max(len(head), 1024)))
            rows = file.read().decode().split("\n")
    except (OSError, UnicodeDecodeError):
        return {}
    try:
        return next(csv.DictReader(StringIO(head.decode() + rows[-2])), {}) if len(rows) > 1 else {}
    except (csv.Error, UnicodeDecodeError):
        return {}
