"""Parameters of one's own: numbers of environments that no MuJoCo simulates."""

from __future__ import annotations

import copy
import math
import pickle

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from worlds import World, box

import envs


def follow_pole(cart):
    return {"polemass_length": cart.masspole * cart.length}


POLE = envs.Attribute(
    name="pole_length",
    meaning="half the length of the pole",
    unit="m",
    lowest=0.001,
    highest=math.inf,
    low=0.25,
    high=1.0,
    schedule="log_uniform",
    needs="a pole on a cart",
    attribute="length",
    follow=follow_pole,
)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(envs.PARAMETERS, POLE.name, POLE)


def trajectory(env, steps=60):
    env.reset(seed=0)
    env.action_space.seed(0)
    seen = []
    for _ in range(steps):
        observation, _, terminated, _, _ = env.step(env.action_space.sample())
        seen.append(observation)
        if terminated:
            env.reset()
    return np.array(seen)


BY_HAND = {
    ("CartPole-v1", "cart_mass"): {"masscart": 2.0, "total_mass": 2.1},
    ("CartPole-v1", "cart_pole_mass"): {"masspole": 0.2, "total_mass": 1.2, "polemass_length": 0.1},
    ("CartPole-v1", "cart_pole_length"): {"length": 1.0, "polemass_length": 0.1},
    ("CartPole-v1", "cart_force"): {"force_mag": 20.0},
    ("CartPole-v1", "cart_gravity"): {"gravity": 19.6},
    ("Pendulum-v1", "pendulum_mass"): {"m": 2.0},
    ("Pendulum-v1", "pendulum_length"): {"l": 2.0},
    ("Pendulum-v1", "pendulum_gravity"): {"g": 20.0},
    ("Acrobot-v1", "acrobot_mass_1"): {"LINK_MASS_1": 2.0},
    ("Acrobot-v1", "acrobot_mass_2"): {"LINK_MASS_2": 2.0},
    ("MountainCar-v0", "car_force"): {"force": 0.002},
    ("MountainCar-v0", "car_gravity"): {"gravity": 0.005},
    ("MountainCarContinuous-v0", "car_power"): {"power": 0.003},
}
"""The attributes of environments in which one number is twice its own, and what follows from it."""


@pytest.mark.parametrize(("env_id", "name"), BY_HAND)
def test_a_number_twice_its_own_is_the_one_that_is_set_by_hand(env_id, name):
    made = gymnasium.make(env_id)
    for attribute, number in BY_HAND[env_id, name].items():
        assert hasattr(made.unwrapped, attribute)
        setattr(made.unwrapped, attribute, number)
    parameter = {name: {"schedule": {"name": "constant", "value": 2.0}, "factor": True}}
    changed = envs.NonStationary(gymnasium.make(env_id), parameter)
    np.testing.assert_array_equal(trajectory(changed), trajectory(made))
    assert np.any(trajectory(changed) != trajectory(gymnasium.make(env_id)))
    values = {"name": "list", "values": [2.0, 0.5, 2.0]}  # up, down and back
    walking = envs.NonStationary(gymnasium.make(env_id), name, values, period=60, seed=0, change_at="now")
    seen = [trajectory(walking), trajectory(walking)]
    np.testing.assert_array_equal(*seen)


def test_every_number_of_these_environments_is_set_by_hand_above_or_is_the_landers():
    of_one = {name for name, parameter in envs.PARAMETERS.items() if getattr(parameter, "of", "")}
    assert of_one == {name for _, name in BY_HAND} | {"lander_wind", "lander_turbulence"}


def test_a_number_of_that_name_in_another_environment_is_not_taken_for_it():
    class Elsewhere(World):
        force = 3.0

    with pytest.raises(envs.ParameterError, match="car_force needs Gymnasium's MountainCar, which Elsewhere lacks"):
        envs.NonStationary(Elsewhere(box()), "car_force")


