"""Schedules that wander: each phase goes on from the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from envs import checks
from envs.schedules.base import At, Scale, Schedule, State


@dataclass(frozen=True)
class RandomWalk(Schedule, name="random_walk"):
    """Moves by normal steps from where it is; the ends of the range reflect it. Begins anywhere in the range.

    Attributes:
        step: Standard deviation of a step, as a share of the range.
        scale: Whether the steps are of the value, or of its logarithm.
    """

    step: float = 0.1
    scale: Scale = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "step", checks.finite("step", self.step, 0))
        checks.choice("scale", self.scale, get_args(Scale))

    def draw(self, at: At) -> tuple[float, State]:
        """The share u of the range: u ← u + step·N(0, 1), reflected into [0, 1]."""
        if at.state is None:
            share = at.generator.uniform()
        else:
            share = (at.state + self.step * at.generator.standard_normal()) % 2
            share = min(share, 2 - share)
        return at.share(share, self.scale), share


@dataclass(frozen=True)
class OrnsteinUhlenbeck(Schedule, name="ornstein_uhlenbeck"):
    """Wanders about the middle of the range, which pulls it back. Begins there; the ends of the range stop it.

    Attributes:
        pull: The share of its way back that it goes in each phase, from 0 to 1.
        sigma: Standard deviation of a step, as a share of the range.
        scale: Whether the steps are of the value, or of its logarithm.
    """

    pull: float = 0.1
    sigma: float = 0.1
    scale: Scale = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pull", checks.finite("pull", self.pull, 0, 1))
        object.__setattr__(self, "sigma", checks.finite("sigma", self.sigma, 0))
        checks.choice("scale", self.scale, get_args(Scale))

    def draw(self, at: At) -> tuple[float, State]:
        """The share u of the range: u ← u + pull·(½ − u) + sigma·N(0, 1), kept in [0, 1]."""
        share = 0.5
        if at.state is not None:
            share = at.state + self.pull * (0.5 - at.state) + self.sigma * at.generator.standard_normal()
            share = min(max(share, 0.0), 1.0)
        return at.share(share, self.scale), share
