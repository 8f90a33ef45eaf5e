"""What environments keep between steps, of kinds and in places that others have: each goes on to the bit or is refused."""

from __future__ import annotations

import collections
import copy
import datetime as dt
import enum
import functools
import pathlib
import random
import time
from copy import deepcopy
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType, SimpleNamespace
from typing import ClassVar, NamedTuple

import boxes
import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_shared_state import Choosing, assert_goes_on_in_another
from test_state import Goal, Keeping, play

import envs


class Ground(enum.Enum):
    FLAT = 1
    ROUGH = 2


class Walk:
    pass


class Run:
    pass


class Ways:
    """A namespace."""

    SLOW = Goal(1.0)
    FAST = Goal(2.0)


class Book:
    """Tasks in the class of a part."""

    TASKS = (Goal(1.0), Goal(2.0), Goal(4.0))

    def draw(self, generator):
        return self.TASKS[generator.integers(3)]


class Spot(NamedTuple):
    x: float
    y: float


class Fixed:
    """Made once and never changed, by hand."""

    __slots__ = ("x",)

    def __init__(self, x):
        object.__setattr__(self, "x", x)

    def __setattr__(self, name, value):
        raise AttributeError(f"cannot assign to {name}")


class Chase:
    def pace(self):
        return 2.0


class Patrol:
    def pace(self):
        return 1.0


class Cell:
    def __init__(self, x):
        self.x = x

    def __hash__(self):
        return hash(self.x)

    def __eq__(self, other):
        return self.x == other.x


BY_GROUND = {Ground.FLAT: Goal(1.0), Ground.ROUGH: Goal(2.0)}
BY_PAIR = {(0, 0): Goal(1.0), (0, 1): Goal(2.0), (1, 0): Goal(4.0)}
BY_CLASS = {Walk: 1.0, Run: 2.0}
DEFAULT = {"speed": 1.0, "gravity": [9.8]}
GENERATORS = [np.random.default_rng(0), np.random.default_rng(1)]
SPACES = [spaces.Box(-1, 1, (1,), seed=0), spaces.Box(-5, 5, (1,), seed=1)]
BY_NAME = {"a": np.random.default_rng(2), "b": np.random.default_rng(3)}


class ByEnumeration(Choosing):
    def choose(self):
        self.task = BY_GROUND[list(Ground)[self.np_random.integers(2)]]

    def shown(self):
        return self.task.x + 10 * [each is self.task for each in BY_GROUND.values()].index(True)


class ByPair(ByEnumeration):
    def choose(self):
        self.task = BY_PAIR[((0, 0), (0, 1), (1, 0))[self.np_random.integers(3)]]

    def shown(self):
        return self.task.x


class OfANamespace(ByPair):
    def choose(self):
        self.task = (Ways.SLOW, Ways.FAST)[self.np_random.integers(2)]


class OfAPart(ByPair):
    def begin(self):
        self.task = None
        self.book = Book()

    def choose(self):
        self.task = self.book.draw(self.np_random)


class OfALocalImport(ByPair):
    def choose(self):
        from boxes import WEIGHTS

        self.weight = WEIGHTS[("light", "heavy")[self.np_random.integers(2)]]

    def shown(self):
        return self.weight[0]


class OfADefault(Choosing):
    def __init__(self, config=DEFAULT):
        self.config = config
        super().__init__()

    def choose(self):
        self.config = {**self.config, "speed": self.np_random.random(), "gravity": [*self.config["gravity"], 1.0]}

    def shown(self):
        return self.config["speed"] + sum(self.config["gravity"])


class WithKeysThatAreClasses(Choosing):
    def begin(self):
        self.weights = dict(BY_CLASS)

    def choose(self):
        self.weights[Walk] += self.np_random.random()

    def shown(self):
        return self.weights[Walk] + 10 * self.weights[Run]


class HoldingATableOfClasses(WithKeysThatAreClasses):
    def begin(self):
        self.weights = BY_CLASS

    def choose(self):
        pass


class WithKeysThatAreObjects(Choosing):
    def begin(self):
        self.cells = {Cell(1.0): 0.0, Cell(2.0): 0.0}

    def choose(self):
        self.cells[Cell(2.0)] += self.np_random.random()

    def shown(self):
        return self.cells[Cell(1.0)] + self.cells[Cell(2.0)]


