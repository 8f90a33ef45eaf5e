"""Supervised runs as a job: what they log, their checkpoints, and what they leave behind."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import Logger

from agents.runs import checkpoint_files, logs
from agents.runs.checkpoint_files import EARLIER, Checkpoint, to_arrays
from agents.runs.commands import progress_bar, show_warning
from agents.runs.errors import for_a_shell
from agents.runs.logs import read_columns
from agents.runs.plan import Run
from agents.runs.run_folder import RunFolder, write_json
from agents.runs.running import Pauses, carry_out, use_threads
from agents.runs.summary import said_versions
from agents.sb3 import dashboard
from agents.supervised.build import Learner, make_learner, together
from agents.supervised.config import LearningConfig
from agents.supervised.figure import draw_learning

_EXAMPLES = "time/total_examples"


def check_buildable(runs: Sequence[Run]) -> None:
    """Refuses what no learner could be made of, before any folder is made.

    Raises:
        UserError: Data that are not there, or settings that make no learner.
    """
    by_label = {config.label: config for run in runs if isinstance(config := run.config, LearningConfig)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are said when the run begins
        for config in by_label.values():
            make_learner([config])


def learn_all(runs: Sequence[Run], go_on: str) -> int:
    """Makes the folders of some runs, locks them and learns; see :func:`learn`."""
    todo = [run for run in runs if run.state != "complete"]
    with ExitStack() as locks:
        for run in todo:
            if not run.folder.config.exists():
                RunFolder.create(run.folder.path, run.config)
            locks.enter_context(run.folder.locked())
        code = learn(todo, go_on)
    if code == 0:
        where = runs[0].folder.path if len(runs) == 1 else runs[0].folder.path.parents[1]
        print(f"Done: {len(runs)} run{'s' if len(runs) > 1 else ''} complete in {where}")
        print(f"To compare: python -m agents.report {for_a_shell(where)} --output {for_a_shell(where / 'report')}")
    return code


def learn(runs: Sequence[Run], go_on: str) -> int:
    """Learns what is not complete of some runs, those together that can be, each from its newest checkpoint.

    Args:
        runs: Their folders must be there, and locked.
        go_on: The command that goes on with them.

    Returns:
        0 when all are complete, 130 when it was asked to stop before.

    Raises:
        UserError: Data that are not there, settings that make no learner, checkpoints that cannot be read, or logs that have
            lost rows.
        RunError: Training broke off.
    """
    found = [(run, checkpoint_files.read_newest(run.folder)) for run in runs if run.state != "complete"]
    for run, checkpoint in found:
        if checkpoint is None:
            logs.check_unwritten(run.folder)  # of all, before those of any are cut
            continue
        with checkpoint.opened() as state:
            logs.check_rows(run.folder, checkpoint.path, state["logs"], state["examples"], _EXAMPLES)

    def company(each: tuple[Run, Checkpoint | None]) -> str:
        run, checkpoint = each
        assert isinstance(run.config, LearningConfig)  # noqa: S101
        alike = together(run.config)
        examples = checkpoint.state.get("examples") if checkpoint else 0
        return str((alike, examples) if alike else run.folder.path)

    groups = [list(of_group) for _, of_group in groupby(sorted(found, key=company), key=company)]
    for number, of_group in enumerate(groups, start=1):
        if code := _Learning(of_group, go_on).carry_out(more=number < len(groups)):
            return code
    return 0


class _Learning:
    """Runs that learn together as a :class:`agents.runs.running.Job`."""

    def __init__(self, found: list[tuple[Run, Checkpoint | None]], go_on: str) -> None:
        self._runs = [run for run, _ in found]
        self._configs = [run.config for run in self._runs if isinstance(run.config, LearningConfig)]
        config = self._configs[0]
        use_threads(config)
        self.folder = self._runs[0].folder
        self.minutes = config.checkpoint_minutes
        self.go_on = go_on
        self._learner: Learner = make_learner(self._configs)
        _warn_if_too_short(config, self._learner.updates)
        self._earlier = [checkpoint_files.earlier_versions(checkpoint) if checkpoint else [] for _, checkpoint in found]
        self._loggers: list[Logger] = []
        for number, (run, checkpoint) in enumerate(found):
            self._loggers.append(self._restored(number, run, checkpoint))

    def _restored(self, number: int, run: Run, checkpoint: Checkpoint | None) -> Logger:
        if checkpoint is None:
            logs.cut(run.folder, 0, {}, _EXAMPLES)
            return logs.make_logger(run.folder)
        with checkpoint.going_on() as state:
            self._learner.load_state_dict(number, state["learner"])
            logs.cut(run.folder, state["examples"], to_arrays(state["logs"])["sizes"], _EXAMPLES)
        return logs.make_logger(run.folder)

    def carry_out(self, *, more: bool) -> int:
        for config, logger in zip(self._configs, self._loggers, strict=True):
            dashboard.write_hyperparameters(logger, config.flat())
            task = {"Task": {f"{config.score} of each task": dashboard.chart(f"task/{config.score}")}}
            dashboard.write_layout(logger, task | dashboard.network_sections(["network"], replaces=config.replaces))
        print(self._first_line(), flush=True)
        return carry_out(self, more=more)

    @property
    def position(self) -> str:
        return f"{self._learner.unit} {self._learner.done:,} of {self._learner.total:,}"

    def train(self, pauses: Pauses) -> None:
        learner = self._learner
        long = learner.total > 10_000
        bar = progress_bar(learner.total, learner.done, unit=f" {learner.unit}s", unit_scale=long)
        since, examples = time.monotonic(), learner.examples
        try:
            while learner.done < learner.total:
                pauses.here(1)
                rows = learner.advance()
                bar.update(learner.done - bar.n)
                if rows is not None:
                    now = time.monotonic()
                    self._write(rows, (learner.examples - examples) / (now - since))
                    since, examples = now, learner.examples
                    bar.set_postfix_str(self._words(rows), refresh=False)
        finally:
            bar.close()

    def _write(self, rows: list[dict[str, float]], speed: float) -> None:
        for logger, row in zip(self._loggers, rows, strict=True):
            for name, value in row.items():
                logger.record(name, value)
            logger.record(_EXAMPLES, self._learner.examples)
            logger.record("time/examples_per_second", speed)
            logger.dump(self._learner.examples)

    def _words(self, rows: list[dict[str, float]]) -> str:
        score = self._configs[0].score
        scores = [row[f"task/{score}"] for row in rows]
        replaced = [row["cbp/network/replaced"] for row in rows if "cbp/network/replaced" in row]
        words = f"task {self._learner.tasks}, {score} {np.mean(scores):.3g}"
        return f"{words}, {np.mean(replaced):.0f} units replaced" if replaced else words

    def save(self) -> Path:
        paths = []
        for number, (run, logger) in enumerate(zip(self._runs, self._loggers, strict=True)):
            state = {
                "examples": self._learner.examples,
                "learner": self._learner.state_dict(number),
                "logs": logs.save_state(logger, run.folder),
                EARLIER: self._earlier[number],
            }
            paths.append(checkpoint_files.write(run.folder, self._learner.examples, state))
        return paths[0]

    def finish(self, seconds: float) -> bool:
        complete = self._learner.done >= self._learner.total
        for run, config, logger, earlier in zip(self._runs, self._configs, self._loggers, self._earlier, strict=True):
            draw_learning(run.folder, config)
            dashboard.write_figure(logger, run.folder.figure, self._learner.examples)
            logger.close()
            summary = _summary(read_columns(run.folder.progress), config, complete)
            total = {"examples": self._learner.examples, **said_versions(earlier), "time": {"seconds": round(seconds, 1)}}
            write_json(run.folder.summary, summary | total)
            run.state = "complete" if complete else "stopped"
        return complete

    def _first_line(self) -> str:
        config, learner = self._configs[0], self._learner
        who = f"{len(self._runs)} runs together" if len(self._runs) > 1 else f"method {config.label}, seed {config.seed}"
        at = f" from {learner.unit} {learner.done:,}" if learner.done else ""
        where = f"{self.folder.path}" + (f" and {len(self._runs) - 1} more folders" if len(self._runs) > 1 else "")
        return f"{config.problem} ({config.dataset}), {who}: {learner.total:,} {learner.unit}s{at}; writing to {where}"


def _warn_if_too_short(config: LearningConfig, of_tasks: list[tuple[int, int]]) -> None:
    """Warns where the method never acts, or no unit becomes mature, as :func:`agents.sb3.updates.too_short` does of agents."""
    maturity = config.method_kwargs.get("maturity_threshold", 0)
    is_fresh = config.settings.at_task == "fresh_network"
    updates = max(updates for updates, _ in of_tasks) if is_fresh else sum(updates * tasks for updates, tasks in of_tasks)
    period = config.method_kwargs.get("period", 1)
    if updates < period:
        show_warning(
            f"{config.method} will not act: its period is {period:,} updates, and this run has {updates:,}; "
            f"train longer or lower period"
        )
    if updates <= maturity:
        show_warning(
            f"no unit will be replaced: units mature after {maturity:,} updates, and this run has {updates:,}; "
            f"train longer or lower maturity_threshold"
        )


def _summary(columns: dict[str, Any], config: LearningConfig, complete: bool) -> dict[str, Any]:
    scores = columns.get(f"task/{config.score}", np.zeros(0))
    tenth = max(1, math.ceil(len(scores) / 10))

    def mean(values: Any) -> float | None:
        return float(np.mean(values)) if len(values) and np.isfinite(values).all() else None

    replaced = columns.get("cbp/network/replaced", np.zeros(0))
    return {
        "complete": complete,
        "tasks": len(scores),
        f"mean_{config.score}": mean(scores),
        f"first_{config.score}": mean(scores[:tenth]),
        f"final_{config.score}": mean(scores[-tenth:]),
        "units_replaced": int(replaced[-1]) if len(replaced) else None,
    }
