"""What verify sees: that a parameter changes an environment, or that it does not and why."""

from __future__ import annotations

import copy

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from worlds import World, arm, box

import envs
from envs.registered import NONSTATIONARY

ENVIRONMENTS = [spec.kwargs["base"] for spec in gymnasium.registry.values() if spec.entry_point == NONSTATIONARY]
OF_THEIR_OWN = {"damping": ["Swimmer-v5"], "stiffness": ["Ant-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5"]}
PLANAR = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"]
OF_CONTACTS = ["friction", "contact_time", "contact_damping", "contact_impedance"]
LACKING = {"all": ["torsional_friction", "rolling_friction", "kp", "kd"]}
LACKING |= {"Swimmer-v5": [*OF_CONTACTS, "gravity", "push_z", "centre_of_mass_z", "healthy_reward"]}
LACKING |= {env_id: ["wind_y", "push_y", "centre_of_mass_y", "goal_direction"] for env_id in PLANAR}
LACKING["HalfCheetah-v5"].append("healthy_reward")
OF_MACHINES = [name for name, parameter in envs.PARAMETERS.items() if not getattr(parameter, "of", "")]


@pytest.fixture(autouse=True)
def _working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs a deprecation in HalfCheetah's model to a file in the working directory


def asked(name, env_id):
    """The parameter, with what it needs beside it there."""
    options = {"factor": False, "low": 1.0, "high": 2.0} if env_id in OF_THEIR_OWN.get(name, []) else {}
    if name in ("observation_bias", "gravity_tilt", "goal_direction") or name[:-1] in ("push_", "centre_of_mass_"):
        # What is measured has no sign.
        options = {"low": -0.05, "high": 0.1}
    if name == "joint_range":
        options = {"low": 0.05}  # so that the Hopper reaches its limits in so few steps
    if name == "dead_observation":
        options = {"high": 5.0}  # the last ones may be 0 themselves
    medium = {"density": {"low": 1.2, "high": 1.2}} if name.startswith("wind") else {}
    return {name: options, **medium}


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
@pytest.mark.parametrize("name", OF_MACHINES)
def test_every_parameter_is_seen_to_act_or_refused(name, env_id):
    try:
        seen = envs.verify(gymnasium.make(env_id), asked(name, env_id), steps=30)[0]
    except envs.ParameterError:
        assert name in LACKING["all"] or name in LACKING.get(env_id, [])
        return
    assert 1 <= seen.parted <= 30
    assert not seen.at_resets_only
    low, high = seen.measured
    assert low != high
    assert str(seen).startswith(f"{name} ")


def test_what_is_measured_is_the_value_where_it_is_one(tmp_path):
    seen = envs.verify(gymnasium.make("Ant-v5"), low=0.1, high=1.7)[0]
    assert seen.measured == pytest.approx((0.1, 1.7))
    seen = envs.verify(gymnasium.make("Hopper-v5"), "observation_bias", low=-0.5, high=0.25)[0]
    assert seen.measured == pytest.approx((0.5, 0.25), rel=1e-6)
    first, second = envs.verify(gymnasium.make("Hopper-v5"), "strength")[0].measured
    assert second == pytest.approx(4 * first)


@pytest.mark.parametrize("part", ["floor", "foot_geom"])
def test_what_the_constructor_accepts_is_measured_although_one_value_by_itself_would_be_refused(part):
    # The floor has 1 and the foot 2: the foot's is the greater one from 1 on, the floor's at the foot from 2 on.
    low, high = envs.verify(gymnasium.make("Hopper-v5"), f"friction:{part}", low=0.02, high=5.0, steps=100)[0].measured
    assert low <= 2 < high <= 5
    with pytest.raises(envs.ParameterError, match="friction:floor needs"):
        envs.NonStationary(gymnasium.make("Hopper-v5"), "friction:floor", {"name": "constant", "value": 0.3})


def test_an_environment_has_afterwards_what_it_had():
    env, plain = gymnasium.make("Ant-v5"), gymnasium.make("Ant-v5")
    envs.verify(env, {"mass": {}, "friction": {}}, steps=5)
    np.testing.assert_array_equal(env.reset(seed=3)[0], plain.reset(seed=3)[0])
    for _ in range(30):
        np.testing.assert_array_equal(env.step(np.full(8, 0.3))[0], plain.step(np.full(8, 0.3))[0])


