from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv

import envs

OPTIONS = {"period": 30, "change_at": "now", "seed": 3}


def trajectory(env, steps, seed=None):
    """Observations, rewards and infos of so many steps with seeded actions."""
    generator = np.random.default_rng(0)
    seen = [env.reset(seed=seed)]
    for _ in range(steps):
        seen.append(env.step(generator.uniform(-1, 1, 8)))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


def assert_same(first, second):
    np.testing.assert_equal(first, second)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gymnasium.make("ant-nonstationary-v0", unclipped_actions=True, terminate_after=40, **OPTIONS),
        lambda: envs.NonStationary(gymnasium.make("Ant-v5", max_episode_steps=40), low=0.1, **OPTIONS),
    ],
    ids=["registered", "wrapped"],
)
def test_a_spec_written_as_json_makes_the_same_environment(make):
    env = make()
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert_same(trajectory(env, 100, seed=1), trajectory(again, 100, seed=1))


CHANGES = {
    "several": {"parameter": {"mass:torso": {}, "strength": {"schedule": "sine"}, "action_delay": {}}, "observe": True},
    "noise": {"parameter": "observation_noise", "low": 0.05, "high": 0.2},
    "by factor": {"parameter": "friction", "factor": True, "low": 0.5, "high": 0.9},
    "composed": {"schedule": {"name": "sum", "schedules": ["random_walk", {"name": "saw", "length": 3}]}},
    "episodes": {"parameter": "armature", "count": "episodes", "period": 1, "change_at": "episode_end"},
    "list": {"parameter": "gravity_tilt", "schedule": {"name": "list", "values": [-10, 20], "at_end": "hold"}},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_whatever_changes_goes_through_a_spec_a_pickle_and_a_deep_copy(changes):
    env = gymnasium.make("ant-nonstationary-v0", **(OPTIONS | changes), max_episode_steps=20)
    wrapped = envs.NonStationary(gymnasium.make("Ant-v5", max_episode_steps=20), **(OPTIONS | changes))
    for each in (env, wrapped):
        copies = [
            gymnasium.make(EnvSpec.from_json(each.spec.to_json())),
            pickle.loads(pickle.dumps(each)),  # noqa: S301
            copy.deepcopy(each),
        ]
        expected = trajectory(each, 95, seed=1)
        assert expected[-1][-1]["phase"] >= 3
        for clone in copies:
            assert_same(trajectory(clone, 95, seed=1), expected)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["deepcopy", "pickle"])  # noqa: S301
@pytest.mark.parametrize("change_at", ["episode_end", "now"])
def test_a_copy_goes_on_in_mid_phase(duplicate, change_at, contact_frictions):
    env = gymnasium.make("ant-nonstationary-v0", period=30, change_at=change_at, max_episode_steps=25)
    trajectory(env, 110, seed=2)
    clone = duplicate(env)
    state = [env.get_wrapper_attr(name) for name in ("value", "phase", "steps_in_phase")]
    assert [clone.get_wrapper_attr(name) for name in ("value", "phase", "steps_in_phase")] == state
    assert state[1] >= 2
    assert state[2] > 0
    assert clone.unwrapped.model is not env.unwrapped.model
    assert (clone.unwrapped.model.geom_friction[:, 0] == state[0]).all()

    # Gymnasium rebuilds the simulation and its generator; with equal generators both must go on alike.
    env.unwrapped.np_random, clone.unwrapped.np_random = np.random.default_rng(0), np.random.default_rng(0)
    assert_same(trajectory(env, 100), trajectory(clone, 100))

    clone.reset()
    contacts = 0
    for _ in range(60):
        info = clone.step(np.zeros(8))[4]
        measured = contact_frictions(clone)
        assert (measured == info["friction"]).all()
        contacts += len(measured)
        if clone.get_wrapper_attr("_elapsed_steps") == 25:
            clone.reset()
    assert contacts > 20


def test_a_copy_of_an_unseeded_environment_draws_the_same_values():
    env = gymnasium.make("ant-nonstationary-v0", period=1, change_at="now")
    clone = copy.deepcopy(env)
    first, second = ([item[-1]["friction"] for item in trajectory(each, 10) if len(item) == 5] for each in (env, clone))
    assert first == second


