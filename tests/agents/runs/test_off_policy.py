"""Runs of SAC, TD3 and DQN: what they write, how they go on, what becomes of the files of their replay buffers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from dataclasses import replace

import gymnasium
import numpy as np
import processes
import pytest
import stable_baselines3
import torch
from gymnasium.spaces import Box, Discrete
from same_runs import assert_same_run, newest, rows
from stable_baselines3.common.buffers import ReplayBuffer

import cbp
from agents import evaluate, report, train
from agents.reporting.results import read_run
from agents.runs.algorithms import ALGORITHMS, METHODS
from agents.runs.config import Config
from agents.runs.errors import UserError
from agents.runs.logs import read_columns
from agents.runs.options import make_config
from agents.runs.presets import with_defaults
from agents.runs.replay import ReplayFiles

# 64 steps, then 8 updates.
SMALL = {"train_freq": 64, "gradient_steps": 8, "batch_size": 16, "learning_starts": 100, "net_arch": "[12,10]"}
HOPPER = ["--env", "hopper-nonstationary", "--period", 400]
CARTPOLE = ["--env", "CartPole-v1", "--param", "observation_noise", "--period", 400]
RUNS = {
    "sac": ["--algo", "sac", "--method", "cbp", *HOPPER, "--set", "maturity_threshold=5", "--set", "replacement_rate=0.01"],
    "td3": ["--algo", "td3", "--method", "l2", *HOPPER, "--n-envs", 2, "--normalize"],
    "dqn": [
        "--algo",
        "dqn",
        "--method",
        "reset-all",
        *CARTPOLE,
        "--set",
        "buffer_size=500",
        "--set",
        "target_update_interval=100",
    ],
}


class Telling(gymnasium.Wrapper):
    """Tells at the end of an episode whether it was a success."""

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            info["is_success"] = bool(abs(observation[0]) < 0.1)
        return observation, reward, terminated, truncated, info


class Breaking(gymnasium.Wrapper):
    """Can be reset only once in a process, which is when a run is checked."""

    resets = 0
    error: Exception = RuntimeError("the door is shut")

    def reset(self, **options):
        type(self).resets += 1
        if self.resets > 1:
            raise self.error
        return self.env.reset(**options)


class Losing(Breaking):
    """Raises something else."""

    resets = 0
    error = KeyError("key")


class FromFive(gymnasium.Wrapper):
    """Counts its actions from 5."""

    action_space = Discrete(2, start=5)

    def step(self, action):
        return self.env.step(action - 5)


for wrapper in (Telling, Breaking, Losing, FromFive):
    gymnasium.register(f"{wrapper.__name__}-v0", lambda wrapper=wrapper: wrapper(gymnasium.make("CartPole-v1").env))


def options(name, **changed):
    settings = {**SMALL, **({"train_freq": 32} if name == "td3" else {}), **changed}
    of_all = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [*RUNS[name], *of_all, "--checkpoint-minutes", 0, "--timesteps", 1152]


def transition_files(folder):
    return sorted((folder / "checkpoints" / "transitions").iterdir())


def told(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "warning: "))]


@pytest.mark.parametrize("name", ["sac", "dqn", pytest.param("td3", marks=pytest.mark.soak)])
def test_a_run_that_stopped_twice_is_the_run_that_did_not(command, interrupted, tmp_path, name):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    of_run = ["Telling-v0" if option == "CartPole-v1" else option for option in options(name)]
    of_run += ["--timesteps", 832]
    interrupted(*of_run, "--run-dir", stopped, until=128)  # actions are still drawn at random
    assert command(*of_run, "--run-dir", whole) == 0
    interrupted("--resume", stopped, until=640)  # the buffer of the last is full
    assert command("--resume", stopped) == 0
    assert_same_run(whole, stopped)
    summary = json.loads((whole / "summary.json").read_text())
    assert len(summary["phases"]) >= 2
    assert (sum(summary["units_replaced"].values()) > 5) == (name == "sac")
    assert ("rollout/success_rate" in rows(whole / "progress.csv")[-1]) == (name == "dqn")


@pytest.fixture(scope="module")
def of_dqn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cartpole" / "seed0"
    processes.run("agents.train", *options("dqn"), "--run-dir", folder)
    return folder


@pytest.fixture
def finished(of_dqn, tmp_path):
    return shutil.copytree(of_dqn, tmp_path / "run")


def test_a_run_writes_what_one_of_ppo_writes(of_dqn):
    config = Config.from_json((of_dqn / "config.json").read_text())
    assert (config.algo, config.method, config.hyperparameters.buffer_size) == ("dqn", "reset-all", 500)
    summary = json.loads((of_dqn / "summary.json").read_text())
    assert summary["complete"]
    assert len(summary["phases"]) == 3
    assert summary["phases"][2]["measures"]["dormant_fraction"] >= 0
    assert read_columns(of_dqn / "progress.csv")["time/total_timesteps"].tolist() == [
        128,
        256,
        320,
        448,
        512,
        640,
        704,
        832,
        960,
        1024,
        1152,
    ]  # the first cycle after each 100 steps
    assert (of_dqn / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_is_evaluated_reported_and_exported(command, finished, tmp_path, capsys):
    assert evaluate.main([str(finished), "--points", "2", "--episodes", "2"]) == 0
    assert len(rows(next(finished.glob("evaluation-1152-*.csv")))) == 4  # two values; DQN's policy draws no actions
    assert report.main([str(finished), "--output", str(tmp_path / "report")]) == 0
    assert command("--resume", finished, "--export", tmp_path / "model.zip") == 0
    assert "stable_baselines3.DQN.load" in capsys.readouterr().out
    model = stable_baselines3.DQN.load(tmp_path / "model.zip", device="cpu")
    assert model.num_timesteps == 1152


def test_the_replay_buffer_is_written_once_and_not_with_each_checkpoint(of_dqn):
    # 18 times of learning, each with a checkpoint of 64 rows; the last 500 rows lie in the files, and few are in two.
    names = [path.name for path in transition_files(of_dqn)]
    assert min(int(name[:12]) for name in names) <= 652
    assert len(names) <= 7
    assert len(list((of_dqn / "checkpoints").glob("*.pt"))) == 3


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_checkpoint_whose_transitions_are_not_whole_is_passed_over(command, finished, capsys, harm):
    own = torch.load(newest(finished), weights_only=True)["transitions"]
    others = {
        name
        for path in sorted((finished / "checkpoints").glob("*.pt"))[:-1]
        for name in torch.load(path, weights_only=True)["transitions"]
    }
    (last,) = set(own) - others
    path = finished / "checkpoints" / "transitions" / last
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    (finished / "summary.json").unlink()  # as if it was killed before it was complete
    assert command("--resume", finished) == 0
    (line,) = [line for line in told(capsys) if "passed over" in line]
    assert last in line
    assert json.loads((finished / "summary.json").read_text())["timesteps"] == 1152
    assert path.exists()


def test_transitions_from_a_stranger_run_no_code(command, finished, tmp_path, capsys):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    for path in (finished / "checkpoints").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        stream = io.BytesIO()
        np.savez(stream, observations=np.array(Malicious(), dtype=object))
        name = f"{0:012d}-{1152:012d}-{hashlib.sha256(stream.getvalue()).hexdigest()[:16]}.npz"
        (finished / "checkpoints" / "transitions" / name).write_bytes(stream.getvalue())
        state["transitions"] = [name]
        changed = io.BytesIO()
        torch.save(state, changed)
        path.unlink()
        digits = hashlib.sha256(changed.getvalue()).hexdigest()[:16]
        path.with_name(f"{path.name[:12]}-{digits}.pt").write_bytes(changed.getvalue())
    (finished / "summary.json").unlink()  # as if it was killed before it was complete
    assert command("--resume", finished) == 2
    assert "is not one of this run" in told(capsys)[-1]
    assert not (tmp_path / "harm").exists()


def test_a_complete_run_whose_transitions_are_gone_is_complete(command, finished, capsys):
    shutil.rmtree(finished / "checkpoints" / "transitions")
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    assert command("--resume", finished) == 0
    assert "is complete: 1,152 of" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != ".lock"} == before


def test_a_run_that_has_lost_a_row_is_refused(finished):
    assert read_run(finished).complete
    lines = (finished / "progress.csv").read_bytes().splitlines(keepends=True)
    (finished / "progress.csv").write_bytes(b"".join(lines[:4] + lines[5:]))  # a row every 100 steps, and 64 of a cycle
    with pytest.raises(UserError, match="lost rows: there is none between steps 320 and 512"):
        read_run(finished)


def refused(command, capsys, *arguments):
    capsys.readouterr()
    assert command(*arguments, "--run-dir", "never") == 2
    (line,) = told(capsys)
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--algo", "dqn", "--env", "Hopper-v5"], "dqn needs discrete actions, those of 'Hopper-v5' are Box"),
        (["--algo", "sac", "--env", "CartPole-v1"], "sac needs continuous actions, those of 'CartPole-v1' are Discrete(2)"),
        (["--algo", "sacc", "--env", "Hopper-v5"], "unknown algo 'sacc'; did you mean 'sac'?"),
        (["--algo", "sac", "--env", "Hopper-v5", "--method", "ppo"], "unknown method of sac 'ppo'"),
        (["--algo", "td3", "--env", "Hopper-v5", "--preset", "paper"], "unknown preset of td3 'paper'"),
        (["--algo", "sac", "--env", "Hopper-v5", "--set", "clip_range=0.1"], "unknown setting of method"),
        (
            ["--algo", "sac", "--env", "Hopper-v5", "--set", "ent_coef=much"],
            "a finite number or auto, got 'much'",
        ),
        (
            ["--algo", "td3", "--env", "Hopper-v5", "--set", "gradient_steps=0"],
            "must be a whole number >= 1 or -1, got 0",
        ),
        (["--algo", "sac", "--env", "Hopper-v5", "--set", "activation=elu"], "did you mean 'relu'?; known: relu, tanh"),
        (
            ["--algo", "sac", "--env", "Hopper-v5", "--set", f"buffer_size={10**12}"],
            "is more than memory holds",
        ),
        (["--algo", "td3", "--env", "Hopper-v5", "--set", "ent_coef=1"], "setting of method 'backprop' of td3 'ent_coef'"),
        (["--algo", "td3", "--env", "Hopper-v5", "--set", f"learning_rate={10**400}"], "int too large"),
        (
            ["--algo", "td3", "--env", "Hopper-v5", "--threads", 10**12],
            "threads must be at most 1,024",
        ),
        (["--algo", "", "--env", "Hopper-v5"], "unknown algo ''"),
        (["--algo", "dqn", "--env", "FromFive-v0"], "actions of 'FromFive-v0' are Discrete(2, start=5)"),
        (["--algo", "dqn", "--env", "CartPole-v1", "--set", "max_grad_norm=null"], "max_grad_norm must be a finite number > 0"),
    ],
)
def test_what_an_algorithm_does_not_take_is_refused_in_one_line(command, capsys, arguments, words):
    method = [] if "--method" in arguments else ["--method", "backprop"]
    assert words in refused(command, capsys, *arguments, *method)


@pytest.mark.parametrize(
    ("changed", "env", "words"),
    [
        ({"learning_rate": 1e30}, "CartPole-v1", "a loss is not a finite number"),
        ({"batch_size": 10**16}, "CartPole-v1", "Unable to allocate"),
        ({}, "Breaking-v0", "the door is shut"),
        ({}, "Losing-v0", "KeyError: 'key'"),
    ],
)
def test_what_breaks_a_run_is_said_in_one_line(command, capsys, tmp_path, changed, env, words):
    assert command(*options("dqn", **changed), "--env", env, "--run-dir", tmp_path / "run") == 1
    line = told(capsys)[-1]
    assert line.startswith("error: training broke off at step ")
    assert words in line
    assert (tmp_path / "run" / "error.log").exists()


def test_a_run_that_ends_before_learning_starts_is_warned_of(command, capsys, tmp_path):
    assert command(*options("dqn", learning_starts=128), "--timesteps", 65, "--run-dir", tmp_path / "run") == 0
    assert any("no network learns: learning_starts is 128, and this run has 128 steps" in line for line in told(capsys))


def test_a_configuration_of_an_earlier_release_is_one_of_ppo():
    config = Config("Hopper-v5", "cbp", 1000, None, None, 0, 1, normalize=False, device="cpu")
    values = json.loads(config.to_json())
    del values["algo"]
    assert Config.from_json(json.dumps(values)) == config


@pytest.mark.parametrize("times", [None, 5, {}, {"name": [1]}])
def test_a_configuration_with_times_that_there_are_not_is_refused(times):
    config = Config("Hopper-v5", "cbp", 1000, 100, "friction", 0, 1, normalize=False, device="cpu")
    with pytest.raises(UserError, match="times must be a dictionary with a name"):
        replace(config, change={"times": times})


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_a_run_of_a_method_with_a_tuple_by_default_is_the_same_when_it_is_read(algo, monkeypatch):
    class Scaling(cbp.Method, name="scaling"):
        def __init__(self, model, optimizer, scales=(1.0, 2.0)):
            pass

    try:
        monkeypatch.setitem(ALGORITHMS[algo].methods, "scaling", with_defaults("scaling"))
    finally:
        del cbp.METHODS["scaling"]
    arguments = train._parser().parse_args(["--env", "Pendulum-v1", "--algo", algo])
    config = make_config(arguments, "scaling", 0)
    assert config.method_kwargs == {"scales": [1.0, 2.0]}
    assert config.differences(Config.from_json(config.to_json())) == []


def test_every_algorithm_has_its_own_order_of_methods_and_tuned_values():
    assert [name for name in METHODS if name in ALGORITHMS["ppo"].methods] == list(ALGORITHMS["ppo"].methods)
    for algorithm in ALGORITHMS.values():
        for values in algorithm.tuned.values():
            algorithm.hyperparameters(**values)


def random_rows(buffer, rows, numbers):
    """Adds rows, as an environment gives them: some episodes end."""
    observations = numbers.normal(size=(buffer.n_envs, 3))
    for _ in range(rows):
        following = numbers.normal(size=(buffer.n_envs, 3))
        dones = numbers.random(buffer.n_envs) < 0.1
        actions = numbers.normal(size=(buffer.n_envs, 2))
        infos = [{"TimeLimit.truncated": bool(done)} for done in dones]
        buffer.add(observations, following, actions, numbers.normal(size=buffer.n_envs), dones, infos)
        observations = np.where(dones[:, None], numbers.normal(size=following.shape), following)


def empty_buffer():
    spaces = Box(-9, 9, (3,), np.float64), Box(-1, 1, (2,))
    return ReplayBuffer(600, *spaces, device="cpu", n_envs=2)


def test_files_hold_the_buffer_to_the_bit_and_each_row_is_written_a_few_times():
    numbers, buffer, files, contents, written = np.random.default_rng(0), empty_buffer(), ReplayFiles(), {}, 0
    total = 0
    for _ in range(200):
        rows = int(numbers.integers(0, 9))
        random_rows(buffer, rows, numbers)
        total += rows
        new, names = files.new(buffer, total)
        if new is not None:
            contents[new.name] = new.content
            written += int(new.name[13:25]) - int(new.name[:12])
        files.wrote(names)
    assert total > 2 * buffer.buffer_size
    assert written < 8 * total  # at most the logarithm of the buffer's 300 rows to the base of 2
    assert len(names) < 12
    loaded, again = empty_buffer(), ReplayFiles(names)
    again.fill(loaded, [contents[name] for name in names], total)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        assert getattr(loaded, name).tobytes() == getattr(buffer, name).tobytes(), name
    assert (loaded.pos, loaded.full) == (buffer.pos, buffer.full)
    with pytest.raises(ValueError, match="are in no file"):
        ReplayFiles(names[1:]).fill(empty_buffer(), [contents[name] for name in names[1:]], total)