class OneOfTheGenerators(Choosing):
    def choose(self):
        self.generator = GENERATORS[self.np_random.integers(2)]

    def shown(self):
        return self.generator.random()


class OneOfTheSpaces(Choosing):
    def choose(self):
        self.space = SPACES[self.np_random.integers(2)]

    def shown(self):
        return float(self.space.sample()[0])


class GeneratorsByName(Choosing):
    def choose(self):
        pass

    def shown(self):
        return BY_NAME["a"].random() + 10 * BY_NAME["b"].random()


class ChildrenOfItsClass(Choosing):
    SEEDS = np.random.SeedSequence(3)

    def choose(self):
        pass

    def shown(self):
        return np.random.default_rng(self.SEEDS.spawn(1)[0]).random() + 10 * BY_NAME["a"].spawn(1)[0].random()


class TheGeneratorUnderItsOwnName(Choosing):
    def begin(self):
        self.luck = self.np_random

    def choose(self):
        pass

    def shown(self):
        return self.luck.random() + 10 * self.np_random.random()


class OwnColumns(Choosing):
    """Matrix products and sums follow the order in memory."""

    def begin(self):
        self.weights = np.random.default_rng(0).normal(size=(37, 37)).T
        self.more = np.asfortranarray(np.random.default_rng(1).normal(size=(37, 37)))
        self.fewer = np.random.default_rng(2).normal(size=(74, 74))[::2, ::-2]
        self.x = np.ones(37)

    def choose(self):
        pass

    def shown(self):
        both = (self.weights @ self.x + self.more @ self.x + self.fewer @ self.x) / 7
        self.x = np.tanh(both + self.weights.sum() * 1e-3 + self.more.sum() * 1e-3)
        return float(self.x.sum())


class ReadOnly(Choosing):
    def choose(self):
        self.map = self.np_random.random((3, 3))
        self.map.setflags(write=False)
        self.row = self.map[self.np_random.integers(3)]

    def shown(self):
        return float(self.map.sum() + self.row.sum()) + self.map.flags.writeable


class InAClosure(Choosing):
    def begin(self):
        buffer = np.zeros(3)
        self.seen = buffer[:2]

        def update():
            buffer[:] += 1

        self.update = update

    def choose(self):
        pass

    def shown(self):
        self.update()
        return float(self.seen.sum())


class CopyOfTheSimulation(Choosing):
    def begin(self):
        self.last = self.data.qpos[:3]

    def choose(self):
        self.last = self.data.qpos[:3].copy()

    def shown(self):
        return float(self.last.sum())


class Frozen(Choosing):
    def choose(self):
        self.spot = Fixed(float(self.np_random.random()))

    def shown(self):
        return self.spot.x


class OnlyOneIsLeft(Choosing):
    def begin(self):
        self.those = [Patrol(), Chase()]
        self.by_name = {"a": Goal(1.0), "b": Goal(2.0)}

    def choose(self):
        if len(self.those) == 2:
            self.those.pop(0)
            del self.by_name["b"]

    def shown(self):
        return self.those[0].pace() + 10 * len(self.by_name)


class AnotherMode(Choosing):
    def begin(self):
        self.mode = Patrol()

    def choose(self):
        self.mode = (Patrol, Chase)[self.np_random.integers(2)]()

    def shown(self):
        return self.mode.pace()


class MadeByTheFirstReset(Choosing):
    def begin(self):
        self.window = self.spot = self.counts = self.missing = None

    def reset(self, *, seed=None, options=None):
        self.window = collections.deque([0.0] * 3, maxlen=3)
        self.spot = Spot(1.0, 2.0)
        self.counts = collections.Counter()
        self.missing = collections.defaultdict(list)
        return super().reset(seed=seed)

    def choose(self):
        self.spot = Spot(self.np_random.random(), 1.0)

    def shown(self):
        self.window.append(self.spot.x)
        self.counts[len(self.counts) % 3] += 1
        self.missing[len(self.missing) % 4].append(1)
        return sum(self.window) + self.spot.y + self.counts[0] + self.counts[7] + sum(map(len, self.missing.values()))


