"""Sweeps, on a real Ray, with real files and real processes killed."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import ipaddress
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import processes
import psutil
import pytest
from rich.console import Console

from agents import sweep, train
from agents.runs import plan
from agents.runs.config import Config
from agents.runs.errors import UserError
from agents.runs.run_folder import RunFolder
from agents.sweeping import workers
from agents.sweeping.live_table import LiveTable, _cells

# 4 environments × 128 steps a rollout.
SMALL = ["--env", "ant-nonstationary", "--n-envs", "4", "--set", "rollout_steps=512", "--set", "batch_size=64"]
SMALL += ["--set", "n_epochs=2", "--set", "net_arch=[16,12]", "--period", "2000"]
MINUTES = 10


def start(folder, *arguments):
    """A sweep in a process group of its own."""
    return processes.Started("agents.sweep", *SMALL, "--run-dir", folder, *arguments)


def finish(process):
    try:
        return process.communicate(timeout=60 * MINUTES)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def run_sweep(folder, *arguments):
    process = start(folder, *arguments)
    out, err = finish(process)
    assert process.returncode == 0, (out, err)
    return out, err


def wait_for(condition, process):
    deadline = time.monotonic() + 60 * MINUTES
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def progress(run):
    """What ``progress.csv`` holds beside wall-clock values, which alone stand under ``time/``."""
    with (run / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    own = [name for name in rows[0] if not name.startswith("time/") or name == "time/total_timesteps"]
    return [{name: row[name] for name in own} for row in rows]


def results(run):
    summary = json.loads((run / "summary.json").read_text())
    del summary["time"]
    return progress(run), (run / "episodes.csv").read_text(), summary


def rollouts(run):
    return len((run / "progress.csv").read_text().splitlines()) - 1 if (run / "progress.csv").exists() else 0


def has_worker(run):
    """Whether a process has said that it trains a run."""
    return (run / "output.log").exists() and "process " in (run / "output.log").read_text()


def worker_of(run):
    """The process that trains a run, from the last line that says so."""
    return int(re.findall(r"process (\d+)", (run / "output.log").read_text())[-1])


def listening(process):
    """Where a process, or what it has started, takes connections: the addresses."""
    sockets = []
    for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets += [socket.laddr for socket in each.net_connections("inet") if socket.status == psutil.CONN_LISTEN]
    return [ipaddress.ip_address(ip.removeprefix("::ffff:")) for ip, _ in sockets]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two methods with two seeds each, and what was printed."""
    folder = tmp_path_factory.mktemp("sweep") / "runs"
    process = start(folder, "--methods", "ppo,redo", "--seeds", "0-1", "--timesteps", "4096")
    try:
        wait_for(lambda: rollouts(folder / "ant-nonstationary/ppo/seed0") > 0, process)
        opened = listening(process)
    finally:
        out, err = finish(process)
    assert process.returncode == 0, (out, err)
    return folder, out, opened


def test_every_run_has_a_folder_by_environment_method_and_seed(swept):
    folder, out, _ = swept
    runs = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("summary.json"))
    assert runs == [f"ant-nonstationary/{method}/seed{seed}" for method in ("ppo", "redo") for seed in (0, 1)]
    assert out.splitlines()[0] == f"4 runs in {folder}, 0 of them complete"
    assert (
        out.splitlines()[-1]
        == f"Done: 4 runs complete; to compare them: python -m agents.report {folder} --output {folder}/report"
    )
    for method in ("ppo", "redo"):
        assert f"{method}/seed1 complete, steps 4,096 of 4,096, phase " in out


def test_a_run_of_a_sweep_is_the_run_that_train_makes(swept, tmp_path):
    alone = tmp_path / "alone"
    arguments = [*SMALL, "--method", "redo", "--seed", "1", "--timesteps", "4096", "--threads", "1", "--run-dir", str(alone)]
    processes.run("agents.train", *arguments)
    of_sweep = swept[0] / "ant-nonstationary/redo/seed1"
    assert (alone / "config.json").read_text() == (of_sweep / "config.json").read_text()
    assert results(alone) == results(of_sweep)


