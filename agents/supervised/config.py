"""The definition of a supervised run: checked once, frozen, written to the run folder, and enough to make the run again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, get_args

import cbp
from agents.runs.checks import check_number, check_whole
from agents.runs.config import RunConfig, short
from agents.runs.errors import UserError, unknown
from agents.supervised.presets import PROBLEMS, AtTask, Preset, Settings

_RANGES: dict[str, tuple[float, bool, float]] = {
    "learning_rate": (0, True, math.inf),
    "momentum": (0, True, math.nextafter(1, 0)),
    "weight_decay": (0, True, math.inf),
    "lr_drop_factor": (0, True, 1),
}
_KINDS: dict[str, tuple[type, ...]] = {
    "problem": (str,),
    "dataset": (str,),
    "method": (str,),
    "data": (str, type(None)),
    "device": (str,),
    "stream": (dict,),
    "method_kwargs": (dict,),
}
ACTIVATIONS = ("relu", "tanh", "sigmoid", "elu", "leaky_relu", "swish", "crelu")
_MOST_UNITS = 1_000_000  # more than any memory holds the weights of; torch fails in words of its own at some number
_NETWORKS = ("mlp", "conv", "resnet", "linear")


@dataclass(frozen=True)
class LearningConfig(RunConfig):
    """Everything that defines a supervised run.

    Attributes:
        problem: A name of :data:`agents.supervised.presets.PROBLEMS`.
        dataset: One of its data sets.
        method: One of its methods.
        tasks: How many tasks are learned, one after the other.
        examples: Of a task, where the stream is one of single examples; else None, a task's data has its own size.
        seed: Seed of everything: the same seed gives every method the same stream.
        data: The folder of the data; None for data that need none.
        device: Torch device of the network.
        threads: As for ``torch.set_num_threads``; None for torch's default.
        checkpoint_minutes: Minutes between two checkpoints.
        stream: Further keyword arguments of the stream.
        method_kwargs: Keyword arguments of the method that acts around each update; empty where none does.
        settings: Network, optimizer and how a task is learned.

    Raises:
        UserError: A value out of its range.
    """

    problem: str
    dataset: str
    method: str
    tasks: int
    examples: int | None
    seed: int
    data: str | None
    device: str
    threads: int | None = None
    checkpoint_minutes: float = 5.0
    stream: dict[str, Any] = field(default_factory=dict)
    method_kwargs: dict[str, Any] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)

    command: ClassVar[str] = "agents.learn"
    known_by: ClassVar[str] = "problem"
    of_world: ClassVar[tuple[str, ...]] = ("problem", "dataset", "tasks", "examples", "stream")

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                raise UserError(f"{name} must be a {kinds[0].__name__}, got {getattr(self, name)!r}")
        self._check_shared()
        for name in ("tasks", *(["examples"] if self.examples is not None else [])):
            check_whole(name, getattr(self, name), least=1)
        if self.method not in self.preset.methods:
            raise unknown(f"method of problem '{self.problem}'", self.method, self.preset.methods)
        if (self.examples is None) != (self.preset.examples is None):
            raise UserError(f"problem '{self.problem}' {'has' if self.preset.examples else 'takes no'} examples of a task")
        self._check_data()
        _check_settings(self.settings)

    def _check_data(self) -> None:
        needs = self.dataset != next(iter(PROBLEMS[self.problem]))
        if needs != (self.data is not None):
            allowed = "needs the folder of its files as --data" if needs else "comes with the package and takes no --data"
            raise UserError(f"data set '{self.dataset}' {allowed}, got {self.data!r}")

    @property
    def preset(self) -> Preset:
        """What the problem's settings are without any change."""
        if self.problem not in PROBLEMS:
            raise unknown("problem", self.problem, PROBLEMS)
        if self.dataset not in PROBLEMS[self.problem]:
            raise unknown(f"data set of problem '{self.problem}'", self.dataset, PROBLEMS[self.problem])
        return PROBLEMS[self.problem][self.dataset]

    @property
    def acts(self) -> str | None:
        """The name in :data:`cbp.METHODS` of the method that acts around each update."""
        return self.preset.methods[self.method].method

    @property
    def replaces(self) -> bool:
        """Whether that method replaces units."""
        return self.acts is not None and issubclass(cbp.METHODS[self.acts], cbp.ReplacingMethod)

    @property
    def needs_signal(self) -> bool:
        """Whether the method is told when a task begins, though the problem's other methods are not."""
        return self.preset.methods[self.method].needs_signal

    @property
    def score(self) -> str:
        """What tells how well a task was learned: ``"error"`` or ``"accuracy"``."""
        return "error" if self.problem == "slowly-changing-regression" else "accuracy"

    @property
    def shown_score(self) -> tuple[str, float]:
        """The score's name where people read it, and what it is multiplied by there."""
        return ("error", 1.0) if self.score == "error" else ("accuracy (%)", 100.0)

    @property
    def world(self) -> str:
        """The problem."""
        return self.problem

    @property
    def label(self) -> str:
        """The method, with what differs from its preset: ``"cbp,replacement_rate=0.001"``."""
        settings, kwargs, _ = with_overrides(self.preset, self.problem, self.method, [])
        changed = {
            **{n: v for n, v in dataclasses.asdict(self.settings).items() if v != getattr(settings, n)},
            **{n: v for n, v in self.method_kwargs.items() if v != kwargs.get(n)},
        }
        return ",".join([self.method, *(f"{name}={short(value)}" for name, value in changed.items())])

    @property
    def place(self) -> int:
        """Where the method comes in the order of methods."""
        return list(self.preset.methods).index(self.method)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """The configuration in what :meth:`to_json` wrote."""
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["settings"].items()}
        return cls(**{**values, "settings": Settings(**settings)})


