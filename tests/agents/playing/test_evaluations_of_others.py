"""Evaluations in environments and of algorithms that others bring: rewards of any size, global generators, frame rates."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

from agents import evaluate
from agents.playing import evaluation
from agents.playing.episodes import MODES, Episode
from agents.playing.held import HeldParameter
from agents.runs.checkpoints import load_policy
from agents.runs.config import Config
from agents.runs.run_folder import RunFolder

SMALL = ["--n-envs", 1, "--set", "rollout_steps=64", "--set", "batch_size=32", "--set", "n_epochs=1", "--set", "net_arch=[8]"]


class Bandit(gymnasium.Env):
    """Four steps, each rewarded by its action and a draw from NumPy's global generator."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = spaces.Discrete(3)
    metadata = {"render_modes": ["rgb_array"], "render_fps": None}  # noqa: RUF012
    opened = 0

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        Bandit.opened += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return 0, {}

    def step(self, action):
        self.steps += 1
        reward = 1e-3 * (float(action[0]) + np.random.rand())  # noqa: NPY002
        return self.steps % 3, reward, self.steps == 4, False, {}

    def render(self):
        return np.zeros((64, 64, 3), np.uint8)

    def close(self):
        Bandit.opened -= 1


class Still(CartPoleEnv):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 0}  # noqa: RUF012


gymnasium.register("Bandit-v0", Bandit)
gymnasium.register("Still-v0", Still, max_episode_steps=20, disable_env_checker=True)


@pytest.fixture
def trained(command, capsys):
    """Trains a small run of an environment, which does not change; returns its folder."""

    def train(env, *options):
        assert command("--env", env, *options, "--run-dir", "run") == 0
        capsys.readouterr()
        return "run"

    return train


def play(*arguments):
    return evaluate.main(list(map(str, arguments)))


def returns(path):
    with Path(path).open(newline="") as file:
        return [(row["mode"], float(row["return"])) for row in csv.DictReader(file)]


def test_returns_of_any_size_are_told_and_the_seed_is_that_of_global_generators_too(trained, capsys):
    run = trained("Bandit-v0", *SMALL, "--timesteps", 64)
    grid = ["--param", "action_noise", "--values", "0,0.1", "--episodes", "2"]
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        assert play(run, *grid, "--seed", seed, "--output", f"{name}.png") == 0
    assert returns("first.csv") == returns("again.csv")
    assert not set(returns("first.csv")) & set(returns("other.csv"))
    _, _, line, *_ = capsys.readouterr().out.splitlines()
    _, mean, *_ = line.split()
    told = np.mean([value for _, value in returns("first.csv")[:2]])
    assert float(mean) == pytest.approx(told, abs=1e-5 / 2)
    assert told < 1e-2


def test_columns_of_long_numbers_stand_apart(trained):
    _, config = RunFolder.open(Path(trained("Bandit-v0", *SMALL, "--timesteps", 64)), Config)
    held = HeldParameter.of(config, {}, "action_noise", None, None)
    episodes = [Episode(0.5, mode, number, -1e-6 * (1 + number), 4) for mode in MODES for number in range(2)]
    assert evaluation._table(episodes, held)[1].split() == ["0.5", *["-0.00000150", "±", "0.00000050"] * 2]


def test_environments_are_closed_and_are_filmed_without_a_frame_rate(trained):
    run = trained("Bandit-v0", *SMALL, "--timesteps", 64)
    before = Bandit.opened
    grid = ["--param", "action_noise", "--values", "0,0.1", "--episodes", "1"]
    assert play(run, *grid, "--output", "grid.png", "--record", "film.mp4") == 0
    assert Bandit.opened == before
    assert Path("film.mp4").stat().st_size > 0


def test_a_frame_rate_of_zero_is_none(trained):
    run = trained("Still-v0", *SMALL, "--timesteps", 64)
    grid = ["--param", "cart_force", "--values", "1", "--episodes", "1"]
    assert play(run, *grid, "--output", "grid.png", "--record", "film.mp4") == 0
    assert Path("film.mp4").stat().st_size > 0


def test_an_own_limit_is_not_raised_and_what_friction_is_not_in_is_named(trained, capsys):
    run = trained("Still-v0", *SMALL, "--timesteps", 64)
    grid = [run, "--param", "cart_force", "--values", "1", "--output", "grid.png"]
    assert play(*grid, "--max-episode-steps", 21) == 2
    assert "max-episode-steps must be at most 20, the environment's own limit, got 21" in capsys.readouterr().err
    assert play(*grid, "--max-episode-steps", 20) == 0
    capsys.readouterr()
    assert play(run) == 2
    error = capsys.readouterr().err
    assert "nothing changes in this run, and friction cannot be held in it: " in error
    assert "--param names what can, such as observation_noise" in error


@pytest.mark.parametrize(
    ("algo", "env", "param"), [("dqn", "CartPole-v1", "cart_force"), ("td3", "Pendulum-v1", "pendulum_mass")]
)
def test_policies_that_draw_no_actions_are_played_deterministic_alone(trained, capsys, algo, env, param):
    small = ["--set", "learning_starts=32", "--set", "batch_size=8", "--set", "net_arch=[8]", "--set", "train_freq=64"]
    run = trained(env, "--algo", algo, *small, "--timesteps", 192)
    grid = ["--param", param, "--values", "1,1.2", "--episodes", "2", "--output", "grid.png"]
    assert play(run, *grid) == 0
    assert [mode for mode, _ in returns("grid.csv")] == ["deterministic"] * 4
    first, header, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith(f"; a policy of {algo} draws no actions: deterministic alone")
    assert header.split()[-1] == "deterministic"


@pytest.mark.parametrize("n_envs", [1, 2])
def test_the_phase_of_a_checkpoint_is_the_one_in_which_its_last_step_was_made(trained, n_envs):
    """Episodes of 200 steps, and a period of 399: the second ends with the last step, and the reset begins phase 1."""
    small = ["--set", f"rollout_steps={400 * n_envs}", "--set", "batch_size=40", "--set", "n_epochs=1", "--set", "net_arch=[8]"]
    change = ["--param", "pendulum_mass", "--period", 399 * n_envs, "--n-envs", n_envs, "--timesteps", 400 * n_envs]
    run = trained("Pendulum-v1", *change, *small)
    (phase,) = json.loads(Path(run, "summary.json").read_text())["phases"]
    folder, config = RunFolder.open(Path(run), Config)
    found = load_policy(folder, config)
    assert (found.phase, found.values) == (0, {"pendulum_mass": pytest.approx(phase["pendulum_mass"])})
