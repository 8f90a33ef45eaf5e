"""Measures how well the networks of a run still learn something new, checkpoint by checkpoint, beside fresh networks.

``python -m agents.trainability RUN``, or ``python -m agents.trainability MODEL.zip --env ID`` of Stable-Baselines3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from agents.playing.trainability import MOST_REPETITIONS, ROLLOUTS, Settings, measure
from agents.playing.zips import measure_zip
from agents.runs.checks import check_whole
from agents.runs.commands import Parser, a_path, run_command
from agents.runs.config import Config
from agents.runs.errors import UserError
from agents.runs.modules import import_modules
from agents.runs.options import add_import_option, import_named
from agents.runs.run_folder import RunFolder
from agents.supervised.config import LearningConfig
from cbp.trainability import POINTS


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input, with a line about it; 130 after Ctrl-C."""
    return run_command(
        lambda: _measure(_parser().parse_args(arguments)),
        interrupted="the same command goes on with what is not yet measured of a run, and begins anew with a zip",
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m agents.trainability", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add_import_option(parser)
    add(
        "run",
        metavar="RUN",
        type=a_path,
        help="run folder of agents.train, best one with --keep-phases; the run may be at work; or a zip of Stable-Baselines3",
    )
    add(
        "--env",
        metavar="[MODULE:]ID",
        help="of a zip: the environment whose states its networks learn on; loading it runs its code",
    )
    add("--repetitions", metavar="K", type=int, default=5, help="of each learning, with other draws (default: 5)")
    add("--updates", metavar="N", type=int, default=300, help="of each network that learns random targets (default: 300)")
    add(
        "--steps",
        metavar="N",
        type=int,
        help=f"of each agent that learns to act anew; 0 leaves it out (default: {ROLLOUTS} rollouts)",
    )
    add("--value", metavar="X", type=float, help="at which the parameter is held meanwhile (default: the middle of its range)")
    add("--seed", metavar="S", type=int, default=0, help="of all draws (default: 0)")
    return parser


def _measure(args: argparse.Namespace) -> int:
    import_modules(args.imports or [])
    if not args.run.exists() and (zipped := args.run.with_name(f"{args.run.name}.zip")).is_file():
        args.run = zipped  # as Stable-Baselines3's own load does
    check_whole("seed", args.seed, least=0)
    if args.seed >= 2**32:
        raise UserError(f"seed must be less than 2^32, got {args.seed}")
    if args.run.is_file():
        return _measure_zip(args)
    if args.env is not None:
        why = "is a folder" if args.run.is_dir() else "does not exist"
        raise UserError(f"--env goes with a zip of Stable-Baselines3; '{args.run}' {why}")
    folder, config = RunFolder.open(args.run, Config, LearningConfig)
    if not isinstance(config, Config):
        raise UserError(f"'{args.run}' is a run of agents.learn; RUN is a run of agents.train")
    return measure(folder, config, Settings.of(config, args.repetitions, args.updates, args.steps, args.value, args.seed))


def _measure_zip(args: argparse.Namespace) -> int:
    for option in ("steps", "value"):
        if getattr(args, option) is not None and (option, args.steps) != ("steps", 0):
            raise UserError(f"--{option} goes with a run of agents.train: the networks of a zip learn random targets alone")
    if args.env is None:
        raise UserError(f"--env ID says in which environment the model '{args.run}' acts")
    check_whole("repetitions", args.repetitions, least=2, most=MOST_REPETITIONS)
    check_whole("updates", args.updates, least=POINTS)
    env, _ = import_named(args.env, args.imports)
    return measure_zip(args.run, env, args.repetitions, args.updates, args.seed)


if __name__ == "__main__":
    sys.exit(main())
