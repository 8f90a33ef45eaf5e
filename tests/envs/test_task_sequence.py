"""Tasks one after the other: when they change, what is said of it, what is open, and that a state goes on to the bit."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import envs

TWO = ["HalfCheetah-v5", "Walker2d-v5"]  # two machines with one observation and action space


class Counting(gymnasium.Env):
    """Episodes of so many steps; the observation is the sum of the rewards, which the seed of the reset draws."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, length=4, opened=None):
        self.length = length
        self.opened = [] if opened is None else opened
        self.opened.append(self)
        self.taken, self.sum = 0, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken, self.sum = 0, 0.0
        return np.zeros(1, np.float32), {"phase": "its own"}

    def step(self, action):
        self.taken += 1
        reward = float(self.np_random.random())
        self.sum += reward
        return np.array([self.sum], np.float32), reward, self.taken == self.length, False, {"task": "its own"}

    def close(self):
        self.opened.remove(self)


def play(env, steps, action=None):
    """What an agent sees; resets of ended episodes among it."""
    seen = []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(env.action_space.low if action is None else action)
        seen.append((observation.tolist(), float(reward), terminated, truncated, info["task"], info["phase"], info["changed"]))
        if terminated or truncated:
            observation, info = env.reset()
            seen.append((observation.tolist(), info["task"], info["phase"], info["changed"]))
    return seen


def steps_of(seen):
    return [entry for entry in seen if len(entry) == 7]


def test_a_task_changes_in_the_first_reset_after_more_than_a_period():
    env = envs.TaskSequence([Counting, Counting, Counting], period=8)
    env.reset(seed=0)
    tasks = [entry[4] for entry in steps_of(play(env, 41))]
    # Episodes of 4. After two, 8 steps are not more than 8; after three, 12 are.
    assert tasks == [0] * 12 + [1] * 12 + [2] * 12 + [0] * 5


def test_now_cuts_the_episode_off_so_that_a_phase_has_exactly_the_period():
    env = envs.TaskSequence([Counting, Counting], period=10, change_at="now")
    env.reset(seed=0)
    steps = steps_of(play(env, 25))
    assert [entry[4] for entry in steps] == [0] * 10 + [1] * 10 + [0] * 5
    assert [entry[5] for entry in steps] == [0] * 10 + [1] * 10 + [2] * 5
    assert [number for number, entry in enumerate(steps) if entry[6]] == [0, 10, 20]
    assert [number for number, entry in enumerate(steps) if entry[3]] == [9, 19]  # truncated, two steps into an episode
    assert [number for number, entry in enumerate(steps) if entry[2]] == [3, 7, 13, 17, 23]


def test_a_period_may_count_episodes_or_be_drawn():
    env = envs.TaskSequence([Counting, Counting], period=2, count="episodes")
    env.reset(seed=0)
    assert [entry[4] for entry in steps_of(play(env, 20))] == [0] * 8 + [1] * 8 + [0] * 4

    def drawn(seed, of_reset):
        env = envs.TaskSequence([Counting, Counting], period={"name": "geometric", "mean": 6}, change_at="now", seed=seed)
        env.reset(seed=of_reset)
        return [entry[5] for entry in steps_of(play(env, 60))]

    assert drawn(1, 5) == drawn(1, 6) != drawn(2, 5)
    assert max(drawn(1, 5)) > 3


def test_what_a_task_says_under_a_key_of_the_sequence_is_kept_beside_it():
    env = envs.TaskSequence([Counting], period=8)
    _, info = env.reset(seed=0)
    assert info == {"task": 0, "phase": 0, "changed": False, "env_phase": "its own"}
    info = env.step(np.zeros(1))[4]
    assert info == {"task": 0, "phase": 0, "changed": True, "env_task": "its own"}


def test_one_task_is_open_at_a_time_and_close_closes_all():
    opened = []
    makers = [lambda: Counting(4, opened), lambda: Counting(4, opened)]
    env = envs.TaskSequence(makers, period=5, change_at="now")
    env.reset(seed=0)
    for _ in range(4):
        play(env, 5)
        assert opened == [env.env]
    env.close()
    assert opened == []
    kept = [Counting(4, opened), Counting(4, opened)]
    env = envs.TaskSequence([*kept, makers[0], kept[0]], period=5, change_at="now")
    env.reset(seed=0)
    play(env, 10)
    assert opened == [*kept, env.env]
    play(env, 5)
    assert env.env is kept[0]
    env.close()
    assert opened == []


def test_a_task_that_comes_again_goes_on_alike_whether_it_was_kept_or_made_anew():
    def rewards(first, second, seed):
        env = envs.TaskSequence([first, second], period=7, change_at="now")
        env.reset(seed=seed)
        return [entry[1] for entry in steps_of(play(env, 40))]

    made, kept = rewards(Counting, Counting, 3), rewards(Counting(), Counting(), 3)
    assert made == kept
    assert made != rewards(Counting, Counting, 4)
    assert made[14:21] != made[28:35]  # the same task, two phases later