def test_the_same_seed_gives_every_method_the_same_frictions(swept):
    frictions = {}
    for method in ("ppo", "redo"):
        for seed in (0, 1):
            summary = json.loads((swept[0] / f"ant-nonstationary/{method}/seed{seed}/summary.json").read_text())
            frictions[method, seed] = [phase["friction"] for phase in summary["phases"]][:2]
            assert len(frictions[method, seed]) == 2
    assert frictions["ppo", 0] == frictions["redo", 0]
    assert frictions["ppo", 1] == frictions["redo", 1]
    assert frictions["ppo", 0] != frictions["ppo", 1]


def test_on_one_machine_no_port_is_open_to_the_network(swept):
    assert swept[2]  # Ray's own
    assert [address for address in swept[2] if not address.is_loopback] == []


def test_what_the_workers_print_is_in_a_file_of_the_run(swept):
    printed = (swept[0] / "ant-nonstationary/redo/seed0/output.log").read_text()
    assert "process " in printed.splitlines()[0]
    assert "ant-nonstationary-v0, method redo, seed 0: 4,096 steps" in printed
    assert "steps/s" in printed


def test_each_run_is_warned_once(swept):
    logs = [path.read_text() for path in swept[0].rglob("output.log")]
    assert len(logs) == 4
    assert all(log.count("warning: a phase is short") == 1 for log in logs)


def test_complete_runs_are_skipped(swept):
    folder = swept[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    out, _ = run_sweep(folder, "--methods", "ppo,redo", "--seeds", "0,1", "--timesteps", "4096")
    assert out.splitlines()[0] == f"4 runs in {folder}, 4 of them complete"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_run_is_the_same_as_without(swept, tmp_path):
    run = tmp_path / "runs" / "ant-nonstationary/redo/seed0"
    process = start(tmp_path / "runs", "--methods", "redo", "--seeds", "0", "--timesteps", "4096", "--checkpoint-minutes", "0")
    try:
        wait_for(lambda: rollouts(run) >= 3, process)
        first = worker_of(run)
        os.kill(first, signal.SIGKILL)
    finally:
        out, err = finish(process)
    assert process.returncode == 0, (out, err)
    assert "redo/seed0 waiting, " in out
    assert "goes on after the loss of its worker (WorkerCrashedError)" in out
    assert "raylet" not in out + err
    assert worker_of(run) != first
    assert results(run) == results(swept[0] / "ant-nonstationary/redo/seed0")


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP], ids=["SIGKILL", "SIGINT", "SIGHUP"])
def test_a_sweep_that_was_ended_goes_on_by_the_same_command(swept, tmp_path, number):
    folder = tmp_path / "runs"
    arguments = ["--methods", "ppo,redo", "--seeds", "0-1", "--timesteps", "4096", "--checkpoint-minutes", "0"]
    process = start(folder, *arguments)
    try:
        wait_for(lambda: rollouts(folder / "ant-nonstationary/ppo/seed0") >= 3, process)
        # A terminal sends Ctrl-C, and that it is closed, to the whole group, Ray's own processes included.
        (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)
        out, err = process.communicate(timeout=600)
    finally:
        finish(process)
    if number != signal.SIGKILL:
        assert process.returncode == 130, (out, err)
        assert out.splitlines()[-1] == "Stopped, with everything saved; the same command goes on."
    assert not (folder / "ant-nonstationary/redo/seed1/summary.json").exists()
    out, _ = run_sweep(folder, *arguments)
    assert int(re.search(r"(\d) of them complete", out)[1]) <= 2  # the first two may have been, on a fast machine
    for run in ("ppo/seed0", "ppo/seed1", "redo/seed0", "redo/seed1"):
        assert results(folder / "ant-nonstationary" / run) == results(swept[0] / "ant-nonstationary" / run)


