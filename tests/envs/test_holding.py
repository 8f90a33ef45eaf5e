"""Whose numbers are whose: the environment's own, what a wrapper holds in force, and what another simulation beside has."""

import copy
import pickle
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
from worlds import World

import envs

BOX = """<mujoco><worldbody>
  <geom type="plane" size="5 5 1"/>
  <body name="box" pos="0 0 1"><freejoint/><geom size=".1"/></body>
</worldbody></mujoco>"""

PENDULUM = """<mujoco><worldbody>
  <body name="upper">
    <joint type="hinge" axis="0 1 0"/>
    <geom size=".1" pos="0 0 -.3"/>
    <body name="lower" pos="0 0 -.6">
      <joint type="hinge" axis="0 1 0"/>
      <geom size=".1" pos="0 0 -.3"/>
    </body>
  </body>
</worldbody></mujoco>"""


def listed(env, parameter, *values, period=3, **options):
    return envs.NonStationary(
        env, parameter, {"name": "list", "values": list(values)}, period=period, change_at="now", seed=0, **options
    )


class TwoSimulations(World):
    """Simulates ``arm_model``; the other, under the usual names, stands still."""

    def __init__(self, xml):
        super().__init__(BOX)
        self.arm_model = mujoco.MjModel.from_xml_string(xml)
        self.arm_data = mujoco.MjData(self.arm_model)

    def step(self, action):
        mujoco.mj_step(self.arm_model, self.arm_data)
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("xml", [BOX, PENDULUM])
def test_the_state_of_another_simulation_is_not_taken_for_that_of_a_given_model(xml):
    env = TwoSimulations(xml)
    assert envs.simulation.find_data(env, lambda env: env.arm_model) is None
    with pytest.raises(envs.ParameterError, match="push_x needs the MjData of TwoSimulations, which model= can return beside"):
        envs.NonStationary(env, "push_x", model=lambda env: env.arm_model)
    pushed = listed(env, "push_x", 1.0, model=lambda env: (env.arm_model, env.arm_data))
    pushed.reset()
    pushed.step(None)
    assert abs(env.arm_data.qvel).max() > 0.1
    assert not env.data.qvel.any()


def test_a_state_beside_a_model_that_is_not_its_own_is_refused():
    with pytest.raises(envs.ParameterError, match="must return an MjModel and its own MjData"):
        envs.NonStationary(TwoSimulations(PENDULUM), model=lambda env: (env.arm_model, env.data))


class Ahead(World):
    """Computes at the end of a step what the next one begins with."""

    def reset(self, *, seed=None, options=None):
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_step1(self.model, self.data)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        mujoco.mj_step2(self.model, self.data)
        mujoco.mj_step1(self.model, self.data)
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])  # noqa: S301
def test_a_copy_feels_a_change_in_mid_episode_in_the_step_that_its_original_feels_it(duplicate):
    def velocities(env):
        env.reset(seed=0)
        for _ in range(5):
            env.step(None)
            yield env.unwrapped.data.qvel.tolist()

    original = listed(Ahead(PENDULUM.replace("<worldbody>", '<option gravity="3 0 -9"/><worldbody>')), "gravity", 10.0, 0.0)
    expected = list(velocities(original))
    assert expected[3] == pytest.approx(expected[2], rel=1e-5)  # nothing pulls any more
    assert list(velocities(duplicate(original))) == expected


class Weighs(World):
    """Draws a mass at each reset, and lets MuJoCo compute what follows from it."""

    def __init__(self, xml=PENDULUM, factor=2.0):
        super().__init__(xml)
        self.own, self.factor = self.model.body_mass.copy(), factor

    def reset(self, *, seed=None, options=None):
        if self.factor:
            self.model.body_mass[2] = self.own[2] * self.factor
            mujoco.mj_setConst(self.model, self.data)
        return super().reset(seed=seed)


def constants(model):
    return [getattr(model, name).tolist() for name in ("body_mass", "body_invweight0", "dof_invweight0", "dof_M0")]


