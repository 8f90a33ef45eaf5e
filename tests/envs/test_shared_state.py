"""Environments that choose from what is not theirs alone: tables of a class or module, rows of an array, other generators."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
import textwrap

import boxes
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from test_state import Keeping, play

import envs


@dataclasses.dataclass
class Task:
    name: str
    x: float
    way: list[float] = dataclasses.field(default_factory=lambda: [0.0, 1.0])


@dataclasses.dataclass(frozen=True)
class FrozenTask:
    x: float


@dataclasses.dataclass(slots=True)
class Point:
    x: float = 0.0


class Counted(Point):
    """Has slots and a dictionary."""


def three_tasks():
    return [Task("a", 1.0), Task("b", 2.0, [3.0]), Task("c", 4.0)]


TASKS = three_tasks()
NESTED = {"easy": {"tasks": (Task("d", 1.0), Task("e", 2.0))}, 7: {"tasks": (Task("f", 4.0), Task("g", 8.0))}}
SINGLE = Task("h", 16.0)
chance = np.random.default_rng(3)


def by_chance():
    return chance.random()


class Choosing(Keeping):
    """Chooses at each reset and at every third step."""

    def reset(self, *, seed=None, options=None):
        made = super().reset(seed=seed)
        self.steps = 0
        self.choose()
        return made

    def step(self, action):
        self.steps += 1
        if self.steps % 3 == 0:
            self.choose()
        return super().step(action)


class OfTheClass(Choosing):
    TABLE = three_tasks()

    def choose(self):
        self.task = self.TABLE[self.np_random.integers(3)]

    def shown(self):
        return self.task.x + 10 * self.TABLE.index(self.task) + 100 * sum(self.task.way)


class OfTheModule(OfTheClass):
    def choose(self):
        self.task = TASKS[self.np_random.integers(3)]
        self.way = self.task.way

    def shown(self):
        return self.task.x + 10 * [each is self.task for each in TASKS].index(True) + 100 * self.way[-1]


class OfAnotherModule(Choosing):
    def choose(self):
        self.weight = boxes.WEIGHTS[("light", "heavy")[self.np_random.integers(2)]]

    def shown(self):
        return self.weight[0]


class Nested(Choosing):
    def choose(self):
        self.task = NESTED[("easy", 7)[self.np_random.integers(2)]]["tasks"][self.np_random.integers(2)]

    def shown(self):
        return self.task.x


class Frozen(Choosing):
    TABLE = (FrozenTask(1.0), FrozenTask(2.0), FrozenTask(4.0))

    def choose(self):
        self.task = self.TABLE[self.np_random.integers(3)]

    def shown(self):
        return self.task.x


class OneOfThemChanged(Choosing):
    """Holds an entry of the table, or a changed copy that is its own."""

    TABLE = three_tasks()

    def choose(self):
        self.task = self.TABLE[self.np_random.integers(3)]
        if self.np_random.random() < 0.5:
            self.task = dataclasses.replace(self.task, x=self.np_random.random(), way=[*self.task.way, 5.0])

    def shown(self):
        return self.task.x + sum(self.task.way)


class RowsOfTheClass(Choosing):
    TABLE = np.arange(12.0).reshape(4, 3)

    def choose(self):
        self.row = self.TABLE[self.np_random.integers(4)]

    def shown(self):
        return self.row[1]


class ArraysOfTheClass(RowsOfTheClass):
    TABLE = (np.zeros(3), np.ones(3), np.full(3, 2.0), np.full(3, 3.0))


class ObjectsInAnArray(Choosing):
    TABLE = np.array(three_tasks(), dtype=object)

    def choose(self):
        self.task = self.TABLE[self.np_random.integers(3)]

    def shown(self):
        return self.task.x


class OwnRows(Choosing):
    """One row of its own array is written to, under another name."""

    def begin(self):
        self.row = None
        self.rows = np.arange(8.0).reshape(4, 2)

    def choose(self):
        self.row = self.rows[self.np_random.integers(4)]

    def shown(self):
        self.row += 0.25
        return float(self.rows @ [1.0, 10.0] @ [1.0, 100.0, 1e4, 1e6])


class OwnColumnsBackwards(OwnRows):
    def choose(self):
        self.row = self.rows[::-1, self.np_random.integers(2)]


class OwnTasks(Choosing):
    """The present one has its name before the list has."""

    def begin(self):
        self.task = None
        self.tasks = three_tasks()
        self.ways = {task.name: task.way for task in self.tasks}

    def choose(self):
        self.task = self.tasks[self.np_random.integers(3)]

    def shown(self):
        self.task.x += 1
        self.ways[self.task.name].append(0.5)
        return sum((i + 1) * (task.x + len(task.way)) for i, task in enumerate(self.tasks))


class Holder:
    def __init__(self, tasks):
        self.tasks = tasks


class TasksOfAPart(OwnTasks):
    def begin(self):
        self.task = None
        self.holder = Holder(three_tasks())

    def choose(self):
        self.task = self.holder.tasks[self.np_random.integers(3)]

    def shown(self):
        self.task.x += 1
        return sum((i + 1) * task.x for i, task in enumerate(self.holder.tasks))


class RowOfTheSimulation(Choosing):
    def choose(self):
        number = self.np_random.integers(2)
        self.place = self.data.geom_xpos[number]
        self.size = self.model.geom_size[number, :2]
        self.data.qvel[:] = self.np_random.normal(size=self.model.nv)

    def shown(self):
        return float(self.place.sum() + 10 * self.size.sum())


class Slots(Choosing):
    def begin(self):
        self.points = [Point(), Counted()]

    def choose(self):
        self.points[1].steps = self.steps

    def shown(self):
        for point in self.points:
            point.x += self.np_random.random()
        return self.points[0].x + self.points[1].x + self.points[1].steps


class SampledGoals(Choosing):
    def begin(self):
        within = spaces.Dict(place=spaces.Box(-1, 1, (2,)), kind=spaces.Tuple([spaces.Discrete(5)]))
        self.goals = spaces.OneOf([within, spaces.MultiBinary(3)])
        self.goals.seed(4)

    def choose(self):
        self.goal = self.goals.sample()

    def shown(self):
        return float(np.sum(spaces.flatten(self.goals, self.goal)))


class SampledFromASpaceMadeAtReset(Choosing):
    space = None

    def reset(self, *, seed=None, options=None):
        self.space = spaces.Box(-1, 1, (2,), seed=seed)
        return super().reset(seed=seed)

    def choose(self):
        self.goal = self.space.sample()

    def shown(self):
        return float(self.goal.sum())


class GeneratorOfTheClass(Choosing):
    luck = np.random.default_rng(0)
    goals = spaces.Box(-1, 1, (1,), seed=0)

    def choose(self):
        self.drawn = self.luck.random() + 10 * self.goals.sample()[0]

    def shown(self):
        return float(self.drawn)


class GeneratorOfTheModule(GeneratorOfTheClass):
    def choose(self):
        self.drawn = by_chance()


class GeneratorOfAnotherModule(GeneratorOfTheClass):
    def choose(self):
        self.drawn = sum(boxes.luck.random() for _ in range(2))


CHOOSING = [
    OfTheClass, OfTheModule, OfAnotherModule, Nested, Frozen, OneOfThemChanged, RowsOfTheClass, ArraysOfTheClass,
    ObjectsInAnArray, OwnRows, OwnColumnsBackwards, OwnTasks, TasksOfAPart, RowOfTheSimulation, Slots, SampledGoals,
    SampledFromASpaceMadeAtReset, GeneratorOfTheClass, GeneratorOfTheModule, GeneratorOfAnotherModule,
]  # fmt: skip


def assert_goes_on_in_another(make, *, begun):
    for seed in range(8 if begun else 3):  # with entries of the table that may be those that the other has by luck
        env, other = make(), make()
        env.reset(seed=seed)
        play(env, [None] * (seed + 1))
        state = envs.save_state(env)
        expected = play(env, [None] * 12)
        if begun:
            other.reset(seed=seed + 20)
            play(other, [None] * 2)
        envs.load_state(other, state)
        assert play(other, [None] * 12) == expected


def tables():
    return copy.deepcopy([TASKS, NESTED, SINGLE, boxes.WEIGHTS, *(vars(kind).get("TABLE") for kind in CHOOSING)])


@pytest.mark.parametrize("make", CHOOSING)
@pytest.mark.parametrize("begun", [False, True])
def test_what_is_chosen_from_a_table_goes_on_to_the_bit_and_leaves_the_table_alone(make, begun):
    before = tables()
    assert_goes_on_in_another(make, begun=begun)
    np.testing.assert_equal(tables(), before)


def test_a_task_is_that_of_the_table_again():
    env, other = OfTheModule(), OfTheModule()
    env.reset(seed=0)
    other.task = None
    envs.load_state(other, envs.save_state(env))
    assert any(other.task is task for task in TASKS)
    assert other.task is env.task
    assert other.way is env.task.way


def test_what_is_ones_own_is_not_written_into_the_table():
    env, other = OfTheModule(), OfTheModule()
    env.reset(seed=0)
    other.reset(seed=0)
    env.task = Task("own", 64.0, [9.0])
    before = copy.deepcopy(TASKS)
    envs.load_state(other, envs.save_state(env))
    assert other.task == Task("own", 64.0, [9.0])
    assert before == TASKS


def test_rows_are_rows_of_the_same_array_again():
    env, other = OwnRows(), OwnRows()
    for each, seed in ((env, 0), (other, 1)):
        each.reset(seed=seed)
        each.row = each.rows[2 - seed]
    other.row[:] = 50.0
    envs.load_state(other, envs.save_state(env))
    other.row[:] = 7.0
    # Rows 0 to 3 of arange(8), of which the third is now 7, 7.
    np.testing.assert_array_equal(other.rows, [[0, 1], [2, 3], [7, 7], [6, 7]])


class Watching(gymnasium.Wrapper):
    """Holds what the environment holds: an object, a list and a row."""

    def __init__(self, env):
        super().__init__(env)
        self.task, self.way, self.row = env.task, env.way, env.rows[1]

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.task.x += 1
        self.way.append(1.0)
        self.row += 1
        return observation, reward, terminated, truncated, info


class Watched(Keeping):
    def begin(self):
        self.task = Task("own", 0.0)
        self.way = [1.0]
        self.rows = np.zeros((3, 2))

    def shown(self):
        return self.task.x + 100 * len(self.way) + 1e4 * self.rows.sum()


def test_what_a_wrapper_holds_of_the_environment_it_holds_afterwards():
    env, other = Watching(Watched()), Watching(Watched())
    env.reset(seed=0)
    play(env, [None] * 4)
    envs.load_state(other, envs.save_state(env))
    assert play(other, [None] * 6) == play(env, [None] * 6)
    assert other.task is other.env.task
    assert other.way is other.env.way
    assert np.shares_memory(other.row, other.env.rows)


def test_an_entry_that_is_no_longer_in_the_table_is_ones_own(monkeypatch):
    env, other = OfTheModule(), OfTheModule()
    env.reset(seed=0)
    other.reset(seed=1)
    state = envs.save_state(env)
    monkeypatch.setattr(sys.modules[__name__], "TASKS", three_tasks()[:1])
    other.task = TASKS[0]
    envs.load_state(other, state)
    assert other.task == env.task
    assert three_tasks()[:1] == TASKS


def test_generators_that_the_environment_does_not_use_are_left_alone():
    env = OfTheModule()
    env.reset(seed=0)
    state = envs.save_state(env)
    first = chance.random()
    envs.load_state(env, state)
    assert chance.random() != first


def test_a_script_keeps_its_own_lists(tmp_path):
    """What no method of the environment names is the script's, also where it is a part of an environment."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import gymnasium
            import envs

            LEVELS = [{"x": 1.0}, {"x": 2.0}]

            class World(gymnasium.Env):
                action_space = observation_space = gymnasium.spaces.Discrete(2)

                def __init__(self):
                    self.goals = [[0.0], [1.0]]
                    self.level = LEVELS[0]

            env, other = World(), World()
            goals = env.goals
            env.level = LEVELS[1]
            env.goals[0][0] = 5.0
            envs.load_state(other, envs.save_state(env))
            print(other.goals == env.goals, other.goals is not env.goals, other.level is LEVELS[1], LEVELS)
        """)
    )
    said = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=600).stdout
    assert said.split("\n")[0] == "True True True [{'x': 1.0}, {'x': 2.0}]"
