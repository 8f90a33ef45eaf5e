"""Plays the policy of a run over a grid of values of a parameter, draws its return over them, and films it.

``python -m agents.evaluate RUN --record film.mp4``
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input, with a line about it; 130 after Ctrl-C."""
    # MuJoCo raises while it is imported where MUJOCO_GL names what is not there; it is checked later, and said in one line.
    renderer = os.environ.pop("MUJOCO_GL", None)
    from agents.playing.evaluation import run

    return run(arguments, renderer)


if __name__ == "__main__":
    sys.exit(main())
