"""Training in tasks that come one after the other."""

from __future__ import annotations

import csv
import json

import pytest
from matplotlib.image import imread
from same_runs import assert_same_run

from agents import evaluate, preview, report, train
from agents.runs import checkpoint_files
from agents.runs.checkpoints import load_policy
from agents.runs.config import Config
from agents.runs.options import make_config
from agents.runs.run_folder import RunFolder
from agents.runs.verdict import PhaseEnd, judge

TWO = ["--env", "task-sequence", "--env-kwargs", 'tasks=["HalfCheetah-v5","Walker2d-v5"]']
TWO += ["--env-kwargs", "max_episode_steps=60"]
SMALL = ["--n-envs", 2, "--set", "rollout_steps=256", "--set", "batch_size=64", "--set", "n_epochs=1"]
SMALL += ["--set", "net_arch=[8,8]", "--timesteps", 1536, "--period", 400]
BUSY = ["--set", "replacement_rate=0.02", "--set", "maturity_threshold=5"]


@pytest.fixture
def run(command, tmp_path):
    assert command(*TWO, *SMALL, *BUSY, "--change-at", "now", "--run-dir", tmp_path / "run") == 0
    return RunFolder(tmp_path / "run")


@pytest.mark.usefixtures("rendered")
def test_each_phase_has_its_task_and_all_that_looks_at_phases_works(run, tmp_path, capsys):
    summary = json.loads(run.summary.read_text())
    assert [(phase["task"], phase["steps"]) for phase in summary["phases"]] == [(0, 400), (1, 400), (0, 400), (1, 336)]
    assert sum(summary["units_replaced"].values()) > 0
    assert summary["time"]["steps"] == 1536
    assert "dormant_fraction" in " ".join(summary["phases"][2]["measures"])  # the first 1,000 steps are over
    with run.episodes.open(newline="") as file:
        episodes = list(csv.DictReader(file))
    assert {(row["phase"], row["task"]) for row in episodes} == {("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")}
    # 200 steps in each environment: three episodes of 60 and one that is cut off.
    cheetah = [int(row["length"]) for row in episodes if row["phase"] == "0" and row["env"] == "0"]
    assert cheetah == [60, 60, 60, 20]
    assert imread(run.figure).std() > 0.05
    trained = load_policy(run, Config.from_json(run.config.read_text()))
    assert (trained.phase, trained.values) == (3, {"task": 1})
    assert report.main([str(run.path), "--output", str(tmp_path / "report")]) == 0
    assert "task changes every 400" in (tmp_path / "report" / "table.md").read_text()
    assert evaluate.main([str(run.path)]) == 2
    assert "no parameter is held at a value in a run in 'task-sequence-v0'" in capsys.readouterr().err


def test_a_stopped_run_goes_on_to_the_bit(command, interrupted, tmp_path):
    options = [*TWO, *SMALL, *BUSY, "--change-at", "now", "--checkpoint-minutes", 0]
    interrupted(*options, "--run-dir", tmp_path / "stopped", until=1024)
    assert command(*options, "--run-dir", tmp_path / "whole") == 0
    assert command("--resume", tmp_path / "stopped") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    resumed = json.loads((tmp_path / "stopped" / "summary.json").read_text())["time"]
    assert (resumed["steps"], resumed["seconds"] > 0) == (1536 - 768, True)  # from the checkpoint before the rollout that broke


def test_the_signal_of_a_change_reaches_the_method(command, tmp_path):
    options = [*TWO, *SMALL, "--change-at", "now", "--keep-phases", "--method", "reset-all", "--set", "learning_rate=0"]
    assert command(*options, "--run-dir", tmp_path / "run") == 0
    kept = checkpoint_files.kept(RunFolder(tmp_path / "run"))
    weights = []
    for path in kept.values():
        with checkpoint_files.read(path).opened() as state:
            weights.append(next(value for name, value in state["model"]["policy"].items() if name.endswith("weight")).tolist())
    # The size of steps is 0: what differs was drawn anew. The last phase is cut off by the end of the run.
    first, second, third, last = weights
    assert first != second != third == last


def test_tasks_with_numbers_close_by_are_not_alike():
    def falling(parameter):
        ends = [PhaseEnd(k, 8.0 if k < 5 else 9.0, 1000.0 if k < 5 else 10.0, 1.0, {}) for k in range(6)]
        return "return" in judge(ends, parameter, "ppo").signs

    assert falling("friction")
    assert not falling("task")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--param", "gravity"],
            "--param is of a parameter that changes; in 'task-sequence-v0' tasks come one after the other",
        ),
        (["--schedule", "sine"], "--schedule is of a parameter that changes; in 'task-sequence-v0' tasks"),
        (["--observe"], "--observe is of a parameter that changes"),
        (["--env-kwargs", 'tasks=["Ant-v5","Hopper-v5"]'], "cannot be made: tasks must have one observation_space, got"),
        (["--env-kwargs", 'tasks=["Nowhere-v5"]'], "'task-sequence-v0' cannot be made: Environment `Nowhere` doesn't"),
        (["--env-kwargs", 'tasks=["no_such_package:Nowhere-v5"]'], "module 'no_such_package' cannot be imported"),
        (["--env-kwargs", "tasks=[]"], r"tasks must be a list of length 1 or more"),
    ],
)
def test_what_does_not_go_with_a_sequence_is_refused_in_one_line(command, capsys, tmp_path, options, words):
    two = TWO[:2] if options[0] == "--env-kwargs" else TWO  # with tasks of their own
    assert command(*two, *options, "--run-dir", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_sequence_without_tasks_says_what_is_missing(command, capsys, tmp_path):
    assert command("--env", "task-sequence", "--run-dir", tmp_path / "run") == 2
    assert "tasks must be a list of length 1 or more, got []" in capsys.readouterr().err


def test_values_of_a_sequence_are_not_previewed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert preview.main([TWO[1], *TWO[2:]]) == 2
    assert "in 'task-sequence-v0' no value changes: its tasks come in the order" in capsys.readouterr().err


def test_a_sequence_changes_at_times_of_the_runs_own():
    options = [*TWO, "--times", "geometric", "--change-at", "now", "--period", "5000"]
    config = make_config(train._parser().parse_args(options), "ppo", 0)
    assert (config.param, config.params, config.period) == ("task", ("task",), 5000)
    assert config.change == {"times": {"name": "geometric"}, "change_at": "now"}
