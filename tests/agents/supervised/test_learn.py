"""Tests of ``python -m agents.learn``: real streams, real event files, real processes killed."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from data_files import cifar100, npy, planes
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import learn, report, sweep, train
from agents.runs.run_folder import RunFolder
from agents.supervised import job
from agents.supervised.config import LearningConfig, with_overrides
from agents.supervised.figure import draw_learning
from agents.supervised.presets import PROBLEMS

REGRESSION = ["--problem", "slowly-changing-regression", "--examples", "20000"]
BINARY = ["--problem", "continual-imagenet", "--tasks", "2", "--set", "epochs=2"]


def run(*arguments: object) -> int:
    return learn.main([str(argument) for argument in arguments])


def one_config() -> LearningConfig:
    preset = PROBLEMS["continual-imagenet"]["digits"]
    settings, _, stream = with_overrides(preset, "continual-imagenet", "backprop", [])
    return LearningConfig(
        *("continual-imagenet", "digits", "backprop", 3, None, 0, None, "cpu"), stream=stream, settings=settings
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_time(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "time/examples_per_second"} for row in rows(folder)]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    return err


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Two methods with five seeds each, which learned together."""
    folder = tmp_path_factory.mktemp("learned")
    for method in ("backprop", "cbp"):
        assert run(*REGRESSION, "--method", method, "--seeds", "0-4", "--run-dir", folder) == 0
    return folder


def test_seeds_that_learn_together_leave_a_run_folder_each(learned):
    for seed in range(5):
        folder = learned / "slowly-changing-regression" / "cbp" / f"seed{seed}"
        found = rows(folder)
        assert [float(row["task/number"]) for row in found] == [0, 1]
        assert [int(row["time/total_examples"]) for row in found] == [10_000, 20_000]
        summary = json.loads((folder / "summary.json").read_text())
        errors = [float(row["task/error"]) for row in found]
        assert summary["complete"]
        assert summary["tasks"] == 2
        assert summary["mean_error"] == pytest.approx(np.mean(errors))
        assert (summary["first_error"], summary["final_error"]) == pytest.approx((errors[0], errors[1]))
        events = EventAccumulator(str(folder))
        events.Reload()
        assert [scalar.value for scalar in events.Scalars("task/error")] == pytest.approx(errors)
        assert [scalar.step for scalar in events.Scalars("task/error")] == [10_000, 20_000]
        assert (folder / "report.png").exists()
    errors = {json.loads(path.read_text())["mean_error"] for path in learned.rglob("summary.json")}
    assert len(errors) == 10


def test_a_run_is_the_same_alone_and_among_others(learned, tmp_path, capsys):
    assert run(*REGRESSION[:2], "--examples", "10000", "--method", "cbp", "--seeds", "1", "--run-dir", tmp_path) == 0
    assert "method cbp, seed 1" in capsys.readouterr().out
    place = Path("slowly-changing-regression/cbp/seed1")
    assert without_time(tmp_path / place) == without_time(learned / place)[:1]


def test_a_run_whose_log_has_lost_rows_does_not_go_on(learned, tmp_path, capsys):
    place = Path("slowly-changing-regression/cbp")
    for seed in range(2):
        folder = shutil.copytree(learned / place / f"seed{seed}", tmp_path / place / f"seed{seed}")
        (folder / "summary.json").unlink()  # as if it was killed at its end
    lines = (folder / "progress.csv").read_bytes().splitlines(keepends=True)
    (folder / "progress.csv").write_bytes(b"".join(lines[:-1]))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    capsys.readouterr()
    assert run(*REGRESSION, "--method", "cbp", "--seeds", "0,1", "--run-dir", tmp_path) == 2
    assert "seed1/progress.csv' has 1 rows up to step 20,000, and had 2 when" in one_line(capsys)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"} == before
    (folder / "progress.csv").write_bytes(b"".join(lines))
    assert run(*REGRESSION, "--method", "cbp", "--seeds", "0,1", "--run-dir", tmp_path) == 0


