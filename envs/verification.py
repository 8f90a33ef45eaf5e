"""Whether a parameter changes an environment: played at two values, measured where it acts."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from envs.changes import Change
from envs.checks import EffectError, env_name, integer
from envs.effects import Acting
from envs.nonstationary import NonStationary
from envs.simulation import ModelSource, find_data, look_for_model
from envs.trials import leaves


@dataclass(frozen=True)
class Verified:
    """What was seen of a parameter.

    Attributes:
        name: Of the parameter.
        values: The least and the greatest value, in the unit of its values.
        unit: This unit, in words.
        where: What was measured, in words.
        measured: At each of the values: the mean friction of the contacts that there were; the Euclidean norm of forces or
            inertias; the root mean square of what arrives otherwise than it was sent; the Euclidean norm of the velocities that
            pushes add. NaN where nothing could be measured.
        parted: The step at which simulation, observation or reward became another one, counted from 1.
        strayed: The step, not after that, at which they did so without any change; 0 for none.
        at_resets_only: Whether a change that came after the reset was without effect for the rest of the episode, unlike one
            before it. ``change_at="now"`` and ``set_value`` do nothing there until the next reset.
        not_finite: The first step whose reward, at either value, was NaN or infinite; 0 for none.
    """

    name: str
    values: tuple[float, float]
    unit: str
    where: str
    measured: tuple[float, float]
    parted: int
    strayed: int = 0
    at_resets_only: bool = False
    not_finite: int = 0

    def __str__(self) -> str:
        values, measured = (f"{low:.4g} and {high:.4g}" for low, high in (self.values, self.measured))
        unit = "" if self.unit == "1" else f" {self.unit}"
        seen = f"no {self.where}" if math.isnan(sum(self.measured)) else f"{self.where} {measured}"
        trajectory = f"another trajectory from step {self.parted} on" if self.parted else "the same trajectory"
        if self.strayed:
            trajectory += f", but so it is without a change from step {self.strayed} on, so that it tells nothing"
        if self.at_resets_only:
            trajectory += "; in mid-episode a change has no effect until the next reset"
        if self.not_finite:
            trajectory += f"; the reward of step {self.not_finite} is not finite"
        return f"{self.name} {values}{unit}: {seen if self.where else 'nothing measured'}; {trajectory}"


def verify(
    env: gymnasium.Env[Any, Any],
    parameter: str | Mapping[str, Mapping[str, Any]] = "friction",
    *,
    steps: int = 300,
    seed: int = 0,
    model: ModelSource | None = None,
    **options: Any,
) -> list[Verified]:
    """Plays an environment at the least and the greatest value of each parameter and measures what they change.

    Both times it is reset with the same seed and driven by the same random actions. Whether these alone bring the same again is
    tried, too. What a parameter decides is measured where
    it acts: the friction of contacts that there are, forces, inertias, the observations and actions that arrive.

    Args:
        env: An environment that does not change. It is reset and stepped, and has what it had itself afterwards; the first call
            must be ``reset`` then.
        parameter: As for :class:`envs.NonStationary`; of several, the others stay at their greatest value meanwhile.
        steps: How many at each value.
        seed: Of resets and actions.
        model: Says where the MuJoCo model is, as for :class:`envs.NonStationary`.
        **options: ``schedule``, ``low``, ``high`` and ``factor`` of one parameter.

    Returns:
        What was seen, a line each as text.

    Raises:
        envs.ParameterError: An argument that :class:`envs.NonStationary` refuses.
        envs.EffectError: Nothing became another one: the parameter has no effect. The message says what was seen.

    Example:
        >>> import envs, gymnasium
        >>> print(*envs.verify(gymnasium.make("Hopper-v5"), "strength", steps=50))
        strength 0.25 and 1 times its own: forces of actuators 43.3 and 173.2; another trajectory from step 1 on
    """
    steps = integer("steps", steps, lowest=1)
    wrapped = NonStationary(env, parameter, model=model, **options)
    wrapped.give_back()
    return [_verify(env, change, wrapped.changes, steps, seed, model) for change in wrapped.changes]


def _verify(
    env: gymnasium.Env[Any, Any],
    change: Change,
    changes: tuple[Change, ...],
    steps: int,
    seed: int,
    source: ModelSource | None,
) -> Verified:
    parameter = {each.name: each.options for each in changes}
    greatest = {each.name: each.extremes[1] for each in changes}
    low, high = (greatest | {change.name: value} for value in change.two_values)
    # The least value twice before the greatest and once after it: what differs from reset to reset is no effect.
    first, again, second = (_play(env, change, parameter, values, steps, seed, source) for values in (low, low, high))
    measured = first.measured, second.measured
    parted = _parted(first, second)
    after = _play(env, change, parameter, low, parted or 1, seed, source)
    strayed = min((step for step in (_parted(first, again), _parted(first, after)) if 0 < step <= parted), default=0)
    at_resets_only = False
    if 0 < parted <= first.first_episode:
        changed = _play(env, change, parameter, low, parted, seed, source, then=high[change.name])
        at_resets_only = not _parted(first, changed)
    where = change.parameter.where
    not_finite = min((played.not_finite for played in (first, second) if played.not_finite), default=0)
    verified = Verified(
        change.name, change.two_values, change.unit, where, measured, parted, strayed, at_resets_only, not_finite
    )
    if not parted:
        raise EffectError(f"{change.name} has no effect on {env_name(env)}: in {steps} steps {verified}")
    return verified


def _parted(first: _Played, other: _Played) -> int:
    """The first step that differs, counted from 1, of as many as both have; 0 for none."""
    pairs = zip(first.seen, other.seen, strict=False)
    return next((step for step, pair in enumerate(pairs, 1) if pair[0] != pair[1]), 0)


@dataclass
class _Played:
    """Some steps of an environment at one value."""

    seen: list[bytes] = field(default_factory=list)
    measured: float = math.nan
    first_episode: int = 0  # its steps
    not_finite: int = 0  # the first step with such a reward
    has_ended: bool = False


class _Tap(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Remembers what passes between an environment and the change around it."""

    source: ModelSource | None = None
    action: Any = None
    observation: Any = None
    reward: Any = None
    velocities: Any = None

    def step(self, action: Any) -> Any:
        self.action = action
        data = find_data(self.env, self.source)
        self.velocities = None if data is None else data.qvel.copy()
        transition = self.env.step(action)
        self.observation, self.reward = transition[:2]
        return transition

    def deviation(self, on: str, before: Any, action: Any, observation: Any, reward: Any) -> float:
        """The square of what a change has made of actions, observations or rewards, a mean, or of velocities, a sum."""
        if on == "simulation":
            return float(np.sum(np.square(self.velocities - before)))
        pairs = {
            "action": (self.action, action),
            "observation": (self.observation, observation),
            "reward": (self.reward, reward),
        }
        return float(np.mean(np.square(np.subtract(*pairs[on]))))