def test_what_changes_nothing_in_any_step_is_an_error_that_says_what_was_seen():
    more = '<body pos="3 0 3"><joint type="slide" axis="0 0 1" gravcomp="1"/><geom name="aloft" size="0.1"/></body>'
    env = World(box(more=more.replace(' gravcomp="1"', "")).replace("<body pos", '<body gravcomp="1" pos'))
    with pytest.raises(
        envs.EffectError,
        match=r"friction:aloft has no effect on World: in 50 steps friction:aloft 2 and 3: friction of contacts 1 and 1; the",
    ):
        envs.verify(env, "friction:aloft", low=2.0, high=3.0, steps=50)


def test_an_environment_that_does_not_use_its_model_is_found_out():
    class Elsewhere(World):
        """Simulates a model of its own, as one that compiles its physics does."""

        def __init__(self):
            super().__init__(arm("<actuator><motor joint='elbow'/></actuator>"))
            self.used = World(arm("<actuator><motor joint='elbow'/></actuator>"))

        def reset(self, *, seed=None, options=None):
            return self.used.reset(seed=seed)

        def step(self, action):
            return self.used.step(action)

    envs.verify(World(arm("<actuator><motor joint='elbow'/></actuator>")), "strength", steps=20)
    with pytest.raises(envs.EffectError, match="strength has no effect on Elsewhere: in 20 steps"):
        envs.verify(Elsewhere(), "strength", steps=20)


def test_a_trajectory_that_is_another_one_each_time_tells_nothing():
    class Shaken(World):
        """Begins at another velocity each time, whatever the seed, and does not use its model."""

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.data.qvel[0] = np.random.uniform()  # noqa: NPY002
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), 0.0, False, False, {}

    (verified,) = envs.verify(Shaken(box()), "gravity", steps=5)
    assert verified.strayed == 1
    assert str(verified).endswith("from step 1 on, but so it is without a change from step 1 on, so that it tells nothing")
    (verified,) = envs.verify(World(box()), "gravity", steps=5)
    assert (verified.parted, verified.strayed) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"parameter": "fricton"}, "did you mean 'friction'"),
        ({"low": -1}, "at least 1e-05"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(envs.ParameterError, match=words):
        envs.verify(World(box()), **arguments)


class HandingOn(World):
    """Simulates a copy that it takes of its model in each reset, as one with its physics on a GPU does."""

    def reset(self, *, seed=None, options=None):
        self.used = copy.copy(self.model)
        self.of_used = mujoco.MjData(self.used)
        return super().reset(seed=seed)

    def step(self, action):
        mujoco.mj_step(self.used, self.of_used)
        return self.of_used.qvel.copy(), 0.0, False, False, {}


def test_a_change_that_waits_for_a_reset_is_found_out():
    (verified,) = envs.verify(HandingOn(box()), "gravity", steps=10)
    assert verified.at_resets_only
    assert str(verified).endswith("; in mid-episode a change has no effect until the next reset")
    (verified,) = envs.verify(World(box()), "gravity", steps=10)
    assert not verified.at_resets_only


def test_a_reward_that_is_no_number_at_one_of_the_values_is_said():
    class Dividing(AntEnv):
        def step(self, action):
            observation, reward, *others, info = super().step(action)
            with np.errstate(invalid="ignore"):
                more = info["reward_ctrl"] / np.float64(self._ctrl_cost_weight)
            return observation, reward + more, *others, info

    (verified,) = envs.verify(Dividing(), "control_cost", steps=5)  # from 0 on
    assert verified.not_finite == 1
    assert str(verified).endswith("; the reward of step 1 is not finite")
    (verified,) = envs.verify(Dividing(), "control_cost", low=0.5, high=1.0, steps=5)
    assert verified.not_finite == 0


def test_a_simulation_that_is_replaced_in_each_step_is_measured_as_it_is():
    class Replacing(World):
        def step(self, action):
            before, self.data = self.data, mujoco.MjData(self.model)
            self.data.qpos[:], self.data.qvel[:] = before.qpos, before.qvel
            return super().step(None)

    seen = [envs.verify(kind(box()), "friction", low=0.5, high=1.5, steps=10)[0] for kind in (Replacing, World)]
    assert seen[0].measured == pytest.approx(seen[1].measured, nan_ok=False)
