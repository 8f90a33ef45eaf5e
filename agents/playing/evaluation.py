"""What ``python -m agents.evaluate`` does."""

from __future__ import annotations

import argparse
import csv
import math
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from agents.playing import video
from agents.playing.episodes import MODES, Episode, episode_seeds, play
from agents.playing.figure import draw_evaluation
from agents.playing.held import HeldParameter
from agents.runs.algorithms import find_algorithm
from agents.runs.checkpoints import Trained, load_policy
from agents.runs.checks import check_whole
from agents.runs.commands import Parser, a_path, given, run_command
from agents.runs.config import Config
from agents.runs.drawing import PICTURES
from agents.runs.errors import UserError
from agents.runs.modules import import_modules
from agents.runs.options import add_import_option
from agents.runs.run_folder import RunFolder, check_ending, new_file
from agents.supervised.config import LearningConfig
from envs.simulation import look_for_model

_POINTS = 9
_EPISODES = 5
_MOST_POINTS = 1_000
_MOST_EPISODES = 100_000  # for each value
_MOST_STEPS = 10_000  # where nothing else may end an episode


def run(arguments: Sequence[str] | None, renderer: str | None) -> int:
    """The command.

    Args:
        arguments: Of the command line; None for those of the process.
        renderer: The user's ``MUJOCO_GL``.

    Returns:
        Its exit code.
    """
    return run_command(lambda: _evaluate(_parser().parse_args(arguments), renderer), interrupted="nothing more was written")


def _parser() -> argparse.ArgumentParser:
    description = "Plays the policy of a run over a grid of values of a parameter, draws its return over them, and films it."
    parser = Parser(prog="python -m agents.evaluate", description=description, allow_abbrev=False)
    add = parser.add_argument
    add_import_option(parser)
    add("run", metavar="RUN", type=a_path, help="run folder of agents.train; the run may be at work")
    add("--param", metavar="NAME", help="the parameter that differs (default: the first that changes in the run, or friction)")
    add("--values", metavar="X,X,…", help="its values; --values=-5,0,5 where the first is below 0")
    add("--points", metavar="N", type=int, help=f"number of values from low to high, both included (default: {_POINTS})")
    add("--low", metavar="X", type=float, help="the least value (default: that of the run's schedule)")
    add("--high", metavar="X", type=float, help="the greatest value (default: that of the run's schedule)")
    add("--episodes", metavar="K", type=int, default=_EPISODES, help=f"for each value and mode (default: {_EPISODES})")
    add(
        "--max-episode-steps",
        metavar="N",
        type=int,
        help=f"cuts episodes, at most at the environment's own limit (default: that, or {_MOST_STEPS:,} where it has none)",
    )
    add("--seed", metavar="S", type=int, default=0, help="of environments and sampled actions (default: 0)")
    add(
        "--output",
        metavar="FILE",
        type=a_path,
        help="the picture (default: RUN/evaluation-<steps>-<param>.png), .csv beside it",
    )
    add(
        "--record",
        metavar="FILE.mp4",
        type=a_path,
        help="a film, too: an episode under each of --values, or low, current, high",
    )
    return parser


def _evaluate(args: argparse.Namespace, renderer: str | None) -> int:
    import_modules(args.imports or [])
    folder, config = RunFolder.open(args.run, Config, LearningConfig)
    if not isinstance(config, Config):
        raise UserError(f"'{args.run}' is a run of agents.learn, in which no policy acts; RUN is a run of agents.train")
    check_whole("episodes", args.episodes, least=1, most=_MOST_EPISODES)
    check_whole("max-episode-steps", given(args.max_episode_steps, 1), least=1)
    check_whole("seed", args.seed, least=0)
    if args.record is not None:
        check_ending("--record", args.record, [video.ENDING])
        video.check_packages()
    trained = load_policy(folder, config)
    held = HeldParameter.of(config, trained.values, args.param, args.low, args.high)
    values = _values(args, held)
    env = held.make_env(values[0])
    by_mujoco = look_for_model(env) is not None
    env.close()
    limit = _limit(env, args.max_episode_steps)
    make_env = held.make_env if limit is None else partial(_make_limited, held.make_env, limit)
    picture = args.output or folder.path / f"evaluation-{trained.steps}-{re.sub('[:/]', '-', held.name)}.png"
    check_ending("--output", picture, PICTURES)
    # A film can be made later.
    grid = [] if args.record and not args.output and picture.exists() else [picture, picture.with_suffix(".csv")]
    with ExitStack() as of_film, ExitStack() as of_grid:
        files = [of_grid.enter_context(new_file(path)) for path in grid]
        film = None if args.record is None else of_film.enter_context(new_file(args.record))
        if film is not None and by_mujoco:
            print(f"Rendering by {video.choose_renderer(renderer)}.")
        print(_first_line(config, trained, held), flush=True)
        if not grid:
            print(f"{picture} is there already: the film alone is made.", flush=True)
        else:
            modes = MODES if find_algorithm(config.algo).draws else MODES[:1]
            episodes = play(trained, make_env, values, args.episodes, args.seed, modes)
            draw_evaluation(episodes, config, trained, held, files[0])
            _write(episodes, files[1])
            of_grid.close()
            print("\n".join(_table(episodes, held) + _of_cut(episodes, limit)))
            print(f"Done: {grid[0]}, {grid[1]}", flush=True)
        if film is not None:
            shown = values if args.values else sorted({values[0], values[-1], given(held.current, values[0])})
            labels = {value: held.shown(value) + _of_phase(value, trained, held) for value in shown}
            video.record(trained, partial(make_env, render_mode="rgb_array"), labels, episode_seeds(args.seed, 1)[0], film)
    if args.record is not None:
        print(f"Done: {args.record}")
    return 0


