"""Trains methods × seeds, each run a task of Ray, on this machine's cores or on a cluster.

``python -m agents.sweep --env ant-nonstationary --methods ppo,cbp --seeds 0-4 --run-dir DIR``

A run lies in ``DIR/<env>/<method>/seed<S>/``; values of which ``--set`` gives several follow the method's name. Runs that are
complete are skipped, others go on from their last checkpoint: a sweep that was stopped, killed or has lost a worker goes on by
the same command. The same seed gives every method the same sequence of values of the parameter that changes.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from agents.runs.algorithms import METHODS, find_method
from agents.runs.build import make_model, make_vec_env
from agents.runs.commands import INTERRUPTED, Parser, a_path, add_shared_options, given, run_command
from agents.runs.config import Config, RunConfig
from agents.runs.errors import RunError, UserError, for_a_shell
from agents.runs.options import CHANGE_OPTIONS, add_run_options, make_configs
from agents.runs.plan import Run, inspect, parse_seeds
from agents.runs.run_folder import RunFolder
from agents.supervised.build import make_learner
from agents.supervised.config import LearningConfig
from agents.supervised.options import add_learning_options
from agents.supervised.options import make_configs as make_learning_configs
from agents.sweeping.workers import check_cores, check_room, run_all, start_ray

_OF_AGENTS = (
    *("env", "imports", "algo", "env_kwargs", "preset", "protocol", "timesteps", "n_envs", "normalize", "keep_phases"),
    *CHANGE_OPTIONS,
)


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
    add("--methods", metavar="NAMES", required=True, help=f"with commas between; with --env: {', '.join(METHODS)}")
    add("--seeds", metavar="S", required=True, help="such as 0-4 or 0,1,5")
    add(
        "--run-dir",
        metavar="DIR",
        type=a_path,
        required=True,
        help="where the runs lie; on a cluster, a folder all nodes share",
    )
    add("--address", metavar="A", help="a running Ray cluster, or auto (default: this machine's cores)")
    return parser


def _sweep(args: argparse.Namespace) -> int:
    if (args.device or "").startswith("cuda:"):
        raise UserError(
            f"--device must be cpu, cuda or auto: a sweep spreads its runs over the GPUs itself, got '{args.device}'"
        )
    runs = _plan(args)
    todo = [run for run in runs if run.state != "complete"]
    print(f"{len(runs)} runs in {args.run_dir}, {len(runs) - len(todo)} of them complete", flush=True)
    if todo:
        _check_buildable(todo)
        _check_folder(args.run_dir)
        if args.address is None:
            check_cores(os.cpu_count() or 1, args.threads)
        ray = start_ray(args.address)
        try:
            check_room(ray, args.threads, todo[0].config.device)
            _make_folder(args.run_dir)
            run_all(ray, runs, args.run_dir / "ray.log")
        finally:
            ray.shutdown()
    report = f"python -m agents.report {for_a_shell(args.run_dir)} --output {for_a_shell(args.run_dir / 'report')}"
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
    configs: Sequence[RunConfig]
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
            find_method(given(args.algo, "ppo"), method)
        configs = make_configs(args, methods, seeds)
    run_dir = args.run_dir.absolute()
    return [inspect(Run(RunFolder.below(run_dir, config, f"seed{config.seed}"), config)) for config in configs]


def _check_buildable(runs: list[Run]) -> None:
    """Refuses what no run could be made of before any is begun; what all would warn of is said once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for config in {run.config.label: run.config for run in runs}.values():
            if isinstance(config, Config):
                make_model(config, make_vec_env(config)).get_env().close()  # type: ignore[union-attr]
            elif isinstance(config, LearningConfig):
                make_learner([config])
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        warnings.warn(text, stacklevel=2)


def _check_folder(path: Path) -> None:
    """Refuses a path through a file, before anything is begun."""
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise UserError(f"cannot make folder '{path}': '{there}' is no folder")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder '{path}': {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
