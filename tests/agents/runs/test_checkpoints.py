"""A run that stopped goes on as if it had not: weights, logs and summaries are those of a run that was never stopped."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
import pickle
import resource
import select
import shutil
import signal
import sys
import termios
import time
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import processes
import pytest
import stable_baselines3
import torch
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from same_runs import assert_same_run, curves, newest

import cbp
from agents.callbacks import ProgressCallback
from agents.reporting.results import read_run
from agents.runs import checkpoint_files
from agents.runs.checkpoints import load_policy
from agents.runs.config import Config
from agents.runs.figure import draw_run
from agents.runs.run_folder import RunFolder
from agents.runs.summary import versions

SMALL = ["--set", "rollout_steps=256", "--set", "batch_size=64", "--set", "n_epochs=2", "--set", "net_arch=[12,10]"]
BUSY = ["--set", "maturity_threshold=10", "--set", "replacement_rate=0.02"]
ALWAYS = ["--checkpoint-minutes", 0]
# Most of what a checkpoint takes here is the environments' state.
ANT = ["--env", "ant-nonstationary", "--timesteps", 2048, "--period", 600, "--n-envs", 2, *SMALL]
SHORT = [*ANT, "--timesteps", 1280]


STOPPED = {
    "cbp": [*BUSY, "--n-envs", 4],
    "ppo": ["--method", "ppo"],
    "SB3's loop": [*BUSY, "--set", "reset_optimizer=moments_and_step"],
}
STOPPED_TOO = {
    "one env": [*BUSY, "--n-envs", 1],
    "normalised": [*BUSY, "--normalize"],
    "redo": ["--method", "redo", "--set", "threshold=0.3", "--set", "period=5"],
    "reset-all": ["--method", "reset-all"],
    "snr": ["--method", "snr", "--set", "rejection=0.2", "--set", "min_silence=0"],
    "regrama": ["--method", "regrama", "--set", "period=5"],
    "hare-tortoise": ["--method", "hare-tortoise", "--set", "period=7"],
    "trac": ["--method", "trac", "--set", "first_scale=0.1"],
    "other utility": [
        *[*BUSY, "--set", "utility=adaptable_contribution", "--set", "rounding=counter", "--set", "max_grad_norm=0.5"]
    ],
}
STOPPED_IN_EVERY_WAY = {
    "l2 normalised": ["--method", "l2", "--n-envs", 1, "--normalize"],
    "l2-init": ["--method", "l2-init"],
    "shrink-perturb": ["--method", "shrink-perturb"],
    "shrink-perturb-soft": ["--method", "shrink-perturb-soft", "--set", "period=7"],
    "layer-norm": ["--method", "layer-norm"],
    "spectral": ["--method", "spectral"],
    "upgd": ["--method", "upgd"],
    "swr": ["--method", "swr", "--set", "period=5"],
    "fire": ["--method", "fire"],
    "nap": ["--method", "nap"],
    "crelu": ["--method", "crelu"],
    "cbp-first-layer": ["--method", "cbp-first-layer", *BUSY],
}


@pytest.mark.parametrize(
    "options",
    [
        *(pytest.param(options, id=name) for name, options in STOPPED.items()),
        *(pytest.param(options, id=name, marks=pytest.mark.slow) for name, options in STOPPED_TOO.items()),
        *(pytest.param(options, id=name, marks=pytest.mark.soak) for name, options in STOPPED_IN_EVERY_WAY.items()),
    ],
)
def test_a_run_that_stopped_twice_is_the_run_that_did_not(command, interrupted, tmp_path, options):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = [*ANT, "--timesteps", 1024, "--period", 300, "--env-kwargs", "max_episode_steps=50", *options, *ALWAYS]
    interrupted(*options, "--run-dir", stopped, until=512)  # behind the first change
    assert command(*options, "--run-dir", whole) == 0
    interrupted("--resume", stopped, until=768)
    assert command("--resume", stopped) == 0
    assert_same_run(whole, stopped)
    assert len(json.loads((whole / "summary.json").read_text())["phases"]) >= 2


@pytest.mark.parametrize("env", ["Hopper-v5", "Pendulum-v1"])
def test_other_environments_go_on_too(command, interrupted, tmp_path, env):
    options = ["--env", env, "--timesteps", 1024, *SMALL, *BUSY, *ALWAYS, "--n-envs", 2]
    options += ["--period", 300] if env == "Hopper-v5" else []
    interrupted(*options, "--run-dir", tmp_path / "stopped", until=768)
    assert command(*options, "--run-dir", tmp_path / "whole") == 0
    assert command("--resume", tmp_path / "stopped") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


class Choosing(HopperEnv):
    """Takes its mass from a table of the class, its goal from a space and its wind from a generator of the class."""

    TASKS = ({"mass": [3.0]}, {"mass": [4.0]}, {"mass": [5.0]})
    wind = np.random.default_rng(0)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.goals = gymnasium.spaces.Box(-1.0, 1.0, (2,))
        self.places = np.zeros((4, 2))

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.wind.bit_generator.state = np.random.default_rng(seed).bit_generator.state
            self.goals.seed(seed)
        made = super().reset(seed=seed, options=options)
        self.task = self.TASKS[self.np_random.integers(3)]
        self.place = self.places[self.np_random.integers(4)]
        self.place[:] = self.goals.sample()
        return made

    def step(self, action):
        self.data.qfrc_applied[0] = self.wind.normal() + self.places.sum()
        observation, reward, *others = super().step(action)
        return observation, reward - self.task["mass"][0], *others


def test_an_environment_that_takes_from_tables_and_draws_elsewhere_goes_on_too(command, interrupted, tmp_path):
    gymnasium.register("choosing-v0", Choosing, max_episode_steps=40)
    options = ["--env", "choosing-v0", "--timesteps", 1024, *SMALL, *ALWAYS, "--n-envs", 2]
    interrupted(*options, "--run-dir", tmp_path / "stopped", until=768)
    assert command(*options, "--run-dir", tmp_path / "whole") == 0
    assert command("--resume", tmp_path / "stopped") == 0
    del gymnasium.registry["choosing-v0"]
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert [task["mass"][0] for task in Choosing.TASKS] == [3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(["--change-at", "now"], id="in mid-episode", marks=pytest.mark.slow),
        pytest.param(
            [
                "--param",
                "observation_noise",
                "--param",
                "action_delay",
                "--param",
                "mass,schedule=random_walk",
                "--observe",
                "--change-at",
                "now",
            ],
            id="several at once",
        ),
    ],
)
def test_other_changes_go_on_too(command, interrupted, tmp_path, change):
    options = [*ANT, *BUSY, *ALWAYS, *change, "--timesteps", 1536, "--period", 360]
    interrupted(*options, "--run-dir", tmp_path / "stopped", until=1024)
    assert command(*options, "--run-dir", tmp_path / "whole") == 0
    assert command("--resume", tmp_path / "stopped") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert len(json.loads((tmp_path / "whole" / "summary.json").read_text())["phases"]) >= 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    processes.run("agents.train", *SHORT, *BUSY, *ALWAYS, "--run-dir", folder)
    return folder


def test_a_run_that_goes_on_from_the_start_or_an_earlier_checkpoint_is_the_same(command, interrupted, whole, tmp_path):
    stopped = tmp_path / "stopped"
    interrupted(*SHORT, *BUSY, "--checkpoint-minutes", 60, "--run-dir", stopped, until=512)
    assert newest(stopped).name.startswith("000000000000-")
    config = json.loads((stopped / "config.json").read_text()) | {"checkpoint_minutes": 0}
    (stopped / "config.json").write_text(json.dumps(config))
    interrupted("--resume", stopped, until=1024)
    config = json.loads((stopped / "config.json").read_text()) | {"checkpoint_minutes": 60}
    (stopped / "config.json").write_text(json.dumps(config))
    damaged = newest(stopped)
    damaged.write_bytes(b"damaged")
    assert command("--resume", stopped) == 0
    assert_same_run(whole, stopped)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(command, interrupted, tmp_path):
    interrupted(*ANT, *BUSY, *ALWAYS, "--run-dir", tmp_path / "run", until=512)
    damaged = newest(tmp_path / "run")
    damaged.write_bytes(b"damaged")
    interrupted("--resume", tmp_path / "run", until=512)
    steps = [path.name[:12] for path in sorted(damaged.parent.iterdir())]
    assert steps == ["000000000000", "000000000256"]
    assert torch.load(newest(tmp_path / "run"), weights_only=True)["model"]["counters"]["num_timesteps"] == 256


def test_the_last_three_checkpoints_are_kept_and_one_is_made_after_each_phase(command, tmp_path):
    folder = tmp_path / "run"
    assert command(*ANT, "--change-at", "now", "--run-dir", folder, "--checkpoint-minutes", 60) == 0
    steps = [int(path.name[:12]) for path in sorted((folder / "checkpoints").iterdir())]
    assert len(steps) == 3
    assert steps[-1] == 2048
    # Phases begin after 600, 1,200 and 1,800 steps, in the rollouts that end at 768, 1,280 and 2,048.
    assert steps == [768, 1280, 2048]


def test_the_end_of_each_phase_is_kept_where_it_is_asked_for(command, interrupted, tmp_path):
    asked = [*ANT, "--change-at", "now", "--keep-phases", "--checkpoint-minutes", 60]
    interrupted(*asked, "--run-dir", tmp_path / "run", until=768)
    assert command("--resume", tmp_path / "run") == 0
    kept = checkpoint_files.kept(RunFolder(tmp_path / "run"))
    steps = {phase: torch.load(path, weights_only=True)["model"]["counters"]["num_timesteps"] for phase, path in kept.items()}
    # Phases end after 600, 1,200 and 1,800 steps, the last with the run.
    assert steps == {0: 768, 1: 1280, 2: 2048, 3: 2048}
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "phases")
    newest_one = newest(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "hardlink_to", partial(os.link, tmp_path / "no such file"))  # as on a file system without links
        checkpoint_files.keep(RunFolder(tmp_path / "run"), newest_one, [0])
    (copy,) = (tmp_path / "run" / "checkpoints" / "phases").iterdir()
    assert (copy.name, copy.read_bytes()) == (f"0000-{newest_one.name}", newest_one.read_bytes())
    shutil.copy(copy, copy.with_name(f"{copy.stem}_copy.pt"))
    assert checkpoint_files.kept(RunFolder(tmp_path / "run")) == {0: copy}
    content = newest_one.read_bytes()
    copy.write_bytes(content[:1000] + b"damaged" + content[1007:])
    checkpoint_files.keep(RunFolder(tmp_path / "run"), newest_one, [0])  # as where the phase ends once more
    assert checkpoint_files.kept(RunFolder(tmp_path / "run")) == {0: copy}
    assert copy.read_bytes() == content


def test_no_later_checkpoint_is_kept_as_that_of_a_phase_that_ended_before(command, interrupted, tmp_path, capsys):
    folder = tmp_path / "run"
    interrupted(*ANT, "--change-at", "now", "--checkpoint-minutes", 60, "--run-dir", folder, until=1280)
    config = json.loads((folder / "config.json").read_text()) | {"keep_phases": True}
    (folder / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert command("--resume", folder) == 0
    (line,) = [line for line in told(capsys) if "is kept" in line]
    assert line == "warning: no checkpoint is kept of the end of phase 0"
    steps = {phase: checkpoint_files.steps_of(path) for phase, path in checkpoint_files.kept(RunFolder(folder)).items()}
    assert steps == {1: 1280, 2: 2048, 3: 2048}


@pytest.fixture(scope="module")
def of_three_checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    processes.run("agents.train", *ANT, *BUSY, "--timesteps", 768, *ALWAYS, "--run-dir", folder)
    return folder


@pytest.fixture
def finished(of_three_checkpoints, tmp_path):
    """A run of three checkpoints."""
    return shutil.copytree(of_three_checkpoints, tmp_path / "run")


@pytest.fixture
def unfinished(finished):
    """That run as if it was killed between its last checkpoint and its summary."""
    (finished / "summary.json").unlink()
    return finished


def told(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "warning: "))]


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(command, capsys, unfinished):
    content = newest(unfinished).read_bytes()
    newest(unfinished).write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    capsys.readouterr()
    assert command("--resume", unfinished) == 0
    (line,) = [line for line in told(capsys) if "damaged" in line]
    assert "checksum" in line
    assert json.loads((unfinished / "summary.json").read_text())["timesteps"] == 768


def test_where_every_checkpoint_is_damaged_nothing_is_overwritten(command, capsys, unfinished):
    for path in (unfinished / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-5])
    before = {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert command("--resume", unfinished) == 2
    assert "every checkpoint" in told(capsys)[-1]
    assert {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()} == before


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("by_torch", [False, True])
def test_a_checkpoint_from_a_stranger_runs_no_code(command, capsys, unfinished, tmp_path, by_torch):
    stream = io.BytesIO()
    (torch.save if by_torch else pickle.dump)({"model": Malicious(tmp_path / "harm")}, stream)
    content = stream.getvalue()
    for path in (unfinished / "checkpoints").iterdir():
        path.unlink()
    name = f"000000000512-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    (unfinished / "checkpoints" / name).write_bytes(content)
    capsys.readouterr()
    assert command("--resume", unfinished) == 2
    assert "damaged" in " ".join(told(capsys))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("env", ["os:system", "envs.ant:make_ant"])
def test_a_configuration_that_names_code_is_refused(command, capsys, unfinished, env):
    config = json.loads((unfinished / "config.json").read_text()) | {"env": env}
    (unfinished / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert command("--resume", unfinished) == 2
    (line,) = told(capsys)
    assert "without a module" in line


def test_a_checkpoint_of_another_run_is_refused(command, capsys, unfinished, tmp_path):
    other = ["--env", "ant-nonstationary", "--method", "ppo", "--set", "net_arch=[9]", "--set", "rollout_steps=256"]
    assert command(*other, "--timesteps", 256, "--n-envs", 2, "--set", "batch_size=64", "--run-dir", tmp_path / "other") == 0
    for path in (unfinished / "checkpoints").iterdir():
        path.unlink()
    source = newest(tmp_path / "other")
    (unfinished / "checkpoints" / source.name).write_bytes(source.read_bytes())
    capsys.readouterr()
    assert command("--resume", unfinished) == 2
    assert "not one of this run" in told(capsys)[-1]


def test_other_versions_bring_one_warning(command, capsys, interrupted, monkeypatch, tmp_path):
    interrupted(*ANT, "--timesteps", 512, *ALWAYS, "--run-dir", tmp_path / "run", until=512)
    made_by, before = checkpoint_files._made_by(), versions()
    monkeypatch.setattr(cbp, "__version__", "9.9.9")
    monkeypatch.setattr(checkpoint_files, "_made_by", lambda: made_by | {"torch": "9.9", "threads": 64, **OURS})
    capsys.readouterr()
    assert command("--resume", tmp_path / "run") == 0
    (line,) = [line for line in told(capsys) if "not to the bit" in line]
    assert f"torch {made_by['torch']}, not 9.9" in line
    assert f"threads {made_by['threads']}, not 64" in line
    assert f"continual-backprop {before['continual-backprop']}, not 9.9.9" in line
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["versions"], summary["earlier_versions"]) == ({**before, **OURS}, [before])


OURS = {"continual-backprop": "9.9.9"}


def test_the_model_can_be_exported_for_sb3(command, finished, tmp_path, capsys):
    assert command("--resume", finished, "--export", tmp_path / "model.zip") == 0
    model = stable_baselines3.PPO.load(tmp_path / "model.zip", device="cpu")
    state = torch.load(newest(finished), weights_only=True)["model"]["policy"]
    assert all(torch.equal(value, state[name]) for name, value in model.policy.state_dict().items() if name != "_extra_state")
    assert model.num_timesteps == 768
    assert command("--resume", finished, "--export", tmp_path / "model.zip") == 2
    assert "exists already" in told(capsys)[-1]
    assert command("--env", "ant-nonstationary", "--export", tmp_path / "another.zip") == 2


def test_an_export_that_is_interrupted_leaves_nothing(command, finished, tmp_path, monkeypatch):
    written, write = [], zipfile.ZipFile.writestr

    def interrupt(file, name, *others, **kwargs):
        if written:
            raise KeyboardInterrupt
        written.append(name)
        return write(file, name, *others, **kwargs)

    (tmp_path / "models").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "writestr", interrupt)
        assert command("--resume", finished, "--export", tmp_path / "models" / "model.zip") == 130
    assert written
    assert list((tmp_path / "models").iterdir()) == []
    assert command("--resume", finished, "--export", tmp_path / "models" / "model.zip") == 0


def test_a_complete_run_stays_as_it_is_whatever_is_exported_or_resumed(command, finished, tmp_path, capsys):
    with (finished / "episodes.csv").open("a") as file:
        file.write("of another\n")
    before = contents(finished)
    assert command("--resume", finished) == 0
    assert "is complete: 768 of 768 steps." in capsys.readouterr().out
    assert contents(finished) == before
    newest(finished).write_bytes(b"damaged")
    before = contents(finished)
    assert command("--resume", finished) == 0
    assert "is complete: 768 of 768 steps." in capsys.readouterr().out
    assert contents(finished) == before
    assert command("--resume", finished, "--export", tmp_path / "model") == 0  # which Stable-Baselines3 calls model.zip
    assert f"{tmp_path / 'model.zip'}: the model at 512 steps" in capsys.readouterr().out
    assert contents(finished) == before
    (tmp_path / "mine.zip").write_text("mine")
    assert command("--resume", finished, "--export", tmp_path / "mine") == 2
    assert "mine.zip' exists already" in told(capsys)[-1]
    assert (tmp_path / "mine.zip").read_text() == "mine"
    shutil.rmtree(finished / "checkpoints")
    before = contents(finished)
    assert command("--resume", finished, "--export", tmp_path / "untrained.zip") == 2
    assert "has no checkpoint yet" in told(capsys)[-1]
    assert contents(finished) == before
    assert not (tmp_path / "untrained.zip").exists()


def test_a_complete_run_that_is_to_be_longer_goes_on_and_says_no_more_that_it_is_complete(command, interrupted, finished):
    config = json.loads((finished / "config.json").read_text()) | {"timesteps": 1280}
    (finished / "config.json").write_text(json.dumps(config))
    interrupted("--resume", finished, until=1024)
    assert not (finished / "summary.json").exists()
    assert command("--resume", finished) == 0
    assert json.loads((finished / "summary.json").read_text())["timesteps"] == 1280


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


# Faults, in real processes


process = partial(processes.Started, "agents.train")


def wait_until(condition, seconds=300):
    for _ in range(50 * seconds):
        if condition():
            return
        time.sleep(0.02)
    raise TimeoutError


def wait_for(path):
    wait_until(lambda: list(path.parent.glob(path.name)))


def test_a_second_process_on_the_same_run_is_locked_out(tmp_path):
    long = ["--env", "ant-nonstationary", "--timesteps", 1_000_000, *SMALL, "--run-dir", tmp_path / "run"]
    first = process(*long)
    try:
        wait_for(tmp_path / "run" / "checkpoints" / "0*.pt")
        second = process("--resume", tmp_path / "run")
        _, err = second.communicate()
    finally:
        first.kill()
        first.communicate()
    assert err.splitlines() == [f"error: another process is training in '{tmp_path / 'run'}'"]
    assert second.returncode == 2
    third = process("--resume", tmp_path / "run")  # the lock went with the process
    wait_until(lambda: "steps/s" in third.printed()[1])  # the bar, which is shown once signals are taken
    third.send_signal(signal.SIGTERM)
    out, err = third.communicate()
    assert third.returncode == 130, err
    assert "Stopped at" in out


def test_a_full_disk_at_a_checkpoint_is_reported_and_training_goes_on(command, capsys, finished, tmp_path):
    folder = tmp_path / "full"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_bytes((finished / "config.json").read_bytes())
    (folder / "checkpoints" / ".new").symlink_to("/dev/full")  # the first one is written there
    capsys.readouterr()
    assert command("--resume", folder) == 0
    (line,) = [line for line in told(capsys) if "no checkpoint" in line]
    assert line == "warning: no checkpoint at step 0: No space left on device; training goes on"
    assert_same_run(finished, folder)


def test_a_run_is_complete_only_when_its_figure_is_drawn(command, capsys, finished, tmp_path):
    folder = tmp_path / "undrawn"
    (folder / "report.png").mkdir(parents=True)  # where no file can be written
    (folder / "config.json").write_bytes((finished / "config.json").read_bytes())
    assert command("--resume", folder) == 1
    assert "report.png" in told(capsys)[-1]
    assert not (folder / "summary.json").exists()
    (folder / "report.png").rmdir()
    assert command("--resume", folder) == 0
    assert json.loads((folder / "summary.json").read_text())["complete"]
    assert (folder / "report.png").is_file()


def test_a_return_that_is_no_number_is_left_out_of_the_figure(command, finished):
    episodes = (finished / "episodes.csv").read_text().splitlines()
    at = episodes[0].split(",").index("return")
    row = episodes[1].split(",")
    row[at] = "nan"
    (finished / "episodes.csv").write_text("\n".join([episodes[0], ",".join(row), *episodes[2:]]) + "\n")
    (finished / "summary.json").unlink()
    (finished / "report.png").unlink()
    assert command("--resume", finished) == 0
    assert json.loads((finished / "summary.json").read_text())["complete"]
    assert (finished / "report.png").is_file()


def test_what_breaks_while_a_run_is_finished_again_is_said_in_one_line(command, capsys, finished, monkeypatch):
    (finished / "summary.json").unlink()

    def fail(*_):
        raise KeyError("axis")

    monkeypatch.setattr("agents.runs.training.draw_run", fail)
    capsys.readouterr()
    assert command("--resume", finished) == 1
    line = told(capsys)[-1]
    assert line.startswith("error: training broke off at step 768: KeyError: 'axis' (details in ")


def test_copies_of_checkpoints_are_left_alone(command, interrupted, tmp_path):
    interrupted(*SHORT, *ALWAYS, "--run-dir", tmp_path / "run", until=512)
    checkpoint = newest(tmp_path / "run")
    copies = [checkpoint.with_name(f"{checkpoint.stem}{copy}.pt") for copy in (" - Copy", " (copy)", "-2")]
    for copy in copies:
        shutil.copy(checkpoint, copy)
    assert command("--resume", tmp_path / "run") == 0
    assert all(copy.exists() for copy in copies)
    assert len(list(checkpoint.parent.glob("*.pt"))) == 3 + len(copies)


def test_a_long_error_of_somebody_else_is_cut(command, capsys, monkeypatch, tmp_path):
    def train(model):
        raise ValueError(f"Expected no {'nan ' * 1000}")

    monkeypatch.setattr(stable_baselines3.PPO, "train", train)
    options = ["--env", "CartPole-v1", "--timesteps", 4096, "--run-dir", tmp_path / "run"]
    assert command(*options) == 1
    line = told(capsys)[-1]
    assert line.startswith("error: training broke off at step 2,048: Expected no nan nan ")
    assert " … (details in " in line
    assert len(line) < 1_400
    assert (tmp_path / "run" / "error.log").read_text().count("nan") > 100


def test_a_disk_that_stays_full_ends_the_run_with_one_line(tmp_path):
    limit = 20_000  # bytes, less than a checkpoint, more than the logs
    restrict = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    run = process(*ANT, "--timesteps", 512, "--run-dir", tmp_path / "run", prepare=restrict)
    _, err = run.communicate()
    lines = [line for line in err.splitlines() if line.startswith(("error: ", "Traceback"))]
    assert run.returncode == 1
    reason = f"[Errno 27] File too large (details in {tmp_path}/run/error.log); there is no checkpoint"
    assert lines == [f"error: training broke off at step 512: {reason}"]
    assert "no checkpoint at step 0: File too large; training goes on" in err
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_physics_that_diverge_are_reset_and_training_goes_on(command, monkeypatch, tmp_path, caplog):
    rollout_end = ProgressCallback._on_rollout_end

    def upset(callback):
        rollout_end(callback)
        callback.training_env.envs[0].unwrapped.data.qvel[3] = np.nan

    monkeypatch.setattr(ProgressCallback, "_on_rollout_end", upset)
    assert command(*ANT, "--timesteps", 768, "--run-dir", tmp_path / "run") == 0
    log = tmp_path / "MUJOCO_LOG.TXT"  # unless dm_control was imported, which takes MuJoCo's warnings into Python's logs
    assert "huge value in QVEL" in (log.read_text() if log.exists() else caplog.text)
    state = torch.load(newest(tmp_path / "run"), weights_only=True)
    assert torch.isfinite(state["model"]["last_observations"]).all()


def test_report_and_tensorboard_read_a_run_while_it_is_written(tmp_path):
    folder = RunFolder(tmp_path / "run")
    run = process("--env", "ant-nonstationary", "--timesteps", 1_000_000, *SMALL, *BUSY, *ALWAYS, "--run-dir", folder.path)
    steps = []
    try:
        wait_for(folder.progress)
        _, config = RunFolder.open(folder.path, Config)
        while len(steps) < 4 or steps[-1] == steps[0]:
            assert run.poll() is None, run.printed()
            draw_run(folder, config)
            if written := curves(folder.path).get("env/phase"):  # progress.csv is written before the events
                steps.append(max(written)[0])
    finally:
        run.kill()
        run.communicate()
    assert steps[-1] > steps[0] > 0
    assert steps == sorted(steps)


def test_rewards_that_are_no_numbers_end_the_run_with_one_line(command, capsys, monkeypatch, tmp_path):
    from agents.sb3.arrays import Samples

    original = Samples.of.__func__

    def spoil(cls, buffer, *arguments):
        if buffer.rewards[0, 0] != buffer.rewards[0, 1]:
            buffer.returns[:] = float("nan")
        return original(cls, buffer, *arguments)

    monkeypatch.setattr(Samples, "of", classmethod(spoil))
    assert command(*ANT, *ALWAYS, "--run-dir", tmp_path / "run") == 1
    line = told(capsys)[-1]
    assert "a loss is not a finite number" in line
    assert f"--resume {tmp_path / 'run'} goes on from 000000000000-" in line
    assert "ValueError" in (tmp_path / "run" / "error.log").read_text()


def take_terminal(path):
    """Makes a terminal that of this process, the first of its session."""
    terminal = os.open(path, os.O_RDWR)
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(terminal, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))  # which were files


def test_a_closed_terminal_stops_the_run_with_everything_saved(tmp_path):
    controller, terminal = os.openpty()
    long = ["--env", "ant-nonstationary", "--timesteps", 1_000_000, *SMALL, "--run-dir", tmp_path / "run"]
    run = process(*long, prepare=partial(take_terminal, os.ttyname(terminal)))
    try:
        wait_for(tmp_path / "run" / "progress.csv")
        os.close(terminal)
        os.close(controller)
        assert run.wait() == 130
    finally:
        run.kill()
        run.wait()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["timesteps"] == int(newest(tmp_path / "run").name[:12]) > 0


def test_a_cut_off_event_file_and_log_are_continued(command, interrupted, whole, tmp_path):
    stopped = tmp_path / "stopped"
    interrupted(*SHORT, *BUSY, *ALWAYS, "--run-dir", stopped, until=768)
    for path in (stopped / "progress.csv", stopped / "episodes.csv", next(stopped.glob("events*"))):
        with path.open("ab") as file:
            file.write(path.read_bytes()[-40:-7])  # begun, and never finished
    assert command("--resume", stopped) == 0
    assert_same_run(whole, stopped)


FRAGILE = [*ANT, "--timesteps", 1024, "--env-kwargs", "max_episode_steps=50", *BUSY, *ALWAYS]


@pytest.mark.parametrize("name", ["progress.csv", "episodes.csv"])
def test_a_run_whose_logs_have_lost_rows_does_not_go_on(command, interrupted, tmp_path, capsys, name):
    folder = tmp_path / "run"
    interrupted(*FRAGILE, "--run-dir", folder, until=768)
    log, checkpoint = folder / name, newest(folder)
    assert checkpoint.name.startswith("000000000512-")
    column = "time/total_timesteps" if name == "progress.csv" else "step"
    with log.open(newline="") as file:
        steps = [int(row[column]) for row in csv.DictReader(file)]
    lines = log.read_bytes().splitlines(keepends=True)
    left = sum(step <= 256 for step in steps)
    log.write_bytes(b"".join(lines[: 1 + left]))
    had = sum(step <= 512 for step in steps)
    assert left < had
    before = contents(folder)
    capsys.readouterr()
    assert command("--resume", folder) == 2
    words = f"{name}' has {left} rows up to step 512, and had {had} when '{checkpoint}' was written; nothing was changed"
    assert words in told(capsys)[-1]
    now, events = contents(folder), next(folder.glob("events*"))
    assert now.pop(events).startswith(before.pop(events))  # its writer, in this process, may still be at work
    assert now == before
    checkpoint.unlink()  # as the line says
    assert command("--resume", folder) == 0
    assert read_run(folder).complete


def test_logs_are_on_the_disk_before_each_checkpoint_and_flushed_no_more_often(command, tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def record(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append((path.name, path.stat().st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    folder = tmp_path / "run"
    assert command(*FRAGILE, "--run-dir", folder) == 0
    names = [name for name, _ in flushed]
    ends = [index for index, name in enumerate(names) if name == ".new"]
    assert len(ends) == 5  # at step 0, after each of three rollouts and at the end
    begins = [0, *(end + 1 for end in ends[:-1])]
    for begin, end in zip(begins[1:], ends[1:], strict=True):
        logs = [name for name in names[begin:end] if name in ("progress.csv", "episodes.csv") or name.startswith("events.")]
        assert sorted(logs) == ["episodes.csv", *(path.name for path in folder.glob("events.*")), "progress.csv"]
        assert names.index("run", begin, end) > 0  # the folder
    assert dict(flushed)["episodes.csv"] == (folder / "episodes.csv").stat().st_size  # the last time


@pytest.mark.soak
@pytest.mark.parametrize(
    "arguments",
    [
        ["--timesteps", 20_480, "--set", "rollout_steps=1024", *BUSY],
        ["--algo", "sac", "--method", "backprop", "--timesteps", 10_240, "--set", "train_freq=32", "--set", "net_arch=[16,16]"],
    ],
    ids=["ppo", "sac"],
)
def test_a_run_killed_at_random_moments_is_the_run_that_was_not(tmp_path, arguments):
    arguments = ["--env", "ant-nonstationary", "--period", 5000, *arguments, "--checkpoint-minutes", 0.005]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    start = time.monotonic()
    unbroken = process(*arguments, "--run-dir", whole)
    _, err = unbroken.communicate()
    assert unbroken.returncode == 0, err
    kill_at_random_moments(killed, arguments, 3, longest=(time.monotonic() - start) / 4)
    assert_same_run(whole, killed)


def kill_while_it_writes(run, unfinished):
    """Kills when the first bytes of a checkpoint are written: into a pipe, which lets no more through."""
    while True:
        with suppress(FileExistsError):  # the one before is being written
            os.mkfifo(unfinished)
            break
    pipe = os.open(unfinished, os.O_RDONLY | os.O_NONBLOCK)
    wait_until(lambda: run.poll() is not None or select.select([pipe], [], [], 0)[0])
    begun = os.read(pipe, 1000)
    run.kill()
    run.communicate()
    os.close(pipe)
    unfinished.unlink()
    unfinished.write_bytes(begun)


def kill_at_random_moments(folder, arguments, kills, longest):
    """Runs to the end, killed so many times on the way, every third time while a checkpoint is being written.

    ``longest`` is how many seconds it may run before it is killed.
    """
    seed = np.random.SeedSequence().entropy
    print(f"moments of np.random.default_rng({seed})")  # shown where the test fails
    numbers = np.random.default_rng(seed)
    for kill in range(kills):
        started = (folder / "config.json").exists()
        run = process("--resume", folder) if started else process(*arguments, "--run-dir", folder)
        time.sleep(numbers.uniform(longest / 3, longest))
        if kill % 3 == 2:
            kill_while_it_writes(run, folder / "checkpoints" / ".new")
        run.kill()
        _, err = run.communicate()
        assert run.returncode == -signal.SIGKILL, err
    run = process("--resume", folder)
    _, err = run.communicate()
    assert run.returncode == 0, err


def as_if_saved_on_a_gpu(folder, monkeypatch):
    """Marks the tensors of the newest checkpoint as those of a run on a GPU are."""
    path = newest(folder)
    state = torch.load(path, weights_only=True)
    stream = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save(state, stream)
    path.unlink()
    digest = hashlib.sha256(stream.getvalue()).hexdigest()[:16]
    (path.parent / f"{path.stem[:12]}-{digest}.pt").write_bytes(stream.getvalue())
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"device": "cpu"', '"device": "cuda"'))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_run_of_a_gpu_is_read_and_goes_on_without_one(command, interrupted, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    interrupted(*SHORT, *BUSY, *ALWAYS, "--run-dir", run, until=512)
    as_if_saved_on_a_gpu(run, monkeypatch)
    folder, config = RunFolder.open(run, Config)
    assert load_policy(folder, config).steps == 256
    assert command("--resume", run, "--export", tmp_path / "model.zip") == 0
    assert stable_baselines3.PPO.load(tmp_path / "model.zip").num_timesteps == 256
    assert command("--resume", run) == 0
    assert "damaged" not in capsys.readouterr().err
    assert json.loads((run / "summary.json").read_text())["complete"]


def test_the_generators_of_gpus_and_their_names_are_kept(monkeypatch):
    """Of two GPUs that this process uses; a machine with one takes up the first."""
    states = [torch.tensor([1, 2], dtype=torch.uint8), torch.tensor([3, 4], dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "One")
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda index: states[index].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, index: states[index].copy_(state))
    kept = checkpoint_files.to_tensors(checkpoint_files._save_random())
    assert checkpoint_files._made_by()["gpu"] == "One"
    for state in states:
        state.zero_()
    checkpoint_files._load_random(kept)
    assert [state.tolist() for state in states] == [[1, 2], [3, 4]]
    states.pop()[:] = 0
    checkpoint_files._load_random({**kept, "cuda": kept["cuda"][::-1]})
    assert [state.tolist() for state in states] == [[3, 4]]
    checkpoint_files._load_random({key: value for key, value in kept.items() if key != "cuda"})  # of the first releases
    assert [state.tolist() for state in states] == [[3, 4]]