@pytest.mark.soak
def test_a_run_whose_worker_is_lost_again_and_again_is_given_up(tmp_path):
    run = tmp_path / "runs" / "ant-nonstationary/redo/seed0"
    arguments = ["--methods", "redo", "--seeds", "0", "--timesteps", "400000", "--checkpoint-minutes", "60"]
    process = start(tmp_path / "runs", *arguments)
    killed = []
    try:
        for _ in range(3):
            wait_for(lambda: has_worker(run) and worker_of(run) not in killed, process)
            wait_for(lambda: (run / "checkpoints").exists() and list((run / "checkpoints").glob("0*.pt")), process)
            killed.append(worker_of(run))
            os.kill(killed[-1], signal.SIGKILL)
        out, err = process.communicate(timeout=600)
    finally:
        finish(process)
    assert process.returncode == 1, (out, err)
    assert out.count("goes on after the loss of its worker") >= 1
    assert f"{run}: its worker was lost 3 times in a row (WorkerCrashedError)" in err


@pytest.mark.soak
def test_two_sweeps_on_one_folder_train_no_run_twice(swept, tmp_path):
    folder = tmp_path / "runs"
    arguments = ["--methods", "ppo,redo", "--seeds", "0", "--timesteps", "4096"]
    both = [start(folder, *arguments) for _ in range(2)]
    for process in both:
        out, err = finish(process)
        assert process.returncode == 0, (out, err)
    for run in ("ppo/seed0", "redo/seed0"):
        assert results(folder / "ant-nonstationary" / run) == results(swept[0] / "ant-nonstationary" / run)
        printed = (folder / "ant-nonstationary" / run / "output.log").read_text()
        assert printed.count("process ") == 2
        assert printed.count("4,096 steps of 4 environments") == 1  # trained once
        assert printed.count("is complete: 4,096 of 4,096 steps") == 1


