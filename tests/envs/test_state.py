from __future__ import annotations

import weakref

import gymnasium
import mujoco
import numpy as np
import pytest
from worlds import World, box

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


def test_held_values_are_held_afterwards():
    env, other = (envs.NonStationary(gymnasium.make("Hopper-v5"), period=5, change_at="now", seed=0) for _ in range(2))
    env.reset(seed=0)
    free = envs.save_state(env)
    env.hold({"friction": 0.3})
    actions = np.zeros((12, 3))
    play(env, actions[:3])
    envs.load_state(other, envs.save_state(env))
    seen = play(env, actions)
    assert (play(other, actions), {step[-1]["friction"] for step in seen if len(step) > 1}) == (seen, {0.3})
    envs.load_state(other, free)
    assert len({step[-1]["friction"] for step in play(other, actions) if len(step) > 1}) == 3


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


# Simulations that are no MujocoEnv, and wrappers that keep objects


class Remembered:
    def __init__(self):
        self.seen, self.last = [], None


class Wandering(World):
    """Draws, keeps objects of its own, and writes to its model."""

    def __init__(self):
        super().__init__(box(more='<body pos="1 0 1"><freejoint/><geom name="ball" size="0.1"/></body>'))
        self.memory = Remembered()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.memory.seen.append(self.data.time)
        self.model.geom_size[2, 0] = self.np_random.uniform(0.05, 0.2)
        self.data.qvel[:] = self.np_random.normal(size=self.model.nv)
        return self.data.qpos[:1].astype(np.float32), {}

    def step(self, action):
        self.data.qfrc_applied[0] = self.np_random.normal()
        mujoco.mj_step(self.model, self.data)
        self.memory.seen.append(float(self.data.qpos[0]))
        self.memory.last = self.data.qpos.copy()
        return self.data.qpos[:1].astype(np.float32), sum(self.memory.seen), False, len(self.memory.seen) % 40 == 0, {}


WRAPPERS = {
    "none": lambda env: env,
    "normalised": lambda env: gymnasium.wrappers.NormalizeReward(gymnasium.wrappers.NormalizeObservation(env)),
    "stacked": lambda env: gymnasium.wrappers.FrameStackObservation(env, 3),
    "recorded": lambda env: gymnasium.wrappers.TimeAwareObservation(gymnasium.wrappers.TimeLimit(env, 17)),
    "changing": lambda env: envs.NonStationary(env, "mass", period=20, change_at="now", seed=0),
    "rewritten": lambda env: envs.NonStationary(env, "friction", period=20, seed=0, factor=True, low=0.5, high=2.0),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_simulation_of_ones_own_goes_on_to_the_bit_in_any_wrapper(wrap):
    assert_goes_on_alike(lambda: wrap(Wandering()), steps=63)


def test_own_values_that_a_reset_has_written_go_on_too():
    class Drawing(Wandering):
        def reset(self, *, seed=None, options=None):
            observation = super().reset(seed=seed)
            self.model.geom_friction[:, 0] = self.np_random.uniform(0.2, 1.0)
            return observation

    options = {"period": 20, "seed": 0, "factor": True, "low": 0.5, "high": 2.0}
    assert_goes_on_alike(lambda: envs.NonStationary(Drawing(), "friction", **options), steps=63)


@pytest.mark.skipif(not hasattr(mujoco.mjtEnableBit, "mjENBL_SLEEP"), reason="this MuJoCo does not let bodies sleep")
def test_what_sleeps_sleeps_on():
    env, other = (World(box(flag='<flag sleep="enable"/>')) for _ in range(2))
    env.reset()
    for _ in range(3000):
        env.step(None)
    assert env.data.tree_asleep[0] >= 0
    envs.load_state(other, envs.save_state(env))
    for each in (env, other):
        each.step(None)
    np.testing.assert_array_equal(env.data.tree_asleep, other.data.tree_asleep)
    np.testing.assert_array_equal(env.data.qpos, other.data.qpos)


def test_what_cannot_be_saved_is_refused_by_name():
    class Keeping(World):
        def __init__(self):
            super().__init__(box())
            self.journal = {"lines": iter([1, 2])}

    with pytest.raises(envs.ParameterError, match=r"cannot be saved of Keeping\.journal\['lines'\], which is a list_iterator"):
        envs.save_state(Keeping())


def test_a_model_without_a_simulation_is_refused():
    env = World(box())
    env._hidden, env.data = env.data, None
    with pytest.raises(envs.ParameterError, match="simulation of World, whose MjData is not to be found"):
        envs.save_state(env)


# States know whose they are


def changing(parameter="friction", **kwargs):
    return envs.NonStationary(gymnasium.make("Hopper-v5"), parameter, **({"period": 10, "seed": 0} | kwargs))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: changing("gravity"), "state must be that of gravity, got friction"),
        (lambda: changing(high=1.0), "state of friction must be that of .*'high': 1.0"),
        (lambda: changing(schedule="random_walk"), "state of friction must be that of .*'random_walk'"),
        (lambda: changing({"friction": {}, "mass": {}}), "state must be that of friction and mass, got friction"),
        (lambda: changing(period={"name": "geometric", "mean": 10}), "state must have 1 clocks as here"),
        (lambda: changing(period=20), "state must be that of period 20 as here, got 10"),
        (lambda: changing(change_at="now"), "state must be that of change_at 'now' as here, got 'episode_end'"),
        (lambda: changing(count="episodes"), "state must be that of count 'episodes' as here, got 'steps'"),
    ],
)
def test_the_state_of_another_change_is_refused_and_changes_nothing(other, words):
    env, other = changing(), other()
    env.reset(seed=0)
    other.reset(seed=0)
    state, before = envs.save_state(env), envs.save_state(other)
    with pytest.raises(envs.ParameterError, match=words):
        envs.load_state(other, state)
    with pytest.raises(envs.ParameterError, match=words):
        other.load_state_dict(env.state_dict())
    np.testing.assert_equal(envs.save_state(other), before)


