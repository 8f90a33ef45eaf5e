"""The page about environments says what the code says."""

from __future__ import annotations

import math
import re
from pathlib import Path

import gymnasium
import pytest

import envs
from agents.runs.listing import span
from envs.changes import fit_of
from envs.registered import NONSTATIONARY
from envs.schedules import SCHEDULES

PAGE = (Path(__file__).parent.parent / "docs" / "environments.md").read_text()
NAMES = ["Ant", "HalfCheetah", "Hopper", "Walker2d", "Humanoid", "Swimmer"]


@pytest.fixture(autouse=True)
def _working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def cell(parameter, env):
    """What the environment has itself; a dash where the parameter does nothing."""
    try:
        own = fit_of(parameter.name, env).own
    except envs.ParameterError:
        return "–"
    return span(min(own), max(own), "1") if own else "yes"


def rows_from_the_code():
    made = [gymnasium.make(f"{name}-v5") for name in NAMES]
    for parameter in envs.PARAMETERS.values():
        if getattr(parameter, "of", ""):  # has a table of its own
            continue
        factor = "× " if parameter.by_factor else ""
        default = f"{factor}{span(parameter.low, parameter.high, '1')}, `{parameter.schedule}`"
        bounds = span(parameter.lowest, parameter.highest, "1")
        if parameter.high == math.inf:  # each environment has an end of its own
            bounds, default = (words.replace("∞", "the number of entries") for words in (bounds, default))
        unit = "–" if parameter.unit == "1" else parameter.unit
        cells = [f"`{parameter.name}`", unit, bounds, default, *(cell(parameter, env) for env in made)]
        yield f"| {' | '.join(cells)} |"


def test_the_table_of_parameters_is_that_of_the_code():
    written = [line for line in PAGE.splitlines() if re.match(r"\| `(\w+)` \| ", line) and line.count("|") == 5 + len(NAMES)]
    assert written == list(rows_from_the_code())


def rows_of_other_environments():
    for parameter in envs.PARAMETERS.values():
        if getattr(parameter, "of", ""):
            factor = "× " if parameter.by_factor else ""
            unit = "–" if parameter.unit == "1" else parameter.unit
            default = f"{factor}{span(parameter.low, parameter.high, '1')}, `{parameter.schedule}`"
            environment = parameter.needs.removeprefix("Gymnasium's ")
            yield f"| `{parameter.name}` | {environment} | {parameter.meaning} | {unit} | {default} |"


def test_the_table_of_other_environments_is_that_of_the_code():
    written = [line for line in PAGE.splitlines() if re.match(r"\| `(cart|car|pendulum|acrobot|lander)_", line)]
    assert written == list(rows_of_other_environments())


def test_every_schedule_and_every_environment_has_its_row():
    firsts = set(re.findall(r"^\| `([\w-]+)`", PAGE, re.MULTILINE))
    assert {*SCHEDULES, "file"} <= firsts
    assert {spec.id for spec in gymnasium.registry.values() if str(spec.entry_point).startswith("envs.")} <= firsts
    assert len([spec for spec in gymnasium.registry.values() if spec.entry_point == NONSTATIONARY]) == len(NAMES)
