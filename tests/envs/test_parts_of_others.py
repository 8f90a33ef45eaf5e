"""Parameters around what others have made: their wrappers, rewards, limits, schedules, controllers, and steps that fail."""

from __future__ import annotations

import dataclasses
import random
import re
import threading

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from stable_baselines3.common.monitor import Monitor
from worlds import CORD, World, arm, box

import envs
from envs.schedules import SCHEDULES


def held(env, name, value):
    return envs.NonStationary(env, name, {"name": "constant", "value": value})


# The reward of a direction


class Repeat(gymnasium.Wrapper):
    """Takes every step twice."""

    def step(self, action):
        first = self.env.step(action)[1]
        observation, reward, *rest = self.env.step(action)
        return observation, first + reward, *rest


class Penalised(gymnasium.ActionWrapper):
    """Changes actions, and rewards too."""

    def action(self, action):
        return action

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward - 1.0, *rest


class Halved(gymnasium.ActionWrapper):
    def action(self, action):
        return action / 2


class Doubled(gymnasium.ObservationWrapper):
    def observation(self, observation):
        return 2 * observation


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: wrappers.TransformReward(env, lambda reward: 0.1 * reward),
        lambda env: wrappers.ClipReward(env, -1.0, 1.0),
        wrappers.NormalizeReward,
        lambda env: wrappers.MaxAndSkipObservation(env, 4),
        Repeat,
        Penalised,
        lambda env: Doubled(Repeat(Halved(env))),
    ],
)
def test_a_direction_is_not_paid_for_around_what_may_change_the_reward(wrap):
    env = wrap(gymnasium.make("Swimmer-v5"))
    with pytest.raises(
        envs.ParameterError, match=r"^goal_direction needs the reward .* Swimmer-v5 .*got \w+ inside, which may"
    ):
        held(env, "goal_direction", 90.0)
    envs.NonStationary(env, "forward_reward").reset(seed=0)  # which the environment itself pays


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: env,
        Halved,
        Doubled,
        lambda env: wrappers.TimeAwareObservation(wrappers.FrameStackObservation(env, 2)),
        lambda env: wrappers.RecordEpisodeStatistics(wrappers.ClipAction(env)),
        lambda env: envs.TerminateAfter(envs.UnclippedActions(env), 10),
        Monitor,
    ],
)
def test_a_direction_is_paid_for_around_what_leaves_the_reward_alone(wrap):
    rewards, velocities = [], []
    for value in (0.0, 180.0):
        env = held(wrap(gymnasium.make("Swimmer-v5")), "goal_direction", value)
        env.reset(seed=0)
        _, reward, *_, info = env.step(np.array([0.5, -0.5], np.float32))
        rewards.append(reward)
        velocities.append(info["x_velocity"])
    assert velocities[0] == velocities[1]
    assert rewards[1] - rewards[0] == pytest.approx(-2 * velocities[0])


@pytest.mark.parametrize("weight", [0.1, 1.0])
@pytest.mark.parametrize(
    ("name", "part", "value"),
    [
        ("forward_reward", "reward_forward", 3.0),
        ("control_cost", "reward_ctrl", 0.0),
        ("healthy_reward", "reward_survive", 2.0),
    ],
)
def test_other_parts_of_a_reward_go_through_the_wrappers_inside(name, part, value, weight):
    found = []
    for factor in (1.0, value):
        env = held(wrappers.TransformReward(gymnasium.make("Hopper-v5"), lambda reward: weight * reward), name, factor)
        env.reset(seed=0)
        found.append(env.step(np.full(3, 0.5, np.float32)))
    more = found[1][4][part] - found[0][4][part]
    assert more != 0
    assert found[1][1] - found[0][1] == pytest.approx(weight * more)


