"""Protocols by name: their constants as their sources give them, and physics and tasks that follow the schedule."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from agents import sweep, train
from agents.reporting.comparison import MEASURES
from agents.runs.build import make_env
from agents.runs.config import Config
from agents.runs.errors import UserError
from agents.runs.options import make_config
from agents.runs.presets import Hyperparameters
from agents.runs.protocols import PROTOCOLS
from envs.simulation import find_data, find_model

RISING = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0]
PARALYSIS = [1.0, 0.75, 0.5, 0.25, 0.0, 0.25, 0.5, 0.75, 1.0]
OF_SUITE = [name for name in PROTOCOLS if name.startswith("continual-")]


def config_of(*options, method="ppo", seed=0):
    return make_config(train._parser().parse_args(list(map(str, options))), method, seed)


def needs_packages(name):
    for package in PROTOCOLS[name].imports:
        pytest.importorskip(package)
        pytest.importorskip("dm_control")


@pytest.mark.parametrize(
    ("name", "env", "timesteps", "period", "n_envs"),
    [
        ("nature-slippery-ant", "ant-nonstationary-v0", 20_000_000, 2_000_000, 1),
        ("quick-ant", "ant-nonstationary-v0", 2_000_000, 200_000, 8),
        ("slippery-humanoid", "humanoid-nonstationary-v0", 400_000_000, 20_000_000, 8),
        ("eppo-slippery-ant", "Ant-v5", 7_500_000, 500_000, 1),
        ("eppo-slippery-halfcheetah", "HalfCheetah-v5", 7_500_000, 500_000, 1),
        ("eppo-paralysis-ant", "Ant-v5", 4_500_000, 500_000, 1),
        ("eppo-paralysis-halfcheetah", "HalfCheetah-v5", 4_500_000, 500_000, 1),
        ("continual-walker", "task-sequence-v0", 3_000_000, 1_000_000, 1),
        ("continual-quadruped", "task-sequence-v0", 3_000_000, 1_000_000, 1),
        ("continual-dog", "task-sequence-v0", 4_000_000, 1_000_000, 1),
    ],
)
def test_a_protocol_has_its_constants_and_is_written_down(name, env, timesteps, period, n_envs):
    needs_packages(name)
    config = config_of("--protocol", name)
    assert (config.env, config.timesteps, config.period, config.n_envs) == (env, timesteps, period, n_envs)
    assert json.loads(config.to_json())["protocol"] == name == config.world
    assert Config.from_json(config.to_json()) == config
    written, promised = json.loads(config.to_json()), json.loads(json.dumps(PROTOCOLS[name].world))
    assert {key: written[key] for key in promised} == promised
    assert {*PROTOCOLS[name].table} <= {*MEASURES}


def test_every_protocol_has_its_constants_above():
    (marks,) = [mark for mark in test_a_protocol_has_its_constants_and_is_written_down.pytestmark if mark.name == "parametrize"]
    assert [row[0] for row in marks.args[1]] == list(PROTOCOLS)


def test_the_nature_protocol_is_the_papers_preset():
    named, preset = config_of("--protocol", "nature-slippery-ant"), config_of("--env", "ant-nonstationary", "--preset", "paper")
    assert named.differences(preset) == []
    assert preset.world == "ant-nonstationary"


def test_the_control_suites_learner_is_that_of_the_published_code():
    needs_packages("continual-walker")
    values = config_of("--protocol", "continual-walker").hyperparameters
    assert values == Hyperparameters(
        rollout_steps=2048,
        batch_size=2048 // 32,
        n_epochs=10,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        vf_coef=0.25,
        ent_coef=0.0,
        max_grad_norm=0.5,
        normalize_advantage="batch",
        learning_rate=3e-4,
        adam_eps=1e-5,
        net_arch=(256, 256),
        weight_init="sb3",
    )


def frictions_felt(env, steps):
    """In each phase the sliding frictions of all contacts, and what info says."""
    model, data = find_model(env), find_data(env)
    felt, said = {}, {}
    for step in range(steps):
        _, _, terminated, truncated, info = env.step(np.sin(np.arange(model.nu) + step).astype(np.float32))
        felt.setdefault(info["phase"], set()).update(contact.friction[0] for contact in data.contact[: data.ncon])
        said.setdefault(info["phase"], set()).add(info["friction"])
        if terminated or truncated:
            env.reset()
    return felt, said


@pytest.mark.parametrize("name", ["eppo-slippery-ant", "eppo-slippery-halfcheetah"])
def test_friction_rises_in_fifteen_steps_at_the_contacts(name):
    env = make_env(config_of("--protocol", name, "--period", 40))
    env.reset(seed=0)
    felt, _ = frictions_felt(env, 16 * 40)
    assert [felt[phase] for phase in range(16)] == [{value} for value in [*RISING, RISING[0]]]


@pytest.mark.parametrize("name", ["nature-slippery-ant", "quick-ant", "slippery-humanoid"])
def test_friction_is_drawn_log_uniformly_and_acts_at_the_contacts(name):
    options = ["--protocol", name, "--n-envs", 1, "--period", 50, "--env-kwargs", "max_episode_steps=60"]
    options += ["--env-kwargs", "terminate_when_unhealthy=false"]  # so that the Humanoid comes to touch the ground
    env = make_env(config_of(*options, seed=3))
    env.reset(seed=0)
    felt, said = frictions_felt(env, 480)
    assert len(felt) == 8
    assert felt == said
    values = [*map(float, np.concatenate([[*each] for each in said.values()]))]
    assert len({*values}) == len(values) == len(felt)
    # Of log-uniform draws from 0.02 to 2 half lie below 0.2; of uniform ones a tenth would.
    drawn = [phase["friction"] for phase in env.get_wrapper_attr("forecast")(400)]
    assert 0.02 <= min(drawn) < 0.03 < 1.8 < max(drawn) <= 2
    assert 0.4 < np.mean(np.array(drawn) < 0.2) < 0.6


@pytest.mark.parametrize(
    ("name", "paralysed", "others"),
    [
        ("eppo-paralysis-ant", ["hip_1", "ankle_1"], ["hip_2", "ankle_2", "hip_3", "ankle_3", "hip_4", "ankle_4"]),
        ("eppo-paralysis-halfcheetah", ["fthigh", "fshin", "ffoot"], ["bthigh", "bshin", "bfoot"]),
    ],
)
def test_one_leg_loses_its_torque_in_quarters_and_has_it_back(name, paralysed, others):
    env = make_env(config_of("--protocol", name, "--period", 5))
    env.reset(seed=0)
    model, data = find_model(env), find_data(env)

    def torques(joints):
        mujoco.mj_forward(model, data)
        return np.array([data.qfrc_actuator[model.joint(joint).dofadr[0]] for joint in joints])

    full = {}
    for step in range(9 * 5):
        env.step(np.full(model.nu, 0.5, np.float32))
        share = PARALYSIS[step // 5]
        for joints, expected in ((paralysed, share), (others, 1.0)):
            now = torques(joints)
            full.setdefault(str(joints), now)  # of the first phase: everything
            assert now == pytest.approx(expected * full[str(joints)])
    assert all(abs(value).min() > 1 for value in full.values())


@pytest.mark.filterwarnings("ignore")  # of other packages
@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("continual-walker", [("Walker", "stand"), ("Walker", "walk"), ("Walker", "run")]),
        pytest.param(
            "continual-quadruped",
            [("Quadruped", "walk"), ("Quadruped", "run"), ("Quadruped", "walk")],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "continual-dog", [("Dog", "stand"), ("Dog", "walk"), ("Dog", "run"), ("Dog", "trot")], marks=pytest.mark.slow
        ),
    ],
)
def test_the_tasks_of_the_control_suite_come_in_their_order(name, tasks):
    needs_packages(name)
    # What each task asks for, in metres a second, from the control suite's own source.
    speeds = {"Walker": {"stand": 0, "walk": 1, "run": 8}, "Quadruped": {"walk": 0.5, "run": 5}}
    speeds["Dog"] = {"stand": None, "walk": 1, "run": 9, "trot": 3}
    config = config_of("--protocol", name, "--period", 6)
    env = make_env(config)
    env.reset(seed=0)
    found = []
    for _ in range(6 * len(tasks)):
        _, reward, _, truncated, info = env.step(env.action_space.low)
        assert np.isfinite(reward)
        task = env.unwrapped.env.unwrapped._env.task
        speed = getattr(task, "_move_speed", getattr(task, "_desired_speed", None))
        if info["changed"]:
            found.append((config.env_kwargs["tasks"][info["task"]], speed))
        if truncated:
            env.reset()
    robot = name.removeprefix("continual-")
    assert found == [(f"dm_control/{robot}-{task}-v0", speeds[kind][task]) for kind, task in tasks]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # short phases; of other packages
def test_a_run_of_the_control_suite_is_trained_normalised(command, tmp_path):
    needs_packages("continual-walker")
    options = ["--protocol", "continual-walker", "--timesteps", 512, "--period", 200, "--set", "rollout_steps=256"]
    options += ["--set", "n_epochs=1", "--method", "ppo"]
    assert command(*options, "--run-dir", tmp_path / "run") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [(phase["task"], phase["steps"]) for phase in summary["phases"]] == [(0, 200), (1, 200), (2, 112)]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["normalize"], config["imports"], config["protocol"]) == (True, ["shimmy"], "continual-walker")


def test_options_beside_a_protocol_override_it():
    options = [
        "--period",
        1000,
        "--timesteps",
        9000,
        "--n-envs",
        2,
        "--set",
        "gamma=0.9",
        "--normalize",
        "--change-at",
        "episode_end",
    ]
    config = config_of("--protocol", "eppo-slippery-ant", "--env", "Ant-v5", *options, "--env-kwargs", "frame_skip=4")
    assert (config.period, config.timesteps, config.n_envs, config.normalize) == (1000, 9000, 2, True)
    assert (config.hyperparameters.gamma, config.change["change_at"]) == (0.9, "episode_end")
    assert (config.change["schedule"]["values"], config.env_kwargs) == (RISING, {"frame_skip": 4})
    # What was said of friction is not said of gravity.
    config = config_of("--protocol", "eppo-slippery-ant", "--param", "gravity")
    assert (config.param, config.change) == ("gravity", {"change_at": "now"})
    config = config_of("--protocol", "eppo-slippery-ant", "--schedule", "list,values=[4,0.5]")
    assert config.change["schedule"]["values"] == [4, 0.5]
    # A schedule with values of its own is not given the protocol's range, and one without keeps it.
    config = config_of("--protocol", "slippery-humanoid", "--schedule", "list,values=[0.1,2]")
    assert (config.change["schedule"]["values"], "low" in config.change) == ([0.1, 2], False)
    config = config_of("--protocol", "slippery-humanoid", "--schedule", "uniform", "--low", "0.5")
    assert (config.change["schedule"], config.change["low"], config.change["high"]) == ("uniform", 0.5, 2.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--protocol", "epo-slippery-ant"],
            "unknown protocol 'epo-slippery-ant'; did you mean 'eppo-slippery-ant'?; known: n",
        ),
        (
            ["--protocol", "quick-ant", "--preset", "paper"],
            "--protocol quick-ant is a preset itself and takes no --preset, got",
        ),
        (["--protocol", "quick-ant", "--env", "Ant-v5"], "is in 'ant-nonstationary-v0' and takes no other --env, got 'Ant-v5'"),
        (["--protocol", "quick-ant", "--algo", "sac"], "--protocol quick-ant is of ppo and takes no other --algo, got 'sac'"),
    ],
)
def test_what_a_protocol_is_in_place_of_is_refused_beside_it(command, capsys, tmp_path, options, words):
    assert command(*options, "--run-dir", tmp_path / "run") == 2
    assert words in capsys.readouterr().err
    assert sweep.main([*options, "--methods", "cbp", "--seeds", "0", "--run-dir", str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_protocol_without_its_packages_says_which_extra_has_them(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"--protocol continual-dog needs 'shimmy': pip install 'continual-backprop\[worlds\]'"
    ):
        config_of("--protocol", "continual-dog")


def test_a_module_among_the_tasks_of_a_run_from_a_stranger_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "strange_world.py").write_text("raise RuntimeError('was run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = config_of("--env", "task-sequence", "--env-kwargs", 'tasks=["Hopper-v5"]')
    values = json.loads(config.to_json()) | {"env_kwargs": {"tasks": ["strange_world:Hopper-v5"]}}
    with pytest.raises(UserError, match="each task must be a registered id without a module, got 'strange_world:Hopper-v5'"):
        make_env(Config.from_values(values))


def test_a_module_that_a_task_names_is_imported_and_written_down(tmp_path, monkeypatch):
    (tmp_path / "known_world.py").write_text("import gymnasium\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = config_of("--env", "task-sequence", "--env-kwargs", 'tasks=["known_world:Hopper-v5", "Hopper-v5"]')
    assert (config.env_kwargs["tasks"], config.imports) == (["Hopper-v5", "Hopper-v5"], ["known_world"])
    assert make_env(config).observation_space == gymnasium.make("Hopper-v5").observation_space


def test_the_page_has_every_protocol():
    page = (Path(__file__).parents[3] / "docs" / "comparison.md").read_text()
    for name, protocol in PROTOCOLS.items():
        steps = f"{protocol.run.timesteps:,} / {protocol.run.period:,}"
        assert f"\n| `{name}` | `{protocol.env}` | {steps} | {protocol.source} |\n" in page


def test_a_sweep_has_its_runs_below_the_protocols_name(tmp_path):
    options = ["--protocol", "eppo-slippery-ant", "--methods", "ppo,cbp", "--seeds", "3", "--run-dir", str(tmp_path)]
    runs = sweep._plan(sweep._parser().parse_args(options))
    assert [run.folder.path.relative_to(tmp_path).as_posix() for run in runs] == [
        "eppo-slippery-ant/ppo/seed3",
        "eppo-slippery-ant/cbp/seed3",
    ]
    assert {run.config.protocol for run in runs} == {"eppo-slippery-ant"}
