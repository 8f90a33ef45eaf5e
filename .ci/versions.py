"""Installs the lowest or the newest versions that setup.cfg allows into a new environment, and runs the tests on them.

``python .ci/versions.py lowest|newest [--keep PACKAGE …] [--folder DIR]``

What is kept is installed in the version of constraints.txt: PyTorch, where another version is to be had with gigabytes of CUDA
only.
"""

from __future__ import annotations

import argparse
import configparser
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMALL = "--env ant-nonstationary --timesteps 2048 --n-envs 4 --set rollout_steps=512 --set net_arch=[16] --run-dir run"


def main() -> None:
    """Stops at the first thing that fails, with its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=["lowest", "newest"])
    parser.add_argument("--keep", nargs="+", default=[], metavar="PACKAGE")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    folder = (args.folder or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    pins = pinned(args.keep, lowest=args.which == "lowest")
    print("\n".join(pins), flush=True)
    (folder / "pins.txt").write_text("\n".join(pins))
    # One call, so that what the packages themselves need fits them all.
    extras = "test,data" if args.which == "lowest" else "data,sweep,video,worlds,test"
    run([python, "-m", "pip", "install", "--constraint", folder / "pins.txt", "--editable", f"{ROOT}[{extras}]"], folder)
    run([python, "-m", "agents.train", *SMALL.split()], folder)
    run([python, "-m", "agents.train", "--resume", "run"], folder)
    pytest = [python, "-m", "pytest", "-m", "not slow and not soak", "-n", "auto", "--dist", "loadfile"]
    if args.which == "newest":
        run(pytest, ROOT)
        return
    # Old packages beside new ones use what is deprecated; MuJoCo before 3.14 does not limit the force of a tendon's actuators.
    pytest += ["-W", "ignore::DeprecationWarning"]
    limited = "tests/envs/test_parameters.py::test_strength_also_scales_forces_at_their_limits_and_those_of_tendons"
    run([*pytest, "tests/cbp", "tests/envs", "--deselect", limited], ROOT)
    run([*pytest, "tests/agents/sb3/test_policies.py", "tests/agents/test_train.py", "tests/test_readme.py"], ROOT)


def pinned(keep: list[str], *, lowest: bool) -> list[str]:
    """The versions of what setup.cfg requires: that of constraints.txt for those to keep, the lowest of others if asked for."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    required = re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)", config["options"]["install_requires"], re.MULTILINE)
    tested = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    return [f"{name}=={tested[name] if name in keep else version}" for name, version in required if lowest or name in keep]


def run(command: list[str | Path], folder: Path) -> None:
    """Runs a command in a folder."""
    print("$", *command, flush=True)
    code = subprocess.run(command, cwd=folder, check=False).returncode  # noqa: S603
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
