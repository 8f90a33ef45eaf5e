"""The options that describe runs of reinforcement learning."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gymnasium.envs.registration import EnvSpec

import envs
from agents.runs.algorithms import ALGORITHMS, changes_in, find_algorithm
from agents.runs.build import BY_PERIOD, find_spec, is_nonstationary, is_sequence, refuse_task
from agents.runs.commands import by_key, check_device, given, parse_override, parse_overrides
from agents.runs.config import Config, with_overrides
from agents.runs.errors import UserError, unknown
from agents.runs.modules import import_modules
from agents.runs.plan import each_once
from agents.runs.presets import RunPreset
from agents.runs.protocols import PROTOCOLS, Protocol
from envs.changes import OPTIONS
from envs.schedules import make_schedule
from envs.sequence import CHANGE_AT
from envs.tasks import TASK

PRESETS = "; ".join(f"{algo}: {', '.join(algorithm.runs)}" for algo, algorithm in ALGORITHMS.items())
"""The names for ``--preset``, by algorithm."""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds what describes a run of reinforcement learning but for its method, its seed and its folder."""
    add = parser.add_argument
    add(
        "--env",
        metavar="ID",
        help="ant-nonstationary, any registered Gymnasium id, or MODULE:ID of one that a module registers",
    )
    add_import_option(parser)
    add("--algo", metavar="NAME", help=f"{', '.join(ALGORITHMS)} (default: ppo)")
    add("--env-kwargs", metavar="KEY=VALUE", action="append", help="of the environment, such as frame_skip=2; VALUE as in JSON")
    add("--preset", metavar="NAME", help=f"{PRESETS}; default: quick")
    add("--protocol", metavar="NAME", help=f"{', '.join(PROTOCOLS)}: in place of --env and --preset")
    add("--timesteps", metavar="N", type=int, help="environment steps, over all environments")
    add_change_options(parser)
    add("--n-envs", metavar="K", type=int, help="number of environments")
    add("--normalize", action=argparse.BooleanOptionalAction, help="normalise observations and rewards by running statistics")
    add("--keep-phases", action="store_true", default=None, help="keep the checkpoint of the end of each phase")


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Adds what names modules that register environments."""
    parser.add_argument(
        "--import", dest="imports", metavar="MODULE", action="append", help="import a module, which may register environments"
    )


def import_named(env: str, imports: Sequence[str] | None) -> tuple[str, list[str]]:
    """Imports the modules that a command line names.

    Args:
        env: An environment's id, or ``MODULE:ID``.
        imports: Of :func:`add_import_option`.

    Returns:
        The id, and the names of the modules.

    Raises:
        UserError: A module that cannot be imported.
    """
    module, colon, name = env.partition(":")
    modules = list(dict.fromkeys([*(imports or []), *([module] if colon else [])]))
    import_modules(modules)
    return (name if colon else env), modules


CHANGE_OPTIONS = ("period", "times", "param", "schedule", "low", "high", "factor", "change_at", "observe")
"""What :func:`add_change_options` adds."""


def add_change_options(parser: argparse.ArgumentParser) -> None:
    """Adds what describes how an environment changes."""
    add = parser.add_argument
    add("--period", metavar="N", type=int, help="steps between two changes, over all environments")
    add(
        "--times",
        metavar="NAME[,KEY=VALUE…]",
        help="geometric or exponential: random, with --period the mean; bursts,changes=3,gap=500: with --period between",
    )
    add(
        "--param",
        metavar="NAME[,KEY=VALUE…]",
        action="append",
        help="the parameter that changes (default: friction, of Swimmer viscosity), such as mass or mass:torso; several at "
        "once by several --param, each with its own schedule, low, high and factor: gravity,low=5,high=15",
    )
    add("--schedule", metavar="NAME[,KEY=VALUE…]", help="how values are drawn: log_uniform, sine,length=12, … or as JSON")
    add("--low", metavar="X", type=float, help="the least value")
    add("--high", metavar="X", type=float, help="the greatest value")
    add("--factor", action=argparse.BooleanOptionalAction, help="whether values are multiples of the model's own")
    add("--change-at", metavar="WHEN", help=f"{' or '.join(CHANGE_AT)} (default: {CHANGE_AT[0]})")
    add("--observe", action="store_true", default=None, help="append the parameter's value to the observation")


_OF_PARAMETER = ("schedule", "low", "high", "factor")


def make_change(args: argparse.Namespace) -> tuple[str | dict[str, Any] | None, dict[str, Any]]:
    """What the options of :func:`add_change_options` but ``--period`` say.

    Returns:
        ``parameter`` of :class:`envs.NonStationary`, None where it is not given, and its other arguments.

    Raises:
        UserError: An option that cannot be understood.
    """
    named = [_name_and_options(text) for text in args.param or []]
    change = {
        name: value for name in ("low", "high", "factor", "change_at", "observe") if (value := getattr(args, name)) is not None
    }
    if args.times is not None:
        name, options = _name_and_options(args.times)
        if (own := BY_PERIOD.get(name)) in options:
            raise UserError(f"--times {name} takes its {own} from --period, got {own}={options[own]}")
        change["times"] = {"name": name, **options}
    if args.schedule is not None:
        change["schedule"] = _describe_schedule(args.schedule)
    if len({name for name, _ in named}) < len(named):
        raise UserError(f"--param takes each parameter once, got {', '.join(name for name, _ in named)}")
    if len(named) < 2 and not any(options for _, options in named):
        return (named[0][0] if named else None), change
    for name, options in named:
        if others := [key for key in options if key not in _OF_PARAMETER]:
            raise UserError(
                f"--param {name} takes {', '.join(_OF_PARAMETER)}, got {others[0]}: when values change is said for all, "
                "by --period and --change-at"
            )
        if "schedule" in options:
            options["schedule"] = _describe_schedule(options["schedule"])
    return dict(named), change


def _name_and_options(text: str) -> tuple[str, dict[str, Any]]:
    """The parts of ``NAME,KEY=VALUE,…``; commas within brackets belong to a value."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    name, *options = parts
    return name, by_key((parse_override(option, of=f"'{text}'") for option in options), of=f"'{text}'")


