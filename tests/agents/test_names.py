"""Where another package, or a folder of the user's, is called `agents`, `envs` or `cbp`, a line says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POLICY = "import agents, cbp\nfrom stable_baselines3 import PPO\nPPO('CBPMlpPolicy', 'Pendulum-v1')"


@pytest.fixture
def installed(tmp_path):
    """A folder with the packages, as pip leaves them."""
    for package in ("agents", "cbp", "envs"):
        shutil.copytree(ROOT / package, tmp_path / "installed" / package, ignore=shutil.ignore_patterns("*.nb?", "*.tmp.*"))
    return tmp_path / "installed"


@pytest.fixture
def python(installed, tmp_path):
    """Runs Python in the user's folder."""
    (tmp_path / "project").mkdir()

    def run(*arguments, path=installed):
        environment = {**os.environ, "PYTHONPATH": str(path)}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path / "project", env=environment, capture_output=True, text=True, check=False)

    return run


def write(path, text=""):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("file", ["envs/__init__.py", "envs.py", "cbp/__init__.py", "cbp.py"])
def test_a_command_ends_with_a_line_that_names_the_users_file(python, tmp_path, file):
    found = write(tmp_path / "project" / file)
    name = found.relative_to(tmp_path / "project").parts[0].removesuffix(".py")
    done = python("-m", "agents.train", "--list-envs")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: '{name}' is {found}, not that of continual-backprop: rename it, ")
    assert done.stderr.count("\n") == 1
    done = python("-c", "import agents")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: '{name}' is {found}, not that of")


def test_the_way_out_that_the_line_names_leads_out(python, tmp_path):
    write(tmp_path / "project" / "envs.py")
    assert "(python -P)" in python("-m", "agents.train", "--list-envs").stderr
    done = python("-P", "-m", "agents.train", "--list-envs")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_folder_without_init_stands_in_the_way_of_an_editable_install_alone(python, installed, tmp_path):
    (tmp_path / "project" / "envs").mkdir()
    assert python("-m", "agents.train", "--list-envs").returncode == 0
    # An editable install is asked last of all, when Python has found the folder already.
    finder = f"""
import sys
from importlib.machinery import PathFinder
class Finder:
    def find_spec(self, name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(installed)!r}]) if path is None else None
sys.meta_path.append(Finder())
import agents
"""
    done = python("-c", finder, path="")
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: 'envs' is {tmp_path / 'project' / 'envs'}, not that of")


def test_importing_cbp_warns_of_the_users_folders(python, tmp_path):
    agents = write(tmp_path / "project" / "agents" / "__init__.py")
    envs = write(tmp_path / "project" / "envs.py")
    done = python("-c", "import cbp")
    assert done.returncode == 0
    first, second = (line for line in done.stderr.splitlines() if "Warning" in line)
    assert f"UserWarning: 'agents' is {agents}, not that of continual-backprop: rename it" in first
    assert f"UserWarning: 'envs' is {envs}, not that of continual-backprop: rename it" in second


def test_the_unknown_policy_is_explained(python, tmp_path):
    found = write(tmp_path / "project" / "agents" / "__init__.py")
    done = python("-c", POLICY)
    assert f"UserWarning: 'agents' is {found}, not that of continual-backprop: rename it" in done.stderr
    assert done.stderr.splitlines()[-1] == "ValueError: Policy CBPMlpPolicy unknown"


@pytest.mark.slow
def test_a_package_that_was_installed_over_ours_is_noticed_and_so_is_what_it_leaves(python, installed):
    init = installed / "agents" / "__init__.py"
    write(init, "from agents.agent import Agent\n")
    write(installed / "agents" / "agent.py", "Agent = object\n")
    for found in (init, init.parent):
        done = python("-m", "agents.train", "--list-envs")
        assert done.returncode == 0  # the command's own files are there
        assert f"UserWarning: 'agents' is {found}, not that of continual-backprop: rename it" in done.stderr
        init.unlink(missing_ok=True)


@pytest.mark.slow
def test_without_others_nothing_is_said_and_neither_by_cbp_alone(python, installed, tmp_path):
    code = "import agents, cbp, envs"
    assert python("-W", "error", "-c", "import cbp").stderr == ""
    assert python("-c", code).stderr == ""
    write(tmp_path / "project" / "envs.py")
    write(tmp_path / "project" / "agents.py")
    for package in ("agents", "envs"):
        shutil.rmtree(installed / package)
    assert python("-W", "error", "-c", "import cbp").stderr == ""


@pytest.mark.slow
def test_nor_where_agents_and_envs_cannot_be_used(python, tmp_path):
    write(tmp_path / "project" / "envs.py")
    hide = "import sys; sys.modules['gymnasium'] = None; import cbp"
    assert "UserWarning" in python("-c", "import cbp").stderr
    assert python("-c", hide).stderr == ""
