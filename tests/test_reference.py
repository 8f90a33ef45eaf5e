"""The reference has every public name."""

from __future__ import annotations

import pydoc
import re
from pathlib import Path

import pytest
from stable_baselines3.common.callbacks import BaseCallback

import agents
import agents.callbacks
import cbp
import cbp.metrics
import envs
import envs.streams

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
WRITTEN = {match for page in REFERENCE.glob("*.md") for match in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)}


def reexported(package):
    """What a package's ``__init__`` says ``import X as X`` of."""
    return re.findall(r" as (\w+)$", Path(package.__file__).read_text(), re.MULTILINE)


def callbacks():
    """The callbacks that ``agents.callbacks`` has, wherever they are defined."""
    kinds = {name: value for name, value in vars(agents.callbacks).items() if isinstance(value, type)}
    return [name for name, kind in kinds.items() if issubclass(kind, BaseCallback) and kind is not BaseCallback]


@pytest.mark.parametrize(
    ("package", "names"),
    [
        (cbp, reexported(cbp)),
        (envs, envs.__all__),
        (envs.streams, envs.streams.__all__),
        (agents, agents.__all__),
        (agents.callbacks, callbacks()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_public_name_is_there(package, names):
    assert len(names) >= 4
    assert {f"{package.__name__}.{name}" for name in names} <= WRITTEN


def test_every_name_that_is_there_exists():
    assert not [path for path in WRITTEN if pydoc.locate(path) is None]


def test_every_command_is_there():
    text = (REFERENCE / "commands.md").read_text()
    commands = {path.stem for path in Path(agents.__file__).parent.glob("*.py") if "__main__" in path.read_text()}
    assert len(commands) >= 6
    assert commands == set(re.findall(r"^python -m agents\.(\w+) --help$", text, re.MULTILINE))
