"""Compares methods: a figure and tables over all complete runs below some folders.

``python -m agents.report DIR [DIR …] --output OUT``

With ``--leaderboard FILE`` it writes a page with a table for each protocol instead, over the runs of any.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.reporting.comparison import Comparison, Statistic, compare
from agents.reporting.figure import draw_comparison
from agents.reporting.leaderboard import leaderboard, read_runs_of_agents, sort_runs
from agents.reporting.results import RunResult, check_place, find_runs, read_run, record
from agents.reporting.tables import csv_table, left_out, markdown_table, told_of_changes
from agents.runs.commands import Parser, a_path, given, run_command
from agents.runs.errors import UserError
from agents.runs.run_folder import RunFolder, write_atomically


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input, with a line about it."""
    return run_command(
        lambda: _report(_parser().parse_args(arguments)),
        interrupted="each file is as it was or whole; the same command writes all of them",
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m agents.report", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("folders", metavar="DIR", nargs="+", type=a_path, help="runs are looked for in it at any depth")
    add("--output", metavar="OUT", type=a_path, help="where report.png, report.svg, table.md and table.csv go")
    add("--statistic", choices=("mean", "iqm"), default="mean", help="over seeds: mean, or interquartile mean (default: mean)")
    add(
        "--baseline",
        metavar="NAME",
        help="the method that differences are taken from (default: ppo or backprop, or else the first)",
    )
    add("--record", metavar="FOLDER", type=a_path, help="also write what this report needs of each run, tens of kB, to FOLDER")
    add("--leaderboard", metavar="FILE", type=a_path, help="in place of --output: a page with a table for each protocol")
    return parser


def _report(args: argparse.Namespace) -> int:
    if (args.output is None) == (args.leaderboard is None):
        raise UserError("--output OUT, or --leaderboard FILE in its place, says what is made")
    if args.leaderboard is not None:
        return _write_leaderboard(args)
    if (args.output / "config.json").exists():
        raise UserError(f"--output must not be a run, whose report.png would be overwritten; '{args.output}' is one")
    comparison = compare([read_run(path) for path in find_runs(args.folders)])
    usual = [label for label in comparison.runs if label in ("ppo", "backprop")]
    baseline = given(args.baseline, (usual or list(comparison.runs))[0])
    table = markdown_table(comparison, args.statistic, baseline)
    places = _places(comparison, args.record, args.folders) if args.record else []
    for line in (*left_out(comparison), *told_of_changes(comparison)):
        print(f"warning: {line}", file=sys.stderr)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        _draw(comparison, args.statistic, args.output)
        write_atomically(args.output / "table.csv", csv_table(comparison))
        write_atomically(args.output / "table.md", table)
        for place in places:
            record(*place)
    except OSError as error:
        raise UserError(f"cannot write to '{error.filename or args.output}': {error.strerror}") from error
    number = sum(map(len, comparison.runs.values()))
    runs = f"{number} run{'s' if number > 1 else ''} of {', '.join(comparison.runs)}"
    print(f"{runs}: {args.output / 'report.png'}, report.svg, table.md and table.csv")
    return 0


def _draw(comparison: Comparison, statistic: Statistic, folder: Path) -> None:
    """Draws beside the old figure, which takes seconds, and puts the new one in its place at the end."""
    new = {folder / f".{os.getpid()}-{name}": folder / name for name in ("report.png", "report.svg")}
    try:
        draw_comparison(comparison, statistic, list(new))
        for drawn, path in new.items():
            drawn.replace(path)
    finally:
        for drawn in new:
            drawn.unlink(missing_ok=True)


def _write_leaderboard(args: argparse.Namespace) -> int:
    for option in ("record", "baseline"):
        if getattr(args, option) is not None:
            raise UserError(f"--{option} goes with --output, not with --leaderboard")
    boards, others = sort_runs(read_runs_of_agents(args.folders))
    if not boards:
        reason = others[0] if others else "all runs there are of agents.learn"
        raise UserError(f"no complete run of a protocol is below {', '.join(map(str, args.folders))}: {reason}")
    for line in others:
        print(f"warning: {line}", file=sys.stderr)
    path: Path = args.leaderboard
    try:
        page = path.read_bytes().decode() if path.exists() else ""
        drawn = leaderboard(page.replace("\r\n", "\n"), boards, args.statistic)
        write_atomically(path, drawn.replace("\n", "\r\n") if "\r\n" in page else drawn)
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is no page of text in UTF-8, and is left as it is") from error
    except OSError as error:
        raise UserError(f"cannot write '{error.filename or args.leaderboard}': {error.strerror}") from error
    print(f"{args.leaderboard}: {', '.join(boards)}")
    return 0


def _places(comparison: Comparison, folder: Path, folders: Sequence[Path]) -> list[tuple[RunResult, Path]]:
    """Where each run is to be recorded, none of them where another one is, nor in the folders that are read."""
    results: list[RunResult] = comparison.all_runs
    places = [(result, RunFolder.below(folder, result.config, f"seed{result.config.seed}").path) for result in results]
    for result, place in places:
        # Each run would be there twice when these folders are read the next time.
        inside = [read for read in folders if place.resolve().is_relative_to(read.resolve())]
        if inside and place.resolve() != result.path.resolve():
            raise UserError(f"--record must lie outside of '{inside[0]}', whose runs are read, got '{folder}'")
        check_place(result, place)
    return places


if __name__ == "__main__":
    sys.exit(main())
