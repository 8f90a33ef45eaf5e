"""The examples, each in a process and a folder of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, folder, *arguments):
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.soak
def test_sac_learns_through_several_phases(tmp_path):
    # Episodes of 1,000 steps: the first ends more than 600 steps after the start.
    printed = run("sac_half_cheetah.py", tmp_path, "--steps", 1010, "--period", 600)
    phases = re.findall(r"phase (\d): strength (0\.\d+|1\.00), (\d) episodes, mean return (\S+)", printed)
    assert [(number, episodes) for number, _, episodes, _ in phases] == [("0", "1"), ("1", "0")]
    assert len({value for _, value, _, _ in phases}) == 2


@pytest.mark.slow
def test_a_loop_of_ones_own_learns_through_several_phases(tmp_path):
    run("ppo_in_one_file.py", tmp_path, "--steps", 10_240, "--period", 2_400, "--log-dir", "log")
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    frictions = [event.value for event in events.Scalars("env/friction")]
    # 2,560 steps in each environment; episodes end after 1,000 and 2,000, each more than 600 steps after the last change.
    assert len(dict.fromkeys(frictions)) == 3
    assert [event.step for event in events.Scalars("charts/episodic_return")] == [3584, 7680]


def test_every_example_is_run():
    elsewhere = {"rl_zoo3_search.py"}  # by test_rl_zoo3.py
    here = set(re.findall(r'run\("(\S+\.py)"', Path(__file__).read_text()))
    assert {path.name for path in EXAMPLES.glob("*.py")} == here | elsewhere
