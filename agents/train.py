"""Trains PPO, with or without a method against loss of plasticity, in a world that changes.

``python -m agents.train --env ant-nonstationary``
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import checkpoints, presets
from agents.build import find_spec, is_nonstationary, make_model, make_vec_env
from agents.callbacks import PhaseCallback, ProgressCallback, UnitCallback
from agents.config import Config, with_overrides
from agents.errors import UserError, unknown
from agents.logs import make_logger
from agents.ppo import PPO
from agents.report import draw_run
from agents.run_folder import RunFolder
from agents.summary import write_summary

_CHECKPOINT_SECONDS = 300
_INTERRUPTED = 130  # what shells expect after Ctrl-C


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0; 2 after bad input, with one line about it; 130 after Ctrl-C."""
    warnings.showwarning = _show_warning
    try:
        args = _parser().parse_args(arguments)
        if args.resume is not None:
            return _resume(args)
        config, path = _from_arguments(args)
        _use_threads(config)
        model = make_model(config, make_vec_env(config))
        return _train(RunFolder.create(path, config), config, model, PhaseCallback(config.param, path / "episodes.csv"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped at once; --resume goes on from the last checkpoint, if there is one.", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m agents.train", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--env", metavar="ID", help="ant-nonstationary, or any registered Gymnasium id")
    add("--method", metavar="NAME", help=f"{', '.join(presets.METHODS)} (default: cbp)")
    add("--preset", metavar="NAME", help=f"{', '.join(presets.RUNS)} (default: quick)")
    add("--timesteps", metavar="N", type=int, help="environment steps, over all environments")
    add("--period", metavar="N", type=int, help="steps between two changes, over all environments")
    add("--param", metavar="NAME", help="the parameter that changes (default: friction)")
    add("--seed", metavar="S", type=int, help="seed of everything (default: 0)")
    add("--n-envs", metavar="K", type=int, help="number of environments")
    add("--run-dir", metavar="DIR", type=Path, help="run folder (default: runs/<env>/<method>/seed<S>-<time>)")
    add("--set", metavar="KEY=VALUE", action="append", help="another value for a setting of the method; VALUE as in JSON")
    add("--normalize", action="store_true", default=None, help="normalise observations and rewards by running statistics")
    add("--device", metavar="NAME", help="torch device of the networks (default: cpu)")
    add("--threads", metavar="N", type=int, help="threads of the run (default: as many as torch takes, mostly one a core)")
    add("--resume", metavar="RUN", type=Path, help="go on with the run in this folder, from its last checkpoint")
    return parser


def _from_arguments(args: argparse.Namespace) -> tuple[Config, Path]:
    if args.env is None:
        raise UserError("--env is missing, for example: --env ant-nonstationary; or --resume RUN")
    spec = find_spec(args.env)
    preset_name, method, seed = args.preset or "quick", args.method or "cbp", args.seed or 0
    if preset_name not in presets.RUNS:
        raise unknown("preset", preset_name, presets.RUNS)
    preset = presets.RUNS[preset_name]
    if preset.env_kwargs and not is_nonstationary(spec):
        raise UserError(f"preset '{preset_name}' is that of ant-nonstationary, got env '{args.env}'")
    changes = is_nonstationary(spec) or args.period is not None or args.param is not None
    hyperparameters, method_kwargs = with_overrides(method, [*preset.changes.items(), *map(_parse_override, args.set or [])])
    config = Config(
        env=spec.id,
        method=method,
        timesteps=_given(args.timesteps, preset.timesteps),
        period=_given(args.period, preset.period) if changes else None,
        param=_given(args.param, "friction") if changes else None,
        seed=seed,
        n_envs=_given(args.n_envs, preset.n_envs),
        normalize=bool(args.normalize),
        device=_check_device(args.device or "cpu"),
        threads=args.threads,
        env_kwargs=preset.env_kwargs,
        method_kwargs=method_kwargs,
        hyperparameters=hyperparameters,
    )
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return config, args.run_dir or Path("runs", args.env.replace("/", "-"), method, f"seed{seed}-{now}")


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _parse_override(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes key=value, got '{text}'")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _check_device(name: str) -> str:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' cannot be used: {str(error).splitlines()[0]}") from error
    return name


def _resume(args: argparse.Namespace) -> int:
    others = [f"--{name.replace('_', '-')}" for name, value in vars(args).items() if value is not None and name != "resume"]
    if others:
        raise UserError(f"--resume goes on with the run as it was configured and takes no {others[0]}")
    folder, config = RunFolder.open(args.resume)
    _use_threads(config)
    phases = PhaseCallback(config.param, folder.episodes)
    model = checkpoints.load(folder, config, phases)
    if model.num_timesteps >= config.timesteps:
        print(f"The run in {folder.path} is complete: {model.num_timesteps:,} of {config.timesteps:,} steps.")
        return 0
    return _train(folder, config, model, phases)


def _use_threads(config: Config) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)


class _Stop(Exception):  # noqa: N818
    """The user asked to stop."""


class _CheckpointCallback(BaseCallback):
    """Between two rollouts: stops where asked to, and writes a checkpoint every few minutes."""

    def __init__(self, folder: RunFolder, phases: PhaseCallback) -> None:
        super().__init__()
        self.stop = False
        self._folder = folder
        self._phases = phases
        self._last = time.monotonic()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.stop:
            raise _Stop
        if time.monotonic() - self._last > _CHECKPOINT_SECONDS:
            assert isinstance(self.model, PPO)  # noqa: S101
            checkpoints.save(self._folder, self.model, self._phases)
            self._last = time.monotonic()


def _train(folder: RunFolder, config: Config, model: PPO, phases: PhaseCallback) -> int:
    print(_first_line(folder, config, model), flush=True)
    start, resumed = time.monotonic(), model.num_timesteps > 0
    model.set_logger(make_logger(folder))
    checkpointing = _CheckpointCallback(folder, phases)
    progress = ProgressCallback(config.timesteps, phases)
    with _stopping_on_signals(checkpointing):
        try:
            model.learn(
                config.timesteps - model.num_timesteps,
                callback=[checkpointing, phases, UnitCallback(), progress],
                reset_num_timesteps=not resumed,
            )
        except _Stop:
            pass
        finally:
            progress.close()
        model.logger.close()
        checkpoint = checkpoints.save(folder, model, phases)
        summary = write_summary(folder, config, model, phases, time.monotonic() - start)
        draw_run(folder, config)
    model.get_env().close()  # type: ignore[union-attr]
    if not summary["complete"]:
        go_on = f"python -m agents.train --resume {folder.path}"
        print(f"Stopped at {model.num_timesteps:,} steps, saved in {checkpoint}; to go on: {go_on}")
        return _INTERRUPTED
    print(f"Done: {folder.figure} and {folder.summary.name} beside it; curves: tensorboard --logdir {folder.path}")
    return 0


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
    """The first Ctrl-C or SIGTERM stops after the current update; the second one at once, at the last checkpoint."""

    def ask(*_: Any) -> None:
        if checkpointing.stop:
            raise KeyboardInterrupt
        checkpointing.stop = True
        print("\nStopping after this update; once more to stop at once.", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
