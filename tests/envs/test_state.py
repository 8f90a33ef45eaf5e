from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import envs

ROBOTS = ["Ant", "HalfCheetah", "Hopper", "Humanoid", "InvertedDoublePendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"]
CLASSIC = ["Pendulum-v1", "CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0"]
ANT = "ant-nonstationary-v0"


def play(env, actions):
    """What an agent sees, episodes ended and begun included."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        info = {key: np.asarray(value).tolist() for key, value in info.items()}
        seen.append((observation.tolist(), float(reward), terminated, truncated, info))
        if terminated or truncated:
            seen.append((env.reset()[0].tolist(),))
    return seen


def assert_goes_on_alike(make, steps):
    env = make()
    env.reset(seed=3)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(steps + 250)]
    play(env, actions[:steps])
    state = envs.save_state(env)
    other = make()
    envs.load_state(other, state)
    expected = play(env, actions[steps:])
    found = play(other, actions[steps:])
    assert found == expected
    # The state is a copy: what the environment did since has not changed it.
    third = make()
    third.reset(seed=8)
    play(third, actions[:20])
    envs.load_state(third, state)
    assert play(third, actions[steps:]) == expected


@pytest.mark.parametrize("env_id", [*(f"{robot}-v5" for robot in ROBOTS), *CLASSIC])
def test_an_environment_made_anew_goes_on_to_the_bit(env_id):
    assert_goes_on_alike(lambda: gymnasium.make(env_id), steps=63)


@pytest.mark.parametrize("change_at", ["episode_end", "now"])
@pytest.mark.parametrize("kwargs", [{}, {"unclipped_actions": True, "terminate_after": 40}], ids=["plain", "published"])
def test_the_changing_ant_goes_on_to_the_bit(change_at, kwargs):
    def make():
        return gymnasium.make(ANT, period=50, change_at=change_at, seed=1, max_episode_steps=70, **kwargs)

    assert_goes_on_alike(make, steps=117)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "parameter": {"mass": {"schedule": "random_walk"}, "observation_noise": {}, "action_delay": {"low": 2}},
            "observe": True,
        },
        {"parameter": "action_noise", "schedule": {"name": "chain", "schedules": ["sine", "random_walk"], "lengths": [2]}},
        {"parameter": "armature", "schedule": {"name": "sum", "schedules": ["saw", "ornstein_uhlenbeck"]}},
        {"parameter": "gravity_tilt", "count": "episodes", "period": 2, "change_at": "episode_end"},
    ],
    ids=lambda changes: str(changes["parameter"]),
)
def test_whatever_changes_goes_on_to_the_bit(changes):
    def make():
        return gymnasium.make(ANT, **({"period": 30, "change_at": "now", "seed": 1} | changes), max_episode_steps=35)

    assert_goes_on_alike(make, steps=117)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_delayed_actions_of_either_type_go_on_to_the_bit(kind):
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 3)).astype(kind)
    env, other = (envs.NonStationary(gymnasium.make("Hopper-v5"), "action_delay", low=4, high=4, seed=0) for _ in range(2))
    env.reset(seed=0)
    play(env, actions[:20])
    envs.load_state(other, envs.save_state(env))
    assert play(other, actions[20:]) == play(env, actions[20:])


def test_a_wrapped_environment_goes_on_to_the_bit():
    def make():
        env = envs.NonStationary(gymnasium.make("Hopper-v5"), period=30, change_at="now", seed=1)
        return gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.TimeAwareObservation(env))

    env, other = make(), make()
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(150)]
    play(env, actions[:70])
    envs.load_state(other, envs.save_state(env))
    values = [
        [(reward, info["friction"]) for _, reward, *_, info in filter(lambda s: len(s) > 1, play(e, actions[70:]))]
        for e in (env, other)
    ]
    assert values[0] == values[1]


def test_the_state_of_another_environment_is_refused_and_changes_nothing():
    env, other = gymnasium.make("Hopper-v5"), gymnasium.make("Walker2d-v5")
    for each in (env, other):
        each.reset(seed=0)
    before = env.unwrapped.data.qpos.copy()
    with pytest.raises(envs.ParameterError, match=r"HopperEnv, got .*Walker2dEnv"):
        envs.load_state(env, envs.save_state(other))
    smaller = envs.save_state(env)
    smaller[-1]["simulation"]["state"] = np.zeros(3)
    with pytest.raises(envs.ParameterError, match=r"simulation of \d+ numbers, got \(3,\)"):
        envs.load_state(env, smaller)
    assert np.array_equal(env.unwrapped.data.qpos, before)