class CarriesAtTimes(Choosing):
    def begin(self):
        self.carrying = Goal(9.0)

    def choose(self):
        self.carrying = None if self.np_random.random() < 0.5 else Goal(self.np_random.random())

    def shown(self):
        return 0.0 if self.carrying is None else self.carrying.x


class ComputedOnce(Choosing):
    @functools.cached_property
    def far(self):
        return self.start * 10

    def choose(self):
        self.start = self.np_random.random()
        vars(self).pop("far", None)

    def shown(self):
        return self.far if self.steps % 3 else 0.0


class Tensors(Choosing):
    def begin(self):
        self.x, self.more = torch.zeros(2), torch.zeros(1)

    def choose(self):
        self.more = torch.full((int(self.np_random.integers(1, 4)),), self.np_random.random())

    def shown(self):
        self.x = self.x + 1
        return float(self.x.sum() + self.more.sum())


class Records(Choosing):
    def begin(self):
        self.table = np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("id", int), ("x", float)])

    def choose(self):
        self.table.x[0] = self.np_random.random()

    def shown(self):
        return float(self.table.x.sum())


class Named(Choosing):
    """Holds what MuJoCo finds by a name, one or another, and views of it."""

    def begin(self):
        self.floor = self.data.geom("floor")
        self.place = self.data.geom("floor").xpos
        self.geom = self.data.geom(1)

    def choose(self):
        number = int(self.np_random.integers(2))
        self.geom = self.data.geom(number)
        self.size = self.model.geom(number).size
        self.data.qvel[:] = self.np_random.normal(size=self.model.nv)

    def shown(self):
        return float(self.floor.xpos.sum() + self.place.sum() + self.geom.xpos.sum() + self.size.sum())


class Thing:
    def __init__(self, kind, holds=None):
        self.kind, self.holds = kind, holds


class Wall(Thing):
    def __init__(self):
        super().__init__("wall")


class Grid:
    def __init__(self):
        self.cells = [None] * 6


class OfThings(Choosing):
    """A world of cells, some of which have things in them, which have things in them."""

    def begin(self):
        self.grid = self.carried = None

    def choose(self):
        if self.grid is None or self.np_random.random() < 0.3:
            self.grid, self.carried = Grid(), None
            self.grid.cells[0], self.grid.cells[self.np_random.integers(1, 6)] = Wall(), Thing("box", Thing("key"))
        i = self.np_random.integers(1, 6)
        if self.carried is None and self.grid.cells[i] is not None:
            self.carried, self.grid.cells[i] = self.grid.cells[i], self.grid.cells[i].holds
        else:
            self.grid.cells[i], self.carried = self.carried, None

    def shown(self):
        kinds = [len(cell.kind) if cell else 0 for cell in (*self.grid.cells, self.carried)]
        return float(np.dot(kinds, 10.0 ** np.arange(7)))


class Snake(Choosing):
    """Grows by named tuples, of which a fresh environment has fewer."""

    def choose(self):
        self.snake = [Spot(0.0, 0.0)]

    def shown(self):
        self.snake.insert(0, Spot(self.np_random.random(), self.snake[0].y + 1))
        return self.snake[0].x + self.snake[-1].y + len(self.snake)


class Follower:
    def __init__(self, game, leader):
        self.game, self.leader, self.x, self.followers = game, leader, 0.0, []
        if leader is not None:
            leader.followers.append(self)

    def move(self):
        self.x += self.game.np_random.random() + (0 if self.leader is None else self.leader.x)


class PointingBack(Choosing):
    """Objects that come in hold the environment, one another, and are held in turn."""

    def begin(self):
        self.all = [Follower(self, None)]

    def choose(self):
        self.all.append(Follower(self, self.all[-1]))

    def shown(self):
        for each in self.all:
            each.move()
        return self.all[-1].x + sum(len(each.followers) for each in self.all) + (self.all[0].game is self)


class ItsOwnMethods(Choosing):
    """Its mode is one of its methods."""

    def begin(self):
        self.mode = self.patrol
        self.rule = None

    def patrol(self):
        self.mode = self.chase
        return 1.0

    def chase(self):
        if self.np_random.random() < 0.3:
            self.mode = self.patrol
        return 2.0

    def choose(self):
        pass

    def shown(self):
        return self.mode()


