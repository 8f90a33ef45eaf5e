"""What other packages' changing worlds do: seen by running those that are installed, for the table in ``docs/environments.md``.

``python benchmarks/changing_worlds.py``, seconds. Wants ``ns-gym``, ``carl-bench`` with ``ConfigSpace``, and ``dm-control``;
says which are not there.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

import envs


def frictions(data: Any) -> set[float]:
    """The sliding frictions of the contacts that there are."""
    return {round(float(data.contact[i].friction[0]), 3) for i in range(data.ncon)}


def ours() -> list[str]:
    """The same Hopper as :func:`ns_gym`'s."""
    values = {"name": "list", "values": [0.5, 0.3]}
    env = envs.NonStationary(gymnasium.make("Hopper-v5"), "friction", values, period=30, change_at="now")
    observation, _ = env.reset(seed=0)
    seen: dict[float, set[float]] = {}
    for _ in range(60):
        info = env.step(np.zeros(3))[4]
        seen.setdefault(info["friction"], set()).update(frictions(env.unwrapped.data))
    after = env.reset()[1]["friction"]
    return [f"friction: contacts {seen}; observation {type(observation).__name__}; after reset {after}"]


def ns_gym() -> list[str]:
    """Lowers the friction of a Hopper's floor."""
    schedulers, updates, wrappers = (
        importlib.import_module(f"ns_gym.{name}") for name in ("schedulers", "update_functions", "wrappers")
    )
    base = gymnasium.make("Hopper-v5")
    change = updates.DeterministicTrend(schedulers.ContinuousScheduler(), slope=-0.0005)
    env = wrappers.MujocoWrapper(base, {"floor_friction": change})
    observation, _ = env.reset(seed=0)
    seen = set()
    for _ in range(60):
        env.step(np.zeros(3))
        seen |= frictions(base.unwrapped.data)
    floor = base.unwrapped.model.geom_friction[0, 0]
    env.reset()
    after = base.unwrapped.model.geom_friction[0, 0]
    return [f"floor {floor:.2f}: contacts {seen}; observation {type(observation).__name__}; after reset {after:.2f}"]


def carl() -> list[str]:
    """Gives a CartPole two lengths."""
    cart_pole = importlib.import_module("carl.envs.gymnasium.classic_control").CARLCartPole
    env = cart_pole(contexts={0: {"length": 0.5}, 1: {"length": 0.9}})
    observation, _ = env.reset()
    lengths = [env.unwrapped.length]
    for _ in range(2):
        env.reset()
        lengths.append(env.unwrapped.length)
    return [f"lengths of three episodes {lengths}; observation {type(observation).__name__}"]


def dm_control() -> list[str]:
    """Varies the friction of one geom from episode to episode."""
    mjcf = importlib.import_module("dm_control.mjcf")
    variation = importlib.import_module("dm_control.composer.variation")
    root = mjcf.RootElement()
    floor = root.worldbody.add("geom", type="plane", size=[5, 5, 1])
    body = root.worldbody.add("body", pos=[0, 0, 0.1])
    body.add("freejoint")
    body.add("geom", type="box", size=[0.1, 0.1, 0.1])
    variator = variation.MJCFVariator()
    variator.bind_attributes(floor, friction=[0.2, 0.005, 0.0001])
    variator.apply_variations(np.random.RandomState(0))
    physics = mjcf.Physics.from_mjcf_model(root)
    physics.step()
    return [f"floor {floor.friction[0]}: contacts {frictions(physics.data.ptr)}"]


def main() -> None:
    """Runs and prints."""
    packages: dict[str, Callable[[], list[str]]] = {"ns-gym": ns_gym, "carl-bench": carl, "dm-control": dm_control}
    print("ours:", *ours())
    for name, run in packages.items():
        try:
            print(f"{name} {importlib.metadata.version(name)}:", *run())
        except ImportError as error:
            print(f"{name}: not here ({error})")


if __name__ == "__main__":
    main()
