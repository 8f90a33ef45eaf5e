from __future__ import annotations

import doctest
import inspect
import itertools
import random

import gymnasium
import numpy as np
import pytest
from drawing import draw
from gymnasium.utils import seeding

import envs
import envs.nonstationary

STILL = np.zeros(8)
OF_BALLS = ("torsional_friction", "rolling_friction")


def make(**kwargs):
    return gymnasium.make("ant-nonstationary-v0", **kwargs)


def rollout(env, steps, *, seed=None, action_seed=None):
    """The infos of so many steps, with a reset at the start and at each episode's end."""
    generator = np.random.default_rng(action_seed)
    env.reset(seed=seed)
    infos = []
    for _ in range(steps):
        action = STILL if action_seed is None else generator.uniform(-1, 1, 8)
        _, _, terminated, truncated, info = env.step(action)
        infos.append(info)
        if terminated or truncated:
            env.reset()
    return infos


def phases(infos):
    return [info["phase"] for info in infos]


def changes(infos):
    """The steps, counted from 1, that began a phase."""
    return [step for step, info in enumerate(infos, start=1) if info["changed"]]


def values(infos):
    """The value of each phase in order."""
    return [info["friction"] for info in infos if info["changed"]]


# Clock


def test_at_episode_end_the_value_changes_once_more_than_period_steps_have_passed():
    # Episodes of 3 steps. After 6 steps 6 > 5, so the reset changes; again 6 steps later.
    infos = rollout(make(period=5, max_episode_steps=3), 18)
    assert phases(infos) == [0] * 6 + [1] * 6 + [2] * 6
    assert changes(infos) == [1, 7, 13]


def test_at_episode_end_exactly_period_steps_are_not_enough():
    # Episodes of 3 steps. After 6 steps 6 > 6 is false; after 9 steps 9 > 6.
    infos = rollout(make(period=6, max_episode_steps=3), 20)
    assert phases(infos) == [0] * 9 + [1] * 9 + [2] * 2
    assert changes(infos) == [1, 10, 19]


def test_at_episode_end_the_value_holds_within_an_episode_however_long():
    infos = rollout(make(period=2, max_episode_steps=25), 50)
    assert phases(infos) == [0] * 25 + [1] * 25
    assert len({info["friction"] for info in infos[:25]}) == 1


def test_at_episode_end_one_reset_changes_once_however_many_periods_passed():
    infos = rollout(make(period=1, max_episode_steps=5), 15)
    assert phases(infos) == [0] * 5 + [1] * 5 + [2] * 5


def test_at_episode_end_further_resets_without_steps_change_nothing():
    env = make(period=1)
    rollout(env, 2)
    drawn = [env.reset()[1] for _ in range(3)]
    assert [info["phase"] for info in drawn] == [1, 1, 1]
    assert len({info["friction"] for info in drawn}) == 1


def test_at_episode_end_resets_before_the_end_of_an_episode_count_as_its_end():
    env = make(period=3)
    env.reset()
    for _ in range(4):
        env.step(STILL)
    assert env.reset()[1]["phase"] == 1


def test_values_are_held_all_or_none():
    options = {name: {"period": 2, "change_at": "now"} for name in ("friction", "gravity")}
    env = envs.NonStationary(gymnasium.make("Hopper-v5"), options, seed=0)
    own = env.reset()[1]
    with pytest.raises(envs.ParameterError, match="name must be one of 'friction', 'gravity', got 'mass'"):
        env.hold({"friction": 0.5, "mass": 2.0})
    assert [env.reset()[1][name] for name in options] == [own[name] for name in options]
    env.hold({"friction": 0.5})
    env.reset()
    infos = [env.step(env.action_space.sample())[-1] for _ in range(6)]
    assert [info["friction"] for info in infos] == [0.5] * 6
    assert not any(info["changed"] for info in infos[1:])


def test_now_changes_at_the_very_step_in_mid_episode():
    # Phases of exactly 4 steps: steps 1-4, 5-8, 9-12, across episodes of 3 steps.
    infos = rollout(make(period=4, change_at="now", max_episode_steps=3), 12)
    assert phases(infos) == [0] * 4 + [1] * 4 + [2] * 4
    assert changes(infos) == [1, 5, 9]
    assert [len(set(phase)) for phase in np.split(np.array([info["friction"] for info in infos]), 3)] == [1, 1, 1]


def test_now_waits_for_the_next_step_when_a_reset_comes_first():
    env = make(period=3, change_at="now")
    infos = rollout(env, 3)
    _, info = env.reset()
    assert (info["phase"], info["changed"], info["friction"]) == (0, False, infos[0]["friction"])
    _, _, _, _, info = env.step(STILL)
    assert (info["phase"], info["changed"]) == (1, True)
    assert info["friction"] != infos[0]["friction"]