def test_the_state_of_another_model_of_the_same_size_is_refused():
    first, second = World(box()), World(box().replace('type="box"', 'type="sphere"'))
    second_more = World(box(more='<site name="here"/>'))
    envs.load_state(second, envs.save_state(second))
    with pytest.raises(envs.ParameterError, match="the same MuJoCo model"):
        envs.load_state(second_more, envs.save_state(first))


def test_a_state_of_the_release_before_goes_on():
    env, other = changing(), changing()
    env.reset(seed=0)
    play(env, [np.zeros(3)] * 15)
    state = envs.save_state(env)
    for change in state[0]["schedule"]["changes"]:
        del change["name"], change["options"]
    del state[0]["schedule"]["timing"], state[0]["schedule"]["first"]
    assert state[0]["schedule"].keys() == {"phase", "steps", "episodes", "steps_in_episode", "changes", "interface"}
    del state[-1]["simulation"]["model"], state[-1]["simulation"]["options"], state[-1]["simulation"]["signature"]
    envs.load_state(other, state)
    assert play(other, [np.zeros(3)] * 30) == play(env, [np.zeros(3)] * 30)


def test_a_generator_of_a_state_of_the_release_before_goes_on():
    env, other = GeneratorOfAnotherKind(), GeneratorOfAnotherKind()
    env.reset(seed=0)
    state = envs.save_state(env)
    del state[-1]["values"]["generator"]["seeds"], state[-1]["values"]["_np_random"]["seeds"]
    envs.load_state(other, state)
    assert play(other, [None] * 3) == play(env, [None] * 3)


def test_what_several_hold_is_held_by_several_afterwards():
    class Sharing(World):
        def __init__(self):
            super().__init__(box())
            self.log = []
            self.same = {"log": self.log}
            self.pair = (self.log, self.log)

    env, other = Sharing(), Sharing()
    env.log.append(1.5)
    envs.load_state(other, envs.save_state(env))
    assert other.same["log"] is other.log
    other.log.append(2.5)
    assert other.pair == ([1.5, 2.5], [1.5, 2.5])


class Keeping(World):
    """A world that keeps something between steps and shows it in its reward."""

    def __init__(self):
        super().__init__(box())
        self.begin()

    def begin(self):
        pass

    def shown(self):
        return 0.0

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(None)
        return observation, self.shown(), terminated, truncated, info


class Noise:
    """Can be called, and is no function."""

    def __init__(self):
        self.x, self.generator = 0.0, np.random.default_rng(0)

    def __call__(self):
        self.x += self.generator.normal()
        return self.x


class WithNoise(Keeping):
    def begin(self):
        self.noise = Noise()

    def shown(self):
        return self.noise()


class Goal:
    def __init__(self, x):
        self.x = x


class OneOfItsGoals(Keeping):
    def begin(self):
        self.goals = [Goal(float(i)) for i in range(5)]
        self.goal = self.goals[0]
        self.steps = 0

    def shown(self):
        self.steps += 1
        self.goal = self.goals[self.steps % 5]
        self.goal.x += 0.5
        return sum((i + 1) * goal.x for i, goal in enumerate(self.goals))


