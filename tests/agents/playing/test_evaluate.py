"""Policies of real runs played again, on real MuJoCo, rendered by real drivers."""

from __future__ import annotations

import csv
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import gymnasium
import imageio.v2 as imageio
import numpy as np
import processes
import pytest
import stable_baselines3
import torch
from gymnasium.envs import mujoco as mujoco_envs
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from matplotlib.image import imread

from agents import evaluate, train
from agents.playing import evaluation
from agents.playing.episodes import MODES, play
from agents.playing.held import HeldParameter
from agents.playing.video import choose_renderer
from agents.runs.checkpoints import load_policy
from agents.runs.config import Config
from agents.runs.errors import UserError
from agents.runs.run_folder import RunFolder, new_file

SMALL = ["--n-envs", 4, "--set", "rollout_steps=512", "--set", "batch_size=64", "--set", "n_epochs=1", "--set", "net_arch=[16]"]
RENDERING = ("MUJOCO_GL", "PYOPENGL_PLATFORM")
CLEAN = {name: value for name, value in os.environ.items() if name not in RENDERING}


def make_run(folder, *arguments):
    processes.run("agents.train", *arguments, "--run-dir", folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in which two parameters change, with normalised observations."""
    change = ["--param", "friction,low=0.1,high=2", "--param", "gravity,low=5,high=15", "--period", 400]
    folder = tmp_path_factory.mktemp("runs") / "run"
    return make_run(folder, "--env", "hopper-nonstationary", *change, "--normalize", "--timesteps", 1536, "--seed", 3)


@pytest.fixture(scope="module")
def observing(tmp_path_factory):
    """A run whose policy is told of the friction."""
    folder = tmp_path_factory.mktemp("runs") / "observing"
    return make_run(folder, "--env", "Hopper-v5", "--period", 400, "--observe", "--timesteps", 512)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A run whose environment does not change."""
    return make_run(tmp_path_factory.mktemp("runs") / "still", "--env", "Hopper-v5", "--timesteps", 512)


@pytest.fixture(scope="module")
def of_cart(tmp_path_factory):
    """A run without MuJoCo."""
    return make_run(tmp_path_factory.mktemp("runs") / "cart", "--env", "CartPole-v1", "--method", "ppo", "--timesteps", 512)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs ``agents.evaluate`` in this process, in a folder of its own; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for name in RENDERING:
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: evaluate.main([str(argument) for argument in arguments])


def process(*arguments, **environment):
    """Runs ``agents.evaluate`` in a process of its own: rendering leaves its traces in the environment."""
    if environment.get("MUJOCO_GL") == "none":  # in a fresh interpreter, since MuJoCo reads it while it is imported
        command = [sys.executable, "-m", "agents.evaluate", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**CLEAN, **environment})
    return processes.run("agents.evaluate", *arguments, check=False, **{**dict.fromkeys(RENDERING), **environment})


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def held_and_trained(folder, name=None):
    folder, config = RunFolder.open(folder, Config)
    trained = load_policy(folder, config)
    return HeldParameter.of(config, trained.values, name, None, None), trained


def checkpoint_of(folder):
    (*_, path) = sorted((folder / "checkpoints").iterdir())
    return torch.load(path, weights_only=True)


def values_now(folder):
    (of_first,) = [each["schedule"] for each in checkpoint_of(folder)["environments"]["each"][0] if "schedule" in each]
    return of_first["phase"], [change["value"] for change in of_first["changes"]]


# What is played


class Oracle:
    """The run's policy in Stable-Baselines3's own class, with the run's statistics of observations."""

    def __init__(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "copy")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert train.main(["--resume", str(tmp_path / "copy"), "--export", str(tmp_path / "model.zip")]) == 0
        self.model = stable_baselines3.PPO.load(tmp_path / "model.zip", device="cpu")
        self.statistics = checkpoint_of(folder)["environments"]["normalizer"]["observations"]

    def predict(self, observations, deterministic):
        """Eight rows, since as many as that are multiplied by another routine than one."""
        rows = np.zeros((8, observations.shape[1]))
        rows[: len(observations)] = observations
        mean, variance = (self.statistics[name].numpy() for name in ("mean", "var"))
        seen = np.clip((rows - mean) / np.sqrt(variance + 1e-8), -10, 10).astype(np.float32)
        return self.model.predict(seen, deterministic=deterministic)[0][: len(observations)]