class MadeLater(Choosing):
    """A function is made by a step, and an ordered dictionary and a tensor are."""

    def begin(self):
        self.rule = self.order = self.last = None

    def choose(self):
        pass

    def shown(self):
        if self.rule is None:
            self.rule = float
        if self.order is None:
            self.order, self.last = collections.OrderedDict(), torch.zeros(1)
        self.order[str(self.steps)] = 1.0
        self.order.move_to_end(str(self.steps), last=False)
        self.last += 1
        return self.rule(len(self.order)) + float(self.last)


class Zombie(Patrol):
    pass


KINDS = {"zombie": Zombie, "chase": Chase}


class OutOfATable(Choosing):
    """Makes objects of classes that stand in a table."""

    def begin(self):
        self.enemies = []

    def choose(self):
        self.enemies.append(KINDS[("zombie", "chase")[self.np_random.integers(2)]]())

    def shown(self):
        return float(np.dot([each.pace() for each in self.enemies], 3.0 ** np.arange(len(self.enemies))))


class Deck(list):
    drawn = 0


class Cards(Choosing):
    def begin(self):
        self.deck = Deck(range(100))
        self.numbers = range(3)
        self.far = np.arange(5.0).astype(">f8")

    def choose(self):
        self.numbers = range(int(self.np_random.integers(9)))
        self.far[2] = self.np_random.random()

    def shown(self):
        self.deck.drawn += 1
        return (
            self.deck.pop(int(self.np_random.integers(len(self.deck)))) + self.deck.drawn + len(self.numbers) + self.far.sum()
        )


class ACamera(Choosing):
    """Domain randomisation of what is seen."""

    def __init__(self):
        super().__init__()
        self.model = mujoco.MjModel.from_xml_string(
            '<mujoco><worldbody><body><freejoint/><geom size="0.1"/><camera name="eye"/></body></worldbody></mujoco>'
        )
        self.data = mujoco.MjData(self.model)

    def choose(self):
        self.model.cam_pos[0] = self.np_random.random(3)

    def shown(self):
        return float(self.data.cam_xpos[0].sum())


class ItsOwnActions(Choosing):
    """An opponent acts at random."""

    def __init__(self):
        super().__init__()
        self.action_space = spaces.Box(-1, 1, (2,), seed=3)

    def choose(self):
        self.theirs = self.action_space.sample()

    def shown(self):
        return float(self.theirs.sum())


def flat(x):
    return x


def hill(x):
    return 2 * x


class Chosen(Choosing):
    """Chooses a function, a class or the like at a reset, of those that its methods name."""

    def begin(self):
        self.chosen = self.of()[0]

    def choose(self):
        self.chosen = self.of()[self.np_random.integers(2)]

    def shown(self):
        return self.ask(self.chosen)

    def ask(self, chosen):
        return chosen(3.0)


class OneOfTheFunctions(Chosen):
    def of(self):
        return flat, hill

    def doubled(self):
        return deepcopy(self.chosen)


class OneOfTheLambdas(Chosen):
    RULES = (lambda x: x, lambda x: 2 * x)

    def of(self):
        return self.RULES


class OneOfTheClasses(Chosen):
    def of(self):
        return Chase, Patrol

    def ask(self, chosen):
        return chosen().pace()


class OneOfNumPys(Chosen):
    def of(self):
        return np.sin, np.cos


class OneOfThePaths(Chosen):
    def of(self):
        return pathlib.Path("a"), pathlib.Path("b/b")

    def ask(self, chosen):
        return float(len(chosen.parts))


class OneOfMuJoCos(Chosen):
    def of(self):
        return mujoco.mjtObj.mjOBJ_BODY, mujoco.mjtObj.mjOBJ_GEOM

    def ask(self, chosen):
        return float(int(chosen))


class SetOfClasses(Chosen):
    def of(self):
        return {Chase}, {Chase, Patrol}

    def ask(self, chosen):
        return sum(kind().pace() for kind in chosen)


class Bound(Choosing):
    """Binds a number to a function at each reset, which the environment has not before."""

    def begin(self):
        pass

    def choose(self):
        self.distance = functools.partial(np.subtract, self.np_random.random(), dtype=np.float64)

    def shown(self):
        return float(self.distance(1.0))