def test_the_clock_counts_steps_since_the_last_change_and_survives_reset():
    env = make(period=10)
    env.reset()
    counts = []
    for _ in range(4):
        for _ in range(4):
            env.step(STILL)
        env.reset()
        counts.append((env.get_wrapper_attr("phase"), env.get_wrapper_attr("steps_in_phase")))
    assert counts == [(0, 4), (0, 8), (1, 0), (1, 4)]


def test_a_step_that_fails_is_not_counted():
    env = envs.NonStationary(gymnasium.make("Ant-v5", disable_env_checker=True))
    env.reset()
    with pytest.raises(ValueError, match="Action dimension mismatch"):
        env.step(np.zeros(3))
    assert env.steps_in_phase == 0
    assert env.step(STILL)[4]["changed"]


# Periods of episodes


def test_the_value_changes_after_so_many_episodes_however_long():
    env = make(period=2, count="episodes")
    seen, lengths = [], [3, 1, 5, 2, 2, 4, 1]
    for length in lengths:
        env.reset()
        seen += [env.step(STILL)[4]["phase"] for _ in range(length)]
    # Two episodes a phase: 3 + 1, 5 + 2, 2 + 4 steps, and the last one has begun.
    assert seen == [0] * 4 + [1] * 7 + [2] * 6 + [3]


def test_a_reset_without_a_step_ends_no_episode():
    env = make(period=1, count="episodes")
    assert [env.reset()[1]["phase"] for _ in range(3)] == [0, 0, 0]
    env.step(STILL)
    assert [env.reset()[1]["phase"] for _ in range(3)] == [1, 1, 1]


def test_a_seed_of_reset_restarts_the_count_of_episodes():
    env = make(period=2, count="episodes")
    for _ in range(2):
        env.reset(seed=0)
        env.step(STILL)
    assert env.reset()[1]["phase"] == 0
    env.step(STILL)
    assert env.reset()[1]["phase"] == 1


# Infos


@pytest.mark.parametrize("change_at", ["episode_end", "now"])
def test_every_info_has_the_same_keys_as_plain_python_values(change_at):
    env = make(period=3, change_at=change_at, max_episode_steps=5)
    _, reset_info = env.reset()
    for info in [reset_info, *rollout(env, 20)]:
        assert type(info["friction"]) is float
        assert type(info["phase"]) is int
        assert type(info["changed"]) is bool


def test_infos_of_reset_never_mark_a_change_and_each_phase_marks_one_step():
    env = make(period=2)
    marks = []
    for _ in range(4):
        _, info = env.reset()
        assert not info["changed"]
        assert info["friction"] == env.get_wrapper_attr("value")
        marks += [env.step(STILL)[4]["changed"] for _ in range(3)]
    assert marks == [True, False, False] * 4


def test_the_environments_own_info_is_kept():
    plain = gymnasium.make("Ant-v5")
    plain.reset()
    assert plain.step(STILL)[4].keys() < rollout(make(), 1)[0].keys()


def test_the_model_has_the_drawn_value_from_construction_on():
    env = envs.NonStationary(gymnasium.make("Ant-v5"), seed=0)
    assert env.value != 1.0
    assert (env.unwrapped.model.geom_friction[:, 0] == env.value).all()
    assert env.reset()[1]["friction"] == env.value


# Seeds


def test_the_same_seed_gives_the_same_sequence_and_another_seed_another():
    options = {"period": 5, "change_at": "now"}
    first, again, other = (values(rollout(make(seed=seed, **options), 40)) for seed in (1, 1, 2))
    assert len(set(first)) == 8
    assert first == again
    assert not set(first) & set(other)


def test_the_sequence_of_a_seed_stays_the_same_from_release_to_release():
    env = make(seed=0, period=1, change_at="now")
    assert values(rollout(env, 3)) == pytest.approx([0.7674816790519842, 1.908807458921165, 0.16474078285707033], rel=1e-12)


def test_the_sequence_survives_resets():
    options = {"period": 6, "change_at": "now", "seed": 3}
    assert values(rollout(make(**options), 48)) == values(rollout(make(max_episode_steps=4, **options), 48))


def test_resets_without_a_seed_restart_nothing():
    env = make(period=4, max_episode_steps=5, seed=0)
    assert len(set(values(rollout(env, 20)))) == 4
    env.reset()
    assert env.get_wrapper_attr("phase") == 4


def test_without_any_seed_the_sequence_differs_from_run_to_run():
    assert make().reset()[1]["friction"] != make().reset()[1]["friction"]


def test_a_seed_of_reset_restarts_clock_phase_and_sequence():
    env = make(period=4, max_episode_steps=3)
    first = rollout(env, 20, seed=5)
    for _ in range(2):
        env.reset()
        env.step(STILL)  # leaves the clock in mid-phase
    again = rollout(env, 20, seed=5)
    assert again == first
    assert not set(values(rollout(env, 20, seed=6))) & set(values(first))