def _describe_schedule(text: Any) -> Any:
    """A schedule's description, checked; a file's values become a list, so that a run does not depend on the file."""
    try:
        if isinstance(text, str) and text.startswith("{"):
            description = _from_json(text)
        elif isinstance(text, str):
            name, options = _name_and_options(text)
            description = {"name": name, **options}
        else:
            description = text
        return make_schedule(description).describe()
    except envs.ParameterError as error:
        raise UserError(f"--schedule: {error}") from error


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, or too many digits or brackets
        raise UserError(f"--schedule must be a name with options or JSON, got '{text:.200}': {error}") from error


def make_configs(args: argparse.Namespace, methods: Sequence[str], seeds: Sequence[int]) -> list[Config]:
    """The configurations that the options describe, seed by seed; ``--set key=a,b`` makes one for each value.

    Raises:
        UserError: As :func:`make_config`, or two values that would share a folder.
    """
    overrides = [parse_overrides(text) for text in args.set or []]
    by_key(values[0] for values in overrides)
    varied = sorted({values[0][0] for values in overrides if len(values) > 1})
    return each_once(
        dataclasses.replace(make_config(args, method, seed, dict(chosen)), varied=varied)
        for seed in seeds
        for method in methods
        for chosen in itertools.product(*overrides)
    )


def make_config(args: argparse.Namespace, method: str, seed: int, settings: Mapping[str, Any] | None = None) -> Config:
    """The configuration that the options describe.

    Args:
        args: The options.
        method: A name for ``--method``.
        seed: Of everything.
        settings: In place of those of ``--set``.

    Raises:
        UserError: An option that is missing, unknown or out of its range.
    """
    protocol = _find_protocol(args)
    if args.env is None and protocol is None:
        raise UserError("--env is missing, for example: --env ant-nonstationary")
    imports = [*(args.imports or []), *(protocol.imports if protocol else ())]
    name, modules = import_named(given(args.env, protocol.env if protocol else ""), imports)
    spec = find_spec(name)
    algo = given(args.algo, "ppo")
    preset = protocol.run if protocol else _find_preset(args, algo, spec)
    parameter, change = make_change(args)
    if protocol:
        of_values = OPTIONS if parameter is not None else ()  # those of another parameter
        if "schedule" in change and not make_schedule(change["schedule"]).takes_range:
            of_values = (*of_values, "low", "high")
        change = {name: value for name, value in protocol.change.items() if name not in of_values} | change
        parameter = given(parameter, protocol.param)
    env_kwargs = (preset.env_kwargs if protocol or is_nonstationary(spec) else {}) | _env_kwargs(args.env_kwargs)
    if is_sequence(spec):
        _refuse_parameters(args, spec.id)
        parameter = TASK
        env_kwargs, modules = _import_tasks(env_kwargs, modules)
    elif parameter == TASK:
        refuse_task(spec)
    changes = is_nonstationary(spec) or args.period is not None or parameter is not None
    if change and not changes:
        option = next(iter(change)).replace("_", "-")
        raise UserError(
            f"--{option} is of an env that changes, which '{args.env}' does not: --period or --param makes it change"
        )
    default = spec.kwargs.get("parameter", "friction")
    settings = by_key(map(parse_override, args.set or [])) if settings is None else settings
    overrides = {**changes_in(spec.id, preset, algo, settings.get("weight_init")), **settings}.items()
    hyperparameters, method_kwargs = with_overrides(method, overrides, algo)
    config = Config(
        env=spec.id,
        method=method,
        timesteps=given(args.timesteps, preset.stationary.get(spec.id, preset.timesteps)),
        period=given(args.period, preset.period) if changes else None,
        param=given(parameter, default) if changes else None,
        seed=seed,
        n_envs=given(args.n_envs, preset.n_envs),
        normalize=given(args.normalize, protocol is not None and protocol.normalize),
        device=check_device(given(args.device, "cpu")),
        threads=args.threads,
        checkpoint_minutes=given(args.checkpoint_minutes, 5.0),
        keep_phases=bool(args.keep_phases),
        change=change,
        env_kwargs=env_kwargs,
        method_kwargs=method_kwargs,
        hyperparameters=hyperparameters,
        imports=modules,
        algo=algo,
        protocol=args.protocol,
    )
    if isinstance(times := change.get("times"), dict):  # of runs made before, which had it made larger, it may be less
        config.check_shared("gap", times.get("gap"))
    return config


