"""Named settings: the paper's methods and problem, and the short run that is the default.

Each value is marked with its origin. *paper*: Dohare et al., Nature 632 (2024). *published code*: what the code published with
the paper does where the paper is silent or differs. *ours*: chosen here. ``docs/paper.md`` goes through them one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


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
        normalize_advantage: Over the whole ``"rollout"``, over each ``"batch"`` (as SB3 does), or ``"none"``.
        learning_rate: Adam's step size.
        beta1: Adam's decay of the first moment.
        beta2: Adam's decay of the second moment.
        adam_eps: Adam's ε.
        weight_decay: Coupled L2 penalty on every parameter.
        net_arch: Units of each hidden layer, the same for the policy and the value network.
        activation: Of the hidden layers.
        weight_init: As in :class:`agents.PlasticMlpPolicy`.
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
    normalize_advantage: Literal["rollout", "batch", "none"] = "rollout"  # published code
    learning_rate: float = 1e-4  # paper
    beta1: float = 0.9  # paper
    beta2: float = 0.999  # paper
    adam_eps: float = 1e-8  # published code
    weight_decay: float = 0.0  # paper
    net_arch: tuple[int, ...] = (256, 256)  # paper
    activation: Literal["relu", "tanh"] = "relu"  # paper
    weight_init: Literal["sb3", "lecun"] = "lecun"  # published code
    log_std_init: float = 0.0  # published code


@dataclass(frozen=True)
class MethodPreset:
    """A name for ``--method``: what it changes in the standard PPO.

    Attributes:
        method: The method that acts after each update, as for :class:`agents.PlasticMlpPolicy`; None for none.
        method_kwargs: Its keyword arguments.
        changes: Values of :class:`Hyperparameters` that differ from the standard PPO.
    """

    method: str | None = None
    method_kwargs: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)


METHODS: dict[str, MethodPreset] = {
    "ppo": MethodPreset(),
    "ppo-tuned": MethodPreset(changes={"beta1": 0.99, "beta2": 0.99}),  # paper
    "l2": MethodPreset(changes={"beta1": 0.99, "beta2": 0.99, "weight_decay": 1e-3}),  # paper
    "cbp": MethodPreset(
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
        changes={"beta1": 0.99, "beta2": 0.99, "weight_decay": 1e-4},  # paper
    ),
}


@dataclass(frozen=True)
class RunPreset:
    """A name for ``--preset``: how long a run is and in what world.

    Attributes:
        timesteps: Environment steps of the run, over all environments.
        period: Steps between two changes, over all environments.
        n_envs: Number of environments.
        env_kwargs: Keyword arguments of the environment.
        changes: Values of :class:`Hyperparameters` that differ from the method's.
    """

    timesteps: int
    period: int
    n_envs: int
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)


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
    ),
    "paper": RunPreset(
        timesteps=20_000_000,  # paper
        period=2_000_000,  # paper
        n_envs=1,  # paper
        env_kwargs={
            "unclipped_actions": True,  # published code
            "terminate_after": 1000,  # published code
        },
    ),
}