@pytest.mark.parametrize("missing", ["x_velocity", "y_velocity", "reward_forward"])
def test_an_environment_that_does_not_say_its_velocity_is_told_so(missing):
    class Silent(AntEnv):
        def step(self, action):
            *transition, info = super().step(action)
            return *transition, {key: value for key, value in info.items() if key != missing}

    env = held(Silent(), "goal_direction", 90.0)
    env.reset(seed=0)
    with pytest.raises(envs.EffectError, match=f"^info of Silent must have {missing}, from which"):
        env.step(env.action_space.sample())


# What is written


SERVOS = """<actuator>
  <motor name="m" joint="elbow"/>
  <position name="p" joint="door_hinge" kp="5" kv="1"/>
  <velocity name="v" joint="elbow" kv="2"/>
  <muscle name="pull" joint="door_hinge" lengthrange="-1 1"/>
</actuator>"""


@pytest.mark.parametrize(
    ("name", "gains", "biases"),
    [("kp", ["p"], ["p"]), ("kd", ["v"], ["p", "v"]), ("strength", ["m", "p", "pull", "v"], ["m", "p", "pull", "v"])],
)
def test_reach_names_the_actuators_that_are_written_and_no_others(name, gains, biases):
    env, plain = held(World(arm(SERVOS)), name, 0.5), World(arm(SERVOS))
    reach = env.reach[name]
    assert sorted(reach["actuator_gainprm"]) == gains
    assert sorted(reach["actuator_biasprm"]) == biases
    for field in ("actuator_gainprm", "actuator_biasprm"):
        differs = (getattr(env.unwrapped.model, field) != getattr(plain.model, field)).any(1)
        assert {env.unwrapped.model.actuator(int(row)).name for row in np.flatnonzero(differs)} <= set(reach[field])


def test_reach_of_options_names_no_objects():
    assert held(World(box()), "gravity", 3.0).reach == {"gravity": {"opt.gravity": []}}


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("field", ["actuator_forcerange", "jnt_actfrcrange", "tendon_actfrcrange"])
@pytest.mark.parametrize("limits", [(0.0, np.inf), (-np.inf, np.inf), (-4.0, np.inf)])
def test_a_limit_of_force_that_is_infinite_stays_so(field, limits, value):
    more = CORD + '<actuator><motor joint="elbow"/><motor tendon="cord"/></actuator>'
    world = World(arm(more))
    getattr(world.model, field)[:] = limits
    getattr(world.model, field.replace("range", "limited"))[:] = 1
    env = held(world, "strength", value)
    low, high = limits
    assert getattr(world.model, field).tolist()[0] == [low if np.isinf(low) else value * low, high]
    env.reset()
    env.step([1.0, 1.0])
    assert np.isfinite(world.data.qpos).all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("low", "high"), [(-1.0, np.inf), (-np.inf, 1.0)])
def test_a_limit_of_a_joint_that_is_infinite_stays_so(low, high, value):
    world = World(arm("<actuator><motor joint='elbow'/></actuator>", joint='limited="true" range="-1 1"'))
    world.model.jnt_range[0] = low, high
    held(world, "joint_range", value)
    assert world.model.jnt_range[0].tolist() == [each if np.isinf(each) else value * each for each in (low, high)]


# What is verified


class Counted(World):
    """Observes how often it was reset, and does not use its model."""

    n = 0

    def __init__(self, kind):
        super().__init__(box())
        self.kind = kind

    def reset(self, *, seed=None, options=None):
        self.n += 1
        return super().reset(seed=seed)

    def step(self, action):
        return np.array([self.kind(self.n)], np.float32), 0.0, False, False, {}


def test_every_second_reset_is_not_taken_for_an_effect():
    with pytest.raises(envs.EffectError, match=r"friction has no effect on Counted: in 5 steps .*; the same trajectory$"):
        envs.verify(Counted(lambda n: n % 2), "friction", steps=5)


