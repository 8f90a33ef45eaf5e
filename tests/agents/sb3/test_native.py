"""Environments stepped by compiled code do what they do when Python steps them, to the bit."""

from __future__ import annotations

import re

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.wrappers import TimeAwareObservation
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import envs
from agents import ThreadedVecEnv
from agents.sb3.native import untimed
from envs import native

pytestmark = pytest.mark.filterwarnings("ignore:.*settotalmass")

CHANGING = {"period": 130, "seed": 0}
WORLDS = {
    "ant": ("ant-nonstationary-v0", CHANGING, 1),
    "ant, changed in mid-episode": ("ant-nonstationary-v0", CHANGING | {"change_at": "now"}, 1),
    "ant, changed at each step": (
        "ant-nonstationary-v0",
        {"period": 1, "seed": 0, "change_at": "now", "max_episode_steps": 90},
        1,
    ),
    "ant, every second episode": ("ant-nonstationary-v0", {"period": 2, "count": "episodes", "seed": 0}, 1),
    "ant, several parameters": (
        "ant-nonstationary-v0",
        CHANGING | {"parameter": {"mass": {}, "gravity": {}, "damping": {}}},
        1,
    ),
    "ant as published": ("ant-stationary-v0", {"terminate_after": 90}, 2),
    "ant that always goes on": ("Ant-v5", {"terminate_when_unhealthy": False, "max_episode_steps": 70}, 1),
    "Ant": ("Ant-v5", {}, 1),
    "Ant that tells its position": (
        "Ant-v5",
        {"exclude_current_positions_from_observation": False, "frame_skip": 2, "max_episode_steps": 80},
        1,
    ),
    "Ant whose contacts cost": ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.1}, 1),
    "HalfCheetah": ("HalfCheetah-v5", {"max_episode_steps": 90}, 1),
    "halfcheetah, paid otherwise": (
        "halfcheetah-nonstationary-v0",
        CHANGING | {"max_episode_steps": 90, "parameter": {"friction": {}, "forward_reward": {}, "control_cost": {}}},
        1,
    ),
    "Hopper": ("Hopper-v5", {}, 1),
    "Hopper in narrow bounds": ("Hopper-v5", {"healthy_state_range": (-2.0, 2.0), "ctrl_cost_weight": 0.3}, 1),
    "hopper": ("hopper-stationary-v0", {}, 3),
    "Walker2d": ("Walker2d-v5", {}, 1),
    "walker": ("walker2d-stationary-v0", {"terminate_after": 30}, 1),
    "Swimmer": ("Swimmer-v5", {"max_episode_steps": 90}, 1),
    "swimmer": ("swimmer-nonstationary-v0", CHANGING | {"max_episode_steps": 90}, 1),
    "Humanoid": ("Humanoid-v5", {}, 0.4),
    "humanoid whose mass changes in mid-episode": (
        "humanoid-nonstationary-v0",
        {"parameter": "mass", "period": 7, "seed": 0, "change_at": "now"},
        0.4,
    ),
    "Humanoid that observes less": (
        "Humanoid-v5",
        {"exclude_current_positions_from_observation": False, "include_cvel_in_observation": False},
        0.4,
    ),
}


