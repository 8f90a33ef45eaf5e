from __future__ import annotations

import json
import math

import gymnasium
import numpy as np
import pytest
import scipy.stats
from drawing import draw

import envs
from envs.schedules import (
    SCHEDULES,
    At,
    Chain,
    Constant,
    Drift,
    LogUniform,
    OrnsteinUhlenbeck,
    RandomWalk,
    Saw,
    Schedule,
    Sine,
    Square,
    Sum,
    Uniform,
    Values,
    make_schedule,
    read_values,
)

# One of each, with options that are not the defaults.
EACH = [
    LogUniform(),
    Uniform(),
    Constant(0.5),
    Values((0.1, 0.9, 0.5), at_end="hold"),
    RandomWalk(0.2, "log"),
    OrnsteinUhlenbeck(0.5, 0.05, "log"),
    Drift(4, "log", falling=True),
    Sine(8, "log"),
    Saw(5, "log"),
    Square(3, "log"),
    Chain((Uniform(), Sine(4), Constant(0.3)), (2, 3)),
    Sum((Sine(8), OrnsteinUhlenbeck())),
]


def test_every_schedule_is_among_those_tested():
    assert {type(schedule) for schedule in EACH} == set(SCHEDULES.values())


# Jumps


def log_uniform_p(values):
    return scipy.stats.kstest(values, scipy.stats.loguniform(0.02, 2.0).cdf).pvalue


def test_log_uniform_draws_are_log_uniform():
    generator = np.random.default_rng(0)
    assert log_uniform_p(draw(LogUniform(), 10_000, 0.02, 2.0)) > 0.05
    # The test has power: uniform draws, and the right law on a slightly wrong range, fail it.
    assert log_uniform_p(draw(Uniform(), 10_000, 0.02, 2.0)) < 1e-4
    assert log_uniform_p(scipy.stats.loguniform(0.02, 1.8).rvs(10_000, random_state=generator)) < 1e-4


def test_uniform_draws_are_uniform():
    assert scipy.stats.kstest(draw(Uniform(), 10_000, -3.0, 1.0), scipy.stats.uniform(-3.0, 4.0).cdf).pvalue > 0.05


def test_the_values_of_phases_are_log_uniform():
    env = envs.NonStationary(gymnasium.make("Hopper-v5", terminate_when_unhealthy=False), period=1, change_at="now", seed=0)
    env.reset(seed=0)
    values = [env.step(np.zeros(3))[4]["friction"] for _ in range(900)]
    assert len(set(values)) == 900
    assert log_uniform_p(values) > 0.05


# Wandering


def test_a_random_walk_takes_normal_steps_of_its_share_of_the_range():
    values = np.array(draw(RandomWalk(0.01), 20_000, 10.0, 30.0))
    steps = np.diff(values)
    inside = (values[:-1] > 11.5) & (values[:-1] < 28.5)  # where no end is near
    assert steps[inside].std() == pytest.approx(0.01 * 20, rel=0.03)
    assert scipy.stats.kstest(steps[inside] / 0.2, "norm").pvalue > 0.01


def test_the_ends_reflect_a_random_walk_and_leave_it_uniform():
    values = draw(RandomWalk(0.5), 20_000)
    assert scipy.stats.kstest(values[::10], "uniform").pvalue > 0.01  # each tenth: hardly correlated


def test_a_random_walk_by_hand():
    generator = np.random.default_rng(3)
    share = generator.uniform()
    expected = [share]
    for _ in range(5):
        share += 0.8 * generator.standard_normal()
        while not 0 <= share <= 1:
            share = -share if share < 0 else 2 - share
        expected.append(share)
    np.testing.assert_allclose(draw(RandomWalk(0.8), 6, generator=3), expected)


def test_ornstein_uhlenbeck_by_hand():
    generator = np.random.default_rng(4)
    share, expected = 0.5, [0.5]
    for _ in range(6):
        share = min(max(share + 0.3 * (0.5 - share) + 0.4 * generator.standard_normal(), 0), 1)
        expected.append(share)
    np.testing.assert_allclose(draw(OrnsteinUhlenbeck(0.3, 0.4), 7, generator=4), expected)