@pytest.mark.soak
def test_a_lost_node_of_a_cluster_costs_no_run(swept, tmp_path):
    script = """
import subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster
folder, arguments = Path(sys.argv[1]), sys.argv[2:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
command = [sys.executable, "-m", "agents.sweep", "--address", cluster.address, *arguments]
refused = subprocess.run([*command, "--threads", "2"], stderr=subprocess.PIPE, text=True)
assert "error: threads must be at most the 1 cores of a node, got 2" in refused.stderr, refused.stderr
sweep = subprocess.Popen(command)
while sum(not (path.parent / "summary.json").exists() for path in folder.rglob("progress.csv")) < 2:
    time.sleep(0.05)  # until both nodes are at work
cluster.remove_node(nodes[0], allow_graceful=False)
code = sweep.wait()
cluster.shutdown()
sys.exit(code)
"""
    folder = tmp_path / "runs"
    arguments = [*SMALL, "--run-dir", str(folder), "--methods", "ppo,redo", "--seeds", "0-1", "--timesteps", "4096"]
    command = [sys.executable, "-c", script, str(folder), *arguments, "--checkpoint-minutes", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    out, err = finish(process)
    assert process.returncode == 0, (out, err)
    started = [len(re.findall("process ", path.read_text())) for path in folder.rglob("output.log")]
    assert sorted(started) == [1, 1, 1, 2]  # one run was on the lost node
    for run in ("ppo/seed0", "ppo/seed1", "redo/seed0", "redo/seed1"):
        assert results(folder / "ant-nonstationary" / run) == results(swept[0] / "ant-nonstationary" / run)


@pytest.mark.slow
def test_the_runs_of_a_node_are_spread_over_its_gpus():
    """Each in a process of its own, though there is room for all on the first."""
    script = """
import os, time, ray
from agents.sweeping import workers
ray.init("local", num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False)
@ray.remote(num_cpus=1, max_calls=1)
def gpu():
    time.sleep(2)
    return os.environ["CUDA_VISIBLE_DEVICES"]
workers.check_room(ray, 1, "cuda")
share = workers.share_of_a_gpu(workers._nodes(ray, "cuda"), 1, 4)
print(sorted(ray.get([gpu.options(num_gpus=share).remote() for _ in range(4)])))
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "['0', '0', '1', '1']"


@pytest.mark.parametrize(
    ("nodes", "threads", "runs", "share"),
    [
        ([(16, 2)], 1, 100, 0.125),  # 8 runs on each GPU
        ([(16, 2)], 3, 100, 0.3333),  # 5 runs: 3 and 2
        ([(16, 2)], 1, 4, 0.5),
        ([(3, 2)], 1, 100, 0.5),
        ([(2, 8)], 1, 100, 1.0),
        ([(16, 2), (2, 1), (32, 1)], 4, 100, 0.125),  # as the node with the most runs on a GPU needs; one is too small
    ],
)
def test_as_many_runs_share_a_gpu_as_the_cores_allow(nodes, threads, runs, share):
    assert workers.share_of_a_gpu(nodes, threads, runs) == share


@pytest.mark.parametrize(
    ("nodes", "words"),
    [([(64, 0)], "no node of the cluster has a GPU"), ([(64, 0), (2, 1)], "at most the 2 cores of a node, got 4")],
)
def test_a_sweep_without_room_on_a_node_with_a_gpu_is_refused(nodes, words):
    ray = SimpleNamespace(nodes=lambda: [{"Resources": {"CPU": cores, "GPU": gpus}} for cores, gpus in nodes])
    with pytest.raises(UserError, match=words):
        workers.check_room(ray, 4, "cuda")
    workers.check_room(ray, 4, "cpu")


# Several values of a setting


def planned(folder, *arguments):
    args = ["--env", "ant-nonstationary", "--seeds", "0-1", "--run-dir", str(folder), *arguments]
    return sweep._plan(sweep._parser().parse_args(args))


def test_several_values_of_settings_are_a_run_for_each_combination(tmp_path):
    grid = ["--set", "replacement_rate=1e-3,0.01", "--set", "net_arch=[8,8]", "--set", "maturity_threshold=10,20,1e1"]
    runs = planned(tmp_path, "--methods", "cbp,cbp-no-l2", *grid)
    labels = [
        f"{method},maturity_threshold={age},replacement_rate={rate}"
        for method in ("cbp", "cbp-no-l2")
        for rate in (0.001, 0.01)
        for age in (10, 20)
    ]
    assert [run.name for run in runs] == [f"{label}/seed{seed}" for seed in (0, 1) for label in labels]
    assert runs[1].folder.path == tmp_path / "ant-nonstationary" / labels[1] / "seed0"
    kwargs = runs[1].config.method_kwargs
    assert (kwargs["replacement_rate"], kwargs["maturity_threshold"]) == (0.001, 20)
    assert {run.config.hyperparameters.net_arch for run in runs} == {(8, 8)}


def test_one_value_of_a_setting_is_not_in_a_folder_s_name(tmp_path):
    runs = planned(tmp_path, "--methods", "cbp", "--set", "replacement_rate=1e-3", "--set", "maturity_threshold=10")
    assert [run.name for run in runs] == ["cbp/seed0", "cbp/seed1"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("learning_rate=0.1,0.10000001", "--set gives two runs in one folder: "),
        ("replacement-rate=0.1,0.2", "did you mean 'replacement_rate'?"),
    ],
)
def test_values_that_make_no_runs_are_refused(tmp_path, values, words):
    with pytest.raises(UserError, match=re.escape(words)):
        planned(tmp_path, "--methods", "cbp", "--set", values)


def test_a_configuration_says_which_settings_were_varied(tmp_path):
    config = planned(tmp_path, "--methods", "cbp", "--set", "gamma=0.9,0.9")[0].config
    assert Config.from_json(config.to_json()) == config
    values = json.loads(config.to_json())
    assert Config.from_json(json.dumps({**values, "varied": ["gamma"]})).label == "cbp,gamma=0.9"
    del values["varied"]  # as the first releases wrote it
    assert Config.from_json(json.dumps(values)).label == "cbp"
    with pytest.raises(UserError, match="unknown setting that varied 'gama'; did you mean 'gamma'"):
        Config.from_json(json.dumps({**values, "varied": ["gama"]}))


def test_a_configuration_of_before_with_bursts_closer_than_the_environments_is_read(tmp_path):
    options = ["--methods", "cbp", "--n-envs", "4", "--times"]
    values = json.loads(planned(tmp_path, *options, "bursts,changes=3,gap=4")[0].config.to_json())
    values["change"]["times"]["gap"] = 1
    assert Config.from_json(json.dumps(values)).change["times"]["gap"] == 1
    with pytest.raises(UserError, match="gap must be at least one step for each of the 4 environments, got 1"):
        planned(tmp_path, *options, "bursts,changes=3,gap=1")


# Bad input


@pytest.fixture(autouse=True)
def _warnings_are_shown_as_the_command_shows_them(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() replaces it
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """Runs the command in this process and returns its one line of error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        assert sweep.main(list(arguments)) == 2
        *warned, line = capsys.readouterr().err.splitlines()
        assert all(text.startswith("warning: a phase is short") for text in warned)
        assert not list(tmp_path.iterdir())
        return line

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "ppo,cpb"], "unknown method 'cpb'; did you mean 'cbp'?"),
        (["--methods", "ppo,cbp", "--set", "replacement_rate=0.1"], "unknown setting of method 'ppo' 'replacement_rate'"),
        (["--methods", "cbp", "--set", "replacement_rate=0.1,2"], "replacement_rate must be a finite number in [0, 1], got 2"),
        (["--methods", "cbp", "--set", "replacement_rate=0.1,"], "replacement_rate must be a finite number in [0, 1], got ''"),
        (["--methods", "redo", "--set", "threshold=-1"], "threshold must be a finite number >= 0, got -1"),
        (["--methods", "cbp", "--set", "gamma=0.9,0.8", "--set", "gamma=0.7"], "--set takes each key once, got gamma twice"),
        (["--methods", "ppo", "--seeds", "one"], "--seeds takes whole numbers and ranges with commas between, such as 0-4"),
        (["--methods", "ppo", "--seeds", "4-2"], "got '4-2'"),
        (["--methods", "ppo", "--seeds", "0,"], "got '0,'"),
        (["--methods", "ppo", "--seeds", "0-4000000000"], "--seeds takes at most 10,000 numbers, got '0-4000000000'"),
        (
            ["--methods", "ppo", "--device", "cuda:1"],
            "--device must be cpu, cuda or auto: a sweep spreads its runs over the GPUs",
        ),
        (["--methods", "ppo", "--run-dir", ""], "argument --run-dir: must name a file or a folder, got ''"),
        (["--methods", "ppo", "--timesteps", "0"], "timesteps must be a whole number >= 1, got 0"),
        (["--methods", "ppo", "--env", "mars"], "unknown environment 'mars'"),
        ([], "--methods"),
    ],
)
def test_bad_input_is_one_line_and_begins_nothing(refused, arguments, words):
    defaults = {"--env": "ant-nonstationary", "--seeds": "0-1", "--run-dir": "runs"}
    given = [word for name, value in defaults.items() if name not in arguments for word in (name, value)]
    line = refused(*given, *arguments)
    assert line.startswith("error: ")
    assert words in line


