"""Trains PPO, with or without a method against loss of plasticity, in a world that changes.

``python -m agents.train --env ant-nonstationary``
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import checkpoints, dashboard, presets
from agents.build import make_model, make_vec_env
from agents.callbacks import FreshNetworkCallback, PhaseCallback, PlasticityCallback, ProgressCallback, VerdictCallback
from agents.commands import INTERRUPTED, Parser, add_run_options, folder_of, given, make_config, run_command
from agents.config import Config
from agents.errors import RunError, UserError
from agents.figures import draw_run
from agents.logs import make_logger
from agents.plasticity import EVERY, RANKS_EVERY
from agents.ppo import PPO
from agents.run_folder import RunFolder
from agents.summary import is_complete, write_summary


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input, 1 after a failure, with a line about it; 130 after Ctrl-C."""
    try:
        return run_command(lambda: _train_or_resume(_parser().parse_args(arguments)))
    except KeyboardInterrupt:
        print("Stopped at once; --resume goes on from the last checkpoint, if there is one.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m agents.train", description=__doc__, allow_abbrev=False)
    add_run_options(parser)
    add = parser.add_argument
    add("--method", metavar="NAME", help=f"{', '.join(presets.METHODS)} (default: cbp)")
    add("--seed", metavar="S", type=int, help="seed of everything (default: 0)")
    add("--run-dir", metavar="DIR", type=Path, help="run folder (default: runs/<env>/<method>/seed<S>-<time>)")
    add("--resume", metavar="RUN", type=Path, help="go on with the run in this folder, exactly where it stopped")
    add("--export", metavar="FILE", type=Path, help="with --resume: only write the model as a zip of Stable-Baselines3's")
    return parser


def _train_or_resume(args: argparse.Namespace) -> int:
    if args.resume is not None:
        options = [name for name, value in vars(args).items() if value is not None and name not in ("resume", "export")]
        if options:
            option = options[0].replace("_", "-")
            raise UserError(f"--resume goes on with the run as it was configured and takes no --{option}")
        return resume(*RunFolder.open(args.resume), export=args.export)
    if args.export is not None:
        raise UserError("--export needs --resume RUN, the run whose model is meant")
    method, seed = given(args.method, "cbp"), given(args.seed, 0)
    config = make_config(args, method, seed)
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = args.run_dir or folder_of(Path("runs"), config, f"seed{seed}-{now}")
    _use_threads(config)
    model = make_model(config, make_vec_env(config))
    folder = RunFolder.create(path, config)
    with folder.locked():
        model.set_logger(make_logger(folder))
        return _train(folder, config, model, _Recorders.of(folder, config))


def resume(folder: RunFolder, config: Config, export: Path | None = None) -> int:
    """Goes on with a run from its newest checkpoint; without one, from the beginning.

    Args:
        folder: The run.
        config: Its configuration.
        export: Write the model to this file as a zip of Stable-Baselines3's, and do nothing else.

    Returns:
        0 when the run is complete, 130 when it was asked to stop before.

    Raises:
        UserError: The folder is in use or its checkpoints cannot be read, or the file to export to exists.
        RunError: Training broke off.
    """
    with folder.locked():
        _use_threads(config)
        recorders = _Recorders.of(folder, config)
        model = checkpoints.load(folder, config, recorders._asdict())
        if export is not None:
            return _export(model, export)
        if model.num_timesteps >= config.timesteps:
            if not is_complete(folder):  # it was killed between its last checkpoint and its summary
                _finish(folder, config, model, recorders, seconds=0)
            print(f"The run in {folder.path} is complete: {model.num_timesteps:,} of {config.timesteps:,} steps.")
            return 0
        return _train(folder, config, model, recorders)


def _export(model: PPO, path: Path) -> int:
    if path.exists():
        raise UserError(f"'{path}' exists already")
    try:
        model.save(path)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from error
    print(f"{path}: the model at {model.num_timesteps:,} steps, for stable_baselines3.PPO.load")
    return 0


def _use_threads(config: Config) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)


