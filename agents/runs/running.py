"""Carries out a run of any kind: stops where asked to, writes checkpoints now and then, says in one line what broke."""

from __future__ import annotations

import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from agents.runs import checkpoint_files
from agents.runs.commands import INTERRUPTED, handled
from agents.runs.config import RunConfig
from agents.runs.errors import RunError, in_words, message_of
from agents.runs.run_folder import RunFolder

_IN_WORDS = (OSError, ValueError, RuntimeError, MemoryError, OverflowError)  # errors that say by themselves what is wrong


class Job(Protocol):
    """A run, or several that learn together, from where they are to their end."""

    @property
    def folder(self) -> RunFolder:
        """Of the run, or of the first."""

    @property
    def minutes(self) -> float:
        """Minutes between two checkpoints."""

    @property
    def position(self) -> str:
        """How far it is, in words: ``"step 1,000"``."""

    @property
    def go_on(self) -> str:
        """The command that goes on with it."""

    def train(self, pauses: Pauses) -> None:
        """Trains to the end; calls ``pauses.here`` wherever it can be stopped and saved."""

    def save(self) -> Path:
        """Writes a checkpoint; only where :meth:`train` could be stopped."""

    def finish(self, seconds: float) -> bool:
        """Writes what came of it, after so many seconds, and says whether it is complete."""


class _Stop(Exception):  # noqa: N818
    """The user asked to stop."""


class Pauses:
    """Stops a job where it asks whether it shall; saves it at the start, when something ended and every few minutes.

    Args:
        job: The job.
    """

    def __init__(self, job: Job) -> None:
        self.stop = False
        self._job = job
        self._last: tuple[float, int] | None = None  # when, and after how many phases

    def here(self, phases: int) -> None:
        """The job can be stopped and saved now; ``phases`` is how many have begun."""
        if self.stop:
            raise _Stop
        now = time.monotonic()
        if self._last is None or phases > self._last[1] or now - self._last[0] > 60 * self._job.minutes:
            self._last = now, phases
            try:
                self._job.save()
            except OSError as error:
                warnings.warn(f"no checkpoint at {self._job.position}: {error.strerror}; training goes on", stacklevel=2)


def use_threads(config: RunConfig) -> None:
    """Gives torch the run's number of threads."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)


def carry_out(job: Job, *, more: bool = False) -> int:
    """Trains a job until it is complete or asked to stop.

    Args:
        job: The job.
        more: Whether there is another to carry out after it.

    Returns:
        0 when it is complete, 130 when it was asked to stop before; also while it was finished, if there is another.

    Raises:
        RunError: It broke off.
    """
    start = time.monotonic()
    pauses = Pauses(job)
    try:
        with _stopping_on_signals(pauses):
            with suppress(_Stop):
                job.train(pauses)
            checkpoint = job.save()
            complete = job.finish(time.monotonic() - start)
    except RunError:
        raise
    except Exception as error:  # whatever an environment of others raises
        raise _broken(job, error) from error
    if complete and not (more and pauses.stop):
        return 0
    print(f"Stopped at {job.position}, saved in {checkpoint}; to go on: {job.go_on}")
    return INTERRUPTED


def complete(job: Job) -> None:
    """Finishes a job that was killed between its last checkpoint and its summary.

    Raises:
        RunError: It broke off.
    """
    try:
        job.finish(seconds=0)
    except Exception as error:
        raise _broken(job, error) from error


def _broken(job: Job, error: Exception) -> RunError:
    """What broke, in one line; the traceback goes to a file."""
    details = ""
    with suppress(OSError):
        job.folder.errors.write_text(traceback.format_exc(), encoding="utf-8")
        details = f" (details in {job.folder.errors})"
    last = checkpoint_files.newest(job.folder)
    kept = f"{job.go_on} goes on from {last.name}" if last else "there is no checkpoint"
    reason = message_of(error) if isinstance(error, _IN_WORDS) and str(error) else in_words(error)
    return RunError(f"training broke off at {job.position}: {reason}{details}; {kept}")


@contextmanager
def _stopping_on_signals(pauses: Pauses) -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or closing of the terminal stops after the current update; another at the last checkpoint."""

    def ask(_: int, __: Any) -> None:
        if pauses.stop:
            raise KeyboardInterrupt
        pauses.stop = True
        print("\nStopping after this update; once more to stop at once.", file=sys.stderr, flush=True)

    with handled(ask):
        yield