def with_overrides(
    preset: Preset, problem: str, method: str, overrides: Iterable[tuple[str, Any]]
) -> tuple[Settings, dict[str, Any], dict[str, Any]]:
    """A method's settings with some values replaced.

    Args:
        preset: Of the problem.
        problem: Its name.
        method: One of its methods.
        overrides: Names of :class:`Settings`, of the method's own keyword arguments or of the stream's, with their values.

    Returns:
        The settings, the method's keyword arguments and the stream's.

    Raises:
        UserError: An unknown method, or a name that the method does not have.
    """
    if method not in preset.methods:
        raise unknown(f"method of problem '{problem}'", method, preset.methods)
    names = [f.name for f in dataclasses.fields(Settings)]
    changes, kwargs = dict(preset.methods[method].changes), dict(preset.methods[method].method_kwargs)
    stream = dict(preset.stream)
    for name, value in overrides:
        if name in kwargs:
            kwargs[name] = value
        elif name in stream:
            stream[name] = value
        elif name in names:
            changes[name] = tuple(value) if isinstance(value, list) else value
        else:
            raise unknown(f"setting of method '{method}'", name, [*kwargs, *names, *stream])
    return dataclasses.replace(preset.settings, **changes), kwargs, stream


def _check_settings(settings: Settings) -> None:
    for name, bounds in _RANGES.items():
        check_number(name, getattr(settings, name), *bounds)
    for name, allowed in (("network", _NETWORKS), ("activation", ACTIVATIONS), ("at_task", get_args(AtTask))):
        if getattr(settings, name) not in allowed:
            raise unknown(name, getattr(settings, name), allowed)
    for name in ("batch_size", "epochs"):
        check_whole(name, getattr(settings, name), least=1)
    for name in ("restore_best", "augment", "layer_norm"):
        if not isinstance(getattr(settings, name), bool):
            raise UserError(f"{name} must be true or false, got {getattr(settings, name)!r}")
    _check_lists(settings)
    _check_effects(settings)


def _check_effects(settings: Settings) -> None:
    """Refuses what would name a run and change nothing in it."""
    if settings.network == "linear" and settings.net_arch:
        raise UserError(f"a linear network has no hidden layers: net_arch must be [], got {list(settings.net_arch)}")
    usual, factor = Settings.lr_drop_factor, settings.lr_drop_factor
    if not settings.lr_drops and factor != usual:
        raise UserError(f"lr_drop_factor has no effect without lr_drops: it must be {usual:g}, got {factor:g}")


def _check_lists(settings: Settings) -> None:
    if not isinstance(settings.net_arch, tuple) or not (settings.net_arch or settings.network == "linear"):
        got = list(settings.net_arch) if isinstance(settings.net_arch, tuple) else settings.net_arch
        raise UserError(f"net_arch must be a list of units, one for each hidden layer, got {got!r}")
    for units in settings.net_arch:
        check_whole("each number of net_arch", units, least=1, most=_MOST_UNITS)
    if not isinstance(settings.lr_drops, tuple):
        raise UserError(f"lr_drops must be a list of shares of a task's epochs, got {settings.lr_drops!r}")
    for share in settings.lr_drops:
        check_number("each number of lr_drops", share, 0, False, 1)
