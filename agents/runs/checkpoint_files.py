"""Checkpoint files: written whole or not at all, checked when they are read.

A checkpoint is one file ``checkpoints/<steps>-<checksum>.pt``: written to another name, flushed to the disk, then renamed, so
that what has a checkpoint's name is whole. The checksum in the name tells damage. The file holds numbers, strings and tensors
only and is read by ``torch.load(weights_only=True)``: one from a stranger runs no code. What is too large to be written
each time lies in files beside it, in ``checkpoints/transitions/``, each written so; a checkpoint names those it needs.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import random
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from agents.runs.errors import UserError, in_words, message_of
from agents.runs.run_folder import RunFolder, flush_folder
from agents.runs.summary import versions

BESIDE = "transitions"
"""The folder, among the checkpoints, of the files beside them; and what a checkpoint calls their names."""

EARLIER = "earlier_versions"
"""What a checkpoint calls the versions that a part of the run was made with, where they are others than its own."""

_KEPT = 3  # the newest, and those before it, should it be damaged
_DIGITS = 16  # of the checksum
_NAME = rf"\d+-[0-9a-f]{{{_DIGITS}}}\.pt"  # not that of a copy
_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name)}


class NewFile(NamedTuple):
    """A file that a checkpoint needs beside it, to be written before it."""

    name: str
    content: bytes

    @classmethod
    def of(cls, stem: str, ending: str, content: bytes) -> NewFile:
        """A file with its checksum in its name."""
        return cls(f"{stem}-{_checksum(content)}{ending}", content)


def write(folder: RunFolder, steps: int, state: dict[str, Any], beside: NewFile | None = None) -> Path:
    """Writes a checkpoint and drops the oldest beyond three, and the files beside them that none needs any more.

    On a full disk earlier ones make room, all but the last that is whole.

    Args:
        folder: The run.
        steps: How far it is.
        state: Numbers, strings, arrays and tensors. The global random generators, and what the rounding depends on, are added.
            ``state["transitions"]``, where it is there, has the names of all files that are needed beside it.
        beside: The file among them that is not written yet.

    Returns:
        The checkpoint.

    Raises:
        OSError: It cannot be written; the last whole one before it is as it was.
    """
    stream = io.BytesIO()
    torch.save(to_tensors({"made_by": _made_by(), "random": _save_random(), **state}), stream)
    content = stream.getvalue()
    path = folder.checkpoints / f"{steps:012d}-{_checksum(content)}.pt"
    folder.checkpoints.mkdir(exist_ok=True)
    try:
        if beside is not None:
            (folder.checkpoints / BESIDE).mkdir(exist_ok=True)
            _write_with_room(folder, folder.checkpoints / BESIDE / beside.name, beside.content, state[BESIDE])
        _write_with_room(folder, path, content, state.get(BESIDE, []))
    except OSError:
        with suppress(OSError):
            _drop_unneeded(folder)  # such as the file beside it, which would take the room that the next one needs
        raise
    same_step = [other for other in _all(folder) if steps_of(other) == steps and other != path]  # damaged
    for old in same_step + _all(folder)[:-_KEPT]:
        old.unlink(missing_ok=True)
    _drop_unneeded(folder, state.get(BESIDE, []))
    return path


def _write_with_room(folder: RunFolder, path: Path, content: bytes, needed: list[str]) -> None:
    """Writes a file; on a full disk earlier checkpoints make room, but none of the files that are needed beside this one."""
    while True:
        try:
            _write_whole(path, content)
            break
        except OSError as error:
            spare = _spare(folder) if error.errno in _FULL else []
            if not spare:
                raise
            spare[0].unlink()
            _drop_unneeded(folder, needed)


def _drop_unneeded(folder: RunFolder, newest: Sequence[str] = ()) -> None:
    """Removes the files beside the checkpoints that none of them needs, nor the newest or the one to come."""
    found = list((folder.checkpoints / BESIDE).glob("*-*.*"))
    try:
        needed = {*newest} | {name for path in _all(folder) if found for name in _needed_by(path)}
    except Exception:  # one that cannot be read now may need any of them
        return
    for path in found:
        if path.name not in needed:
            path.unlink(missing_ok=True)


@lru_cache(maxsize=4 * _KEPT)
def _needed_by(path: Path) -> list[str]:
    """The files that a checkpoint needs; none if it is damaged. Read once: what a checkpoint says is in its name."""
    content = path.read_bytes()
    return list(_state_in(content).get(BESIDE, [])) if _fits_its_name(path, content) else []


def keep(folder: RunFolder, path: Path, phases: Iterable[int]) -> None:
    """Keeps a checkpoint as that of the end of some phases: ``checkpoints/phases/<phase>-<steps>-<checksum>.pt``.

    What is kept of a phase already stays if it is whole.

    Args:
        folder: The run.
        path: The checkpoint.
        phases: Those that have ended since the checkpoint before it.

    Raises:
        OSError: It cannot be written.
    """
    before = kept(folder)
    for phase in phases:
        if (old := before.get(phase)) is not None:
            if _fits_its_name(old, old.read_bytes()):
                continue
            old.unlink()
        copy = folder.checkpoints / "phases" / f"{phase:04d}-{path.name}"
        copy.parent.mkdir(exist_ok=True)
        try:
            copy.hardlink_to(path)
        except OSError:  # not every file system has links
            _write_whole(copy, path.read_bytes())
        else:
            flush_folder(copy.parent)


def kept(folder: RunFolder) -> dict[int, Path]:
    """The checkpoints that were kept, by their phases."""
    found = sorted((folder.checkpoints / "phases").glob("*.pt"))
    return {int(path.name.split("-")[0]): path for path in found if re.fullmatch(rf"\d+-{_NAME}", path.name)}


def _spare(folder: RunFolder) -> list[Path]:
    """The checkpoints that may make room, the damaged ones first: not the newest that is whole, nor what a link keeps."""
    whole: list[Path] = []
    damaged: list[Path] = []
    for path in _all(folder):
        with suppress(OSError, MemoryError):  # one that cannot be read now may be whole
            (whole if _is_whole(path) else damaged).append(path)
    return [path for path in damaged + whole[:-1] if path.stat().st_nlink == 1]


def _write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it is whole when it has its name."""
    temporary = path.with_name(".new")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        path: Its file.
        state: What was written, arrays as tensors.
    """

    path: Path
    state: dict[str, Any]

    def beside(self) -> Iterator[bytes]:
        """The contents of the files that it needs beside it, in their order.

        Raises:
            UserError: One is missing or damaged.
            OSError: One cannot be read now.
        """
        for name in self.state.get(BESIDE, []):
            path = self.path.parent / BESIDE / Path(name).name
            try:
                content = path.read_bytes()
            except (FileNotFoundError, ValueError) as error:  # or a name that no file has
                raise UserError(f"checkpoint '{self.path}' needs '{path}', which is missing") from error
            if not _fits_its_name(path, content):
                raise UserError(f"checkpoint '{self.path}' needs '{path}', which is damaged: its checksum is another")
            yield content

    @contextmanager
    def opened(self) -> Iterator[dict[str, Any]]:
        """Gives the state to whom it is loaded into.

        Raises:
            UserError: It does not fit what it is loaded into.
        """
        try:
            yield self.state
        except UserError:  # which says by itself what is wrong
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise UserError(f"checkpoint '{self.path}' is not one of this run: {message_of(error)}") from error

    @contextmanager
    def going_on(self) -> Iterator[dict[str, Any]]:
        """Gives the state to whom it is loaded into; sets the global random generators at the end.

        Warns:
            UserWarning: It was made on another machine, by another number of threads or version of a package.

        Raises:
            UserError: It does not fit what it is loaded into.
        """
        with self.opened() as state:
            now = _made_by()
            made_by = _of_then(state["made_by"], now)
            differing = [f"{name} {made_by[name]}, not {here}" for name, here in now.items() if made_by[name] != here]
            yield state
            _load_random(state["random"])
        if differing:
            warnings.warn(f"the run goes on, but not to the bit; it was made with {', '.join(differing)}", stacklevel=2)


def earlier_versions(checkpoint: Checkpoint) -> list[dict[str, str]]:
    """The versions that a run was made with up to a checkpoint, where they were others than now: the oldest first.

    Raises:
        UserError: It does not fit what it is loaded into.
    """
    now = versions()
    with checkpoint.opened() as state:
        made_by = _of_then(state["made_by"], now)
        found = [*state.get(EARLIER, []), {name: made_by[name] for name in now}]
        return [each for number, each in enumerate(found) if each != now and each not in found[:number]]


def _of_then(made_by: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint was made by; earlier releases named neither themselves nor the GPU, which counts as the present one."""
    return {"continual-backprop": "unknown", **{name: now[name] for name in ("gpu",) if name in now}, **made_by}