def test_a_seed_of_reset_begins_anew_and_none_does_not():
    env = envs.TaskSequence([Counting, Counting], period=7, change_at="now")
    env.reset(seed=3)
    before = play(env, 20)
    env.reset(seed=3)
    assert play(env, 20) == before
    assert (env.task, env.phase) == (0, 2)
    env.reset()
    assert (env.task, env.phase, env.steps_in_phase) == (0, 2, 6)


@pytest.mark.parametrize(("change_at", "steps"), [("now", 0), ("episode_end", 58), ("now", 117)])
def test_a_sequence_goes_on_to_the_bit(change_at, steps):
    def make():
        return gymnasium.make("task-sequence-v0", tasks=TWO, period=50, change_at=change_at, max_episode_steps=35)

    env = make()
    env.reset(seed=3)
    action = np.full(6, 0.5, np.float32)
    play(env, steps, action)
    state = envs.save_state(env)
    other = make()
    envs.load_state(other, state)
    expected = play(env, 70, action)
    assert play(other, 70, action) == expected
    assert len({entry[4] for entry in steps_of(expected)}) == 2
    elsewhere = make()  # in another task
    elsewhere.reset(seed=8)
    play(elsewhere, 60, action)
    envs.load_state(elsewhere, state)
    assert play(elsewhere, 70, action) == expected


class CountingResets(Counting):
    """Pays one more in each episode."""

    def __init__(self, length=4):
        super().__init__(length)
        self.resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed)

    def step(self, action):
        observation, _, *others = super().step(action)
        return observation, float(self.resets), *others


@pytest.mark.parametrize("steps", [0, 5, 9])
def test_environments_that_wait_for_their_turn_go_on_too(steps):
    def make():
        twice = CountingResets()
        tasks = [twice, Counting, gymnasium.wrappers.NormalizeObservation(CountingResets()), twice]
        return envs.TaskSequence(tasks, period=3, change_at="now", seed=0)

    env, other = make(), make()
    env.reset(seed=0)
    play(env, steps)
    envs.load_state(other, envs.save_state(env))
    assert play(other, 40) == play(env, 40)


def test_the_state_of_an_environment_that_was_given_is_refused_where_it_is_made_anew():
    env = envs.TaskSequence([gymnasium.make(task) for task in TWO], period=3)
    with pytest.raises(envs.ParameterError, match="the same tasks given as environments, got one that differs in Walker2d-v5"):
        envs.load_state(envs.TaskSequence(TWO, period=3), envs.save_state(env))


def test_the_state_of_an_environment_that_is_made_anew_is_refused_where_one_was_given():
    env = envs.TaskSequence(TWO, period=3)
    env.reset(seed=0)
    state = envs.save_state(env)
    other = envs.TaskSequence([gymnasium.make(task) for task in TWO], period=3)
    other.reset(seed=0)
    with pytest.raises(envs.ParameterError, match="the same tasks given as environments"):
        envs.load_state(other, state)


def test_a_state_of_the_release_before_has_the_task_in_force_alone():
    env, other = (envs.TaskSequence([CountingResets(), CountingResets()], period=50) for _ in range(2))
    env.reset(seed=0)
    env.reset()
    (state,) = envs.save_state(env)
    del state["waiting"]
    envs.load_state(other, [state])
    assert (other.env.resets, other.waiting[1].resets) == (2, 0)


def test_what_is_held_is_held_afterwards():
    env, other = (envs.TaskSequence([Counting, Counting], period=3, change_at="now", seed=0) for _ in range(2))
    env.reset(seed=0)
    env.load_state_dict(env.state_dict(), hold=True)
    held = envs.save_state(env)
    envs.load_state(other, held)
    seen = play(env, 20)
    assert (play(other, 20), {entry[4] for entry in steps_of(seen)}) == (seen, {0})
    held[0].pop("holds")
    envs.load_state(other, held)
    assert {entry[4] for entry in steps_of(play(other, 20))} == {0, 1}


def test_tasks_may_be_worlds_that_change_and_sequences_themselves():
    def make():
        inner = [lambda: envs.NonStationary(gymnasium.make("Walker2d-v5"), "gravity", period=20, change_at="now"), TWO[1]]
        tasks = [TWO[0], lambda: envs.TaskSequence(inner, period=30, change_at="now")]
        return envs.TaskSequence(tasks, period=100, change_at="now")

    env = make()
    env.reset(seed=0)
    action = np.full(6, 0.3, np.float32)
    play(env, 100, action)
    info = env.step(action)[4]
    assert (info["task"], info["phase"], info["env_task"], info["env_phase"]) == (1, 1, 0, 0)
    assert info["gravity"] == env.env.env.value
    play(env, 44, action)
    other = make()
    envs.load_state(other, envs.save_state(env))
    assert play(other, 40, action) == play(env, 40, action)


