"""The runs of a sweep as tasks of Ray: handed out, watched, taken up again when a worker is lost."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from agents.runs import checkpoint_files
from agents.runs.commands import handled, show_warning
from agents.runs.config import Config, read_config
from agents.runs.errors import RunError, UserError
from agents.runs.modules import import_modules
from agents.runs.plan import Run, check_same, inspect
from agents.runs.run_folder import FolderInUseError, RunFolder
from agents.runs.training import resume
from agents.supervised.build import together
from agents.supervised.config import LearningConfig
from agents.supervised.job import learn_all

_LOSSES = 3  # so many losses of a run's worker in a row, without a checkpoint between, end the run
_POLL_SECONDS = 1.0


def start_ray(address: str | None) -> ModuleType:
    """Joins a cluster, or starts Ray on this machine, open to nobody else.

    Raises:
        UserError: A package is missing, there is no cluster at the address, or Ray does not start.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on any system, lets Ray listen on the loopback address only
        options |= {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    try:
        import ray
        import rich  # noqa: F401
    except ImportError as error:
        raise UserError(f"a sweep needs '{error.name}': pip install 'continual-backprop[sweep]'") from error
    try:
        with _hangup_ignored():
            ray.init(address=address or "local", **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if address is None:
            way_out = "; RAY_TMPDIR=/tmp gives its sockets a short one" if "AF_UNIX" in reason else ""
            raise UserError(f"Ray does not start: {reason}{way_out}") from error
        raise UserError(f"no Ray cluster at '{address}': {reason}") from error
    return ray


@contextmanager
def _hangup_ignored() -> Iterator[None]:
    """Ray's processes inherit it and outlive the closing of the terminal, so that the sweep can let their runs save."""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(hangup, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(hangup, before)


def check_room(ray: ModuleType, threads: int, device: str) -> None:
    """Refuses runs that would wait for ever; nodes that have no cores may be waiting for others to come."""
    nodes = _nodes(ray, device)
    if device == "cuda" and not nodes:
        raise UserError("device 'cuda' cannot be used: no node of the cluster has a GPU")
    check_cores(max(cores for cores, _ in nodes), threads)


def _nodes(ray: ModuleType, device: str) -> list[tuple[int, int]]:
    """The cores and GPUs of each node that has the device."""
    nodes = [(int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0))) for node in ray.nodes()]
    return [(cores, gpus) for cores, gpus in nodes if gpus or device != "cuda"]


def check_cores(cores: int, threads: int) -> None:
    """Refuses more threads than a node has cores."""
    if 0 < cores < threads:
        raise UserError(f"threads must be at most the {cores} cores of a node, got {threads}")


def run_all(ray: ModuleType, runs: list[Run], log: Path) -> None:
    """Trains what is not complete, with a live table on the screen; what Ray itself prints goes to the ``log``."""
    from agents.sweeping.live_table import LiveTable  # needs the extra

    groups = _groups(runs)
    first, threads = groups[0][0].config, groups[0][0].config.threads or 1
    share = share_of_a_gpu(_nodes(ray, "cuda"), threads, len(groups)) if first.device == "cuda" else 0.0
    # A process that has used one GPU keeps it, so that it cannot be given another.
    task = ray.remote(num_cpus=1, max_retries=0, max_calls=1 if share else 0)(_train_in_worker)
    pending = {_submit(task, group, share): group for group in groups}
    stopping = False
    with (
        LiveTable(runs) as table,
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        _stop_requested() as asked,
    ):
        while pending:
            if asked and not stopping:
                stopping = True
                table.say("Stopping: each run ends its update and saves; Ctrl-C again stops at once.")
                for handle in pending:
                    ray.cancel(handle)
            for handle in ray.wait(list(pending), timeout=_POLL_SECONDS)[0]:
                group = pending.pop(handle)
                for run in group:
                    _take_result(ray, handle, run)
                if group[0].state == "waiting" and not stopping:
                    pending[_submit(task, group, share)] = group
            for group in pending.values():
                if _size(group[0].folder.output) > group[0].printed:
                    for run in group:
                        run.state = "running"
            table.update()


def _groups(runs: list[Run]) -> list[list[Run]]:
    """The runs that are not complete; those in one group learn together, in one worker."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        if run.state != "complete":
            alike = together(run.config) if isinstance(run.config, LearningConfig) else None
            groups.setdefault(alike or run.folder.path, []).append(run)
    return list(groups.values())


def share_of_a_gpu(nodes: list[tuple[int, int]], threads: int, runs: int) -> float:
    """What a run asks of one GPU, so that as many run side by side as cores allow, and no GPU is left without.

    Ray fills a GPU before it takes the next, and older versions show none to a task that asks for none.

    Args:
        nodes: The cores and GPUs of each node that has a GPU.
        threads: Of each run.
        runs: How many there are.
    """
    on_each = [math.ceil(min(cores // threads, runs) / gpus) for cores, gpus in nodes if cores >= threads]
    return math.floor(1e4 / max(on_each)) / 1e4  # Ray counts ten-thousandths


def _submit(task: Any, group: list[Run], share: float) -> Any:
    first = group[0]
    first.printed = _size(first.folder.output)
    each = [(str(run.folder.path), run.config.to_json()) for run in group]
    return task.options(num_cpus=first.config.threads, num_gpus=share).remote(each)


def _take_result(ray: ModuleType, handle: Any, run: Run) -> None:
    try:
        run.state, run.note = ray.get(handle)
    except ray.exceptions.TaskCancelledError:
        run.state, run.note = "stopped", ""
    except ray.exceptions.RayTaskError as error:
        run.state, run.note = "failed", str(error).strip().splitlines()[-1]
    except ray.exceptions.RayError as error:
        newest = checkpoint_files.newest(run.folder)
        run.losses = run.losses + 1 if newest == run.checkpoint else 1
        run.checkpoint = newest
        why = type(error).__name__
        if run.losses >= _LOSSES:
            run.state, run.note = "failed", f"its worker was lost {run.losses} times in a row ({why})"
        else:
            run.state, run.note = "waiting", f"goes on after the loss of its worker ({why})"


def _train_in_worker(group: list[tuple[str, str]]) -> tuple[str, str]:
    """What a worker of Ray does: trains a run from where it is, or several that learn together, after others perhaps.

    Args:
        group: Folder and configuration of each.

    Returns:
        The runs' state, and what went wrong.
    """
    warnings.showwarning = show_warning
    warnings.filterwarnings("default", category=UserWarning)  # as ever; that it is said forgets what was shown in earlier runs
    runs = [Run(RunFolder(Path(path)), read_config(config, Config, LearningConfig)) for path, config in group]
    first = runs[0].folder
    try:
        for run in runs:
            run.folder.path.mkdir(parents=True, exist_ok=True)
        output = first.output.open("a", buffering=1, encoding="utf-8")
        with output as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            for run in runs:
                import_modules(getattr(run.config, "imports", []))  # named on the sweep's command line
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} on {socket.gethostname()}, process {os.getpid()}")
            return "complete" if _train_when_free(runs) == 0 else "stopped", ""
    except (UserError, RunError) as error:
        return "failed", str(error)
    except OSError as error:
        return "failed", f"cannot write to '{first.path}': {error.strerror}"


def _train_when_free(runs: list[Run]) -> int:
    """Trains when no other process, such as the lost worker's or another sweep's, trains in the folders any more."""
    while True:
        try:
            folder, config = runs[0].folder, runs[0].config
            if isinstance(config, LearningConfig):
                return learn_all([inspect(run) for run in runs], "the same command")
            with folder.locked():
                if not folder.config.exists():
                    folder.begin(config)
            found = check_same(folder, config)
            assert isinstance(found, Config)  # noqa: S101
            return resume(folder, found)
        except FolderInUseError:
            time.sleep(_POLL_SECONDS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """Gives a list that Ctrl-C, SIGTERM or the closing of the terminal adds itself to; the second one stops at once."""
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    with handled(ask):
        yield asked
