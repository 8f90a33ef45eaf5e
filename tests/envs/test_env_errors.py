from __future__ import annotations

import copy

import gymnasium
import mujoco
import numpy as np
import pytest
from worlds import World, box

import envs


@pytest.fixture(scope="module")
def ant():
    return gymnasium.make("Ant-v5")


@pytest.mark.parametrize(
    ("arguments", "allowed", "received"),
    [
        ({"low": float("nan")}, "at least 1e-05", "nan"),
        ({"low": -0.5}, "at least 1e-05", "-0.5"),
        ({"low": 0}, "at least 1e-05", "got 0"),
        ({"low": 1e-6}, "at least 1e-05", "1e-06"),
        ({"low": True}, "finite number", "True"),
        ({"low": "0.1"}, "finite number", "'0.1'"),
        ({"low": np.array([[0.1], [0.2]])}, "finite number", "array([[0.1], [0.2]])"),
        ({"high": 0}, "at least 1e-05", "got 0"),
        ({"high": float("inf")}, "finite number", "inf"),
        ({"high": 10**400}, "finite number", "got 1000"),
        ({"high": np.float32("nan")}, "finite number", "nan"),
        ({"low": 3.0}, "low must be at most high", "low=3.0 and high=2.0"),
        ({"low": 0.3, "high": 0.2}, "low must be at most high", "low=0.3 and high=0.2"),
        ({"period": 0}, "integer of at least 1", "got 0"),
        ({"period": -5}, "integer of at least 1", "-5"),
        ({"period": 1.5}, "integer of at least 1", "1.5"),
        ({"period": float("nan")}, "integer of at least 1", "nan"),
        ({"period": True}, "integer of at least 1", "True"),
        ({"period": None}, "integer of at least 1", "None"),
        ({"seed": -1}, "integer of at least 0", "-1"),
        ({"seed": 0.5}, "integer of at least 0", "0.5"),
        ({"seed": False}, "integer of at least 0", "False"),
        ({"parameter": "fricton"}, "'friction'", "'fricton'; did you mean 'friction'?"),
        ({"parameter": 3}, "'friction'", "got 3"),
        ({"parameter": ["friction"]}, "'friction'", "['friction']"),
        ({"schedule": "loguniform"}, "'log_uniform'", "'loguniform'; did you mean 'log_uniform'?"),
        ({"schedule": "zigzag"}, "'log_uniform'", "'zigzag'"),
        ({"schedule": {"name": "sine", "lenght": 3}}, "takes length, scale", "'lenght'"),
        ({"schedule": {"name": "constant"}}, "needs value", "'constant'"),
        ({"schedule": {"name": "constant", "value": 0.0}}, "at least 1e-05", "got 0.0"),
        ({"schedule": {"name": "list", "values": [0.5, -1.0]}}, "at least 1e-05", "got -1.0"),
        ({"schedule": {"name": "list", "values": []}}, "list of length 1 or more", "got []"),
        ({"schedule": {"name": "list", "values": [1.0]}, "low": 0.5}, "takes no low or high", "low=0.5"),
        ({"schedule": {"name": "sine", "length": 1}}, "at least 2", "got 1"),
        ({"schedule": {"name": "sine", "scale": "logarithmic"}}, "'linear', 'log'", "'logarithmic'"),
        ({"schedule": {"name": "chain", "schedules": ["sine", "saw"], "lengths": []}}, "list of length 1", "got []"),
        ({"schedule": {"name": "sum", "schedules": ["sine"]}}, "list of length 2 or more", "['sine']"),
        ({"schedule": 3}, "'log_uniform'", "got 3"),
        ({"parameter": "gravity:torso"}, "no parts", "'torso'"),
        ({"parameter": "friction:torso"}, "'torso_geom'", "'torso'; did you mean 'torso_geom'?"),
        ({"parameter": "mass:torsoo"}, "'torso'", "'torsoo'; did you mean 'torso'?"),
        ({"parameter": "mass", "low": -1.0}, "at least", "got -1.0"),
        ({"parameter": "mass", "factor": False}, "must be given, values in kg", "low and high of mass"),
        ({"parameter": "gravity_tilt", "high": 91}, "from -90 to 90", "got 91"),
        ({"parameter": "gravity_tilt", "schedule": "log_uniform"}, "low above 0", "got -5.0"),
        ({"parameter": "gravity_tilt", "factor": True, "low": 1, "high": 2}, "factor=False", "gravity_tilt"),
        ({"parameter": "stiffness"}, "factor=False", "Ant"),
        ({"parameter": "wind"}, "a medium", "Ant"),
        ({"parameter": "action_delay", "high": 1001}, "from 0 to 1000", "got 1001"),
        ({"parameter": "action_delay", "low": 1.5}, "whole number", "got 1.5"),
        ({"parameter": "action_delay", "schedule": {"name": "list", "values": [2, 2.5]}}, "whole number", "got 2.5"),
        ({"parameter": "action_noise", "factor": True, "low": 1, "high": 2}, "value of the environment's own", "action_noise"),
        ({"parameter": {}}, "at least one parameter", "got {}"),
        ({"parameter": {"friction": {"lo": 1}}}, "'schedule', 'low', 'high', 'factor'", "'lo'; did you mean 'low'?"),
        ({"parameter": {"friction": 0.5}}, "mapping", "got 0.5"),
        ({"parameter": {"friction": {}}, "low": 0.5}, "parameter={'friction': {'low': …}}", "beside several"),
        ({"factor": 1}, "True or False", "got 1"),
        ({"count": "step"}, "'steps', 'episodes'", "'step'; did you mean 'steps'?"),
        ({"count": "episodes", "change_at": "now"}, "'episode_end'", "got 'now'"),
        ({"observe": None}, "True or False", "got None"),
        ({"change_at": "episode"}, "'episode_end', 'now'", "'episode'; did you mean 'episode_end'?"),
        ({"change_at": None}, "'episode_end', 'now'", "None"),
    ],
)
def test_a_bad_argument_is_refused_on_one_line_with_what_is_allowed_and_what_was_received(ant, arguments, allowed, received):
    for make in (lambda: envs.NonStationary(ant, **arguments), lambda: gymnasium.make("ant-nonstationary-v0", **arguments)):
        with pytest.raises(envs.ParameterError) as error:
            make()
        message = str(error.value)
        assert allowed in message
        assert received in message
        assert "\n" not in message


