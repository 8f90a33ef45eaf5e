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
    times = {"name": "geometric", "mean": 10}
    random = envs.NonStationary(gymnasium.make("Hopper-v5"), "friction", period=times, change_at="now", seed=0)
    random.reset(seed=0)
    began = [step for step in range(60) if random.step(np.zeros(3))[4]["changed"]]
    return [
        f"friction: contacts {seen}; observation {type(observation).__name__}; after reset {after}",
        f"random times: {began}",
        f"a mass of -1: {_refused(lambda: envs.NonStationary(gymnasium.make('Hopper-v5'), 'mass', low=-1))}",
        f"an unknown name: {_refused(lambda: envs.NonStationary(gymnasium.make('Hopper-v5'), 'nonsense'))}",
    ]


def _refused(make: Callable[[], Any]) -> str:
    """How something is refused; or that it is not."""
    try:
        make()
    except Exception as error:
        return f"refused, {type(error).__name__}: {str(error)[:80]}"
    return "accepted"


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
    trend = updates.DeterministicTrend(schedulers.RandomScheduler(probability=0.1), slope=-0.01)
    random = wrappers.MujocoWrapper(gymnasium.make("Hopper-v5"), {"floor_friction": trend})
    random.reset(seed=0)
    floors = []
    for _ in range(60):
        random.step(np.zeros(3))
        floors.append(random.unwrapped.model.geom_friction[0, 0])
    unknown = _refused(lambda: wrappers.MujocoWrapper(gymnasium.make("Hopper-v5"), {"nonsense": change}))
    return [
        f"floor {floor:.2f}: contacts {seen}; observation {type(observation).__name__}; after reset {after:.2f}",
        f"random times: {np.flatnonzero(np.diff(floors)).tolist()}",
        f"an unknown name: {unknown}",
    ]


def carl() -> list[str]:
    """Gives a CartPole two lengths."""
    cart_pole = importlib.import_module("carl.envs.gymnasium.classic_control").CARLCartPole
    env = cart_pole(contexts={0: {"length": 0.5}, 1: {"length": 0.9}})
    observation, _ = env.reset()
    lengths = [env.unwrapped.length]
    for _ in range(2):
        env.reset()
        lengths.append(env.unwrapped.length)
    within = set()
    for _ in range(5):
        env.step(0)
        within.add(env.unwrapped.length)
    return [
        f"lengths of three episodes {lengths}, within one {within}; observation {type(observation).__name__}",
        f"a mass of -1: {_refused(lambda: cart_pole(contexts={0: {'masscart': -1.0}}).reset())}",
        f"an unknown name: {_refused(lambda: cart_pole(contexts={0: {'nonsense': 1.0}}).reset())}",
    ]


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
    seen = f"floor {floor.friction[0]}: contacts {frictions(physics.data.ptr)}"
    return [seen, f"an unknown name: {_refused(lambda: variator.bind_attributes(floor, nonsense=1.0))}"]


def main() -> None:
    """Runs and prints."""
    packages: dict[str, Callable[[], list[str]]] = {"ns-gym": ns_gym, "carl-bench": carl, "dm-control": dm_control}
    print("ours:", *ours(), sep="\n  ")
    for name, run in packages.items():
        try:
            print(f"{name} {importlib.metadata.version(name)}:", *run(), sep="\n  ")
        except ImportError as error:
            print(f"{name}: not here ({error})")


if __name__ == "__main__":
    main()
