"""Clocks of their own, changes at random times and in bursts, and values that are set from outside."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import scipy.stats
from gymnasium.envs.registration import EnvSpec
from worlds import World, box

import envs
from envs.clock import TIMES, Bursts, Exponential, Geometric, make_times

NOW = {"change_at": "now"}


def phases(env, steps):
    """The values of each step, with a reset at the start."""
    env.reset()
    infos = [env.step(None)[4] for _ in range(steps)]
    return infos, [step for step, info in enumerate(infos) if info["changed"]]


def values(infos, name):
    return [info[name] for info in infos]


def test_a_parameter_can_have_a_clock_of_its_own():
    parameter = {"friction": {"period": 6}, "mass": {}, "gravity": {"period": 4, "change_at": "now"}}
    env = envs.NonStationary(World(box()), parameter, period=10, change_at="now", seed=0)
    infos, changed = phases(env, 25)
    # Friction at 0, 6, 12, …; mass at 0, 10, 20; gravity at 0, 4, 8, …: phases count all of them.
    assert changed == [0, 4, 6, 8, 10, 12, 16, 18, 20, 24]
    assert values(infos, "phase") == [sum(step >= each for each in changed[1:]) for step in range(25)]
    for name, period in (("friction", 6), ("mass", 10), ("gravity", 4)):
        own = values(infos, name)
        assert [step for step in range(25) if step == 0 or own[step] != own[step - 1]] == list(range(0, 25, period))


def test_a_clock_of_its_own_leaves_the_values_of_the_others_alone():
    alone = envs.NonStationary(World(box()), {"friction": {}, "mass": {}}, period=10, change_at="now", seed=0)
    beside = envs.NonStationary(World(box()), {"friction": {}, "mass": {"period": 3}}, period=10, change_at="now", seed=0)
    assert values(phases(alone, 40)[0], "friction") == values(phases(beside, 40)[0], "friction")


def test_one_that_waits_for_the_end_of_an_episode_beside_one_that_does_not():
    parameter = {"friction": {"change_at": "episode_end"}, "mass": {}}
    env = envs.NonStationary(World(box()), parameter, period=4, change_at="now", seed=0)
    seen = []
    for _ in range(3):
        env.reset()
        seen += [env.step(None)[4] for _ in range(6)]
    frictions, masses = values(seen, "friction"), values(seen, "mass")
    assert [len(set(frictions[i : i + 6])) for i in (0, 6, 12)] == [1, 1, 1]
    assert len(set(frictions)) == 3
    assert [step for step in range(1, 18) if masses[step] != masses[step - 1]] == [4, 8, 12, 16]


@pytest.mark.parametrize(
    ("times", "law"),
    [(Geometric(20), scipy.stats.geom(1 / 20)), (Exponential(20), scipy.stats.geom(1 - np.exp(-1 / 20)))],
)
def test_random_lengths_have_the_law_that_they_are_named_after(times, law):
    # ⌈X⌉ of an exponential X with mean m is geometric with chance 1 − exp(−1/m).
    generator = np.random.default_rng(0)
    drawn = np.array([times.draw(phase, generator) for phase in range(20_000)])
    assert drawn.min() == 1
    edges = [0, *law.ppf(np.linspace(0.1, 0.9, 9)), np.inf]
    counts = np.histogram(drawn, np.array(edges) + 0.5)[0]
    expected = 20_000 * np.diff(law.cdf(edges))
    assert scipy.stats.chisquare(counts, expected).pvalue > 0.01
    wrong = 20_000 * np.diff(scipy.stats.geom(1 / 22).cdf(edges))
    assert scipy.stats.chisquare(counts, wrong * counts.sum() / wrong.sum()).pvalue < 1e-4


def test_changes_at_random_times_follow_from_the_seed_and_come_in_mid_episode():
    def changed(seed, **kwargs):
        options = {"period": {"name": "geometric", "mean": 8}, **NOW, "seed": seed} | kwargs
        return phases(envs.NonStationary(World(box()), "friction", **options), 300)[1]

    first = changed(0)
    assert first == changed(0) != changed(1)
    assert len(set(np.diff(first))) > 5
    assert 20 <= len(first) <= 60
    # Values are those that a fixed period brings.
    fixed = envs.NonStationary(World(box()), "friction", period=5, **NOW, seed=0)
    random = envs.NonStationary(World(box()), "friction", period={"name": "geometric", "mean": 8}, **NOW, seed=0)
    assert fixed.forecast(10) == random.forecast(10)


def test_bursts_of_changes():
    env = envs.NonStationary(World(box()), "friction", period={"name": "bursts", "changes": 3, "gap": 2, "calm": 10}, **NOW)
    # Calm for 10, changes before steps 10, 12, 14; calm for 10; and so on.
    assert phases(env, 45)[1] == [0, 10, 12, 14, 24, 26, 28, 38, 40, 42]
    assert Bursts(1, 2, 10).draw(5, None) == 10


@pytest.mark.parametrize("change_at", ["now", "episode_end"])
def test_clocks_go_on_to_the_bit_and_through_specs(change_at):
    parameter = {
        "friction": {"period": {"name": "exponential", "mean": 7}},
        "mass": {"period": 5, "count": "steps"},
        "gravity": {},
    }
    options = {"parameter": parameter, "period": {"name": "geometric", "mean": 9}, "change_at": change_at, "seed": 2}
    env = gymnasium.make("hopper-nonstationary-v0", **options, max_episode_steps=11)
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))

    def play(each, steps):
        seen = []
        for _ in range(steps):
            observation, *_, terminated, truncated, info = each.step(np.zeros(3))
            seen.append((observation.tolist(), info["friction"], info["mass"], info["gravity"], info["phase"], info["changed"]))
            if terminated or truncated:
                each.reset()
        return seen

    env.reset(seed=0)
    again.reset(seed=0)
    assert play(env, 60) == play(again, 60)
    other = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    envs.load_state(other, envs.save_state(env))
    assert play(env, 60) == play(other, 60)


def test_episodes_can_be_counted_at_random_too():
    env = envs.NonStationary(World(box()), "friction", period={"name": "geometric", "mean": 3}, count="episodes", seed=0)
    seen = []
    for _ in range(60):
        env.reset()
        seen.append(env.step(None)[4]["phase"])
    lengths = np.diff(np.flatnonzero(np.diff(seen)))
    assert 10 <= seen[-1] <= 35
    assert len(set(lengths.tolist())) > 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"period": {"name": "geometrc"}}, "'geometric'.*did you mean 'geometric'"),
        ({"period": {"name": "geometric"}}, "period 'geometric' takes mean, got none"),
        ({"period": {"name": "geometric", "mean": 0.5}}, "mean must be a finite number of at least 1, got 0.5"),
        ({"period": {"name": "bursts", "changes": 0, "gap": 1, "calm": 1}}, "changes must be an integer of at least 1, got 0"),
        ({"parameter": {"friction": {"period": 0}}}, "period must be an integer of at least 1, got 0"),
        ({"parameter": {"friction": {"change_at": "later"}}}, "change_at must be one of"),
        (
            {"parameter": {"friction": {"count": "episodes"}}, "change_at": "now"},
            "must be 'episode_end' where the period counts",
        ),
    ],
)
def test_bad_times_are_refused(arguments, words):
    with pytest.raises(envs.ParameterError, match=words):
        envs.NonStationary(World(box()), **arguments)


def test_every_kind_of_times_goes_through_its_description():
    each = [Geometric(3), Exponential(2.5), Bursts(2, 3, 4), make_times(7)]
    assert {type(times) for times in each} == set(TIMES.values())
    for times in each:
        assert make_times(times.describe()) == times
        assert make_times(times) is times


# Values from outside


def test_a_value_that_is_set_is_in_force_from_the_next_step_on_and_begins_a_phase():
    env = envs.NonStationary(World(box()), "friction", period=10, change_at="now", seed=0)
    drawn = [each["friction"] for each in env.forecast(3)]
    env.reset()
    infos = [env.step(None)[4] for _ in range(4)]
    env.set_value("friction", 0.7)
    assert (env.value, env.phase, env.steps_in_phase) == (0.7, 1, 0)
    infos += [env.step(None)[4] for _ in range(21)]
    # The clock begins anew with the value: the schedule's next two come 10 and 20 steps later, as it would have given them.
    assert values(infos, "friction") == [drawn[0]] * 4 + [0.7] * 10 + [drawn[1]] * 10 + [drawn[2]]
    assert values(infos, "phase") == [0] * 4 + [1] * 10 + [2] * 10 + [3]
    assert [step for step, info in enumerate(infos) if info["changed"]] == [0, 4, 14, 24]


def test_a_phase_without_a_step_takes_the_value():
    env = envs.NonStationary(World(box()), "friction", period=10, seed=0)
    env.set_value("friction", 3.0)
    env.set_value("friction", 4.0)
    env.reset()
    info = env.step(None)[4]
    assert (info["friction"], info["phase"], info["changed"]) == (4.0, 0, True)
    assert env.unwrapped.data.contact[0].friction[0] == 4.0


@pytest.mark.parametrize("names", [("mass", "friction"), ("friction", "mass")])
def test_each_value_that_is_set_begins_the_clock_of_its_own_parameter(names):
    env = envs.NonStationary(World(box()), {"friction": {"period": 10}, "mass": {"period": 7}}, change_at="now", seed=0)
    phases(env, 9)
    for name in names:
        env.set_value(name, 0.7)
    infos = [env.step(None)[4] for _ in range(11)]
    assert values(infos, "mass").count(0.7) == 7
    assert values(infos, "friction").count(0.7) == 10
    assert [step for step, info in enumerate(infos) if info["changed"]] == [0, 7, 10]


def test_a_forecast_counts_steps_from_now():
    env, other = (envs.NonStationary(World(box()), "friction", period=10, change_at="now", seed=0) for _ in range(2))
    phases(env, 25)
    other.load_state_dict(env.state_dict())
    for each in (env, other):
        assert each.forecast_steps(4) == [0, 5, 15, 25]


def test_a_state_of_changes_at_random_times_can_be_held_by_one_with_a_period():
    env = envs.NonStationary(World(box()), period={"name": "geometric", "mean": 5}, change_at="now", seed=0)
    other = envs.NonStationary(World(box()), period=3, seed=1)
    phases(env, 30)
    other.load_state_dict(env.state_dict(), hold=True)
    assert {(info["friction"], info["phase"]) for info in phases(other, 9)[0]} == {(env.value, env.phase)}
    with pytest.raises(envs.ParameterError, match="clocks as here"):
        other.load_state_dict(env.state_dict())


@pytest.mark.parametrize("options", [{"change_at": "now"}, {}, {"count": "episodes"}])
def test_a_state_that_is_held_stays_in_its_phase_whatever_follows(options):
    env, other = (envs.NonStationary(World(box()), "friction", period=3, seed=seed, **options) for seed in (0, 1))
    for _ in range(6):
        env.reset()
        for _ in range(4):
            info = env.step(None)[4]
    assert info["phase"] >= 1
    other.load_state_dict(env.state_dict(), hold=True)
    infos = []
    for episode in range(5):
        infos.append(other.reset(seed=episode if episode % 2 else None)[1])
        infos += [other.step(None)[4] for _ in range(9)]
    assert {(info["phase"], info["friction"]) for info in infos} == {(env.phase, env.value)}
    assert other.unwrapped.data.contact[0].friction[0] == pytest.approx(env.value)
    other.load_state_dict(env.state_dict())  # goes on from here
    for _ in range(5):
        other.step(None)
        phase = other.reset()[1]["phase"]
    assert phase > env.phase


def test_a_value_that_is_set_survives_resets_and_states():
    env, other = (envs.NonStationary(World(box()), {"friction": {}, "mass": {}}, period=10, seed=0) for _ in range(2))
    env.reset()
    env.step(None)
    env.set_value("mass", 1.5)
    for _ in range(2):
        env.step(None)
        assert env.reset()[1]["mass"] == 1.5
    envs.load_state(other, envs.save_state(env))
    assert other.values == env.values
    assert other.unwrapped.model.body_mass[1] == env.unwrapped.model.body_mass[1]


@pytest.mark.parametrize(("name", "value"), [("friction", -1.0), ("friction", float("nan")), ("frction", 1.0), ("mass", 1.0)])
def test_a_value_that_cannot_be_is_refused_and_changes_nothing(name, value):
    env = envs.NonStationary(World(box()), "friction", period=10, seed=0)
    env.reset()
    env.step(None)
    before = env.state_dict()
    with pytest.raises(envs.ParameterError):
        env.set_value(name, value)
    assert env.state_dict() == before


# What is reached


def test_what_a_parameter_reaches_can_be_read_back():
    env = envs.NonStationary(gymnasium.make("Ant-v5"), {"damping:hip_1+ankle_*": {}, "friction:floor": {"low": 1.5, "high": 2}})
    damping = {
        "dof_damping": ["hip_1", "ankle_1", "ankle_2", "ankle_3", "ankle_4"],
        "dof_dampingpoly": ["hip_1", "ankle_1", "ankle_2", "ankle_3", "ankle_4"],
        "actuator_damping": ["actuator2", "actuator3", "actuator5", "actuator7", "actuator1"],
        "actuator_dampingpoly": ["actuator2", "actuator3", "actuator5", "actuator7", "actuator1"],
    }
    there = {place: names for place, names in damping.items() if hasattr(env.unwrapped.model, place)}  # the first in any MuJoCo
    assert env.reach == {"damping:hip_1+ankle_*": there, "friction:floor": {"geom_friction": ["floor"]}}
    env = envs.NonStationary(gymnasium.make("Ant-v5"), {"gravity": {}, "gravity_tilt": {}, "action_noise": {}})
    assert env.reach == {"gravity": {"opt.gravity": []}, "gravity_tilt": {"opt.gravity": []}, "action_noise": {}}


@pytest.mark.parametrize("times", [{"name": "geometric", "mean": 3}, {"name": "bursts", "changes": 2, "gap": 1, "calm": 4}])
def test_the_only_parameters_own_clock_goes_on_from_a_state(times):
    def make():
        of_one = {"cart_mass": {"period": times, "change_at": "now", "schedule": "uniform", "low": 0.5, "high": 2.0}}
        return envs.NonStationary(gymnasium.make("CartPole-v1"), of_one, seed=0)

    def masses(env, steps):
        found = []
        for _ in range(steps):
            *_, terminated, truncated, info = env.step(0)
            found.append(info["cart_mass"])
            if terminated or truncated:
                env.reset()
        return found

    env, other = make(), make()
    env.reset(seed=3)
    masses(env, 50)
    other.reset(seed=4)
    envs.load_state(other, envs.save_state(env))
    assert masses(other, 60) == masses(env, 60)
