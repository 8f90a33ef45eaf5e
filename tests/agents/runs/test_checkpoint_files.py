"""What is written to a disk that has no room left."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import cbp
from agents.runs import checkpoint_files
from agents.runs.checkpoint_files import EARLIER, earlier_versions, read_newest
from agents.runs.errors import UserError
from agents.runs.run_folder import RunFolder
from agents.runs.summary import versions

ROOM = 4.5  # checkpoints that fit on the disk


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run with three checkpoints on a disk that takes no more than ``ROOM`` of them, each with 100,000 numbers."""
    folder = RunFolder(tmp_path)
    flush = os.fsync
    for steps in range(3):
        checkpoint_files.write(folder, steps, {"numbers": np.full(100_000, steps)})
    room = ROOM * checkpoint_files.newest(folder).stat().st_size

    def fsync(descriptor):
        if sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    monkeypatch.setattr(checkpoint_files.os, "fsync", fsync)
    return folder


def kept(folder):
    """The steps of the checkpoints; each is whole."""
    found = sorted(folder.checkpoints.iterdir())
    for path in found:
        assert path.stem.partition("-")[2] == checkpoint_files._checksum(path.read_bytes())
    return [int(path.name.split("-")[0]) for path in found]


@pytest.mark.parametrize(("others", "left"), [(0, [1, 2, 3]), (1, [1, 2, 3]), (2, [2, 3])])
def test_the_oldest_checkpoints_make_room_for_a_new_one(folder, others, left):
    size = checkpoint_files.newest(folder).stat().st_size
    (folder.path / "events").write_bytes(bytes(others * size))  # 4, 3 and 2 fit beside it: one, one and two go
    checkpoint_files.write(folder, 3, {"numbers": np.full(100_000, 3)})
    assert kept(folder) == left
    assert checkpoint_files.read_newest(folder).state["numbers"].unique().tolist() == [3]


def test_the_last_checkpoint_stays_where_it_is_the_only_one_that_fits(folder):
    size = checkpoint_files.newest(folder).stat().st_size
    (folder.path / "events").write_bytes(bytes(3 * size))
    with pytest.raises(OSError, match="No space left"):
        checkpoint_files.write(folder, 3, {"numbers": np.full(100_000, 3)})
    assert kept(folder) == [2]


def test_damaged_checkpoints_make_room_first_and_the_last_whole_one_stays(folder):
    newest = checkpoint_files.newest(folder)
    size = newest.stat().st_size
    newest.write_bytes(bytes(size))
    (folder.path / "events").write_bytes(bytes(size))  # three fit beside it
    checkpoint_files.write(folder, 3, {"numbers": np.full(100_000, 3)})
    assert kept(folder) == [0, 1, 3]
    checkpoint_files.newest(folder).write_bytes(bytes(size))
    (folder.path / "events").write_bytes(bytes(3 * size))  # one fits beside it
    with pytest.raises(OSError, match="No space left"):
        checkpoint_files.write(folder, 4, {"numbers": np.full(100_000, 4)})
    assert kept(folder) == [1]


def cannot_be_read(unreadable, monkeypatch, error):
    read = Path.read_bytes

    def read_bytes(path):
        if path == unreadable:
            raise error
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


FOR_ONCE = [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), PermissionError(errno.EACCES, "Permission denied"), MemoryError()]


@pytest.mark.parametrize("error", FOR_ONCE)
@pytest.mark.parametrize("with_files", [False, True])
def test_a_checkpoint_that_cannot_be_read_for_once_is_not_passed_over(folder, monkeypatch, error, with_files):
    """A run that went on from the one before would end with less, and drop this one."""
    newest = checkpoint_files.newest(folder)
    with monkeypatch.context() as patch:
        cannot_be_read(newest, patch, error)
        with pytest.raises(UserError, match=f"checkpoint '{newest}' cannot be read: {type(error).__name__}"):
            checkpoint_files.read_newest(folder, with_files)
    assert checkpoint_files.read_newest(folder, with_files).path == newest


@pytest.mark.parametrize("error", FOR_ONCE)
def test_nor_is_one_whose_transitions_cannot_be_read_for_once(folder, monkeypatch, error):
    new = checkpoint_files.NewFile.of("0-1", ".npz", b"some")
    newest = checkpoint_files.write(folder, 3, {"transitions": [new.name]}, new)
    with monkeypatch.context() as patch:
        cannot_be_read(folder.checkpoints / "transitions" / new.name, patch, error)
        with pytest.raises(UserError, match=f"checkpoint '{newest}' cannot be read: {type(error).__name__}"):
            checkpoint_files.read_newest(folder, with_files=True)
    assert checkpoint_files.read_newest(folder, with_files=True).path == newest


def test_one_that_cannot_be_read_for_once_makes_no_room(folder, monkeypatch):
    unreadable = checkpoint_files.newest(folder)
    (folder.path / "events").write_bytes(bytes(unreadable.stat().st_size))  # three fit beside it
    with monkeypatch.context() as patch:
        cannot_be_read(unreadable, patch, FOR_ONCE[0])
        checkpoint_files.write(folder, 3, {"numbers": np.full(100_000, 3)})
    assert kept(folder) == [1, 2, 3]


