"""The habits of the published environments, against Gymnasium's version 4, which still had them."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import envs


@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
@pytest.mark.parametrize("base", ["Ant", "Hopper", "Walker2d"])
def test_observations_rewards_and_falls_are_those_of_the_old_version(base):
    ours, old = gymnasium.make(f"{base.lower()}-stationary-v0"), gymnasium.make(f"{base}-v4")
    actions = np.random.default_rng(0).uniform(-1, 1, (600, *old.action_space.shape)).astype(np.float32)
    falls = 0
    for env in (ours, old):
        env.reset(seed=7)
    for action in actions:
        (observation, reward, terminated, *_), (expected, paid, fell, *_) = (env.step(action) for env in (ours, old))
        np.testing.assert_allclose(observation, expected, rtol=1e-9, atol=1e-12)
        assert (reward, terminated) == (pytest.approx(paid, rel=1e-9), fell)
        if fell:
            falls += 1
            for env in (ours, old):
                env.reset(seed=falls)
    assert falls >= 2


def test_the_reward_is_paid_once_more_in_the_step_of_the_fall_alone():
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 3)).astype(np.float32)
    plain, paid = gymnasium.make("Hopper-v5"), envs.HealthyRewardOnFall(gymnasium.make("Hopper-v5", healthy_reward=3.0))
    plain.reset(seed=0)
    paid.reset(seed=0)
    for action in actions:
        _, reward, fell, _, _ = plain.step(action)
        _, with_fall, also, _, info = paid.step(action)
        # Healthy steps pay 1 and 3; the last one nothing, and 3.
        assert (with_fall - reward, also) == (pytest.approx(3.0 if fell else 2.0), fell)
        assert info["reward_survive"] == 3.0
        if fell:
            return
    pytest.fail("the Hopper did not fall")


def test_an_environment_that_pays_no_such_reward_is_refused_or_left_as_it_is():
    with pytest.raises(envs.ParameterError, match="pay a reward for being healthy, which HalfCheetah-v5 does not"):
        envs.HealthyRewardOnFall(gymnasium.make("HalfCheetah-v5"))
    env = gymnasium.make("halfcheetah-nonstationary-v0", healthy_reward_on_fall=True)
    env.reset(seed=0)
    assert not env.step(np.zeros(6, np.float32))[2]


@pytest.mark.filterwarnings("ignore:.*is out of date:DeprecationWarning")
@pytest.mark.parametrize("name", ["Hopper-v4", "Walker2d-v4"])
def test_older_versions_pay_in_the_step_of_the_fall_already_and_go_on_as_they_are(name):
    envs_of_both = gymnasium.make(name), envs.HealthyRewardOnFall(gymnasium.make(name))
    actions = np.random.default_rng(0).uniform(-1, 1, (200, *envs_of_both[0].action_space.shape)).astype(np.float32)
    for env in envs_of_both:
        env.reset(seed=0)
    for action in actions:
        expected, found = (env.step(action) for env in envs_of_both)
        assert found[1:4] == expected[1:4]
        if found[2]:
            return
    pytest.fail("it never fell")