class _Recorders(NamedTuple):
    """What records a run, in the order in which it is called."""

    phases: PhaseCallback
    plasticity: PlasticityCallback
    verdicts: VerdictCallback

    @classmethod
    def of(cls, folder: RunFolder, config: Config) -> _Recorders:
        phase = config.period or config.timesteps
        # Also a short phase has some records, of several rollouts.
        every, ranks_every = max(1, min(EVERY, phase // 4)), max(1, min(RANKS_EVERY, phase // 2))
        phases = PhaseCallback(config.param, folder.episodes)
        plasticity = PlasticityCallback(every, ranks_every, folder.probe)
        return cls(phases, plasticity, VerdictCallback(phases, plasticity, config.method))


class _Stop(Exception):  # noqa: N818
    """The user asked to stop."""


class _CheckpointCallback(BaseCallback):
    """Between two rollouts: stops where asked to; writes a checkpoint at the start, after each phase and every few minutes."""

    def __init__(self, folder: RunFolder, minutes: float, recorders: _Recorders) -> None:
        super().__init__()
        self.stop = False
        self._folder = folder
        self._seconds = 60 * minutes
        self._recorders = recorders
        self._last: tuple[float, int] | None = None  # when, and after how many phases

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.stop:
            raise _Stop
        now, phases = time.monotonic(), max(1, len(self._recorders.phases.phases))
        if self._last is None or phases > self._last[1] or now - self._last[0] > self._seconds:
            self._last = now, phases
            try:
                self.save()
            except OSError as error:
                reason = f"no checkpoint at step {self.num_timesteps:,}: {error.strerror}"
                warnings.warn(f"{reason}; training goes on", stacklevel=2)

    def save(self) -> Path:
        """Writes a checkpoint now."""
        assert isinstance(self.model, PPO)  # noqa: S101
        return checkpoints.save(self._folder, self.model, self._recorders._asdict())


def _train(folder: RunFolder, config: Config, model: PPO, recorders: _Recorders) -> int:
    print(_first_line(folder, config, model), flush=True)
    start = time.monotonic()
    dashboard.write_hyperparameters(model.logger, config)
    checkpointing = _CheckpointCallback(folder, config.checkpoint_minutes, recorders)
    progress = ProgressCallback(config.timesteps, recorders.phases)
    callbacks: list[BaseCallback] = [*recorders, progress]
    if presets.METHODS[config.method].fresh_each_phase:
        callbacks.append(FreshNetworkCallback())
    callbacks.append(checkpointing)  # the last, so that what the others do between two rollouts is in it
    try:
        with _stopping_on_signals(checkpointing):
            try:
                model.learn(config.timesteps - model.num_timesteps, callbacks, reset_num_timesteps=False)
            except _Stop:
                pass
            finally:
                progress.close()
            checkpoint = checkpointing.save()
            summary = _finish(folder, config, model, recorders, time.monotonic() - start)
    except (OSError, ValueError, RuntimeError) as error:
        raise _broken(folder, model, error) from error
    model.get_env().close()  # type: ignore[union-attr]
    if not summary["complete"]:
        go_on = f"python -m agents.train --resume {folder.path}"
        print(f"Stopped at {model.num_timesteps:,} steps, saved in {checkpoint}; to go on: {go_on}")
        return INTERRUPTED
    print(" ".join([summary["verdict"]["words"], *summary["verdict"]["caveats"]]))
    print(f"Done: {folder.figure} and {folder.summary.name} beside it.")
    print(f"Dashboard: {dashboard.LINK} after: tensorboard --logdir {folder.path} --host localhost")
    return 0


def _finish(folder: RunFolder, config: Config, model: PPO, recorders: _Recorders, seconds: float) -> dict[str, Any]:
    """Writes what came of the run."""
    summary = write_summary(folder, config, model, recorders.phases, seconds)
    draw_run(folder, config)
    dashboard.write_figure(model.logger, folder.figure, model.num_timesteps)
    model.logger.close()
    return summary


def _broken(folder: RunFolder, model: PPO, error: Exception) -> RunError:
    """What broke, in one line; the traceback goes to a file."""
    details = ""
    with suppress(OSError):
        folder.errors.write_text(traceback.format_exc())
        details = f" (details in {folder.errors})"
    last = checkpoints.newest(folder)
    kept = f"--resume {folder.path} goes on from {last.name}" if last else "there is no checkpoint"
    reason = " ".join(str(error).split()) or type(error).__name__
    return RunError(f"training broke off at step {model.num_timesteps:,}: {reason}{details}; {kept}")


def _first_line(folder: RunFolder, config: Config, model: PPO) -> str:
    change = f", {config.param} changes every {config.period:,}" if config.param else ""
    at = f" from step {model.num_timesteps:,}" if model.num_timesteps else ""
    environments = f"{config.n_envs} environment{'s' if config.n_envs > 1 else ''}"
    return (
        f"{config.env}, method {config.method}, seed {config.seed}: {config.timesteps:,} steps of {environments}{at}{change}; "
        f"writing to {folder.path}"
    )


@contextmanager
def _stopping_on_signals(checkpointing: _CheckpointCallback) -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or closing of the terminal stops after the current update; another at the last checkpoint."""

    def ask(number: int, _: Any) -> None:
        if number == signal.SIGHUP:  # nobody reads any more, and writing to the terminal would fail
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.__stdout__.fileno())  # type: ignore[union-attr]
            os.dup2(nowhere, sys.__stderr__.fileno())  # type: ignore[union-attr]
        if checkpointing.stop:
            raise KeyboardInterrupt
        checkpointing.stop = True
        print("\nStopping after this update; once more to stop at once.", file=sys.stderr, flush=True)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
