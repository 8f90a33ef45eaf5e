"""Environments of other packages that are installed: parameters are seen to act or refused, and × 1 changes nothing."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import envs
from envs.simulation import find_data

pytestmark = pytest.mark.filterwarnings("ignore")  # of other packages

OF_ROBOTICS = ["AdroitHandDoor-v1", "AntMaze_UMaze-v5", "PointMaze_UMaze-v3", "AdroitHandPen-v1"]
OF_DM_CONTROL = ["dm_control/cheetah-run-v0", "dm_control/ball_in_cup-catch-v0", "dm_control/manipulator-bring_ball-v0"]
NEUTRAL = ["mass", "damping", "armature", "strength", "stiffness", "friction", "gravity"]


def make(env_id):
    """A new environment, its simulation at one state."""
    package = "shimmy" if env_id.startswith("dm_control") else "gymnasium_robotics"
    gymnasium.register_envs(pytest.importorskip(package))
    if package == "shimmy":
        pytest.importorskip("dm_control")
    return gymnasium.make(env_id)


def trajectory(env, steps=25, seed=0):
    env.reset(seed=seed)
    space = env.action_space
    space.seed(seed)
    seen = []
    for _ in range(steps):
        env.step(space.sample())
        data = find_data(env)
        seen.append(np.concatenate((data.qpos, data.qvel)))
    return np.array(seen)


SOME = ["AntMaze_UMaze-v5", "dm_control/cheetah-run-v0"]
OTHERS = [env_id for env_id in (*OF_ROBOTICS, *OF_DM_CONTROL) if env_id not in SOME]


@pytest.mark.parametrize("env_id", [*SOME, *(pytest.param(env_id, marks=pytest.mark.slow) for env_id in OTHERS)])
def test_parameters_are_seen_to_act_or_are_refused_in_words(env_id):
    acting, env = [], make(env_id)
    for name in (name for name, parameter in envs.PARAMETERS.items() if not getattr(parameter, "of", "")):
        try:
            seen = envs.verify(env, name, steps=20)[0]
            assert seen.parted >= 1
            acting.append(name)
        except envs.ParameterError:  # refused
            continue
        except envs.EffectError:
            if not name.endswith("friction") and not name.startswith("contact_"):
                raise  # else it is of an object that nothing touched, or presses against, in so few steps
    assert "mass" in acting
    assert len(acting) >= 6


@pytest.mark.parametrize("env_id", [*OF_ROBOTICS, *OF_DM_CONTROL])
def test_the_values_that_an_environment_has_leave_its_trajectory_alone_to_the_bit(env_id):
    plain = trajectory(make(env_id))
    for name in NEUTRAL:
        options = {"schedule": {"name": "constant", "value": 1.0}, "factor": True}
        try:
            env = envs.NonStationary(make(env_id), {name: options})
        except envs.ParameterError:
            continue
        np.testing.assert_array_equal(trajectory(env), plain)


@pytest.mark.parametrize("env_id", SOME)
def test_states_go_on_to_the_bit(env_id):
    env = envs.NonStationary(make(env_id), "mass", period=20, change_at="now", seed=0)
    trajectory(env, 30)
    state = envs.save_state(env)
    other = envs.NonStationary(make(env_id), "mass", period=20, change_at="now", seed=0)
    envs.load_state(other, state)
    env.action_space.seed(5)
    for _ in range(30):
        action = env.action_space.sample()
        first, second = env.step(action), other.step(action)
        np.testing.assert_equal(first[0], second[0])
        assert first[1:4] == second[1:4]
        assert first[4]["mass"] == second[4]["mass"]
