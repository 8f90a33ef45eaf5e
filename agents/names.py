"""Refuses to go on where another package, or a folder of the user's, stands in the way of ``cbp`` or ``envs``."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def require_ours() -> None:
    """Looks what ``cbp`` and ``envs`` are, and imports neither.

    Raises:
        ImportError: One is not ours; in a line, which names the file. A command ends with this line and exit code 2.
    """
    names = Path(__file__).parent.parent / "cbp" / "names.py"  # read as a file: ``import cbp`` may find another
    if not names.is_file():  # frozen into a program
        return
    in_place_of = runpy.run_path(str(names))["in_place_of"]
    line = in_place_of("cbp") or in_place_of("envs")
    if line is None:
        return
    if sys.argv[:1] == ["-m"]:  # as Python has it while it looks for the module of `python -m agents.train`
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(line)