def test_ornstein_uhlenbeck_has_the_spread_of_its_equation():
    # u − ½ is an autoregression with factor 1 − pull: its variance is sigma² / (1 − (1 − pull)²) = 0.05² / 0.19.
    values = draw(OrnsteinUhlenbeck(0.1, 0.05), 40_000)
    assert np.std(values) == pytest.approx(math.sqrt(0.05**2 / 0.19), rel=0.03)
    assert np.mean(values) == pytest.approx(0.5, abs=0.01)


# Regular


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (Drift(4), [0, 1 / 4, 1 / 2, 3 / 4, 1, 1, 1]),
        (Drift(4, falling=True), [1, 3 / 4, 1 / 2, 1 / 4, 0, 0, 0]),
        (Sine(4), [1 / 2, 1, 1 / 2, 0, 1 / 2, 1, 1 / 2]),
        (Saw(3), [0, 1 / 2, 1, 0, 1 / 2, 1, 0]),
        (Square(4), [0, 0, 1, 1, 0, 0, 1]),
        (Square(3), [0, 0, 1, 0, 0, 1, 0]),
    ],
)
def test_regular_schedules_by_hand(schedule, shares):
    np.testing.assert_allclose(draw(schedule, 7, 2.0, 10.0), [2 + 8 * share for share in shares], atol=1e-12)
    logarithmic = type(schedule)(schedule.length, "log", *([schedule.falling] if isinstance(schedule, Drift) else []))
    np.testing.assert_allclose(draw(logarithmic, 7, 0.01, 100.0), [10 ** (4 * share - 2) for share in shares])


def test_a_list_repeats_or_holds():
    assert draw(Values((3.0, 1.0, 2.0)), 5) == [3, 1, 2, 3, 1]
    assert draw(Values((3.0, 1.0), "hold"), 4) == [3, 1, 1, 1]


# Composed


def test_a_chain_begins_each_part_with_its_phase_0():
    chain = Chain((Constant(7.0), Sine(4), Drift(2)), (2, 3))
    np.testing.assert_allclose(draw(chain, 9), [7, 7, 0.5, 1, 0.5, 0, 0.5, 1, 1])


def test_a_chain_hands_a_walk_its_own_state():
    walk = draw(RandomWalk(), 4, generator=5)
    generator = np.random.default_rng(5)
    assert draw(Chain((Constant(0.0), RandomWalk()), (3,)), 7, generator=generator)[3:] == walk


def test_a_sum_adds_deviations_from_the_middle_and_stays_in_the_range():
    both = Sum((Sine(4), Constant(0.7)))
    # Around ½: sine 0, ½, 0, −½ and constant 0.2.
    np.testing.assert_allclose(draw(both, 5), [0.7, 1, 0.7, 0.2, 0.7])


def test_parts_of_a_sum_keep_states_of_their_own():
    generator = np.random.default_rng(6)
    walk, pull = generator.uniform(), 0.5
    expected = [walk + pull - 0.5]
    for _ in range(3):
        walk = (walk + 0.01 * generator.standard_normal()) % 2
        pull = pull + 0.1 * (0.5 - pull) + 0.02 * generator.standard_normal()
        expected.append(walk + pull - 0.5)
    np.testing.assert_allclose(draw(Sum((RandomWalk(0.01), OrnsteinUhlenbeck(0.1, 0.02))), 4, generator=6), expected)


# What all have in common


@pytest.mark.parametrize("schedule", EACH, ids=str)
def test_descriptions_go_through_json_and_back(schedule):
    again = make_schedule(json.loads(json.dumps(schedule.describe())))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert eval(repr(schedule)) == schedule  # noqa: S307


@pytest.mark.parametrize("schedule", EACH, ids=str)
@pytest.mark.parametrize(("low", "high"), [(0.02, 2.0), (0.3, 0.3), (1e-5, 1e300)])
def test_values_never_leave_their_range(schedule, low, high):
    values = draw(schedule, 1000, low, high)
    own = schedule.own_values() if not isinstance(schedule, Sum) else ()
    assert min(values) >= min(low, *own, low)
    assert max(values) <= max(high, *own, high)
    if schedule.takes_range and not own and low == high:
        assert set(values) == {low}


