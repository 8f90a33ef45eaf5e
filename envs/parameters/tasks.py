"""Parameters of Gymnasium's classic-control and Box2D environments: numbers among their attributes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from envs.attributes import TriedAttribute
from envs.effects import Parameter


def _cart(cart: Any) -> dict[str, float]:
    """What CartPole computes from its masses and its length when it is made."""
    return {"total_mass": cart.masspole + cart.masscart, "polemass_length": cart.masspole * cart.length}


_of = partial(
    TriedAttribute,
    lowest=1e-6,  # ours
    highest=math.inf,
    low=0.5,  # ours
    high=2.0,
    schedule="log_uniform",
    by_factor=True,
)
_of_cart_pole = partial(_of, of="CartPoleEnv", needs="Gymnasium's CartPole", follow=_cart)
_of_pendulum = partial(_of, of="PendulumEnv", needs="Gymnasium's Pendulum")
_of_acrobot = partial(_of, of="AcrobotEnv", needs="Gymnasium's Acrobot")
_of_lander = partial(
    _of,
    of="LunarLander",
    used=lambda lander: lander.enable_wind,
    lowest=0.0,
    low=0.0,
    schedule="uniform",
    by_factor=False,
    unit="1",
    needs="Gymnasium's LunarLander with enable_wind=True",
)

PARAMETERS: tuple[Parameter, ...] = (
    _of_cart_pole(name="cart_mass", meaning="mass of the cart", unit="kg", attribute="masscart"),
    _of_cart_pole(name="cart_pole_mass", meaning="mass of the pole", unit="kg", attribute="masspole"),
    _of_cart_pole(name="cart_pole_length", meaning="half the length of the pole", unit="m", attribute="length"),
    _of_cart_pole(name="cart_force", meaning="force of a push against the cart", unit="N", attribute="force_mag"),
    _of_cart_pole(name="cart_gravity", meaning="gravity", unit="m/s²", attribute="gravity"),
    _of_pendulum(name="pendulum_mass", meaning="mass of the pendulum", unit="kg", attribute="m"),
    _of_pendulum(name="pendulum_length", meaning="length of the pendulum", unit="m", attribute="l"),
    _of_pendulum(name="pendulum_gravity", meaning="gravity", unit="m/s²", attribute="g"),
    *(
        _of_acrobot(name=f"acrobot_mass_{link}", meaning=f"mass of link {link}", unit="kg", attribute=f"LINK_MASS_{link}")
        for link in (1, 2)
    ),
    _of(
        name="car_force",
        meaning="force of the engine",
        unit="1",
        of="MountainCarEnv",
        needs="Gymnasium's MountainCar",
        attribute="force",
    ),
    _of(
        name="car_gravity",
        meaning="gravity",
        unit="1",
        of="MountainCarEnv",
        needs="Gymnasium's MountainCar",
        attribute="gravity",
    ),
    _of(
        name="car_power",
        meaning="power of the engine",
        unit="1",
        of="Continuous_MountainCarEnv",
        needs="Gymnasium's MountainCarContinuous",
        attribute="power",
    ),
    _of_lander(name="lander_wind", meaning="greatest force of the wind", highest=20.0, high=20.0, attribute="wind_power"),
    _of_lander(
        name="lander_turbulence", meaning="greatest torque of the wind", highest=2.0, high=2.0, attribute="turbulence_power"
    ),
)
"""The parameters of these environments."""
