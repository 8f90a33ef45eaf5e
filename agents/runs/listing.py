"""What there is to choose from: registered environments, and what can change in one of them."""

from __future__ import annotations

import gymnasium

import envs
from agents.runs.build import find_spec, is_nonstationary
from agents.runs.errors import UserError
from envs import checks
from envs.registered import STATIONARY


def list_environments() -> list[str]:
    """A line for each environment that this package registers."""
    lines = []
    for spec in gymnasium.registry.values():
        if is_nonstationary(spec):
            parameter = envs.PARAMETERS[spec.kwargs.get("parameter", "friction")]
            lines.append(f"{spec.id:<28} {spec.kwargs['base']}; by default {parameter.name} changes, {_range(parameter)}")
        elif spec.entry_point == STATIONARY:
            lines.append(f"{spec.id:<28} {spec.kwargs['base']} as in the paper; does not change")
    return sorted(lines)


def list_parameters(name: str) -> list[str]:
    """A line for each parameter: whether an environment has it, its own value, bounds, default range, what it is, its parts.

    Raises:
        UserError: No such environment, or one that is no MuJoCo one.
    """
    spec = find_spec(name)
    # Of one that changes by itself, what changes: that has values of its own.
    base = spec.kwargs["base"] if is_nonstationary(spec) else spec.id
    try:
        env = gymnasium.make(base)
        model = checks.mujoco_model(env)
    except (gymnasium.error.Error, envs.ParameterError, TypeError, ValueError, ImportError) as error:
        raise UserError(" ".join(str(error).split())) from error
    lines = []
    for parameter in envs.PARAMETERS.values():
        if not parameter.responds(env):
            lines.append(f"{parameter.name:<18} not here: it needs {parameter.needs}")
            continue
        own = parameter.bind(env, None, factor=False).own()
        has = f"own {span(min(own), max(own), parameter.unit)}; " if own else ""
        default = f"by default {_range(parameter)}"
        if parameter.by_factor and not any(own):
            default = "with --no-factor, --low and --high, since a multiple of its own is 0"
        parts = parameter.parts(model)
        of_parts = f"; parts: {', '.join(parts)}" if parts else ""
        bounds = f"bounds {span(parameter.lowest, parameter.highest, parameter.unit)}"
        lines.append(f"{parameter.name:<18} {has}{bounds}; {default}; {parameter.meaning}{of_parts}")
    return lines


def _range(parameter: envs.Parameter) -> str:
    unit = "times its own" if parameter.by_factor else parameter.unit
    return f"{span(parameter.low, parameter.high, unit)}, {parameter.schedule}"


def span(low: float, high: float, unit: str) -> str:
    """Two ends with their unit, or one number where they are the same: ``"0.02 to 2"``, ``"9.81 m/s²"``."""
    ends = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    return (ends if unit == "1" else f"{ends} {unit}").replace("inf", "∞").replace("-", "−")