class Answers:
    """Has an answer to any name."""

    __slots__ = ("x",)

    def __init__(self):
        self.x = 0.0

    def __getattr__(self, name):
        return np.zeros(3)


class Settings:
    """Looks names up among its entries."""

    def __init__(self):
        self.entries = {"x": 0.0}

    def __getattr__(self, name):
        return vars(self)["entries"][name]


class WithAnswers(Choosing):
    def begin(self):
        self.answers, self.settings = Answers(), Settings()

    def choose(self):
        self.answers.x = self.settings.entries["x"] = self.np_random.random()

    def shown(self):
        return self.answers.x + self.settings.x


class Physics:
    """Like dm_control's around MuJoCo's, with a goal of its own."""

    def __init__(self, model, data):
        self.model, self.data = SimpleNamespace(ptr=model), SimpleNamespace(ptr=data)
        self.goal, self.walls, self.rule = 0.0, [np.zeros(2)], flat


class GoalOfThePhysics(Choosing):
    def begin(self):
        self.physics = Physics(self.model, self.data)

    def choose(self):
        self.physics.goal = self.np_random.random()
        self.physics.walls[0][:] = self.np_random.random(2)
        self.physics.later = self.physics.goal
        self.physics.rule = (flat, hill)[self.np_random.integers(2)]

    def shown(self):
        return self.physics.rule(self.physics.goal + self.physics.walls[0].sum() + self.physics.later)


class MadeInTheEpisode(Choosing):
    """Makes a list and an object at the first step."""

    def begin(self):
        self.rules = {}

    def choose(self):
        self.__dict__.pop("seen", None)
        self.__dict__.pop("goal", None)

    def shown(self):
        if not hasattr(self, "seen"):
            self.seen, self.goal = [], Goal(1.0)
        self.seen.append(1)
        self.goal.x += 1.0
        self.rules[len(self.rules)] = flat
        return len(self.seen) + self.goal.x + len(self.rules)


KEEPING = [
    ByEnumeration, ByPair, OfANamespace, OfAPart, OfALocalImport, OfADefault, WithKeysThatAreClasses, HoldingATableOfClasses,
    WithKeysThatAreObjects, OneOfTheGenerators, OneOfTheSpaces, GeneratorsByName, ChildrenOfItsClass,
    TheGeneratorUnderItsOwnName, OwnColumns, ReadOnly, InAClosure, CopyOfTheSimulation, Frozen, OnlyOneIsLeft, AnotherMode,
    MadeByTheFirstReset, CarriesAtTimes, ComputedOnce, Tensors, Records, Named, OfThings, Snake, PointingBack, ItsOwnMethods,
    MadeLater, OutOfATable, Cards, ACamera, ItsOwnActions, OneOfTheFunctions, OneOfTheLambdas, OneOfTheClasses, OneOfNumPys,
    OneOfThePaths, OneOfMuJoCos, SetOfClasses, Bound, WithAnswers, GoalOfThePhysics, MadeInTheEpisode,
]  # fmt: skip


def tables():
    of_classes = [*BY_GROUND.values(), *BY_PAIR.values(), Ways.SLOW, Ways.FAST, *Book.TASKS]
    return [goal.x for goal in of_classes], copy.deepcopy([list(BY_CLASS.items()), DEFAULT, boxes.WEIGHTS])


@pytest.mark.parametrize("make", KEEPING)
@pytest.mark.parametrize("begun", [False, True])
def test_what_an_environment_keeps_goes_on_to_the_bit(make, begun):
    before = tables()
    assert_goes_on_in_another(make, begun=begun)
    assert tables() == before


def test_what_came_after_a_state_is_gone_when_it_is_loaded():
    env = MadeInTheEpisode()
    env.reset(seed=0)
    state = envs.save_state(env)
    first = play(env, [None] * 3)
    envs.load_state(env, state)
    assert not hasattr(env, "seen")
    assert play(env, [None] * 3) == first


