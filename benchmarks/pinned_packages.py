"""Tries robosuite, MyoSuite and metaworld, each in a virtual environment of its own, since they want an older MuJoCo.

``python benchmarks/pinned_packages.py [PACKAGE …] [--into DIR]``, minutes. Plays one environment of each package, for what
``docs/environments.md`` says of it. Every parameter is verified: it acts, is refused in words, or is said to have no effect.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = {
    "robosuite": ["robosuite==1.5.2", "h5py", "mujoco==3.3.6", "gymnasium[mujoco]>=1.1,<2", "numba"],
    "myosuite": ["myosuite", "gymnasium[mujoco]>=1.1,<2", "numba"],
    "metaworld": ["metaworld", "packaging", "mujoco==3.3.6", "gymnasium[mujoco]>=1.1,<2", "numba"],
}
STEPS = 15


def robosuite(hard_reset: bool = False) -> Any:
    """A Panda that lifts a cube. By default it is rebuilt in each reset, which takes a second."""
    suite, wrappers = importlib.import_module("robosuite"), importlib.import_module("robosuite.wrappers")
    options = {"has_renderer": False, "has_offscreen_renderer": False, "use_camera_obs": False, "hard_reset": hard_reset}
    lift = suite.make("Lift", robots="Panda", **options)
    return _as_gymnasiums(wrappers.GymWrapper(lift))


def myosuite() -> Any:
    """An elbow with its muscles."""
    importlib.import_module("myosuite")
    gymnasium = importlib.import_module("gymnasium")
    return gymnasium.make("myoElbowPose1D6MRandom-v0")


def metaworld() -> Any:
    """A Sawyer that opens a drawer."""
    importlib.import_module("metaworld")
    gymnasium = importlib.import_module("gymnasium")
    return gymnasium.make("Meta-World/MT1", env_name="drawer-open-v3", seed=0)


def modder() -> str:
    """What robosuite's own modder makes of the contacts of a cube."""
    suite, modders = importlib.import_module("robosuite"), importlib.import_module("robosuite.utils.mjmod")
    numpy = importlib.import_module("numpy")
    lift = suite.make("Lift", robots="Panda", has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False)
    lift.reset()
    dynamics = modders.DynamicsModder(sim=lift.sim, random_state=numpy.random.RandomState(0))
    dynamics.mod("cube_g0", "friction", numpy.array([0.3, 0.005, 0.0001]))
    dynamics.update()
    cube, data = lift.sim.model.geom_name2id("cube_g0"), lift.sim.data._data
    for _ in range(20):
        lift.step(numpy.zeros(lift.action_dim))
    contacts = (data.contact[i] for i in range(data.ncon))
    found = {round(float(contact.friction[0]), 3) for contact in contacts if cube in (contact.geom1, contact.geom2)}
    return f"robosuite's modder: the cube {lift.sim.model.geom_friction[cube][0]}, its contacts {found}"


def _as_gymnasiums(inner: Any) -> Any:
    """What robosuite wraps, as an environment of Gymnasium's."""
    gymnasium = importlib.import_module("gymnasium")

    class Lift(gymnasium.Env):  # type: ignore[misc, name-defined]
        observation_space, action_space = inner.observation_space, inner.action_space

        @property
        def sim(self) -> Any:
            return inner.env.sim

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:  # noqa: ARG002
            return inner.reset(seed=seed)

        def step(self, action: Any) -> Any:
            return inner.step(action)

    return Lift()


MAKERS: dict[str, Callable[[], Any]] = {"robosuite": robosuite, "myosuite": myosuite, "metaworld": metaworld}


def play(name: str) -> None:
    """Verifies every parameter on the environment of a package, and prints what is seen."""
    import importlib.metadata

    import mujoco
    import numpy as np

    import envs
    from envs.simulation import find_data, find_model

    def trajectory(env: Any) -> Any:
        env.reset(seed=0)
        env.action_space.seed(0)
        seen = []
        for _ in range(STEPS):
            env.step(env.action_space.sample())
            data = find_data(env)
            seen.append(np.concatenate((data.qpos, data.qvel)))  # type: ignore[union-attr]
        return np.array(seen)

    acting, refused, without, env = [], [], [], MAKERS[name]()
    for parameter in (each.name for each in envs.PARAMETERS.values() if not getattr(each, "of", "")):
        try:
            acting.append(str(envs.verify(env, parameter, steps=STEPS)[0]))
        except envs.ParameterError as error:
            refused.append(f"{parameter}: {error}")
        except envs.EffectError as error:
            without.append(str(error))
    print(f"{name} {importlib.metadata.version(name)}, MuJoCo {mujoco.__version__}, NumPy {np.__version__}")
    for kind, lines in (("act", acting), ("refused", refused), ("no effect", without)):
        print(f"  {kind}: {len(lines)}")
        print(*(f"    {line}" for line in lines), sep="\n")
    repeats = np.array_equal(trajectory(MAKERS[name]()), trajectory(MAKERS[name]()))
    same = {"schedule": {"name": "constant", "value": 1.0}, "factor": True}
    kept = np.array_equal(trajectory(envs.NonStationary(MAKERS[name](), {"mass": same})), trajectory(MAKERS[name]()))
    print(f"  two plain ones are the same to the bit: {repeats}; mass × 1 leaves the trajectory alone to the bit: {kept}")
    if name == "robosuite":
        print(f"  {modder()}")
        rebuilt = envs.NonStationary(robosuite(hard_reset=True), "mass", low=2.0, high=2.0)
        model, own = find_model(rebuilt), find_model(robosuite())
        moving = own.body_weldid > 0
        rebuilt.reset(seed=0)
        model, before = find_model(rebuilt), model
        share = model.body_mass[moving].sum() / own.body_mass[moving].sum()
        print(
            f"  a reset builds another model: {model is not before}; with mass × 2 it has {share:.6g} times the mass that moves"
        )
    try:
        envs.save_state(env)
        print("  its state can be saved")
    except envs.ParameterError as error:
        print(f"  {error}")


def main() -> int:
    """Installs and plays. Returns 1 where a package could not be installed or played."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"{', '.join(MAKERS)} (default: all)")
    parser.add_argument("--into", type=Path, metavar="DIR", help="where to make, and find again, the virtual environments")
    parser.add_argument("--play", choices=MAKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.play:
        play(args.play)
        return 0
    if unknown := set(args.packages) - set(MAKERS):
        parser.error(f"PACKAGE must be one of {', '.join(MAKERS)}, got {', '.join(sorted(unknown))}")
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.packages or MAKERS:
            place = (args.into or Path(temporary)) / name
            python = place / "bin" / "python"
            if not python.exists():
                venv.create(place, with_pip=True)
                subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]], check=True)
            env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
            failed += bool(subprocess.run([python, __file__, "--play", name], env=env, check=False).returncode)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