def test_an_episode_that_went_on_from_a_state_counts():
    env, other = (envs.TaskSequence([Counting, Counting], period=1, count="episodes") for _ in range(2))
    env.reset(seed=0)
    play(env, 2)
    envs.load_state(other, envs.save_state(env))
    assert [each.reset()[1]["task"] for each in (env, other)] == [1, 1]


def test_the_state_of_other_tasks_is_refused():
    env = envs.TaskSequence(TWO, period=50)
    env.reset(seed=0)
    state = envs.save_state(env)
    with pytest.raises(envs.ParameterError, match="state must be that of tasks Walker2d-v5, HalfCheetah-v5, got"):
        envs.load_state(envs.TaskSequence(TWO[::-1], period=50), state)


@pytest.mark.parametrize("other", [{"period": 9}, {"change_at": "now"}, {"count": "episodes"}])
def test_the_state_of_another_clock_is_refused_unless_it_is_held(other):
    first = envs.TaskSequence([Counting, Counting], period=8, change_at="episode_end")
    second = envs.TaskSequence([Counting, Counting], **({"period": 8, "change_at": "episode_end"} | other))
    first.reset(seed=0)
    play(first, 14)
    (name, value), *_ = other.items()
    with pytest.raises(envs.ParameterError, match=f"state must be that of {name} {value!r} as here, got "):
        envs.load_state(second, envs.save_state(first))
    assert second.task == 0
    second.load_state_dict(first.state_dict(), hold=True)
    second.reset()
    assert (second.task, {entry[4] for entry in steps_of(play(second, 40))}) == (1, {1})


def test_where_a_task_cannot_be_made_the_sequence_stays_and_tries_again():
    made = []

    def unsteady():
        made.append(len(made))
        if len(made) == 2:  # the first is looked at by the constructor
            raise OSError("no connection")
        return Counting(opened=opened)

    opened = []
    env = envs.TaskSequence([lambda: Counting(opened=opened), unsteady], period=4, change_at="now")
    env.reset(seed=0)
    for _ in range(4):
        env.step(env.action_space.low)
    with pytest.raises(OSError, match="no connection"):
        env.reset()
    assert (env.task, env.phase, opened) == (0, 0, [env.env])
    _, info = env.reset()
    assert (info["task"], info["phase"], opened) == (1, 1, [env.env])
    assert env.step(env.action_space.low)[4]["changed"]


class Reusing(Counting):
    """Gives one dictionary again and again."""

    def __init__(self):
        super().__init__()
        self.info = {"own": 1}

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], self.info

    def step(self, action):
        return *super().step(action)[:4], self.info


@pytest.mark.parametrize(
    "around",
    [
        lambda env: envs.TaskSequence([env], period=4),
        lambda env: envs.NonStationary(env, "observation_noise", period=4),
    ],
    ids=["TaskSequence", "NonStationary"],
)
def test_what_an_environment_gives_again_and_again_is_not_written_to(around):
    env = around(Reusing())
    _, info = env.reset(seed=0)
    infos = [info, *(env.step(env.action_space.low)[4] for _ in range(3)), env.reset()[1]]
    assert env.unwrapped.info == {"own": 1} if not isinstance(env, envs.TaskSequence) else env.env.info == {"own": 1}
    assert all(not any(key.startswith("env_") for key in each) and each["own"] == 1 for each in infos)
    assert [each["changed"] for each in infos] == [False, True, False, False, False]


def test_what_is_drawn_is_the_task_in_force():
    env = envs.TaskSequence(
        [lambda: gymnasium.make("Pendulum-v1", render_mode="rgb_array"), "Pendulum-v1"], period=1, change_at="now"
    )
    env.reset(seed=0)
    assert (env.render_mode, env.render().ndim) == ("rgb_array", 3)
    env.step(env.action_space.low)
    env.reset()
    assert (env.task, env.render_mode) == (1, None)


