"""The folder a run writes: where each file lies, and how it is made, read and refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from agents.runs.config import RunConfig, read_config
from agents.runs.errors import UserError, for_a_shell, message_of

_Kind = TypeVar("_Kind", bound=RunConfig)


class FolderInUseError(UserError):
    """Another process is training in a run folder."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run.

    Attributes:
        path: The folder itself.
    """

    path: Path

    @classmethod
    def below(cls, run_dir: Path, config: RunConfig, run: str) -> RunFolder:
        """Where a run lies below a folder of runs: ``<env>/<method>/<run>``, or ``<problem>/<method>/<run>``."""
        return cls(run_dir / config.world / config.label / run)

    @property
    def config(self) -> Path:
        """The configuration, JSON."""
        return self.path / "config.json"

    @property
    def progress(self) -> Path:
        """What is logged, a row per rollout, CSV."""
        return self.path / "progress.csv"

    @property
    def episodes(self) -> Path:
        """Every finished episode, CSV: see :class:`agents.callbacks.PhaseCallback`."""
        return self.path / "episodes.csv"

    @property
    def events(self) -> list[Path]:
        """TensorBoard's event files, the oldest first."""
        return sorted(self.path.glob("events.out.tfevents.*"))

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def probe(self) -> Path:
        """The probe batch of :class:`agents.callbacks.PlasticityCallback`."""
        return self.path / "probe.npz"

    @property
    def errors(self) -> Path:
        """The traceback of the error that ended the run, if one did."""
        return self.path / "error.log"

    @property
    def output(self) -> Path:
        """What a run of a sweep printed."""
        return self.path / "output.log"

    @property
    def summary(self) -> Path:
        """What came of the run, JSON."""
        return self.path / "summary.json"

    @property
    def figure(self) -> Path:
        """The run in a picture."""
        return self.path / "report.png"

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunFolder:
        """Makes the folder and writes the configuration.

        Raises:
            UserError: Something is there already, or the folder cannot be written.
            FolderInUseError: Another process makes a run there.
        """
        folder = cls(path)
        if not _is_text(path):
            raise UserError(f"a run folder's name must be text, which {str(path)!a} is not: TensorBoard could not write there")
        try:
            folder.refuse_if_taken()
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to run folder '{path}': {error.strerror}") from error
        with folder.locked():
            folder.begin(config)
        return folder

    def begin(self, config: RunConfig) -> None:
        """Writes the configuration to a folder that is locked.

        Raises:
            UserError: As :meth:`create`.
        """
        try:
            self.refuse_if_taken()
            write_atomically(self.config, config.to_json())
        except OSError as error:
            raise UserError(f"cannot write to run folder '{self.path}': {error.strerror}") from error

    def refuse_if_taken(self) -> None:
        """Refuses a place where something lies.

        Raises:
            UserError: A file, or a folder with more than what a sweep puts there first.
        """
        path = self.path
        own = (self.output.name, ".")  # of a sweep, which takes lock and log before the configuration is there
        if path.exists() and (not path.is_dir() or any(not file.name.startswith(own) for file in path.iterdir())):
            hint = f"; to go on with the run there: --resume {for_a_shell(path)}" if self.config.exists() else ""
            raise UserError(f"'{path}' exists already{hint}")

    @classmethod
    def open(cls, path: Path, *kinds: type[_Kind]) -> tuple[RunFolder, _Kind]:
        """An existing run of one of some kinds, and its configuration.

        Raises:
            UserError: The folder is no run, or its configuration cannot be read.
        """
        folder = cls(path)
        if not folder.config.is_file():
            raise UserError(f"'{path}' is no run: it has no config.json")
        try:
            return folder, read_config(folder.config.read_text(encoding="utf-8"), *kinds)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read '{folder.config}': {error}") from error
        except UserError as error:
            raise UserError(f"'{folder.config}': {error}") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing to the run; a process that ends, in whatever way, frees it.

        Raises:
            FolderInUseError: Another process writes to it.
            UserError: The folder cannot be written.
        """
        try:
            held = FileLock(self.path / ".lock").acquire(blocking=False)
        except Timeout:
            raise FolderInUseError(f"another process is training in '{self.path}'") from None
        except OSError as error:
            raise UserError(f"cannot write to run folder '{self.path}': {error.strerror}") from error
        with held:
            yield


def _is_text(path: Path) -> bool:
    """Whether a path is text; one of bytes that are none has surrogates in their place."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_ending(option: str, path: Path, endings: Iterable[str]) -> None:
    """Refuses a file whose name does not end as files of its kind do, such as ``.png``.

    Raises:
        UserError: It does not.
    """
    allowed = list(endings)
    if path.suffix.lower() not in allowed:
        raise UserError(f"{option} must end in {' or '.join(allowed)}, got '{path}'")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Gives the name of a file to write, beside another whose name it gets at the end; an error, or Ctrl-C, leaves nothing.

    Raises:
        UserError: The other file exists already, or cannot be written.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        if path.exists():
            raise UserError(f"'{path}' exists already")
        temporary.touch()
        try:
            yield temporary
            _rename_to_new(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror or message_of(error)}") from error


def _rename_to_new(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)  # which, unlike a renaming, takes no other's place
    except FileExistsError:
        raise UserError(f"'{path}' exists already") from None
    except OSError:  # not every file system has links
        temporary.rename(path)


def write_json(path: Path, data: Any) -> None:
    """Writes JSON so that the file is at any moment either the old one or the whole new one."""
    write_atomically(path, json.dumps(data, indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Writes a text so that the file is at any moment either the old one or the whole new one."""
    target = path.resolve() if path.is_symlink() else path  # a link stays one
    temporary = target.with_name(f".{target.name}.new")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        error.filename, error.filename2 = str(path), None
        raise


def flush_folder(path: Path) -> None:
    """Makes a new name in a folder survive a power failure; on Windows, which cannot be told to, nothing is done."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
