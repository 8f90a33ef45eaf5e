"""Trains PPO, with or without a method against loss of plasticity, in a world that changes.

``python -m agents.train --env ant-nonstationary``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from stable_baselines3.common.callbacks import BaseCallback

from agents import checkpoints, dashboard, presets
from agents.build import make_model, make_vec_env
from agents.callbacks import FreshNetworkCallback, PhaseCallback, PlasticityCallback, ProgressCallback, VerdictCallback
from agents.commands import Parser, add_shared_options, folder_of, given, run_command, use_threads
from agents.config import Config
from agents.errors import UserError
from agents.figures import draw_run
from agents.listing import list_environments, list_parameters
from agents.logs import make_logger
from agents.options import add_run_options, make_config
from agents.plasticity import EVERY, RANKS_EVERY
from agents.ppo import PPO
from agents.run_folder import RunFolder
from agents.running import Pauses, carry_out
from agents.summary import is_complete, write_summary


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input, 1 after a failure, with a line about it; 130 after Ctrl-C."""
    return run_command(
        lambda: _train_or_resume(_parser().parse_args(arguments)),
        interrupted="--resume goes on from the last checkpoint, if there is one",
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m agents.train", description=__doc__, allow_abbrev=False)
    add_run_options(parser)
    add_shared_options(parser)
    add = parser.add_argument
    add("--method", metavar="NAME", help=f"{', '.join(presets.METHODS)} (default: cbp)")
    add("--seed", metavar="S", type=int, help="seed of everything (default: 0)")
    add("--run-dir", metavar="DIR", type=Path, help="run folder (default: runs/<env>/<method>/seed<S>-<time>)")
    add("--resume", metavar="RUN", type=Path, help="go on with the run in this folder, exactly where it stopped")
    add("--list-envs", action="store_true", default=None, help="list the registered environments, and do nothing else")
    add("--list-parameters", metavar="ENV", help="list what can change in an environment, and do nothing else")
    add("--export", metavar="FILE", type=Path, help="with --resume: only write the model as a zip of Stable-Baselines3's")
    return parser


def _train_or_resume(args: argparse.Namespace) -> int:
    if args.list_envs or args.list_parameters is not None:
        print("\n".join(list_environments() if args.list_envs else list_parameters(args.list_parameters)))
        return 0
    if args.resume is not None:
        options = [name for name, value in vars(args).items() if value is not None and name not in ("resume", "export")]
        if options:
            option = options[0].replace("_", "-")
            raise UserError(f"--resume goes on with the run as it was configured and takes no --{option}")
        folder, config = RunFolder.open(args.resume)
        if not isinstance(config, Config):
            raise UserError(f"'{args.resume}' is a run of agents.learn; python -m agents.learn --resume {args.resume}")
        return resume(folder, config, export=args.export)
    if args.export is not None:
        raise UserError("--export needs --resume RUN, the run whose model is meant")
    method, seed = given(args.method, "cbp"), given(args.seed, 0)
    config = make_config(args, method, seed)
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = args.run_dir or folder_of(Path("runs"), config, f"seed{seed}-{now}")
    use_threads(config)
    model = make_model(config, make_vec_env(config))
    folder = RunFolder.create(path, config)
    with folder.locked():
        model.set_logger(make_logger(folder))
        return _Training(folder, config, model, _Recorders.of(folder, config)).carry_out()


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
        use_threads(config)
        recorders = _Recorders.of(folder, config)
        model = checkpoints.load(folder, config, recorders._asdict())
        if export is not None:
            return _export(model, export)
        training = _Training(folder, config, model, recorders)
        if model.num_timesteps >= config.timesteps:
            if not is_complete(folder):  # it was killed between its last checkpoint and its summary
                training.finish(seconds=0)
            print(f"The run in {folder.path} is complete: {model.num_timesteps:,} of {config.timesteps:,} steps.")
            return 0
        return training.carry_out()


def _export(model: PPO, path: Path) -> int:
    if path.exists():
        raise UserError(f"'{path}' exists already")
    try:
        model.save(path)
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from error
    print(f"{path}: the model at {model.num_timesteps:,} steps, for stable_baselines3.PPO.load")
    return 0


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
        phases = PhaseCallback(config.params, folder.episodes)
        plasticity = PlasticityCallback(every, ranks_every, folder.probe)
        return cls(phases, plasticity, VerdictCallback(phases, plasticity, config.method))


class _PauseCallback(BaseCallback):
    """Between two rollouts a run can be stopped and saved."""

    def __init__(self, pauses: Pauses, phases: PhaseCallback) -> None:
        super().__init__()
        self._pauses = pauses
        self._phases = phases

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._pauses.here(max(1, len(self._phases.phases)))


class _Training:
    """A run as a :class:`agents.running.Job`."""

    def __init__(self, folder: RunFolder, config: Config, model: PPO, recorders: _Recorders) -> None:
        self.folder = folder
        self.minutes = config.checkpoint_minutes
        self.go_on = f"python -m agents.train --resume {folder.path}"
        self._config = config
        self._model = model
        self._recorders = recorders

    def carry_out(self) -> int:
        print(self._first_line(), flush=True)
        dashboard.write_hyperparameters(self._model.logger, self._config)
        code = carry_out(self)
        self._model.get_env().close()  # type: ignore[union-attr]
        return code

    @property
    def position(self) -> str:
        return f"step {self._model.num_timesteps:,}"

    def train(self, pauses: Pauses) -> None:
        progress = ProgressCallback(self._config.timesteps, self._recorders.phases)
        callbacks: list[BaseCallback] = [*self._recorders, progress]
        if presets.METHODS[self._config.method].fresh_each_phase:
            callbacks.append(FreshNetworkCallback())
        # The last, so that what the others do between two rollouts is in a checkpoint.
        callbacks.append(_PauseCallback(pauses, self._recorders.phases))
        try:
            self._model.learn(self._config.timesteps - self._model.num_timesteps, callbacks, reset_num_timesteps=False)
        finally:
            progress.close()

    def save(self) -> Path:
        return checkpoints.save(self.folder, self._model, self._recorders._asdict())

    def finish(self, seconds: float) -> bool:
        folder, logger = self.folder, self._model.logger
        summary = write_summary(folder, self._config, self._model, self._recorders.phases, seconds)
        draw_run(folder, self._config)
        dashboard.write_figure(logger, folder.figure, self._model.num_timesteps)
        logger.close()
        if summary["complete"]:
            print(" ".join([summary["verdict"]["words"], *summary["verdict"]["caveats"]]))
            print(f"Done: {folder.figure} and {folder.summary.name} beside it.")
            print(f"Dashboard: {dashboard.LINK} after: tensorboard --logdir {folder.path} --host localhost")
        return bool(summary["complete"])

    def _first_line(self) -> str:
        config, steps = self._config, self._model.num_timesteps
        change = f", {config.change_words}" if config.params else ""
        at = f" from step {steps:,}" if steps else ""
        environments = f"{config.n_envs} environment{'s' if config.n_envs > 1 else ''}"
        length = f"{config.timesteps:,} steps of {environments}{at}{change}"
        return f"{config.env}, method {config.method}, seed {config.seed}: {length}; writing to {self.folder.path}"


if __name__ == "__main__":
    sys.exit(main())