def test_constants_follow_from_the_masses_in_force_whoever_computed_them():
    plain, changed = Weighs(), listed(Weighs(), "mass", 3.0, 1.0)
    plain.reset()
    changed.reset()
    for _ in range(4):
        changed.step(None)
    assert changed.value == 1.0
    assert constants(changed.unwrapped.model) == constants(plain.model)
    changed.set_value("mass", 3.0)
    changed.give_back()
    assert constants(changed.unwrapped.model) == constants(plain.model)


def test_a_state_of_an_environment_that_has_not_drawn_goes_on_in_one_that_has():
    saved, other = listed(Weighs(factor=0.0), "mass:lower", 2.0, 3.0), listed(Weighs(factor=10.0), "mass:lower", 2.0, 3.0)
    for env in (saved, other):
        env.reset()
        env.step(None)
    envs.load_state(other, envs.save_state(saved))
    for _ in range(4):  # a change comes
        assert saved.step(None)[4] == other.step(None)[4]
        assert saved.unwrapped.model.body_mass.tolist() == other.unwrapped.model.body_mass.tolist()


def test_what_is_written_between_a_reset_and_the_first_step_is_the_environments_own():
    env = listed(World(PENDULUM), "mass:lower", 1.0, 2.0, period=1)
    own = env.unwrapped.model.body_mass[2]
    env.unwrapped.model.body_mass[2] = 5 * own  # before any reset
    env.reset(seed=0)
    assert env.unwrapped.model.body_mass[2] == 5 * own
    env.step(None)
    env.reset()
    env.unwrapped.model.body_mass[2] = 7 * own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(None)  # with a change
    assert env.value == 2.0
    assert env.unwrapped.model.body_mass[2] == 14 * own


def test_a_displaced_wrapper_loads_no_state_into_what_another_holds():
    base = World(BOX)
    first = envs.NonStationary(base, seed=0)
    state = first.state_dict()
    second = envs.NonStationary(base, seed=5)
    held = base.model.geom_friction.tolist()
    for use in (lambda: first.load_state_dict(state), lambda: first.hold({"friction": 0.5})):
        with pytest.raises(envs.EffectError, match="changed by another NonStationary, made later"):
            use()
    assert base.model.geom_friction.tolist() == held
    assert second.reset()[1]["friction"] == second.value


@pytest.mark.parametrize("arguments", [{"parameter": "frictoin"}, {"low": -1.0}, {"observe": True}])
def test_a_wrapper_that_cannot_be_made_leaves_the_one_that_was_there_at_work(arguments):
    base = World(BOX)
    base.observation_space = gymnasium.spaces.Discrete(3)  # whose values cannot be appended
    first = envs.NonStationary(base, period=1, change_at="now", seed=0)
    first.reset()
    with pytest.raises(envs.ParameterError):
        envs.NonStationary(base, **arguments)
    assert base.model.geom_friction[:, 0].tolist() == [first.value] * 2
    first.step(None)
    changed = first.step(None)[4]
    assert changed["phase"] == 1
    assert base.model.geom_friction[:, 0].tolist() == [changed["friction"]] * 2


@pytest.mark.parametrize("name", ["observation_noise", "action_delay", "push_x"])
def test_what_writes_nothing_into_a_model_leaves_those_alone_who_share_it(name):
    model = mujoco.MjModel.from_xml_string(BOX)

    def shared():
        env = World(BOX)
        env.model, env.data = model, mujoco.MjData(model)
        return envs.NonStationary(env, name, seed=0)

    first, second = shared(), shared()
    for env in (first, second):
        assert env.reset(seed=0)[1][name] == first.value
        env.step(np.zeros(1, np.float32)) if name != "push_x" else env.step(None)


def test_one_environment_may_be_disturbed_beside_another_whose_model_it_shares():
    model = mujoco.MjModel.from_xml_string(BOX)

    def shared(name):
        env = World(BOX)
        env.model, env.data = model, mujoco.MjData(model)
        return envs.NonStationary(env, name, period=1, change_at="now", seed=0)

    slippery, noisy = shared("friction"), shared("observation_noise")
    for _ in range(2):
        slippery.reset()
        noisy.reset()
        for _ in range(3):
            noisy.step(np.zeros(1, np.float32))
            friction = slippery.step(None)[4]["friction"]
            assert model.geom_friction[:, 0].tolist() == [friction, friction]
    again = shared("friction")
    with pytest.raises(envs.EffectError, match="one that shares its model"):
        slippery.reset()
    assert again.reset()[1]["friction"] == model.geom_friction[0, 0]
    assert noisy.reset()[1]["phase"] == 5


