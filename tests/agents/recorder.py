"""A logger that keeps what would be written."""

from __future__ import annotations

from stable_baselines3.common.logger import Logger


class Recorder(Logger):
    """Keeps what would be written at each dump."""

    def __init__(self, logged) -> None:
        super().__init__(None, [])
        self.logged = logged

    def dump(self, step=0):
        self.logged.append(dict(self.name_to_value))
        super().dump(step)
