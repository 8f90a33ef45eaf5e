"""What papers compare on, by name: ``--protocol``.

Each value is marked with its origin. *paper*, *page* and *code* are those of the protocol's source; *ours*: chosen here, since
the source does not say, or says what has no meaning here. Hyperparameters without a line are those of the Nature paper's PPO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agents.runs.presets import RUNS, RunPreset


@dataclass(frozen=True)
class Protocol:
    """A name for ``--protocol``.

    Attributes:
        source: Where it comes from, and what of it is ours, in a sentence or two of Markdown.
        env: A registered id.
        run: How long a run is, in how many environments, with which hyperparameters.
        param: What changes, as in :class:`agents.runs.config.Config`.
        change: How it changes, likewise.
        normalize: Whether observations and rewards are normalised by running statistics.
        imports: Modules that register the environment, of the extra ``worlds``.
        table: Measures that the source reports, by their names in ``agents.reporting.comparison``; none where it is ours.
    """

    source: str
    env: str
    run: RunPreset
    param: str
    change: Mapping[str, Any] = field(default_factory=dict)
    normalize: bool = False
    imports: tuple[str, ...] = ()
    table: tuple[str, ...] = ("area", "final_return")

    @property
    def world(self) -> dict[str, Any]:
        """What a run of the protocol has in common with all others, by the names in :class:`agents.runs.config.Config`."""
        return {
            "env": self.env,
            "env_kwargs": self.run.env_kwargs,
            "param": self.param,
            "change": dict(self.change),
            "period": self.run.period,
            "timesteps": self.run.timesteps,
            "n_envs": self.run.n_envs,
            "normalize": self.normalize,
            "algo": "ppo",
        }


_EPPO = (
    "Akgül et al., *Overcoming non-stationary dynamics with evidential proximal policy optimization*, TMLR 2025 "
    "([2503.01468](https://arxiv.org/abs/2503.01468)), as the first author's page describes it"
)
_EPPO_PERIOD = 500_000  # page


def _of_eppo(env: str, param: str, values: list[float], source: str) -> Protocol:
    # Changes come in mid-episode, so that each value has exactly its steps: ours.
    change = {"change_at": "now", "schedule": {"name": "list", "values": values, "at_end": "repeat"}}
    run = RunPreset(timesteps=_EPPO_PERIOD * len(values), period=_EPPO_PERIOD, n_envs=1)  # one environment: ours
    return Protocol(f"{_EPPO}. {source}", env, run, param, change)


def _slippery(env: str) -> Protocol:
    values = np.linspace(0.5, 4.0, 15).tolist()  # page: from 0.5 to 4 in 15 tasks; evenly and upwards: ours
    return _of_eppo(env, "friction", values, "That friction rises, and on every geom, is ours.")


def _paralysis(env: str, joints: str, words: str) -> Protocol:
    values = [1.0, 0.75, 0.5, 0.25, 0.0, 0.25, 0.5, 0.75, 1.0]  # page
    return _of_eppo(env, f"strength:{joints}", values, f"{words} is paralysed; which joints that is, is ours.")


_C_CHAIN = (
    "Tang et al., *Mitigating plasticity loss in continual reinforcement learning by reducing churn*, ICML 2025, and "
    "[its code](https://github.com/bluecontra/C-CHAIN)"
)
_OF_CLEANRL = {
    "learning_rate": 3e-4,  # code
    "batch_size": 64,  # code
    "vf_coef": 0.25,  # code: 0.5, of half the squared error
    "max_grad_norm": 0.5,  # code
    "adam_eps": 1e-5,  # code
    "normalize_advantage": "batch",  # code
    "weight_init": "sb3",  # code: orthogonal, with the same gains
}


def _continual(robot: str, *tasks: str, steps: int) -> Protocol:
    source = (
        f"{_C_CHAIN}; Plasticine (v2, 2026) goes through the tasks twice (`--timesteps {2 * steps}`). "
        "Theirs clips the value loss too, and normalises each task by statistics of its own."
    )
    run = RunPreset(
        timesteps=steps,  # code
        period=1_000_000,  # code
        n_envs=1,  # code
        env_kwargs={"tasks": [f"dm_control/{robot}-{task}-v0" for task in tasks]},  # code
        changes=_OF_CLEANRL,
    )
    change = {"change_at": "now"}  # code
    return Protocol(source, "task-sequence-v0", run, "task", change, normalize=True, imports=("shimmy",))


PROTOCOLS: dict[str, Protocol] = {
    "nature-slippery-ant": Protocol(
        "Dohare et al., *Loss of plasticity in deep continual learning*, Nature 632 (2024): `--preset paper`.",
        env="ant-nonstationary-v0",
        run=RUNS["paper"],
        param="friction",
        table=("area", "dormant_policy", "rank_policy", "weight_policy"),
    ),
    "quick-ant": Protocol(
        "Ours: the default preset, with ten longer phases.",
        env="ant-nonstationary-v0",
        run=replace(RUNS["quick"], timesteps=2_000_000, period=200_000),
        param="friction",
        table=(),
    ),
    "slippery-humanoid": Protocol(
        "The code of [LucMc/continual-learning](https://github.com/LucMc/continual-learning) (2026): phases, their number and "
        "the range of friction. Theirs runs 2,048 environments of Brax and changes the floor alone; here it is every geom of "
        "Gymnasium's Humanoid, in 8 environments, and the learner is ours.",
        env="humanoid-nonstationary-v0",
        run=RunPreset(
            timesteps=400_000_000,  # code
            period=20_000_000,  # code
            n_envs=8,  # ours
        ),
        param="friction",
        change={"low": 0.02, "high": 2.0, "schedule": {"name": "log_uniform"}},  # code
        table=("area",),
    ),
    "eppo-slippery-ant": _slippery("Ant-v5"),
    "eppo-slippery-halfcheetah": _slippery("HalfCheetah-v5"),
    "eppo-paralysis-ant": _paralysis("Ant-v5", "hip_1+ankle_1", "A front leg"),
    "eppo-paralysis-halfcheetah": _paralysis("HalfCheetah-v5", "fthigh+fshin+ffoot", "The front leg"),
    "continual-walker": _continual("walker", "stand", "walk", "run", steps=3_000_000),
    "continual-quadruped": _continual("quadruped", "walk", "run", steps=3_000_000),
    "continual-dog": _continual("dog", "stand", "walk", "run", "trot", steps=4_000_000),
}


def protocol_of(config: object) -> str | None:
    """The protocol that a run is of in all that its world is, whatever it was begun with; None where it is of none.

    Args:
        config: A :class:`agents.runs.config.Config`.
    """
    for name, protocol in PROTOCOLS.items():
        if all(getattr(config, key) == value for key, value in protocol.world.items()):
            return name
    return None
