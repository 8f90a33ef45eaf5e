"""Where a run logs: TensorBoard, and ``progress.csv``; both can be cut back to an earlier step and continued."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat, filter_excluded_keys

from agents.runs.errors import UserError
from agents.runs.run_folder import RunFolder, flush_folder, write_atomically


class ProgressCsv(KVWriter):
    """SB3's CSV log, with columns in the order of their names and continued where the file exists.

    SB3's writes the file anew, in place, when a column is added; one that is stopped in the middle of that loses rows. This
    one writes another file and renames it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns = _read(path)[0]

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:  # noqa: ARG002
        """Adds a row; values without a column of their own get one, which is empty in the rows before."""
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        new = sorted(values.keys() - set(self._columns))
        if new:
            _, rows = _read(self._path)
            self._columns += new
            write_csv(self._path, self._columns, [[*row, *[""] * len(new)] for row in rows])
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([values.get(column, "") for column in self._columns])

    def close(self) -> None:
        """Nothing is left open."""


def make_logger(folder: RunFolder) -> Logger:
    """The logger of a run, for ``model.set_logger``."""
    return Logger(str(folder.path), [ProgressCsv(folder.progress), TensorBoardOutputFormat(str(folder.path))])


def save_state(logger: Logger, folder: RunFolder) -> dict[str, Any]:
    """What is recorded but not written yet, how many rows the CSV files have, and how long the event files are.

    All that is written is flushed to the disk: a power failure takes nothing that a checkpoint with this state counts on.

    Raises:
        OSError: It cannot be flushed.
    """
    for output in logger.output_formats:
        if isinstance(output, TensorBoardOutputFormat):
            output.writer.flush()
    tables = [path for path in (folder.progress, folder.episodes) if path.exists()]
    for path in (*tables, *folder.events):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    flush_folder(folder.path)
    return {
        "rows": {path.name: max(0, path.read_bytes().count(b"\n") - 1) for path in tables},
        "sizes": {path.name: path.stat().st_size for path in folder.events},
        # Numbers of NumPy as arrays, because they are written with the digits of their type.
        "values": {k: np.array(v) if isinstance(v, np.generic) else v for k, v in logger.name_to_value.items()},
        "counts": dict(logger.name_to_count),
        "excluded": dict(logger.name_to_excluded),
    }


def load_state(logger: Logger, state: dict[str, Any]) -> None:
    """Goes on from what :func:`save_state` returned."""
    logger.name_to_value.update({k: v[()] if isinstance(v, np.ndarray) else v for k, v in state["values"].items()})
    logger.name_to_count.update(state["counts"])
    logger.name_to_excluded.update(state["excluded"])


def check_rows(
    folder: RunFolder, checkpoint: Path, state: dict[str, Any], timesteps: int, column: str = "time/total_timesteps"
) -> None:
    """Refuses to go on from a checkpoint where rows are gone that the logs had when it was made.

    Args:
        folder: The run.
        checkpoint: Its file.
        state: What :func:`save_state` returned for it.
        timesteps: Its step.
        column: What tells the step in ``progress.csv``.

    Raises:
        UserError: Rows are gone. Nothing was changed.
    """
    for path, steps in ((folder.progress, column), (folder.episodes, "step")):
        there, had = len(_rows_until(path, steps, timesteps)[1]), state.get("rows", {}).get(path.name, 0)  # not in earlier ones
        if there < had:
            raise UserError(
                f"'{path}' has {there:,} rows up to step {timesteps:,}, and had {had:,} when '{checkpoint}' was written; "
                "nothing was changed: bring them back, or remove that checkpoint to go on from the one before"
            )


def cut(folder: RunFolder, timesteps: int, sizes: dict[str, int], column: str = "time/total_timesteps") -> None:
    """Cuts the logs back to a step.

    Args:
        folder: The run.
        timesteps: Later rows of the CSV files are dropped.
        sizes: Event files, by name, are cut to these sizes in bytes; others are removed.
        column: What tells the step in ``progress.csv``.
    """
    for path, steps in ((folder.progress, column), (folder.episodes, "step")):
        columns, rows = _rows_until(path, steps, timesteps)
        if steps in columns:
            write_csv(path, columns, rows)
    for path in folder.events:
        if path.name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[path.name]:
            with path.open("r+b") as file:
                file.truncate(sizes[path.name])


def check_unwritten(folder: RunFolder) -> None:
    """Refuses to begin a run anew over what it has logged: its first checkpoint is older than its first row.

    Raises:
        UserError: It has logged.
    """
    if _read(folder.progress)[1]:
        raise UserError(
            f"'{folder.path}' has no checkpoint to go on from, though '{folder.progress.name}' tells of training; nothing was "
            "changed: take the folder away to begin anew"
        )


def read_columns(path: Path, *, strict: bool = False) -> dict[str, NDArray[np.float64]]:
    """A CSV file by columns; what is no number is NaN.

    Args:
        path: The file; of one that is not there no column is.
        strict: Whether all that is not left empty must be a number or ``"nan"``, and all rows equally long.

    Raises:
        ValueError: With ``strict``, if that is not so.
    """
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if strict:
        for number, row in enumerate(rows, start=2):
            for name, text in row.items():
                if name is None or text is None:
                    raise ValueError(f"{path.name} has a row of another length, line {number}")
                if text and text != "nan" and math.isnan(_number(text)):
                    raise ValueError(f"{path.name} has {text!r} for a number, line {number}, column '{name}'")
    return {name: np.array([_number(row[name]) for row in rows]) for name in (rows[0] if rows else {})}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Columns and complete rows of a CSV file; none where there is no file."""
    if not path.exists():
        return [], []
    text = path.read_text(encoding="utf-8")
    table = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))  # without a last line that was cut off
    if not table:
        return [], []
    return table[0], [row for row in table[1:] if len(row) == len(table[0])]


def _rows_until(path: Path, column: str, timesteps: int) -> tuple[list[str], list[list[str]]]:
    """Columns, and complete rows up to a step, of a CSV file; all rows where no column tells the step."""
    columns, rows = _read(path)
    if column in columns:
        index = columns.index(column)
        rows = [row for row in rows if float(row[index] or "inf") <= timesteps]
    return columns, rows


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes a table, whole or not at all."""
    text = io.StringIO()
    csv.writer(text).writerows([columns, *rows])
    write_atomically(path, text.getvalue())