def hopper(friction, gravity):
    constant = {"friction": friction, "gravity": gravity}
    described = {name: {"schedule": {"name": "constant", "value": value}} for name, value in constant.items()}
    return gymnasium.make("hopper-nonstationary-v0", parameter=described)


def test_a_plain_loop_gives_the_same_returns_to_the_bit(command, run, tmp_path, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    oracle = Oracle(run, tmp_path)
    assert command(run, "--values", "0.2,1.5", "--episodes", "2", "--seed", "7", "--output", "grid.png") == 0
    gravity = values_now(run)[1][1]
    seeds = np.random.SeedSequence(7).generate_state(2)
    found = {(row["mode"], float(row["value"]), int(row["episode"])): row for row in rows(tmp_path / "grid.csv")}
    cells = [(value, number) for value in (0.2, 1.5) for number in (0, 1)]
    assert list(found) == [(mode, *cell) for mode in MODES for cell in cells]

    for value, number in cells:
        env = hopper(value, gravity)
        observation, _ = env.reset(seed=int(seeds[number]))
        total, length, done = 0.0, 0, False
        while not done:
            observation, reward, terminated, truncated, _ = env.step(oracle.predict(observation[None], deterministic=True)[0])
            total, length, done = total + reward, length + 1, terminated or truncated
        row = found["deterministic", value, number]
        assert (float(row["return"]), int(row["length"])) == (total, length)

    # Samples are drawn for all environments at once.
    made = [hopper(value, gravity) for value, _ in cells]
    observations = np.stack([env.reset(seed=int(seeds[number]))[0] for env, (_, number) in zip(made, cells, strict=True)])
    totals, done = np.zeros(4), np.zeros(4, bool)
    torch.manual_seed(int(seeds[0]))
    while not done.all():
        actions = oracle.predict(observations, deterministic=False)
        for i in np.flatnonzero(~done):
            observations[i], reward, terminated, truncated, _ = made[i].step(actions[i])
            totals[i], done[i] = totals[i] + reward, terminated or truncated
    assert [float(found["stochastic", *cell]["return"]) for cell in cells] == list(totals)


class Measured(gymnasium.Wrapper):
    """Keeps the friction of contacts and the gravity that MuJoCo simulated with."""

    def __init__(self, env, measured):
        super().__init__(env)
        self.measured = measured

    def step(self, action):
        transition = self.env.step(action)
        data, model = self.env.unwrapped.data, self.env.unwrapped.model
        for i in range(data.ncon):
            self.measured.add((float(data.contact[i].friction[0]), float(-model.opt.gravity[2])))
        return transition


def test_an_episode_is_simulated_under_its_value_and_the_others_of_now(run):
    held, trained = held_and_trained(run)
    measured = {0.3: set(), 1.1: set()}
    episodes = play(trained, lambda value: Measured(held.make_env(value), measured[value]), [0.3, 1.1], 1, 0)
    phase, (_, gravity) = values_now(run)
    assert (phase, gravity) == (trained.phase, trained.values["gravity"])
    for value, found in measured.items():
        assert np.array(list(found)) == pytest.approx(np.array([[value, gravity]]))
    assert len({episode.total for episode in episodes}) == 4


def test_episodes_do_not_depend_on_the_number_of_threads_nor_on_the_rest_of_the_grid(run):
    held, trained = held_and_trained(run)
    threads = torch.get_num_threads()
    try:
        played = []
        for number in (1, 3):
            torch.set_num_threads(number)
            played.append(play(trained, held.make_env, [0.2, 1.0, 2.0], 3, 5))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert played[0] == played[1]
    alone = play(trained, held.make_env, [1.0], 2, 5)
    known = [episode for episode in played[0] if episode.value == 1.0 and episode.number < 2]
    assert alone[:2] == known[:2]  # deterministic ones


def test_values_are_the_same_on_every_processor(run):
    """NumPy's exp and log differ in last digits with AVX-512: between 0.02 and 2 was 0.2 or 0.20000000000000004."""
    config = RunFolder.open(run, Config)[1]

    def between(low, high, points):
        return HeldParameter.of(config, {"friction": 1.0, "gravity": 9.81}, "friction", low, high).values(points)

    assert between(0.02, 2.0, 3) == [0.02, 0.2, 2.0]
    values = between(1 / 3, 2 / 3, 50)
    assert (values[0], values[-1], len(values)) == (1 / 3, 2 / 3, 50)
    assert [value for value in values[1:-1] if len(repr(value)) > len("0.123456789012")] == []
    close = 1 / 3, 1 / 3 + 1e-15
    assert {*between(*close, 9)} <= {*close}


def test_another_seed_gives_other_episodes(run):
    held, trained = held_and_trained(run)
    first, other = (play(trained, held.make_env, [1.0], 2, seed) for seed in (0, 1))
    assert not {episode.total for episode in first} & {episode.total for episode in other}


@pytest.mark.parametrize(("name", "value"), [("friction:foot_geom", 0.3), ("gravity", 5.0)])
def test_a_part_is_held_at_values_that_would_do_nothing_by_themselves(run, name, value):
    config = replace(RunFolder.open(run, Config)[1], param={"friction:foot_geom": {}}, change={})
    now = {"friction:foot_geom": 0.4}  # the floor, of 1, decides there
    env = HeldParameter.of(config, now, name, None, None).make_env(value)
    for seed in (0, None):
        info = env.reset(seed=seed)[1]
        expected = {**now, name: value}
        assert {each: info[each] for each in expected} == expected
        assert env.unwrapped.model.geom("foot_geom").friction[0] == expected["friction:foot_geom"]


def test_a_policy_that_is_told_of_friction_is_told_of_it_and_of_nothing_else(observing):
    held, _ = held_and_trained(observing)
    assert held.make_env(0.7).reset(seed=0)[0][-1] == 0.7
    other, trained = held_and_trained(observing, "gravity")
    observation, info = other.make_env(5.0).reset(seed=0)
    assert observation.shape == (12,)
    assert observation[-1] == trained.values["friction"]
    assert info["gravity"] == 5.0


# What is printed and written


@pytest.mark.usefixtures("rendered")
def test_table_picture_and_episodes_of_a_run_that_is_at_work(command, run, capsys):
    before = content(run)
    lock = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", lock, str(run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process"), RunFolder(run).locked():
            pass
        assert command(run, "--points", "4", "--episodes", "2") == 0
    finally:
        holder.communicate("\n")
    picture, table = (run / f"evaluation-1536-friction.{ending}" for ending in ("png", "csv"))
    after = content(run)
    assert after.keys() - before.keys() == {picture, table}
    assert {path: after[path] for path in before} == before
    assert imread(picture).shape[0] > 500
    assert imread(picture).std() > 0.05  # not an empty picture
    episodes = rows(table)
    assert len(episodes) == 2 * 4 * 2
    values = sorted({float(row["value"]) for row in episodes})
    assert values == pytest.approx(np.geomspace(0.1, 2, 4))

    phase, (friction, gravity) = values_now(run)
    lines = capsys.readouterr().out.splitlines()
    now = f"phase {phase} with friction {friction:.3g}; gravity stays at {gravity:.3g}"
    assert lines[0] == f"hopper-nonstationary-v0, method cbp, seed 3, at step 1,536, {now}"
    assert lines[1].split() == ["friction", *MODES]
    for line, value in zip(lines[2:6], values, strict=True):
        expected = []
        for mode in MODES:
            one, other = (float(row["return"]) for row in episodes if float(row["value"]) == value and row["mode"] == mode)
            # The standard error of two numbers is half their distance: |x − y|/√2 over √2.
            expected += [f"{(one + other) / 2:,.1f}", "±", f"{abs(one - other) / 2:,.1f}"]
        assert line.split() == [f"{value:.4g}", *expected]
    assert lines[6] == f"Done: {picture}, {table}"

    assert command(run, "--points", "4") == 2
    assert capsys.readouterr().err == f"error: '{picture}' exists already\n"
    assert content(run) == after