class Slides(CartPoleEnv):
    """Has a cart with an engine of its own, and no pole."""

    def step(self, action):
        position, speed, *_ = self.state
        speed += self.tau * (action - 0.5) / self.masscart
        self.state = position + self.tau * speed, speed, 0.0, 0.0
        return np.array(self.state, np.float32), 1.0, False, False, {}


class Padded(CartPoleEnv):
    def step(self, action):
        observation, *others = super().step(action)
        return np.append(observation, 0.0), *others


@pytest.mark.parametrize("name", [name for env_id, name in BY_HAND if env_id == "CartPole-v1"])
@pytest.mark.filterwarnings("error")
def test_a_number_that_a_derived_class_does_without_is_refused(name):
    envs.NonStationary(Padded(), name)
    if name == "cart_mass":
        envs.NonStationary(Slides(), name)
        return
    words = rf"^{name} needs Gymnasium's CartPole, which Slides lacks: .* are the same at twice its '\w+'$"
    with pytest.raises(envs.ParameterError, match=words):
        envs.NonStationary(Slides(), name)


def test_a_pole_of_another_length_and_mass_is_the_one_that_is_made_so():
    made = gymnasium.make("CartPole-v1")
    cart = made.unwrapped
    cart.length, cart.masscart = 0.8, 1.5 * cart.masscart
    cart.polemass_length, cart.total_mass = cart.masspole * 0.8, cart.masspole + cart.masscart
    parameter = {"cart_pole_length": {"low": 1.6, "high": 1.6}, "cart_mass": {"low": 1.5, "high": 1.5}}
    env = envs.NonStationary(gymnasium.make("CartPole-v1"), parameter)
    np.testing.assert_array_equal(trajectory(env), trajectory(made))
    assert env.reach["cart_pole_length"] == {"env.length": [], "env.total_mass": [], "env.polemass_length": []}
    env.close()
    np.testing.assert_array_equal(trajectory(env.env), trajectory(gymnasium.make("CartPole-v1")))


def test_a_weight_stays_what_it_is_where_the_simulation_is_rebuilt():
    class Rebuilding(World):
        _ctrl_cost_weight = 0.1

        def reset(self, *, seed=None, options=None):
            self.model = World(box()).model
            self.data = mujoco.MjData(self.model)
            return super().reset(seed=seed)

        def step(self, action):
            observation, _, *others = super().step(None)
            return observation, -self._ctrl_cost_weight, *others

    base = Rebuilding(box())
    constant = {"schedule": {"name": "constant", "value": 0.5}}
    env = envs.NonStationary(base, {"control_cost": constant, "mass": constant})
    for _ in range(3):
        env.reset()
        assert base._ctrl_cost_weight == 0.05
        assert base.model.body_mass[1] == pytest.approx(4.0)  # half of 1000 kg/m³ · (0.2 m)³
    base._ctrl_cost_weight = 0.4  # what the environment sets itself is its own
    env.reset()
    assert base._ctrl_cost_weight == 0.2
    env.close()
    assert base._ctrl_cost_weight == 0.4


def test_clocks_copies_and_states_are_as_of_any_other_parameter():
    def make():
        return envs.NonStationary(gymnasium.make("CartPole-v1"), "pole_length", period=20, change_at="now", seed=3)

    env, other = make(), make()
    trajectory(env, 50)
    assert env.phase == 2
    assert env.unwrapped.length == env.value
    assert env.unwrapped.polemass_length == env.unwrapped.masspole * env.value
    envs.load_state(other, envs.save_state(env))
    clones = [other, copy.deepcopy(env), pickle.loads(pickle.dumps(env))]  # noqa: S301
    expected = [env.step(1)[0].tolist() for _ in range(8)]
    for clone in clones:
        assert [clone.step(1)[0].tolist() for _ in range(8)] == expected


