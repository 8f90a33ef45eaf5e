"""Parameters of one's own: numbers of environments that no MuJoCo simulates."""

from __future__ import annotations

import copy
import math
import pickle

import gymnasium
import numpy as np
import pytest
from worlds import World, box

import envs


def follow_pole(cart):
    return {"polemass_length": cart.masspole * cart.length}


def follow_cart(cart):
    return {"total_mass": cart.masspole + cart.masscart}


OWN = {
    "lowest": 0.001,
    "highest": math.inf,
    "schedule": "log_uniform",
    "needs": "a pole on a cart",
    "unit": "m",
    "meaning": "its",
}
PARAMETERS = [
    envs.Attribute(name="pole_length", low=0.25, high=1.0, attribute="length", follow=follow_pole, **OWN),
    envs.Attribute(name="cart_mass", low=0.5, high=2.0, attribute="masscart", follow=follow_cart, by_factor=True, **OWN),
    envs.Attribute(name="wind_power", low=1.0, high=20.0, attribute="wind_power", **(OWN | {"needs": "a lander"})),
]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    for parameter in PARAMETERS:
        monkeypatch.setitem(envs.PARAMETERS, parameter.name, parameter)


def trajectory(env, steps=60):
    env.reset(seed=0)
    seen = []
    for step in range(steps):
        observation, _, terminated, _, _ = env.step(step % 2)
        seen.append(observation)
        if terminated:
            env.reset()
    return np.array(seen)


def test_a_pole_of_another_length_and_mass_is_the_one_that_is_made_so():
    made = gymnasium.make("CartPole-v1")
    cart = made.unwrapped
    cart.length, cart.masscart = 0.8, 1.5 * cart.masscart
    cart.polemass_length, cart.total_mass = cart.masspole * 0.8, cart.masspole + cart.masscart
    parameter = {"pole_length": {"low": 0.8, "high": 0.8}, "cart_mass": {"low": 1.5, "high": 1.5}}
    env = envs.NonStationary(gymnasium.make("CartPole-v1"), parameter)
    np.testing.assert_array_equal(trajectory(env), trajectory(made))
    assert env.reach["pole_length"] == {"env.length": [], "env.polemass_length": []}
    env.close()
    np.testing.assert_array_equal(trajectory(env.env), trajectory(gymnasium.make("CartPole-v1")))


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


def test_what_an_environment_does_not_have_is_refused():
    with pytest.raises(envs.ParameterError, match="pole_length needs a pole on a cart, which World lacks"):
        envs.NonStationary(World(box()), "pole_length")
    with pytest.raises(envs.ParameterError, match="no parts"):
        envs.NonStationary(gymnasium.make("CartPole-v1"), "pole_length:upper")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Box2D's
def test_the_wind_of_a_lander_changes():
    pytest.importorskip("Box2D")
    seen = envs.verify(gymnasium.make("LunarLander-v3", enable_wind=True), "wind_power")[0]
    assert seen.parted >= 1
    with pytest.raises(envs.EffectError, match="wind_power has no effect on LunarLander-v3"):
        envs.verify(gymnasium.make("LunarLander-v3"), "wind_power")
    with pytest.raises(envs.ParameterError, match=r"cannot be saved of LunarLander\.world"):
        envs.save_state(envs.NonStationary(gymnasium.make("LunarLander-v3", enable_wind=True), "wind_power"))
