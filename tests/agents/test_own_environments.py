"""Environments of the user's own on the command line: of a module, with keyword arguments, with observations in parts."""

from __future__ import annotations

import json
import sys

import gymnasium
import pytest
import torch

from agents import evaluate, preview, train
from agents.runs import modules

MODULE = """
import gymnasium, numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

class Parted(HopperEnv):
    def __init__(self, text=False, **kwargs):
        super().__init__(**kwargs)
        parts = {"state": self.observation_space, "gait": spaces.Discrete(3)}
        self.observation_space = spaces.Dict(parts | ({"said": spaces.Text(5)} if text else {}))

    def step(self, action):
        observation, *others = super().step(action)
        return {"state": observation, "gait": 1}, *others

    def reset(self, **kwargs):
        observation, info = super().reset(**kwargs)
        return {"state": observation, "gait": 2}, info

class Unsaved(HopperEnv):
    def reset(self, **kwargs):
        self.wind = (number for number in range(10**6))
        return super().reset(**kwargs)

class Unloaded(HopperEnv):
    def __setattr__(self, name, value):
        if name == "gait" and hasattr(self, "gait"):
            raise ValueError("gait is set once")
        super().__setattr__(name, value)

    def reset(self, **kwargs):
        if not hasattr(self, "gait"):
            self.gait = (1, 2)
        return super().reset(**kwargs)

class Walking(HopperEnv):
    def step(self, action):
        *transition, info = super().step(action)
        return *transition, info | {"phase": self.data.time % 1}

class Failing(HopperEnv):
    def __init__(self, at, **kwargs):
        self.at, self.steps = at, 0
        self.look_for_an_asset("making")
        super().__init__(**kwargs)

    def reset(self, **kwargs):
        self.look_for_an_asset("reset")
        return super().reset(**kwargs)

    def step(self, action):
        self.steps += 1
        self.look_for_an_asset(f"step {self.steps}")
        return super().step(action)

    def look_for_an_asset(self, now):
        if now == self.at:
            {}["asset"]

class Other(gymnasium.Env):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, action_space=spaces.Discrete(2), bad=10**9):
        self.action_space, self.bad, self.steps = action_space, bad, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        observation = np.full(2, (self.steps % 7) / 7, np.float32)
        return observation, np.nan if self.steps == self.bad else 1.0, False, self.steps % 20 == 0, {}

class TwoRewards(Other):
    def step(self, action):
        observation, reward, *others = super().step(action)
        return observation, np.array([reward, 0.5]), *others

class Said(Other):
    observation_space = spaces.Text(5)

gymnasium.register("Said-v0", "own_world:Said")
gymnasium.register("TwoRewards-v0", "own_world:TwoRewards")
gymnasium.register("Switches-v0", "own_world:Other", kwargs={"action_space": spaces.MultiBinary(3)})
gymnasium.register("Dials-v0", "own_world:Other", kwargs={"action_space": spaces.MultiDiscrete([2, 3])})
gymnasium.register("Broken-v0", "own_world:Other", kwargs={"bad": 200})
for name, at in {"Unmade-v0": "making", "Unreset-v0": "reset", "Failing-v0": "step 5"}.items():
    gymnasium.register(name, "own_world:Failing", kwargs={"at": at}, max_episode_steps=100)
gymnasium.register("Parted-v0", "own_world:Parted", max_episode_steps=100)
gymnasium.register("Walking-v0", "own_world:Walking", max_episode_steps=100)
gymnasium.register("Unsaved-v0", "own_world:Unsaved", max_episode_steps=100)
gymnasium.register("Unloaded-v0", "own_world:Unloaded", max_episode_steps=100)
"""
SHORT = ["--timesteps", "512", "--n-envs", "2", "--method", "ppo", "--set", "rollout_steps=512", "--set", "batch_size=128"]
SHORT += ["--set", "n_epochs=1", "--set", "net_arch=[8]"]