def read(path: Path) -> Checkpoint:
    """A checkpoint.

    Raises:
        UserError: It is damaged.
        OSError: It cannot be read now.
        MemoryError: Likewise.
    """
    content = path.read_bytes()
    try:
        if not _fits_its_name(path, content):
            raise ValueError("its checksum is another")
        return Checkpoint(path, _state_in(content))
    except MemoryError:
        raise
    except Exception as error:  # whatever damage, or what is not allowed in such a file, makes torch raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint '{path}' is damaged: {reason}") from error


def _state_in(content: bytes) -> dict[str, Any]:
    # To the CPU: a run that trained on a GPU is read on a machine without one.
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    beside = state.get(BESIDE, []) if isinstance(state, dict) else None
    if not isinstance(beside, list) or not all(isinstance(name, str) for name in beside):
        raise TypeError("it holds something else than a state")
    return dict(state)


def read_newest(folder: RunFolder, with_files: bool = False) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there is none at all.

    Args:
        folder: The run.
        with_files: Whether the files beside it must be whole too.

    Warns:
        UserWarning: A checkpoint is damaged, and the one before it is taken.

    Raises:
        UserError: Every checkpoint is damaged; or one cannot be read now, which may be whole: going on from the one before it
            would lose it.
    """
    found = _all(folder)
    for path in reversed(found):
        try:
            found_whole = read(path)
            for _ in found_whole.beside() if with_files else ():
                pass
            return found_whole
        except UserError as error:
            warnings.warn(f"{error}; it is passed over", stacklevel=3)
        except (OSError, MemoryError) as error:
            hint = "where that lasts, remove it to go on from the one before"
            raise UserError(f"checkpoint '{path}' cannot be read: {in_words(error)}; {hint}") from error
    if found:
        raise UserError(f"every checkpoint in '{folder.checkpoints}' is damaged")
    return None


def newest(folder: RunFolder) -> Path | None:
    """The newest checkpoint; None where there is none."""
    return next(reversed(_all(folder)), None)


def _all(folder: RunFolder) -> list[Path]:
    """Every checkpoint, the oldest first."""
    return sorted(path for path in folder.checkpoints.glob("*.pt") if re.fullmatch(_NAME, path.name))


def steps_of(path: Path) -> int:
    """The steps after which a checkpoint was written, by its name."""
    return int(path.stem.split("-")[-2])


def _is_whole(path: Path) -> bool:
    try:
        for _ in read(path).beside():
            pass
    except UserError:
        return False
    return True


def _fits_its_name(path: Path, content: bytes) -> bool:
    return path.stem.rpartition("-")[2] == _checksum(content)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _made_by() -> dict[str, str | int]:
    """What the rounding of a run depends on."""
    return {
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "gpu": torch.cuda.get_device_name() if _gpus() else "none",
        "threads": torch.get_num_threads(),
        **versions(),
    }


def _gpus() -> range:
    """The indices of the GPUs, if this process uses one."""
    return range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)  # type: ignore[no-untyped-call]


def _save_random() -> dict[str, Any]:
    _, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002  what SB3 draws from
    version_, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(index) for index in _gpus()],
        "numpy": [np.asarray(keys, np.int64), *rest],
        "python": [version_, list(internal), gauss],
    }


def _load_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    for index, of_gpu in zip(_gpus(), state.get("cuda", []), strict=False):  # not in the first releases' checkpoints
        torch.cuda.set_rng_state(of_gpu, index)
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version_, internal, gauss = state["python"]
    random.setstate((version_, tuple(internal), gauss))


def to_tensors(value: Any, path: str = "its state") -> Any:
    """Arrays as tensors and numbers as Python's, which is what ``weights_only`` reads.

    Args:
        value: Dictionaries, lists and tuples of arrays, tensors, numbers and strings.
        path: What it is called, for an error.

    Raises:
        UserError: Something else is in it, which could be written but not read.
    """
    if isinstance(value, dict):
        return {to_tensors(key, f"a key of {path}"): to_tensors(item, f"{path}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [to_tensors(item, f"{path}[{number}]") for number, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubc":
        return torch.from_numpy(value.copy(order="K"))  # in memory as it was, since sums follow it
    if value is None or isinstance(value, torch.Tensor | torch.dtype | torch.device):
        return value
    for plain in (bool, int, float, complex, str, bytes):
        if isinstance(value, plain):  # of a subclass, such as an enumeration's, what it is one of
            return plain(value)  # type: ignore[arg-type]
    if isinstance(value, np.generic) and value.dtype.kind in "fiubc":
        return value.item()
    raise UserError(f"a checkpoint cannot hold {path}, which is a {type(value).__name__}")


def to_arrays(value: Any) -> Any:
    """Tensors, however deep, as arrays."""
    if isinstance(value, dict):
        return {key: to_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_arrays(item) for item in value)
    return value.numpy() if isinstance(value, torch.Tensor) else value