def test_a_folder_with_another_run_is_refused_and_left_as_it_is(swept, capsys):
    folder = swept[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    arguments = [*SMALL, "--run-dir", str(folder), "--methods", "ppo", "--seeds", "0", "--timesteps", "8192"]
    assert sweep.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder}/ant-nonstationary/ppo/seed0' has another run: its timesteps is 4096, not 8192" in line
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(("name", "value"), [("method", "l2"), ("seed", 3)])
def test_a_run_of_another_method_or_seed_is_refused(swept, tmp_path, capsys, name, value):
    run = tmp_path / "runs" / "ant-nonstationary/ppo/seed0"
    shutil.copytree(swept[0] / "ant-nonstationary/ppo/seed0", run)
    config = json.loads((run / "config.json").read_text()) | {name: value}
    (run / "config.json").write_text(json.dumps(config))
    arguments = [*SMALL, "--run-dir", str(tmp_path / "runs"), "--methods", "ppo", "--seeds", "0", "--timesteps", "4096"]
    assert sweep.main(arguments) == 2
    assert f"has another run: its {name} is {value}, not " in capsys.readouterr().err


def test_a_run_that_is_taken_up_again_has_the_threads_and_checkpoints_that_are_asked_for_now(swept):
    folder, begun = RunFolder.open(swept[0] / "ant-nonstationary/ppo/seed0", Config)
    asked = dataclasses.replace(begun, threads=3, checkpoint_minutes=7.0, keep_phases=True, protocol=None)
    assert begun.threads == 1
    assert plan.check_same(folder, asked) == dataclasses.replace(asked, protocol=begun.protocol)