def _find_protocol(args: argparse.Namespace) -> Protocol | None:
    """What ``--protocol`` names; refuses what it is in place of."""
    if args.protocol is None:
        return None
    if args.protocol not in PROTOCOLS:
        raise unknown("protocol", args.protocol, PROTOCOLS)
    protocol = PROTOCOLS[args.protocol]
    if args.preset is not None:
        raise UserError(f"--protocol {args.protocol} is a preset itself and takes no --preset, got '{args.preset}'")
    if args.env is not None and find_spec(import_named(args.env, [])[0]).id != protocol.env:
        raise UserError(f"--protocol {args.protocol} is in '{protocol.env}' and takes no other --env, got '{args.env}'")
    if args.algo not in (None, "ppo"):
        raise UserError(f"--protocol {args.protocol} is of ppo and takes no other --algo, got '{args.algo}'")
    missing = [name for name in protocol.imports if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--protocol {args.protocol} needs '{missing[0]}': pip install 'continual-backprop[worlds]'")
    return protocol


def _find_preset(args: argparse.Namespace, algo: str, spec: EnvSpec) -> RunPreset:
    """What ``--preset`` names."""
    presets, name = find_algorithm(algo).runs, given(args.preset, "quick")
    if name not in presets:
        raise unknown("preset" if algo == "ppo" else f"preset of {algo}", name, presets)
    preset = presets[name]
    if preset.env_kwargs and not is_nonstationary(spec) and spec.id not in preset.stationary:
        raise UserError(
            f"preset '{name}' is that of the registered environments: one that changes, or "
            f"{', '.join(preset.stationary)}; got env '{args.env}'"
        )
    return preset


def _import_tasks(env_kwargs: dict[str, Any], modules: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Imports the modules that tasks name, which then are ids without."""
    tasks = env_kwargs.get("tasks")
    if not isinstance(tasks, list):
        return env_kwargs, modules
    names = []
    for task in tasks:
        name, modules = import_named(task, modules) if isinstance(task, str) else (task, modules)
        names.append(name)
    return env_kwargs | {"tasks": names}, modules


def _refuse_parameters(args: argparse.Namespace, env: str) -> None:
    """Refuses what says how values change where tasks do."""
    for name in CHANGE_OPTIONS:
        if getattr(args, name) is not None and name not in ("period", "times", "change_at"):
            option = name.replace("_", "-")
            raise UserError(f"--{option} is of a parameter that changes; in '{env}' tasks come one after the other")


def _env_kwargs(given_kwargs: Sequence[str] | None) -> dict[str, Any]:
    """Keyword arguments of the environment; a file is named from the root, so that a run can be resumed from elsewhere."""
    kwargs = by_key((parse_override(text, of="--env-kwargs") for text in given_kwargs or []), of="--env-kwargs")
    if "render_mode" in kwargs:
        raise UserError(
            f"--env-kwargs takes no render_mode, got {kwargs['render_mode']!r}: agents.evaluate --record makes films"
        )
    files = [name for name, value in kwargs.items() if isinstance(value, str) and os.path.isfile(value)]  # noqa: PTH113  any text
    return kwargs | {name: str(Path(kwargs[name]).absolute()) for name in files}
