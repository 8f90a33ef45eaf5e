"""Lets rl-zoo3 search over continual backpropagation's ρ and m, with Optuna, for any of its algorithms with gradients.

Name this file among ``--gym-packages``; rl-zoo3 imports it before it begins (``docs/sb3.md`` has the command), also where it
trains with what a trial found (``--trial-id``). Its own samplers draw ``policy_kwargs`` as a whole and lose what the file of
hyperparameters says there, so the sampler here adds the method's options to what they draw. Those that are tried besides,
learning rate and so on, are rl-zoo3's.
"""

from __future__ import annotations

from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

import agents  # noqa: F401  (makes the policies known)

RATES = (1e-6, 1e-3)
MATURITIES = (100, 10_000)
OPTIONS = ("replacement_rate", "maturity_threshold")


def with_method(algorithm: str) -> None:
    """Makes the search of an algorithm try the method's options, too."""
    sample, convert = HYPERPARAMS_SAMPLER[algorithm], HYPERPARAMS_CONVERTER[algorithm]

    def sample_all(trial: optuna.Trial, *args: Any) -> dict[str, Any]:
        method_kwargs = {
            "replacement_rate": trial.suggest_float("replacement_rate", *RATES, log=True),
            "maturity_threshold": trial.suggest_int("maturity_threshold", *MATURITIES, log=True),
        }
        return _with(method_kwargs, sample(trial, *args))

    def convert_all(found: dict[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in found.items() if name not in OPTIONS}
        return _with({name: found[name] for name in OPTIONS}, convert(others))

    HYPERPARAMS_SAMPLER[algorithm], HYPERPARAMS_CONVERTER[algorithm] = sample_all, convert_all


def _with(method_kwargs: dict[str, Any], hyperparameters: dict[str, Any]) -> dict[str, Any]:
    return {**hyperparameters, "policy_kwargs": {**hyperparameters.get("policy_kwargs", {}), "method_kwargs": method_kwargs}}


for name in HYPERPARAMS_SAMPLER.keys() - {"ars"}:
    with_method(name)
