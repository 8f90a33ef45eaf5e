"""Named settings: the paper's methods and problem, and the short run that is the default.

Each value is marked with its origin. *paper*: Dohare et al., Nature 632 (2024). *published code*: what the code published with
the paper does where the paper is silent or differs. *ours*: chosen here. ``docs/paper.md`` goes through them one by one.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cbp
from cbp.method import options_of


@dataclass(frozen=True)
class Hyperparameters:
    """PPO, its networks and its optimizer; the defaults are the paper's standard PPO on Ant.

    Attributes:
        rollout_steps: Environment steps per rollout, over all environments.
        batch_size: Samples per update.
        n_epochs: Passes over each rollout.
        gamma: Discount factor.
        gae_lambda: λ of generalised advantage estimation.
        clip_range: Clipping of the policy ratio.
        vf_coef: Weight of the value loss.
        ent_coef: Weight of the entropy bonus.
        max_grad_norm: Clipping of the gradient norm, None for none.
        clip_each_network: Whether it bounds the gradient of each network by itself.
        normalize_advantage: Over the whole ``"rollout"``, over each ``"batch"`` (as SB3 does), or ``"none"``.
        learning_rate: Adam's step size.
        beta1: Adam's decay of the first moment.
        beta2: Adam's decay of the second moment.
        adam_eps: Adam's ε.
        weight_decay: Coupled L2 penalty on every parameter.
        decay_log_std: Whether also on the logarithm of the Gaussian's standard deviation.
        net_arch: Units of each hidden layer, the same for the policy and the value network.
        activation: Of the hidden layers.
        weight_init: As in :class:`agents.PlasticMlpPolicy`.
        padded_inputs: As there.
        log_std_init: Initial logarithm of the Gaussian's standard deviation.
    """

    rollout_steps: int = 2048  # paper
    batch_size: int = 128  # paper
    n_epochs: int = 10  # paper
    gamma: float = 0.99  # paper
    gae_lambda: float = 0.95  # paper
    clip_range: float = 0.2  # paper
    vf_coef: float = 1.0  # published code
    ent_coef: float = 0.0  # published code
    max_grad_norm: float | None = None  # published code
    clip_each_network: bool = False
    normalize_advantage: Literal["rollout", "batch", "none"] = "rollout"  # published code
    learning_rate: float = 1e-4  # paper
    beta1: float = 0.9  # paper
    beta2: float = 0.999  # paper
    adam_eps: float = 1e-8  # published code
    weight_decay: float = 0.0  # paper
    decay_log_std: bool = True  # published code
    net_arch: tuple[int, ...] = (256, 256)  # paper
    activation: Literal["relu", "tanh", "crelu"] = "relu"  # paper
    weight_init: Literal["sb3", "lecun"] = "lecun"  # published code
    padded_inputs: int | None = None
    log_std_init: float = 0.0  # published code


@dataclass(frozen=True)
class MethodPreset:
    """A name for ``--method``: what it changes in the standard PPO, or in a supervised problem.

    Attributes:
        method: The method that acts around each update, one of :data:`cbp.METHODS`; None for none.
        method_kwargs: Its keyword arguments.
        changes: Values of :class:`Hyperparameters`, or of :class:`agents.supervised.presets.Settings`, that differ from those.
        policy_kwargs: Further keyword arguments of :class:`agents.PlasticMlpPolicy`, in reinforcement learning.
        needs_signal: Whether it is told when a phase or task begins: the method, or where there is none, networks and optimizer
            begin anew then.
    """

    method: str | None = None
    method_kwargs: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    needs_signal: bool = False


_TUNED = {"beta1": 0.99, "beta2": 0.99}  # paper
_CBP = MethodPreset(
    method="cbp",
    method_kwargs={
        "replacement_rate": 1e-4,  # paper
        "maturity_threshold": 10_000,  # paper
        "decay_rate": 0.99,  # paper
        "utility": "contribution",  # paper
        "rounding": "stochastic",  # published code; the paper's algorithm 1 counts
        "reset_optimizer": "none",  # published code
        "init": "lecun",  # published code
    },
    changes={**_TUNED, "weight_decay": 1e-4},  # paper
)

METHODS: dict[str, MethodPreset] = {
    "ppo": MethodPreset(),
    "ppo-tuned": MethodPreset(changes=_TUNED),
    "l2": MethodPreset(changes={**_TUNED, "weight_decay": 1e-3}),  # paper
    "l2-networks": MethodPreset(changes={**_TUNED, "weight_decay": 1e-3, "decay_log_std": False}),  # ours
    "layer-norm": MethodPreset(changes=_TUNED, policy_kwargs={"layer_norm": True}),  # ours
    "shrink-perturb": MethodPreset(  # at every update, as in the paper, whose settings for Ant are not published
        method="shrink-perturb",
        method_kwargs={
            "shrink": 1.0,  # paper: the weight decay shrinks
            "perturb": 1e-5,  # paper, for images
            "period": 1,  # paper
            "noise": "normal",  # paper
        },
        changes={**_TUNED, "weight_decay": 1e-3},  # ours: that of l2
    ),
    "shrink-perturb-soft": MethodPreset(  # ours: a tenth of the way to a fresh network, every 10,000 updates
        method="shrink-perturb",
        method_kwargs={"shrink": 0.9, "perturb": 0.1, "period": 10_000, "noise": "fresh"},
        changes=_TUNED,
    ),
    "l2-init": MethodPreset(
        method="l2-init",
        method_kwargs={"strength": 5e-4},  # ours: pulls as strongly as l2's weight decay
        changes=_TUNED,
    ),
    "snr": MethodPreset(
        method="snr",
        method_kwargs={
            "rejection": 0.01,  # the authors' code
            "max_silence": 20_000,  # ours
            "min_silence": 100,  # authors' code
            "reset_optimizer": "moments",  # the authors' code
            "init": "lecun",  # as the first weights
        },
        changes={**_TUNED, "weight_decay": 1e-4},  # ours: as redo and cbp
    ),
    "redo": MethodPreset(
        method="redo",
        method_kwargs={
            "threshold": 0.1,  # published code
            "period": 100,  # published code
            "reset_optimizer": "moments",  # as in the paper of ReDo
            "init": "lecun",  # as the first weights
        },
        changes={**_TUNED, "weight_decay": 1e-4},  # published code
    ),
    "regrama": MethodPreset(
        method="regrama",
        method_kwargs={
            "threshold": 0.01,  # the default of the implementation in LucMc/continual-learning
            "period": 1000,  # as the threshold
            "reset_optimizer": "moments",  # as there
            "init": "lecun",  # as the first weights
        },
        changes={**_TUNED, "weight_decay": 1e-4},  # ours: as redo
    ),
    "parseval": MethodPreset(
        method="parseval",
        method_kwargs={"strength": 1e-3, "scale": 2.0},  # the authors' code
        changes=_TUNED,
    ),
    "spectral": MethodPreset(
        method="spectral",
        method_kwargs={
            "strength": 1e-4,  # ours
            "exponent": 2,  # the paper of spectral regularisation
        },
        changes=_TUNED,
    ),
    "upgd": MethodPreset(
        method="upgd",
        method_kwargs={"decay_rate": 0.999, "sigma": 1e-3, "weight_decay": 1e-3},  # the authors' code for PPO
        changes=_TUNED,
    ),
    "swr": MethodPreset(
        method="swr",
        method_kwargs={
            "factor": 1e-5,  # the authors' best for a large network
            "period": 2048,  # as the factor
            "utility": "gradient",  # as the factor
            "selection": "threshold",  # as the factor
            "decay_rate": 0.0,  # the authors' code
        },
        changes={**_TUNED, "weight_decay": 1e-4},  # ours: as cbp
    ),
    "fire": MethodPreset(
        method="fire",
        method_kwargs={"iterations": 10},  # the authors' code
        changes=_TUNED,
        needs_signal=True,
    ),
    "nap": MethodPreset(method="nap", changes=_TUNED, policy_kwargs={"layer_norm": True}),  # the paper of NaP
    "hare-tortoise": MethodPreset(
        method="hare-tortoise",
        method_kwargs={
            "momentum": 0.999,  # the authors' code
            "period": 1600,  # ours: ten rollouts
        },
        changes=_TUNED,
    ),
    "trac": MethodPreset(
        method="trac",
        method_kwargs={
            "decay_rates": [0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999],  # the paper of TRAC
            "first_scale": 1e-8,  # the paper of TRAC
            "eps": 1e-8,  # the authors' code
        },
        changes=_TUNED,
    ),
    "c-chain": MethodPreset(
        method="c-chain",
        method_kwargs={
            "target": 0.05,  # the authors' code
            "first_strength": 100.0,  # the authors' code
            "measure_every": 160,  # ours: once a rollout, as the authors' code
            "warm_up": 50,  # the authors' code
            "window": 100,  # the authors' code
        },
        changes=_TUNED,
    ),
    "pfo": MethodPreset(
        method="pfo",
        method_kwargs={
            "strength": 10.0,  # the authors' code, for ReLU on MuJoCo
            "all_layers": False,  # the authors' code
        },
        changes=_TUNED,
    ),
    "crelu": MethodPreset(changes={**_TUNED, "activation": "crelu"}),  # form: the paper of CReLU
    "cbp": _CBP,
    "cbp-first-layer": replace(_CBP, policy_kwargs={"method_layers": "first"}),  # ours
    "cbp-no-l2": replace(_CBP, changes=_TUNED),  # ours
    "reset-all": MethodPreset(changes=_TUNED, needs_signal=True),  # ours
}


def with_defaults(name: str) -> MethodPreset:
    """A method with the defaults of its class, as JSON has them."""
    parameters = inspect.signature(cbp.METHODS[name]).parameters
    defaults = {option: parameters[option].default for option in options_of(cbp.METHODS[name])}
    as_in_json = {option: list(value) if isinstance(value, tuple) else value for option, value in defaults.items()}
    return MethodPreset(method=name, method_kwargs=as_in_json)


# Methods without settings of their own.
METHODS |= {name: replace(with_defaults(name), changes=_TUNED) for name in cbp.METHODS if name not in METHODS}


@dataclass(frozen=True)
class RunPreset:
    """A name for ``--preset``: how long a run is and in what world.

    Attributes:
        timesteps: Environment steps of the run, over all environments.
        period: Steps between two changes, over all environments.
        n_envs: Number of environments.
        stationary: Steps of the run, in place of ``timesteps``, in registered environments that do not change.
        env_kwargs: Keyword arguments of the registered environments that change.
        changes: Values of :class:`Hyperparameters` that differ from the method's.
        in_env: The same, in some environments only, by their ids.
    """

    timesteps: int
    period: int
    n_envs: int
    stationary: dict[str, int] = field(default_factory=dict)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    in_env: dict[str, dict[str, Any]] = field(default_factory=dict)


# The published Ant observes 84 contact forces that its MuJoCo never fills in: 111 inputs, of which 27 are ever non-zero.
_PADDED = {"padded_inputs": 111}  # published code
_OF_ANT = {"ant-nonstationary-v0": _PADDED, "ant-stationary-v0": _PADDED}

RUNS: dict[str, RunPreset] = {
    "quick": RunPreset(
        # ours: minutes on two cores, five changes or more, and long enough for units to mature (after 128,000 steps)
        timesteps=400_000,
        period=60_000,
        n_envs=8,
        changes={
            # ours: with the paper's 0, the cost of the noise in the actions outweighs the reward for staying alive, and in a
            # run this short the agent learns only to fall at once
            "log_std_init": -1.0,
            "learning_rate": 3e-4,  # ours, SB3's default
        },
        in_env=_OF_ANT,
    ),
    "paper": RunPreset(
        timesteps=20_000_000,  # paper
        period=2_000_000,  # paper
        n_envs=1,  # paper
        stationary={
            "ant-stationary-v0": 50_000_000,  # paper
            "hopper-stationary-v0": 100_000_000,  # published code
            "walker2d-stationary-v0": 100_000_000,  # published code
        },
        env_kwargs={
            "unclipped_actions": True,  # published code
            "terminate_after": 1000,  # published code
            "healthy_reward_on_fall": True,  # published code
        },
        in_env=_OF_ANT,
    ),
}
