"""Nothing needs a POSIX system: what can be tried of Windows on another system, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from agents.runs.errors import UserError
from agents.runs.run_folder import FolderInUseError, RunFolder

# What Python on Windows lacks, as far as this package and those that it needs do not ask which system they are on; there, text
# has not UTF-8 for its default and a folder cannot be opened.
AS_ON_WINDOWS = """
import os, signal, sys, warnings

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

{THIRD_PARTY}
for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Refuse())
for name in ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pause", "pthread_sigmask"):
    delattr(signal, name)
for name in ("O_DIRECTORY", "fchmod", "fork", "getuid", "killpg", "sched_getaffinity", "setsid", "sync"):
    delattr(os, name)
os_open = os.open

def open_no_folder(path, flags, *arguments, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))
    return os_open(path, flags, *arguments, **options)

os.open = open_no_folder
warnings.filterwarnings("ignore", "only soft file lock is available")
warnings.filterwarnings("error", category=EncodingWarning, module=r"(agents|cbp|envs)\\b")
"""


def run_as_on_windows(code, folder):
    # Packages of others, which ask what system they are on, are imported first.
    third_party = "import gymnasium, mujoco, numba, scipy.linalg, stable_baselines3, torch, matplotlib.pyplot, tensorboard"
    script = AS_ON_WINDOWS.replace("{THIRD_PARTY}", third_party) + textwrap.dedent(code)
    environment = {**os.environ, "PYTHONWARNDEFAULTENCODING": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_all_is_imported_and_a_run_trained_resumed_and_kept_from_others_without_what_windows_lacks(tmp_path):
    code = """
    import importlib, pkgutil
    for package in map(importlib.import_module, ("cbp", "envs", "agents")):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
            print(module.name, file=open("imported", "a", encoding="utf-8"))
    from pathlib import Path
    from agents import train
    from agents.runs.run_folder import FolderInUseError, RunFolder
    small = "--timesteps 512 --n-envs 2 --set rollout_steps=256 --set net_arch=[8] --run-dir run".split()
    assert train.main(["--env", "ant-nonstationary", *small]) == 0
    Path("run/summary.json").unlink()
    assert train.main(["--resume", "run"]) == 0
    with RunFolder(Path("run")).locked():
        assert train.main(["--resume", "run"]) == 2
    """
    run_as_on_windows(code, tmp_path)
    assert len((tmp_path / "imported").read_text().split()) > 40
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["complete"]


@pytest.mark.slow
def test_what_a_pipe_of_windows_cannot_show_is_replaced(tmp_path):
    command = [sys.executable, "-m", "agents.train", "--list-parameters", "Hopper-v5"]
    listed = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, capture_output=True, check=False)
    assert listed.returncode == 0, listed.stderr
    assert b"0 to ?" in listed.stdout


# The lock of a run folder


def test_the_lock_excludes_within_a_process_too_and_stays_as_a_file(tmp_path):
    folder = RunFolder(tmp_path)
    for _ in range(2):
        with folder.locked(), pytest.raises(FolderInUseError, match="another process is training in"), folder.locked():
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_killed_process_frees_the_lock(tmp_path):
    code = """
from pathlib import Path
from agents.runs.run_folder import RunFolder
with RunFolder(Path()).locked():
    print("held", flush=True)
    input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError), RunFolder(tmp_path).locked():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with RunFolder(tmp_path).locked():
        pass


def test_a_folder_that_cannot_be_written_is_refused_in_a_line(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match=r"^cannot write to run folder '.*': Is a directory$"), RunFolder(tmp_path).locked():
        pass