@pytest.mark.parametrize("tried", [True, False])
def test_a_state_says_what_the_environment_had_of_its_own_when_it_was_wrapped(tried):
    """Its first reset, or its constructor, made it so, before there was a wrapper."""

    class Drawn(World):
        def __init__(self, mass):
            super().__init__(BOX)
            self.model.body_mass[1] = mass

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            if seed is not None:
                self.model.body_mass[1] = self.np_random.uniform(1, 9)
            return np.zeros(1, np.float32), {}

    def made(number):
        env = Drawn(number)
        if tried:
            env.reset(seed=number)
        return listed(env, "mass", 2.0, 3.0, factor=True)

    saved, loaded = made(5), made(8)
    saved.step(None)
    envs.load_state(loaded, envs.save_state(saved))
    for env in (saved, loaded):
        for _ in range(4):
            env.step(None)
        env.reset()
        env.step(None)
    masses = [env.unwrapped.model.body_mass[1] for env in (saved, loaded)]
    assert masses[0] == masses[1]
    saved.close()
    assert masses[0] == pytest.approx(saved.unwrapped.model.body_mass[1] * 3)


@pytest.mark.parametrize("in_reset", [True, False])
def test_an_info_that_is_none_is_said_in_one_line(in_reset):
    class Silent(World):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0], None if in_reset else {}

        def step(self, action):
            return *super().step(action)[:4], None

    env = listed(Silent(BOX), "friction", 1.0)
    if not in_reset:
        env.reset()
    with pytest.raises(envs.EffectError, match="info of Silent must be a mapping, got None"):
        env.reset() if in_reset else env.step(None)


def test_numbers_that_resets_multiply_are_multiplied_by_them_alone():
    class Drifting(World):
        def reset(self, *, seed=None, options=None):
            self.model.geom_friction[:, 0] *= 1.1
            return super().reset(seed=seed)

    env = listed(Drifting(BOX), "friction", 2.0, factor=True)
    frictions = []
    for _ in range(6):
        assert env.reset()[1]["friction"] == 2.0
        frictions.append(env.unwrapped.model.geom_friction[0, 0])
    assert np.divide(frictions[1:], frictions[:-1]) == pytest.approx(1.1)
    env.close()
    assert env.unwrapped.model.geom_friction[0, 0] == pytest.approx(frictions[-1] / 2)


@pytest.mark.parametrize("written", ["body_mass", "geom_friction"])
def test_what_is_drawn_once_and_never_again_stays_the_environments_own(written):
    class Once(World):
        resets = 0

        def reset(self, *, seed=None, options=None):
            self.resets += 1
            if self.resets == 2:
                getattr(self.model, written)[:] = 3 * own
            return super().reset(seed=seed)

    env = listed(Once(BOX), "mass" if written == "body_mass" else "friction", 1.0, 0.5, 2.0, period=2, factor=True)
    own = getattr(env.unwrapped.model, written).copy()
    for number in range(1, 5):
        value = env.reset()[1]["mass" if written == "body_mass" else "friction"]
        before = own[-1] if written == "body_mass" else own[-1, 0]
        now = getattr(env.unwrapped.model, written)[-1] if written == "body_mass" else env.unwrapped.model.geom_friction[-1, 0]
        assert now == pytest.approx(before * (3 if number > 1 else 1) * value)
        for _ in range(3):
            env.step(None)