@pytest.mark.parametrize(("timesteps", "state"), [(4_096, "complete"), (8_192, "waiting")])
def test_a_run_whose_summary_is_shorter_than_it_is_to_be_is_gone_on_with(tmp_path, timesteps, state):
    config = dataclasses.replace(make_config_of_small(), timesteps=timesteps)
    (tmp_path / "config.json").write_text(config.to_json())
    (tmp_path / "summary.json").write_text(json.dumps({"complete": True, "timesteps": 4_096}))
    assert plan.inspect(sweep.Run(RunFolder(tmp_path), config)).state == state


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_summary_gets_one(swept, tmp_path):
    run = tmp_path / "runs" / "ant-nonstationary/ppo/seed0"
    shutil.copytree(swept[0] / "ant-nonstationary/ppo/seed0", run)
    (run / "summary.json").write_text("[]")
    out, _ = run_sweep(tmp_path / "runs", "--methods", "ppo", "--seeds", "0", "--timesteps", "4096")
    assert "1 runs in" in out
    assert results(run) == results(swept[0] / "ant-nonstationary/ppo/seed0")


def test_a_damaged_log_does_not_end_the_sweep(tmp_path):
    (tmp_path / "progress.csv").write_text("time/total_timesteps,time/fps\n512,100\ngarb\x00,age\n")
    run = sweep.Run(RunFolder(tmp_path), make_config_of_small(), state="running")
    assert _cells(run)[:3] == ["ppo/seed0", "running", ""]
    (tmp_path / "progress.csv").write_text("time/total_timesteps,time/fps\n512,100\n")
    assert _cells(run)[2:5] == ["512 of 400,000", "", "100"]


@pytest.mark.parametrize("note", ["got [cpu] here", "every checkpoint in '/data/[/old]/:x:/seed0' is damaged"])
def test_a_note_is_shown_as_it_is(tmp_path, monkeypatch, note):
    table = LiveTable([sweep.Run(RunFolder(tmp_path), make_config_of_small(), state="failed", note=note)])
    monkeypatch.setattr(table, "_console", Console(file=io.StringIO(), force_terminal=True, width=200))
    table._console.print(table._table())
    table.say(note)
    assert table._console.file.getvalue().count(note) == 2


def make_config_of_small():
    args = sweep._parser().parse_args([*SMALL, "--methods", "ppo", "--seeds", "0", "--run-dir", "x"])
    return sweep.make_configs(args, ["ppo"], [0])[0]


