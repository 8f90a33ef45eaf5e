"""Draws what an environment will go through before anyone trains in it: the values of its parameters over the steps of a run.

``python -m agents.preview ant-nonstationary --schedule random_walk --period 20000``
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

import envs
from agents.runs.algorithms import ALGORITHMS
from agents.runs.build import make_env
from agents.runs.commands import Parser, a_path, given, run_command
from agents.runs.config import Config
from agents.runs.drawing import PICTURES, short_number
from agents.runs.errors import UserError, in_words
from agents.runs.forecast import forecast_run
from agents.runs.options import PRESETS, add_change_options, add_import_option, make_config
from agents.runs.plan import parse_seeds
from agents.runs.run_folder import check_ending, new_file
from envs.changes import Change
from envs.tasks import TASK

_MOST_PHASES = 100_000
_SHOWN = 10  # phases that are printed
_IN_ONE_COLUMN = 4  # panels; from so many on there are two columns


@dataclass(frozen=True)
class Course:
    """What a parameter goes through.

    Attributes:
        change: The parameter and its schedule.
        timesteps: Of a run, over all environments.
        edges: Where phases begin and the last one ends, in steps over all environments, for each seed.
        values: Of each phase, for each seed.
        seen: What the values change in the environment.
    """

    change: Change
    timesteps: int
    edges: list[list[int]]
    values: list[list[float]]
    seen: envs.Verified


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input, with a line about it; 130 after Ctrl-C."""
    return run_command(lambda: _preview(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    description = __doc__.split("\n\n")[0]
    parser = Parser(prog="python -m agents.preview", description=description, allow_abbrev=False, conflict_handler="resolve")
    add = parser.add_argument
    add(
        "env",
        metavar="ENV",
        nargs="?",
        help="ant-nonstationary, any registered Gymnasium id, or MODULE:ID of one that a module registers",
    )
    add("--protocol", metavar="NAME", help="as for agents.train, in place of ENV")
    add_import_option(parser)
    add("--env-kwargs", metavar="KEY=VALUE", action="append", help="as for agents.train")
    add(
        "--algo",
        metavar="NAME",
        help=f"{', '.join(ALGORITHMS)}: also say how many updates a run of it makes, and when cbp first replaces a unit",
    )
    add("--set", metavar="KEY=VALUE", action="append", help="with --algo: another value for a setting of cbp")
    add("--preset", metavar="NAME", help=f"as for agents.train: {PRESETS}")
    add("--timesteps", metavar="N", type=int, help="environment steps, over all environments")
    add("--n-envs", metavar="K", type=int, help="number of environments")
    add_change_options(parser)
    add("--schedule", metavar="NAME[,KEY=VALUE…]", action="append", help="as for agents.train; several are drawn in panels")
    add("--seeds", metavar="S", help="such as 0-4 or 0,1,5 (default: 0-2)")
    add("--output", metavar="FILE", type=a_path, default=Path("preview.png"), help="the picture (default: preview.png)")
    parser.set_defaults(device=None, threads=None, checkpoint_minutes=None, normalize=None, keep_phases=None)
    return parser


def _preview(args: argparse.Namespace) -> int:
    check_ending("--output", args.output, PICTURES)
    if args.output.exists():
        raise UserError(f"'{args.output}' exists already; --output names another file")
    seeds = parse_seeds(given(args.seeds, "0-2"))
    if args.set and args.algo is None:
        raise UserError("--set is of what --algo says, for example: --algo ppo")
    schedules = args.schedule or [None]
    courses, runs = [], []
    for schedule in schedules:
        chosen = copy.copy(args)
        chosen.schedule = schedule
        runs = [make_config(chosen, "cbp", seed) for seed in seeds]
        courses += _courses(runs)
    forecast = forecast_run(runs[0]) if args.algo is not None else []
    with new_file(args.output) as file:
        _draw(courses, seeds, file)
    _print(courses)
    for line in forecast:
        print(f"{args.algo}: {line}")
    print(f"{args.output}: the values of seeds {', '.join(map(str, seeds))}")
    return 0


def _courses(configs: Sequence[Config]) -> list[Course]:
    """What the parameters go through in runs that differ in their seed."""
    config = configs[0]
    if config.period is None:
        raise UserError(f"environment '{config.env}' does not change; --period or --param makes it change")
    if config.param == TASK:
        raise UserError(f"in '{config.env}' no value changes: its tasks come in the order in which they are given")
    phases = -(-config.timesteps // config.phase_steps)
    _check_number(phases)
    with ExitStack() as stack:
        made = [stack.enter_context(closing(make_env(each))) for each in configs]
        wrappers = [wrapper for env in made if (wrapper := envs.NonStationary.of(env)) is not None]
        forecasts, edges = [], []
        for wrapper in wrappers:
            begins = _random_begins(wrapper, config) if config.phases_differ else range(0, config.timesteps, config.phase_steps)
            forecasts.append(wrapper.forecast(len(begins)))
            edges.append([*begins, config.timesteps])
        changes = wrappers[0].changes
        try:
            verified = envs.verify(wrappers[0].env, {change.name: change.options for change in changes})
        except (envs.EffectError, envs.ParameterError) as error:
            raise UserError(str(error)) from error
        except Exception as error:  # whatever an environment of others raises
            raise UserError(f"environment '{config.env}' cannot be stepped: {in_words(error)}") from error
        return [
            Course(change, config.timesteps, edges, [[of_phase[change.name] for of_phase in each] for each in forecasts], seen)
            for change, seen in zip(changes, verified, strict=True)
        ]


def _random_begins(wrapper: envs.NonStationary[Any, Any], config: Config) -> list[int]:
    """Where the phases of a run begin that last differently, in steps over all environments."""
    begins = [0]
    while begins[-1] < config.timesteps:
        _check_number(len(begins))
        begins = [begin * config.n_envs for begin in wrapper.forecast_steps(2 * len(begins))]
    begins = [begin for begin in begins if begin < config.timesteps]
    _check_number(len(begins))
    return begins


def _check_number(phases: int) -> None:
    if phases > _MOST_PHASES:
        raise UserError(f"timesteps must be so few that there are at most {_MOST_PHASES:,} phases, got {phases:,}")


def _draw(courses: Sequence[Course], seeds: Sequence[int], path: Path) -> None:
    """Draws the values over the steps of a run, a panel for each course."""
    columns = 1 if len(courses) < _IN_ONE_COLUMN else 2
    rows = math.ceil(len(courses) / columns)
    figure = Figure(figsize=(4.5 + 4.5 * columns, 0.8 + 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel()[len(courses) :]:
        axis.set_visible(False)
    for axis, course in zip(axes.ravel(), courses, strict=False):
        drawn = course.values if len({*map(tuple, course.values)}) > 1 else course.values[:1]  # all the same: no seed matters
        for seed, of_seed, edges in zip(seeds, drawn, course.edges, strict=False):
            label = f"seed {seed}" if len(drawn) == len(course.values) else "every seed"
            axis.stairs(of_seed, edges, baseline=None, linewidth=1.3, label=label)
        axis.set_title(textwrap.fill(repr(course.change.schedule), 75), fontsize=8)
        unit = "" if course.change.unit == "1" else f"\n({course.change.unit})"
        axis.set_ylabel(course.change.name + unit, fontsize=9)
        if course.change.schedule.logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter(FuncFormatter(short_number))
        axis.set_xlim(0, course.timesteps)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("environment steps")
    labelled = max(axes.ravel()[: len(courses)], key=lambda axis: len(axis.patches))
    figure.legend(*labelled.get_legend_handles_labels(), loc="outside upper right", ncols=len(seeds), frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def _print(courses: Sequence[Course]) -> None:
    for course in courses:
        values = course.values[0]
        more = f", … {len(values) - _SHOWN:,} more" if len(values) > _SHOWN else ""
        listed = ", ".join(f"{value:.3g}" for value in values[:_SHOWN])
        print(f"{course.change.name} ({course.change.unit}), {course.change.schedule}: {listed}{more}")
    for seen in dict.fromkeys(str(course.seen) for course in courses):
        print(f"seen: {seen}")


if __name__ == "__main__":
    sys.exit(main())