def test_a_function_that_is_not_found_is_said():
    def make():
        env = Keeping()
        env.rule = lambda: 1
        return env

    def other_rule():
        return 2

    state = envs.save_state(make())
    envs.load_state(make(), state)  # has one of the same name
    env = make()
    env.rule = other_rule
    with pytest.warns(
        UserWarning, match=r"had .*make\.<locals>\.<lambda> where it has .*other_rule now, which its state cannot"
    ):
        envs.load_state(env, state)
    assert env.rule is other_rule


def test_no_function_is_found_but_those_of_the_environment():
    env, other = OneOfTheFunctions(), OneOfTheFunctions()
    state = envs.save_state(env)
    for name in ("posix.system", "copy.deepcopy", "builtins.eval"):
        state[0]["values"]["chosen"] = {"code": name, "place": ["test_kept_state", "", name.rpartition(".")[2]]}
        with pytest.warns(UserWarning, match=f"the environment had {name} where it has test_kept_state.flat now"):
            envs.load_state(other, state)
        assert other.chosen is flat


def test_a_state_binds_no_function_to_what_it_likes():
    env, other = OneOfTheFunctions(), OneOfTheFunctions()
    state = envs.save_state(env)
    state[0]["values"]["chosen"] = {"partial": [{"code": "test_kept_state.hill"}, {"list": ["a file"]}, {"dict": {}}]}
    envs.load_state(other, state)
    assert other.chosen is flat


def test_functions_that_are_not_found_are_not_lost_from_a_list():
    class Keeps(Keeping):
        def begin(self):
            self.rules, self.named = [], {}

    env, other = Keeps(), Keeps()
    env.rules.append(lambda: 1)
    with pytest.raises(envs.ParameterError, match=r"rules\[0\]"):
        envs.load_state(other, envs.save_state(env))
    env.rules.clear()
    env.named["a"] = lambda: 1
    with pytest.raises(envs.ParameterError, match=r"named\['a'\]"):
        envs.load_state(other, envs.save_state(env))


def test_what_was_said_of_functions_before_is_that_they_are_kept():
    env, other = OneOfTheFunctions(), OneOfTheFunctions()
    state = envs.save_state(env)
    state[0]["values"]["chosen"] = {"kept": True}
    other.chosen = hill
    envs.load_state(other, state)
    assert other.chosen is hill


def test_numbers_of_the_operating_system_are_refused():
    env = Keeping()
    env.dice = random.SystemRandom()
    with pytest.raises(
        envs.ParameterError, match=r"state cannot be saved of Keeping\.dice, which draws from the operating system"
    ):
        envs.save_state(env)


def test_vectors_and_rectangles_of_pygame_go_on():
    pygame = pytest.importorskip("pygame")

    class Drawn(Keeping):
        def begin(self):
            self.place, self.box = pygame.Vector2(0, 0), pygame.Rect(0, 0, 3, 4)

        def shown(self):
            self.place += (self.np_random.random(), 1)
            self.box.move_ip(1, 2)
            return self.place.x + self.place.y + self.box.centerx

    env, other = Drawn(), Drawn()
    env.reset(seed=0)
    play(env, [None] * 3)
    envs.load_state(other, envs.save_state(env))
    assert play(other, [None] * 3) == play(env, [None] * 3)


@pytest.mark.parametrize("names", ["MadeLater", "CartPole-v1"])
def test_what_is_no_state_stays_as_the_environment_has_it(names):
    def make():
        return MadeLater() if names == "MadeLater" else gymnasium.make(names, render_mode="rgb_array")

    env, other = make(), make()
    env.reset(seed=0)
    play(env, [1])
    if names == "CartPole-v1":
        pytest.importorskip("pygame")
        env.render()
    envs.load_state(other, envs.save_state(env))
    assert play(other, [1, 0, 1]) == play(env, [1, 0, 1])
    if names == "CartPole-v1":
        np.testing.assert_array_equal(other.render(), env.render())


def test_rectangles_of_pygame_come_in_again():
    pygame = pytest.importorskip("pygame")

    class Pipes(Keeping):
        def begin(self):
            self.pipes = []

        def shown(self):
            self.pipes.append(pygame.Rect(len(self.pipes), 2, 3, 4))
            return float(sum(pipe.centerx for pipe in self.pipes))

    env, other = Pipes(), Pipes()
    play(env, [None] * 3)
    envs.load_state(other, envs.save_state(env))
    assert play(other, [None] * 3) == play(env, [None] * 3)