def test_a_run_that_does_not_change_is_played_over_friction_or_another_parameter(command, still, capsys, tmp_path):
    assert command(still, "--points", "2", "--episodes", "1", "--output", "friction.svg") == 0
    assert capsys.readouterr().out.startswith("Hopper-v5, method cbp, seed 0, at step 512\n")
    assert {float(row["value"]) for row in rows(tmp_path / "friction.csv")} == {0.02, 2.0}
    wind = ["--param", "gravity_tilt", "--low", "-3", "--points", "3", "--episodes", "1", "--output", "tilt.png"]
    assert command(still, *wind) == 0
    assert sorted({float(row["value"]) for row in rows(tmp_path / "tilt.csv")}) == [-3.0, 1.0, 5.0]


def endless(run, tmp_path):
    """The run, in an environment whose episodes nothing ends."""
    folder = shutil.copytree(run, tmp_path / "endless")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("Hopper-v5", "Endless-v0"))
    return folder


@pytest.fixture
def without_limit():
    made = {"entry_point": mujoco_envs.hopper_v5.HopperEnv, "kwargs": {"terminate_when_unhealthy": False}}
    gymnasium.register("Endless-v0", **made)
    yield
    gymnasium.registry.pop("Endless-v0")


def test_an_episode_that_nothing_ends_is_cut(without_limit, command, still, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_MOST_STEPS", 30)
    grid = ["--values", "0.5,1", "--episodes", "1"]
    assert command(endless(still, tmp_path), *grid, "--output", "default.png") == 0
    assert "4 of 4 episodes were cut after 30 steps (--max-episode-steps)." in capsys.readouterr().out.splitlines()
    assert command(tmp_path / "endless", *grid, "--output", "given.png", "--max-episode-steps", 7) == 0
    assert [int(row["length"]) for name in ("default", "given") for row in rows(tmp_path / f"{name}.csv")] == [30] * 4 + [7] * 4


def test_an_environment_with_a_limit_of_its_own_keeps_it(command, still, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_MOST_STEPS", 3)
    assert command(still, "--values", "1", "--episodes", "1", "--output", "own.png") == 0
    assert min(int(row["length"]) for row in rows(tmp_path / "own.csv")) > 3
    assert "cut" not in capsys.readouterr().out


def test_ctrl_c_leaves_nothing(run, tmp_path):
    arguments = [run, "--values", "1", "--episodes", "4000", "--output", tmp_path / "picture.png"]
    started = processes.Started("agents.evaluate", *arguments)
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.iterdir()):
            assert time.monotonic() < deadline
            assert started.poll() is None
            time.sleep(0.05)
        while not started.printed()[0]:
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
    finally:
        _, error = started.communicate()
    assert started.returncode == 130
    assert error.splitlines()[-1] == "Stopped at once; nothing more was written."
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_finished_is_not_left(tmp_path):
    def write():
        with new_file(tmp_path / "picture") as new:
            new.write_text("half")
            Path("/dev/full").write_text("more")

    with pytest.raises(UserError, match=r"cannot write '.*picture': No space left"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_file_that_another_process_has_made_meanwhile_stays(tmp_path):
    path = tmp_path / "picture"

    def write():
        with new_file(path) as new:
            new.write_text("second")
            path.write_text("another's")

    with pytest.raises(UserError, match="picture' exists already"):
        write()
    assert (path.read_text(), [*tmp_path.iterdir()]) == ("another's", [path])


def test_a_file_is_finished_where_there_are_no_links(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "hardlink_to", functools.partial(os.link, tmp_path / "no such file"))
    with new_file(tmp_path / "picture") as new:
        new.write_text("whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("picture", "whole")]


def test_a_part_whose_name_has_a_slash_names_a_file_too(command, tmp_path):
    model = Path(mujoco_envs.__file__).parent / "assets" / "hopper.xml"
    (tmp_path / "hopper.xml").write_text(model.read_text().replace("foot_geom", "foot/geom"))
    of_file = ["--env", "Hopper-v5", "--env-kwargs", f"xml_file={tmp_path / 'hopper.xml'}", "--timesteps", 512]
    folder = make_run(tmp_path / "run", *of_file)
    assert command(folder, "--param", "friction:foot/geom", "--values", "3", "--episodes", "1") == 0
    assert sorted(path.name for path in folder.glob("evaluation*")) == [
        "evaluation-512-friction-foot-geom.csv",
        "evaluation-512-friction-foot-geom.png",
    ]


# Films


@functools.cache
def renders(name):
    """Whether a library draws here. That it does not is an error where it is installed for these tests, as ``.ci/run`` says."""
    with patch.dict(os.environ, CLEAN, clear=True):
        try:
            return choose_renderer(name) == name
        except UserError:
            if "TESTS_MUST_RENDER" in os.environ:
                raise
            return False


def decode(film):
    """The pictures of a film in a second, and all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # ImageIO leaves the pipes to its decoder open
        with imageio.get_reader(film) as reader:
            return reader.get_meta_data()["fps"], [frame.astype(int) for frame in reader]


@pytest.mark.parametrize("name", ["egl", pytest.param("osmesa", marks=pytest.mark.slow)])
def test_a_film_shows_an_episode_under_each_value_with_the_value_in_the_picture(name, run, tmp_path):
    if not renders(name):
        pytest.skip(f"{name} does not work here")
    film, picture = tmp_path / "film.mp4", tmp_path / "grid.png"
    before = content(run)
    arguments = ["--values", "0.1,2", "--episodes", "1", "--output", picture, "--record", film]
    done = process(run, *arguments, MUJOCO_GL=name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"Rendering by {name}."
    assert "Exception ignored" not in done.stderr
    assert content(run) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "grid.csv", "grid.png"]

    rate, frames = decode(film)
    # Hopper has 125 steps a second: each 5th, and the last, and then that for half a second.
    lengths = [int(row["length"]) for row in rows(tmp_path / "grid.csv") if row["mode"] == "deterministic"]
    numbers = [1 + -(-length // 5) + 12 for length in lengths]
    assert rate == 25
    assert len(frames) == sum(numbers)
    assert {frame.shape for frame in frames} == {(480, 480, 3)}
    first, second = frames[0], frames[numbers[0]]
    moved = np.abs(frames[numbers[0] - 1] - first)
    assert moved[100:].mean() > 1  # it falls
    between = np.abs(second - first)
    # The start is the same, up to what the encoder loses; what is written above it is another value.
    assert (between[:40] > 100).any()
    assert not (between[100:] > 100).any()


@pytest.mark.slow
def test_without_values_a_film_shows_both_ends_and_the_value_of_now_and_can_be_made_later(run, tmp_path):
    if not (renders("egl") or renders("osmesa")):
        pytest.skip("nothing renders here")
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run").glob("evaluation*"):
        path.unlink()
    grid = ["--episodes", "1", "--points", "2"]
    assert process(tmp_path / "run", *grid).returncode == 0
    before = content(tmp_path / "run")
    film = tmp_path / "film.mp4"
    done = process(tmp_path / "run", *grid, "--record", film)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Done: {film}"
    assert "is there already: the film alone is made." in done.stdout
    assert content(tmp_path / "run") == before
    _, frames = decode(film)
    standing = [not (np.abs(frame - frames[0])[100:] > 100).any() for frame in frames]
    starts = [i for i, stands in enumerate(standing) if stands and not (i and standing[i - 1])]
    assert len(starts) == 3
    again = process(tmp_path / "run", *grid, "--record", film)
    assert (again.returncode, again.stderr) == (2, f"error: '{film}' exists already\n")


OF_CART = ["--param", "cart_gravity", "--values", "1", "--episodes", "1"]


def test_an_environment_without_mujoco_is_filmed_where_mujoco_cannot_draw(of_cart, tmp_path):
    film, picture = tmp_path / "film.mp4", tmp_path / "grid.png"
    done = process(of_cart, *OF_CART, "--output", picture, "--record", film, PYOPENGL_PLATFORM="glx")
    assert done.returncode == 0, done.stderr
    assert "Rendering" not in done.stdout
    assert done.stdout.splitlines()[-2:] == [f"Done: {picture}, {tmp_path / 'grid.csv'}", f"Done: {film}"]
    (length,) = [int(row["length"]) for row in rows(tmp_path / "grid.csv") if row["mode"] == "deterministic"]
    rate, frames = decode(film)
    assert (rate, {frame.shape for frame in frames}) == (25, {(400, 600, 3)})  # CartPole has 50 steps a second
    assert len(frames) == 1 + -(-length // 2) + 12


def break_the_camera():
    def render(_):
        raise AttributeError("no lens")

    CartPoleEnv.render = render


def press_ctrl_c_while_it_films():
    def render(_):
        os.kill(os.getpid(), signal.SIGINT)

    CartPoleEnv.render = render


@pytest.mark.parametrize(
    ("prepare", "code", "words"),
    [
        (break_the_camera, 1, "error: no film of the episode under cart_gravity 1 times its own: AttributeError: no lens"),
        (press_ctrl_c_while_it_films, 130, "Stopped at once; nothing more was written."),
    ],
)
def test_picture_and_table_stay_where_no_film_comes_of_it(of_cart, tmp_path, prepare, code, words):
    arguments = [of_cart, *OF_CART, "--output", tmp_path / "grid.png", "--record", tmp_path / "film.mp4"]
    done = processes.run("agents.evaluate", *arguments, check=False, prepare=prepare, **dict.fromkeys(RENDERING))
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.csv", "grid.png"]


def test_where_egl_is_missing_osmesa_is_taken(tmp_path):
    if not renders("osmesa"):
        pytest.skip("osmesa does not work here")
    # The folder in which EGL's loader looks for drivers has none.
    with patch.dict(os.environ, {**CLEAN, "__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path)}, clear=True):
        assert choose_renderer(None) == "osmesa"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PYOPENGL_PLATFORM": "glx"}, "neither egl nor osmesa can draw off-screen here"),  # MuJoCo refuses both then
        pytest.param({"MUJOCO_GL": "none"}, "MUJOCO_GL=none cannot draw off-screen here", marks=pytest.mark.slow),
        ({"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "egl"}, "MUJOCO_GL=osmesa cannot draw off-screen here"),
    ],
)
def test_where_nothing_renders_one_line_names_the_packages(environment, words, run, tmp_path):
    arguments = ["--values", "1", "--output", tmp_path / "grid.png", "--record", tmp_path / "film.mp4"]
    done = process(run, *arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    packages = "Debian's packages are libegl1 and libgl1-mesa-dri for egl, libosmesa6 for osmesa"
    assert done.stderr == f"error: {words}; {packages}\n"
    assert not list(tmp_path.iterdir())


def test_names_that_do_not_exist_render_nothing():
    with pytest.raises(UserError, match="neither these nor those can draw"):
        choose_renderer(None, ["these", "those"])


def hide_the_extra():
    sys.modules["imageio_ffmpeg"] = None  # as Python marks what cannot be imported


def test_without_the_extra_one_line_names_it(run, tmp_path):
    arguments = [run, "--record", tmp_path / "film.mp4"]
    unset = dict.fromkeys(RENDERING)
    done = processes.run("agents.evaluate", *arguments, check=False, prepare=hide_the_extra, **unset)
    assert done.returncode == 2
    assert done.stderr == "error: recording needs 'imageio_ffmpeg': pip install 'continual-backprop[video]'\n"
    assert not list(tmp_path.iterdir())


# Bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--values", "0.1,,1"], "--values must be numbers with commas between, such as 0.1,0.5,2; got '0.1,,1'"),
        (["--values", "0,1"], "friction must be a finite number of at least 1e-05, got 0.0"),
        (["--values", "nan"], "must be a finite number"),
        (["--values", "1,inf"], "must be a finite number"),
        (["--values", "1", "--points", "3"], "--values says which, and takes no --points"),
        (["--values", "1", "--low", "0.1"], "takes no --low"),
        (["--points", "1"], "points must be a whole number >= 2, got 1"),
        (["--low", "3"], "low must be at most high, got low=3.0 and high=2.0"),
        (["--low", "0"], "low must be a finite number of at least 1e-05, got 0.0"),
        (["--param", "frction"], "unknown parameter 'frction'; did you mean 'friction'?"),
        (["--param", "wind"], "wind needs a medium (density or viscosity above 0), which Hopper-v5 lacks"),
        (["--param", "mass:torsoo"], "did you mean 'torso'?"),
        (["--param", "action_delay", "--values", "0.5"], "must be a whole number, got 0.5"),
        (["--episodes", "0"], "episodes must be a whole number >= 1, got 0"),
        (["--episodes", "x"], "--episodes"),
        (["--episodes", "1000000000000000"], "episodes must be at most 100,000, got 1,000,000,000,000,000"),
        (["--points", "1000000000000000"], "points must be at most 1,000, got 1,000,000,000,000,000"),
        (["--max-episode-steps", "0"], "max-episode-steps must be a whole number >= 1, got 0"),
        (["--seed", "-1"], "seed must be a whole number >= 0, got -1"),
        (["--output", "there.png"], "'there.png' exists already"),
        (["--output", "with.png"], "'with.csv' exists already"),
        (["--output", "no/where.png"], "cannot write 'no/where.png': No such file or directory"),
        (["--output", "there.png/picture.png"], "cannot write 'there.png/picture.png': Not a directory"),
        (["--output", f"{'a' * 300}.png"], "File name too long"),
        (["--output", "picture.docx"], "--output must end in "),
        (["--record", "film.gif"], "--record must end in .mp4, got 'film.gif'"),
        (["--record", "there.mp4"], "'there.mp4' exists already"),
        (["--record", "no/film.mp4"], "cannot write 'no/film.mp4': No such file or directory"),
    ],
)
def test_bad_input_ends_with_one_line_and_leaves_no_file(arguments, words, command, still, capsys, tmp_path):
    kept = [tmp_path / name for name in ("there.png", "there.mp4", "with.csv")]
    for path in kept:
        path.write_text("kept")
    before = content(still)
    assert command(still, *arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert words in error
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert {path.read_text() for path in kept} == {"kept"}
    assert content(still) == before


def test_what_is_no_run_with_a_policy_is_refused(command, run, capsys, tmp_path):
    assert command(tmp_path / "nowhere") == 2
    assert "is no run: it has no config.json" in capsys.readouterr().err
    (tmp_path / "young").mkdir()
    shutil.copy(run / "config.json", tmp_path / "young")
    assert command(tmp_path / "young") == 2
    assert "has no checkpoint yet; one is written every 5 minutes and at the end" in capsys.readouterr().err
    shutil.copytree(run, tmp_path / "damaged")
    for path in (tmp_path / "damaged" / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert command(tmp_path / "damaged") == 2
    *passed_over, last = capsys.readouterr().err.splitlines()
    assert all("is damaged: " in line and "passed over" in line for line in passed_over)
    assert last == f"error: every checkpoint in '{tmp_path / 'damaged' / 'checkpoints'}' is damaged"
    shutil.copytree(run, tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"hopper-nonstationary-v0"', '"walker2d-nonstationary-v0"'))
    assert command(tmp_path / "other") == 2
    assert "is not one of this run" in capsys.readouterr().err.splitlines()[-1]


def test_a_supervised_run_is_refused(command, capsys, tmp_path):
    from agents import learn

    problem = ["--problem", "slowly-changing-regression", "--examples", "10000", "--run-dir", str(tmp_path)]
    assert learn.main([*problem, "--method", "backprop"]) == 0
    (folder,) = [path.parent for path in tmp_path.rglob("config.json")]
    capsys.readouterr()
    before = content(tmp_path)
    assert command(folder) == 2
    assert capsys.readouterr().err == (
        f"error: '{folder}' is a run of agents.learn, in which no policy acts; RUN is a run of agents.train\n"
    )
    assert content(tmp_path) == before
