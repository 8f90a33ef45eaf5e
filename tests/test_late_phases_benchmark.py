"""What `benchmarks/late_phases.py` prints of recorded runs, and what it refuses."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def late_phases(monkeypatch, capsys):
    """Runs the benchmark: its exit code, and what it printed to either stream."""

    def run(*arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        monkeypatch.setattr(sys, "argv", ["late_phases.py", *arguments])
        try:
            runpy.run_path(str(ROOT / "benchmarks" / "late_phases.py"), run_name="__main__")
        except SystemExit as end:
            return end.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


def test_the_numbers_of_the_results_are_printed_of_those_methods_that_have_them(late_phases):
    code, out, _ = late_phases("runs/quick-ant", "--phases", "5-8", "--baseline", "l2")
    assert code == 0
    returns, *scores = out.split("\n\n")
    assert "| `cbp` | 3033.5 [2324.1, 3742.9] | -140.8 [-568.7, 287.2] | 0 to 9 | -87, -283, -262," in returns
    assert "`reset-all`" in returns
    fresh = next(table for table in scores if "policy-fresh-head" in table)
    assert "| `cbp` | 0.93 [0.92, 0.94] | 0.04 [0.02, 0.05] | 0 to 4 | 0.92, 0.94, 0.94, 0.94, 0.93 |" in fresh
    assert "`reset-all`" not in fresh  # which was not measured


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/quick-ant/reset-all", "--phases", "6-9", "--baseline", "reset-all"], "--phases must be whole in every run"),
        (
            ["runs/off-policy/CartPole-dqn", "--phases", "5-8", "--baseline", "ppo"],
            "--baseline must be one of l2-init, redo, cbp",
        ),
        (["runs/supervised/class-incremental-cifar", "--phases", "0"], "has runs of agents.learn"),
        (["runs/quick-ant/ppo", "--phases", "8-5"], "--phases takes whole numbers and ranges with commas between"),
        (
            ["runs/quick-ant/reset-all", "--phases", "0", "--without", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
            "no run",
        ),
    ],
)
def test_what_it_would_average_wrongly_is_refused(late_phases, arguments, words):
    code, out, err = late_phases(*arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert words in line
    assert not out


def test_trainability_is_of_those_that_were_measured_alike_whichever_they_are(late_phases, tmp_path):
    for method in ("ppo", "l2"):
        for seed in (0, 1):
            shutil.copytree(ROOT / "runs" / "quick-ant" / method / f"seed{seed}", tmp_path / method / f"seed{seed}")
    (tmp_path / "ppo" / "seed0" / "trainability.csv").unlink()
    settings = tmp_path / "l2" / "seed1" / "trainability.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"updates": 10}))
    code, out, err = late_phases(str(tmp_path), "--phases", "5-8", "--baseline", "ppo")
    assert code == 0
    table = next(table for table in out.split("\n\n") if "policy-fresh-head" in table)
    # Of PPO seed 1 is left, of L2 seed 0, and no seed is common.
    assert [line.split("|")[1].strip() + line.split("|")[4] for line in table.splitlines()[2:]] == ["`ppo` 1 ", "`l2` 0 "]
    assert "| `l2` | 0.89 | – |" in table
    assert f"trainability by 10 updates, not 300, is left out: {tmp_path / 'l2' / 'seed1'}" in err


def test_a_seed_without_an_episode_in_one_of_the_phases_is_not_said_to_be_in_the_mean(late_phases, tmp_path):
    for method in ("ppo", "l2"):
        for seed in (0, 1):
            shutil.copytree(ROOT / "runs" / "quick-ant" / method / f"seed{seed}", tmp_path / method / f"seed{seed}")
    run = tmp_path / "l2" / "seed0"
    summary = json.loads((run / "summary.json").read_text())
    summary["phases"][5] |= {"episodes": 0, "mean_return": None, "final_return": None, "final_return_error": None}
    (run / "summary.json").write_text(json.dumps(summary))
    head, *rows = [line.split(",") for line in (run / "curve.csv").read_text().splitlines()]
    column = head.index("return")
    silent = [[*row[:column], "", *row[column + 1 :]] if row[0] == "5" else row for row in rows]
    (run / "curve.csv").write_text("\n".join(",".join(row) for row in [head, *silent]) + "\n")
    code, out, err = late_phases(str(tmp_path), "--phases", "5-6", "--baseline", "ppo")
    assert code == 0
    assert f"no episode ended in phase 5 of {run}" in err
    finals, returns, units = out.split("\n\n")[:3]
    for table, seeds in ((finals, ["0 to 1", "1"]), (returns, ["0 to 1", "1"]), (units, ["0 to 1", "0 to 1"])):
        rows = [line.split(" | ") for line in table.strip().splitlines()[2:]]
        assert [row[3] for row in rows] == seeds


def test_runs_of_other_algorithms_have_networks_of_other_names(late_phases):
    code, out, _ = late_phases("runs/off-policy/CartPole-dqn", "--phases", "6-9")
    assert code == 0
    assert "dormant units of q_net (%)" in out
    assert "| policy-targets |" in out
