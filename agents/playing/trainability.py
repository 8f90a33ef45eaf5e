"""What ``python -m agents.trainability`` does: lets the networks of each checkpoint learn something new."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

import cbp
from agents.playing.held import HeldParameter
from agents.playing.random_targets import beside_fresh, score, targets_of
from agents.playing.trainability_figure import draw_trainability
from agents.runs import checkpoint_files
from agents.runs.build import make_env, make_model
from agents.runs.checkpoints import Trained, trained_at
from agents.runs.checks import check_whole
from agents.runs.commands import progress_bar
from agents.runs.config import Config
from agents.runs.errors import UserError, in_words
from agents.runs.presets import Hyperparameters
from agents.runs.run_folder import RunFolder, write_atomically, write_json
from agents.sb3.networks import networks
from agents.sb3.vec_env import ThreadedVecEnv
from cbp.trainability import POINTS, Score
from envs.tasks import TASK

MOST_REPETITIONS = 1_000  # each holds a network in memory
ROLLOUTS = 30  # of an agent that learns to act anew; ours: in as many a fresh one of the default run learns to stand
COLUMNS = ("checkpoint", "phase", "steps", "kind", "score", "low", "high")
RETURN = "return"

_Measure = TypeVar("_Measure")


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        repetitions: Of each learning.
        updates: Of a network that learns random targets.
        steps: Of an agent that learns to act anew; 0 for none.
        value: At which the parameter is held meanwhile; None where the run does not change.
        seed: Of all draws.
    """

    repetitions: int
    updates: int
    steps: int
    value: float | None
    seed: int

    @classmethod
    def of(cls, config: Config, repetitions: int, updates: int, steps: int | None, value: float | None, seed: int) -> Self:
        """Settings for a run, checked.

        Raises:
            UserError: One is out of its range.
        """
        check_whole("repetitions", repetitions, least=2, most=MOST_REPETITIONS)
        check_whole("updates", updates, least=POINTS)
        check_whole("seed", seed, least=0)
        if seed + repetitions > 2**32:  # each repetition has a seed of its own
            raise UserError(f"seed must be at most 2^32 - {repetitions}, for as many repetitions, got {seed}")
        if steps is not None:
            check_whole("steps", steps, least=0)
        if steps != 0 and (why := _why_not_anew(config)):
            warnings.warn(f"no agent learns to act anew: {why}", stacklevel=2)
            steps = 0
        if steps != 0:
            rollout = _rollout_steps(config)
            steps = ROLLOUTS * rollout if steps is None else steps
            if steps < 2 * rollout:
                raise UserError(f"steps must be 0 or at least two rollouts of {rollout}, got {steps}")
        if value is not None and (config.param is None or not steps):
            raise UserError(f"--value is where agents learn to act anew while one parameter is held, got {value:g}")
        return cls(repetitions, updates, steps, value, seed)


def _why_not_anew(config: Config) -> str | None:
    """Why no agent can learn to act anew in the run's environment; None where one can."""
    if config.algo != "ppo":
        return f"only agents of ppo do, and the run is of {config.algo}"
    if config.normalize:
        return "the run normalises what it sees"
    if config.param == TASK:
        return "tasks come one after the other in the run"
    return "several parameters change in the run" if len(config.params) > 1 else None


def _rollout_steps(config: Config) -> int:
    assert isinstance(config.hyperparameters, Hyperparameters)  # noqa: S101
    return config.hyperparameters.rollout_steps