def wide():
    return gymnasium.wrappers.TransformObservation(Counting(), lambda seen: seen, gymnasium.spaces.Box(-1, 1, (2,)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tasks": []}, r"tasks must be a list of length 1 or more, got \[\]"),
        ({"tasks": "Ant-v5"}, "tasks must be a list"),
        ({"tasks": [Counting, 3]}, "each task must be an id, a function that makes an environment or an environment; got 3"),
        ({"tasks": [lambda: 3]}, "env must be a Gymnasium environment, got 3"),
        ({"tasks": [Counting, wide]}, r"tasks must have one observation_space, got Box.*Counting and Box.*\(2,\).*wide; a wr"),
        ({"tasks": ["HalfCheetah-v5", "Hopper-v5"]}, "one observation_space, got .* of HalfCheetah-v5 and .* of Hopper-v5"),
        ({"tasks": [Counting], "period": 0}, "period must be an integer of at least 1, got 0"),
        ({"tasks": [Counting], "change_at": "noon"}, "change_at must be one of 'episode_end', 'now', got 'noon'"),
        ({"tasks": [Counting], "seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"tasks": [Counting], "count": "episodes", "change_at": "now"}, "change_at must be 'episode_end' where the period"),
    ],
)
def test_what_cannot_be_a_sequence_is_refused_in_words(arguments, words):
    with pytest.raises(envs.ParameterError, match=words):
        envs.TaskSequence(**arguments)


def test_tasks_that_do_not_fit_are_closed_again():
    opened = []
    with pytest.raises(envs.ParameterError, match="one observation_space"):
        envs.TaskSequence([lambda: Counting(4, opened), wide])
    assert opened == []


def test_a_seed_of_reset_is_checked():
    env = envs.TaskSequence([Counting])
    with pytest.raises(envs.ParameterError, match=r"seed must be an integer of at least 0, got 1\.5"):
        env.reset(seed=1.5)


@pytest.mark.filterwarnings("ignore")  # of other packages
def test_tasks_of_the_control_suite_go_on_to_the_bit():
    pytest.importorskip("shimmy")
    pytest.importorskip("dm_control")

    def make():
        tasks = [f"shimmy:dm_control/walker-{task}-v0" for task in ("stand", "walk", "run")]
        env = gymnasium.make("task-sequence-v0", tasks=tasks, period=25, change_at="now")
        return gymnasium.wrappers.FlattenObservation(env)

    env = make()
    env.reset(seed=1)
    action = np.full(6, 0.4)
    assert [entry[4] for entry in steps_of(play(env, 80, action))] == [0] * 25 + [1] * 25 + [2] * 25 + [0] * 5
    play(env, 30, action)
    other = make()
    envs.load_state(other, envs.save_state(env))
    assert play(other, 60, action) == play(env, 60, action)


@pytest.mark.parametrize("name", ["perriod", "changeat", "render_mode"])
def test_an_argument_that_no_task_takes_is_refused(name):
    for tasks in ([Counting], [Counting()]):
        with pytest.raises(envs.ParameterError, match=f"no argument '{name}'; others are for tasks that are ids"):
            envs.TaskSequence(tasks, **{name: "now"})
    if name != "render_mode":
        with pytest.raises(envs.ParameterError, match=f"HalfCheetah-v5 cannot be made with '{name}'"):
            envs.TaskSequence(["HalfCheetah-v5"], **{name: "now"})


def test_seeds_that_keep_the_task_from_ever_changing_are_told_once():
    env = envs.TaskSequence([Counting, Counting], period=5)

    def begin_anew_again_and_again():
        for episode in range(30):
            env.reset(seed=episode)
            play(env, 3)

    with pytest.warns(UserWarning, match=r"the task never changes \(Counting\): each reset\(seed=…\) restarts") as said:
        begin_anew_again_and_again()
    assert len(said) == 1
    assert env.phase == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("clock"), "one of TaskSequence's, got one without clock"),
        (lambda state: state.clear(), "one without clock, entropy, steps_in_episode, task, tasks"),
        (lambda state: state.update(task=7), "task must be one of 0 to 1, got 7"),
    ],
)
def test_a_state_that_is_none_is_refused_in_words_and_changes_nothing(change, words):
    env = envs.TaskSequence([Counting, Counting], period=5, seed=0)
    env.reset()
    play(env, 3)
    before, state = env.state_dict(), env.state_dict()
    change(state)
    for bad in (state, []) if not state else (state,):
        with pytest.raises(envs.ParameterError, match=words):
            env.load_state_dict(bad)
    assert env.state_dict() == before


def test_the_lengths_of_phases_are_not_drawn_as_the_values_within_tasks_are():
    lengths, values = [], []
    for seed in range(200):
        env = envs.TaskSequence(
            [lambda: envs.NonStationary(gymnasium.make("CartPole-v1"), "cart_mass", schedule="uniform")] * 2,
            period={"name": "exponential", "mean": 1000},
            seed=seed,
        )
        env.reset(seed=seed)
        lengths.append(env._clock.length)
        values.append(envs.NonStationary.of(env.env).values["cart_mass"])
    # Of 200 independent pairs |r| stays below 3.3 / √200 = 0.23 with probability 0.999; from one generator it is 0.57.
    assert abs(np.corrcoef(np.argsort(np.argsort(lengths)), np.argsort(np.argsort(values)))[0, 1]) < 0.23