def _play(
    env: gymnasium.Env[Any, Any],
    change: Change,
    parameter: dict[str, dict[str, Any]],
    values: dict[str, float],
    steps: int,
    seed: int,
    source: ModelSource | None,
    then: float | None = None,
) -> _Played:
    """Plays some steps at values that are in force from before the first reset on; the change at another one after it."""
    tap = _Tap(env)
    tap.source = source
    wrapped = NonStationary(tap, parameter, seed=seed, model=source)
    try:
        wrapped.hold(values)
        return _play_steps(wrapped, tap, change, steps, seed, then)
    finally:
        wrapped.give_back()


def _play_steps(
    wrapped: NonStationary[Any, Any], tap: _Tap, change: Change, steps: int, seed: int, then: float | None
) -> _Played:
    space = copy.deepcopy(tap.action_space)
    space.seed(seed)
    played, deviations, shown = _Played(), [], []
    wrapped.reset(seed=seed)
    if then is not None:
        wrapped.set_value(change.name, then)
    for _ in range(steps):
        action = space.sample()
        data = find_data(wrapped, wrapped.source)
        before = None if data is None else data.qvel.copy()
        observation, reward, terminated, truncated, _ = wrapped.step(action)
        data = find_data(wrapped, wrapped.source)  # some replace it in a step
        simulated = () if data is None else (data.qpos, data.qvel)
        played.seen.append(b"".join(each.tobytes() for each in leaves((*simulated, observation, reward))))
        if not (played.not_finite or np.isfinite(np.asarray(reward, float)).all()):
            played.not_finite = len(played.seen)
        shown += change.parameter.seen(data) if data is not None else []
        if isinstance(change.effect, Acting):
            deviations.append(tap.deviation(change.effect.acts_on, before, action, observation, reward))
        played.first_episode += not played.has_ended
        if terminated or truncated:
            played.has_ended = True
            wrapped.reset()
    model = look_for_model(wrapped, wrapped.source)
    decided = None if model is None else change.parameter.measure(model)
    if isinstance(change.effect, Acting):
        total = sum if change.effect.acts_on == "simulation" else np.mean
        played.measured = math.sqrt(total(deviations))
    elif shown:
        played.measured = float(np.mean(shown))
    elif decided is not None and not change.parameter.in_steps:
        played.measured = float(np.linalg.norm(decided))
    return played