@pytest.fixture(autouse=True)
def own_world(tmp_path, monkeypatch):
    (tmp_path / "own_world.py").write_text(MODULE)
    (tmp_path / "broken_world.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(modules, "_IMPORTED", set())
    before = set(gymnasium.registry)
    yield
    sys.modules.pop("own_world", None)
    for name in set(gymnasium.registry) - before:
        del gymnasium.registry[name]


@pytest.mark.filterwarnings("ignore")  # short phases, an id that is registered again
def test_an_environment_of_a_module_is_trained_in_and_its_code_runs_only_where_it_is_named(monkeypatch, capsys, tmp_path):
    run = ["--env", "own_world:Parted-v0", "--period", "300", "--env-kwargs", "frame_skip=3", *SHORT, "--run-dir", "run"]
    assert train.main(run) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["env"], config["imports"], config["env_kwargs"]) == ("Parted-v0", ["own_world"], {"frame_skip": 3})
    (tmp_path / "run" / "summary.json").unlink()  # of a complete run nothing is made
    monkeypatch.setattr(modules, "_IMPORTED", set())
    capsys.readouterr()
    for main, arguments in ((train.main, ["--resume", "run"]), (evaluate.main, ["run", "--values", "1"])):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert "is of module 'own_world': --import own_world imports it, which runs its code" in error
        assert error.count("\n") == 1
    assert train.main(["--resume", "run", "--import", "own_world"]) == 0
    assert evaluate.main(["run", "--values", "1", "--episodes", "1", "--import", "own_world"]) == 0


@pytest.mark.filterwarnings("ignore")  # an id that is registered again
def test_a_run_that_does_not_change_has_one_phase_whatever_its_environment_calls_so(tmp_path):
    assert train.main(["--env", "own_world:Walking-v0", *SHORT, "--keep-phases", "--run-dir", "run"]) == 0
    (phase,) = json.loads((tmp_path / "run" / "summary.json").read_text())["phases"]
    assert phase["steps"] == 512
    assert [path.name[:5] for path in (tmp_path / "run" / "checkpoints" / "phases").iterdir()] == ["0000-"]


