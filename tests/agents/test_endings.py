"""How commands end where nobody listens any more, where files are gone, and where names are none: with nothing lost."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from agents import evaluate, learn, report, train, trainability
from agents.runs import commands
from agents.runs.config import Config
from agents.runs.run_folder import FolderInUseError, RunFolder

pytestmark = pytest.mark.filterwarnings("ignore:no unit will be replaced:UserWarning")
SMALL = ["--env", "InvertedPendulum-v5", "--n-envs", 1, "--checkpoint-minutes", 0]
SMALL += ["--set", "rollout_steps=64", "--set", "batch_size=32", "--set", "n_epochs=1", "--set", "net_arch=[8]"]
LEARN = ["--problem", "slowly-changing-regression", "--examples", 10_000]
DQN = ["--env", "CartPole-v1", "--algo", "dqn", "--method", "backprop", "--n-envs", 1]
DQN += ["--set", "train_freq=32", "--set", "learning_starts=16", "--set", "batch_size=16", "--set", "net_arch=[8]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    processes.run("agents.train", *SMALL, "--timesteps", 256, "--run-dir", folder)
    return folder


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder): path.read_bytes() for path in files}


# Nobody listens


def _replace(descriptor, *numbers):
    for number in numbers:
        os.dup2(descriptor, number)
        setattr(sys, {1: "stdout", 2: "stderr"}[number], os.fdopen(number, "w"))


def _end_of_no_pipe(*numbers):
    reading, writing = os.pipe()
    os.close(reading)
    _replace(writing, *numbers)


def break_output():
    _end_of_no_pipe(1)


def break_both():
    _end_of_no_pipe(1, 2)


def fill_the_disk():
    _replace(os.open("/dev/full", os.O_WRONLY), 1)


SILENCED = [break_output, break_both, fill_the_disk]


@pytest.mark.parametrize("silenced", SILENCED)
def test_a_run_that_nobody_listens_to_is_complete(tmp_path, silenced):
    started = processes.Started(
        "agents.train", *SMALL, "--timesteps", 128, "--run-dir", tmp_path / "run", prepare=silenced, MPLBACKEND="agg"
    )
    assert started.wait() == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["complete"]
    assert not (tmp_path / "run" / "error.log").exists()


@pytest.mark.parametrize("silenced", SILENCED)
def test_what_other_commands_made_is_kept(tmp_path, run, silenced):
    started = processes.Started("agents.report", run, "--output", tmp_path / "out", prepare=silenced)
    assert started.wait() == 0
    assert {"report.png", "report.svg", "table.csv", "table.md"} == {path.name for path in (tmp_path / "out").iterdir()}
    picture = tmp_path / "picture.png"
    options = [run, "--param", "gravity", "--points", 2, "--episodes", 1, "--output", picture]
    assert processes.Started("agents.evaluate", *options, prepare=silenced).wait() == 0
    assert picture.exists()
    assert picture.with_suffix(".csv").exists()
    started = processes.Started("agents.learn", *LEARN, "--run-dir", tmp_path / "learn", prepare=silenced)
    assert started.wait() == 0


def test_streams_may_be_closed_before_a_command_begins(tmp_path, run):
    """What is opened next would have their numbers; a real shell closes them."""
    command = f"exec '{sys.executable}' -m agents.report '{run}' --output '{tmp_path / 'out'}' <&- >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], capture_output=True, timeout=600, check=False).returncode == 0
    assert {"report.png", "report.svg", "table.csv", "table.md"} == {path.name for path in (tmp_path / "out").iterdir()}


def test_bad_input_has_its_exit_code_where_nobody_hears_of_it(tmp_path):
    started = processes.Started("agents.report", tmp_path / "nowhere", "--output", tmp_path / "out", prepare=break_both)
    assert started.wait() == 2


# Checkpoints are gone


def test_a_complete_run_without_checkpoints_is_complete(copied, capsys):
    shutil.rmtree(copied / "checkpoints")
    before = contents(copied)
    assert train.main(["--resume", str(copied)]) == 0
    assert "is complete: " in capsys.readouterr().out
    assert contents(copied) == before


@pytest.mark.parametrize("resume", [True, False])
def test_what_was_logged_is_not_overwritten_where_checkpoints_are_gone(copied, capsys, tmp_path, resume):
    shutil.rmtree(copied / "checkpoints")
    summary = json.loads((copied / "summary.json").read_text())
    (copied / "summary.json").write_text(json.dumps({**summary, "complete": False}))
    before = contents(copied)
    assert train.main(["--resume", str(copied)] if resume else [*map(str, SMALL), "--run-dir", str(copied)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no checkpoint to go on from, though 'progress.csv' tells of training" in line or "exists already" in line
    assert contents(copied) == before


def test_the_same_holds_for_supervised_runs(capsys, tmp_path):
    arguments = [*map(str, LEARN), "--run-dir", str(tmp_path / "runs")]
    assert learn.main(arguments) == 0
    (folder,) = (path.parent for path in tmp_path.rglob("config.json"))
    shutil.rmtree(folder / "checkpoints")
    assert learn.main(arguments) == 0  # complete
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "complete": False}))
    before = contents(folder)
    capsys.readouterr()
    assert learn.main(arguments) == 2
    assert "has no checkpoint to go on from" in capsys.readouterr().err.splitlines()[-1]
    assert contents(folder) == before


def test_the_logs_of_no_seed_are_cut_before_another_is_refused(capsys, tmp_path):
    problem = [*map(str, LEARN), "--method", "trac"]  # whose seeds learn one after the other
    arguments = [*problem, "--seeds", "0-1", "--run-dir", str(tmp_path / "runs")]
    assert learn.main(arguments) == 0
    first, second = sorted(path.parent for path in tmp_path.rglob("config.json"))
    for folder in (first, second):
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "complete": False}))
    rows = (first / "progress.csv").read_text().splitlines()
    (first / "progress.csv").write_text("\n".join([*rows, rows[-1], ""]))  # written after the checkpoint
    shutil.rmtree(second / "checkpoints")
    before = contents(tmp_path)
    capsys.readouterr()
    assert learn.main(arguments) == 2
    assert f"'{second}' has no checkpoint to go on from" in capsys.readouterr().err.splitlines()[-1]
    assert contents(tmp_path) == before


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(copied):
    shutil.rmtree(copied / "checkpoints")
    for name in ("summary.json", "progress.csv", "episodes.csv"):
        (copied / name).unlink()
    processes.run("agents.train", "--resume", copied)
    assert json.loads((copied / "summary.json").read_text())["complete"]


# Two at once


def test_a_folder_that_another_process_is_making_is_left_to_it(run, tmp_path):
    """The other one has the lock, and has not written its configuration yet."""
    _, config = RunFolder.open(run, Config)
    folder = RunFolder(tmp_path / "new")
    folder.path.mkdir()
    with folder.locked():
        with pytest.raises(FolderInUseError, match="another process"):
            RunFolder.create(folder.path, config)
        assert not folder.config.exists()
        folder.begin(config)
    assert RunFolder.open(folder.path, Config)[1] == config


# Names


def test_a_name_that_is_no_text_is_refused_before_anything_is_made(capsys, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    for main, options in ((train.main, [*SMALL, "--timesteps", 64]), (learn.main, LEARN)):
        assert main([*map(str, options), "--run-dir", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: a run folder's name must be text, which '")
        assert "caf\\udce9" in line
        assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize(
    "call",
    [
        lambda name, _: train.main([*map(str, SMALL), "--run-dir", name]),
        lambda name, _: train.main(["--resume", name]),
        lambda name, run: train.main(["--resume", str(run), "--export", f"{name}.zip"]),
        lambda name, _: learn.main([*map(str, LEARN), "--run-dir", name]),
        lambda name, _: learn.main(["--resume", name]),
        lambda name, _: learn.main(["--problem", "permuted-images", "--tasks", "1", "--data", name]),
        lambda name, _: evaluate.main([name]),
        lambda name, run: evaluate.main([str(run), "--output", f"{name}.png"]),
        lambda name, _: trainability.main([name]),
        lambda name, _: report.main([name, "--output", "out"]),
        lambda name, run: report.main([str(run), "--output", name]),
        lambda name, run: report.main([str(run), "--output", "out", "--record", name]),
        lambda name, run: report.main([str(run), "--leaderboard", name]),
    ],
)
def test_a_name_that_is_too_long_brings_one_line(run, capsys, monkeypatch, tmp_path, call):
    monkeypatch.chdir(tmp_path)
    before = contents(run)
    assert call("x" * 300, run) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: "))
    assert line.startswith("error: ")
    assert contents(run) == before


def test_commands_that_are_named_can_be_pasted(copied, tmp_path, capsys):
    spaced = copied.rename(tmp_path / "two words")
    assert train.main([*map(str, SMALL), "--run-dir", str(spaced)]) == 2
    assert f"--resume '{spaced}'" in capsys.readouterr().err
    assert learn.main(["--resume", str(spaced)]) == 2
    assert f"python -m agents.train --resume '{spaced}'" in capsys.readouterr().err


def test_linked_runs_are_found_once_and_links_that_lead_back_end(run, tmp_path, capsys):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "one").symlink_to(run)
    (tmp_path / "links" / "same").symlink_to(run)
    (tmp_path / "links" / "back").symlink_to(tmp_path / "links")
    assert report.main([str(tmp_path / "links"), "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("1 run of cbp")


# Too large


@pytest.mark.parametrize("problem", ["slowly-changing-regression", "permuted-images", "continual-imagenet"])
def test_networks_that_fit_in_no_memory_bring_one_line(capsys, tmp_path, problem):
    arguments = ["--problem", problem, "--set", "net_arch=[1000000000000]", "--run-dir", str(tmp_path / "runs")]
    assert learn.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: each number of net_arch must be at most 1,000,000, got 1,000,000,000,000"
    assert not (tmp_path / "runs").exists()


def leave_little_memory():
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 400 * 2**20,) * 2)


@pytest.mark.parametrize(
    "large",
    [
        [*LEARN, "--method", "backprop", "--set", "net_arch=[1000000]", "--seeds", "0-9"],
        ["--problem", "continual-imagenet", "--set", "net_arch=[8,16,1000000,1000000]"],
    ],
    ids=["together", "one"],
)
def test_networks_that_do_not_fit_bring_one_line(tmp_path, large):
    done = processes.run("agents.learn", *large, "--run-dir", tmp_path / "runs", check=False, prepare=leave_little_memory)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no networks of these settings can be made: ")
    assert done.stderr.count("\n") == 1


# Threads and devices


def test_a_run_computes_with_the_threads_and_on_the_device_that_were_asked_for(tmp_path):
    config, seen, before = tmp_path / "run" / "config.json", set(), torch.get_num_threads()
    hook = register_optimizer_step_post_hook(lambda *_: seen.add(torch.get_num_threads()))
    options = [*DQN, "--timesteps", 128, "--threads", 3, "--device", "auto", "--run-dir", tmp_path / "run"]
    try:
        torch.set_num_threads(1)
        assert train.main([*map(str, options)]) == 0
        torch.set_num_threads(1)
        assert train.main(["--resume", str(tmp_path / "run")]) == 0
        assert torch.get_num_threads() == 3
    finally:
        hook.remove()
        torch.set_num_threads(before)
    assert seen == {3}
    assert json.loads(config.read_text())["device"] == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_supervised_run_does_so_too(tmp_path):
    before = torch.get_num_threads()
    options = [*LEARN, "--threads", 3, "--device", "auto", "--run-dir", tmp_path / "runs"]
    try:
        torch.set_num_threads(1)
        assert learn.main([*map(str, options)]) == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    (config,) = (json.loads(path.read_text()) for path in tmp_path.rglob("config.json"))
    assert config["device"] == ("cuda" if torch.cuda.is_available() else "cpu")


# Signals


def test_ctrl_c_while_the_figure_is_drawn_leaves_the_old_report_as_it_was(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert report.main([str(run), "--output", str(out)]) == 0
    before = contents(out)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "draw_comparison", interrupt)
    assert report.main([str(run), "--output", str(out), "--statistic", "iqm"]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("Stopped at once; each file is as it was or whole")
    assert contents(out) == before
    assert len(list(out.iterdir())) == 4


def wait_for(condition, started):
    deadline = time.monotonic() + 300
    while not condition():
        assert started.poll() is None, started.printed()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_a_run_at_once(tmp_path, number):
    """In the midst of so many updates that their end is not waited for."""
    folder = tmp_path / "run"
    started = processes.Started("agents.train", *DQN, "--set", f"gradient_steps={10**9}", "--run-dir", folder)
    try:
        wait_for(lambda: list(folder.glob("checkpoints/0*.pt")), started)
        started.send_signal(number)
        wait_for(lambda: "Stopping after this update; once more to stop at once." in started.printed()[1], started)
        started.send_signal(number)
        _, err = started.communicate()
    finally:
        started.kill()
    assert started.returncode == 130, err
    assert err.splitlines()[-1] == "Stopped at once; --resume goes on from the last checkpoint, if there is one."
    assert not (folder / "summary.json").exists()
    assert train.main(["--resume", str(folder), "--export", str(tmp_path / "model.zip")]) == 0


def ignore_hangups():
    """As nohup does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_under_nohup_a_run_goes_on_when_its_terminal_closes(tmp_path):
    progress = tmp_path / "run" / "progress.csv"
    options = [*SMALL, "--timesteps", 10_000_000, "--run-dir", tmp_path / "run"]
    started = processes.Started("agents.train", *options, prepare=ignore_hangups)
    try:
        wait_for(progress.exists, started)
        before = len(progress.read_text().splitlines())
        started.send_signal(signal.SIGHUP)
        wait_for(lambda: len(progress.read_text().splitlines()) > before + 2, started)
    finally:
        started.kill()
        _, err = started.communicate()
    assert "Stopping" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_evaluation_that_is_ended_leaves_nothing(run, number):
    names = {path.name for path in run.iterdir()}
    started = processes.Started("agents.evaluate", run, "--param", "gravity", "--episodes", 10_000)
    wait_for(lambda: {path.name for path in run.iterdir()} != names, started)
    started.send_signal(number)
    _, err = started.communicate()
    assert started.returncode == 130
    assert err.endswith("Stopped at once; nothing more was written.\n")
    assert {path.name for path in run.iterdir()} == names


