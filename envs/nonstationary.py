"""The wrapper that changes an environment while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat, TypeVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs

from envs import checks
from envs.changes import OPTIONS, Change
from envs.checks import ParameterError
from envs.interface import InterfaceEffect

ObsType = TypeVar("ObsType")
ActType = TypeVar("ActType")

DEFAULT_PERIOD = 200_000
"""Steps between changes: ours, a tenth of the paper's, so that several changes fit into an hour."""

CHANGE_AT = ("episode_end", "now")
COUNTS = ("steps", "episodes")

# Keeps the values apart from the environment's own random numbers, which Gymnasium derives from the same seed with no key.
SPAWN_KEY = (0xC4A46E,)


class NonStationary(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Changes parameters of a MuJoCo environment again and again, by a schedule.

    The time between two changes is a phase. Phase 0 has a value of the schedule too, in force from construction on. A clock
    counts this environment's own steps, or episodes, since the last change; it goes on through ``reset()``.

    - ``change_at="episode_end"``: the value changes in the first ``reset()`` for which *more* than ``period`` steps have been
      taken since the last change (as in the paper), so never within an episode and at most once a reset. With
      ``count="episodes"`` it changes in the reset after ``period`` episodes.
    - ``change_at="now"``: a phase has exactly ``period`` steps; the change comes before the physics of the next step, in
      mid-episode or not. Positions and velocities stay as they are.

    Every ``info`` carries these keys:

    - each parameter's name, such as ``info["friction"]`` (float): the value under which the step was simulated;
    - ``info["phase"]`` (int): 0, 1, 2, …;
    - ``info["changed"]`` (bool): True at exactly the first step of each phase, phase 0 included. The ``info`` of ``reset()``
      has the value and the phase in force, and False here.

    Values come from random generators of the wrapper's own. They depend on the seed alone, not on actions, episodes, the
    environment's randomness or any global state. A constructor ``seed`` fixes their sequence. ``reset(seed=s)`` restarts clock,
    phases and sequence (that of the constructor's seed or, where none was given, of ``s``) and passes ``s`` on to the
    environment; ``reset()`` restarts none of them. Without any seed the sequence is drawn from the operating system's entropy.
    The noise of observations and actions is the environment's, not the sequence's: it follows from ``s`` alone.

    Pickles and deep copies keep values, clock, phase and sequences. Gymnasium rebuilds a MuJoCo environment from its
    arguments, so the state of its simulation is lost: the first call to a copy must be ``reset()``.

    Args:
        env: A MuJoCo environment, wrapped or not, but not in this wrapper: one clock tells the phases.
        parameter: What changes: a name in :data:`envs.PARAMETERS`; for one body or joint with its name, as ``"mass:torso"``. Or
            several that change at the same steps, as a mapping from names to their own ``schedule``, ``low``, ``high`` and
            ``factor``, each of which may be left out; these four are then not given beside it.
        schedule: How the values are drawn: a name in :data:`envs.SCHEDULES`, a mapping of ``"name"`` and options such as
            ``{"name": "sine", "length": 12}``, or an :class:`envs.Schedule`. None is the parameter's default: ``"log_uniform"``
            for friction (from the paper).
        low: The least value, in the parameter's unit. None is the parameter's default, 0.02 for friction (from the paper).
        high: The greatest value. None is the parameter's default, 2.0 for friction (from the paper).
        period: Steps or episodes between changes, at least 1. The default is ours; the paper's Ant changes every 2,000,000
            steps.
        change_at: ``"episode_end"`` (from the paper) or ``"now"``.
        seed: Fixes the sequence of values whatever the seed of ``reset``; an integer of at least 0, or None.
        factor: Whether values are multiples of what the model has itself, rather than in the parameter's unit. None is the
            parameter's default: False for friction.
        count: What the period counts, ``"steps"`` or ``"episodes"``.
        observe: Whether the values in force are appended to the observation, a Box: for agents that are told. What a change
            ``"now"`` brings is seen one step after it acts.

    Raises:
        envs.ParameterError: An argument that is not one of those above, or an environment without that parameter.

    Source:
        Dohare et al., Loss of plasticity in deep continual learning, Nature 632 (2024), the Slippery Ant.

    Example:
        >>> import envs, gymnasium
        >>> env = envs.NonStationary(gymnasium.make("Hopper-v5"), period=100, change_at="now", seed=0)
        >>> _, info = env.reset(seed=1)
        >>> info["phase"], info["changed"], env.value == info["friction"]
        (0, False, True)
        >>> phases = []
        >>> for _ in range(250):
        ...     _, _, terminated, truncated, info = env.step(env.action_space.sample())
        ...     if info["changed"]:
        ...         phases.append(info["phase"])
        ...     if terminated or truncated:
        ...         _ = env.reset()
        >>> phases
        [0, 1, 2]
        >>> both = {"gravity": {"low": 5.0, "high": 15.0}, "strength:leg_joint": {"schedule": "square"}}
        >>> env = envs.NonStationary(gymnasium.make("Hopper-v5"), both, period=100, seed=0, observe=True)
        >>> list(env.values), env.observation_space.shape
        (['gravity', 'strength:leg_joint'], (13,))
    """

    def __init__(
        self,
        env: gymnasium.Env[ObsType, ActType],
        parameter: str | Mapping[str, Mapping[str, Any]] = "friction",
        schedule: Any = None,
        low: float | None = None,
        high: float | None = None,
        period: int = DEFAULT_PERIOD,
        change_at: str = "episode_end",
        seed: int | None = None,
        factor: bool | None = None,
        count: str = "steps",
        observe: bool = False,
    ) -> None:
        model = checks.mujoco_model(env)
        if _changes_already(env):
            raise ParameterError(
                f"env must not change already, got {checks.env_name(env)} in another NonStationary; one wrapper takes several "
                "parameters, as a mapping"
            )
        self._period = checks.integer("period", period, lowest=1)
        self._now = checks.choice("change_at", change_at, CHANGE_AT) == "now"
        self._seed = None if seed is None else checks.integer("seed", seed, lowest=0)
        self._by_episodes = checks.choice("count", count, COUNTS) == "episodes"
        if self._by_episodes and self._now:
            raise ParameterError("change_at must be 'episode_end' where the period counts episodes, got 'now'")
        self._observes = checks.boolean("observe", observe)
        given = {"schedule": schedule, "low": low, "high": high, "factor": factor}
        self._changes = _make_changes(env, model, parameter, given)
        self._interface = [change.effect for change in self._changes if isinstance(change.effect, InterfaceEffect)]
        self._on_actions = [effect for effect in self._interface if effect.acts_on == "action"]
        self._on_observations = [effect for effect in self._interface if effect.acts_on == "observation"]
        several = isinstance(parameter, Mapping)
        recorded: dict[str, Any] = {"parameter": {change.name: change.options for change in self._changes}}
        recorded |= dict.fromkeys(OPTIONS) if several else self._changes[0].options | {"parameter": self._changes[0].name}
        RecordConstructorArgs.__init__(
            self,
            **recorded,
            period=self._period,
            change_at=change_at,
            seed=self._seed,
            count=count,
            observe=self._observes,
        )
        gymnasium.Wrapper.__init__(self, env)
        if self._observes:
            self.observation_space = _with_values(env, self._changes)  # type: ignore[assignment]
        self._steps_in_episode = 0
        self._restart(self._seed)

    @property
    def value(self) -> float:
        """The value in force of the parameter, of the first one where there are several."""
        return self._changes[0].value

    @property
    def values(self) -> dict[str, float]:
        """The value in force of each parameter."""
        return dict(self._values)

    @property
    def changes(self) -> tuple[Change, ...]:
        """Each parameter with its schedule."""
        return tuple(self._changes)

    @property
    def phase(self) -> int:
        """The phase in force: 0, 1, 2, …."""
        return self._phase

    @property
    def steps_in_phase(self) -> int:
        """Steps taken since the phase began."""
        return self._steps

    @property
    def acts_on_the_interface(self) -> bool:
        """Whether observations or actions are other ones on its two sides."""
        return bool(self._interface) or self._observes

    def steps_to_event(self) -> int:
        """Steps up to the first or the last of a phase, which is the last of them; 0 where the next step changes something.

        The last step of a phase is known before only where the change comes in mid-episode.
        """
        if self._steps == 0:
            return 1
        return self._period - self._steps if self._now else 2**31

    def skip(self, steps: int) -> None:
        """Counts steps within a phase and an episode that were taken without it."""
        self._steps += steps
        self._steps_in_episode += steps

    def forecast(self, phases: int) -> list[dict[str, float]]:
        """The values of the phase in force and of those that follow, by the parameters' names; changes nothing.

        Args:
            phases: How many.
        """
        states = [change.state_dict() for change in self._changes]
        values = [self.values]
        for phase in range(self._phase + 1, self._phase + phases):
            for change in self._changes:
                change.begin_phase(phase)
            values.append({change.name: change.value for change in self._changes})
        for change, state in zip(self._changes, states, strict=True):
            change.load_state_dict(state)
        return values

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment, after a change where one is due.

        Args:
            action: The environment's action.

        Returns:
            What the environment returned, with the keys above added to ``info``.
        """
        if self._now and self._steps >= self._period:
            self._begin_phase(self._phase + 1)
        for effect in self._on_actions:
            action = effect.change(action)  # type: ignore[assignment, arg-type]
        transition = self.env.step(action)
        info = transition[4]
        info.update(self._values)
        info["phase"] = self._phase
        info["changed"] = self._steps == 0
        self._steps += 1
        self._steps_in_episode += 1
        if self._on_observations or self._observes:
            return self._arriving(transition[0]), *transition[1:]
        return transition

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environment, after a change where one is due.

        Args:
            seed: An integer of at least 0 restarts clock, phases and sequence and seeds the environment; None does neither.
            options: Passed on to the environment.

        Returns:
            The observation and ``info`` of the environment, with the keys above added to ``info``.

        Raises:
            envs.ParameterError: A seed that is neither None nor an integer of at least 0.
        """
        if seed is not None:
            seed = checks.integer("seed", seed, lowest=0)
            self._restart(seed if self._seed is None else self._seed)
            for number, effect in enumerate(self._interface):
                effect.restart(np.random.SeedSequence(seed, spawn_key=(*SPAWN_KEY, number, 1)))
        else:
            self._episodes += self._steps_in_episode > 0
            # With "now" steps are never more: the one after a whole period begins a phase.
            if self._episodes >= self._period if self._by_episodes else self._steps > self._period:
                self._begin_phase(self._phase + 1)
        self._steps_in_episode = 0
        for effect in self._interface:
            effect.begin_episode()
        observation, info = self.env.reset(seed=seed, options=options)
        info |= {**self._values, "phase": self._phase, "changed": False}
        return self._arriving(observation), info

    def _arriving(self, observation: Any) -> Any:
        """What the agent observes."""
        for effect in self._on_observations:
            observation = effect.change(observation)
        if self._observes:
            observation = np.concatenate((observation, self._observed))
        return observation

    def _restart(self, seed: int | None) -> None:
        """Goes back to phase 0 of the sequences of a seed."""
        entropy = np.random.SeedSequence(seed).entropy
        for number, change in enumerate(self._changes):
            # The sequence of the first parameter is that which it has alone.
            change.restart(np.random.SeedSequence(entropy, spawn_key=SPAWN_KEY if number == 0 else (*SPAWN_KEY, number)))
        self._begin_phase(0)

    def _begin_phase(self, phase: int) -> None:
        """Draws and applies the values of a phase that has had no step yet."""
        self._phase = phase
        self._steps = 0
        self._episodes = 0
        for change in self._changes:
            change.begin_phase(phase)
        self._apply()

    def _apply(self) -> None:
        """Puts the values into force in the model that the environment simulates now."""
        self._values = {change.name: change.value for change in self._changes}
        if self._observes:
            self._observed = np.array(list(self._values.values()), self.observation_space.dtype)
        _apply(self._changes, checks.mujoco_model(self.env))

    def state_dict(self) -> dict[str, Any]:
        """Where the wrapper is in its sequence, as JSON can hold it: values, phase, clock and generators."""
        return {
            "phase": self._phase,
            "steps": self._steps,
            "episodes": self._episodes,
            "steps_in_episode": self._steps_in_episode,
            "changes": [change.state_dict() for change in self._changes],
            "interface": [effect.state_dict() for effect in self._interface],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where :meth:`state_dict` was called; the simulation itself stays as it is."""
        self._phase, self._steps = state["phase"], state["steps"]
        self._episodes, self._steps_in_episode = state["episodes"], state["steps_in_episode"]
        for change, saved in zip(self._changes, state["changes"], strict=True):
            change.load_state_dict(saved)
        for effect, saved in zip(self._interface, state["interface"], strict=True):
            effect.load_state_dict(saved)
        self._apply()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Applies the values to the model of a pickled or copied environment, which has been built anew."""
        self.__dict__.update(state)
        self._apply()


def _changes_already(env: gymnasium.Env[Any, Any]) -> bool:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, NonStationary):
            return True
        env = env.env
    return False


def _make_changes(
    env: gymnasium.Env[Any, Any], model: mujoco.MjModel, parameter: object, given: Mapping[str, Any]
) -> list[Change]:
    """The change of each parameter; one may need what another brings, such as wind a medium.

    Raises:
        ParameterError: An argument that cannot be used; the model is as it was.
    """
    several = isinstance(parameter, Mapping)
    changes = _make_several(env, parameter, given) if several else [Change(env, parameter, given)]  # type: ignore[arg-type]
    try:
        for change in changes:
            if change.responds(env):
                change.effect.apply(model, change.extremes[1])
        for change in changes:
            change.check(env)
    finally:
        for change in changes:
            change.effect.restore(model)
    return changes


def _make_several(env: gymnasium.Env[Any, Any], parameter: Mapping[str, Any], given: Mapping[str, Any]) -> list[Change]:
    if not parameter:
        raise ParameterError("parameter must name at least one parameter, got {}")
    if named := [name for name, value in given.items() if value is not None]:
        example = f"parameter={{{next(iter(parameter))!r}: {{{named[0]!r}: …}}}}"
        raise ParameterError(f"{named[0]} belongs to one parameter: {example}, got it beside several")
    for name, options in parameter.items():
        if not isinstance(options, Mapping):
            raise ParameterError(f"options of {name} must be a mapping such as {{'low': 0.5}}, got {checks.shown(options)}")
    return [Change(env, name, options) for name, options in parameter.items()]


def _apply(changes: list[Change], model: mujoco.MjModel) -> None:
    # All effects begin from the model's own values, so that the same values are the same bits whatever came before.
    for change in changes:
        change.effect.restore(model)
    for change in changes:
        change.effect.apply(model, change.value)
    if any(change.effect.derived for change in changes):
        mujoco.mj_setConst(model, mujoco.MjData(model))  # data of its own: the simulation goes on as it is


def _with_values(env: gymnasium.Env[Any, Any], changes: list[Change]) -> Box:
    """The space of observations with the values appended."""
    space = env.observation_space
    if not (isinstance(space, Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)):
        raise ParameterError(f"observe needs observations that are a vector of real numbers, got {space}")
    ends = np.array([change.extremes for change in changes])
    low, high = (
        np.concatenate((old, new)).astype(space.dtype) for old, new in zip((space.low, space.high), ends.T, strict=True)
    )
    return Box(low, high, dtype=space.dtype.type)
