"""Which runs a command is about, and how far each is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agents.runs.config import Config, RunConfig
from agents.runs.errors import UserError
from agents.runs.run_folder import RunFolder
from agents.runs.summary import complete_steps, is_complete

_Kind = TypeVar("_Kind", bound=RunConfig)
_MOST_SEEDS = 10_000


@dataclass
class Run:
    """A run among others.

    Attributes:
        folder: Where it lies.
        config: What it is.
        state: ``"waiting"``, ``"running"``, ``"complete"``, ``"stopped"`` or ``"failed"``.
        note: What happened to it, in a few words.
        printed: Size of its ``output.log`` when it was handed to Ray: what is more tells that it runs.
        losses: How often in a row its worker was lost before it could write another checkpoint.
        checkpoint: Its newest checkpoint when its worker was last lost.
    """

    folder: RunFolder
    config: RunConfig
    state: str = "waiting"
    note: str = ""
    printed: int = 0
    losses: int = 0
    checkpoint: Path | None = None

    @property
    def name(self) -> str:
        """Method and seed."""
        return f"{self.config.label}/seed{self.config.seed}"


def each_once(configs: Iterable[_Kind]) -> list[_Kind]:
    """Every run once; refuses two that differ in what their folders' names do not tell."""
    found: dict[tuple[str, int], _Kind] = {}
    for config in configs:
        other = found.setdefault((config.label, config.seed), config)
        if other is config:  # which NaN makes another than itself
            continue
        for name, there, asked in other.differences(config):
            raise UserError(f"--set gives two runs in one folder: {name} is {there} and {asked}; take a --run-dir for each")
    return list(found.values())


def inspect(run: Run) -> Run:
    """Finds out how far a run is; refuses a folder with another run in it, or with something else."""
    if run.folder.config.exists():
        run.config = check_same(run.folder, run.config)
        run.state = "complete" if _is_complete(run) else run.state
    else:
        run.folder.refuse_if_taken()
    return run


def _is_complete(run: Run) -> bool:
    if isinstance(run.config, Config):  # whose timesteps may have been raised since
        return complete_steps(run.folder) >= run.config.timesteps
    return is_complete(run.folder)


def check_same(folder: RunFolder, config: _Kind) -> _Kind:
    """The configuration found in a folder, which may differ from the one asked for in what changes no result.

    Data are read from where they are now.
    """
    _, found = RunFolder.open(folder.path, type(config))
    for name, there, asked in found.differences(config):
        raise UserError(
            f"'{folder.path}' has another run: its {name} is {there}, not {asked}; take another --run-dir or remove it"
        )
    return found.here(config)


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """The seeds of a ``--seeds``, or what another option takes: whole numbers and ranges with commas between."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", part.strip())
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise UserError(f"{option} takes whole numbers and ranges with commas between, such as 0-4 or 0,1,5; got '{text}'")
        first, last = int(match[1]), int(match[2] or match[1])
        if last - first >= _MOST_SEEDS:
            raise UserError(f"{option} takes at most {_MOST_SEEDS:,} numbers, got '{text}'")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))