def plain(value):
    """Arrays as lists, without what a clock says."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "t"}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def outcomes(vec_env, steps, scale=1.0):
    """All that a vectorised environment says in some steps, and the states that it is left in."""
    vec_env.seed(3)
    said = [plain(vec_env.reset())]
    shape = (vec_env.num_envs, *vec_env.action_space.shape)
    actions = np.random.default_rng(0).uniform(-scale, scale, (steps, *shape)).astype(np.float32)
    for action in actions:
        observation, reward, done, infos = vec_env.step(action)
        said.append([plain(observation), reward.tolist(), done.tolist(), plain(infos), plain(vec_env.reset_infos)])
    return said, [plain_state(env) for env in vec_env.envs]


def plain_state(env):
    """What a state says of wrappers and physics, without clocks and without contact forces that nobody asks for."""
    kept = []
    for layer in envs.save_state(env):
        values = {name: value for name, value in layer.get("values", {}).items() if "time" not in name and name != "t_start"}
        kept.append([layer["class"], plain(values), plain(layer.get("schedule", {}))])
        if "simulation" in layer:
            kept.append(layer["simulation"]["state"].tolist())
    return kept


@pytest.mark.parametrize(("env_id", "kwargs", "scale"), WORLDS.values(), ids=WORLDS)
def test_every_world_is_that_which_python_steps_to_the_bit(env_id, kwargs, scale):
    make = [lambda: Monitor(gymnasium.make(env_id, **kwargs))] * 3
    theirs, ours = DummyVecEnv(make), ThreadedVecEnv(make, n_threads=2)
    assert ours.stepped_in_python_because is None
    (expected, left), (found, stands) = (outcomes(vec_env, 200, scale) for vec_env in (theirs, ours))
    for t, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert other == one, f"step {t}"
    assert stands == left
    assert sum(sum(step[2]) for step in expected[1:]) >= 3  # episodes end


def test_compiled_and_own_steps_can_take_turns():
    make = [lambda: Monitor(gymnasium.make("ant-nonstationary-v0", **CHANGING))] * 2
    theirs, ours = DummyVecEnv(make), ThreadedVecEnv(make)
    for vec_env in (theirs, ours):
        vec_env.seed(0)
        vec_env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (120, 2, 8))
    for t, action in enumerate(actions):
        kind = np.float32 if t % 3 else np.float64  # these are the environment's own
        (expected, *_), (found, *_) = (vec_env.step(action.astype(kind)) for vec_env in (theirs, ours))
        assert np.array_equal(expected, found), t


def test_mujoco_does_not_time_itself_in_compiled_steps_and_does_so_again_in_python():
    vec_env = ThreadedVecEnv([lambda: gymnasium.make("ant-nonstationary-v0", seed=0)])
    vec_env.reset()
    data = vec_env.envs[0].unwrapped.data

    def timed(kind):
        before = data.timer[mujoco.mjtTimer.mjTIMER_STEP]
        duration, number = before.duration, before.number
        vec_env.step(np.zeros((1, 8), kind))
        after = data.timer[mujoco.mjtTimer.mjTIMER_STEP]
        return after.duration > duration, after.number - number

    assert [timed(kind) for kind in (np.float64, np.float32, np.float64)] == [(True, 5), (False, 5), (True, 5)]
    one, other = untimed(), untimed()  # of two threads
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    other.__exit__(None, None, None)
    assert timed(np.float64) == (True, 5)


def test_what_is_set_in_an_environment_holds_from_the_next_step_on():
    make = [lambda: Monitor(gymnasium.make("Hopper-v5"))] * 2
    theirs, ours = DummyVecEnv(make), ThreadedVecEnv(make)
    for vec_env in (theirs, ours):
        vec_env.seed(0)
        vec_env.reset()
        vec_env.step(np.ones((2, 3), np.float32))
        vec_env.env_method("set_wrapper_attr", "_ctrl_cost_weight", 5.0)
    rewards = [vec_env.step(np.ones((2, 3), np.float32))[1] for vec_env in (theirs, ours)]
    assert rewards[0].tolist() == rewards[1].tolist()
    assert rewards[0].max() < -10  # 3 · 5 is paid for the controls


def set_to(name, value):
    return lambda env: setattr(env.unwrapped, name, value)


def pay_nothing(env):
    own = env.unwrapped.step
    env.unwrapped.step = lambda action: (*own(action)[:1], 0.0, *own(action)[2:])


def pay_nothing_by_a_wrapper(env):
    own = env.step
    env.step = lambda action: (lambda observed, _, *rest: (observed, 0.0, *rest))(*own(action))


def observe_nothing(env):
    own = env.unwrapped._get_obs
    env.unwrapped._get_obs = lambda: 0 * own()


SET = {
    "a weight": ("HalfCheetah-v5", set_to("_ctrl_cost_weight", 100.0)),
    "a weight that contact forces are computed for": ("Ant-v5", set_to("_contact_cost_weight", 0.1)),
    "frame_skip": ("HalfCheetah-v5", set_to("frame_skip", 1)),
    "step": ("Hopper-v5", pay_nothing),
    "step of a wrapper": ("Hopper-v5", pay_nothing_by_a_wrapper),
    "what step calls": ("Walker2d-v5", observe_nothing),
}


@pytest.mark.parametrize(("env_id", "change"), SET.values(), ids=SET)
def test_what_a_callback_sets_in_an_environment_itself_holds_from_the_next_step_on(env_id, change):
    kwargs = {"contact_cost_weight": 0.0, "include_cfrc_ext_in_observation": False} if env_id == "Ant-v5" else {}
    make = [lambda: Monitor(gymnasium.make(env_id, max_episode_steps=25, **kwargs))] * 2
    vec_envs = DummyVecEnv(make), ThreadedVecEnv(make)
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 2, *vec_envs[0].action_space.shape)).astype(np.float32)
    seen = []
    for vec_env in vec_envs:
        vec_env.seed(0)
        vec_env.reset()
        steps = []
        for t, action in enumerate(actions):
            if t == 10:
                change(vec_env.envs[0])
            steps.append(vec_env.step(action)[:3])
        seen.append(steps)
    for t, (theirs, ours) in enumerate(zip(*seen, strict=True)):
        for expected, found in zip(theirs, ours, strict=True):
            assert np.array_equal(expected, found), t
    assert vec_envs[1].stepped_in_python_because is None


@pytest.mark.parametrize("monitored", [True, False])
def test_an_environment_that_was_not_reset_is_refused_as_by_python(monitored):
    def plain_or_monitored():
        env = gymnasium.make("Hopper-v5", disable_env_checker=True)
        return Monitor(env) if monitored else env

    make = [plain_or_monitored]
    with pytest.raises((RuntimeError, gymnasium.error.ResetNeeded)) as theirs:
        DummyVecEnv(make).step(np.zeros((1, 3), np.float32))
    with pytest.raises(RuntimeError, match="environment 0 failed") as ours:
        ThreadedVecEnv(make).step(np.zeros((1, 3), np.float32))
    assert type(ours.value.__cause__) is type(theirs.value)
    assert str(ours.value.__cause__) == str(theirs.value)


def test_where_mujocos_library_is_elsewhere_python_steps(monkeypatch):
    monkeypatch.setattr("agents.sb3.native._LIBRARY", None)
    vec_env = ThreadedVecEnv([lambda: gymnasium.make("Hopper-v5")])
    assert vec_env.stepped_in_python_because == "MuJoCo's library is not beside its Python package"
    vec_env.reset()
    vec_env.step(np.zeros((1, 3), np.float32))


# What compiled code does not step


class Slippery(HalfCheetahEnv):
    """Another class, which might have another step."""


class Doubling(gymnasium.RewardWrapper):
    def reward(self, reward):
        return 2 * reward


REFUSED = {
    "another class": (lambda: Slippery(), "Slippery is none of the environments whose step is compiled"),
    "no MuJoCo": (lambda: gymnasium.make("Pendulum-v1"), "PendulumEnv is none of the environments"),
    "a wrapper of others": (lambda: Doubling(gymnasium.make("Hopper-v5")), "the wrapper Doubling has to see every step"),
    "a wrapper of Gymnasium's": (lambda: TimeAwareObservation(gymnasium.make("Hopper-v5")), "TimeAwareObservation has to see"),
    "noise": (
        lambda: gymnasium.make("hopper-nonstationary-v0", parameter="observation_noise"),
        "observations, actions, rewards or velocities are changed in steps",
    ),
    "values observed": (
        lambda: gymnasium.make("hopper-nonstationary-v0", observe=True),
        "observations, actions, rewards or velocities are changed in steps",
    ),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_compiled_is_stepped_by_python_and_the_reason_is_told(make, reason):
    vec_env = ThreadedVecEnv([lambda: Monitor(make())] * 2)
    assert reason in vec_env.stepped_in_python_because
    assert vec_env.natives is None
    vec_env.reset()
    vec_env.step(np.array([vec_env.action_space.sample()] * 2))


def test_environments_of_several_kinds_are_stepped_by_python():
    ids = [{"frame_skip": 4}, {"frame_skip": 2}]
    vec_env = ThreadedVecEnv([lambda kwargs=kwargs: gymnasium.make("Hopper-v5", **kwargs) for kwargs in ids])
    assert vec_env.stepped_in_python_because == "the environments are of several kinds"


def test_actions_of_another_type_are_stepped_by_python(families):
    class Wide(InvertedPendulumEnv):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(-1, 1, (1,), np.float64)

    families(Wide)(Pendulum)
    assert "not the controls in float32" in ThreadedVecEnv([Wide]).stepped_in_python_because


def test_a_python_callback_of_mujoco_is_never_called_without_the_lock():
    vec_env = ThreadedVecEnv([lambda: gymnasium.make("Hopper-v5")] * 2)
    vec_env.reset()
    assert vec_env.natives is not None
    called = []
    mujoco.set_mjcb_control(lambda model, data: called.append(data.time))
    try:
        assert vec_env.natives is None
        vec_env.step(np.zeros((2, 3), np.float32))
        assert native.unsupported(vec_env.envs[0]) == "mjcb_control is a Python function"
    finally:
        mujoco.set_mjcb_control(None)
    assert called
    assert vec_env.natives is not None


# Families of one's own


class Pendulum(native.Family):
    infos = ("reward_survive",)

    @staticmethod
    def step(before, after, action, constants, observation, info):
        observation[:2] = after.qpos
        observation[2:] = after.qvel
        fallen = not np.isfinite(observation).all() or abs(observation[1]) > 0.2
        info[0] = 0.0 if fallen else 1.0
        return info[0], fallen


class Generous(Pendulum):
    @staticmethod
    def step(before, after, action, constants, observation, info):
        observation[:2] = after.qpos
        observation[2:] = after.qvel
        return 2.0, abs(observation[1]) > 0.2


class OwnPendulum(InvertedPendulumEnv):
    pass


@pytest.fixture
def families():
    from envs.native import simulation

    before = dict(simulation._FAMILIES)
    yield native.family
    simulation._FAMILIES.clear()
    simulation._FAMILIES.update(before)


def test_an_environment_of_ones_own_is_stepped_as_python_steps_it(families):
    families(OwnPendulum)(Pendulum)
    make = [lambda: Monitor(gymnasium.wrappers.TimeLimit(OwnPendulum(), 40))] * 3
    theirs, ours = DummyVecEnv(make), ThreadedVecEnv(make)
    assert ours.natives is not None
    assert outcomes(theirs, 150) == outcomes(ours, 150)


def test_a_family_that_is_not_its_environment_is_found_out_at_the_first_event(families):
    families(OwnPendulum)(Generous)
    vec_env = ThreadedVecEnv([lambda: Monitor(gymnasium.wrappers.TimeLimit(OwnPendulum(), 5))])
    vec_env.reset()
    message = "reward of OwnPendulum is 1.0, and of its family Generous 2.0: mend Generous.step, or say in Generous.unsupported"
    for _ in range(4):
        vec_env.step(np.zeros((1, 1), np.float32))
    with pytest.raises(RuntimeError, match=re.escape(f"environment 0 failed: NativeStepError: {message}")):
        vec_env.step(np.zeros((1, 1), np.float32))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 15, 16, 84, 127, 128])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_squares_are_summed_in_numpys_order(size, kind):
    numbers = np.random.default_rng(size).normal(size=(50, size)).astype(kind)
    assert [native.families.sum_of_squares(row) for row in numbers] == [np.sum(np.square(row)) for row in numbers]


@pytest.mark.parametrize("how", ["env_method", "of", "wrapper"])
@pytest.mark.parametrize(("parameter", "value"), [("timestep", 0.7), ("forward_reward", -1.0), ("healthy_reward", 0.3)])
def test_a_value_that_is_set_by_hand_counts_from_the_next_step(parameter, value, how):
    """However it is set: what compiled code has looked up would be that of before."""
    rewards = []
    for vec_env in (ThreadedVecEnv, DummyVecEnv):
        made = vec_env([lambda: gymnasium.make("envs:hopper-nonstationary-v0", parameter=parameter, period=10**6, seed=0)])
        made.seed(0)
        made.reset()
        rewards.append([])
        for step in range(10):
            if step == 5 and how == "env_method":
                made.env_method("set_value", parameter, value)
            elif step == 5 and how == "of":
                envs.NonStationary.of(made.envs[0]).set_value(parameter, value)
            elif step == 5:
                made.envs[0].get_wrapper_attr("set_value")(parameter, value)
            rewards[-1].append(made.step(np.zeros((1, 3), np.float32))[1].item())
        made.close()
    assert rewards[0] == rewards[1]
    assert rewards[0][4:6] != rewards[0][3:5]


@pytest.mark.parametrize("other", ["gravity", "strength", "mass:torso"])
def test_a_change_that_is_due_at_the_first_step_of_another_clocks_phase_acts_in_it(other):
    """A reset begins a phase of friction, and the step after it one of the other parameter."""

    def make():
        clock = {"period": 9, "change_at": "now", "schedule": {"name": "list", "values": [0.5, 5.0]}}
        inner = gymnasium.wrappers.TimeLimit(gymnasium.make("Hopper-v5"), 9)
        return Monitor(envs.NonStationary(inner, {"friction": {}, other: clock}, period=7, seed=0))

    seen = []
    for kind in (DummyVecEnv, ThreadedVecEnv):
        env = kind([make])
        env.seed(3)
        env.reset()
        seen.append([env.step(np.full((1, 3), 0.1, np.float32))[0].tolist() for _ in range(40)])
        env.close()
    assert seen[0] == seen[1]