def measure(folder: RunFolder, config: Config, settings: Settings) -> int:
    """Measures each checkpoint that was kept, and the newest; writes ``trainability.csv`` and a picture into the run's folder.

    The same call goes on with a measurement that was interrupted.

    Returns:
        0.

    Raises:
        UserError: There is no checkpoint or no probe batch, one is damaged, or there is a measurement with other settings.
    """
    checkpoints = _checkpoints(folder, config)
    held = None
    if config.param is not None and settings.steps:
        held = HeldParameter.of(config, dict.fromkeys(config.params, 0.0), None, None, None)
        values = held.values(3)
        settings = dataclasses.replace(settings, value=values[len(values) // 2] if settings.value is None else settings.value)
        held.check([settings.value])  # type: ignore[list-item]
    learning = _Learning(folder, config, settings, held)
    asked = dataclasses.asdict(settings) | ({"heads": "without their tanh"} if config.algo == "td3" else {})
    table = _Table.at(folder.path / "trainability.csv", asked)
    print(f"{len(checkpoints)} checkpoints of {folder.path}: {', '.join(learning.kinds)}; a fresh network is 1", flush=True)
    with progress_bar(len(checkpoints) * len(learning.kinds), unit=" scores") as bar:
        for phase, path, load in checkpoints:
            if RETURN in learning.kinds and not table.has(path, RETURN) and not _measured(RETURN, path, learning.learns_return):
                learning.kinds.remove(RETURN)
                bar.total = len(checkpoints) * len(learning.kinds)
                warnings.warn(
                    f"no agent learns to act anew: in {settings.steps:,} steps fresh ones are rewarded no more than in their "
                    "first rollout, so there is nothing to compare with (--steps)",
                    stacklevel=2,
                )
            missing = [kind for kind in learning.kinds if not table.has(path, kind)]
            bar.update(len(learning.kinds) - len(missing))
            trained = load() if missing else None
            for kind in missing:
                assert trained is not None  # noqa: S101
                score = _measured(kind, path, partial(learning.score, kind, trained))
                table.add(path, trained.phase if phase is None else phase, trained.steps, kind, score)
                bar.update()
    picture = table.path.with_suffix(".png")
    try:
        draw_trainability(table.rows, config, settings.value, picture)
    except OSError as error:
        raise UserError(f"cannot write '{picture}': {error.strerror}") from error
    for row in table.rows:
        print(f"step {row['steps']:>12,}  {row['kind']:<17} {row['score']:6.2f}  [{row['low']:.2f}, {row['high']:.2f}]")
    print(f"Done: {table.path} and {picture.name}")
    return 0


def _measured(kind: str, path: Path, measure: Callable[[], _Measure]) -> _Measure:
    """What is measured of a checkpoint.

    Raises:
        UserError: It cannot be, as where an environment of others raises something.
    """
    try:
        return measure()
    except Exception as error:
        reason = error if isinstance(error, ValueError | UserError) else in_words(error)
        raise UserError(f"{kind} of checkpoint '{path}' cannot be measured: {reason}") from error


def _checkpoints(folder: RunFolder, config: Config) -> list[tuple[int | None, Path, Callable[[], Trained]]]:
    """The checkpoints that were kept, and the newest if it is none of these, in their order: phase, file, how it is loaded."""
    found: dict[int, tuple[int | None, Path, Callable[[], Trained]]] = {}

    def load(path: Path) -> Trained:
        return trained_at(checkpoint_files.read(path), config)

    for phase, path in checkpoint_files.kept(folder).items():
        found.setdefault(
            checkpoint_files.steps_of(path), (phase, path, partial(load, path))
        )  # two phases may end in one rollout
    newest = checkpoint_files.read_newest(folder)  # now, since a run that is at work will drop it
    if newest is None and not found:
        raise UserError(f"'{folder.path}' has no checkpoint yet")
    if newest is not None:
        found.setdefault(checkpoint_files.steps_of(newest.path), (None, newest.path, partial(trained_at, newest, config)))
    return [found[steps] for steps in sorted(found)]


class _Learning:
    """Lets the networks of checkpoints learn, each kind of learning beside fresh networks, which learn once."""

    def __init__(self, folder: RunFolder, config: Config, settings: Settings, held: HeldParameter | None) -> None:
        if not folder.probe.is_file():
            raise UserError(f"'{folder.path}' has no probe batch, on which networks learn: it comes with the first 1,000 steps")
        try:
            with np.load(folder.probe) as saved:
                self._observations = saved["observations"]
                self._actions = torch.as_tensor(saved["actions"]) if "actions" in saved else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read '{folder.probe}': {in_words(error)}") from error
        self._config = config
        self._settings = settings
        self._held = held
        self._beside: dict[str, Any] = {}
        self._targets = targets_of(*config.networks)
        self.kinds = [*self._targets, *([RETURN] if settings.steps else [])]

    def learns_return(self) -> bool:
        """Whether fresh agents are rewarded more over all steps than in their first rollout, on average."""
        whole, before = self._fresh(RETURN, self._let_fresh_agents_learn)
        return bool((whole - before).mean() > 0)

    def score(self, kind: str, trained: Trained) -> Score:
        """The score of a checkpoint in a kind of learning."""
        if kind == RETURN:
            fresh, before = self._fresh(kind, self._let_fresh_agents_learn)
            return Score.of(self._let_agents_learn(trained)[0] - before, fresh - before, least=0.0)  # in units of the reward
        targets = self._targets[kind]
        trainability = self._fresh(targets.network, partial(self._let_fresh_networks_learn, targets.network, trained))
        return score(trainability, trained.policy, targets)

    def _fresh(self, learner: str, learn: Callable[[], Any]) -> Any:
        if learner not in self._beside:
            self._beside[learner] = learn()
        return self._beside[learner]

    def _let_fresh_networks_learn(self, network: str, trained: Trained) -> cbp.Trainability:
        values, settings = self._config.hyperparameters, self._settings
        optimizer = partial(
            torch.optim.Adam,
            lr=values.learning_rate,
            betas=(values.beta1, values.beta2),
            eps=values.adam_eps,
            weight_decay=values.weight_decay,
        )
        return beside_fresh(
            trained.policy,
            network,
            self._observations,
            self._actions,
            optimizer,
            repetitions=settings.repetitions,
            updates=settings.updates,
            batch_size=values.batch_size,
            seed=settings.seed,
        )

    def _let_fresh_agents_learn(self) -> tuple[Tensor, Tensor]:
        return self._let_agents_learn(None)

    def _let_agents_learn(self, trained: Trained | None) -> tuple[Tensor, Tensor]:
        """Lets agents learn to act in the run's environment, held at one value, by the run's own settings without its method.

        Args:
            trained: Whose hidden layers they have; None for fresh ones. Their heads and σ are fresh in any case, so that what
                they knew to do does not count.

        Returns:
            Mean reward of a step, of each repetition: over all steps, and over the first rollout.
        """
        means = [self._let_agent_learn(trained, repetition) for repetition in range(self._settings.repetitions)]
        whole, first_rollouts = torch.tensor(means, dtype=torch.float64).T
        return whole, first_rollouts

    def _let_agent_learn(self, trained: Trained | None, repetition: int) -> tuple[float, float]:
        config = dataclasses.replace(self._config, seed=self._settings.seed + repetition)
        rollout = _rollout_steps(config)
        vec_env = ThreadedVecEnv([self._make_env] * config.n_envs)
        with closing(vec_env):
            model = make_model(config, vec_env, with_method=False)
            model.set_logger(configure(None, []))
            if trained is not None:
                _give_hidden_layers(trained.policy, model.policy)
            model.learn(rollout)
            first = _rewards(vec_env) / model.num_timesteps
            model.learn(self._settings.steps - rollout, reset_num_timesteps=False)
        return _rewards(vec_env) / model.num_timesteps, first

    def _make_env(self) -> Monitor:
        held, value = self._held, self._settings.value
        if held is None or value is None:
            return Monitor(make_env(dataclasses.replace(self._config, n_envs=1)))
        return Monitor(held.make_env(value))


def _give_hidden_layers(giver: BasePolicy, receiver: BasePolicy) -> None:
    for name, modules in networks(receiver).items():
        for own, theirs in zip(modules[:-1], networks(giver)[name][:-1], strict=True):
            own.load_state_dict(theirs.state_dict())


def _rewards(vec_env: ThreadedVecEnv) -> float:
    """The sum of all rewards so far."""
    monitors: list[Any] = list(vec_env.envs)
    return float(sum(sum(monitor.get_episode_rewards()) + sum(monitor.rewards) for monitor in monitors))


class _Table:
    """``trainability.csv``, a row for each score, and beside it in JSON how it was measured."""

    def __init__(self, path: Path, rows: list[dict[str, Any]]) -> None:
        self.path = path
        self.rows = rows

    @classmethod
    def at(cls, path: Path, asked: dict[str, Any]) -> Self:
        """The table as far as it is, or a new one.

        Raises:
            UserError: It was measured with other settings, or cannot be read or written.
        """
        try:
            if not path.exists():
                write_json(path.with_suffix(".json"), asked)
                return cls(path, [])
            was = {"heads": "with their tanh"} | json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            for name, value in asked.items():
                if was[name] != value:
                    raise UserError(
                        f"'{path}' was measured with {name} {was[name]}, not {value}: to measure anew, move it away with its "
                        ".json and .png"
                    )
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows = [_typed(row) for row in reader]
                if tuple(reader.fieldnames or ()) != tuple(COLUMNS):
                    raise ValueError
                return cls(path, rows)
        except OSError as error:
            raise UserError(f"cannot go on with '{path}': {error.strerror}") from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, csv.Error) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot go on with '{path}': it is not a table of scores") from error

    def has(self, checkpoint: Path, kind: str) -> bool:
        """Whether a score was measured."""
        return any((row["checkpoint"], row["kind"]) == (checkpoint.name, kind) for row in self.rows)

    def add(self, checkpoint: Path, phase: int | None, steps: int, kind: str, score: Score) -> None:
        """Adds a score, and writes the table."""
        numbers = (score.score, score.low, score.high)
        self.rows.append(dict(zip(COLUMNS, (checkpoint.name, phase, steps, kind, *numbers), strict=True)))
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        try:
            write_atomically(self.path, text.getvalue())
        except OSError as error:
            raise UserError(f"cannot write '{self.path}': {error.strerror}") from error


def _typed(row: dict[str, str]) -> dict[str, Any]:
    if None in row:
        raise ValueError
    numbers = {name: float(row[name]) for name in ("score", "low", "high")}
    return {**row, "phase": int(row["phase"]) if row["phase"] else None, "steps": int(row["steps"]), **numbers}
