"""The definition of a run: checked once, frozen, written to the run folder, and enough to make the run again."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

import envs
from agents.runs.algorithms import ALGORITHMS, METHODS, AnyHyperparameters, find_algorithm, find_method
from agents.runs.checks import check_hyperparameters, check_number, check_whole
from agents.runs.errors import UserError, message_of, unknown
from agents.runs.presets import Hyperparameters, MethodPreset
from agents.runs.protocols import PROTOCOLS
from envs.parameters import find_parameter
from envs.tasks import TASK

_KINDS: dict[str, type] = {
    "env": str,
    "algo": str,
    "method": str,
    "normalize": bool,
    "keep_phases": bool,
    "device": str,
    "change": dict,
    "env_kwargs": dict,
    "method_kwargs": dict,
    "imports": list,
    "varied": list,
}


_MANY_THREADS = 1024  # more than any machine has cores for; torch fails in words of its own at some number
_LONGEST = 2**63 - 1  # steps
_AS_ASKED = ("threads", "checkpoint_minutes", "keep_phases", "data")  # they change no result
_NO_DIFFERENCE = (*_AS_ASKED, "protocol")


class RunConfig:
    """What configurations of all kinds of runs have: a dataclass of JSON's types that is written to the run folder."""

    method: str
    seed: int
    device: str
    threads: int | None
    checkpoint_minutes: float

    command: ClassVar[str]
    """The command that runs it."""

    known_by: ClassVar[str]
    """A setting that configurations of this kind have, and no others."""

    of_world: ClassVar[tuple[str, ...]]
    """What must be the same in runs that are compared."""

    def _check_shared(self) -> None:
        check_number("checkpoint-minutes", self.checkpoint_minutes, 0, True, math.inf)
        check_whole("seed", self.seed, least=0)
        if self.threads is not None:
            check_whole("threads", self.threads, least=1, most=_MANY_THREADS)
        if self.seed >= 2**32:
            raise UserError(f"seed must be less than 2^32, got {self.seed}")

    @property
    def world(self) -> str:
        """What is learned, as a folder's name."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The method, as a folder's name and in a report."""
        return self.method

    @property
    def place(self) -> int:
        """Where the method comes in the order of methods."""
        raise NotImplementedError

    def differences(self, other: RunConfig) -> list[tuple[str, Any, Any]]:
        """The settings in which two configurations are another run: name, own value, the other's.

        The number of threads, which checkpoints there are, the place of the data and the name of a protocol do not count.
        """
        own, theirs = self.flat(), other.flat()
        names = [name for name in dict.fromkeys([*own, *theirs]) if name not in _NO_DIFFERENCE]
        return [(name, own.get(name), theirs.get(name)) for name in names if own.get(name) != theirs.get(name)]

    def here(self, asked: RunConfig) -> Self:
        """This configuration, found in a folder, with the threads, checkpoints and place of the data that are asked for now."""
        own = {name: getattr(asked, name) for name in _AS_ASKED if hasattr(self, name)}
        return dataclasses.replace(self, **own)  # type: ignore[type-var]

    def to_json(self) -> str:
        """The configuration as JSON text."""
        return json.dumps(self._values(), indent=2) + "\n"

    def flat(self) -> dict[str, Any]:
        """All values by the paths of their names: ``{"settings.net_arch": …}``."""
        return flat(self._values())

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        return values

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """The configuration in what :meth:`to_json` wrote."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The configuration that :meth:`to_json` wrote.

        Raises:
            UserError: The text is no such configuration.
        """
        try:
            return cls.from_values(json.loads(text))
        except UserError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"not a run's configuration: {message_of(error)}") from error


_Kind = TypeVar("_Kind", bound=RunConfig)


