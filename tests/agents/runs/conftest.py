from __future__ import annotations

from pathlib import Path

import pytest
from same_runs import wait_for_next_second

from agents.callbacks import ProgressCallback


@pytest.fixture
def command(command):
    """The command; a run goes on in another second than it stopped in."""

    def train(*arguments):
        if arguments[0] == "--resume":
            wait_for_next_second(Path(arguments[1]))
        return command(*arguments)

    return train


@pytest.fixture
def interrupted(command, monkeypatch):
    """Trains until a step and is then gone at once, as by a second Ctrl-C."""

    def train(*arguments, until):
        rollout_end = ProgressCallback._on_rollout_end

        def leave(callback):
            if callback.num_timesteps >= until:
                raise KeyboardInterrupt
            rollout_end(callback)

        with monkeypatch.context() as patch:
            patch.setattr(ProgressCallback, "_on_rollout_end", leave)
            assert command(*arguments) == 130

    return train