@pytest.mark.parametrize("kind", [lambda n: n > 1, lambda n: n > 2, lambda n: n // 3, lambda n: n % 3, lambda n: n])
def test_what_differs_from_reset_to_reset_is_said_to_tell_nothing(kind):
    (verified,) = envs.verify(Counted(kind), "friction", steps=5)
    assert verified.parted == verified.strayed == 1
    assert str(verified).endswith("so that it tells nothing")


@pytest.mark.parametrize("name", ["dead_action", "dead_observation", "action_delay", "action_permutation"])
@pytest.mark.parametrize("value", [1, 3])
def test_a_whole_number_that_stays_is_compared_with_another_whole_one(name, value):
    (verified,) = envs.verify(gymnasium.make("Hopper-v5"), name, schedule={"name": "constant", "value": value}, steps=10)
    assert all(each.is_integer() for each in verified.values)
    assert verified.values[0] == value != verified.values[1]


# What is refused in one line


@pytest.mark.parametrize("given", ["model", "data", "both", "name"])
@pytest.mark.parametrize("use", [envs.NonStationary, envs.verify, envs.simulation.find_model])
def test_a_model_in_the_place_of_its_source_is_refused(given, use):
    env = World(box())
    model = {"model": env.model, "data": env.data, "both": (env.model, env.data), "name": "model"}[given]
    keyword = "source" if use is envs.simulation.find_model else "model"
    words = "model= must be a function of the environment that returns its MjModel, or a tuple of it and its MjData; got "
    with pytest.raises(envs.ParameterError, match=f"^{re.escape(words)}.+$"):
        use(env, **{keyword: model})


@dataclasses.dataclass
class Goal(gymnasium.Env):
    """Equal to another with an equal goal; of arrays there is no truth value."""

    goal: object
    size: int = dataclasses.field(default=1, compare=False)
    info: object = dataclasses.field(default_factory=dict, compare=False)

    def __post_init__(self):
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (self.size,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        self.closed = False

    def reset(self, *, seed=None, options=None):
        return np.zeros(self.size, np.float32), {}

    def step(self, action):
        return np.zeros(self.size, np.float32), 0.0, False, False, self.info

    def close(self):
        self.closed = True


@pytest.mark.parametrize("goals", [[np.zeros(2), np.ones(2)], [np.zeros(2), np.zeros(2)], [1, 1]])
def test_tasks_that_can_be_equal_are_kept_apart(goals):
    tasks = [Goal(goal) for goal in goals]
    env = envs.TaskSequence([tasks[0], *tasks], period=2, change_at="now")
    env.reset()
    seen = []
    for step in range(8):
        seen.append(env.env)
        env.step(np.zeros(1))
        if step % 2:
            env.reset()
    assert all(one is other for one, other in zip(seen[2:], np.repeat([*tasks, tasks[0]], 2), strict=True))
    assert not any(task.closed for task in tasks)


def test_a_made_task_that_equals_a_given_one_is_closed_after_it():
    made = Goal(1)
    env = envs.TaskSequence([lambda: made, Goal(1)], period=1, change_at="now")
    made.closed = False  # it was looked at
    env.reset()
    env.step(np.zeros(1))
    env.reset()
    assert made.closed


@pytest.mark.parametrize("goal", [1, np.zeros(2)])
def test_tasks_that_are_equal_are_looked_at_both(goal):
    with pytest.raises(envs.ParameterError, match="tasks must have one observation_space"):
        envs.TaskSequence([Goal(goal), Goal(goal, 2)])


@pytest.mark.parametrize("info", [None, 3, "x"])
def test_a_task_without_info_is_refused(info):
    env = envs.TaskSequence([Goal(1, info=info)])
    env.reset()
    with pytest.raises(envs.ParameterError, match=f"^info of Goal must be a mapping, got {info!r}$"):
        env.step(np.zeros(1))


@pytest.fixture
def alone():
    """Makes a schedule of one's own that returns something else than a value and a state."""

    def make(found):
        @dataclasses.dataclass(frozen=True)
        class Alone(envs.Schedule, name="alone"):
            def draw(self, at):
                return found

        return Alone()

    yield make
    del SCHEDULES["alone"]


@pytest.mark.parametrize("found", [0.5, None, (0.5,), (0.5, None, 1), "ab", [0.5]])
@pytest.mark.parametrize(
    "within",
    [
        lambda alone: alone,
        lambda alone: {"name": "sum", "schedules": [alone, "uniform"]},
        lambda alone: {"name": "chain", "schedules": [alone, "uniform"], "lengths": [2]},
    ],
)
def test_a_schedule_that_draws_no_pair_is_refused(alone, found, within):
    words = f"draw of schedule 'alone' must return a value and a state, got {found!r}"
    with pytest.raises(envs.ParameterError, match=f"^{re.escape(words)}$"):
        envs.NonStationary(World(box()), "friction", within(alone(found)))


# Steps that fail


class Failing(World):
    """Fails before or after its physics where it is told to."""

    fails: str | None = None

    def step(self, action):
        if self.fails == "before":
            raise ValueError("failed")
        self.arrived = np.array(action)
        transition = super().step(None)
        if self.fails == "after":
            raise ValueError("failed")
        return transition


def fail(env, when, action):
    env.unwrapped.fails = when
    with pytest.raises(ValueError, match="failed"):
        env.step(action)
    env.unwrapped.fails = None


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("delay", [0, 1, 2])
def test_the_action_of_a_step_that_fails_does_not_arrive_later(delay, when):
    env = held(Failing(box()), "action_delay", delay)
    env.reset()
    sent, arrived = [0.1, 0.2, 0.3, 0.4, 0.5], []
    for action in sent:
        fail(env, when, np.array([0.9], np.float32))
        env.step(np.array([action], np.float32))
        arrived.append(float(env.unwrapped.arrived[0]))
    assert arrived == pytest.approx([0.0] * delay + sent[: len(sent) - delay])


@pytest.mark.parametrize(("when", "reset"), [("before", False), ("before", True), ("after", True)])
@pytest.mark.parametrize("times", [1, 2])
def test_a_blow_is_dealt_once_in_the_first_step_that_is_taken(when, reset, times):
    plain, env = (held(Failing(box()), "push_x", 1.0) for _ in range(2))
    plain.reset()
    env.reset()
    for _ in range(times):
        fail(env, when, None)
        if reset:
            env.reset()
    for _ in range(3):
        plain.step(None)
        env.step(None)
        np.testing.assert_array_equal(env.unwrapped.data.qvel, plain.unwrapped.data.qvel)
    assert env.unwrapped.data.qvel[0] > 0


# Controllers, and what is computed ahead


@pytest.mark.parametrize("name", ["timestep", "gravity", "friction", "mass", "damping", "strength", "push_x", "joint_range"])
def test_a_controller_of_the_users_is_not_called_by_the_wrapper(name):
    calls = []
    more = "<actuator><motor joint='elbow'/></actuator>"
    ball = '<body name="b" pos="0 0 3"><freejoint/><geom size="0.1"/></body><geom type="plane" size="5 5 1"/></worldbody>'
    option = '<option gravity="0 0 -9.81"/>'
    world = World(arm(more, 'damping="1" limited="true" range="-1 1"', option).replace("</worldbody>", ball))
    mujoco.set_mjcb_control(lambda model, data: calls.append(data.time))
    try:
        env = held(world, name, 0.5)
        env.reset()
        assert calls == []
        env.step([0.0])
        assert calls == [0.0]
    finally:
        mujoco.set_mjcb_control(None)


@pytest.mark.parametrize("integrator", ["Euler", "implicit", "implicitfast", "RK4"])
def test_the_time_of_a_step_is_found_with_every_integrator(integrator):
    world = World(arm("<actuator><motor joint='elbow'/></actuator>", 'damping="1"', f'<option integrator="{integrator}"/>'))
    assert held(world, "timestep", 0.5).values == {"timestep": 0.5}
    assert world.model.opt.timestep == 0.001


GUIDED = """<mujoco>
  <option gravity="0 0 -9.81"/>
  <worldbody>
    <body name="hand" mocap="true" pos="0 0 3" quat="1 0 0 0">
      <geom size="0.1" contype="0" conaffinity="0"/>
      <body name="finger" pos="0.3 0 0"><geom size="0.05" contype="0" conaffinity="0"/></body>
    </body>
    <body name="ball" pos="0 0 1"><freejoint/><geom size="0.1"/></body>
    <body name="guided" pos="0 0 3"><freejoint/><geom size="0.1" contype="0" conaffinity="0"/></body>
  </worldbody>
  <equality><weld body1="hand" body2="guided"/></equality>
</mujoco>"""


class Guided(World):
    """Computes ahead, as dm_control does, and then says where the hand is to be in the next step."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_step1(self.model, self.data)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        mujoco.mj_step2(self.model, self.data)
        mujoco.mj_step1(self.model, self.data)
        self.data.mocap_pos[0] = 0.1 * np.sin(9 * self.data.time), 0.0, 3.0
        self.data.mocap_quat[0] = 2.0, self.data.time, 0.0, 0.0
        return np.zeros(1, np.float32), 0.0, False, False, {}


def test_a_change_now_acts_at_once_although_a_hand_is_to_move_in_the_next_step():
    env = envs.NonStationary(Guided(GUIDED), "gravity", {"name": "list", "values": [5.0, 10.0]}, period=3, change_at="now")
    env.reset()
    speed = 0.0
    for _ in range(9):
        *_, info = env.step(None)
        now = float(env.unwrapped.data.qvel[2])
        assert speed - now == pytest.approx(0.002 * info["gravity"])
        speed = now


def test_a_hand_moves_when_the_environment_moves_it_whatever_changes():
    plain = Guided(GUIDED)
    options = {"low": 1.0, "high": 1.0, "factor": True, "schedule": "uniform"}
    env = envs.NonStationary(Guided(GUIDED), {"gravity": options}, period=1, change_at="now")
    plain.reset()
    env.reset()
    for _ in range(20):
        plain.step(None)
        env.step(None)
        for name in ("qpos", "qvel", "mocap_pos", "mocap_quat", "xpos"):
            np.testing.assert_array_equal(getattr(env.unwrapped.data, name), getattr(plain.data, name))


class Squared(AntEnv):
    """Is paid for what Gymnasium's is not, and lets through what that is paid for all the same."""

    def step(self, action):
        observation, _, *others, info = super().step(action)
        return observation, info["x_velocity"] ** 2, *others, info


class NoCosts(AntEnv):
    def _get_rew(self, x_velocity, action):
        reward, info = super()._get_rew(x_velocity, action)
        return reward - info["reward_ctrl"], info


class Vector(AntEnv):
    """Is paid in several numbers, of which the last is a cost without its weight, as those of mo-gymnasium are."""

    def step(self, action):
        observation, _, *others, info = super().step(action)
        cost = info["reward_ctrl"] / self._ctrl_cost_weight
        reward = np.array([info["x_velocity"], info["y_velocity"], cost]) + info["reward_survive"]
        return observation, reward, *others, info


class Tenth(AntEnv):
    def step(self, action):
        observation, reward, *others = super().step(action)
        return observation, reward / 10, *others


class Bonus(AntEnv):
    """Observes something else, and is paid for something more."""

    def step(self, action):
        observation, reward, *others, info = super().step(action)
        return observation[:3], reward + info["y_velocity"] ** 2, *others, info


class AtItsEnd(AntEnv):
    """Is paid for each episode as a whole."""

    def reset(self, **kwargs):
        self.total, self.steps = 0.0, 0
        return super().reset(**kwargs)

    def step(self, action):
        observation, reward, _, *others = super().step(action)
        self.total += reward
        self.steps += 1
        ends = self.steps == 300
        return observation, self.total if ends else 0.0, ends, *others


WEIGHTS = ("forward_reward", "control_cost", "healthy_reward")
LACK_WEIGHTS = {Squared: WEIGHTS, NoCosts: ("control_cost",), Vector: WEIGHTS[:2], Tenth: (), Bonus: (), AtItsEnd: ()}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("kind", LACK_WEIGHTS)
@pytest.mark.filterwarnings("error")
def test_a_weight_of_which_nothing_is_in_the_reward_is_refused(kind, name):
    base = kind()
    base.reset(seed=0)
    before = base.data.qpos.copy(), base.np_random.bit_generator.state, vars(base).keys()
    if name in LACK_WEIGHTS[kind]:
        words = rf"^{name} needs .*, which {kind.__name__} lacks: .* are the same at twice its '_\w+'$"
        with pytest.raises(envs.ParameterError, match=words):
            envs.NonStationary(base, name)
    else:
        envs.NonStationary(base, name).close()
    np.testing.assert_array_equal(base.data.qpos, before[0])
    assert (base.np_random.bit_generator.state, vars(base).keys()) == before[1:]
    assert getattr(base, "steps", 0) == 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Squared, r"a reward for velocity in the plane .* lacks: twice its '_forward_reward_weight' pays 0 more in a step"),
        (Tenth, r"a reward for velocity in the plane .* lacks: twice its '_forward_reward_weight' pays "),
        (AtItsEnd, r"a reward for velocity in the plane .* lacks: twice its '_forward_reward_weight' pays 0 more in a step"),
        (Vector, "a reward that is one number, got 3 numbers of Vector$"),
    ],
)
def test_a_direction_is_not_paid_for_where_the_reward_is_another_one(kind, words):
    with pytest.raises(envs.ParameterError, match=f"^goal_direction needs {words}"):
        held(kind(), "goal_direction", 90.0)


