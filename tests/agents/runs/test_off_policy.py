"""Runs of SAC, TD3 and DQN: what they write, how they go on, what becomes of the files of their replay buffers."""

from __future__ import annotations

import pytest
from same_runs import assert_same_run

# 64 steps, then 8 updates.
SMALL = ["--set", "train_freq=64", "--set", "gradient_steps=8", "--set", "batch_size=16", "--set", "learning_starts=200"]
SMALL += ["--set", "net_arch=[12,10]", "--checkpoint-minutes", 0, "--timesteps", 1152]
HOPPER = ["--env", "hopper-nonstationary", "--period", 400]
CARTPOLE = ["--env", "CartPole-v1", "--param", "observation_noise", "--period", 400]
RUNS = {
    "sac": ["--algo", "sac", "--method", "backprop", *HOPPER],
    "td3": ["--algo", "td3", "--method", "l2", *HOPPER, "--n-envs", 2, "--normalize", "--set", "train_freq=32"],
    "dqn": [
        "--algo",
        "dqn",
        "--method",
        "backprop",
        *CARTPOLE,
        "--set",
        "buffer_size=500",
        "--set",
        "target_update_interval=100",
    ],
}


def options(name):
    return [*RUNS[name][:2], *SMALL, *RUNS[name][2:]]


def transition_files(folder):
    return sorted((folder / "checkpoints" / "transitions").iterdir())


def told(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "warning: "))]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_stopped_twice_is_the_run_that_did_not(command, interrupted, tmp_path, name):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    interrupted(*options(name), "--run-dir", stopped, until=128)  # actions are still drawn at random
    assert command(*options(name), "--run-dir", whole) == 0
    interrupted("--resume", stopped, until=832)  # the buffer of the last is full
    assert command("--resume", stopped) == 0
    assert_same_run(whole, stopped)
