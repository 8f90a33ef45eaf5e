"""Refuses settings that are out of their range."""

from __future__ import annotations

import math

from agents.runs.algorithms import AnyHyperparameters
from agents.runs.errors import UserError, unknown
from agents.runs.off_policy import OffPolicyHyperparameters, SACHyperparameters
from agents.runs.presets import Hyperparameters

# Of each number: least value, whether that value itself is allowed, greatest value (allowed).
_RANGES: dict[str, tuple[float, bool, float]] = {
    "gamma": (0, True, 1),
    "gae_lambda": (0, True, 1),
    "clip_range": (0, False, math.inf),
    "vf_coef": (0, True, math.inf),
    "ent_coef": (-math.inf, False, math.inf),
    "target_entropy": (-math.inf, False, math.inf),
    "max_grad_norm": (0, False, math.inf),
    "learning_rate": (0, True, math.inf),
    "beta1": (0, True, math.nextafter(1, 0)),
    "beta2": (0, True, math.nextafter(1, 0)),
    "adam_eps": (0, True, math.inf),
    "weight_decay": (0, True, math.inf),
    "log_std_init": (-math.inf, False, math.inf),
    "tau": (0, True, 1),
    "noise_std": (0, True, math.inf),
    "target_policy_noise": (0, True, math.inf),
    "target_noise_clip": (0, True, math.inf),
    "exploration_fraction": (0, False, 1),
    "exploration_initial_eps": (0, True, 1),
    "exploration_final_eps": (0, True, 1),
}
# What may stand for a number.
_WORDS: dict[tuple[type, str], str | None] = {
    (Hyperparameters, "max_grad_norm"): None,
    (SACHyperparameters, "ent_coef"): "auto",
    (SACHyperparameters, "target_entropy"): "auto",
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "normalize_advantage": ("rollout", "batch", "none"),
    "weight_init": ("sb3", "lecun"),
}
_YES_OR_NO = ("clip_each_network", "decay_log_std")
_LEAST: dict[str, int] = {
    "rollout_steps": 2,
    "n_epochs": 1,
    "batch_size": 2,
    "buffer_size": 1,
    "learning_starts": 0,
    "train_freq": 1,
    "policy_delay": 1,
    "target_update_interval": 1,
}


def check_hyperparameters(values: AnyHyperparameters, n_envs: int) -> None:
    """Refuses hyperparameters that are out of their range.

    Args:
        values: Of any algorithm.
        n_envs: The number of environments.

    Raises:
        UserError: One is.
    """
    for name, value in vars(values).items():
        key = (type(values), name)
        if name in _RANGES and not (key in _WORDS and value == _WORDS[key]):
            check_number(name, value, *_RANGES[name], otherwise=f" or {_WORDS[key] or 'null'}" if key in _WORDS else "")
        elif name in _CHOICES and value not in _CHOICES[name]:
            raise unknown(name, value, _CHOICES[name])
        elif name in _YES_OR_NO and not isinstance(value, bool):
            raise UserError(f"{name} must be true or false, got {value!r}")
        elif name in _LEAST:
            check_whole(name, value, least=_LEAST[name])
    if not isinstance(values.net_arch, tuple) or not values.net_arch:
        raise UserError(
            f"net_arch must be a list of units, one for each hidden layer, such as [256,256]; got {values.net_arch or []!r}"
        )
    for units in values.net_arch:
        check_whole("each number of net_arch", units, least=1)
    if isinstance(values, Hyperparameters):
        _check_rollouts(values, n_envs)
    else:
        _check_off_policy(values)


def _check_off_policy(values: OffPolicyHyperparameters) -> None:
    if values.gradient_steps != -1:
        check_whole("gradient_steps", values.gradient_steps, least=1, otherwise=" or -1")
    # No crelu: Stable-Baselines3's networks have layers as wide as what comes before them.
    _check_activation(values, "relu", "tanh")


def _check_activation(values: AnyHyperparameters, *known: str) -> None:
    if values.activation not in known:
        raise unknown("activation", values.activation, known)


def _check_rollouts(values: Hyperparameters, n_envs: int) -> None:
    _check_activation(values, "relu", "tanh", "crelu")
    if values.padded_inputs is not None:
        check_whole("padded_inputs", values.padded_inputs, least=1)
    if values.batch_size > values.rollout_steps:
        raise UserError(f"batch_size must be at most rollout_steps ({values.rollout_steps}), got {values.batch_size}")
    if values.rollout_steps % n_envs:
        raise UserError(
            f"n-envs must divide rollout_steps ({values.rollout_steps}) so that every environment takes as many; got {n_envs}"
        )


def check_number(name: str, value: object, least: float, inclusive: bool, greatest: float, *, otherwise: str = "") -> None:
    """Refuses what is no finite number above ``least`` (which is allowed itself if ``inclusive``) and up to ``greatest``.

    ``otherwise`` says what else is allowed, such as ``" or null"``.
    """
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (abs(number) < math.inf and (number > least or (inclusive and number == least)) and number <= greatest):
        raise UserError(f"{name} must be a finite number{_words(least, inclusive, greatest)}{otherwise}, got {value!r}")


def _words(least: float, inclusive: bool, greatest: float) -> str:
    words = [] if least == -math.inf else [f"{'>=' if inclusive else '>'} {least:g}"]
    if greatest < 1:
        words.append("< 1")
    elif greatest < math.inf:
        words.append(f"<= {greatest:g}")
    return "".join(f" {word}" for word in " and ".join(words).split())


def check_whole(name: str, value: object, *, least: int, most: float = math.inf, otherwise: str = "") -> None:
    """Refuses what is no whole number in a range; ``otherwise`` says what else is allowed, such as ``" or -1"``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} must be a whole number >= {least}{otherwise}, got {value!r}")
    if value > most:
        raise UserError(f"{name} must be at most {most:,}, got {value:,}")