def test_a_refused_wrapper_leaves_the_environment_as_it_was(ant):
    with pytest.raises(envs.ParameterError):
        envs.NonStationary(ant, period=0)
    assert (ant.unwrapped.model.geom_friction[:, 0] == 1.0).all()


@pytest.mark.parametrize("wrapper", [envs.NonStationary, envs.UnclippedActions])
def test_an_environment_that_is_no_mujoco_one_is_refused_by_its_id(wrapper):
    with pytest.raises(envs.ParameterError, match=r"MuJoCo environment, got CartPole-v1"):
        wrapper(gymnasium.make("CartPole-v1"))


def test_an_environment_that_changes_already_is_refused():
    for env in (gymnasium.make("ant-nonstationary-v0"), envs.TerminateAfter(envs.NonStationary(gymnasium.make("Ant-v5")), 5)):
        with pytest.raises(envs.ParameterError, match=r"must not change already, got .*; one wrapper takes several parameters"):
            envs.NonStationary(env, "gravity")


@pytest.mark.parametrize("not_an_env", ["Ant-v5", None, gymnasium])
def test_what_is_no_environment_at_all_is_refused(not_an_env):
    for wrap in (envs.NonStationary, envs.UnclippedActions, lambda env: envs.TerminateAfter(env, 5)):
        with pytest.raises(envs.ParameterError, match="environment, got"):
            wrap(not_an_env)


