from __future__ import annotations

import copy
import functools
import random
import threading
import time
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import ThreadedVecEnv


@pytest.fixture
def environment_threads():
    """The threads started since the test began; those of earlier tests end whenever their environments are collected."""

    def at_work():
        return {thread for thread in threading.enumerate() if thread.name.startswith("environments")}

    earlier = at_work()
    return lambda: at_work() - earlier


class Scripted(gymnasium.Env):
    """Does at each step, and at each reset, what it was given to do."""

    observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (2,), np.float32), "b": spaces.Discrete(5)})
    action_space = spaces.Discrete(2)

    def __init__(self, at_step=lambda _: None, at_reset=lambda _: None):
        self.at_step, self.at_reset, self.steps, self.resets, self.closed = at_step, at_reset, 0, 0, False

    def observe(self):
        return {"a": np.full(2, self.steps, np.float32), "b": self.steps % 5}

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        self.at_reset(self.resets)
        return self.observe(), {"resets": self.resets}

    def step(self, action):
        self.steps += 1
        self.at_step(self.steps)
        return self.observe(), float(self.steps), self.steps % 4 == 0, self.steps % 3 == 0, {"steps": self.steps}

    def close(self):
        self.closed = True


def plain(value):
    """Arrays as lists, without what a clock says."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "t"}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def ant():
    return Monitor(gymnasium.make("envs:ant-nonstationary-v0", period=60, seed=0))


def pendulum():
    return Monitor(gymnasium.make("Pendulum-v1"))


@pytest.mark.parametrize("n_threads", [1, 2, 9])
@pytest.mark.parametrize("make", [ant, pendulum, Scripted], ids=["ant", "pendulum", "dict"])
def test_everything_is_as_in_sb3s_own_to_the_bit(make, n_threads):
    theirs, ours = DummyVecEnv([make] * 5), ThreadedVecEnv([make] * 5, n_threads=n_threads)
    assert ours.n_threads == min(5, n_threads)
    for vec_env in (theirs, ours):
        vec_env.seed(4)
    assert plain(ours.reset()) == plain(theirs.reset())
    theirs.action_space.seed(0)
    ends = 0
    for _ in range(210):
        actions = np.array([theirs.action_space.sample() for _ in range(5)])
        observations, rewards, dones, infos = ours.step(actions)
        expected = theirs.step(actions)
        assert plain(observations) == plain(expected[0])
        assert rewards.tolist() == expected[1].tolist()
        assert dones.tolist() == expected[2].tolist()
        assert [plain(info) for info in infos] == [plain(info) for info in expected[3]]
        assert plain(dict(enumerate(ours.reset_infos))) == plain(dict(enumerate(theirs.reset_infos)))
        ends += sum(dones)
    assert ends >= 5
    ours.close()


def test_observations_of_earlier_steps_stay_as_they_were():
    vec_env = ThreadedVecEnv([Scripted] * 2)
    first = vec_env.reset()
    results = [vec_env.step(np.zeros(2, int)) for _ in range(2)]
    assert first["a"].tolist() == [[0, 0], [0, 0]]
    assert results[0][0]["a"].tolist() == [[1, 1], [1, 1]]
    assert results[0][1].tolist() == [1, 1]
    assert [info["steps"] for info in results[0][3]] == [1, 1]


def test_two_environments_are_stepped_at_the_same_time():
    meeting = threading.Barrier(2, timeout=20)
    vec_env = ThreadedVecEnv([lambda: Scripted(lambda step: step > 1 and meeting.wait())] * 4, n_threads=2)
    vec_env.reset()
    vec_env.step(np.zeros(4, int))  # the first is taken by one after the other
    assert vec_env.step(np.zeros(4, int))[1].tolist() == [2, 2, 2, 2]


def test_no_environment_is_in_two_threads_at_once():
    inside, most = [0, 0, 0], []

    def watch(index):
        def step(_):
            inside[index] += 1
            time.sleep(0.002)
            most.append(inside[index])
            inside[index] -= 1

        return step

    vec_env = ThreadedVecEnv([lambda i=i: Scripted(watch(i)) for i in range(3)], n_threads=3)
    vec_env.reset()
    for _ in range(20):
        vec_env.step(np.zeros(3, int))
    assert most == [1] * 60


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("place", ["step", "reset"])
def test_an_error_reaches_the_caller_with_the_environments_index(place, n_threads):
    def fail(count):
        if count == 2:  # the second step; the second reset, after the third step
            raise KeyError("broken joint")

    slow = [lambda: Scripted(lambda _: time.sleep(0.05))] * 2
    broken = (lambda: Scripted(at_step=fail)) if place == "step" else (lambda: Scripted(at_reset=fail))
    vec_env = ThreadedVecEnv([*slow, broken, slow[0]], n_threads=n_threads)
    vec_env.reset()
    actions = np.zeros(4, int)
    for _ in range(1 if place == "step" else 2):
        vec_env.step(actions)
    with pytest.raises(RuntimeError, match=r"environment 2 failed: KeyError: 'broken joint'") as caught:
        vec_env.step(actions)
    assert isinstance(caught.value.__cause__, KeyError)
    steps = [env.steps for env in vec_env.envs]
    time.sleep(0.1)
    assert [env.steps for env in vec_env.envs] == steps  # nobody is at work any more
    assert vec_env.step(actions)[1][2] == steps[2] + 1
    vec_env.reset()
    vec_env.close()


@pytest.mark.parametrize("fails_in_the_callers_thread", [True, False])
def test_an_error_of_any_thread_reaches_the_caller_once_all_have_finished(fails_in_the_callers_thread):
    meeting, caller, finished = threading.Barrier(2, timeout=20), threading.current_thread(), []

    def step(number):
        if number == 1:
            return
        meeting.wait()  # one environment in each of the two threads
        if (threading.current_thread() is caller) is fails_in_the_callers_thread:
            raise KeyError("broken joint")
        time.sleep(0.1)
        finished.append(True)

    vec_env = ThreadedVecEnv([lambda: Scripted(step)] * 2, n_threads=2)
    vec_env.reset()
    vec_env.step(np.zeros(2, int))
    with pytest.raises(RuntimeError, match=r"environment [01] failed: KeyError: 'broken joint'"):
        vec_env.step(np.zeros(2, int))
    assert finished == [True]
    vec_env.close()


@pytest.mark.parametrize("n_threads", [0, -1, 1.5, "2", True])
def test_a_number_of_threads_that_is_none_is_refused(n_threads):
    with pytest.raises(ValueError, match=r"n_threads must be a whole number >= 1, or None; got"):
        ThreadedVecEnv([Scripted], n_threads=n_threads)


def test_the_default_is_torchs_number_of_threads_up_to_four():
    before = torch.get_num_threads()
    try:
        for threads, environments, expected in ((1, 8, 1), (2, 8, 2), (16, 8, 4), (16, 3, 3)):
            torch.set_num_threads(threads)
            assert ThreadedVecEnv([Scripted] * environments).n_threads == expected
    finally:
        torch.set_num_threads(before)


def test_closing_ends_the_threads_and_closes_every_environment(environment_threads):
    vec_env = ThreadedVecEnv([Scripted] * 4, n_threads=3)
    vec_env.reset()
    vec_env.step(np.zeros(4, int))
    assert environment_threads()
    vec_env.close()
    assert not environment_threads()
    assert all(env.closed for env in vec_env.envs)


def test_what_was_closed_can_be_used_again_where_its_environments_can(environment_threads):
    vec_env = ThreadedVecEnv([lambda: gymnasium.make("CartPole-v1")] * 3, n_threads=2)
    first = vec_env.seed(0) and vec_env.reset()
    vec_env.close()
    vec_env.close()
    assert np.array_equal(vec_env.seed(0) and vec_env.reset(), first)
    assert vec_env.step(np.ones(3, int))[1].tolist() == [1.0] * 3
    vec_env.close()
    assert not environment_threads()


def test_actions_may_be_a_list():
    for name, action in (("CartPole-v1", 1), ("Hopper-v5", np.ones(3, np.float32))):
        observations = []
        for kind in (DummyVecEnv, ThreadedVecEnv):
            vec_env = kind([functools.partial(gymnasium.make, name)] * 2)
            vec_env.seed(0)
            vec_env.reset()
            observations.append(vec_env.step([action, action])[0])
        assert np.array_equal(*observations)


def test_another_global_generator_of_numpy_is_seen_too():
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(0))
        vec_env, _ = following()
        assert vec_env.one_thread_because is None
        vec_env.envs[1].draw = np.random.random
        vec_env.step(np.zeros((5, 1)))
        assert vec_env.one_thread_because == "an environment uses a global generator"
    finally:
        np.random.set_bit_generator(before)


def test_sb3_trains_on_it_as_on_its_own():
    parameters = []
    for kind in (DummyVecEnv, ThreadedVecEnv):
        vec_env = VecNormalize(kind([lambda: Monitor(gymnasium.make("Pendulum-v1"))] * 3))
        model = PPO("MlpPolicy", vec_env, n_steps=128, batch_size=64, n_epochs=2, seed=0, device="cpu").learn(768)
        parameters.append(torch.nn.utils.parameters_to_vector(model.policy.parameters()))
    assert torch.equal(*parameters)
    vec_env.close()


def test_attributes_methods_and_pictures_are_those_of_sb3s_own():
    class Pictured(Scripted):
        render_mode = "rgb_array"

        def render(self):
            return np.full((2, 2, 3), self.steps, np.uint8)

    vec_env = ThreadedVecEnv([Pictured] * 3, n_threads=2)
    vec_env.reset()
    vec_env.step(np.zeros(3, int))
    assert vec_env.render_mode == "rgb_array"
    vec_env.set_attr("steps", 3, indices=[1])
    assert vec_env.get_attr("resets") == [1, 1, 1]
    assert [observation["b"] for observation in vec_env.env_method("observe")] == [1, 3, 1]
    assert [image[0, 0, 0] for image in vec_env.get_images()] == [1, 3, 1]


# Threads


class Following(gymnasium.Env):
    """Notes the threads that it is reset and stepped in; may render, or draw from a global generator."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, draw=None, render_mode=None):
        self.draw, self.render_mode, self.threads = draw, render_mode, []

    def reset(self, *, seed=None, options=None):
        self.threads.append(threading.get_ident())
        return self.observe(), {}

    def step(self, action):
        self.threads.append(threading.get_ident())
        return self.observe(), 0.0, len(self.threads) % 7 == 0, False, {}

    def observe(self):
        return np.full(1, self.draw() if self.draw else 0.0, np.float32)


