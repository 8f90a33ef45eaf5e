"""What the commands share: some options, and how they end."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from stable_baselines3.common.utils import get_device
from tqdm import tqdm

from agents.runs.errors import RunError, UserError, message_of, one_line

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect it."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are :class:`agents.runs.errors.UserError`."""

    def error(self, message: str) -> NoReturn:
        """Refuses the arguments."""
        raise UserError(message)


def run_command(command: Callable[[], int], interrupted: str = "nothing was written") -> int:
    """Runs a command and says in one line on standard error why it ended early.

    Args:
        command: Returns the exit code.
        interrupted: What to say after Ctrl-C.

    Returns:
        The command's exit code; 2 after bad input, 1 after a failure, 130 after Ctrl-C.
    """
    warnings.showwarning = show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a console or pipe of Windows lacks some letters, such as ∞
    out, err = (stream and _Lasting(stream) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err), handled(_interrupt):
        try:
            return command()
        except KeyboardInterrupt:
            print(f"Stopped at once; {interrupted}.", file=sys.stderr)
            return INTERRUPTED
        except (UserError, RunError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2 if isinstance(error, UserError) else 1
        except OSError as error:  # of a file that no command expected trouble with, such as one of too long a name
            where = f"'{error.filename}': " if error.filename else ""
            print(f"error: {where}{error.strerror or one_line(str(error))}", file=sys.stderr)
            return 2
        finally:
            for stream in filter(None, (out, err)):
                stream.flush()


class _Lasting:
    """A stream that is silent from when nobody reads it any more, so that no work is lost for want of a listener."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._silenced():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._silenced():
            self._stream.flush()

    @contextmanager
    def _silenced(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # a reader who is slow misses a piece
            pass
        except OSError:  # the reader of a pipe has gone, a terminal has closed, a disk is full
            with suppress(OSError), Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # what waits to be written goes there, too


@contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handles Ctrl-C, SIGTERM and the closing of the terminal; in another thread than the first nothing is changed."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # as under nohup
        numbers.append(hangup)
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, of_before in before.items():
            if of_before is not None:  # else it was not set from Python
                signal.signal(number, of_before)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Shows a warning as one line: for ``warnings.showwarning``."""
    tqdm.write(one_line(f"warning: {' '.join(str(message).split())}"), file=sys.stderr)  # above the progress bar


class _Bar(tqdm):  # type: ignore[type-arg]
    def __del__(self) -> None:
        if hasattr(self, "start_t"):  # the last it gets: after Ctrl-C before that, tqdm's own would print a traceback
            super().__del__()


def progress_bar(total: int, initial: int = 0, **options: Any) -> tqdm[Any]:
    """A progress bar on standard error; where that is no terminal, a line twice a minute.

    Args:
        total: What there is to do.
        initial: How much of it is done.
        **options: Further ones of ``tqdm``.
    """
    terminal = sys.stderr.isatty()
    often = 0.5 if terminal else 30
    return _Bar(total=total, initial=initial, mininterval=often, dynamic_ncols=terminal, **options)


def add_shared_options(parser: argparse.ArgumentParser, threads: int | None = None, *, several: bool = True) -> None:
    """Adds the options that runs of all kinds have.

    Args:
        parser: Of a command.
        threads: The default of ``--threads``.
        several: Whether ``--set`` takes several values, for a run with each.
    """
    add = parser.add_argument
    values = "; several with commas between for a run with each" if several else ""
    add("--set", metavar="KEY=VALUE", action="append", help=f"another value for a setting of the method, as in JSON{values}")
    add("--device", metavar="NAME", help="torch device of the networks, as cpu, cuda, auto (default: cpu)")
    add(
        "--threads",
        metavar="N",
        type=int,
        default=threads,
        help=f"threads of a run (default: {threads or 'one for each core'})",
    )
    add("--checkpoint-minutes", metavar="M", type=float, help="minutes between two checkpoints (default: 5)")


def refuse_beside_resume(args: argparse.Namespace, *allowed: str) -> None:
    """Refuses options beside ``--resume`` but for the allowed ones: a run goes on as it was configured."""
    given_too = [name for name, value in vars(args).items() if value is not None and name not in ("resume", *allowed)]
    if given_too:
        option = given_too[0].replace("_", "-")
        raise UserError(f"--resume goes on with the run as it was configured and takes no --{option}")


def given(value: Any, default: Any) -> Any:
    """The value of an option, or what stands for one that was not given."""
    return default if value is None else value


def parse_override(text: str, of: str = "--set") -> tuple[str, Any]:
    """The name and the value of a ``KEY=VALUE`` of some option: JSON, or else a text.

    Raises:
        UserError: It has no value; one that cannot be read; or Python's True or False, which as a text would switch on.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{of} takes key=value, got '{text}'")
    if value in ("True", "False"):
        raise UserError(f"{name} must be JSON, which has true and false, got '{value}'")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
    except (ValueError, RecursionError) as error:  # too many digits, or brackets in brackets
        raise UserError(f"{of} {name} cannot be read: {message_of(error)}") from error


def by_key(pairs: Iterable[tuple[str, Any]], of: str = "--set") -> dict[str, Any]:
    """The values of some ``KEY=VALUE`` by their keys.

    Raises:
        UserError: A key that is there twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"{of} takes each key once, got {name} twice")
        found[name] = value
    return found


def parse_overrides(text: str) -> list[tuple[str, Any]]:
    """As :func:`parse_override`, of a ``KEY=A,B``: the name with each value. What is in brackets is one value."""
    name, equals, values = text.partition("=")
    parts = [values] if "[" in values or "{" in values else values.split(",")
    return [parse_override(f"{name}{equals}{value}") for value in parts]


def a_path(text: str) -> Path:
    """The path that an option names, for its ``type``; an empty one, as a variable without a value gives it, names none."""
    if not text:
        raise argparse.ArgumentTypeError("must name a file or a folder, got ''")
    return Path(text)


def check_device(name: str) -> str:
    """The name of a device that can be used; ``auto`` is, as in Stable-Baselines3, a GPU if there is one."""
    try:
        if name == "auto":
            name = get_device(name).type
        torch.zeros(1, device=name).item()  # what a device without numbers, meta, cannot
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0].split(". ")[0]
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise UserError(f"device '{name}' cannot be used: {why}; here there are {', '.join(['auto', 'cpu', *gpus])}") from error
    return name
