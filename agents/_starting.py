"""What a command sees to before its modules are imported, which takes seconds."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def prepare() -> None:
    """For ``python -m agents.…`` alone: Ctrl-C ends it in a line, and streams that are closed lead nowhere.

    An import makes of Ctrl-C what it will; and the next file to be opened would have the number of a stream that is closed.
    """
    given = sys.orig_argv
    module = given[given.index("-m") + 1] if "-m" in given[:-1] else ""
    if sys.argv[:1] != ["-m"] or not module.startswith("agents."):  # the first is so while Python looks for the module
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            while os.open(os.devnull, os.O_RDWR) < number:
                pass
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))


def _end(*_: Any) -> None:
    os.write(2, b"Stopped at once.\n")
    os._exit(130)
