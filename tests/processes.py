"""Our commands in processes of their own, forked from one that has imported everything, which spares each some seconds.

They are real processes: they have output and exit codes of their own, and can be stopped and killed. What a fresh interpreter
alone can show (``python -m``, another hash seed, what is imported when) is for tests that start one.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_COMMANDS = ["agents.train", "agents.learn", "agents.report", "agents.playing.evaluation", "agents.sweep"]
_CONTEXT.set_forkserver_preload([*_COMMANDS, "torch._dynamo"])  # the last is what torch imports with the first optimizer


def _main(
    module: str,
    arguments: list[str],
    environment: dict[str, str | None],
    folder: str,
    output: list[str],
    prepare: Callable[[], object] | None,
) -> None:
    for number, path in enumerate(output, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    # A shell's background jobs ignore the first, what nohup starts the second; and what these start does so too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    os.chdir(folder)
    os.setsid()
    if prepare is not None:
        prepare()
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(module).main(arguments))


class Started:
    """A command at work, with the methods of :class:`subprocess.Popen` that tests use.

    It is in a session of its own. What is given by name is put into its environment; None is taken out of it. The process calls
    ``prepare``, which must have a name in a module, before the command.
    """

    def __init__(
        self, module: str, *arguments: object, prepare: Callable[[], object] | None = None, **environment: str | None
    ) -> None:
        self.args = [module, *map(str, arguments)]
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder)
        self._output = [f"{folder}/{name}" for name in ("out", "err")]
        for path in self._output:
            Path(path).touch()
        self._process = _CONTEXT.Process(
            target=_main, args=(module, self.args[1:], environment, str(Path.cwd()), self._output, prepare), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float = 600) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"{self.args} is at work after {timeout} s")
        return self._process.exitcode

    def printed(self) -> tuple[str, str]:
        """What it has written so far, to standard output and to standard error."""
        out, err = (Path(path).read_text(errors="replace") for path in self._output)
        return out, err

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        self.wait(timeout)
        return self.printed()


def run(module: str, *arguments: object, check: bool = True, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, as ``subprocess.run`` with captured output does."""
    started = Started(module, *arguments, **environment)
    out, err = started.communicate()
    if check and started.returncode != 0:
        raise AssertionError(f"{started.args} ended with {started.returncode}: {err}")
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)
