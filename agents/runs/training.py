"""A run of reinforcement learning from its beginning, or from its newest checkpoint, to its end."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from agents.runs import checkpoint_files
from agents.runs.build import make_model, make_vec_env
from agents.runs.checkpoints import Checkpoints, check_environment
from agents.runs.config import Config
from agents.runs.errors import for_a_shell
from agents.runs.figure import draw_run
from agents.runs.logs import make_logger
from agents.runs.recording import LogCallback, ProgressCallback, Recorders
from agents.runs.run_folder import RunFolder, new_file
from agents.runs.running import Pauses, carry_out, complete, use_threads
from agents.runs.summary import complete_steps, write_summary
from agents.sb3 import dashboard
from agents.sb3.phases import ChangeCallback, FreshNetworkCallback, PhaseCallback


def start(path: Path, config: Config) -> int:
    """Begins a run in a new folder.

    Args:
        path: The folder, which must not exist.
        config: The run.

    Returns:
        0 when the run is complete, 130 when it was asked to stop before.

    Raises:
        UserError: The folder exists or cannot be written, the configuration makes no model, or no environment that can be
            saved.
        RunError: Training broke off.
    """
    use_threads(config)
    check_environment(config)
    model = make_model(config, make_vec_env(config))
    folder = RunFolder.create(path, config)
    with folder.locked():
        model.set_logger(make_logger(folder))
        recorders = Recorders.of(folder, config)
        return _Training(folder, config, model, recorders, Checkpoints(folder, recorders._asdict())).carry_out()


def resume(folder: RunFolder, config: Config, export: Path | None = None) -> int:
    """Goes on with a run from its newest checkpoint; without one, from the beginning. A complete run stays as it is.

    Args:
        folder: The run.
        config: Its configuration.
        export: Write the model to this file as a zip of Stable-Baselines3's, and do nothing else.

    Returns:
        0 when the run is complete, 130 when it was asked to stop before.

    Raises:
        UserError: The folder is in use or its checkpoints cannot be read; or the file to export to exists, or there is no
            checkpoint to export.
        RunError: Training broke off.
    """
    with folder.locked():
        use_threads(config)
        recorders = Recorders.of(folder, config)
        checkpoints = Checkpoints(folder, recorders._asdict())
        if export is not None:
            return _export(checkpoints.load_model(replace(config, device="cpu")), export)
        if (steps := complete_steps(folder)) >= config.timesteps:  # whatever became of its checkpoints
            return _say_complete(folder, config, steps)
        model = checkpoints.load(config)
        training = _Training(folder, config, model, recorders, checkpoints)
        if model.num_timesteps >= config.timesteps:  # it was killed between its last checkpoint and its summary
            complete(training)
            return _say_complete(folder, config, model.num_timesteps)
        return training.carry_out()


def _say_complete(folder: RunFolder, config: Config, steps: int) -> int:
    print(f"The run in {folder.path} is complete: {steps:,} of {config.timesteps:,} steps.")
    return 0


def _export(model: BaseAlgorithm, path: Path) -> int:
    path = path if path.suffix else path.with_name(f"{path.name}.zip")  # as Stable-Baselines3 does
    with new_file(path) as file:
        model.save(file)
    print(f"{path}: the model at {model.num_timesteps:,} steps, for stable_baselines3.{type(model).__name__}.load")
    return 0


class _PauseCallback(BaseCallback):
    """Between two rollouts a run can be stopped and saved."""

    every_step = False

    def __init__(self, pauses: Pauses, phases: PhaseCallback) -> None:
        super().__init__()
        self._pauses = pauses
        self._phases = phases

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._pauses.here(max(1, len(self._phases.phases)))


class _LossCallback(BaseCallback):
    """Breaks off where a loss is no number any more, before a checkpoint of that is written."""

    every_step = False

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        for name, value in self.logger.name_to_value.items():
            if name.startswith("train/") and name.endswith("loss") and not math.isfinite(value):
                raise ValueError("a loss is not a finite number: check rewards, observations and the learning rate")

    def _on_training_end(self) -> None:
        self._on_rollout_start()


class _Training:
    """A run as a :class:`agents.runs.running.Job`."""

    def __init__(
        self, folder: RunFolder, config: Config, model: BaseAlgorithm, recorders: Recorders, checkpoints: Checkpoints
    ) -> None:
        self.folder = folder
        self.minutes = config.checkpoint_minutes
        self.go_on = f"python -m agents.train --resume {for_a_shell(folder.path)}"
        self._config = config
        self._model = model
        self._began = model.num_timesteps
        self._recorders = recorders
        self._checkpoints = checkpoints
        self._ended = self._phases_ended
        self._not_kept: set[int] = set()  # of which that was said

    def carry_out(self) -> int:
        print(self._first_line(), flush=True)
        settings = {name.removeprefix("hyperparameters."): value for name, value in self._config.flat().items()}
        dashboard.write_hyperparameters(self._model.logger, settings)
        code = carry_out(self)
        self._model.get_env().close()  # type: ignore[union-attr]
        return code

    @property
    def position(self) -> str:
        return f"step {self._model.num_timesteps:,}"

    def train(self, pauses: Pauses) -> None:
        progress = ProgressCallback(self._config.timesteps, self._recorders.phases)
        callbacks: list[BaseCallback] = [_LossCallback(), *self._recorders, progress]
        if isinstance(self._model, OffPolicyAlgorithm):
            callbacks.append(LogCallback(self._config))
        preset = self._config.preset
        if preset.needs_signal:
            callbacks.append(FreshNetworkCallback() if preset.method is None else ChangeCallback())
        # The last, so that what the others do between two rollouts is in a checkpoint.
        callbacks.append(_PauseCallback(pauses, self._recorders.phases))
        try:
            # Of an off-policy algorithm the callback logs, at steps that do not depend on the lengths of episodes.
            log_interval: Any = None if isinstance(self._model, OffPolicyAlgorithm) else 1
            left = self._config.timesteps - self._model.num_timesteps
            self._model.learn(left, callbacks, log_interval, reset_num_timesteps=False)
        finally:
            progress.close()

    @property
    def _phases_ended(self) -> int:
        is_over = self._model.num_timesteps >= self._config.timesteps
        return max(self._recorders.phases.phases, default=0) + is_over

    def save(self) -> Path:
        before, self._ended = self._ended, self._phases_ended
        path = self._checkpoints.save(self._model)
        if self._config.keep_phases:
            self._keep(path, range(before, self._ended))
        return path

    def _keep(self, path: Path, phases: range) -> None:
        """Keeps a checkpoint of the phases that have ended since the one before it; none is made up for earlier ones."""
        why = ""
        try:
            checkpoint_files.keep(self.folder, path, phases)
        except OSError as error:
            why = f": {error.strerror}"
        missing = set(range(self._ended)) - checkpoint_files.kept(self.folder).keys() - self._not_kept
        if missing:
            self._not_kept |= missing
            names = ", ".join(str(phase) for phase in sorted(missing))
            warnings.warn(f"no checkpoint is kept of the end of phase {names}{why}", stacklevel=2)

    def finish(self, seconds: float) -> bool:
        folder, logger = self.folder, self._model.logger
        steps = self._model.num_timesteps - self._began
        draw_run(folder, self._config)
        dashboard.write_figure(logger, folder.figure, self._model.num_timesteps)
        logger.close()
        # The last, since with it a run is complete.
        earlier = self._checkpoints.earlier_versions
        summary = write_summary(folder, self._config, self._model, self._recorders.phases, seconds, steps, earlier)
        if summary["complete"]:
            print(" ".join([summary["verdict"]["words"], *summary["verdict"]["caveats"]]))
            print(f"Done: {folder.figure} and {folder.summary.name} beside it.")
            print(f"Dashboard: {dashboard.LINK} after: tensorboard --logdir {for_a_shell(folder.path)} --host localhost")
        return bool(summary["complete"])

    def _first_line(self) -> str:
        config, steps = self._config, self._model.num_timesteps
        change = f", {config.change_words}" if config.params else ""
        at = f" from step {steps:,}" if steps else ""
        environments = f"{config.n_envs} environment{'s' if config.n_envs > 1 else ''}"
        length = f"{config.timesteps:,} steps of {environments}{at}{change}"
        return f"{config.env}, method {config.method_words}, seed {config.seed}: {length}; writing to {self.folder.path}"
