"""The command, on real MuJoCo, with real files and real processes."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import processes
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import envs  # noqa: F401  (registers the environments)
from agents.runs import presets
from agents.runs.config import Config
from agents.runs.errors import UserError

# 4 environments × 128 steps a rollout, 2 epochs of 8 minibatches: 16 updates.
SMALL = ["--n-envs", 4, "--set", "rollout_steps=512", "--set", "batch_size=64", "--set", "n_epochs=2"]
SMALL += ["--set", "net_arch=[16,12]"]
BUSY = ["--set", "maturity_threshold=20", "--set", "replacement_rate=0.01"]
LAYERS = [f"{network}/hidden{i}" for network in ("policy", "value") for i in (1, 2)]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def frictions(seed, count):
    """The first values of the sequence of a seed, from an environment that changes at every step."""
    env = gymnasium.make("ant-nonstationary-v0", period=1, change_at="now", seed=seed)
    env.reset()
    return [env.step(env.action_space.sample())[4]["friction"] for _ in range(count)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the command in a process of its own, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--env", "ant-nonstationary", "--timesteps", 6144, "--period", 1200, "--seed", 3, "--run-dir", folder]
    arguments += ["--set", "padded_inputs=null"]  # large first weights, with which the Ant falls within the first rollout
    return folder, processes.run("agents.train", *arguments, *SMALL, *BUSY)


def test_the_last_lines_give_the_verdict_where_to_look_and_the_link_to_the_dashboard(run):
    folder, process = run
    verdict, done, dashboard = process.stdout.splitlines()[-3:]
    assert verdict.startswith(json.loads((folder / "summary.json").read_text())["verdict"]["words"])
    assert str(folder / "report.png") in done
    assert "http://localhost:6006/#custom_scalars" in dashboard
    assert f"tensorboard --logdir {folder} --host localhost" in dashboard


def test_the_bar_shows_speed_time_left_friction_reward_and_replaced_units(run):
    last = run[1].stderr.splitlines()[-1]
    for word in ("steps/s", "<", "friction ", "(phase ", "reward ", " units replaced"):
        assert word in last


def test_the_end_of_each_phase_is_said_with_a_verdict(run):
    phases = json.loads((run[0] / "summary.json").read_text())["phases"]
    lines = [line for line in run[1].stderr.splitlines() if line.startswith("Phase ")]
    assert len(lines) == int(rows(run[0] / "progress.csv")[-1]["env/phase"]) >= 1  # of the first environment
    for number, line in enumerate(lines):
        change = f"friction {phases[number]['friction']:.3g} → {phases[number + 1]['friction']:.3g}"
        verdict = rf"Too early to tell \({number + 1} of 5 phases\)"
        assert re.match(rf"Phase {number} ended at step [\d,]+, {change}\. {verdict}", line)


def test_a_short_phase_brings_one_line_of_warning(run):
    lines = [line for line in run[1].stderr.splitlines() if line.startswith("warning: ")]
    (line,) = lines
    assert "a phase is short: 300 steps in each of 4 environments, where an episode may take 1,000" in line


def test_every_promised_name_is_in_the_event_file_from_the_first_rollout_on(run):
    events = EventAccumulator(str(run[0]), size_guidance={"histograms": 0, "scalars": 0})
    events.Reload()
    first = min(int(row["step"]) for row in rows(run[0] / "episodes.csv"))  # end of an episode
    rollouts = list(range(512, 6145, 512))
    for name, steps in {
        "rollout/ep_rew_mean": rollouts[(first - 1) // 512 :],
        "env/friction": rollouts,
        "env/phase": rollouts,
    }.items():
        assert [event.step for event in events.Scalars(name)] == steps, name
    # From 1,000 steps on; a phase has 1,200, so records are due after 300, those of ranks after 600.
    at_once, ranks, after_the_updates = range(1024, 6145, 512), range(1024, 6145, 1024), range(1536, 6145, 512)
    scalars = dict.fromkeys(("cbp/policy/replaced", "cbp/value/replaced"), at_once)
    scalars["plasticity/policy/probe_churn"] = after_the_updates
    for layer in LAYERS:
        of_units = ("mature_fraction", "mean_utility", "mean_age")
        of_states = ("dormant_fraction", "dead_fraction", "tau_dormant_fraction")
        of_matrices = ("stable_rank", "true_stable_rank", "effective_rank", "feature_rank")
        both = (f"plasticity/{layer}/", f"plasticity/{layer}/probe_")
        scalars |= dict.fromkeys((f"cbp/{layer}/{name}" for name in of_units), at_once)
        scalars |= dict.fromkeys((prefix + name for prefix in both for name in of_states), at_once)
        scalars |= dict.fromkeys((prefix + name for prefix in both for name in of_matrices), ranks)
        scalars |= dict.fromkeys((f"plasticity/{layer}/{name}" for name in ("weight_magnitude", "distance_from_init")), at_once)
        scalars |= dict.fromkeys(
            (f"plasticity/{layer}/{name}" for name in ("weight_change", "gradient_norm")), after_the_updates
        )
    columns = rows(run[0] / "progress.csv")
    for name, steps in scalars.items():
        assert [event.step for event in events.Scalars(name)] == list(steps), name
        assert [int(row["time/total_timesteps"]) for row in columns if row[name]] == list(steps), name
    for layer in LAYERS:
        histograms = events.Histograms(f"cbp/{layer}/utility")
        assert [event.step for event in histograms] == list(at_once)
        assert histograms[-1].histogram_value.num == (16 if layer.endswith("1") else 12)
    returns = events.Scalars("rollout/episode_return")
    assert [event.value for event in returns] == pytest.approx([float(row["return"]) for row in rows(run[0] / "episodes.csv")])


def test_the_summary_agrees_with_the_episodes_and_with_the_sequence_of_the_seed(run):
    summary, episodes = json.loads((run[0] / "summary.json").read_text()), rows(run[0] / "episodes.csv")
    phases = summary["phases"]
    assert summary["complete"]
    assert summary["timesteps"] == 6144 == sum(phase["steps"] for phase in phases)
    assert len(phases) >= 3
    assert [phase["friction"] for phase in phases] == frictions(3, len(phases))
    for number, phase in enumerate(phases):
        returns = [float(row["return"]) for row in episodes if int(row["phase"]) == number]
        assert phase["episodes"] == len(returns)
        if returns:
            last = returns[-math.ceil(len(returns) / 10) :]
            assert phase["mean_return"] == pytest.approx(sum(returns) / len(returns))
            assert phase["final_return"] == pytest.approx(sum(last) / len(last))
        assert all(float(row["friction"]) == phase["friction"] for row in episodes if int(row["phase"]) == number)
    assert min(summary["units_replaced"].values()) > 10
    assert {"python", "torch", "mujoco", "gymnasium", "stable-baselines3"} <= set(summary["versions"])


def test_the_folder_holds_configuration_progress_checkpoint_and_figure(run):
    folder = run[0]
    config = Config.from_json((folder / "config.json").read_text())
    assert (config.env, config.method, config.period, config.seed) == ("ant-nonstationary-v0", "cbp", 1200, 3)
    assert config.method_kwargs["maturity_threshold"] == 20
    assert [int(row["time/total_timesteps"]) for row in rows(folder / "progress.csv")] == list(range(512, 6145, 512))
    assert [path.name[:13] for path in (folder / "checkpoints").iterdir()].count("000000006144-") == 1
    png = (folder / "report.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    assert width > 900
    assert height > 600


def test_the_same_seed_gives_the_same_run_but_for_wall_clock_values(command, tmp_path):
    for name in ("a", "b"):
        assert command("--env", "ant-nonstationary", "--timesteps", 1024, "--run-dir", tmp_path / name, *SMALL) == 0
    first, second = (rows(tmp_path / name / "progress.csv") for name in ("a", "b"))
    assert len(first) == 2
    for one, other in zip(first, second, strict=True):
        assert {k: v for k, v in one.items() if not k.startswith("time/")} == {
            k: v for k, v in other.items() if not k.startswith("time/")
        }


def test_ppo_without_a_method_records_no_units_but_plasticity(command, tmp_path):
    arguments = [
        "--env",
        "ant-nonstationary",
        "--method",
        "ppo",
        "--normalize",
        "--timesteps",
        1024,
        "--run-dir",
        tmp_path / "run",
    ]
    assert command(*arguments, *SMALL) == 0
    row = rows(tmp_path / "run" / "progress.csv")[-1]
    assert not [name for name in row if name.startswith("cbp/")]
    assert float(row["plasticity/value/hidden2/weight_magnitude"]) > 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["units_replaced"] == {}


def test_another_environment_stays_as_it_is_unless_a_period_is_given(command, tmp_path):
    common = ["--env", "Hopper-v5", "--timesteps", 2048, *SMALL]
    assert command(*common, "--timesteps", 512, "--run-dir", tmp_path / "still") == 0
    (phase,) = json.loads((tmp_path / "still" / "summary.json").read_text())["phases"]
    assert "friction" not in phase
    assert command(*common, "--run-dir", tmp_path / "changing", "--period", 400) == 0
    phases = json.loads((tmp_path / "changing" / "summary.json").read_text())["phases"]
    assert len(phases) > 1
    assert phases[0]["friction"] == frictions(0, 1)[0]


def test_tanh_units_are_not_called_dormant(command, tmp_path):
    arguments = ["--env", "ant-nonstationary", "--timesteps", 1024, "--set", "activation=tanh", "--run-dir", tmp_path / "run"]
    assert command(*arguments, *SMALL) == 0
    row = rows(tmp_path / "run" / "progress.csv")[-1]
    assert not [name for name in row if name.endswith(("/dormant_fraction", "/dead_fraction"))]
    assert "plasticity/policy/hidden1/saturated_fraction" in row


# Stopped and resumed


@pytest.mark.parametrize(
    "extra", [pytest.param([], id="plain"), pytest.param(["--normalize"], id="normalized", marks=pytest.mark.slow)]
)
def test_ctrl_c_saves_and_resume_goes_on_in_the_same_sequence(tmp_path, extra):
    folder = tmp_path / "run"
    arguments = [
        "--env",
        "ant-nonstationary",
        "--timesteps",
        5120,
        "--period",
        1200,
        "--run-dir",
        folder,
        *SMALL,
        *BUSY,
        *extra,
    ]
    process = processes.Started("agents.train", *arguments)
    deadline = time.monotonic() + 300
    while not (folder / "progress.csv").exists() or len(rows(folder / "progress.csv")) < 3:
        assert process.poll() is None, process.printed()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130
    stopped = json.loads((folder / "summary.json").read_text())
    assert not stopped["complete"]
    assert 1536 <= stopped["timesteps"] < 5120
    last = out.splitlines()[-1]
    assert f"step {stopped['timesteps']:,}," in last
    assert f"--resume {folder}" in last

    resumed = processes.run("agents.train", "--resume", folder)
    assert "Done" in resumed.stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["complete"]
    assert summary["timesteps"] == 5120 == sum(phase["steps"] for phase in summary["phases"])
    assert [phase["friction"] for phase in summary["phases"]] == frictions(0, len(summary["phases"]))
    assert sum(summary["units_replaced"].values()) > sum(stopped["units_replaced"].values()) > 0
    steps = [int(row["time/total_timesteps"]) for row in rows(folder / "progress.csv")]
    assert steps == list(range(512, 5121, 512))
    ends = [int(row["step"]) for row in rows(folder / "episodes.csv")]
    assert ends == sorted(ends)
    assert summary["episodes"] == len(ends)

    again = processes.run("agents.train", "--resume", folder)
    assert "is complete" in again.stdout


# Bad input


def test_bad_input_ends_a_real_process_with_one_line_and_code_2(tmp_path):
    command = [sys.executable, "-m", "agents.train", "--env", "ant-nonstationery"]
    path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        "error: unknown environment 'ant-nonstationery'; did you mean 'ant-nonstationary-v0'?"
    ]
    assert not list(tmp_path.iterdir())


ANT = ["--env", "ant-nonstationary"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--env is missing"]),
        (["--env", "no_such:ant-nonstationary-v0"], ["module 'no_such' cannot be imported", "ModuleNotFoundError"]),
        ([*ANT, "--method", "cpb"], ["unknown method 'cpb'", "did you mean 'cbp'"]),
        ([*ANT, "--preset", "papr"], ["unknown preset 'papr'", "did you mean 'paper'"]),
        ([*ANT, "--param", "frction"], ["unknown parameter 'frction'", "did you mean 'friction'"]),
        ([*ANT, "--period", "-5"], ["period", ">= 1", "-5"]),
        ([*ANT, "--period", "3"], ["period", "8 environments", "3"]),
        ([*ANT, "--period", "many"], ["--period", "many"]),
        ([*ANT, "--timesteps", "0"], ["timesteps", ">= 1", "0"]),
        ([*ANT, "--seed", "-1"], ["seed", ">= 0", "-1"]),
        ([*ANT, "--seed", "4294967296"], ["seed", "2^32", "4294967296"]),
        ([*ANT, "--n-envs", "3"], ["n-envs", "2048", "3"]),
        ([*ANT, "--device", "gpu"], ["device 'gpu'"]),
        ([*ANT, "--device", "mps"], ["device 'mps' cannot be used: ", "; here there are auto, cpu"]),
        ([*ANT, "--device", "meta"], ["device 'meta' cannot be used: ", "; here there are auto, cpu"]),
        ([*ANT, "--device", "cuda:99"], ["device 'cuda:99' cannot be used: "]),
        ([*ANT, "--set", "learning_rate=nan"], ["learning_rate", "nan"]),
        ([*ANT, "--set", "learning_rate=NaN"], ["learning_rate", "nan"]),
        ([*ANT, "--set", "replacement_rate=NaN"], ["replacement_rate", "nan"]),
        ([*ANT, "--set", "replacement_rate=much"], ["replacement_rate", "much"]),
        ([*ANT, "--set", "beta1=1"], ["beta1", "< 1", "got 1"]),
        ([*ANT, "--set", "net_arch=256"], ["net_arch", "256"]),
        ([*ANT, "--set", "activation=rely"], ["unknown activation 'rely'", "did you mean 'relu'"]),
        ([*ANT, "--set", "learning_rat=1"], ["unknown setting", "learning_rat", "did you mean 'learning_rate'"]),
        ([*ANT, "--method", "ppo", "--set", "replacement_rate=1"], ["unknown setting of method 'ppo'", "replacement_rate"]),
        ([*ANT, "--set", "learning_rate"], ["key=value", "learning_rate"]),
        ([*ANT, "--set", "gamma=0.9", "--set", "gamma=0.8"], ["--set takes each key once, got gamma twice"]),
        ([*ANT, "--env-kwargs", "frame_skip=2", "--env-kwargs", "frame_skip=3"], ["--env-kwargs takes each key once"]),
        ([*ANT, "--metod", "cbp"], ["--metod"]),
        (["--env", "CartPole-v1", "--period", "1000"], ["CartPole-v1", "MuJoCo"]),
        (["--env", "Swimmer-v5", "--period", "1000"], ["Swimmer-v5", "friction"]),
        (["--env", "Hopper-v5", "--preset", "paper"], ["preset 'paper'", "Hopper-v5"]),
        (["--resume", "nowhere"], ["'nowhere' is no run"]),
        (["--resume", "nowhere", "--seed", "1"], ["--resume", "--seed"]),
        ([*ANT, "--export", "model.zip"], ["--export needs --resume RUN"]),
        ([*ANT, "--threads", "0"], ["threads", ">= 1", "0"]),
        ([*ANT, "--threads", "100000"], ["threads must be at most 1,024, got 100,000"]),
        ([*ANT, "--device", ""], ["device ''"]),
        (
            ["--env", "FrozenLake-v1", "--normalize"],
            ["'FrozenLake-v1' is no environment for Stable-", "VecNormalize"],
        ),
        (["--env", ""], ["unknown environment ''"]),
        ([*ANT, "--times", "geometric,mean=3"], ["--times geometric takes its mean from --period, got mean=3"]),
        (
            [*ANT, "--n-envs", "4", "--times", "bursts,changes=3,gap=0"],
            ["gap must be at least one step for each of the 4", "got 0"],
        ),
        (
            [*ANT, "--n-envs", "4", "--times", "bursts,changes=3,gap=3"],
            ["gap must be at least one step for each of the 4", "got 3"],
        ),
        ([*ANT, "--n-envs", "1", "--times", "bursts,changes=3,gap=-5"], ["gap must be at least one step for the", "got -5"]),
        ([*ANT, "--times", "geometric", "--period", "9" * 400], ["period must be at most 9,223,372,036,854,775,807"]),
        ([*ANT, "--set", f"learning_rate={'9' * 5000}"], ["--set learning_rate cannot be read", "digits"]),
        ([*ANT, "--set", f"learning_rate={'[' * 100_000}"], ["--set learning_rate cannot be read", "recursion"]),
        ([*ANT, "--env-kwargs", f"g={'[' * 100_000}"], ["--env-kwargs g cannot be read", "recursion"]),
        ([*ANT, "--schedule", '{"a":' * 50_000], ["--schedule must be a name with options or JSON", "recursion"]),
        ([*ANT, "--schedule", f'{{"a": {"9" * 5000}}}'], ["--schedule must be a name with options or JSON", "digits"]),
        ([*ANT, "--set", "decay_log_std=False"], ["decay_log_std must be JSON, which has true and false, got 'False'"]),
        ([*ANT, "--set", "decay_log_std=no"], ["decay_log_std must be true or false, got 'no'"]),
        ([*ANT, "--set", "clip_each_network=[]"], ["clip_each_network must be true or false, got []"]),
        ([*ANT, "--set", "clip_each_network=0"], ["clip_each_network must be true or false, got 0"]),
        (
            [*ANT, "--env-kwargs", "terminate_when_unhealthy=False"],
            ["when_unhealthy must be JSON, which has true and false, got 'False'"],
        ),
        ([*ANT, "--times", "bursts,calm=abc"], ["--times bursts takes its calm from --period, got calm=abc"]),
        ([*ANT, "--env-kwargs", "xml_file=/missing.xml"], ["cannot be made: OSError", "/missing.xml"]),
        ([*ANT, "--env-kwargs", "frame_skip=0"], ["cannot be made: ZeroDivisionError"]),
        ([*ANT, "--env-kwargs", "frame_skip=-1"], ["cannot be stepped: ValueError: frame_skip must be >= 1, got -1"]),
        ([*ANT, "--env-kwargs", "reset_noise_scale=abc"], ["cannot be stepped: TypeError"]),
        ([*ANT, "--env-kwargs", "ctrl_cost_weight=nan"], ["cannot be stepped: TypeError"]),
        ([*ANT, "--checkpoint-minutes", "-1"], ["checkpoint-minutes", ">= 0", "-1"]),
        ([*ANT, "--checkpoint-minutes", "nan"], ["checkpoint-minutes", "finite", "nan"]),
    ],
)
def test_bad_input_gives_one_line_and_code_2_and_writes_nothing(command, capsys, tmp_path, arguments, words):
    assert command(*arguments) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert not out
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_refused(command, capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert command(*ANT, "--run-dir", tmp_path / "file" / "run") == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: cannot write to run folder '{tmp_path / 'file' / 'run'}': Not a directory"
    ]
    assert (tmp_path / "file").read_text() == "mine"


def test_an_existing_run_is_left_as_it_is(command, capsys, run):
    before = {path: path.read_bytes() for path in run[0].rglob("*") if path.is_file()}
    assert command(*ANT, "--run-dir", run[0]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: '{run[0]}' exists already; to go on with the run there: --resume {run[0]}"
    ]
    assert {path: path.read_bytes() for path in run[0].rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("received", ["a\nb", "\x1b[31mred", "tab\there", "\u2028"])
@pytest.mark.parametrize("option", ["--env", "--method", "--preset", "--param", "--set", "--schedule", "--device", "--resume"])
def test_a_message_is_one_line_whatever_was_received(command, capsys, option, received):
    options = [] if option in ("--env", "--resume") else ["--env", "ant-nonstationary"]
    assert command(*options, option, received) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert line.isprintable()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"env": 1}', '{"hyperparameters": {"net_arch": 3}}'])
def test_a_damaged_configuration_is_refused(command, capsys, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert command("--resume", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.json" in line
    assert "not a run's configuration" in line


# Settings


def test_the_paper_preset_is_the_papers_setting(command, capsys, monkeypatch):
    from agents.runs import training

    made = []
    monkeypatch.setattr(training, "make_vec_env", made.append)  # stops before the first environment of 20 million steps
    monkeypatch.setattr(training, "make_model", lambda *_: (_ for _ in ()).throw(UserError("enough")))
    for method in presets.METHODS:
        assert command(*ANT, "--preset", "paper", "--method", method) == 2
    capsys.readouterr()
    common = {
        "rollout_steps": 2048, "n_epochs": 10, "batch_size": 128, "gamma": 0.99, "gae_lambda": 0.95, "clip_range": 0.2,
        "learning_rate": 1e-4, "adam_eps": 1e-8, "vf_coef": 1.0, "ent_coef": 0.0, "max_grad_norm": None,
        "normalize_advantage": "rollout", "net_arch": (256, 256), "activation": "relu", "weight_init": "lecun",
        "log_std_init": 0.0,
    }  # fmt: skip
    own = {"ppo": (0.9, 0.999, 0.0), "l2": (0.99, 0.99, 1e-3), "shrink-perturb": (0.99, 0.99, 1e-3)}
    own["l2-networks"] = own["l2"]
    own |= dict.fromkeys(("redo", "snr", "regrama", "swr", "cbp", "cbp-first-layer"), (0.99, 0.99, 1e-4))
    own |= dict.fromkeys(
        (
            *("ppo-tuned", "layer-norm", "shrink-perturb-soft", "l2-init", "parseval", "spectral", "upgd"),
            *("fire", "nap", "hare-tortoise", "trac", "c-chain", "pfo", "crelu"),
            *("cbp-no-l2", "reset-all"),
        ),
        (0.99, 0.99, 0.0),
    )
    assert sorted(own) == sorted(presets.METHODS)
    for config in made:
        values = vars(config.hyperparameters)
        assert values["decay_log_std"] == (config.method != "l2-networks")
        activation = {"activation": "crelu"} if config.method == "crelu" else {}
        assert {name: values[name] for name in common} == common | activation
        assert (values["beta1"], values["beta2"], values["weight_decay"]) == own[config.method]
        assert (config.timesteps, config.period, config.n_envs, config.normalize) == (20_000_000, 2_000_000, 1, False)
        assert config.env_kwargs == {"unclipped_actions": True, "terminate_after": 1000, "healthy_reward_on_fall": True}
    method = next(config.method_kwargs for config in made if config.method == "cbp")
    assert (method["replacement_rate"], method["maturity_threshold"], method["decay_rate"]) == (1e-4, 10_000, 0.99)
    assert method["utility"] == "contribution"


@pytest.mark.soak
def test_the_default_run_changes_five_times_replaces_units_and_learns(tmp_path):
    folder = tmp_path / "run"
    subprocess.run([sys.executable, "-m", "agents.train", *ANT, "--run-dir", str(folder)], check=True)
    summary = json.loads((folder / "summary.json").read_text())
    phases = summary["phases"]
    assert len(phases) >= 6
    assert sum(summary["units_replaced"].values()) >= 20
    returns = [float(row["return"]) for row in rows(folder / "episodes.csv") if row["phase"] == "1"]
    assert phases[1]["final_return"] > sum(returns[: len(returns) // 10]) / (len(returns) // 10) + 100