class OneArrayUnderTwoNames(Keeping):
    def begin(self):
        self.wind = np.zeros(3)
        self.seen = self.wind

    def shown(self):
        self.wind += 0.1
        return float(self.seen[0])


class OneListInTwoPlaces(Keeping):
    def begin(self):
        self.queue = [1.0]
        self.by_name = {"queue": self.queue}

    def shown(self):
        self.by_name["queue"].append(len(self.queue))
        return float(sum(self.queue))


class OneGeneratorUnderTwoNames(Keeping):
    def begin(self):
        self.first = np.random.default_rng(0)
        self.second = self.first

    def shown(self):
        return self.first.normal() + 10 * self.second.normal()


class GeneratorOfAnotherKind(Keeping):
    def begin(self):
        self.generator = None

    def reset(self, *, seed=None, options=None):
        made = super().reset(seed=seed)
        self.generator = np.random.Generator(np.random.Philox(int(self.np_random.integers(99))))
        return made

    def shown(self):
        return self.generator.random()


def drawn(seeds):
    """The first number of a child of a generator or of a sequence of seeds."""
    child = seeds.spawn(1)[0]
    return np.random.default_rng(child).random()  # which is a generator itself, if it is given one


class ChildrenOfItsGenerator(Keeping):
    def shown(self):
        return drawn(self.np_random)


class ChildrenOfASpaces(Keeping):
    def begin(self):
        self.space = gymnasium.spaces.Box(0.0, 1.0, (1,), seed=5)

    def shown(self):
        return drawn(self.space.np_random)


class OneSequenceOfSeedsForTwo(Keeping):
    """Whatever it makes of its seeds, it does so in turns."""

    def begin(self):
        self.seeds = np.random.SeedSequence(np.array([7, 2**31], np.uint32), spawn_key=(4, 1), pool_size=6)
        self.bits = np.random.SFC64(self.seeds)
        self.generator = np.random.Generator(self.bits)

    def shown(self):
        return drawn(self.seeds) + 10 * drawn(self.bits) + 100 * drawn(self.generator) + 1000 * self.generator.random()


class SeedsOfAText(Keeping):
    def begin(self):
        self.seeds = np.random.SeedSequence(["0x1234567890", 5])

    def shown(self):
        return drawn(self.seeds)


class OptionsOfTheModel(Keeping):
    def reset(self, *, seed=None, options=None):
        made = super().reset(seed=seed)
        self.model.opt.impratio = self.np_random.uniform(1, 20)
        self.model.opt.iterations = int(self.np_random.integers(3, 30))
        return made

    def shown(self):
        return self.model.opt.impratio + self.model.opt.iterations


@pytest.mark.parametrize(
    "make",
    [
        WithNoise,
        OneOfItsGoals,
        OneArrayUnderTwoNames,
        OneListInTwoPlaces,
        OneGeneratorUnderTwoNames,
        GeneratorOfAnotherKind,
        ChildrenOfItsGenerator,
        ChildrenOfASpaces,
        OneSequenceOfSeedsForTwo,
        SeedsOfAText,
        OptionsOfTheModel,
    ],
)
def test_what_a_world_keeps_goes_on_to_the_bit(make):
    assert_goes_on_alike(make, steps=12)


def test_what_stood_in_two_places_stands_there_again():
    env, other = OneOfItsGoals(), OneOfItsGoals()
    env.reset(seed=0)
    play(env, [None] * 3)
    envs.load_state(other, envs.save_state(env))
    assert other.goal is other.goals[3]
    assert [goal.x for goal in other.goals] == [0.0, 1.5, 2.5, 3.5, 4.0]


def test_a_list_goes_back_to_none():
    class Plans(Keeping):
        def begin(self):
            self.plan = None

        def shown(self):
            self.plan = [*(self.plan or []), 1.0]
            return float(len(self.plan))

    env = Plans()
    env.reset(seed=0)
    state = envs.save_state(env)
    first = play(env, [None] * 3)
    envs.load_state(env, state)
    assert env.plan is None
    assert play(env, [None] * 3) == first


class Spawns(Keeping):
    def begin(self):
        self.obstacles = []

    def shown(self):
        self.obstacles.append(self.spawn())
        for obstacle in self.obstacles:
            obstacle.x += 1.0
        return sum(obstacle.x for obstacle in self.obstacles)

    def spawn(self):
        return Goal(1.0)


