"""Draws what an environment will go through before anyone trains in it: the values of its parameters over the steps of a run.

``python -m agents.preview ant-nonstationary --schedule random_walk --period 20000``
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.build import find_wrapper, make_env
from agents.commands import Parser, given, run_command
from agents.config import Config
from agents.errors import UserError
from agents.figures import Course, draw_courses
from agents.options import add_change_options, make_config
from agents.plan import parse_seeds

_MOST_PHASES = 100_000
_SHOWN = 10  # phases that are printed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input, with a line about it; 130 after Ctrl-C."""
    return run_command(lambda: _preview(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    description = __doc__.split("\n\n")[0]
    parser = Parser(prog="python -m agents.preview", description=description, allow_abbrev=False, conflict_handler="resolve")
    add = parser.add_argument
    add("env", metavar="ENV", help="ant-nonstationary, or any registered Gymnasium id")
    add("--preset", metavar="NAME", help="as for agents.train: quick or paper")
    add("--timesteps", metavar="N", type=int, help="environment steps, over all environments")
    add("--n-envs", metavar="K", type=int, help="number of environments")
    add_change_options(parser)
    add("--schedule", metavar="NAME[,KEY=VALUE…]", action="append", help="as for agents.train; several are drawn in panels")
    add("--seeds", metavar="S", help="such as 0-4 or 0,1,5 (default: 0-2)")
    add("--output", metavar="FILE", type=Path, default=Path("preview.png"), help="the picture (default: preview.png)")
    parser.set_defaults(set=None, device=None, threads=None, checkpoint_minutes=None, normalize=None)
    return parser


def _preview(args: argparse.Namespace) -> int:
    if args.output.exists():
        raise UserError(f"'{args.output}' exists already; --output names another file")
    seeds = parse_seeds(given(args.seeds, "0-2"))
    schedules = args.schedule or [None]
    courses = []
    for schedule in schedules:
        chosen = copy.copy(args)
        chosen.schedule = schedule
        courses += _courses([make_config(chosen, "ppo", seed) for seed in seeds])
    try:
        draw_courses(courses, seeds, args.output)
    except (OSError, ValueError) as error:  # matplotlib's for an ending it does not know
        raise UserError(f"cannot write '{args.output}': {error}") from error
    _print(courses)
    print(f"{args.output}: the values of seeds {', '.join(map(str, seeds))}")
    return 0


def _courses(configs: Sequence[Config]) -> list[Course]:
    """What the parameters go through in runs that differ in their seed."""
    config = configs[0]
    if config.period is None:
        raise UserError(f"environment '{config.env}' does not change; --period or --param makes it change")
    phases = -(-config.timesteps // config.period)
    if phases > _MOST_PHASES:
        raise UserError(f"timesteps must be at most {_MOST_PHASES:,} periods, got {phases:,}")
    wrappers = [wrapper for each in configs if (wrapper := find_wrapper(make_env(each))) is not None]
    forecasts = [wrapper.forecast(phases) for wrapper in wrappers]
    return [
        Course(change, config.period, config.timesteps, [[of_phase[change.name] for of_phase in each] for each in forecasts])
        for change in wrappers[0].changes
    ]


def _print(courses: Sequence[Course]) -> None:
    for course in courses:
        values = course.values[0]
        more = f", … {len(values) - _SHOWN:,} more" if len(values) > _SHOWN else ""
        listed = ", ".join(f"{value:.3g}" for value in values[:_SHOWN])
        print(f"{course.change.name} ({course.change.unit}), {course.change.schedule}: {listed}{more}")


if __name__ == "__main__":
    sys.exit(main())