@pytest.mark.parametrize("schedule", EACH, ids=str)
def test_schedules_are_stateless(schedule):
    assert draw(schedule, 20, 0.1, 0.9, 7) == draw(schedule, 20, 0.1, 0.9, 7)


@pytest.mark.parametrize("schedule", EACH, ids=str)
def test_states_go_through_json_in_the_middle_of_a_sequence(schedule):
    whole = draw(schedule, 12, 0.1, 0.9)
    generator, state, values = np.random.default_rng(0), None, []
    for phase in range(12):
        value, state = schedule.draw(At(phase, json.loads(json.dumps(state)), 0.1, 0.9, generator))
        values.append(value)
    assert values == whole


@pytest.mark.parametrize(
    "schedule", [*EACH, Chain((RandomWalk(), OrnsteinUhlenbeck(), Sum((RandomWalk(), Sine()))), (2, 2))], ids=str
)
@pytest.mark.parametrize("skipped", range(1, 6))
def test_a_phase_may_be_skipped(schedule, skipped):
    # As where its value is set from outside.
    generator, state = np.random.default_rng(0), None
    own = schedule.own_values()
    for phase in range(8):
        if phase != skipped:
            value, state = schedule.draw(At(phase, state, 0.1, 0.9, generator))
            assert min(0.1, *own, 0.1) <= value <= max(0.9, *own, 0.9)


def test_a_part_of_a_chain_begins_by_itself_where_its_first_phase_is_skipped():
    chain = Chain((RandomWalk(), OrnsteinUhlenbeck(0.3, 0.4)), (2,))
    generator, state, values = np.random.default_rng(2), None, []
    for phase in (0, 1, 3, 4):
        value, state = chain.draw(At(phase, state, 0.0, 1.0, generator))
        values.append(value)
    assert values[2] == 0.5  # where it begins, not where the walk was
    again = np.random.default_rng(2)
    again.uniform()
    again.standard_normal()
    assert values[3] == pytest.approx(min(max(0.5 + 0.4 * again.standard_normal(), 0), 1))


@pytest.mark.parametrize(
    "inner", [RandomWalk(), Sum((RandomWalk(), OrnsteinUhlenbeck())), Chain((Sine(), RandomWalk()), (2,))], ids=str
)
def test_the_state_of_a_chain_of_an_earlier_release_goes_on(inner):
    chain = Chain((Constant(0.3), inner), (2,))
    whole = draw(chain, 9)
    generator, state, values = np.random.default_rng(0), None, []
    for phase in range(9):
        value, state = chain.draw(At(phase, state, 0.0, 1.0, generator))
        values.append(value)
        state = state["state"]  # which had the part's alone, as had a chain in it
        if isinstance(state, dict):
            state = state["state"]
    assert values == whole


def test_options_that_are_the_defaults_are_left_out_of_a_description():
    assert Sine().describe() == "sine"
    assert Sine(12).describe() == {"name": "sine", "length": 12}
    assert Sum((Sine(), RandomWalk(0.5))).describe() == {
        "name": "sum",
        "schedules": ["sine", {"name": "random_walk", "step": 0.5}],
    }


def test_a_schedule_of_ones_own_is_known_by_its_name_and_begins_without_a_state():
    class Count(Schedule, name="count"):
        def draw(self, at):
            number = 1 if at.state is None else at.state + 1
            return min(at.low * number, at.high), number

    try:
        env = envs.NonStationary(gymnasium.make("Ant-v5"), schedule="count", low=0.1, high=0.25, period=1, change_at="now")
        for _ in range(2):
            env.reset(seed=0)
            values = [env.step(np.zeros(8))[4]["friction"] for _ in range(4)]
            assert values == pytest.approx([0.1, 0.2, 0.25, 0.25])
        assert draw(Chain((Count(), Count()), (2,)), 4, low=0.1) == pytest.approx([0.1, 0.2, 0.1, 0.2])
    finally:
        del SCHEDULES["count"]


