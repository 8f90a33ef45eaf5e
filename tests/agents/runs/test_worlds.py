"""Training in worlds that change in other ways than the friction of an Ant."""

from __future__ import annotations

import csv
import json
import shutil

import gymnasium
import numpy as np
import processes
import pytest
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import envs
from agents import report, train
from agents.runs.config import Config
from agents.runs.options import make_config

SMALL = ["--n-envs", 4, "--set", "rollout_steps=512", "--set", "batch_size=64", "--set", "n_epochs=2"]
SMALL += ["--set", "net_arch=[16,12]", "--timesteps", 3072, "--period", 800]
TWO = ["--param", "gravity,low=5,high=15", "--param", "strength:leg_joint,schedule=square"]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run on a Hopper whose gravity and one of whose joints change."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    processes.run("agents.train", "--env", "hopper-nonstationary", *TWO, "--observe", *SMALL, "--run-dir", folder)
    return folder


def test_every_parameter_is_recorded_by_its_name(two):
    both = {"gravity": {"low": 5, "high": 15}, "strength:leg_joint": {"schedule": "square"}}
    env = envs.NonStationary(gymnasium.make("Hopper-v5"), both, period=200, seed=0)
    phases = json.loads((two / "summary.json").read_text())["phases"]
    assert len(phases) >= 4
    assert [{name: phase[name] for name in both} for phase in phases] == env.forecast(len(phases))
    for row in rows(two / "episodes.csv"):
        assert {name: float(row[name]) for name in both} == env.forecast(len(phases))[int(row["phase"])]
    events = EventAccumulator(str(two))
    events.Reload()
    numbers = [int(event.value) for event in events.Scalars("env/phase")]
    for name in both:
        recorded = [event.value for event in events.Scalars(f"env/{name}")]
        assert recorded == pytest.approx([phases[number][name] for number in numbers])
    assert imread(two / "report.png").std() > 0.05


def test_the_policy_is_told_what_it_observes(two):
    assert Config.from_json((two / "config.json").read_text()).change == {"observe": True}
    with np.load(two / "probe.npz") as probe:
        states = probe[probe.files[0]]
    assert states.shape[1] == 13
    assert ((states[:, -2] >= 5) & (states[:, -2] <= 15)).all()


def test_runs_in_several_parameters_are_compared_and_other_worlds_refused(command, two, tmp_path, capsys):
    options = ["--env", "hopper-nonstationary", "--observe", *SMALL]
    assert command(*options, *TWO, "--method", "ppo", "--run-dir", tmp_path / "ppo") == 0
    assert report.main([str(two), str(tmp_path / "ppo"), "--output", str(tmp_path / "report")]) == 0
    table = rows(tmp_path / "report" / "table.csv")
    assert {(row["method"], row["phase"]) for row in table} >= {("cbp", "0"), ("ppo", "1")}
    assert {float(row["strength:leg_joint"]) for row in table} == {0.25}
    assert "gravity and strength:leg_joint change every 800" in (tmp_path / "report" / "table.md").read_text()
    other = shutil.copytree(tmp_path / "ppo", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    assert config["param"]["gravity"] == {"low": 5.0, "high": 15.0}
    config["param"]["gravity"]["high"] = 14.0
    (other / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert report.main([str(two), str(other), "--output", str(tmp_path / "refused")]) == 2
    assert "runs of different settings are not averaged: param.gravity.high" in capsys.readouterr().err


def test_a_schedule_from_a_file_is_kept_in_the_configuration(command, tmp_path):
    (tmp_path / "course.csv").write_text("friction,day\n0.5,1\n1.5,2\n")
    options = ["--env", "Hopper-v5", "--schedule", f"file,path={tmp_path / 'course.csv'},column=friction", *SMALL]
    assert command(*options, "--run-dir", tmp_path / "run") == 0
    (tmp_path / "course.csv").unlink()
    config = Config.from_json((tmp_path / "run" / "config.json").read_text())
    assert config.change == {"schedule": {"name": "list", "values": [0.5, 1.5]}}
    assert config.param == "friction"
    phases = json.loads((tmp_path / "run" / "summary.json").read_text())["phases"]
    assert [phase["friction"] for phase in phases][:3] == [0.5, 1.5, 0.5]


def config_of(*options):
    return make_config(train._parser().parse_args(list(options)), "cbp", 0)


def test_options_of_a_parameter_may_have_commas_of_their_own(tmp_path):
    (tmp_path / "course.csv").write_text("0.5\n1.5\n")
    schedule = json.dumps({"name": "file", "path": str(tmp_path / "course.csv")})
    config = config_of("--env", "Hopper-v5", "--param", f"friction,schedule={schedule},factor=true", "--param", "gravity")
    values = {"name": "list", "values": [0.5, 1.5]}
    assert config.param == {"friction": {"schedule": values, "factor": True}, "gravity": {}}
    config = config_of("--env", "hopper-nonstationary", "--schedule", "list,values=[0.1,1,0.5],at_end=hold")
    assert config.change == {"schedule": {"name": "list", "values": [0.1, 1.0, 0.5], "at_end": "hold"}}


def test_swimmer_changes_its_viscosity_by_default(command, tmp_path):
    assert command("--env", "swimmer-nonstationary", *SMALL, "--timesteps", 4096, "--run-dir", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert all(0.01 <= phase["viscosity"] <= 1 for phase in summary["phases"])


@pytest.mark.parametrize(
    ("env", "steps"),
    [("ant-stationary", 50_000_000), ("hopper-stationary", 100_000_000), ("walker2d-stationary-v0", 100_000_000)],
)
def test_the_papers_stationary_settings_are_presets(env, steps):
    config = config_of("--env", env, "--preset", "paper")
    assert (config.timesteps, config.n_envs, config.period, config.params, config.env_kwargs) == (steps, 1, None, (), {})


@pytest.mark.parametrize(
    ("env", "more", "padded"),
    [
        ("ant-nonstationary", [], 111),
        ("ant-stationary", [], 111),
        ("hopper-stationary", [], None),
        ("ant-stationary", ["--set", "weight_init=sb3"], None),
        ("ant-stationary", ["--set", "padded_inputs=null"], None),
    ],
)
def test_the_papers_ant_alone_has_first_weights_of_111_inputs(env, more, padded):
    for preset in ("paper", "quick"):
        assert config_of("--env", env, "--preset", preset, *more).hyperparameters.padded_inputs == padded


def test_the_stationary_environments_have_the_published_habits():
    for base in ("ant", "hopper", "walker2d"):
        env = gymnasium.make(f"{base}-stationary-v0")
        assert env.action_space.high.min() == 1e6
        env.reset(seed=0)
        assert "phase" not in env.step(np.zeros(env.action_space.shape, np.float32))[4]
    walker = gymnasium.make("walker2d-stationary-v0").unwrapped.model
    feet = [walker.geom(name).friction[0] for name in ("foot_geom", "foot_left_geom")]
    assert feet == [0.9, 1.9]  # as it was in Gym
    env = gymnasium.make("ant-stationary-v0", terminate_when_unhealthy=False, max_episode_steps=2000)
    env.reset(seed=0)
    ends = [env.step(np.zeros(8, np.float32))[2] for _ in range(1000)]
    assert ends == [False] * 999 + [True]