@pytest.mark.parametrize("kind", [Bonus, NoCosts])
@pytest.mark.filterwarnings("error")
def test_a_direction_is_paid_for_where_there_is_more_in_the_reward(kind):
    plain, env = kind(), held(kind(), "goal_direction", 180.0)
    plain.reset(seed=0)
    env.reset(seed=0)
    action = np.full(8, 0.5, np.float32)
    _, reward, *_, info = plain.step(action)
    assert env.step(action)[1] == pytest.approx(reward - 2 * info["x_velocity"])


def test_a_class_with_arguments_of_its_own_is_tried_and_the_environment_left_as_it_is():
    class Made(Vector):
        def __init__(self, ground):
            super().__init__()
            self.ground = ground

        def step(self, action):
            np.random.random()  # noqa: NPY002
            random.random()  # noqa: S311
            return super().step(action)

    before = np.random.get_state()[2], random.getstate()  # noqa: NPY002
    with pytest.raises(envs.ParameterError, match=r"^forward_reward needs"):
        envs.NonStationary(Made("ice"), "forward_reward")
    assert (np.random.get_state()[2], random.getstate()) == before  # noqa: NPY002
    env, plain = Made("ice"), Made("ice")
    env.reset(seed=3)
    plain.reset(seed=3)
    state, renderer = env.data.qpos.copy(), env.mujoco_renderer
    with pytest.raises(envs.ParameterError):
        held(env, "goal_direction", 90.0)
    assert np.array_equal(env.data.qpos, state)
    assert env.mujoco_renderer is renderer
    assert env.np_random.random() == plain.np_random.random()


def test_what_cannot_be_tried_on_a_copy_is_said():
    class Made(Vector):
        def __init__(self, lock):
            super().__init__()
            self.lock = lock

    with pytest.warns(
        UserWarning, match=r"^forward_reward: whether Made goes by it could not be tried on a copy \(TypeError: "
    ):
        envs.NonStationary(Made(threading.Lock()), "forward_reward")
    with pytest.warns(UserWarning, match=r"^goal_direction: whether Made goes by it could not be tried"):
        env = held(Made(threading.Lock()), "goal_direction", 90.0)
    env.reset(seed=0)
    with pytest.raises(envs.EffectError, match=r"^goal_direction needs a reward that is one number, got 3 numbers of Made$"):
        env.step(env.action_space.sample())