def test_a_schedule_of_ones_own_draws_from_children_of_its_generator_as_before_after_a_resume():
    class OfChildren(Schedule, name="of_children"):
        def draw(self, at):
            return at.generator.spawn(1)[0].uniform(at.low, at.high), None

    def made():
        env = gymnasium.make("Ant-v5")
        return envs.NonStationary(env, schedule="of_children", low=0.1, high=2.0, period=1, change_at="now", seed=3)

    def values(env, steps):
        return [env.step(np.zeros(8))[4]["friction"] for _ in range(steps)]

    try:
        one, other = made(), made()
        one.reset(seed=0)
        first = values(one, 3)
        other.reset(seed=0)
        envs.load_state(other, envs.save_state(one))
        following = values(one, 3)
        assert values(other, 3) == following
        assert len({*first, *following}) == 6
    finally:
        del SCHEDULES["of_children"]


@pytest.mark.parametrize("schedule", ["log_uniform", *({"name": n, "scale": "log"} for n in ("sine", "random_walk", "saw"))])
def test_logarithms_need_a_range_above_zero(schedule):
    with pytest.raises(envs.ParameterError, match="low above 0, got -5"):
        envs.NonStationary(gymnasium.make("Ant-v5"), "gravity_tilt", schedule)


# Files


def test_the_values_of_a_file_become_a_list(tmp_path):
    (tmp_path / "plain.csv").write_text("0.5\n1.5\n\n0.25\n")
    (tmp_path / "named.csv").write_text("day, value,note\n1,0.5,rain\n2,1.5,sun\n")
    assert read_values(tmp_path / "plain.csv") == (0.5, 1.5, 0.25)
    assert read_values(tmp_path / "named.csv") == (0.5, 1.5)
    assert read_values(tmp_path / "named.csv", "day") == (1, 2)
    schedule = make_schedule({"name": "file", "path": str(tmp_path / "plain.csv"), "at_end": "hold"})
    assert schedule == Values((0.5, 1.5, 0.25), "hold")
    env = envs.NonStationary(gymnasium.make("Ant-v5"), schedule={"name": "file", "path": str(tmp_path / "plain.csv")})
    (tmp_path / "plain.csv").unlink()
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.reset()[1]["friction"] == 0.5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("value,other\n0.5,1\n,2\n0.3,4\n", "got '' in line 3"),
        ("value\n0.5\nnan\n", "got 'nan' in line 3"),
        ("value\n0.5\nmuch\n", "got 'much' in line 3"),
        ("other,value\n1,0.5\n2\n", "got '' in line 3"),
        ("", "empty file"),
        ("value\n", "names of columns only"),
        ("one,two\n1,2\n", "column 'value', got columns one, two"),
        ("1,2\n3,4\n", "column 'value', got columns without names"),
        ("0.5\n-1\n", "at least 1e-05, got -1.0"),
    ],
)
def test_a_file_with_a_hole_is_refused_by_its_line(tmp_path, content, words):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(envs.ParameterError) as error:
        envs.NonStationary(gymnasium.make("Ant-v5"), schedule={"name": "file", "path": str(tmp_path / "bad.csv")})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    for path, words in (
        (tmp_path / "none.csv", "No such file"),
        (tmp_path / "bytes.csv", "no CSV file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(envs.ParameterError, match=words):
            read_values(path)
    with pytest.raises(envs.ParameterError, match="'file' needs path"):
        make_schedule("file")


@pytest.mark.parametrize("schedule", EACH, ids=str)
def test_a_schedule_given_to_make_goes_through_the_json_of_a_spec(schedule):
    own = {} if schedule.takes_range else {"low": None, "high": None}
    env = gymnasium.make("ant-nonstationary-v0", schedule=schedule, seed=0, **own)
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    found = envs.NonStationary.of(again)
    assert found.changes[0].schedule == schedule
    assert found.forecast(5) == envs.NonStationary.of(env).forecast(5)


def test_numpys_truth_values_are_pythons_in_what_describes_a_schedule():
    described = envs.schedules.Drift(falling=np.bool_(True)).describe()
    assert json.dumps(described)
    assert described["falling"] is True
