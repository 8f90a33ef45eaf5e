"""`agents.trainability`: how well the networks of a run's checkpoints still learn something new."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import processes
import pytest
import torch
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn

import agents
import agents.trainability
from agents.playing.held import HeldParameter
from agents.playing.trainability import Settings, _give_hidden_layers, _Learning, _rewards
from agents.runs import checkpoint_files
from agents.runs.build import make_model, make_vec_env
from agents.runs.checkpoints import Trained, load_policy
from agents.runs.config import Config
from agents.runs.run_folder import RunFolder

SMALL = ["--set", "rollout_steps=512", "--set", "batch_size=64", "--set", "n_epochs=4", "--set", "net_arch=[32,32]"]
RUN = [
    "--env",
    "ant-nonstationary",
    "--timesteps",
    3072,
    "--period",
    1024,
    "--n-envs",
    4,
    "--change-at",
    "now",
    "--keep-phases",
]
QUICK = ["--repetitions", "2", "--updates", "60", "--steps", "1024"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    processes.run("agents.train", *RUN, *SMALL, "--run-dir", folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def measure(*arguments):
    return agents.trainability.main(list(map(str, arguments)))


def table(run):
    with (run / "trainability.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def change_policy(path, change):
    """A checkpoint with another policy, in the place of the first."""
    state = torch.load(path, weights_only=True)
    change(state["model"]["policy"])
    torch.save(state, path)
    content = path.read_bytes()
    return path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}-{checkpoint_files._checksum(content)}.pt"))


@pytest.mark.usefixtures("rendered")
def test_each_phase_gets_a_score_of_each_kind_and_one_whose_policy_is_dead_gets_none(run, capsys):
    first, *_ = sorted((run / "checkpoints" / "phases").iterdir())

    def kill(policy):
        policy["mlp_extractor.policy_net.0.bias"].fill_(-1000.0)

    first = change_policy(first, kill)
    assert measure(run, *QUICK) == 0
    rows = table(run)
    kinds = ["policy-targets", "policy-fresh-head", "value-targets", "value-fresh-head", "return"]
    assert [(row["phase"], row["steps"], row["kind"]) for row in rows] == [
        (str(phase), str(steps), kind) for phase, steps in ((0, 1536), (1, 2560), (2, 3072)) for kind in kinds
    ]
    scores = {(row["phase"], row["kind"]): float(row["score"]) for row in rows}
    for kind in kinds[:2]:
        assert abs(scores["0", kind]) < 0.05
        assert min(scores[phase, kind] for phase in ("1", "2")) > 0.25
    assert all(float(row["low"]) <= float(row["score"]) <= float(row["high"]) for row in rows)
    assert rows[0]["checkpoint"] == first.name
    assert (run / "trainability.png").stat().st_size > 10_000
    assert "a fresh network is 1" in capsys.readouterr().out


def test_the_same_command_goes_on_and_another_is_refused(run, capsys):
    only_targets = ["--repetitions", 2, "--updates", 20, "--steps", 0]
    assert measure(run, *only_targets) == 0
    whole = (run / "trainability.csv").read_text()
    lines = whole.splitlines(keepends=True)
    (run / "trainability.csv").write_text("".join(lines[:2]))
    assert measure(run, *only_targets) == 0
    assert (run / "trainability.csv").read_text() == whole
    # What is there is not measured again.
    (run / "trainability.csv").write_text(whole.replace(lines[1].split(",")[4], "0.125"))
    assert measure(run, *only_targets) == 0
    assert table(run)[0]["score"] == "0.125"
    before = (run / "trainability.csv").read_text()
    capsys.readouterr()
    assert measure(run, *only_targets, "--seed", 3) == 2
    assert capsys.readouterr().err.strip().endswith("not 3: to measure anew, move it away with its .json and .png")
    assert (run / "trainability.csv").read_text() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [line.replace("\n", ",1\n") for line in lines],
        lambda lines: [lines[0], *(line.replace("\n", ",1\n") for line in lines[1:])],
        lambda lines: [lines[0].replace("score", "points"), *lines[1:]],
        lambda lines: [lines[0], "a" * 200_000 + lines[1], *lines[2:]],
    ],
)
def test_a_table_that_is_none_is_refused_before_anything_is_measured(run, capsys, damage):
    only_targets = ["--repetitions", 2, "--updates", 20, "--steps", 0]
    assert measure(run, *only_targets) == 0
    damaged = "".join(damage((run / "trainability.csv").read_text().splitlines(keepends=True)[:3]))
    (run / "trainability.csv").write_text(damaged)
    capsys.readouterr()
    assert measure(run, *only_targets) == 2
    err = capsys.readouterr().err
    assert err.strip().endswith("it is not a table of scores")
    assert (run / "trainability.csv").read_text() == damaged


def test_agents_learn_from_the_checkpoints_hidden_layers_and_fresh_heads(run):
    folder, config = RunFolder.open(run, Config)
    old = load_policy(folder, config).policy
    new = agents.PPO(
        "CBPMlpPolicy",
        make_vec_env(replace(config, period=20_000)),
        device="cpu",
        policy_kwargs={"net_arch": [32, 32], "activation_fn": nn.ReLU},
    ).policy
    before = {name: value.clone() for name, value in new.named_parameters()}
    _give_hidden_layers(old, new)
    theirs = dict(old.named_parameters())
    for name, value in new.named_parameters():
        expected = theirs[name] if name.startswith("mlp_extractor") else before[name]
        assert torch.equal(value, expected), name


def test_the_rewards_of_agents_are_those_that_the_environments_gave(run):
    class Sum(BaseCallback):
        every_step = True
        total = 0.0

        def _on_step(self):
            self.total += float(sum(self.locals["rewards"]))
            return True

    folder, config = RunFolder.open(run, Config)
    learning = _Learning(folder, config, Settings(2, 20, 1024, None, 0), None)
    totals = []
    for callbacks in (Sum(), None):  # with a callback at every step, and in compiled rollouts
        vec_env = agents.ThreadedVecEnv([learning._make_env] * 4)
        agents.PPO("MlpPolicy", vec_env, n_steps=256, seed=0, device="cpu", policy_kwargs={"net_arch": [16]}).learn(
            1024, callbacks
        )
        totals += [_rewards(vec_env), callbacks.total] if callbacks else [_rewards(vec_env)]
    assert totals == pytest.approx([totals[0]] * 3, rel=1e-5)
    assert totals[0] != 0


def test_an_agent_with_the_hidden_layers_of_a_fresh_one_is_as_able_as_new(run):
    folder, config = RunFolder.open(run, Config)
    held = HeldParameter.of(config, {"friction": 1.0}, None, None, None)
    learning = _Learning(folder, config, Settings(2, 20, 1024, 0.125, 0), held)
    env = learning._make_env()
    env.reset()
    _, _, _, _, info = env.step(env.action_space.sample())
    assert info["friction"] == 0.125
    seeds = replace(config, seed=0), replace(config, seed=1)
    fresh = [make_model(each, agents.ThreadedVecEnv([learning._make_env] * 4)).policy for each in seeds]
    whole, first = learning._let_agents_learn(None)
    for repetition, policy in enumerate(fresh):
        again = learning._let_agent_learn(Trained(policy, lambda seen: seen, 0, 0, {}), repetition)
        assert again == (whole[repetition], first[repetition])
    assert (whole != first).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:training takes Stable-Baselines3", "default:no agent learns to act anew")
def test_a_stationary_run_with_discrete_actions_and_its_newest_checkpoint_alone(tmp_path, capsys):
    small = ["--env", "CartPole-v1", "--timesteps", 2048, "--n-envs", 2, "--method", "layer-norm", *SMALL]
    processes.run("agents.train", *small, "--run-dir", tmp_path / "run")
    assert measure(tmp_path / "run", *QUICK[:4], "--steps", 0) == 0
    rows = table(tmp_path / "run")
    assert [(row["phase"], row["steps"], row["kind"]) for row in rows] == [
        ("", "2048", kind) for kind in ("policy-targets", "policy-fresh-head", "value-targets", "value-fresh-head")
    ]
    # Every step is rewarded with 1: there is nothing to compare.
    (tmp_path / "run" / "trainability.csv").unlink()
    capsys.readouterr()
    assert measure(tmp_path / "run", *QUICK) == 0
    assert "warning: no agent learns to act anew: in 1,024 steps" in capsys.readouterr().err
    assert table(tmp_path / "run") == rows


def test_returns_are_compared_in_rewards_of_any_size(run, monkeypatch):
    folder, config = RunFolder.open(run, Config)
    learning = _Learning(folder, config, Settings(2, 20, 1024, None, 0), None)
    # Mean rewards of a step of two repetitions: over all steps, and of fresh agents in their first rollout.
    of_fresh, first, of_checkpoint = (torch.tensor(pair) * 1e-6 for pair in ([3.0, 5.0], [1.0, 1.0], [2.0, 3.0]))
    monkeypatch.setattr(learning, "_let_agents_learn", lambda trained: (of_checkpoint if trained else of_fresh, first))
    assert learning.learns_return()
    # Gained: 1 and 2 by the checkpoint's, 2 and 4 by fresh ones.
    assert learning.score("return", load_policy(folder, config)).score == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("algo", "env", "layers"),
    [
        ("dqn", "CartPole-v1", {"policy": "q_net.q_net.0"}),
        ("sac", "InvertedPendulum-v5", {"policy": "actor.latent_pi.0", "value": "critic.qf0.0"}),
        ("td3", "InvertedPendulum-v5", {"policy": "actor.mu.0", "value": "critic.qf0.0"}),
    ],
)
def test_the_networks_of_an_off_policy_run_learn_random_targets(command, tmp_path, capsys, algo, env, layers):
    small = ["--set", "train_freq=64", "--set", "gradient_steps=4", "--set", "learning_starts=100", "--set", "net_arch=[24,24]"]
    options = ["--algo", algo, "--env", env, "--method", "cbp", "--timesteps", 1152, "--set", "learning_rate=0.001"]
    assert command(*options, *small, "--run-dir", tmp_path / "run") == 0
    capsys.readouterr()
    assert measure(tmp_path / "run", *QUICK[:4]) == 0
    said = capsys.readouterr().err
    assert f"no agent learns to act anew: only agents of ppo do, and the run is of {algo}" in said
    alive = {row["kind"]: float(row["score"]) for row in table(tmp_path / "run")}
    assert list(alive) == [f"{network}-{kind}" for network in layers for kind in ("targets", "fresh-head")]
    assert min(alive.values()) > 0.25

    for network, layer in layers.items():
        copied = shutil.copytree(tmp_path / "run", tmp_path / network)
        (copied / "trainability.csv").unlink()
        newest = max((copied / "checkpoints").glob("*.pt"), key=checkpoint_files.steps_of)
        change_policy(newest, lambda policy, layer=layer: policy[f"{layer}.bias"].fill_(-1000.0))
        assert measure(copied, *QUICK[:4]) == 0
        killed = {row["kind"]: float(row["score"]) for row in table(copied)}
        assert max(score for kind, score in killed.items() if kind.startswith(network)) < 0.05
        others = [{kind: score for kind, score in found.items() if not kind.startswith(network)} for found in (killed, alive)]
        assert others[0] == others[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", 0, "--value", 0.5], "--value is where agents learn to act anew while one parameter is held, got 0.5"),
        (["--repetitions", 1], "repetitions must be a whole number >= 2, got 1"),
        (["--repetitions", 10**15], "repetitions must be at most 1,000, got 1,000,000,000,000,000"),
        (["--updates", 5], "updates must be a whole number >= 20, got 5"),
        (["--steps", 100], "steps must be 0 or at least two rollouts of 512, got 100"),
        (["--seed", -1], "seed must be a whole number >= 0, got -1"),
        (["--seed", 2**32 - 1, "--repetitions", 2], "seed must be at most 2^32 - 2, for as many repetitions, got 4294967295"),
        (["--value", -1], "friction"),
    ],
)
def test_bad_settings_are_refused_in_one_line(run, capsys, arguments, words):
    assert measure(run, *arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert words in line
    assert not (run / "trainability.csv").exists()


def test_what_cannot_be_measured_is_refused_in_one_line(run, capsys, tmp_path):
    assert measure(tmp_path) == 2
    assert "is no run" in capsys.readouterr().err
    (run / "probe.npz").rename(tmp_path / "probe.npz")
    assert measure(run, *QUICK) == 2
    assert "has no probe batch" in capsys.readouterr().err
    (tmp_path / "probe.npz").rename(run / "probe.npz")
    first, *_ = sorted((run / "checkpoints" / "phases").iterdir())
    first.write_bytes(b"damaged")
    assert measure(run, *QUICK) == 2
    assert f"checkpoint '{first}' is damaged" in capsys.readouterr().err
    first.unlink()
    (run / "trainability.csv").write_text("nothing,to,see\n1,2,3\n")
    (run / "trainability.json").write_text(
        json.dumps({"repetitions": 2, "updates": 60, "steps": 1024, "value": 0.2, "seed": 0})
    )
    assert measure(run, *QUICK) == 2
    assert "is not a table of scores" in capsys.readouterr().err


def test_an_environment_that_breaks_where_agents_learn_anew_brings_one_line(run, capsys, monkeypatch):
    def reset_model(_):
        raise ZeroDivisionError("no floor")

    monkeypatch.setattr(AntEnv, "reset_model", reset_model)
    capsys.readouterr()
    assert measure(run, *QUICK) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: return of checkpoint '")
    assert line.endswith("cannot be measured: ZeroDivisionError: no floor")