def test_a_checkpoint_that_cannot_be_read_does_not_keep_the_next_from_being_written(folder, monkeypatch):
    cannot_be_read(checkpoint_files.newest(folder), monkeypatch, OSError(errno.EIO, os.strerror(errno.EIO)))
    checkpoint_files.write(folder, 3, {"numbers": np.full(100_000, 3)})
    assert [int(path.name.split("-")[0]) for path in sorted(folder.checkpoints.iterdir())] == [1, 2, 3]


def test_no_checkpoint_goes_for_an_error_that_room_does_not_mend(folder, monkeypatch):
    def fsync(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint_files.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoint_files.write(folder, 3, {"numbers": np.full(100_000, 3)})
    assert kept(folder) == [0, 1, 2]


def test_transitions_that_are_still_needed_make_no_room(folder):
    size = checkpoint_files.newest(folder).stat().st_size
    old, new = (checkpoint_files.NewFile.of(stem, ".npz", bytes(size // 4)) for stem in ("0-1", "1-2"))
    checkpoint_files.write(folder, 3, {"transitions": [old.name], "numbers": np.full(100_000, 3)}, old)
    (folder.path / "events").write_bytes(bytes(3 * size // 2))  # two and a half fit beside it
    checkpoint_files.write(folder, 4, {"transitions": [old.name, new.name], "numbers": np.full(100_000, 4)}, new)
    files = folder.checkpoints / "transitions"
    assert {path.name for path in files.iterdir()} == {old.name, new.name}
    assert checkpoint_files.read_newest(folder, with_files=True).state["numbers"].unique().tolist() == [4]
    checkpoint_files.write(folder, 5, {"transitions": [new.name]})
    assert {path.name for path in files.iterdir()} == {old.name, new.name}  # the checkpoint before needs the first still
    for steps in (6, 7, 8):
        checkpoint_files.write(folder, steps, {"transitions": [new.name]})
    assert {path.name for path in files.iterdir()} == {new.name}


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, os.strerror(errno.EMFILE)), MemoryError()])
def test_transitions_stay_where_a_checkpoint_cannot_be_read_for_once(tmp_path, monkeypatch, error):
    folder = RunFolder(tmp_path)
    old, new = (checkpoint_files.NewFile.of(stem, ".npz", b"some") for stem in ("0-1", "1-2"))
    checkpoint_files.write(folder, 1, {"transitions": [old.name]}, old)

    def read_bytes(_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_bytes)
        checkpoint_files.write(folder, 2, {"transitions": [new.name]}, new)
    files = folder.checkpoints / "transitions"
    assert {path.name for path in files.iterdir()} == {old.name, new.name}
    for steps in (3, 4):
        checkpoint_files.write(folder, steps, {})
    assert {path.name for path in files.iterdir()} == {new.name}  # which the second of the four needs still
    checkpoint_files.write(folder, 5, {})
    assert list(files.iterdir()) == []


def test_a_checkpoint_that_does_not_fit_leaves_none_of_its_transitions(folder):
    size = checkpoint_files.newest(folder).stat().st_size
    (folder.path / "events").write_bytes(bytes(3 * size))  # one and a half fit beside it
    new = checkpoint_files.NewFile.of("0-1", ".npz", bytes(size // 4))
    with pytest.raises(OSError, match="No space left"):
        checkpoint_files.write(folder, 3, {"transitions": [new.name], "numbers": np.full(100_000, 3)}, new)
    assert list((folder.checkpoints / "transitions").iterdir()) == []


@pytest.mark.parametrize("state", [[1, 2], {"transitions": 1}, {"transitions": [1]}, {"transitions": ["\0.npz"]}])
def test_a_checkpoint_that_holds_something_else_is_passed_over(tmp_path, state):
    folder, stream = RunFolder(tmp_path), io.BytesIO()
    checkpoint_files.write(folder, 0, {"numbers": np.zeros(1)})
    torch.save(state, stream)
    (folder.checkpoints / f"000000000001-{checkpoint_files._checksum(stream.getvalue())}.pt").write_bytes(stream.getvalue())
    with pytest.warns(UserWarning, match="passed over"):
        assert "numbers" in checkpoint_files.read_newest(folder, with_files=True).state


def test_versions_that_a_run_was_made_with_before_are_known_where_they_were_others(tmp_path, monkeypatch):
    folder, first, own = RunFolder(tmp_path), versions(), cbp.__version__
    checkpoint_files.write(folder, 0, {EARLIER: []})
    assert earlier_versions(read_newest(folder)) == []
    monkeypatch.setattr(cbp, "__version__", "9.9.9")
    assert earlier_versions(read_newest(folder)) == [first]
    checkpoint_files.write(folder, 1, {EARLIER: [first]})
    assert earlier_versions(read_newest(folder)) == [first]
    monkeypatch.setattr(cbp, "__version__", own)  # and back again
    assert earlier_versions(read_newest(folder)) == [{**first, "continual-backprop": "9.9.9"}]
    made_by = checkpoint_files._made_by()
    del made_by["continual-backprop"], made_by["gpu"]
    checkpoint_files.write(folder, 2, {"made_by": made_by})  # as earlier releases wrote it
    assert earlier_versions(read_newest(folder)) == [{**first, "continual-backprop": "unknown"}]
