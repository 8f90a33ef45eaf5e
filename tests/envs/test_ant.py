from __future__ import annotations

import importlib

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import envs
from envs.ant import Ant


def make(**kwargs):
    return gymnasium.make("ant-nonstationary-v0", **kwargs)


@pytest.mark.parametrize("env_id", ["ant-nonstationary-v0", "envs:ant-nonstationary-v0"])
def test_the_registered_ids_make_the_changing_ant(env_id):
    env = gymnasium.make(env_id, period=2_000_000)
    assert env.reset()[1]["phase"] == 0
    assert env.spec.max_episode_steps == 1000
    assert env.spec.kwargs == {"base": "Ant-v5", "period": 2_000_000}


def test_the_id_without_a_version_makes_it_too_with_gymnasiums_advice():
    with pytest.warns(UserWarning, match="Using the latest versioned environment `ant-nonstationary-v0`"):
        env = gymnasium.make("ant-nonstationary", period=7)
    assert env.spec.id == "ant-nonstationary-v0"
    assert env.spec.kwargs == {"base": "Ant-v5", "period": 7}


def test_a_reload_of_the_package_registers_nothing_again():
    spec = gymnasium.registry["ant-nonstationary-v0"]
    importlib.reload(envs)
    assert gymnasium.registry["ant-nonstationary-v0"] is spec


def test_it_is_gymnasiums_ant_without_contact_forces():
    env = make(low=1.0, high=1.0)
    plain = gymnasium.make("Ant-v5")
    first, _ = env.reset(seed=0)
    assert first.shape == (27,)
    np.testing.assert_array_equal(first, plain.reset(seed=0)[0][:27])
    plain.action_space.seed(0)
    for _ in range(50):
        action = plain.action_space.sample()
        observation, reward, *_, info = env.step(action)
        plain_observation, plain_reward, *_, plain_info = plain.step(action)
        np.testing.assert_array_equal(observation, plain_observation[:27])
        assert info["reward_contact"] == 0.0
        assert reward == pytest.approx(plain_reward - plain_info["reward_contact"])


def test_arguments_of_the_ant_are_passed_on():
    env = make(render_mode="rgb_array", width=64, height=48, healthy_reward=0.25, include_cfrc_ext_in_observation=True)
    assert env.render_mode == "rgb_array"
    assert (env.unwrapped.width, env.unwrapped.height) == (64, 48)
    assert env.observation_space.shape == (105,)
    env.reset(seed=0)
    assert env.step(np.zeros(8))[4]["reward_survive"] == 0.25


def test_an_unknown_argument_is_refused_by_name():
    with pytest.raises(TypeError, match="perod"):
        make(perod=5)


# Unclipped actions


def test_unclipped_actions_cost_what_was_drawn_and_move_as_if_clipped():
    unclipped, clipped = (make(seed=0, unclipped_actions=flag) for flag in (True, False))
    unclipped.reset(seed=0)
    clipped.reset(seed=0)
    generator = np.random.default_rng(0)
    beyond = 0
    for _ in range(50):
        action = generator.normal(0.0, 2.0, 8)
        beyond += int(np.any(np.abs(action) > 1.0))
        observation, _, _, _, info = unclipped.step(action)
        expected, _, _, _, expected_info = clipped.step(action.clip(-1.0, 1.0))
        np.testing.assert_array_equal(observation, expected)
        assert info["reward_forward"] == expected_info["reward_forward"]
        assert info["reward_ctrl"] == pytest.approx(-0.5 * np.sum(action**2))
        assert expected_info["reward_ctrl"] == pytest.approx(-0.5 * np.sum(action.clip(-1.0, 1.0) ** 2))
    assert beyond > 40


def test_only_unclipped_actions_widen_the_action_space_and_to_finite_bounds():
    assert (make().action_space.high == 1.0).all()
    space = make(unclipped_actions=True).action_space
    assert space.is_bounded()
    assert (space.low <= -1e3).all()
    assert (space.high >= 1e3).all()
    assert (space.shape, space.dtype) == ((8,), np.float32)


def test_the_whole_unclipped_range_is_a_valid_control_for_mujoco():
    env = make(unclipped_actions=True)
    reference = make()
    for each in (env, reference):
        each.reset(seed=0)
        each.unwrapped.model.geom_friction[:, 0] = 1.0
    observation = env.step(env.action_space.high)[0]
    np.testing.assert_array_equal(observation, reference.step(np.ones(8))[0])