def test_several_values_of_a_setting_are_several_runs(tmp_path):
    short = [*REGRESSION[:2], "--examples", "10000", "--method", "backprop"]
    options = [*short, "--run-dir", tmp_path]
    assert run(*options, "--set", "learning_rate=0.01,0.003") == 0
    folder = tmp_path / "slowly-changing-regression"
    assert {path.name for path in folder.iterdir()} == {"backprop", "backprop,learning_rate=0.003"}
    single = tmp_path / "single"
    assert run(*short, "--set", "learning_rate=0.003", "--run-dir", single) == 0
    place = "backprop,learning_rate=0.003/seed0"
    assert without_time(folder / place) == without_time(single / "slowly-changing-regression" / place)


def test_a_value_that_is_given_twice_is_one_run(tmp_path, capsys):
    short = [*REGRESSION[:2], "--examples", "10000", "--method", "backprop"]
    assert run(*short, "--set", "learning_rate=0.01,1e-2", "--run-dir", tmp_path) == 0
    assert "1 run complete" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("config.json"))) == 1


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([*REGRESSION, "--method", "cbp", "--seeds", "0,1"], id="cbp", marks=pytest.mark.slow),
        pytest.param(
            [*REGRESSION[:2], "--examples", "10000", "--method", "shrink-perturb", "--seeds", "0,1"],
            id="shrink-perturb",
            marks=pytest.mark.soak,
        ),
        pytest.param(
            ["--problem", "permuted-images", "--tasks", "2", "--set", "net_arch=[20]", "--seeds", "0"],
            id="permuted",
            marks=pytest.mark.soak,
        ),
        pytest.param(
            ["--problem", "continual-imagenet", "--tasks", "6", "--set", "epochs=8", "--seeds", "0"],
            id="binary",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--problem", "class-incremental-cifar", "--tasks", "2", "--set", "epochs=4", "--seeds", "0"],
            id="incremental",
            marks=pytest.mark.soak,
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:some layers are left out:UserWarning")
def test_killed_runs_go_on_as_if_nothing_had_happened(learned, tmp_path, options):
    command = ["agents.learn", *options, "--checkpoint-minutes", "0", "--run-dir"]
    for _ in range(2):
        process = processes.Started(*command, tmp_path / "killed")
        known = {path.name for path in (tmp_path / "killed").rglob("*.pt")}
        deadline = time.monotonic() + 300
        while process.poll() is None and len({p.name for p in (tmp_path / "killed").rglob("*.pt")} - known) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        killed = process.poll() is None
        process.kill()
        process.communicate()
        assert killed
    processes.run(*command, tmp_path / "killed")
    whole = learned  # which has those of cbp, in larger company
    if "cbp" not in options:
        whole = tmp_path / "whole"
        processes.run("agents.learn", *options, "--run-dir", whole)
    killed = sorted(path.parent for path in (tmp_path / "killed").rglob("config.json"))
    assert len(killed) == 1 + ("0,1" in options)
    for folder in killed:
        other = whole / folder.relative_to(tmp_path / "killed")
        assert without_time(folder) == without_time(other)
        own, theirs = (json.loads((path / "summary.json").read_text()) for path in (folder, other))
        assert {**own, "time": None} == {**theirs, "time": None}


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    command = ["agents.learn", "--problem", "slowly-changing-regression", "--examples", "30000"]
    command += ["--method", "backprop", "--run-dir", str(tmp_path)]
    process = processes.Started(*command)
    folder = tmp_path / "slowly-changing-regression" / "backprop" / "seed0"
    deadline = time.monotonic() + 300
    while not (folder / "progress.csv").exists():
        assert process.poll() is None, process.printed()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130
    assert "to go on: the same command" in out.splitlines()[-1]
    assert not json.loads((folder / "summary.json").read_text())["complete"]
    again = processes.run("agents.learn", "--resume", folder)
    assert "from example" in again.stdout
    assert len(rows(folder)) == 3
    complete = processes.run(*command)
    assert "1 run complete" in complete.stdout
    assert "from example" not in complete.stdout


def press_ctrl_c_while_a_figure_is_drawn():
    job.draw_learning = lambda *_: os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_while_a_run_is_finished_begins_no_other(tmp_path):
    short = [*REGRESSION[:2], "--examples", "10000", "--method", "backprop", "--set", "activation=relu,tanh"]
    command = ["agents.learn", *short, "--run-dir", tmp_path]
    done = processes.run(*command, check=False, prepare=press_ctrl_c_while_a_figure_is_drawn)
    assert done.returncode == 130
    assert "to go on: the same command" in done.stdout.splitlines()[-1]
    assert [json.loads(path.read_text())["complete"] for path in tmp_path.rglob("summary.json")] == [True]
    assert "2 runs complete" in processes.run(*command).stdout


@pytest.mark.slow
def test_seeds_of_any_method_leave_the_same_records_one_after_the_other(tmp_path):
    short = ["--problem", "permuted-images", "--tasks", "1", "--set", "net_arch=[4]", "--seeds", "0,1", "--run-dir", tmp_path]
    for method in ("cbp", "snr"):  # together, and each by itself
        assert run(*short, "--method", method) == 0
    for seed in range(2):
        of_cbp, of_snr = (rows(tmp_path / "permuted-images" / f"{name},net_arch=4" / f"seed{seed}") for name in ("cbp", "snr"))
        assert len(of_snr) == 1
        assert of_snr[0].keys() == of_cbp[0].keys()


def test_runs_are_compared(learned, tmp_path):
    out = tmp_path / "out"
    assert report.main([str(learned), "--output", str(out), "--record", str(tmp_path / "recorded")]) == 0
    table = (out / "table.md").read_text()
    finals = [float(rows(path.parent)[-1]["task/error"]) for path in sorted(learned.glob("*/backprop/*/config.json"))]
    assert len(finals) == 5
    line = next(line for line in table.splitlines() if line.startswith("| error, last tenth"))
    assert f"| {np.mean(finals):.2f} [" in line
    assert "## Minus backprop, paired by seed" in table
    assert report.main([str(tmp_path / "recorded"), "--output", str(tmp_path / "again")]) == 0
    recorded = (tmp_path / "again" / "table.md").read_text()
    number = r"[-+]?\d+(?:\.\d+)?"
    assert re.sub(number, "", recorded) == re.sub(number, "", table)
    read, made = ([float(found) for found in re.findall(number, text)] for text in (recorded, table))
    assert read == pytest.approx(made, abs=2e-4)  # of five digits that are recorded the last may be another in a difference


def test_a_report_names_the_methods_that_are_told_of_a_change(learned, tmp_path, capsys):
    for method in ("backprop", "cbp"):
        shutil.copytree(learned / "slowly-changing-regression" / method / "seed0", tmp_path / "runs" / method)
    assert report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    assert "told when a task begins" not in capsys.readouterr().err
    file = tmp_path / "runs" / "cbp" / "config.json"
    values = json.loads(file.read_text()) | {"method": "reset-all", "method_kwargs": {}}
    values["settings"]["at_task"] = "fresh_network"
    file.write_text(json.dumps(values))
    assert report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    line = "told when a task begins, which the other methods are not: reset-all"
    assert line in capsys.readouterr().err
    assert f"- {line}" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.filterwarnings("ignore:some layers are left out:UserWarning")
def test_data_may_have_moved_when_a_run_goes_on(tmp_path, capsys):
    (tmp_path / "here").mkdir()
    cifar100(tmp_path / "here", train=12, test=4, classes=4)
    options = ["--problem", "class-incremental-cifar", "--method", "backprop", "--tasks", "2", "--checkpoint-minutes", "0"]
    for value in ("classes_per_task=2", "validation=1", "net_arch=[4,4]", "epochs=3"):
        options += ["--set", value]
    for name in ("whole", "moved"):
        assert run(*options, "--data", tmp_path / "here", "--run-dir", tmp_path / name) == 0
    place = Path("class-incremental-cifar", "backprop,net_arch=4-4,epochs=3", "seed0")
    (tmp_path / "moved" / place / "summary.json").unlink()
    max((tmp_path / "moved" / place / "checkpoints").glob("*.pt")).unlink()
    (tmp_path / "here").rename(tmp_path / "there")
    assert run("--resume", tmp_path / "moved" / place) == 2
    assert "here" in capsys.readouterr().err
    assert run("--resume", tmp_path / "moved" / place, "--data", tmp_path / "there") == 0
    assert without_time(tmp_path / "moved" / place) == without_time(tmp_path / "whole" / place)
    assert run(*options, "--data", tmp_path / "there", "--run-dir", tmp_path / "whole") == 0  # it is the same run


@pytest.mark.soak
def test_a_sweep_gives_the_same_runs(learned, tmp_path):
    short = [*REGRESSION[:2], "--examples", "10000", "--seeds", "0-1"]
    assert sweep.main([*short, "--methods", "backprop,cbp", "--run-dir", str(tmp_path)]) == 0
    folders = sorted(path.parent for path in tmp_path.rglob("config.json"))
    assert len(folders) == 4
    for folder in folders:
        assert without_time(folder) == without_time(learned / folder.relative_to(tmp_path))[:1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "cbp"], "--problem is missing; known: slowly-changing-regression, "),
        (["--problem", "permuted-image"], "did you mean 'permuted-images'?"),
        ([*REGRESSION, "--method", "crelu", "--set", "net_arch=[5]"], "with crelu two for each unit: even, got 5"),
        ([*REGRESSION, "--method", "snr", "--set", "rejection=2"], "rejection must be a finite number in [0, 1], got 2"),
        ([*BINARY, "--set", "layer_norm=true"], "the norms of their kind: layer_norm must be false, got true"),
        ([*REGRESSION, "--method", "cpb"], "did you mean 'cbp'?"),
        ([*REGRESSION[:2], "--examples", "12345"], "--examples must be a multiple of 10,000, got 12,345"),
        ([*REGRESSION[:2], "--tasks", "3"], "--examples N instead of --tasks"),
        ([*BINARY[:2], "--examples", "3"], "--tasks N instead of --examples"),
        ([*REGRESSION, "--data", "."], "takes no --data"),
        ([*BINARY, "--set", "learning_rate=-1"], "learning_rate must be a finite number >= 0, got -1"),
        ([*BINARY, "--set", "learning-rate=1"], "did you mean 'learning_rate'?"),
        ([*BINARY, "--set", "replacement_rate=2"], "replacement_rate must be a finite number in [0, 1], got 2"),
        ([*REGRESSION, "--set", "batch_size=4"], "learns from single examples"),
        ([*BINARY, "--set", "epochs=3"], "--set takes each key once, got epochs twice"),
        ([*BINARY, "--seeds", "3-1"], "--seeds takes whole numbers"),
        ([*BINARY, "--threads", "100000"], "threads must be at most 1,024, got 100,000"),
        ([*BINARY, "--device", "gpu"], "device 'gpu' cannot be used"),
        (["--problem", "class-incremental-cifar", "--tasks", "6"], "tasks must be at most 5, got 6"),
        (
            ["--problem", "class-incremental-cifar", "--set", "classes_per_task=20", "--set", "validation=1"],
            "classes_per_task must be at most 10, the classes there are, got 20",
        ),
        (["--problem", "class-incremental-cifar", "--set", "validation=0"], "restore_best needs validation images"),
        ([*BINARY, "--set", "restore_best=true"], "restore_best needs validation images"),
        ([*BINARY, "--set", "activation=tanh"], "activation must be relu, got tanh"),
        (
            [*BINARY, "--set", "network=linear"],
            "a linear network has no hidden layers: net_arch must be [], got [8, 16, 32, 32]",
        ),
        *(
            (
                [*BINARY, "--method", name, "--set", "network=linear", "--set", "net_arch=[]"],
                f"method '{name}' acts on hidden layers, and the network has none: network must not be linear",
            )
            for name in ("cbp", "parseval")
        ),
        ([*BINARY, "--method", "linear", "--set", "net_arch=[5]"], "no hidden layers: net_arch must be [], got [5]"),
        ([*BINARY, "--set", "net_arch=null"], "one for each hidden layer, got None"),
        ([*BINARY, "--set", "net_arch=[]"], "one for each hidden layer, got []"),
        (
            [*BINARY, "--set", f"net_arch=[8,16,{10**30},32]"],
            f"each number of net_arch must be at most 1,000,000, got {10**30:,}",
        ),
        ([*BINARY, "--set", "lr_drop_factor=0.5"], "lr_drop_factor has no effect without lr_drops: it must be 0.2, got 0.5"),
        (
            [*REGRESSION, "--method", "nap", "--set", "layer_norm=false"],
            "method 'nap' needs a network with norms, and this one",
        ),
        (
            ["--problem", "class-incremental-cifar", "--method", "nap", "--set", "network=conv"],
            "method 'nap' needs a network with norms, and this one has none: layer_norm=true, or a resnet",
        ),
        ([*REGRESSION, "--set", "replacement_rate=NaN"], "replacement_rate must be a finite number in [0, 1], got nan"),
        (
            ["--problem", "class-incremental-cifar", "--set", "net_arch=[2,2,2,2]", "--set", "batch_size=1"],
            "batch_size must leave no minibatch of one, got 1",
        ),
        ([*REGRESSION, "--set", "augment=true"], "each once: augment must be false, got true"),
        ([*REGRESSION, "--set", "lr_drops=[0.5]"], "each once: lr_drops must be [], got [0.5]"),
        ([*REGRESSION, "--set", "at_task=zero_head"], 'each once: at_task must be "keep" or "fresh_network", got'),
        ([*REGRESSION, "--set", "replacement_rate=2,1e-4"], "replacement_rate must be a finite number in [0, 1], got 2"),
        ([*REGRESSION, "--set", "change=flip,redraw"], "two runs in one folder: stream.change is flip and redraw"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, arguments, words):
    assert run(*arguments, "--run-dir", tmp_path / "runs") == 2
    assert words in one_line(capsys)
    assert not (tmp_path / "runs").exists()


