"""Learns a supervised problem that keeps changing, with or without a method against loss of plasticity.

``python -m agents.learn --problem slowly-changing-regression --method cbp --seeds 0-4``
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.runs.commands import Parser, a_path, add_shared_options, check_device, given, refuse_beside_resume, run_command
from agents.runs.config import Config
from agents.runs.errors import UserError, for_a_shell
from agents.runs.plan import Run, inspect, parse_seeds
from agents.runs.run_folder import RunFolder
from agents.supervised.config import LearningConfig
from agents.supervised.job import check_buildable, learn_all
from agents.supervised.options import add_learning_options, make_configs


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input, 1 after a failure, with a line about it; 130 after Ctrl-C."""
    return run_command(
        lambda: _learn(_parser().parse_args(arguments)),
        interrupted="the same command goes on from the last checkpoints, if there are any",
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m agents.learn", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    add_learning_options(parser)
    add_shared_options(parser)
    add = parser.add_argument
    add("--method", metavar="NAME", help="backprop, l2, shrink-perturb, cbp, redo, l2-init, … (default: cbp)")
    add("--seeds", metavar="S", help="such as 0-4 or 0,1,5 (default: 0); seeds learn together where the problem allows")
    add("--run-dir", metavar="DIR", type=a_path, help="results go to DIR/<problem>/<method>/seed<S>/ (default: runs)")
    add(
        "--resume", metavar="RUN", type=a_path, help="go on with the run in this folder, where it stopped; --data if they moved"
    )
    return parser


def _learn(args: argparse.Namespace) -> int:
    if args.resume is not None:
        refuse_beside_resume(args, "data")
        folder, config = RunFolder.open(args.resume, Config, LearningConfig)
        if not isinstance(config, LearningConfig):
            raise UserError(
                f"'{args.resume}' is a run of agents.train: python -m agents.train --resume {for_a_shell(args.resume)}"
            )
        if args.data is not None:
            config = dataclasses.replace(config, data=str(args.data.absolute()))
        check_device(config.device)
        runs = [inspect(Run(folder, config))]
        return learn_all(runs, f"python -m agents.learn --resume {for_a_shell(args.resume)}")
    configs = make_configs(args, [given(args.method, "cbp")], parse_seeds(given(args.seeds, "0")))
    run_dir = given(args.run_dir, Path("runs"))
    runs = [inspect(Run(RunFolder.below(run_dir, config, f"seed{config.seed}"), config)) for config in configs]
    check_buildable(runs)
    return learn_all(runs, "the same command")


if __name__ == "__main__":
    sys.exit(main())