@pytest.mark.parametrize(("unclipped", "clipped_by_sb3"), [(True, False), (False, True)])
def test_stable_baselines3_passes_unclipped_actions_to_the_control_cost(unclipped, clipped_by_sb3):
    env = make(unclipped_actions=unclipped)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, policy_kwargs={"log_std_init": 2.0}, device="cpu")
    costs = []
    model.learn(64, callback=lambda local, _: costs.append(-local["infos"][0]["reward_ctrl"]) or True)
    # Eight actions of at most 1 cost at most 4; standard deviation e² makes about 218.
    assert (max(costs) <= 4.0) == clipped_by_sb3


# A time limit that terminates


def test_terminate_after_ends_the_episode_by_termination():
    env = make(terminate_after=5)
    for _ in range(2):
        env.reset(seed=0)
        flags = [env.step(np.zeros(8))[2:4] for _ in range(5)]
        assert flags == [(False, False)] * 4 + [(True, False)]


def test_an_early_reset_starts_the_count_anew():
    env = make(terminate_after=5)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.zeros(8))
    env.reset(seed=0)
    assert [env.step(np.zeros(8))[2] for _ in range(5)] == [False] * 4 + [True]


def test_an_earlier_fall_still_terminates():
    env = make(terminate_after=5, healthy_z_range=(5.0, 6.0))
    env.reset(seed=0)
    assert env.step(np.zeros(8))[2:4] == (True, False)


@pytest.mark.parametrize(("terminate_after", "bootstraps"), [(None, True), (5, False)])
def test_stable_baselines3_bootstraps_at_a_truncation_but_not_at_a_termination(terminate_after, bootstraps):
    vector = DummyVecEnv([lambda: make(terminate_after=terminate_after, max_episode_steps=5)])
    vector.seed(0)
    vector.reset()
    for _ in range(5):
        _, _, dones, infos = vector.step(np.zeros((1, 8)))
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"] is bootstraps


def test_the_time_limit_of_1000_steps_truncates_by_default_and_terminates_when_asked():
    for terminate_after, expected in ((None, (False, True)), (1000, (True, True))):
        env = make(terminate_after=terminate_after, terminate_when_unhealthy=False)
        env.reset(seed=0)
        for _ in range(999):
            assert env.step(np.zeros(8))[2:4] == (False, False)
        assert env.step(np.zeros(8))[2:4] == expected


def test_phases_change_at_terminations_of_the_time_limit_too():
    env = make(terminate_after=4, period=5, seed=0)
    env.reset()
    phases = []
    for _ in range(16):
        _, _, terminated, _, info = env.step(np.zeros(8))
        phases.append(info["phase"])
        if terminated:
            env.reset()
    assert phases == [0] * 8 + [1] * 8  # after 8 > 5 steps, the second episode's end


@pytest.mark.parametrize("own_step", [True, False], ids=["plain", "positions observed"])
def test_every_step_is_that_of_gymnasiums_ant_to_the_bit(own_step):
    kwargs = {"contact_cost_weight": 0.0, "include_cfrc_ext_in_observation": False}
    kwargs |= {"ctrl_cost_weight": 0.3, "healthy_reward": 0.7, "forward_reward_weight": 1.5}
    kwargs["exclude_current_positions_from_observation"] = own_step
    ours, theirs = Ant(**kwargs), AntEnv(**kwargs)
    theirs.action_space.seed(0)
    ends, terminated = 0, True
    for _ in range(700):
        if terminated:
            np.testing.assert_array_equal(ours.reset(seed=ends)[0], theirs.reset(seed=ends)[0])
        action = 1.5 * theirs.action_space.sample()
        observation, reward, terminated, truncated, info = ours.step(action)
        expected = theirs.step(action)
        np.testing.assert_array_equal(observation, expected[0])
        assert (reward, terminated, truncated) == expected[1:4]
        assert info == pytest.approx(expected[4], rel=1e-12)
        assert list(info) == list(expected[4])
        ends += terminated
    assert ends > 1


def test_an_action_of_the_wrong_shape_is_refused_as_by_gymnasiums_ant():
    with pytest.raises(ValueError, match="Action dimension mismatch"):
        Ant(include_cfrc_ext_in_observation=False, contact_cost_weight=0.0).step(np.zeros((8, 1)))