def test_a_copy_and_its_original_do_not_share_physics():
    env = gymnasium.make("ant-nonstationary-v0", **OPTIONS)
    env.reset()
    clone = copy.deepcopy(env)
    trajectory(clone, 40)
    assert clone.get_wrapper_attr("phase") == 1
    assert env.get_wrapper_attr("phase") == 0
    assert (env.unwrapped.model.geom_friction[:, 0] == env.get_wrapper_attr("value")).all()


def test_infos_come_through_an_async_vector_env():
    vector = gymnasium.make_vec("ant-nonstationary-v0", 2, "async", period=4, change_at="now", seed=1)
    try:
        vector.reset(seed=0)
        infos = [vector.step(np.zeros((2, 8)))[4] for _ in range(10)]
    finally:
        vector.close()
    assert [info["phase"].tolist() for info in infos] == [[0, 0]] * 4 + [[1, 1]] * 4 + [[2, 2]] * 2
    assert [info["changed"].all() for info in infos] == [step in (0, 4, 8) for step in range(10)]
    frictions = np.array([info["friction"] for info in infos])
    assert (frictions[:, 0] == frictions[:, 1]).all()
    assert len(np.unique(frictions)) == 3


def test_attributes_are_seen_through_an_sb3_vec_env():
    vector = DummyVecEnv([lambda: gymnasium.make("ant-nonstationary-v0", **OPTIONS)] * 2)
    vector.seed(0)
    vector.reset()
    _, _, _, infos = vector.step(np.zeros((2, 8)))
    assert vector.get_attr("value") == [info["friction"] for info in infos]
    assert vector.get_attr("phase") == [0, 0]
    assert infos[0]["friction"] == infos[1]["friction"]


@pytest.mark.filterwarnings("ignore:.*different from the unwrapped version.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*we recommend using a symmetric and normalized.*:UserWarning")
@pytest.mark.parametrize("options", [{}, {"unclipped_actions": True, "terminate_after": 1000}, OPTIONS, *CHANGES.values()])
def test_gymnasiums_checker_passes(options):
    check_env(gymnasium.make("ant-nonstationary-v0", **options), skip_render_check=True)


@pytest.mark.filterwarnings("ignore:.*A Box observation space (minimum|maximum) value is.*:UserWarning")
def test_gymnasiums_checker_passes_on_a_sequence_of_tasks():
    check_env(envs.TaskSequence(["HalfCheetah-v5", "Walker2d-v5"], period=50, seed=0), skip_render_check=True)


@pytest.mark.filterwarnings("ignore:We recommend you to use a symmetric and normalized Box action space:UserWarning")
@pytest.mark.parametrize("options", [{}, {"unclipped_actions": True, "terminate_after": 1000}, OPTIONS])
def test_stable_baselines3s_checker_passes(options):
    sb3_check_env(gymnasium.make("ant-nonstationary-v0", **options))


def test_the_package_imports_gymnasium_mujoco_and_numpy_only():
    code = "import envs, envs.ant, sys; print({'torch', 'stable_baselines3', 'scipy', 'cbp', 'agents'} & sys.modules.keys())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


def test_a_saved_state_goes_on_in_another_environment_with_the_same_values():
    first, second = (gymnasium.make("ant-nonstationary-v0", period=5, change_at="now", seed=seed) for seed in (1, 2))
    first.reset(seed=0)
    for _ in range(12):
        first.step(first.action_space.sample())
    second.reset(seed=0)
    wrapper = second.env.env.env
    wrapper.load_state_dict(json.loads(json.dumps(first.env.env.env.state_dict())))
    assert (second.unwrapped.model.geom_friction[:, 0] == wrapper.value).all()
    for _ in range(20):
        infos = [env.step(np.zeros(8))[4] for env in (first, second)]
        assert [(i["friction"], i["phase"], i["changed"]) for i in infos[:1]] == [
            (i["friction"], i["phase"], i["changed"]) for i in infos[1:]
        ]