def following(steps=30, n_envs=5, n_threads=3, **kwargs):
    vec_env = ThreadedVecEnv([lambda: Following(**kwargs)] * n_envs, n_threads)
    seen = [vec_env.reset()]
    seen += [vec_env.step(np.zeros((n_envs, 1)))[0] for _ in range(steps)]
    return vec_env, np.array(seen)


def test_an_environment_stays_with_its_thread():
    vec_env, _ = following()
    threads = [env.threads for env in vec_env.envs]
    assert all(len(set(each)) == 1 for each in threads)
    assert len({each[0] for each in threads}) == 3
    assert vec_env.one_thread_because is None


def test_an_environment_that_renders_stays_with_the_calling_thread():
    vec_env, _ = following(render_mode="rgb_array")
    assert {thread for env in vec_env.envs for thread in env.threads} == {threading.get_ident()}
    assert (vec_env.n_threads, vec_env.one_thread_because) == (1, "an environment renders")


@pytest.mark.parametrize("draw", [np.random.normal, random.random], ids=["numpy", "python"])
def test_global_generators_are_used_in_the_order_of_the_environments(draw):
    def observations(n_threads):
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        return following(n_threads=n_threads, draw=draw)

    vec_env, threaded = observations(3)
    np.testing.assert_array_equal(threaded, observations(1)[1])
    assert (vec_env.n_threads, vec_env.one_thread_because) == (1, "an environment uses a global generator")


def test_pictures_of_simulations_are_taken_in_one_thread():
    class Drawn(Following):
        observation_space = gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8)

        def observe(self):
            return np.zeros((4, 4, 3), np.uint8)

    assert ThreadedVecEnv([Drawn] * 2, 2).n_threads == 2  # of no simulation
    Drawn.model = gymnasium.make("Hopper-v5").unwrapped.model
    assert ThreadedVecEnv([Drawn] * 2, 2).one_thread_because == "an environment renders"


def test_a_copy_has_threads_and_environments_of_its_own(environment_threads):
    vec_env = ThreadedVecEnv([Scripted] * 3, n_threads=2)
    vec_env.reset()
    vec_env.step(np.zeros(3, np.int64))
    copied = copy.deepcopy(vec_env)
    assert copied.step(np.zeros(3, np.int64))[0]["b"].tolist() == [2, 2, 2]
    assert [env.steps for env in vec_env.envs] == [1, 1, 1]
    assert len(environment_threads()) == 2
    vec_env.close()
    assert copied.step(np.zeros(3, np.int64))[0]["b"].tolist() == [3, 3, 3]
    copied.close()
    assert not environment_threads()