class Counting(World):
    """Simulates so many steps of MuJoCo in one of its own, and keeps a number of NumPy beside."""

    frame_skip, decay = 4, np.float32(0.1)

    def step(self, action):
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        return np.zeros(1, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("attribute", "factor", "value", "changed"), [("frame_skip", False, 3.0, 3), ("decay", True, 2.0, 0.2)]
)
def test_a_number_keeps_its_type(monkeypatch, attribute, factor, value, changed):
    of = {"low": 1.0, "high": 8.0, "schedule": "uniform", "needs": "a number", "attribute": attribute}
    parameter = envs.Attribute(name="own", meaning="", unit="1", lowest=0.0, highest=10.0, **of)
    monkeypatch.setitem(envs.PARAMETERS, "own", parameter)
    base = Counting(box())
    before = getattr(base, attribute)
    env = envs.NonStationary(base, "own", {"name": "constant", "value": value}, factor=factor)
    env.reset()
    env.step(None)
    assert getattr(base, attribute) == type(before)(changed)
    assert type(getattr(base, attribute)) is type(before)
    env.set_value("own", 2.5)
    assert getattr(base, attribute) == 2.5 * (before if factor else 1)  # which no integer is
    env.close()
    assert getattr(base, attribute) == before
    assert type(getattr(base, attribute)) is type(before)


def test_a_value_of_which_the_environment_makes_another_is_an_error(monkeypatch):
    class Clips(World):
        _speed = 0.5

        @property
        def speed(self):
            return self._speed

        @speed.setter
        def speed(self, value):
            self._speed = float(np.float16(min(value, 1.0)))

    options = {"meaning": "speed", "unit": "m/s", "lowest": 0.0, "highest": 9.0, "low": 0.1, "high": 5.0}
    speed = envs.Attribute(name="speed", schedule="uniform", needs="a speed", attribute="speed", **options)
    monkeypatch.setitem(envs.PARAMETERS, "speed", speed)
    env = envs.NonStationary(Clips(box()), "speed", {"name": "list", "values": [0.3, 4.0]}, period=2, change_at="now")
    env.reset()
    env.step(None)
    env.step(None)
    with pytest.raises(envs.EffectError, match="Clips makes 1 of 'speed' where it is to be 4"):
        env.step(None)


def test_what_an_environment_does_not_have_is_refused():
    with pytest.raises(envs.ParameterError, match="pole_length needs a pole on a cart, which World lacks"):
        envs.NonStationary(World(box()), "pole_length")
    with pytest.raises(envs.ParameterError, match="no parts"):
        envs.NonStationary(gymnasium.make("CartPole-v1"), "pole_length:upper")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Box2D's
@pytest.mark.parametrize("name", ["lander_wind", "lander_turbulence"])
def test_the_wind_of_a_lander_changes(name):
    pytest.importorskip("Box2D")
    pytest.importorskip("pygame")
    seen = envs.verify(gymnasium.make("LunarLander-v3", enable_wind=True), name)[0]
    assert seen.parted >= 1
    with pytest.raises(envs.ParameterError, match=f"{name} needs .* with enable_wind=True, which LunarLander-v3 lacks"):
        envs.NonStationary(gymnasium.make("LunarLander-v3"), name)
    with pytest.raises(envs.ParameterError, match=r"cannot be saved of LunarLander\.world"):
        envs.save_state(envs.NonStationary(gymnasium.make("LunarLander-v3", enable_wind=True), name))


class ScalesInPlace(gymnasium.Env):
    """Scales its action in place, and says what it received."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action):
        received = float(action[0])
        action *= 2
        return np.array([received]), 0.0, False, False, {}


def test_delayed_actions_are_the_agents_whatever_the_environment_does_with_them():
    delays = {"name": "list", "values": [0, 1, 2]}
    env = envs.NonStationary(ScalesInPlace(), "action_delay", delays, period=3, change_at="now")
    env.reset(seed=0)
    received = [float(env.step(np.array([action]))[0][0]) for action in (1.0, 2, 3, 4, 5, 6, 7, 8, 9)]
    # Three steps each with a delay of 0, 1 and 2.
    assert received == [1, 2, 3, 3, 4, 5, 5, 6, 7]