class Slider(gymnasium.Env):
    def __init__(self, ctrllimited, action_space):
        joint = '<joint name="x" type="slide"/><geom size="0.1"/>'
        motor = f'<motor joint="x" ctrllimited="{ctrllimited}" ctrlrange="-1 1"/>'
        xml = f"<mujoco><worldbody><body>{joint}</body></worldbody><actuator>{motor}</actuator></mujoco>"
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.action_space = action_space


def test_unclipped_actions_need_actuators_that_limit_their_control():
    box = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    assert envs.UnclippedActions(Slider("true", box)).action_space.shape == (1,)
    with pytest.raises(envs.ParameterError, match=r"limit the control of every actuator, got Slider"):
        envs.UnclippedActions(Slider("false", box))


def test_unclipped_actions_need_a_box_of_actions():
    with pytest.raises(envs.ParameterError, match=r"Box of actions, got Discrete\(3\) of Slider"):
        envs.UnclippedActions(Slider("true", gymnasium.spaces.Discrete(3)))


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, None])
def test_terminate_after_refuses_what_is_no_number_of_steps(ant, steps):
    with pytest.raises(envs.ParameterError, match=f"integer of at least 1, got {steps}"):
        envs.TerminateAfter(ant, steps)


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_a_bad_seed_of_reset_is_refused_and_restarts_nothing(seed):
    env = envs.NonStationary(gymnasium.make("Ant-v5"), period=1, seed=0)
    env.reset()
    for _ in range(2):
        env.step(np.zeros(8))
    env.reset()
    value = env.value
    with pytest.raises(envs.ParameterError, match=f"got {seed}"):
        env.reset(seed=seed)
    assert (env.phase, env.value) == (1, value)


def test_numpy_numbers_are_taken_and_recorded_as_python_numbers(ant):
    env = envs.NonStationary(ant, low=np.float32(0.5), high=np.float64(1.5), period=np.int64(7), seed=np.uint8(3))
    recorded = env.spec.additional_wrappers[-1].kwargs
    assert {name: type(recorded[name]) for name in ("low", "high", "period", "seed")} == {
        "low": float,
        "high": float,
        "period": int,
        "seed": int,
    }
    assert 0.5 <= env.value <= 1.5


def test_parameter_errors_are_value_errors():
    assert issubclass(envs.ParameterError, ValueError)


def test_an_environment_that_resets_itself_is_refused():
    """Its wrappers hear of no reset, so that no change would come at the end of an episode."""
    autoreset = pytest.importorskip("gymnasium.wrappers").Autoreset
    for wrap in (lambda env: envs.NonStationary(env, "gravity"), lambda env: envs.TaskSequence([lambda: env])):
        with pytest.raises(envs.ParameterError, match=r"env must not reset itself, got .* with an Autoreset inside"):
            wrap(autoreset(gymnasium.make("Hopper-v5")))


def test_an_environment_may_keep_a_specification_of_mujoco_under_the_name_of_gymnasiums():
    class Built(World):
        def __init__(self):
            super().__init__(box())
            self.spec = mujoco.MjSpec.from_string(box())

    assert envs.NonStationary(Built(), "friction", seed=0).reset()[1]["phase"] == 0
    with pytest.raises(envs.ParameterError, match="which Built lacks"):
        envs.NonStationary(Built(), "stiffness", seed=0)


class Returning(World):
    """Returns other parts than Gymnasium's environments do."""

    def __init__(self, of_reset=slice(2), of_step=(0, 1, 2, 3, 4)):
        super().__init__(box())
        self.of_reset, self.of_step = of_reset, of_step

    def reset(self, **kwargs):
        parts = super().reset(**kwargs)[self.of_reset]
        return parts if len(parts) == 2 else parts[0]

    def step(self, action):
        made = super().step(None)
        return tuple(made[number] for number in self.of_step)


def in_a_sequence(env):
    return envs.TaskSequence([env])