def test_a_run_dir_that_is_a_file_is_refused_before_ray_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "file").write_text("keep me")
    assert sweep.main([*SMALL, "--run-dir", str(tmp_path / "file"), "--methods", "ppo", "--seeds", "0"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: cannot make folder '{tmp_path / 'file'}'")
    assert (tmp_path / "file").read_text() == "keep me"


@pytest.mark.parametrize("place", ["seed0", "seed0/notes.txt"])
def test_something_else_in_the_place_of_a_run_is_refused_before_ray_starts(tmp_path, capsys, monkeypatch, place):
    monkeypatch.setattr(sweep, "start_ray", lambda *_: pytest.fail("Ray was started"))
    taken = tmp_path / "ant-nonstationary" / "ppo" / place
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    options = ["--env", "ant-nonstationary", "--methods", "ppo", "--seeds", "0-1", "--run-dir", str(tmp_path)]
    assert sweep.main(options) == 2
    assert "seed0' exists already" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [taken]


def test_more_threads_than_a_node_has_cores_are_refused_before_ray_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = [*SMALL, "--run-dir", str(tmp_path / "runs"), "--methods", "ppo", "--seeds", "0", "--threads", "1000"]
    assert sweep.main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"error: threads must be at most the {os.cpu_count()} cores of a node, got 1000"
    assert not (tmp_path / "runs").exists()


def test_without_ray_the_extra_is_named(swept, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python marks what cannot be imported
    assert sweep.main([*SMALL, "--run-dir", str(tmp_path / "runs"), "--methods", "ppo", "--seeds", "0"]) == 2
    assert "a sweep needs 'ray': pip install 'continual-backprop[sweep]'" in capsys.readouterr().err.splitlines()[-1]


def test_where_the_paths_of_rays_sockets_are_too_long_a_shorter_one_is_named(tmp_path):
    long = tmp_path / ("long" * 20)
    arguments = [*SMALL, "--methods", "ppo", "--seeds", "0", "--run-dir", tmp_path / "runs"]
    done = processes.run("agents.sweep", *arguments, check=False, RAY_TMPDIR=str(long))
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: Ray does not start: ")
    assert line.endswith("; RAY_TMPDIR=/tmp gives its sockets a short one")


@pytest.mark.slow
def test_a_run_that_breaks_off_is_named_and_the_others_complete(tmp_path):
    arguments = ["--methods", "ppo,l2", "--seeds", "0", "--timesteps", "2048"]
    args = sweep._parser().parse_args([*SMALL, "--run-dir", str(tmp_path / "runs"), *arguments])
    _, begun = sweep._plan(args)
    RunFolder.create(begun.folder.path, begun.config).episodes.mkdir()
    process = start(tmp_path / "runs", *arguments)
    out, err = finish(process)
    assert process.returncode == 1, (out, err)
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "1 of 2 runs failed; the same command tries them again: " in line
    assert "l2/seed0" in line
    assert json.loads((tmp_path / "runs/ant-nonstationary/ppo/seed0/summary.json").read_text())["complete"]
    assert train.main(["--resume", str(tmp_path / "runs/ant-nonstationary/ppo/seed0")]) == 0


def test_a_worker_says_again_in_each_run_what_it_said_in_another(tmp_path):
    """A process of its own, as Ray's: within one Python shows a warning of a place and text once."""
    code = """
import sys, warnings
from agents.sweeping import workers
workers._train_when_free = lambda runs: [warnings.warn("said") for _ in range(2)] and 0
config = sys.argv[2]
for name in "abc":
    workers._train_in_worker([(f"{sys.argv[1]}/{name}", config)])
"""
    config = Config("Hopper-v5", "ppo", 1000, 100, "friction", 0, 1, normalize=False, device="cpu").to_json()
    subprocess.run([sys.executable, "-c", code, str(tmp_path), config], check=True)
    logs = [(tmp_path / name / "output.log").read_text() for name in "abc"]
    assert [log.count("warning: said") for log in logs] == [1, 1, 1]
