"""The options that describe supervised runs."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable
from pathlib import Path

from agents.runs.commands import a_path, by_key, check_device, given, parse_overrides
from agents.runs.errors import UserError, unknown
from agents.runs.plan import each_once
from agents.supervised.config import LearningConfig, with_overrides
from agents.supervised.presets import PROBLEMS
from envs.streams import datasets


def add_learning_options(parser: argparse.ArgumentParser) -> None:
    """Adds what describes a supervised run but for its method, its seed and its folder."""
    add = parser.add_argument
    add("--problem", metavar="NAME", help=", ".join(PROBLEMS))
    add("--data", metavar="FOLDER", type=a_path, help="the problem's own data; without, it is learned on scikit-learn's digits")
    add("--tasks", metavar="N", type=int, help="how many tasks are learned, one after the other")
    add("--examples", metavar="N", type=int, help="length of slowly-changing-regression: a multiple of 10,000")


def make_configs(args: argparse.Namespace, methods: Iterable[str], seeds: Iterable[int]) -> list[LearningConfig]:
    """The configurations that the options describe, seed by seed; ``--set key=a,b`` makes one for each value.

    Raises:
        UserError: An option that is missing, unknown or out of its range, or two values that would share a folder.
    """
    if args.problem is None:
        raise UserError(f"--problem is missing; known: {', '.join(PROBLEMS)}")
    if args.problem not in PROBLEMS:
        raise unknown("problem", args.problem, PROBLEMS)
    dataset = _dataset(args.problem, args.data)
    preset = PROBLEMS[args.problem][dataset]
    overrides = [parse_overrides(text) for text in args.set or []]
    by_key(values[0] for values in overrides)
    settings = [
        (method, *with_overrides(preset, args.problem, method, chosen))
        for method in methods
        for chosen in itertools.product(*overrides)
    ]
    configs = [
        LearningConfig(
            problem=args.problem,
            dataset=dataset,
            method=method,
            tasks=_tasks(args, preset.tasks, preset.examples),
            examples=preset.examples,
            seed=seed,
            data=None if args.data is None else str(args.data.absolute()),
            device=check_device(given(args.device, "cpu")),
            threads=args.threads,
            checkpoint_minutes=given(args.checkpoint_minutes, 5.0),
            stream=stream,
            method_kwargs=kwargs,
            settings=of_learner,
        )
        for seed in seeds
        for method, of_learner, kwargs, stream in settings
    ]
    return each_once(configs)


def _dataset(problem: str, data: Path | None) -> str:
    known = list(PROBLEMS[problem])
    if data is None:
        return known[0]
    if len(known) == 1:
        raise UserError(f"problem '{problem}' makes its own data and takes no --data")
    if problem != "class-incremental-cifar":
        return known[1]
    try:
        return f"cifar{datasets.cifar_classes(data)}"
    except datasets.DataError as error:
        raise UserError(str(error)) from error


def _tasks(args: argparse.Namespace, tasks: int, examples: int | None) -> int:
    if args.problem != "slowly-changing-regression":
        if args.examples is not None:
            raise UserError(f"problem '{args.problem}' has tasks of a fixed size: --tasks N instead of --examples")
        return int(given(args.tasks, tasks))
    assert examples is not None  # noqa: S101
    if args.tasks is not None:
        raise UserError(f"problem '{args.problem}' changes little by little: --examples N instead of --tasks")
    if args.examples is None:
        return tasks
    if args.examples < examples or args.examples % examples:
        raise UserError(f"--examples must be a multiple of {examples:,}, got {args.examples:,}")
    return int(args.examples) // examples
