"""Values of phases in files."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from envs.checks import ParameterError


def read_values(path: Path, column: str | None = None) -> tuple[float, ...]:
    """The values in a CSV file, a row for each phase.

    Args:
        path: The file. A first row that is not a number has the names of the columns.
        column: Of the values. None is the only column, or the one that is named ``value``.

    Raises:
        ParameterError: The file cannot be read, has no such column, or a row has no finite number there. The row is named.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(reader.line_num, row) for reader in [csv.reader(file)] for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no CSV file"
        raise ParameterError(f"schedule file '{path}' cannot be read: {reason}") from error
    if not rows:
        raise ParameterError(f"schedule file '{path}' must have a value for each phase, got an empty file")
    names = [] if all(_number(cell) is not None for cell in rows[0][1]) else [cell.strip() for cell in rows.pop(0)[1]]
    if column is None and len(names) <= 1 and all(len(row) == 1 for _, row in rows):
        place = 0
    elif (column or "value") in names:
        place = names.index(column or "value")
    else:
        received = f"columns {', '.join(names)}" if names else "columns without names"
        raise ParameterError(f"schedule file '{path}' must have a column {(column or 'value')!r}, got {received}")
    values = []
    for line, row in rows:
        cell = row[place] if place < len(row) else ""
        value = _number(cell)
        if value is None:
            raise ParameterError(f"schedule file '{path}' must have a finite number in each row, got {cell!r} in line {line}")
        values.append(value)
    if not values:
        raise ParameterError(f"schedule file '{path}' must have a value for each phase, got names of columns only")
    return tuple(values)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