def test_a_preview_and_a_list_of_parameters_take_a_module_too(capsys):
    assert preview.main(["own_world:Parted-v0", "--period", "1000", "--timesteps", "3000", "--env-kwargs", "frame_skip=2"]) == 0
    assert "seen: friction 0.02 and 2: friction of contacts 0.02 and 2" in capsys.readouterr().out
    assert train.main(["--list-parameters", "own_world:Parted-v0"]) == 0
    assert "parts: torso, thigh, leg, foot" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "no_such_world:X-v0"], "module 'no_such_world' cannot be imported: ModuleNotFoundError"),
        (["--env", "Ant-v5", "--import", "broken_world"], "module 'broken_world' cannot be imported: ModuleNotFoundError"),
        (["--env", "own_world:Other-v0"], "unknown environment 'Other-v0'"),
        (["--env", "Ant-v5", "--env-kwargs", "frame_skip"], "--env-kwargs takes key=value, got 'frame_skip'"),
        (["--env", "Ant-v5", "--env-kwargs", "frame_skp=2"], "environment 'Ant-v5' cannot be made"),
        (["--env", "Ant-v5", "--env-kwargs", f"text={'x' * 300}"], "environment 'Ant-v5' cannot be made"),
        (["--env", "own_world:Parted-v0", "--env-kwargs", "text=true"], "observations must be numbers and vectors, got Text"),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys, tmp_path):
    assert train.main([*arguments, "--run-dir", "run"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")  # an id that is registered again
@pytest.mark.parametrize(
    ("env", "algo", "words"),
    [
        ("Said-v0", "ppo", "'Said-v0' is no environment for Stable-Baselines3: TypeError: 'NoneType' object is not iterable"),
        ("Switches-v0", "dqn", "dqn needs discrete actions, those of 'Switches-v0' are MultiBinary(3); take --algo ppo"),
        ("Dials-v0", "sac", "are MultiDiscrete([2 3]); take --algo ppo"),
        ("Broken-v0", "td3", "td3 needs continuous actions, those of 'Broken-v0' are Discrete(2); take --algo ppo or dqn"),
        ("Parted-v0", "dqn", "; take --algo ppo, sac or td3"),
    ],
)
def test_spaces_that_an_algorithm_does_not_have_bring_one_line_with_those_that_do(env, algo, words, capsys, tmp_path):
    assert train.main(["--env", f"own_world:{env}", "--algo", algo, "--run-dir", "run"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: "))
    assert line.startswith("error: ")
    assert line.endswith(words)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:training takes Stable")
def test_a_checkpoint_of_weights_that_are_no_numbers_is_not_written_in_stable_baselines3s_loop(capsys, tmp_path):
    options = ["--env", "own_world:Broken-v0", "--timesteps", "512", "--n-envs", "1", "--checkpoint-minutes", "0"]
    options += ["--method", "ppo", *(f"--set={each}" for each in ("rollout_steps=128", "batch_size=128", "n_epochs=1"))]
    assert train.main([*options, "--run-dir", "run"]) == 1
    assert "a loss is not a finite number" in capsys.readouterr().err
    kept = sorted((tmp_path / "run" / "checkpoints").glob("*.pt"))
    assert [int(path.name[:12]) for path in kept] == [0, 128]  # the reward of step 200 is in the second rollout
    for path in kept:
        assert all(torch.isfinite(tensor).all() for tensor in torch.load(path, weights_only=True)["model"]["policy"].values())


def test_an_environment_that_no_checkpoint_can_hold_is_refused_before_training(capsys, tmp_path):
    assert train.main(["--env", "own_world:Unsaved-v0", *SHORT, "--run-dir", "run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: environment 'Unsaved-v0' cannot be trained in, as no checkpoint can hold it: state cannot be"
    )
    assert "Unsaved.wind, which is a generator" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_environment_that_no_state_can_be_loaded_into_is_refused_before_training(capsys, tmp_path):
    assert train.main(["--env", "own_world:Unloaded-v0", *SHORT, "--run-dir", "run"]) == 2
    assert capsys.readouterr().err == (
        "error: environment 'Unloaded-v0' cannot be trained in, as its state cannot be loaded again: "
        "ValueError: gait is set once\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")  # Gymnasium's of such a reward
def test_rewards_of_several_numbers_are_refused_before_training(capsys, tmp_path):
    assert train.main(["--env", "own_world:TwoRewards-v0", *SHORT, "--run-dir", "run"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: environment 'TwoRewards-v0' cannot be stepped: ")
    assert error.endswith("reward must be one number, got array([1. , 0.5])")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")  # an id that is registered again
def test_whatever_an_environment_raises_while_it_acts_is_said_in_one_line(capsys, tmp_path):
    assert train.main(["--env", "own_world:Failing-v0", *SHORT, "--run-dir", "run"]) == 1
    broken = "environment 0 failed: KeyError: 'asset'"
    assert f"error: training broke off at step 8: {broken} (details in run/error.log)" in capsys.readouterr().err
    before = list((tmp_path / "run").iterdir())
    assert evaluate.main(["run", "--values", "1", "--episodes", "1", "--import", "own_world"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: an episode broke off: RuntimeError: {broken}"
    assert list((tmp_path / "run").iterdir()) == before


@pytest.mark.filterwarnings("ignore")  # an id that is registered again
def test_whatever_an_environment_raises_before_it_acts_is_said_in_one_line(capsys):
    assert train.main(["--list-parameters", "own_world:Unmade-v0"]) == 2
    assert capsys.readouterr().err == "error: environment 'Unmade-v0' cannot be made: KeyError: 'asset'\n"
    assert preview.main(["own_world:Unreset-v0", "--period", "1000", "--timesteps", "3000"]) == 2
    assert capsys.readouterr().err == "error: environment 'Unreset-v0' cannot be stepped: KeyError: 'asset'\n"