class Falls(World):
    """Has no gravity in every second episode; or no model between two, which a reset makes anew."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        if self.model is None:
            self.__init__(BOX)
        self.model.opt.gravity[2] = 0 if self.resets == 2 else -9.81
        return super().reset(seed=seed)


def test_a_reset_that_leaves_a_change_without_effect_is_said_and_the_next_one_goes_on():
    env = listed(Falls(BOX), "gravity", 5.0, period=100)
    assert env.reset()[1]["gravity"] == 5.0
    for options in ({}, {"seed": 0}):
        env.unwrapped.resets = 1
        with pytest.raises(envs.EffectError, match="Falls has written to its simulation what leaves no effect to a change"):
            env.reset(**options)
        assert env.reset()[1]["gravity"] == 5.0
        assert env.unwrapped.model.opt.gravity[2] == -5.0


def test_a_reset_that_fails_without_a_model_tells_its_own_error():
    class Breaks(World):
        def reset(self, *, seed=None, options=None):
            if options:
                self.model = None
                raise ValueError("no ground today")
            return super().reset(seed=seed)

    env = listed(Breaks(BOX), "gravity", 5.0, period=100)
    env.reset()
    with pytest.raises(ValueError, match="no ground today"):
        env.reset(options={"breaks": True})


def test_a_reset_that_fails_leaves_the_change_in_force():
    class Draws(World):
        def reset(self, *, seed=None, options=None):
            made = super().reset(seed=seed)
            self.model.geom_friction[:, 0] = self.np_random.uniform(0.5, 1.5)
            if options is not None:
                raise ValueError("options")
            return made

    env = listed(Draws(BOX), "friction", 3.0, period=100, factor=True)
    env.reset(seed=0)
    env.reset()
    before = env.unwrapped.model.geom_friction.copy()
    with pytest.raises(envs.ParameterError, match="seed must be an integer of at least 0, got -1"):
        env.reset(seed=-1)
    np.testing.assert_array_equal(env.unwrapped.model.geom_friction, before)
    with pytest.raises(ValueError, match="options"):
        env.reset(options={})
    assert env.unwrapped.model.geom_friction[0, 0] > 1.5  # three times what it has drawn
    env.close()
    assert env.unwrapped.model.geom_friction[0, 0] <= 1.5


def test_an_environment_may_have_no_simulation_between_two_episodes():
    env = envs.NonStationary(Falls(BOX), "gravity", {"name": "list", "values": [5.0, 2.0]}, period=2)
    env.unwrapped.resets = 2
    for expected in (5.0, 2.0, 5.0):
        assert env.reset()[1]["gravity"] == expected
        assert env.unwrapped.model.opt.gravity[2] == -expected
        for _ in range(3):
            env.step(None)
        env.unwrapped.model = env.unwrapped.data = None


class Grows(World, gymnasium.utils.EzPickle):
    """Has one more box after each reset."""

    def __init__(self, boxes=1):
        gymnasium.utils.EzPickle.__init__(self, boxes)
        self.build(boxes)

    def build(self, boxes):
        self.boxes = boxes
        more = "".join(f'<body pos="{k} 0 1"><freejoint/><geom size=".1"/></body>' for k in range(boxes))
        World.__init__(self, f"<mujoco><worldbody><geom type='plane' size='5 5 1'/>{more}</worldbody></mujoco>")

    def reset(self, *, seed=None, options=None):
        self.build(self.boxes + 1)
        return super().reset(seed=seed)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])  # noqa: S301
def test_a_copy_of_an_environment_that_has_rebuilt_itself_is_one_that_has_not(duplicate):
    env = listed(Grows(), "mass", 2.0, factor=True)
    own = env.unwrapped.model.body_mass[1] / 2
    env.reset()
    env.reset()
    copied = duplicate(env)
    assert (env.unwrapped.boxes, copied.unwrapped.boxes) == (3, 1)
    assert copied.unwrapped.model.body_mass[1:] == pytest.approx(2 * own)
    copied.reset()
    assert copied.unwrapped.model.body_mass[1:] == pytest.approx(2 * own)


def test_a_part_that_a_rebuilt_simulation_lacks_is_missed_in_the_reset():
    class Rebuilt(World):
        def reset(self, *, seed=None, options=None):
            self.__init__(BOX.replace('name="box"', 'name="crate"'))
            return super().reset(seed=seed)

    env = envs.NonStationary(Rebuilt(BOX), "push_x:box", seed=0)
    with pytest.raises(envs.EffectError, match=r"another simulation now.*must be one of 'crate', got 'box'"):
        env.reset()


def test_an_attribute_that_is_computed_is_refused(monkeypatch):
    options = {"meaning": "time of a step", "unit": "s", "lowest": 0.0, "highest": 1.0, "low": 0.01, "high": 0.1}
    tick = envs.Attribute(name="tick", schedule="uniform", needs="a time of a step", attribute="dt", **options)
    monkeypatch.setitem(envs.PARAMETERS, "tick", tick)
    with pytest.raises(envs.ParameterError, match="tick needs a 'dt' that can be set, which Hopper-v5 lacks"):
        envs.NonStationary(gymnasium.make("Hopper-v5"), "tick")


class DrawsMasses(gymnasium.Wrapper):
    """Draws the masses in each reset, and leaves the constants that follow from them as they are."""

    def __init__(self, env):
        super().__init__(env)
        self._own = env.unwrapped.model.body_mass.copy()

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self._generator = np.random.default_rng(seed)
        self.unwrapped.model.body_mass[:] = self._own * self._generator.uniform(0.5, 2)
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("parameter", ["armature", "centre_of_mass_x"])
def test_constants_follow_from_the_masses_of_this_episode_not_of_the_one_before(parameter):
    model_after = []
    for seeds in ([4], [1, 2, 4], [4, 4]):
        env = envs.NonStationary(DrawsMasses(gymnasium.make("Hopper-v5")), parameter, seed=5)
        for seed in seeds:
            env.reset(seed=seed)
        model = env.unwrapped.model
        model_after.append([model.dof_invweight0.copy(), model.body_subtreemass.copy(), model.actuator_acc0.copy()])
    for others in model_after[1:]:
        for first, other in zip(model_after[0], others, strict=True):
            assert np.array_equal(first, other)
    computed = copy.copy(model)
    mujoco.mj_setConst(computed, mujoco.MjData(computed))
    assert np.array_equal(model.dof_invweight0, computed.dof_invweight0)


class BurnsFuel(gymnasium.Wrapper):
    def step(self, action):
        self.unwrapped.model.body_mass[1] *= 0.99
        return super().step(action)


def test_constants_follow_in_the_next_episode_from_the_masses_of_now_after_a_state_was_loaded_too():
    def make():
        return envs.NonStationary(BurnsFuel(gymnasium.make("Hopper-v5")), "armature", seed=5)

    env, other = make(), make()
    env.reset(seed=1)
    other.reset(seed=2)
    for _ in range(3):
        env.step(np.zeros(3, np.float32))
    envs.load_state(other, envs.save_state(env))
    models = [each.unwrapped.model for each in (env, other)]
    before = models[0].body_invweight0.copy()
    for each in (env, other):
        each.reset()
    assert np.array_equal(models[0].body_invweight0, models[1].body_invweight0)
    assert not np.array_equal(models[0].body_invweight0, before)


class WritesOnce(gymnasium.Wrapper):
    def step(self, action):
        found = super().step(action)
        if self.unwrapped.data.time > 9 * self.unwrapped.dt - 1e-9 and not getattr(self, "has_written", False):
            self.unwrapped.model.dof_damping[3] = 5.0
            self.has_written = True
        return found


def test_what_the_environment_wrote_since_the_last_change_is_still_its_own_after_a_state_was_loaded():
    def make():
        return envs.NonStationary(WritesOnce(gymnasium.make("HalfCheetah-v5")), "damping", seed=5, period=15, change_at="now")

    env, other = make(), make()
    env.reset(seed=1)
    other.reset(seed=2)
    for _ in range(12):
        env.step(np.zeros(6, np.float32))
    envs.load_state(other, envs.save_state(env))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which say that it wrote
        for _ in range(10):
            found = [each.step(np.zeros(6, np.float32))[0] for each in (env, other)]
            assert np.array_equal(*found)
    assert env.unwrapped.model.dof_damping[3] == other.unwrapped.model.dof_damping[3] != 5.0