def test_a_seed_of_reset_restarts_the_sequence_of_the_constructors_seed():
    env = make(period=4, max_episode_steps=3, seed=9)
    before = values(rollout(env, 20))
    assert values(rollout(env, 20, seed=5)) == before
    assert values(rollout(env, 20, seed=6)) == before
    assert phases(rollout(env, 20, seed=6))[0] == 0


def test_a_seed_of_reset_reaches_the_environment():
    env, plain = make(seed=0), gymnasium.make("Ant-v5", include_cfrc_ext_in_observation=False)
    for seed in (1, 2):
        np.testing.assert_array_equal(env.reset(seed=seed)[0], plain.reset(seed=seed)[0])
    np.testing.assert_array_equal(env.reset()[0], plain.reset()[0])


def test_environments_with_one_constructor_seed_draw_one_sequence_although_their_episodes_differ():
    sequences = []
    for i, limit in enumerate((7, 11, 20)):
        env = make(period=15, max_episode_steps=limit, seed=0)
        sequences.append(values(rollout(env, 120, seed=i, action_seed=i)))
    for shorter, longer in itertools.combinations(sorted(sequences, key=len), 2):
        assert len(shorter) >= 4
        assert shorter == longer[: len(shorter)]


def test_values_do_not_come_from_the_environments_own_random_numbers():
    env = make()
    first = env.reset(seed=11)[1]["friction"]
    gymnasium_stream, _ = seeding.np_random(11)
    assert first != draw(envs.SCHEDULES["log_uniform"](), 1, 0.02, 2.0, gymnasium_stream)[0]
    env.unwrapped.np_random.random(100)
    continued = values(rollout(env, 1))
    env.reset(seed=11)
    assert values(rollout(env, 1)) == continued


def test_no_global_random_state_is_read_or_touched():
    def run(global_seed):
        np.random.seed(global_seed)  # noqa: NPY002
        random.seed(global_seed)
        numpy_before, python_before = np.random.get_state(), random.getstate()  # noqa: NPY002
        everything = {
            name: {"low": 0.05} if name == "contact_time" else {}  # above twice the greatest time step
            for name, parameter in envs.PARAMETERS.items()
            if name not in ("stiffness", "kp", "kd", *OF_BALLS) and not getattr(parameter, "of", "")
        }  # wind after the medium that it needs
        options = {"period": 3, "change_at": "now", "seed": 0, "unclipped_actions": True, "terminate_after": 5}
        env = make(parameter=everything, **options)
        env.reset(seed=0)
        drawn = values(rollout(env, 20))
        np.testing.assert_equal(np.random.get_state(), numpy_before)  # noqa: NPY002
        assert random.getstate() == python_before
        return drawn

    assert run(0) == run(1)


# The wrapper as an object


PUBLIC = [getattr(envs, name) for name in envs.__all__]


@pytest.mark.parametrize("wrapper", [item for item in PUBLIC if inspect.isclass(item) and issubclass(item, gymnasium.Wrapper)])
def test_wrappers_record_their_constructor_arguments(wrapper):
    required = {envs.TerminateAfter: {"steps": 5}}.get(wrapper, {})
    env = wrapper(gymnasium.make("Ant-v5"), **required)
    recorded = env.spec.additional_wrappers[-1].kwargs
    assert recorded.keys() == inspect.signature(wrapper).parameters.keys() - {"env"}
    again = wrapper(gymnasium.make("Ant-v5"), **recorded)
    assert again.spec.additional_wrappers[-1].kwargs == recorded


def test_defaults_are_the_published_range():
    recorded = envs.NonStationary(gymnasium.make("Ant-v5")).spec.additional_wrappers[-1].kwargs
    assert (recorded["low"], recorded["high"], recorded["change_at"]) == (0.02, 2.0, "episode_end")


def test_the_documented_example_runs():
    assert doctest.testmod(envs.nonstationary, raise_on_error=True).attempted > 0


def test_what_an_environment_says_under_a_key_of_ours_is_kept_whenever_it_says_it():
    class Ends(gymnasium.Wrapper):
        taken = 0

        def step(self, action):
            observation, reward, terminated, truncated, info = self.env.step(action)
            self.taken += 1
            return observation, reward, terminated, truncated, info | ({"phase": "landed"} if self.taken % 5 == 0 else {})

    env = envs.NonStationary(Ends(gymnasium.make("InvertedPendulum-v5")), "gravity", seed=0)
    env.reset(seed=0)
    said = [env.step(np.zeros(1))[4] for _ in range(12)]
    assert [info.get("env_phase") for info in said] == [*[None] * 4, "landed", *[None] * 4, "landed", None, None]
    assert {info["phase"] for info in said} == {0}