def test_ctrl_c_while_a_progress_bar_is_made_says_nothing_more(monkeypatch):
    """At each line of tqdm in turn, until a bar is made without."""
    said = []
    gc.collect()  # what earlier tests left says something now, if at all
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: said.append(repr(unraisable.exc_value)))

    def interrupted_at(line):
        lines = itertools.count()

        def trace(frame, event, _):
            if event == "line" and next(lines) == line:
                raise KeyboardInterrupt
            return trace if frame.f_globals["__name__"].startswith("tqdm") else None

        traced = sys.gettrace()
        sys.settrace(trace)
        try:
            bar = commands.progress_bar(10)
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(traced)
        bar.close()
        return False

    assert next(line for line in range(1_000) if not interrupted_at(line)) > 20
    gc.collect()
    assert not said


INTERRUPTS = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""


def python(folder, *arguments):
    """A fresh interpreter in which Ctrl-C comes while torch is imported."""
    (folder / "sitecustomize.py").write_text(INTERRUPTS)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).parents[2])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        preexec_fn=take_ctrl_c,
    )


def take_ctrl_c():
    """A shell's background jobs ignore it, and what they start does so too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_while_modules_are_imported_ends_a_command_in_a_line(tmp_path):
    done = python(tmp_path, "-m", "agents.report", "nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped at once.\n")


def test_a_program_that_imports_the_package_keeps_its_own_ctrl_c(tmp_path):
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__init__.py").write_text(
        "try:\n    import agents\nexcept KeyboardInterrupt:\n    print('its own')\n"
    )
    (tmp_path / "program" / "main.py").write_text("")
    done = python(tmp_path, "-m", "program.main")
    assert (done.returncode, done.stdout) == (0, "its own\n")


def test_whoever_imports_the_package_keeps_his_own_ctrl_c(tmp_path):
    code = "import signal, agents; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
        preexec_fn=take_ctrl_c,
    )
    assert done.stdout == "True\n"


def test_a_command_leaves_handlers_and_streams_as_they_were(run, tmp_path):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers], sys.stdout, sys.stderr
    with contextlib.redirect_stdout(None):
        assert report.main([str(run), "--output", str(tmp_path / "out")]) == 0
    assert ([signal.getsignal(number) for number in numbers], sys.stdout, sys.stderr) == before
    assert commands.run_command(lambda: 3) == 3
