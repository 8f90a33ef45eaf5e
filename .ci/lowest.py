"""Installs the lowest versions that setup.cfg allows into a new environment, and runs the quick start on them.

``python .ci/lowest.py [--keep PACKAGE …] [--folder DIR]``

What is kept is installed in the version of constraints.txt: PyTorch, where its lowest version is to be had with gigabytes of
CUDA only.
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
    parser.add_argument("--keep", nargs="+", default=[], metavar="PACKAGE")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    folder = (args.folder or Path(tempfile.mkdtemp())).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    pins = lowest(args.keep)
    print("\n".join(pins), flush=True)
    (folder / "lowest.txt").write_text("\n".join(pins))
    # One call, so that what the packages themselves need fits them all.
    run([python, "-m", "pip", "install", "--constraint", folder / "lowest.txt", f"{ROOT}[test,data]"], folder)
    run([python, "-m", "agents.train", *SMALL.split()], folder)
    run([python, "-m", "agents.train", "--resume", "run"], folder)
    # Old packages beside new ones use what is deprecated; MuJoCo before 3.14 does not limit the force of a tendon's actuators.
    pytest = [python, "-m", "pytest", "-m", "not slow and not soak", "-n", "auto", "-W", "ignore::DeprecationWarning"]
    limited = "tests/envs/test_parameters.py::test_strength_also_scales_forces_at_their_limits_and_those_of_tendons"
    run([*pytest, "tests/cbp", "tests/envs", "--deselect", limited], ROOT)
    run([*pytest, "tests/agents/sb3/test_policies.py", "tests/agents/test_train.py", "tests/test_readme.py"], ROOT)


def lowest(keep: list[str]) -> list[str]:
    """A version for each package that setup.cfg requires: the lowest, or that of constraints.txt for those to keep."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    required = re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)", config["options"]["install_requires"], re.MULTILINE)
    tested = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    return [f"{name}=={tested[name] if name in keep else version}" for name, version in required]


def run(command: list[str | Path], folder: Path) -> None:
    """Runs a command in a folder."""
    print("$", *command, flush=True)
    code = subprocess.run(command, cwd=folder, check=False).returncode  # noqa: S603
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