def test_a_class_of_images_that_no_task_can_be_made_of_is_found_at_once(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    options = [
        "--problem",
        "continual-imagenet",
        "--data",
        data,
        "--set",
        "train=2",
        "--set",
        "test=1",
        "--run-dir",
        tmp_path / "runs",
    ]
    for label in range(6):
        (data / f"{label}.npy").write_bytes(npy(planes(range(3)), (3, 3, 32, 32)))
    for content, words in (
        (npy(planes(range(2)), (2, 3, 32, 32)), "class '5.npy' has 2 images, 3 are needed"),
        (
            npy(bytes(3 * 1024), (3, 32, 32)),
            "5.npy' has to be uint8 of (n, 32, 32, 3) or (n, 3, 32, 32), it is uint8 of (3, 32, 32)",
        ),
    ):
        (data / "5.npy").write_bytes(content)
        for seed in range(3):  # whose tasks have other classes
            assert run(*options, "--seeds", seed) == 2
            assert words in one_line(capsys)
    assert not (tmp_path / "runs").exists()


def test_a_run_of_data_that_come_with_the_package_takes_no_data_when_it_goes_on(tmp_path, capsys):
    assert run(*BINARY, "--tasks", "1", "--run-dir", tmp_path) == 0
    capsys.readouterr()
    assert run("--resume", tmp_path / "continual-imagenet" / "cbp,epochs=2" / "seed0", "--data", tmp_path / "x") == 2
    assert "data set 'digits' comes with the package and takes no --data, got '" in one_line(capsys)


def test_a_run_in_which_no_unit_becomes_mature_says_so(tmp_path, capsys):
    run(*BINARY, "--tasks", "1", "--set", "maturity_threshold=19,20", "--run-dir", tmp_path)  # 20 updates
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: no unit")]
    words = "units mature after 20 updates, and this run has 20; train longer or lower maturity_threshold"
    assert lines == [f"warning: no unit will be replaced: {words}"]
    run(*BINARY, "--set", "maturity_threshold=20", "--set", "at_task=fresh_network", "--run-dir", tmp_path)
    assert words in capsys.readouterr().err


def test_a_run_in_which_a_method_never_acts_says_so(tmp_path, capsys):
    options = [*BINARY, "--tasks", "1", "--method", "hare-tortoise", "--run-dir", tmp_path]  # 20 updates
    run(*options, "--set", "period=20,21")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    words = "its period is 21 updates, and this run has 20; train longer or lower period"
    assert lines == [f"warning: hare-tortoise will not act: {words}"]


def test_units_are_counted_over_networks_that_begin_anew(tmp_path):
    always = ["--set", "maturity_threshold=0", "--set", "replacement_rate=0.1", "--set", "at_task=fresh_network"]
    assert run(*BINARY, "--method", "cbp", *always, "--run-dir", tmp_path) == 0
    (log,) = tmp_path.rglob("progress.csv")
    first, second = (float(row["cbp/network/replaced"]) for row in rows(log.parent))
    # Both networks are of one size and make as many updates, so they replace as many units, but for the rounding by chance.
    assert second == pytest.approx(2 * first, rel=0.2)


def test_a_run_that_diverges_is_complete_and_has_no_score(tmp_path, capsys):
    assert run(*BINARY, "--method", "backprop", "--set", "learning_rate=1e30", "--run-dir", tmp_path) == 0
    (summary,) = tmp_path.rglob("summary.json")
    found = json.loads(summary.read_text())
    assert (found["complete"], found["mean_accuracy"], found["final_accuracy"]) == (True, None, None)
    assert [row["task/accuracy"] for row in rows(summary.parent)] == ["nan", "nan"]
    assert (summary.parent / "report.png").exists()
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert "diverged" in capsys.readouterr().err


@pytest.mark.parametrize("problem", ["permuted-images", "continual-imagenet", "class-incremental-cifar"])
def test_data_that_are_not_there_are_named(tmp_path, capsys, problem):
    empty = tmp_path / "data"
    empty.mkdir()
    assert run("--problem", problem, "--data", empty, "--run-dir", tmp_path / "runs") == 2
    assert str(empty) in one_line(capsys)
    assert not (tmp_path / "runs").exists()


def test_runs_of_other_kinds_are_refused_by_name(tmp_path, capsys):
    assert run(*BINARY, "--run-dir", tmp_path) == 0
    folder = tmp_path / "continual-imagenet" / "cbp,epochs=2" / "seed0"
    capsys.readouterr()
    assert train.main(["--resume", str(folder)]) == 2
    assert "is a run of agents.learn" in one_line(capsys)
    assert run(*BINARY, "--set", "batch_size=10", "--run-dir", tmp_path, "--tasks", "3") == 0
    capsys.readouterr()
    assert run(*BINARY, "--run-dir", tmp_path, "--tasks", "3") == 2
    assert "has another run: its tasks is 2, not 3" in one_line(capsys)
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "runs of different settings are not averaged: tasks is" in one_line(capsys)


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    assert run(*BINARY, "--tasks", "1", "--run-dir", tmp_path) == 0
    folder = RunFolder(tmp_path / "continual-imagenet" / "cbp,epochs=2" / "seed0")
    folder.summary.unlink()
    capsys.readouterr()
    with folder.locked():
        assert run("--resume", folder.path) == 2
    assert "another process is training in" in one_line(capsys)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", [REGRESSION, BINARY], ids=["online", "minibatches"])
def test_runs_on_a_gpu_are_complete(tmp_path, options):
    assert run(*options, "--device", "cuda", "--seeds", "0,1", "--run-dir", tmp_path) == 0
    for path in tmp_path.rglob("summary.json"):
        assert json.loads(path.read_text())["complete"]
        assert json.loads((path.parent / "config.json").read_text())["device"] == "cuda"
    assert len(list(tmp_path.rglob("summary.json"))) == 2


def test_a_layer_has_one_colour_in_all_panels_and_layers_come_in_their_order(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run", made := one_config())
    layers = ("0", "3", "6", "10", "12")
    names = [f"plasticity/network/{layer}/dormant_fraction" for layer in layers]
    names += ["plasticity/network/features/stable_rank"]
    names += [f"plasticity/network/{layer}/weight_magnitude" for layer in ("12", "3", "weights")]
    columns = ["task/number", "task/accuracy", *names]
    folder.progress.write_text(",".join(columns) + "\n" + "\n".join(",".join([str(row)] * len(columns)) for row in range(3)))
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_learning(folder, made)
    _, *panels = drawn[0].axes
    lines = [[(line.get_label(), line.get_color()) for line in panel.get_lines()] for panel in panels]
    assert [[label for label, _ in panel] for panel in lines] == [list(layers), ["features"], ["3", "12", "weights"]]
    colors = {}
    for label, color in (line for panel in lines for line in panel):
        assert colors.setdefault(label, color) == color
    assert len(set(colors.values())) == len(colors) == 7