def test_objects_that_hold_one_another_too_deeply_are_refused_in_one_line():
    class Chain(Keeping):
        def begin(self):
            self.first = None
            for _ in range(2000):
                self.first = Thing("link", self.first)

    with pytest.raises(envs.ParameterError, match="state cannot be saved of Chain, whose objects hold one another too deeply"):
        envs.save_state(Chain())


def test_registers_of_environments_are_no_tables():
    class Registered(Keeping):
        every: ClassVar = []

        def begin(self):
            self.goal = Goal(0.0)
            self.every.append(self.goal)

        def shown(self):
            self.goal.x += 1
            return self.goal.x

    env, other = Registered(), Registered()
    play(env, [None] * 3)
    envs.load_state(other, envs.save_state(env))
    play(other, [None] * 2)
    assert play(env, [None])[0][1] == 4.0
    assert play(other, [None])[0][1] == 6.0


def test_rows_of_a_shared_buffer_that_differ_are_ones_own():
    class Buffered(Keeping):
        BUFFER = np.zeros((2, 2))

        def begin(self):
            self.place = self.BUFFER[0]

    env, other = Buffered(), Buffered()
    other.place = other.BUFFER[1]
    env.place += 1
    state = envs.save_state(env)
    env.place += 1
    envs.load_state(other, state)
    other.place += 10
    np.testing.assert_array_equal(Buffered.BUFFER, [[2, 2], [0, 0]])
    np.testing.assert_array_equal(other.place, [11, 11])


def test_classes_of_one_name_have_tables_of_their_own():
    def noisy(inner, k):
        class Noisy(gymnasium.Wrapper):
            TABLE = ({"x": k}, {"x": 10 * k})

            def reset(self, *, seed=None, options=None):
                made = self.env.reset(seed=seed)
                self.task = self.TABLE[self.env.unwrapped.np_random.integers(2)]
                return made

            def step(self, action):
                observation, reward, *others = self.env.step(action)
                return observation, reward + self.task["x"], *others

        return Noisy(inner)

    for seed in range(8):
        env, other = (noisy(noisy(Keeping(), 1.0), 2.0) for _ in range(2))
        env.reset(seed=seed)
        state = envs.save_state(env)
        other.reset(seed=seed + 20)
        envs.load_state(other, state)
        assert play(other, [None] * 3) == play(env, [None] * 3)
        assert (other.TABLE, other.env.TABLE) == (({"x": 2.0}, {"x": 20.0}), ({"x": 1.0}, {"x": 10.0}))


def test_the_agents_own_samples_are_no_state():
    env = gymnasium.make("CartPole-v1")
    env.reset(seed=0)
    env.action_space.seed(0)
    state = envs.save_state(env)
    first = [env.action_space.sample() for _ in range(30)]
    envs.load_state(env, state)
    assert [env.action_space.sample() for _ in range(30)] != first


def test_generators_that_no_method_names_are_left_alone():
    class Clipped(Keeping):
        def begin(self):
            self.rng = np.random.default_rng(0)

        def shown(self):
            return boxes.clip(self.rng.random())

    env = Clipped()
    state = envs.save_state(env)
    first = boxes.rng.random()
    envs.load_state(env, state)
    assert boxes.rng.random() != first


def test_a_space_with_other_bounds_is_refused_in_one_line():
    class Widening(Keeping):
        def begin(self):
            self.goals = spaces.Box(-1, 1, (1,), seed=0)

    env, other = Widening(), Widening()
    env.goals = spaces.Box(-2, 2, (1,), seed=0)
    with pytest.raises(envs.ParameterError, match=r"attributes of Widening\.goals, an object that the environment lacks"):
        envs.load_state(other, envs.save_state(env))


class OfASize(Keeping):
    def begin(self):
        self.shape = torch.Size([0])

    def shown(self):
        self.shape = torch.zeros(len(self.shape) + 1, self.shape.numel() + 1).shape
        return float(self.shape.numel())


class OfADate(Keeping):
    def begin(self):
        self.date = time.gmtime(0)

    def shown(self):
        self.date = time.gmtime(86400 * self.date.tm_yday)
        return float(self.date.tm_yday)