@pytest.mark.parametrize("around", [envs.NonStationary, in_a_sequence])
@pytest.mark.parametrize(("number", "of_step"), [(4, (0, 1, 2, 4)), (6, (0, 1, 1, 2, 3, 4))])
def test_a_step_of_another_api_is_told_in_one_line(around, number, of_step):
    env = around(Returning(of_step=of_step))
    env.reset()
    words = "step of Returning must return observation, reward, terminated, truncated, info, as Gymnasium's API has it; got "
    with pytest.raises(envs.EffectError, match=f"^{words}{number} values$"):
        env.step(env.action_space.sample())


@pytest.mark.parametrize("around", [envs.NonStationary, in_a_sequence])
def test_a_reset_of_another_api_is_told_in_one_line(around):
    env = around(Returning(of_reset=slice(1)))
    with pytest.raises(
        envs.EffectError, match=r"^reset of Returning must return observation, info, as Gymnasium's API has it; got arr"
    ):
        env.reset()


def test_a_property_that_raises_before_the_first_reset_is_no_simulation_yet():
    class Raising(World):
        @property
        def physics(self):
            raise RuntimeError("no physics before the first reset")

    assert envs.NonStationary(Raising(box()), "mass", low=3.0, high=3.0).reset()[1]["mass"] == 3.0


def without_its_model():
    env = World(box())
    env.model = env.data = None
    return env


def with_another_model():
    env = gymnasium.make("CartPole-v1")
    env.unwrapped.model = None  # of a network, say
    return env


@pytest.mark.parametrize("make", [without_its_model, with_another_model])
def test_an_environment_whose_model_is_none_is_told_both_ways_out(make):
    words = "^env must be .*, which has no MjModel now: reset it first, if .* then; otherwise model=, a function of the"
    with pytest.raises(envs.ParameterError, match=words):
        envs.NonStationary(make(), "mass")


class Copies(World):
    """Hands out copies of its model, of its data, or of both."""

    def __init__(self, *copied):
        self.copied = copied
        super().__init__(box())

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        return copy.copy(found) if name in ("model", "data") and name in self.copied else found


@pytest.mark.parametrize(
    ("copied", "source", "kind"),
    [
        (["model"], None, "MjModel"),
        (["model", "data"], None, "MjModel"),
        (["data"], None, "MjData"),
        (["model"], lambda env: env.unwrapped.model, "MjModel"),
        (["data"], lambda env: (env.unwrapped.model, env.unwrapped.data), "MjData"),
        (["data"], lambda env: env.unwrapped.model, "MjData"),
    ],
)
def test_copies_of_the_simulation_are_refused_in_one_line(copied, source, kind):
    env = Copies(*copied)
    words = rf"^Copies must have one {kind}, got another at each look-up, as of copies; model=, .*$"
    with pytest.raises(envs.ParameterError, match=words):
        envs.NonStationary(env, "mass", model=source)
    if source is None:
        with pytest.raises(envs.ParameterError, match=words):
            envs.save_state(env)
    own = vars(env)
    changed = envs.NonStationary(env, "mass", low=3.0, high=3.0, model=lambda _: (own["model"], own["data"]))
    assert own["model"].body_mass[1] == pytest.approx(24.0)  # three times 1000 kg/m³ · (0.2 m)³
    envs.load_state(changed, envs.save_state(changed))


def test_observations_may_be_lists():
    class Listing(World):
        def step(self, action):
            return [0.5], *super().step(None)[1:]

    env = envs.NonStationary(Listing(box()), "observation_bias", low=0.25, high=0.25)
    env.reset()
    np.testing.assert_array_equal(env.step(None)[0], np.array([0.75], np.float32))


def test_rewards_of_several_numbers_are_compared_by_verify():
    class Several(World):
        def step(self, action):
            observation, _, *others = super().step(None)
            return observation, np.array([1.0, self.data.qpos[2]]), *others

    assert envs.verify(Several(box()), "gravity", low=1.0, high=9.0, steps=5)[0].parted
