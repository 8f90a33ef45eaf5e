"""Trains methods × seeds, each run a task of Ray, on this machine's cores or on a cluster.

``python -m agents.sweep --env ant-nonstationary --methods ppo,cbp --seeds 0-4 --run-dir DIR``

A run lies in ``DIR/<env>/<method>/seed<S>/``. Runs that are complete are skipped, others go on from their last checkpoint: a
sweep that was stopped, killed or has lost a worker goes on by the same command. The same seed gives every method the same
sequence of values of the parameter that changes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from agents import checkpoint_files, presets, train
from agents.build import make_model, make_vec_env
from agents.commands import (
    INTERRUPTED,
    Parser,
    add_shared_options,
    folder_of,
    run_command,
    show_warning,
)
from agents.config import Config
from agents.errors import RunError, UserError, unknown
from agents.learn import learn_all
from agents.options import CHANGE_OPTIONS, add_run_options, make_config
from agents.plan import Run, check_same, inspect, parse_seeds
from agents.run_folder import FolderInUseError, RunFolder
from agents.supervised.build import make_learner, together
from agents.supervised.config import LearningConfig, read_config
from agents.supervised.options import add_learning_options
from agents.supervised.options import make_configs as make_learning_configs

_LOSSES = 3  # so many losses of a run's worker in a row, without a checkpoint between, end the run
_POLL_SECONDS = 1.0
_OF_AGENTS = ("env", "preset", "timesteps", "n_envs", "normalize", *CHANGE_OPTIONS)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input; 1 if a run failed; 130 after Ctrl-C."""
    return run_command(
        lambda: _sweep(_parser().parse_args(arguments)), interrupted="the same command goes on from the last checkpoints"
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m agents.sweep", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    add_run_options(parser)
    add_learning_options(parser)
    add_shared_options(parser, threads=1)
    add = parser.add_argument
    add("--methods", metavar="NAMES", required=True, help=f"with commas between; with --env: {', '.join(presets.METHODS)}")
    add("--seeds", metavar="S", required=True, help="such as 0-4 or 0,1,5")
    add("--run-dir", metavar="DIR", type=Path, required=True, help="where the runs lie; on a cluster, a folder all nodes share")
    add("--address", metavar="A", help="a running Ray cluster, or auto (default: this machine's cores)")
    return parser


def _sweep(args: argparse.Namespace) -> int:
    runs = _plan(args)
    todo = [run for run in runs if run.state != "complete"]
    print(f"{len(runs)} runs in {args.run_dir}, {len(runs) - len(todo)} of them complete", flush=True)
    if todo:
        _check_buildable(todo)
        ray = _start_ray(args.address)
        try:
            _check_room(ray, args.threads)
            _make_folder(args.run_dir)
            _run_all(ray, runs, args.run_dir / "ray.log")
        finally:
            ray.shutdown()
    report = f"python -m agents.report {args.run_dir} --output {args.run_dir / 'report'}"
    failed = [f"{run.folder.path}: {run.note}" for run in runs if run.state == "failed"]
    if failed:
        raise RunError(f"{len(failed)} of {len(runs)} runs failed; the same command tries them again: {'; '.join(failed)}")
    if any(run.state != "complete" for run in runs):
        print("Stopped, with everything saved; the same command goes on.")
        return INTERRUPTED
    print(f"Done: {len(runs)} runs complete; to compare them: {report}")
    return 0


def _plan(args: argparse.Namespace) -> list[Run]:
    """The sweep's runs, seed by seed, so that methods can be compared early."""
    methods, seeds = list(dict.fromkeys(args.methods.split(","))), parse_seeds(args.seeds)
    configs: Sequence[Config | LearningConfig]
    if args.problem is not None:
        for name in _OF_AGENTS:
            if getattr(args, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} is of reinforcement learning and does not go with --problem")
        configs = make_learning_configs(args, methods, seeds)
    else:
        for name in ("tasks", "examples", "data"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name} is of supervised learning and goes with --problem, not with --env")
        for method in methods:
            if method not in presets.METHODS:
                raise unknown("method", method, presets.METHODS)
        configs = [make_config(args, method, seed) for seed in seeds for method in methods]
    run_dir = args.run_dir.absolute()
    return [inspect(Run(RunFolder(folder_of(run_dir, config, f"seed{config.seed}")), config)) for config in configs]


def _check_buildable(runs: list[Run]) -> None:
    """Refuses what no run could be made of before any is begun; what all would warn of is said once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for config in {run.config.label: run.config for run in runs}.values():
            if isinstance(config, Config):
                make_model(config, make_vec_env(config)).get_env().close()  # type: ignore[union-attr]
            else:
                make_learner([config])
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        warnings.warn(text, stacklevel=2)


def _start_ray(address: str | None) -> ModuleType:
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
        ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at '{address}': {str(error).splitlines()[0]}") from error
    return ray


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder '{path}': {error.strerror}") from error


def _check_room(ray: ModuleType, threads: int) -> None:
    """Refuses runs that would wait for ever; nodes that have no cores may be waiting for others to come."""
    cores = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes())
    if 0 < cores < threads:
        raise UserError(f"threads must be at most the {cores} cores of a node, got {threads}")


def _run_all(ray: ModuleType, runs: list[Run], log: Path) -> None:
    """Trains what is not complete, with a live table on the screen; what Ray itself prints goes to the ``log``."""
    from agents.live_table import LiveTable  # needs the extra

    task = ray.remote(num_cpus=1, max_retries=0, max_calls=1)(_train_in_worker)
    pending = {_submit(task, group): group for group in _groups(runs)}
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
                    pending[_submit(task, group)] = group
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


def _submit(task: Any, group: list[Run]) -> Any:
    first = group[0]
    first.printed = _size(first.folder.output)
    each = [(str(run.folder.path), run.config.to_json()) for run in group]
    return task.options(num_cpus=first.config.threads).remote(each)


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
    """What a worker of Ray does: trains a run from where it is, or several that learn together.

    Args:
        group: Folder and configuration of each.

    Returns:
        The runs' state, and what went wrong.
    """
    warnings.showwarning = show_warning
    runs = [Run(RunFolder(Path(path)), read_config(config)) for path, config in group]
    first = runs[0].folder
    try:
        for run in runs:
            run.folder.path.mkdir(parents=True, exist_ok=True)
        with (
            first.output.open("a", buffering=1, encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
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
                    RunFolder.create(folder.path, config)
            found = check_same(folder, config)
            assert isinstance(found, Config)  # noqa: S101
            return train.resume(folder, found)
        except FolderInUseError:
            time.sleep(_POLL_SECONDS)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _stop_requested() -> Iterator[list[int]]:
    """Gives a list that Ctrl-C or SIGTERM adds itself to; the second one stops at once."""
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