class Caching(property):
    """Keeps what was computed under the property's own name."""

    def __get__(self, owner, kind=None):
        return vars(owner).setdefault(self.fget.__name__, self.fget(owner))


class OfACache(Keeping):
    @Caching
    def joints(self):
        return (0.0, "z")

    def shown(self):
        vars(self)["joints"] = (self.joints[0] + 1, "z")
        return self.joints[0]


class OfACacheThatIsDropped(OfACache):
    def shown(self):
        shown = super().shown()
        if shown == 2:
            del vars(self)["joints"]
        return shown


@pytest.mark.parametrize("kind", [OfASize, OfADate, OfACache, OfACacheThatIsDropped])
@pytest.mark.parametrize("steps", [0, 2, 3])
def test_what_its_class_alone_makes_or_lets_nobody_set_goes_on(kind, steps):
    env, other = kind(), kind()
    play(env, [None] * steps)
    play(other, [None])
    envs.load_state(other, envs.save_state(env))
    assert play(other, [None] * 3) == play(env, [None] * 3)


def test_a_state_of_a_stranger_calls_no_class_for_its_containers():
    class Loud(tuple):
        __slots__ = ()
        calls: ClassVar = []

        def __new__(cls, items):
            cls.calls.append(items)
            return super().__new__(cls, items)

    class Speaking(Keeping):
        def begin(self):
            self.pair = Loud((1, 2))

    env, other = Speaking(), Speaking()
    state = envs.save_state(env)
    Loud.calls.clear()
    envs.load_state(other, state)
    assert (type(other.pair), other.pair, Loud.calls) == (Loud, (1, 2), [])


@pytest.mark.parametrize(
    "values",
    [
        (slice(0, 2), slice(1, None, 2)),
        (np.s_[..., 0:2], np.s_[1:2, ...]),
        (Fraction(1, 3), Fraction(5)),
        (Decimal("0.10"), Decimal("NaN")),
        (dt.timedelta(1, 2, 3), dt.timedelta(-1)),
        (dt.datetime(2024, 2, 29, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1)),
        (dt.date(2024, 1, 1), dt.time(1, 2, 3, 4)),
        (bytearray(b"ab"), bytearray(b"")),
    ],
)
def test_values_of_pythons_own_go_on_by_value(values):
    env, other = Keeping(), Keeping()
    other.one = other.two = other.three = None
    env.one, env.two, env.three = *values, [values[0]]
    envs.load_state(other, envs.save_state(env))
    assert repr((other.one, other.two, other.three)) == repr((values[0], values[1], [values[0]]))
    assert list(map(type, (other.one, other.two))) == list(map(type, values))


def test_bytes_that_change_are_those_that_others_hold():
    env, other = Keeping(), Keeping()
    env.buffer, other.buffer = bytearray(b"ab"), bytearray(b"cde")
    env.also, other.also = env.buffer, other.buffer
    held = other.buffer
    envs.load_state(other, envs.save_state(env))
    assert other.buffer is other.also is held
    assert held == b"ab"


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_views_look_at_the_dictionary_that_they_looked_at(kind):
    class Viewing(Keeping):
        def begin(self):
            self.one, self.two = kind(a=1.0), kind(b=2.0)
            self.choose(self.one)

        def choose(self, mapping):
            self.a_keys, self.a_values, self.an_items = mapping.keys(), mapping.values(), mapping.items()
            self.a_proxy = MappingProxyType(mapping)

    env, other = Viewing(), Viewing()
    env.choose(env.two)
    envs.load_state(other, envs.save_state(env))
    other.two["c"] = 3.0
    assert list(other.a_keys) == ["b", "c"]
    assert list(other.a_values) == [2.0, 3.0]
    assert list(other.an_items) == [("b", 2.0), ("c", 3.0)]
    assert other.a_proxy == {"b": 2.0, "c": 3.0}


@pytest.mark.parametrize("value", [{"a": 1}.values(), MappingProxyType({"a": 1}), slice("a"), vars(Goal)])
def test_views_of_what_is_not_saved_are_refused(value):
    env = Keeping()
    env.view = value
    with pytest.raises(envs.ParameterError, match=r"state cannot be saved of Keeping\.view, which is a"):
        envs.save_state(env)
