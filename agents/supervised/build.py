"""Makes streams and learners from configurations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.runs.errors import UserError, message_of, one_line
from agents.supervised.config import LearningConfig
from agents.supervised.online import OnlineLearner, OnlineSettings
from agents.supervised.online_plain import PlainLearner
from agents.supervised.presets import Settings
from agents.supervised.task_learner import TaskLearner
from envs import ParameterError, streams
from envs.streams import datasets
from envs.streams.augmentation import flip_crop_rotate, jitter

_CHUNK = 1_000  # ours: examples from one point where a run can be stopped to the next
_TEST_SHARE = 0.25  # ours: of the digits
_OF_MINIBATCHES = (
    "network", "momentum", "batch_size", "epochs", "lr_drops", "lr_drop_factor", "restore_best", "augment",
)  # fmt: skip


class OnlineTasks:
    """Runs that learn together, example by example, measured at the end of each task.

    Args:
        learner: The runs.
        score: ``"error"`` or ``"accuracy"``, what the learner tells.
        tasks: How many.
        examples: Of a task.
    """

    unit = "example"

    def __init__(self, learner: OnlineLearner | PlainLearner, score: str, tasks: int, examples: int) -> None:
        self.examples = 0
        self.total = tasks * examples
        self.updates = [(examples, tasks)]
        self._learner = learner
        self._score = score
        self._of_task = examples
        self._sum: NDArray[np.float64] = np.zeros(learner.runs)

    @property
    def tasks(self) -> int:
        """Tasks that are over."""
        return self.examples // self._of_task

    @property
    def done(self) -> int:
        """Examples so far."""
        return self.examples

    def advance(self) -> list[dict[str, float]] | None:
        """Learns from up to 1,000 examples; at the end of a task, tells what was measured in each run."""
        if self.examples and self.examples % self._of_task == 0:
            self._learner.begin_task()
        number = min(_CHUNK, self._of_task - self.examples % self._of_task)
        self._sum += number * self._learner.learn(number)[self._score]
        self.examples += number
        if self.examples % self._of_task:
            return None
        scores, self._sum = self._sum / self._of_task, np.zeros_like(self._sum)
        measures = self._learner.measures()
        rows = []
        for run, score in enumerate(scores):
            row = {"task/number": self.tasks - 1, f"task/{self._score}": float(score)}
            for name, values in measures.items():
                group = "cbp/network" if name == "replaced" else "plasticity/network"
                row[f"{group}/{name}"] = float(values[run])
            rows.append(row)
        return rows

    def state_dict(self, run: int) -> dict[str, Any]:
        """Everything of a run that changes with time."""
        return {"examples": self.examples, "sum": float(self._sum[run]), "learner": self._learner.state_dict(run)}

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Goes on from a state of a run; all runs must be equally far."""
        self.examples = state["examples"]
        self._sum[run] = state["sum"]
        self._learner.load_state_dict(run, state["learner"])


Learner = OnlineTasks | TaskLearner
"""One run, or several that learn together; ``done`` of ``total`` is done, in ``unit``."""


def together(config: LearningConfig) -> Any:
    """What must be equal in runs that learn together; None for a run that learns by itself."""
    if config.examples is None or not OnlineLearner.knows(_online_settings(config)):
        return None
    settings = config.settings
    kwargs = {name: value for name, value in config.method_kwargs.items() if name not in OnlineLearner.PER_RUN}
    world = (config.problem, config.dataset, config.tasks, config.examples, config.data, str(config.stream))
    return (*world, config.acts, str(kwargs), settings.net_arch, settings.activation, config.device, config.threads)


def make_learner(configs: Sequence[LearningConfig]) -> Learner:
    """A learner of one run, or of several that learn together.

    Raises:
        UserError: Data that are not there, or settings that make no learner.
    """
    try:
        return _make_online(configs) if configs[0].examples is not None else _make_task_learner(configs[0])
    except (datasets.DataError, ParameterError, ValueError, TypeError) as error:
        raise UserError(message_of(error)) from error
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"no networks of these settings can be made: {one_line(str(error)) or 'out of memory'}") from error


def _make_online(configs: Sequence[LearningConfig]) -> OnlineTasks:
    first = configs[0]
    assert first.examples is not None  # noqa: S101
    of_runs: list[Any]
    if first.problem == "slowly-changing-regression":
        of_runs = [streams.SlowlyChangingRegression(c.seed, period=first.examples, **c.stream) for c in configs]
        inputs, outputs = of_runs[0].inputs, 1
    else:
        images = datasets.mnist(Path(first.data)) if first.data else datasets.digits()
        augment = None if first.data else jitter
        of_runs = [streams.PermutedImages(images, c.seed, first.examples, augment=augment) for c in configs]
        inputs, outputs = images.images[0].size, 10
    settings = [_online_settings(config) for config in configs]
    seeds = [config.seed for config in configs]
    learner: OnlineLearner | PlainLearner
    if OnlineLearner.knows(settings[0]):
        learner = OnlineLearner(of_runs, settings, seeds, inputs, outputs, device=first.device)
    else:
        learner = PlainLearner(of_runs[0], settings[0], seeds[0], inputs, outputs, device=first.device)
    return OnlineTasks(learner, first.score, first.tasks, first.examples)


def _online_settings(config: LearningConfig) -> OnlineSettings:
    settings = config.settings
    allowed = {name: (getattr(Settings(), name),) for name in _OF_MINIBATCHES} | {"at_task": ("keep", "fresh_network")}
    for name, values in allowed.items():
        if getattr(settings, name) not in values:
            raise UserError(
                f"problem '{config.problem}' learns from single examples, each once: {name} must be "
                f"{' or '.join(map(json.dumps, values))}, got {json.dumps(getattr(settings, name))}"
            )
    return OnlineSettings(
        settings.net_arch,
        settings.activation,
        "squared_error" if config.score == "error" else "cross_entropy",
        settings.learning_rate,
        settings.weight_decay,
        config.acts,
        config.method_kwargs,
        settings.layer_norm,
        settings.at_task == "fresh_network",
    )


def _make_task_learner(config: LearningConfig) -> TaskLearner:
    stream: streams.BinaryTasks | streams.ClassIncremental
    if config.problem == "continual-imagenet":
        classes = datasets.imagenet32(Path(config.data)) if config.data else datasets.ImageClasses.of(datasets.digits())
        stream, outputs = streams.BinaryTasks(classes, config.seed, **config.stream), 2
    else:
        if config.data:
            train, test = datasets.cifar(Path(config.data), 100 if config.dataset == "cifar100" else 10)
        else:
            train, test = streams.split(datasets.digits(), _TEST_SHARE, seed=0)
        stream, outputs = streams.ClassIncremental(train, test, config.seed, **config.stream), len(np.unique(train.labels))
        each = config.stream["classes_per_task"]
        if each > outputs:
            raise UserError(f"classes_per_task must be at most {outputs}, the classes there are, got {each}")
        if config.tasks * each > outputs:
            raise UserError(f"tasks must be at most {outputs // each}, got {config.tasks}")
    augment = flip_crop_rotate if config.data else jitter
    return TaskLearner(
        stream,
        config.tasks,
        outputs,
        config.settings,
        config.acts,
        config.method_kwargs,
        config.seed,
        config.device,
        augment,
    )