def _values(args: argparse.Namespace, held: HeldParameter) -> list[float]:
    if args.values is None:
        points = given(args.points, _POINTS)
        check_whole("points", points, least=2, most=_MOST_POINTS)
        return held.values(points)
    for option in ("points", "low", "high"):
        if getattr(args, option) is not None:
            raise UserError(f"--values says which, and takes no --{option}")
    try:
        values = sorted({float(text) for text in args.values.split(",")})
    except ValueError:
        raise UserError(f"--values must be numbers with commas between, such as 0.1,0.5,2; got '{args.values}'") from None
    held.check(values)
    return values


def _limit(env: gymnasium.Env[Any, Any], asked: int | None) -> int | None:
    """After how many steps an episode is cut; None where the environment's own limit does it."""
    own = None if env.spec is None else env.spec.max_episode_steps
    if asked is not None and own is not None and asked > own:
        raise UserError(f"max-episode-steps must be at most {own:,}, the environment's own limit, got {asked:,}")
    return asked if asked is not None or own is not None else _MOST_STEPS


def _make_limited(
    make_env: Callable[..., gymnasium.Env[Any, Any]], limit: int, value: float, **kwargs: Any
) -> TimeLimit[Any, Any]:
    return TimeLimit(make_env(value, **kwargs), limit)


def _first_line(config: Config, trained: Trained, held: HeldParameter) -> str:
    others = [f"{name} stays at {value:.3g}" for name, value in trained.values.items() if name != held.name]
    phase = "" if trained.phase is None else f", phase {trained.phase}"
    others += [] if find_algorithm(config.algo).draws else [f"a policy of {config.algo} draws no actions: deterministic alone"]
    now = "" if held.current is None else f" with {held.shown(held.current)}"
    run = f"{config.env}, method {config.method_words}, seed {config.seed}, at step {trained.steps:,}{phase}{now}"
    return "; ".join([run, *others])


def _of_phase(value: float, trained: Trained, held: HeldParameter) -> str:
    return f"   phase {trained.phase}, the current" if value == held.current else ""


def _table(episodes: list[Episode], held: HeldParameter) -> list[str]:
    """Mean returns with their standard errors, a line for each value."""
    unit = "" if held.change.unit == "1" else f" ({held.change.unit})"
    width = max(12, len(held.name + unit))
    modes = list(dict.fromkeys(episode.mode for episode in episodes))
    rows = [(held.name + unit, modes)]
    greatest = max(abs(episode.total) for episode in episodes)
    digits = 1 if greatest == 0 or not math.isfinite(greatest) else max(1, 2 - math.floor(math.log10(greatest)))
    for value in sorted({episode.value for episode in episodes}):
        cells = []
        for mode in modes:
            totals = [episode.total for episode in episodes if (episode.value, episode.mode) == (value, mode)]
            error = f" ± {np.std(totals, ddof=1) / math.sqrt(len(totals)):,.{digits}f}" if len(totals) > 1 else ""
            cells.append(f"{np.mean(totals):,.{digits}f}{error}")
        rows.append((f"{value:.4g}", cells))
    wide = max(22, *(2 + len(cell) for _, cells in rows for cell in cells))
    return [f"{name:>{width}}" + "".join(f"{cell:>{wide}}" for cell in cells) for name, cells in rows]


def _of_cut(episodes: list[Episode], limit: int | None) -> list[str]:
    cut = 0 if limit is None else sum(episode.length >= limit for episode in episodes)
    return [f"{cut} of {len(episodes)} episodes were cut after {limit:,} steps (--max-episode-steps)."] if cut else []


def _write(episodes: list[Episode], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["value", "mode", "episode", "return", "length"])
        writer.writerows([(each.value, each.mode, each.number, each.total, each.length) for each in episodes])