def read_config(text: str, *kinds: type[_Kind]) -> _Kind:
    """The configuration of a run of one of some kinds.

    Raises:
        UserError: The text is no such configuration.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    for kind in kinds:
        if isinstance(values, dict) and kind.known_by in values:
            return kind.from_json(text)
    raise UserError(f"not a run's configuration: it describes no run of {' or '.join(kind.command for kind in kinds)}")


@dataclass(frozen=True)
class Config(RunConfig):
    """Everything that defines a run of reinforcement learning.

    Attributes:
        env: A registered Gymnasium id.
        method: A name for ``--method``, of the algorithm's.
        timesteps: Environment steps, over all environments.
        period: Steps between two changes, over all environments; None for a stationary environment.
        param: What changes, as the ``parameter`` of :class:`envs.NonStationary`, or ``"task"`` in an
            :class:`envs.TaskSequence`; None for a stationary environment.
        seed: Seed of everything: the same seed gives every method the same sequence of values.
        n_envs: Number of environments.
        normalize: Whether observations and rewards are normalised by running statistics (SB3's ``VecNormalize``).
        device: Torch device of the networks.
        threads: Threads of the run, as for ``torch.set_num_threads``; None for torch's default.
        checkpoint_minutes: Minutes between two checkpoints.
        keep_phases: Whether the checkpoint of the end of each phase is kept.
        change: How it changes: further keyword arguments of that class.
        env_kwargs: Further keyword arguments of the environment.
        imports: Modules that register the environment. They are imported only where a command names them.
        method_kwargs: Keyword arguments of the method that acts around each update; empty where none does.
        hyperparameters: Those of the algorithm, its networks and its optimizers.
        algo: A name of :data:`agents.runs.algorithms.ALGORITHMS`.
        protocol: The name of :data:`agents.runs.protocols.PROTOCOLS` that the run was begun with; None for none. Options that
            were given beside it override it, so what defines the run are the other values.
        varied: Names of the settings for which a sweep was given several values.

    Raises:
        UserError: A value out of its range.
    """

    env: str
    method: str
    timesteps: int
    period: int | None
    param: str | dict[str, Any] | None
    seed: int
    n_envs: int
    normalize: bool
    device: str
    threads: int | None = None
    checkpoint_minutes: float = 5.0
    keep_phases: bool = False
    change: dict[str, Any] = field(default_factory=dict)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    method_kwargs: dict[str, Any] = field(default_factory=dict)
    hyperparameters: AnyHyperparameters = field(default_factory=Hyperparameters)
    imports: list[str] = field(default_factory=list)
    algo: str = "ppo"
    protocol: str | None = None
    varied: list[str] = field(default_factory=list)

    command: ClassVar[str] = "agents.train"
    known_by: ClassVar[str] = "env"
    of_world: ClassVar[tuple[str, ...]] = (
        *("env", "env_kwargs", "param", "change", "period", "timesteps", "n_envs", "normalize", "algo"),
    )

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            if not isinstance(getattr(self, name), kind):
                raise UserError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        find_method(self.algo, self.method)
        self._check_shared()
        check_whole("timesteps", self.timesteps, least=1)
        check_whole("n-envs", self.n_envs, least=1)
        self._check_change()
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise unknown("protocol", self.protocol, PROTOCOLS)
        if not isinstance(self.hyperparameters, find_algorithm(self.algo).hyperparameters):
            raise UserError(f"hyperparameters must be those of {self.algo}, got {type(self.hyperparameters).__name__}")
        check_hyperparameters(self.hyperparameters, self.n_envs)

        hyperparameters = dataclasses.asdict(self.hyperparameters)
        if strangers := [name for name in self.varied if name not in self.method_kwargs and name not in hyperparameters]:
            raise unknown("setting that varied", strangers[0], [*self.method_kwargs, *hyperparameters])

    def check_shared(self, name: str, steps: object) -> None:
        """Refuses steps of which each environment has less than one.

        Raises:
            UserError: It has.
        """
        if isinstance(steps, int) and steps < self.n_envs:
            each = f"each of the {self.n_envs} environments" if self.n_envs > 1 else "the environment"
            raise UserError(f"{name} must be at least one step for {each}, got {steps}")

    def _check_change(self) -> None:
        if self.param is not None and not isinstance(self.param, str | dict):
            raise unknown("parameter", self.param, envs.PARAMETERS)
        for name in self.params:
            if self.param != TASK:
                _check_parameter(name)
        times = self.change.get("times")
        if self.phases_differ and not (isinstance(times, dict) and isinstance(times.get("name"), str)):
            raise UserError(f"times must be a dictionary with a name, got {times!r}")
        if self.period is not None:
            check_whole("period", self.period, least=1, most=_LONGEST)
            self.check_shared("period", self.period)
        if self.param is None and self.preset.needs_signal:
            raise UserError(f"method '{self.method}' acts where a phase begins and needs an env that changes, got '{self.env}'")

    @property
    def label(self) -> str:
        """The method, with the values that a sweep varied: ``"cbp,replacement_rate=0.001"``."""
        settings = {**dataclasses.asdict(self.hyperparameters), **self.method_kwargs}
        return ",".join([self.method, *(f"{name}={short(settings[name])}" for name in self.varied)])

    @property
    def params(self) -> tuple[str, ...]:
        """The names of the parameters that change; empty for a stationary environment."""
        return (self.param,) if isinstance(self.param, str) else tuple(self.param or ())

    @property
    def change_words(self) -> str:
        """What changes, and how often: ``"friction changes every 60,000"``."""
        often = f"every {self.period:,}"
        if self.in_bursts:
            often = f"in bursts {self.period:,} apart"
        elif self.phases_differ:
            often += f" on average ({self.change['times']['name']})"
        return f"{' and '.join(self.params)} {'changes' if len(self.params) == 1 else 'change'} {often}"

    def is_whole(self, phase: int, phases: int, steps: int) -> bool:
        """Whether a phase has lasted as long as it should: at random times, whether another one has begun.

        Args:
            phase: 0, 1, 2, …
            phases: How many have begun.
            steps: That it has lasted.
        """
        return phase < phases - 1 if self.phases_differ else steps >= self.phase_steps

    @property
    def phase_steps(self) -> int:
        """Steps of a phase over all environments: what of the period, or else of the run, they can share equally."""
        return (self.period or self.timesteps) // self.n_envs * self.n_envs

    @property
    def phases_differ(self) -> bool:
        """Whether some phases last longer than others, as changes at random times and bursts make them."""
        return "times" in self.change

    @property
    def in_bursts(self) -> bool:
        """Whether changes come in bursts: the period is then the time between two bursts, not the mean of a phase."""
        return self.phases_differ and bool(self.change["times"]["name"] == "bursts")

    @property
    def changes_now(self) -> bool:
        """Whether it changes in mid-episode, so all environments in the same step, and not each at the end of an episode."""
        return self.change.get("change_at") == "now"

    @property
    def preset(self) -> MethodPreset:
        """What the method's name stands for."""
        return find_method(self.algo, self.method)

    @property
    def method_words(self) -> str:
        """The method, and of which algorithm, where that is not PPO: ``"cbp of sac"``."""
        return self.method if self.algo == "ppo" else f"{self.method} of {self.algo}"

    @property
    def networks(self) -> tuple[str, str]:
        """What the network is called that acts, and the one that judges; the same where one does both."""
        return ALGORITHMS[self.algo].networks

    @property
    def world(self) -> str:
        """The protocol, or the environment without its version; behind it the algorithm, where that is not PPO."""
        env = self.protocol or re.sub(r"-v\d+$", "", self.env).replace("/", "-")
        return env if self.algo == "ppo" else f"{env}-{self.algo}"

    @property
    def place(self) -> int:
        """Where the method comes in the order of methods."""
        return METHODS.index(self.method)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """The configuration in what :meth:`to_json` wrote."""
        parameters = dict(values["hyperparameters"])
        parameters["net_arch"] = tuple(parameters["net_arch"])
        algorithm = find_algorithm(values.get("algo", "ppo"))  # which the first releases did not write
        return cls(**{**values, "hyperparameters": algorithm.hyperparameters(**parameters)})


def short(value: Any) -> str:
    """A setting's value in the name of a folder."""
    if isinstance(value, float):
        return f"{value:g}"
    return "-".join(map(short, value)) if isinstance(value, tuple) else str(value)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by the paths of their names: ``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        # A parameter that changes with nothing said of how is one that changes.
        is_nested = isinstance(value, dict) and (value or not prefix)
        found |= flat(value, f"{prefix}{name}.") if is_nested else {prefix + name: value}
    return found


def with_overrides(
    method: str, overrides: Iterable[tuple[str, Any]], algo: str = "ppo"
) -> tuple[AnyHyperparameters, dict[str, Any]]:
    """The method's preset with some values replaced.

    Args:
        method: A name for ``--method``, of the algorithm's.
        overrides: Names of hyperparameters or of the method's own keyword arguments, with their values.
        algo: A name of :data:`agents.runs.algorithms.ALGORITHMS`.

    Returns:
        The hyperparameters and the method's keyword arguments.

    Raises:
        UserError: An unknown method, or a name that the method does not have.
    """
    preset, kind = find_method(algo, method), find_algorithm(algo).hyperparameters
    names = [f.name for f in dataclasses.fields(kind)]
    changes, method_kwargs = dict(preset.changes), dict(preset.method_kwargs)
    for name, value in overrides:
        if name in method_kwargs:
            method_kwargs[name] = value
        elif name in names:
            changes[name] = tuple(value) if name == "net_arch" and isinstance(value, list) else value
        else:
            of_algo = "" if algo == "ppo" else f" of {algo}"
            raise unknown(f"setting of method '{method}'{of_algo}", name, [*method_kwargs, *names])
    return kind(**changes), method_kwargs


def _check_parameter(name: str) -> None:
    try:
        find_parameter(name)
    except envs.ParameterError:
        raise unknown("parameter", name, envs.PARAMETERS) from None
