"""Lets rl-zoo3 search over continual backpropagation's ρ and m, with Optuna.

Name this file among ``--gym-packages``; rl-zoo3 imports it before it begins (``docs/sb3.md`` has the command). Its own samplers
draw ``policy_kwargs`` as a whole and lose what the file of hyperparameters says there, so the sampler here adds the method's
options to what they draw. Those that are tried besides, learning rate and so on, are rl-zoo3's.
"""

from __future__ import annotations

from typing import Any

import optuna
from rl_zoo3 import hyperparams_opt

import agents  # noqa: F401  (makes the policies known)

RATES = (1e-6, 1e-3)
MATURITIES = (100, 10_000)


def with_method(algorithm: str) -> None:
    """Makes the search of an algorithm try the method's options, too."""
    sample = hyperparams_opt.HYPERPARAMS_SAMPLER[algorithm]

    def sample_all(trial: optuna.Trial, *args: Any) -> dict[str, Any]:
        drawn: dict[str, Any] = sample(trial, *args)
        method_kwargs = {
            "replacement_rate": trial.suggest_float("replacement_rate", *RATES, log=True),
            "maturity_threshold": trial.suggest_int("maturity_threshold", *MATURITIES, log=True),
        }
        return {**drawn, "policy_kwargs": {**drawn.get("policy_kwargs", {}), "method_kwargs": method_kwargs}}

    hyperparams_opt.HYPERPARAMS_SAMPLER[algorithm] = sample_all


for name in ("ppo", "a2c", "sac", "td3", "dqn"):
    with_method(name)
