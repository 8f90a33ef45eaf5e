"""A run's replay buffer on the disk: each transition is written once or a few times, and never again with each checkpoint.

A file ``checkpoints/transitions/<first>-<last>-<checksum>.npz`` holds the rows of the buffer from the first, counted from the
beginning of the run, up to the last, which is not among them. A row is a transition of each environment. Files are written as
checkpoints are, whole or not at all, and a checkpoint names those that it needs.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer

from agents.runs.checkpoint_files import NewFile

_SMALL = 16_384  # rows; smaller files are joined with the next, so that a million rows lie in less than a hundred files
_FIELDS = ("observations", "actions", "rewards", "dones", "timeouts")


class _Rows(NamedTuple):
    name: str
    first: int
    last: int

    @classmethod
    def of(cls, name: str) -> _Rows:
        match = re.fullmatch(r"(\d{12})-(\d{12})-[0-9a-f]{16}\.npz", name)
        if match is None:
            raise ValueError(f"a file of transitions has another name than '{name}'")
        return cls(name, int(match[1]), int(match[2]))


class ReplayFiles:
    """The files of a run's replay buffer, as far as its last checkpoint.

    Args:
        names: The files that it needs, the oldest rows first.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._files = [_Rows.of(name) for name in names]

    def new(self, buffer: ReplayBuffer, rows: int) -> tuple[NewFile | None, list[str]]:
        """What a checkpoint needs that is made now.

        Small files of before are joined with what is new, as long as they are not larger than it: each row is written a
        few times at most, however often checkpoints are made.

        Args:
            buffer: The replay buffer.
            rows: How many rows were ever added to it.

        Returns:
            The file to be written, if there is anything new, and the names of all files that hold the buffer.
        """
        oldest = max(0, rows - buffer.buffer_size)
        files = [file for file in self._files if file.last > oldest]
        first = max(oldest, files[-1].last if files else 0)
        if first == rows:
            return None, [file.name for file in files]
        while files and files[-1].last - files[-1].first <= min(rows - first, _SMALL) and files[-1].first >= oldest:
            first = files.pop().first
        new = NewFile.of(f"{first:012d}-{rows:012d}", ".npz", _pack(buffer, first, rows))
        return new, [*(file.name for file in files), new.name]

    def wrote(self, names: Sequence[str]) -> None:
        """A checkpoint was written that needs these files."""
        self._files = [_Rows.of(name) for name in names]

    def fill(self, buffer: ReplayBuffer, contents: Iterable[bytes], rows: int) -> None:
        """Fills a buffer that is empty.

        Args:
            buffer: The replay buffer.
            contents: Those of the files.
            rows: How many rows were ever added to the buffer.

        Raises:
            ValueError: The files do not hold the buffer, or hold something else.
        """
        oldest = max(0, rows - buffer.buffer_size)
        reached = oldest
        for file, content in zip(self._files, contents, strict=True):
            if not file.first <= reached < file.last <= rows:
                raise ValueError(f"transitions from {reached} on are in no file")
            _unpack(buffer, content, file, oldest)
            reached = file.last
        if reached != rows:
            raise ValueError(f"transitions {reached} to {rows} are in no file")
        buffer.pos, buffer.full = rows % buffer.buffer_size, rows >= buffer.buffer_size


def _pack(buffer: ReplayBuffer, first: int, last: int) -> bytes:
    """Some rows as a file. Of next observations it has only those that are not the observation of the row behind."""
    places = np.arange(first, last) % buffer.buffer_size
    arrays = {name: getattr(buffer, name)[places] for name in _FIELDS}
    following = buffer.next_observations[places]
    other = np.ones(following.shape[:2], bool)
    other[:-1] = _differ(following[:-1], arrays["observations"][1:])
    stream = io.BytesIO()
    np.savez(stream, **arrays, other=other, next_observations=following[other])
    return stream.getvalue()


def _unpack(buffer: ReplayBuffer, content: bytes, rows: _Rows, oldest: int) -> None:
    with np.load(io.BytesIO(content), allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in _FIELDS}
        other, those = saved["other"], saved["next_observations"]
    arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0)
    arrays["next_observations"][other] = those
    skipped = max(0, oldest - rows.first)
    places = np.arange(rows.first + skipped, rows.last) % buffer.buffer_size
    for name, values in arrays.items():
        own = getattr(buffer, name)
        if (values.dtype, values.shape[1:], len(values)) != (own.dtype, own.shape[1:], rows.last - rows.first):
            raise ValueError(
                f"{name} of the transitions are {values.dtype} {values.shape}, not {own.dtype} (n, {own.shape[1:]})"
            )
        own[places] = values[skipped:]


def _differ(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two arrays ``(rows, environments, …)`` are not the same to the bit."""
    size = math.prod(one.shape[2:]) * one.itemsize
    as_bytes = [np.ascontiguousarray(array).view(np.uint8).reshape(*one.shape[:2], size) for array in (one, other)]
    return np.asarray((as_bytes[0] != as_bytes[1]).any(axis=-1))