def test_objects_that_come_in_mid_episode_come_in_again():
    assert_goes_on_alike(Spawns, steps=3)


def test_objects_that_come_in_mid_episode_with_what_is_not_saved_are_refused_in_one_line():
    class WithAFunction(Spawns):
        def spawn(self):
            goal = Goal(1.0)
            goal.rule = lambda x: x
            return goal

    env = WithAFunction()
    env.reset(seed=0)
    play(env, [None] * 3)
    with pytest.raises(
        envs.ParameterError, match=r"attributes of WithAFunction\.obstacles\[0\], an object that the environment lacks"
    ):
        envs.load_state(WithAFunction(), envs.save_state(env))


@pytest.mark.parametrize("names", [("_m", "_d"), ("model2", "data2")])
def test_a_simulation_that_is_not_found_is_refused(names):
    class Hidden(Keeping):
        def begin(self):
            setattr(self, names[0], self.model if names[0] == "_m" else mujoco.MjModel.from_xml_string(box()))
            setattr(self, names[1], mujoco.MjData(getattr(self, names[0])))
            if names[0] == "_m":
                del self.model, self.data

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

    env = Hidden()
    with pytest.raises(envs.ParameterError, match=rf"state cannot be saved of Hidden\.{names[1]}, a MuJoCo simulation"):
        envs.save_state(env)
    if names[0] == "_m":
        envs.save_state(envs.NonStationary(env, "friction", seed=0, model=lambda env: (env.unwrapped._m, env.unwrapped._d)))


class Draws(gymnasium.Wrapper):
    """Draws the mass of another body than the one that changes, at each reset."""

    def reset(self, *, seed=None, options=None):
        out = self.env.reset(seed=seed, options=options)
        self.unwrapped.model.body_mass[1] = self.unwrapped.np_random.uniform(2, 5)
        return out


@pytest.mark.parametrize("name", ["mass:foot", "centre_of_mass_x:foot", "gravity"])
@pytest.mark.filterwarnings("error")
def test_a_world_that_draws_other_numbers_itself_goes_on_to_the_bit(name):
    def make():
        inner = Draws(gymnasium.make("Hopper-v5", terminate_when_unhealthy=False, max_episode_steps=40))
        values = {"gravity": [9.0, 5.0], "mass:foot": [1.0, 2.0]}.get(name, [0.0, 0.01])
        return envs.NonStationary(inner, name, {"name": "list", "values": values}, period=30, seed=0)

    first, second = make(), make()
    first.reset(seed=0)
    play(first, np.zeros((45, 3)))  # in the second phase, which has other masses than the world's own
    envs.load_state(second, envs.save_state(first))
    assert play(first, np.zeros((120, 3))) == play(second, np.zeros((120, 3)))
    for field in ("body_mass", "body_invweight0", "dof_M0"):
        assert np.array_equal(*(getattr(env.unwrapped.model, field) for env in (first, second)))


def tasks():
    return envs.TaskSequence(["Hopper-v5", "Hopper-v5"], period=10, seed=0)


@pytest.mark.parametrize(
    ("make", "broken", "words"),
    [
        (changing, lambda state: None, "state must be the list of dictionaries that save_state returned, got None"),
        (changing, lambda state: state[0], "state must be the list of dictionaries that save_state returned, got {'class'"),
        (changing, lambda state: state[:-1], "state must be that of NonStationary around .*HopperEnv, got NonStationary"),
        (changing, lambda state: [{"class": state[0]["class"]}, *state[1:]], "one without 'schedule' of NonStationary"),
        (changing, lambda state: [*state[:-1], {"class": "HopperEnv"}], "one without 'values' of HopperEnv"),
        (tasks, lambda state: [{**state[0], "of_task": None}], "state must be the list .* got None"),
        (tasks, lambda state: [{key: state[0][key] for key in ("class", "schedule")}], "one without 'of_task' of TaskSequence"),
    ],
)
def test_what_is_no_state_is_refused_in_words(make, broken, words):
    env = make()
    env.reset(seed=0)
    with pytest.raises(envs.ParameterError, match=words):
        envs.load_state(env, broken(envs.save_state(env)))


def test_a_weak_proxy_is_no_state():
    env = gymnasium.make("CartPole-v1")
    env.unwrapped.proxy = weakref.proxy(env)
    env.reset(seed=0)
    state = envs.save_state(env)
    expected = env.step(0)[0]
    envs.load_state(env, state)
    assert env.step(0)[0].tolist() == expected.tolist()
