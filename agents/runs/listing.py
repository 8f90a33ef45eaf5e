"""What there is to choose from: registered environments, and what can change in one of them."""

from __future__ import annotations

from typing import Any

import gymnasium

import envs
from agents.runs.build import find_spec, is_nonstationary
from agents.runs.errors import UserError, in_words, message_of
from envs.changes import fit_of
from envs.registered import SEQUENCE, STATIONARY


def list_environments() -> list[str]:
    """A line for each environment that this package registers."""
    lines = []
    for spec in gymnasium.registry.values():
        if is_nonstationary(spec):
            parameter = envs.PARAMETERS[spec.kwargs.get("parameter", "friction")]
            default = _range(parameter, parameter.low, parameter.high)
            lines.append(f"{spec.id:<28} {spec.kwargs['base']}; by default {parameter.name} changes, {default}")
        elif spec.entry_point == STATIONARY:
            lines.append(f"{spec.id:<28} {spec.kwargs['base']} as in the paper; does not change")
        elif spec.entry_point == SEQUENCE:
            lines.append(f"{spec.id:<28} the environments of --env-kwargs 'tasks=[\"ID\", …]', one after the other")
    return sorted(lines)


def list_parameters(name: str) -> list[str]:
    """A line for each parameter: whether an environment has it, its own value, bounds, default range, what it is, its parts.

    Raises:
        UserError: No such environment, or one that cannot be made.
    """
    spec = find_spec(name)
    # Of one that changes by itself, what changes: that has values of its own.
    base = spec.kwargs["base"] if is_nonstationary(spec) else spec.id
    try:
        env = gymnasium.make(base)
    except (gymnasium.error.Error, envs.ParameterError, TypeError, ValueError, ImportError) as error:
        raise UserError(message_of(error)) from error
    except Exception as error:  # whatever an environment of others raises
        raise UserError(f"environment '{base}' cannot be made: {in_words(error)}") from error
    lines = [_line(name, env) for name in envs.PARAMETERS]
    env.close()
    return lines


def _line(name: str, env: gymnasium.Env[Any, Any]) -> str:
    parameter = envs.PARAMETERS[name]
    try:
        fit = fit_of(name, env)
    except envs.ParameterError as error:
        return f"{name:<18} not here: {error}"
    own = fit.own
    has = f"own {span(min(own), max(own), parameter.unit)}; " if own else ""
    default = f"by default {_range(parameter, *fit.default)}"
    if parameter.by_factor and not any(own):
        default = "with --no-factor, --low and --high, since a multiple of its own is 0"
    of_parts = f"; parts: {', '.join(fit.parts)}" if fit.parts else ""
    bounds = f"bounds {span(*fit.bounds, parameter.unit)}"
    return f"{name:<18} {has}{bounds}; {default}; {parameter.meaning}{of_parts}"


def _range(parameter: envs.Parameter, low: float, high: float) -> str:
    unit = "times its own" if parameter.by_factor else parameter.unit
    return f"{span(low, high, unit)}, {parameter.schedule}"


def span(low: float, high: float, unit: str) -> str:
    """Two ends with their unit, or one number where they are the same: ``"0.02 to 2"``, ``"9.81 m/s²"``."""
    ends = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    return (ends if unit == "1" else f"{ends} {unit}").replace("inf", "∞").replace("-", "−")
