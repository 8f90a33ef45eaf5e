"""SAC, TD3 and DQN: their hyperparameters, their methods and their runs by name.

Each value is marked with its origin. *rl-zoo3*: tuned in ``hyperparams/*.yml`` of DLR-RM/rl-baselines3-zoo. *SB3*: a default of
Stable-Baselines3. *ours*: chosen here. No paper with continual backpropagation in SAC, TD3 or DQN is known to us: it is
experimental there, with ReDo and resets as controls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import cbp
from agents.runs.presets import MethodPreset, RunPreset, with_defaults


@dataclass(frozen=True)
class OffPolicyHyperparameters:
    """What SAC, TD3 and DQN share.

    Attributes:
        learning_rate: Adam's step size, in all networks.
        buffer_size: Transitions that are kept, over all environments.
        learning_starts: Steps before the first update.
        batch_size: Transitions per update.
        tau: How far a target network goes towards its network at each of its updates.
        gamma: Discount factor.
        train_freq: Steps of each environment between two times of learning.
        gradient_steps: Updates each time; -1 for as many as steps were taken, over all environments.
        beta1: Adam's decay of the first moment.
        beta2: Adam's decay of the second moment.
        adam_eps: Adam's ε.
        weight_decay: Coupled L2 penalty on every parameter of the networks.
        net_arch: Units of each hidden layer, the same for all networks.
        activation: Of the hidden layers.
    """

    learning_rate: float = 3e-4  # SB3
    buffer_size: int = 1_000_000  # SB3
    learning_starts: int = 10_000  # rl-zoo3, MuJoCo
    batch_size: int = 256  # SB3
    tau: float = 0.005  # SB3
    gamma: float = 0.99  # SB3
    train_freq: int = 1  # SB3
    gradient_steps: int = 1  # SB3
    beta1: float = 0.9  # SB3
    beta2: float = 0.999  # SB3
    adam_eps: float = 1e-8  # SB3
    weight_decay: float = 0.0  # SB3
    net_arch: tuple[int, ...] = (256, 256)  # SB3
    activation: Literal["relu", "tanh"] = "relu"  # SB3


@dataclass(frozen=True)
class SACHyperparameters(OffPolicyHyperparameters):
    """SAC, its networks and their optimizers.

    Attributes:
        ent_coef: Weight of the entropy; ``"auto"`` learns it.
        target_entropy: What it is learned for; ``"auto"`` is minus the number of actions.
        target_update_interval: Updates between two of the target network.
    """

    ent_coef: float | str = "auto"  # SB3
    target_entropy: float | str = "auto"  # SB3
    target_update_interval: int = 1  # SB3


@dataclass(frozen=True)
class TD3Hyperparameters(OffPolicyHyperparameters):
    """TD3, its networks and their optimizers.

    Attributes:
        noise_std: Standard deviation of the noise in the actions that are taken, which are in [-1, 1].
        policy_delay: Updates of the critics for one of the actor and of the targets.
        target_policy_noise: Standard deviation of the noise in the target's actions.
        target_noise_clip: Its greatest size.
    """

    learning_rate: float = 1e-3  # rl-zoo3, MuJoCo
    net_arch: tuple[int, ...] = (400, 300)  # rl-zoo3, MuJoCo
    noise_std: float = 0.1  # rl-zoo3
    policy_delay: int = 2  # SB3
    target_policy_noise: float = 0.2  # SB3
    target_noise_clip: float = 0.5  # SB3


@dataclass(frozen=True)
class DQNHyperparameters(OffPolicyHyperparameters):
    """DQN, its network and its optimizer.

    Attributes:
        target_update_interval: Steps, over all environments, between two updates of the target network.
        exploration_fraction: Share of the run in which ε falls from the first value to the last.
        exploration_initial_eps: ε at the beginning.
        exploration_final_eps: ε from there on.
        max_grad_norm: Clipping of the gradient norm.
    """

    learning_rate: float = 1e-4  # SB3
    learning_starts: int = 100  # SB3
    batch_size: int = 32  # SB3
    tau: float = 1.0  # SB3
    train_freq: int = 4  # SB3
    net_arch: tuple[int, ...] = (64, 64)  # SB3
    target_update_interval: int = 10_000  # SB3
    exploration_fraction: float = 0.1  # SB3
    exploration_initial_eps: float = 1.0  # SB3
    exploration_final_eps: float = 0.05  # SB3
    max_grad_norm: float = 10.0  # SB3


# By ids without a version; what is not named is as the class says.
SAC_TUNED: dict[str, dict[str, Any]] = {
    "Pendulum": {"learning_rate": 1e-3, "learning_starts": 100},  # rl-zoo3
    "Swimmer": {"gamma": 0.999},  # rl-zoo3
}
TD3_TUNED: dict[str, dict[str, Any]] = {
    "Pendulum": {"gamma": 0.98, "buffer_size": 200_000},  # rl-zoo3
    "Swimmer": {"gamma": 0.9999},  # rl-zoo3
}
DQN_TUNED: dict[str, dict[str, Any]] = {
    "CartPole": {  # rl-zoo3
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1000,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
        "net_arch": (256, 256),
    },
    "MountainCar": {  # rl-zoo3
        "learning_rate": 4e-3,
        "batch_size": 128,
        "buffer_size": 10_000,
        "learning_starts": 1000,
        "gamma": 0.98,
        "target_update_interval": 600,
        "train_freq": 16,
        "gradient_steps": 8,
        "exploration_fraction": 0.2,
        "exploration_final_eps": 0.07,
        "net_arch": (256, 256),
    },
    "Acrobot": {  # rl-zoo3
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 0,
        "target_update_interval": 250,
        "gradient_steps": -1,
        "exploration_fraction": 0.12,
        "exploration_final_eps": 0.1,
        "net_arch": (256, 256),
    },
}


def _methods(replacement_rate: float, threshold: float, period: int) -> dict[str, MethodPreset]:
    """The methods of an algorithm, given ρ of continual backpropagation and τ and the period of ReDo."""
    methods = {
        "backprop": MethodPreset(),
        "l2": MethodPreset(changes={"weight_decay": 1e-4}),  # ours
        "shrink-perturb": replace(_with("shrink-perturb"), changes={"weight_decay": 1e-4}),  # ours: that of l2 shrinks
        "shrink-perturb-soft": _with("shrink-perturb", shrink=0.9, perturb=0.1, period=10_000, noise="fresh"),  # ours: as PPO
        "l2-init": _with("l2-init", strength=5e-4),  # ours: as PPO
        "redo": _with("redo", threshold=threshold, period=period),
        "cbp": _with("cbp", replacement_rate=replacement_rate),
        "fire": replace(_with("fire"), needs_signal=True),
        "reset-all": MethodPreset(needs_signal=True),
    }
    # NaP is for networks with norms, which these policies have none of, and PFO for algorithms that are on-policy.
    return methods | {name: _with(name) for name in cbp.METHODS if name not in methods and name not in ("nap", "pfo")}


def _with(method: str, **changes: Any) -> MethodPreset:
    """A method with the defaults of its class, some of them changed."""
    preset = with_defaults(method)
    return replace(preset, method_kwargs=preset.method_kwargs | changes)


# One update a step, where the paper's PPO makes 160 in 2,048: ρ for as many replaced units a step.
ACTOR_CRITIC_METHODS = _methods(
    replacement_rate=8e-6,  # ours
    threshold=0.0,  # the authors' configuration of ReDo for SAC
    period=1000,  # the authors' configuration of ReDo for SAC
)
# One update in four steps.
DQN_METHODS = _methods(
    replacement_rate=3e-5,  # ours
    threshold=0.025,  # the paper of ReDo, for DQN
    period=1000,  # the paper of ReDo, for DQN
)

ACTOR_CRITIC_RUNS: dict[str, RunPreset] = {
    # ours: some ten minutes on two cores, with five changes, and long enough for units to mature (after 10,000 updates)
    "quick": RunPreset(timesteps=60_000, period=10_000, n_envs=1, changes={"learning_starts": 1000}),
    "rl-zoo3": RunPreset(timesteps=1_000_000, period=100_000, n_envs=1),  # rl-zoo3, MuJoCo; the period is ours
}
DQN_RUNS: dict[str, RunPreset] = {
    "quick": RunPreset(timesteps=120_000, period=20_000, n_envs=1),  # ours: minutes on two cores
    "rl-zoo3": RunPreset(timesteps=1_000_000, period=100_000, n_envs=1),  # rl-zoo3, its default; the period is ours
}
