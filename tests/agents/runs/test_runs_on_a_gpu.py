"""Training, and everything that is done with a run, on a GPU."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from same_runs import assert_same_run
from stable_baselines3 import PPO

from agents import evaluate, learn, report, trainability

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:no unit:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are trying to run:UserWarning"),  # Stable-Baselines3's own
]
SMALL = ["--set", "rollout_steps=256", "--set", "batch_size=64", "--set", "n_epochs=2", "--set", "net_arch=[12,10]"]
ANT = ["--env", "ant-nonstationary", "--timesteps", 1024, "--period", 300, "--n-envs", 2, *SMALL, "--device", "cuda"]
ANT += ["--env-kwargs", "max_episode_steps=50", "--checkpoint-minutes", 0]


@pytest.mark.parametrize(
    "method", ["cbp", "ppo", "redo", "shrink-perturb-soft", "upgd", "c-chain", "pfo", "fire", "trac", "reset-all"]
)
def test_a_run_that_stopped_is_the_run_that_did_not(command, interrupted, tmp_path, method):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    busy = ["--set", "maturity_threshold=5", "--set", "replacement_rate=0.02"] if method == "cbp" else []
    options = [*ANT, "--method", method, *busy]
    interrupted(*options, "--run-dir", stopped, until=512)
    assert command(*options, "--run-dir", whole) == 0
    assert command("--resume", stopped) == 0
    assert_same_run(whole, stopped)


@pytest.mark.parametrize("algo", ["sac", "dqn", "td3"])
def test_off_policy_runs_go_on_too(command, interrupted, tmp_path, algo):
    env = "CartPole-v1" if algo == "dqn" else "Pendulum-v1"
    options = ["--algo", algo, "--env", env, "--timesteps", 300, "--device", "cuda", "--checkpoint-minutes", 0]
    options += ["--set", "learning_starts=50", "--set", "net_arch=[12,10]"]
    interrupted(*options, "--run-dir", tmp_path / "stopped", until=150)
    assert command(*options, "--run-dir", tmp_path / "whole") == 0
    assert command("--resume", tmp_path / "stopped") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_what_reads_a_run_reads_one_of_a_gpu(command, tmp_path, monkeypatch):
    run = tmp_path / "ant" / "cbp" / "seed0"
    assert command(*ANT, "--timesteps", 2048, "--keep-phases", "--run-dir", run) == 0
    assert json.loads((run / "config.json").read_text())["device"] == "cuda"
    assert evaluate.main([str(run), "--episodes", "2"]) == 0
    assert trainability.main([str(run), "--repetitions", "2", "--steps", "0"]) == 0
    with (run / "trainability.csv").open() as file:
        assert all(np.isfinite(float(row["score"])) for row in csv.DictReader(file))
    assert report.main([str(tmp_path / "ant"), "--output", str(tmp_path / "out")]) == 0
    assert command("--resume", run, "--export", tmp_path / "model.zip") == 0
    exported = PPO.load(tmp_path / "model.zip", device="cuda")
    again = PPO.load(tmp_path / "model.zip", device="cpu")
    for name, weight in exported.policy.state_dict().items():
        assert torch.equal(weight.cpu(), again.policy.state_dict()[name])


@pytest.mark.parametrize(
    "options",
    [
        ["--problem", "slowly-changing-regression", "--examples", 20000],
        ["--problem", "permuted-images", "--tasks", 2, "--set", "net_arch=[30]"],
        ["--problem", "continual-imagenet", "--tasks", 2, "--set", "epochs=3"],
        ["--problem", "class-incremental-cifar", "--tasks", 1, "--set", "epochs=1", "--set", "net_arch=[8,8,8,8]"],
    ],
    ids=lambda options: options[1],
)
@pytest.mark.parametrize("method", ["backprop", "cbp", "shrink-perturb", "fire"])
def test_the_supervised_problems_score_as_on_a_cpu(tmp_path, options, method):
    found = []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        arguments = [*options, "--method", method, "--device", device, "--run-dir", folder]
        assert learn.main([str(argument) for argument in arguments]) == 0
        (path,) = folder.rglob("progress.csv")
        with path.open() as file:
            rows = list(csv.DictReader(file))
        found.append([float(row.get("task/accuracy") or row["task/error"]) for row in rows])
    assert np.allclose(*found, rtol=0.15, atol=0.05)
