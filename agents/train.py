"""Trains PPO, SAC, TD3 or DQN, with or without a method against loss of plasticity, in a world that changes.

``python -m agents.train --env ant-nonstationary``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from agents.runs.algorithms import METHODS
from agents.runs.commands import Parser, a_path, add_shared_options, given, refuse_beside_resume, run_command
from agents.runs.config import Config
from agents.runs.errors import UserError, for_a_shell
from agents.runs.listing import list_environments, list_parameters
from agents.runs.modules import import_modules
from agents.runs.options import add_run_options, import_named, make_config
from agents.runs.run_folder import RunFolder
from agents.runs.training import resume, start
from agents.supervised.config import LearningConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input, 1 after a failure, with a line about it; 130 after Ctrl-C."""
    return run_command(
        lambda: _train_or_resume(_parser().parse_args(arguments)),
        interrupted="--resume goes on from the last checkpoint, if there is one",
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m agents.train", description=__doc__, allow_abbrev=False)
    add_run_options(parser)
    add_shared_options(parser, several=False)
    add = parser.add_argument
    add("--method", metavar="NAME", help=f"{', '.join(METHODS)} (default: cbp)")
    add("--seed", metavar="S", type=int, help="seed of everything (default: 0)")
    add("--run-dir", metavar="DIR", type=a_path, help="run folder (default: runs/<env>/<method>/seed<S>-<time>)")
    add("--resume", metavar="RUN", type=a_path, help="go on with the run in this folder, exactly where it stopped")
    add("--list-envs", action="store_true", default=None, help="list the registered environments, and do nothing else")
    add("--list-parameters", metavar="ENV", help="list what can change in an environment, and do nothing else")
    add("--export", metavar="FILE", type=a_path, help="with --resume: only write the model as a zip of Stable-Baselines3's")
    return parser


def _train_or_resume(args: argparse.Namespace) -> int:
    if args.list_envs or args.list_parameters is not None:
        name, _ = import_named(args.list_parameters or "", args.imports)
        print("\n".join(list_environments() if args.list_envs else list_parameters(name)))
        return 0
    if args.resume is not None:
        refuse_beside_resume(args, "export", "imports")
        import_modules(args.imports or [])
        folder, config = RunFolder.open(args.resume, Config, LearningConfig)
        if not isinstance(config, Config):
            raise UserError(
                f"'{args.resume}' is a run of agents.learn: python -m agents.learn --resume {for_a_shell(args.resume)}"
            )
        return resume(folder, config, export=args.export)
    if args.export is not None:
        raise UserError("--export needs --resume RUN, the run whose model is meant")
    method, seed = given(args.method, "cbp"), given(args.seed, 0)
    config = make_config(args, method, seed)
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return start(args.run_dir or RunFolder.below(Path("runs"), config, f"seed{seed}-{now}").path, config)


if __name__ == "__main__":
    sys.exit(main())
