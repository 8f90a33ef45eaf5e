"""The wrapper that changes an environment while it runs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn, SupportsFloat, TypeVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs

from envs import checks
from envs.acting import ActingEffects
from envs.changes import Change
from envs.checks import EffectError, ParameterError
from envs.clock import MANY_RESTARTS, RESTARTED
from envs.force import InForce
from envs.held import release
from envs.sequence import Sequence
from envs.simulation import ModelSource, check_env

ObsType = TypeVar("ObsType")
ActType = TypeVar("ActType")

DEFAULT_PERIOD = 200_000
"""Steps between changes: ours, a tenth of the paper's, so that several changes fit into an hour."""

_NEVER = 2**62


class NonStationary(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Changes parameters of an environment again and again, by a schedule: of its MuJoCo simulation, or of its interface.

    The time between two changes is a phase. Phase 0 has a value of the schedule too, in force from construction on. A clock
    counts this environment's own steps, or episodes, since the last change; it goes on through ``reset()``.

    - ``change_at="episode_end"``: the value changes in the first ``reset()`` for which *more* than ``period`` steps have been
      taken since the last change (as in the paper), so never within an episode and at most once a reset. With
      ``count="episodes"`` it changes in the reset after ``period`` episodes.
    - ``change_at="now"``: a phase has exactly ``period`` steps; the change comes before the physics of the next step, in
      mid-episode or not. Positions and velocities stay as they are.

    Every ``info`` carries these keys:

    - each parameter's name, such as ``info["friction"]`` (float): the value under which the step was simulated;
    - ``info["phase"]`` (int): 0, 1, 2, …; with several clocks a number may be left out, of a phase without a step;
    - ``info["changed"]`` (bool): True at exactly the first step of each phase, phase 0 included. The ``info`` of ``reset()``
      has the value and the phase in force, and False here.

    What the environment itself says under such a key stands under ``"env_"`` and the key. With several clocks the phase counts
    every change of any parameter.

    After each reset the wrapper compares the simulation, to the bit, with what it wrote. Where the environment has rewritten or
    rebuilt it, that is the environment's own from then on, and the values are put back into force. A number that happens to be
    the one in force is taken for it; in another simulation only where more than half of them are, as in a copy.

    Values come from random generators of the wrapper's own. They depend on the seed alone, not on actions, episodes, the
    environment's randomness or any global state. A constructor ``seed`` fixes their sequence. ``reset(seed=s)`` restarts clock,
    phases and sequence (that of the constructor's seed or, where none was given, of ``s``) and passes ``s`` on to the
    environment; ``reset()`` restarts none of them. Without any seed the sequence is drawn from the operating system's entropy.
    The noise of observations and actions is the environment's, not the sequence's: it follows from ``s`` alone.

    Pickles and deep copies keep values, clock, phase and sequences. Gymnasium rebuilds a MuJoCo environment from its
    arguments, so the state of its simulation is lost: the first call to a copy must be ``reset()``.

    Args:
        env: An environment, wrapped or not, but not in this wrapper: one takes several parameters. Those of the physics need
            one of MuJoCo's.
        parameter: What changes: a name in :data:`envs.PARAMETERS`; for parts of it with their names, as ``"mass:torso"``,
            ``"damping:finger*"`` or ``"friction:floor+box"``. Or several, as a mapping from names to their own ``schedule``,
            ``low``, ``high`` and ``factor``, each of which may be left out; these four are then not given beside it. One that
            has a ``period``, ``change_at`` or ``count`` of its own there has a clock of its own.
        schedule: How the values are drawn: a name in :data:`envs.SCHEDULES`, a mapping of ``"name"`` and options such as
            ``{"name": "sine", "length": 12}``, or an :class:`envs.Schedule`. None is the parameter's default: ``"log_uniform"``
            for friction (from the paper).
        low: The least value, in the parameter's unit. None is the parameter's default, 0.02 for friction (from the paper).
        high: The greatest value. None is the parameter's default, 2.0 for friction (from the paper).
        period: Steps or episodes between changes, at least 1. The default is ours; the paper's Ant changes every 2,000,000
            steps. Or a mapping: ``{"name": "geometric", "mean": 1000}`` or ``"exponential"`` for changes at random times,
            ``{"name": "bursts", "changes": 3, "gap": 100, "calm": 5000}`` for several shortly after one another.
        change_at: ``"episode_end"`` (from the paper) or ``"now"``.
        seed: Fixes the sequence of values whatever the seed of ``reset``; an integer of at least 0, or None.
        factor: Whether values are multiples of what the model has itself, rather than in the parameter's unit. None is the
            parameter's default: False for friction.
        count: What the period counts, ``"steps"`` or ``"episodes"``.
        observe: Whether the values in force are appended to the observation, a Box: for agents that are told. What a change
            ``"now"`` brings is seen one step after it acts.
        model: A function of the environment that returns its ``MjModel``, or a tuple of it and its ``MjData``, where
            :func:`envs.simulation.find_model` does not find them.

    Raises:
        envs.ParameterError: An argument that is not one of those above, or an environment without that parameter, or one of a
            class that derives from Gymnasium's and does not go by it.

    Warns:
        UserWarning: Whether such a class goes by it could not be tried, since it cannot be copied.

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
        period: Any = DEFAULT_PERIOD,
        change_at: str = "episode_end",
        seed: int | None = None,
        factor: bool | None = None,
        count: str = "steps",
        observe: bool = False,
        model: ModelSource | None = None,
    ) -> None:
        check_env(env)
        if NonStationary.of(env) is not None:
            raise ParameterError(
                f"env must not change already, got {checks.env_name(env)} in another NonStationary; one wrapper takes several "
                "parameters, as a mapping"
            )
        self._seed = None if seed is None else checks.integer("seed", seed, lowest=0)
        self._observes = checks.boolean("observe", observe)
        self.source = model
        self._force = InForce(env, model)
        given = {"schedule": schedule, "low": low, "high": high, "factor": factor}
        timing = {"period": period, "change_at": change_at, "count": count}
        try:
            self._sequence = Sequence(self._force.subject, parameter, given, timing)
            self._acting = ActingEffects(change.effect for change in self._sequence.changes)
            space = self._acting.observation_space(env)
            if self._observes:
                space = _with_values(space or env.observation_space, self.changes)
        except Exception:
            self._force.leave()
            raise
        self._acts_in_steps = bool(self._acting) or self._observes
        RecordConstructorArgs.__init__(self, **self._sequence.recorded, seed=self._seed, observe=self._observes, model=model)
        gymnasium.Wrapper.__init__(self, env)
        if space is not None:
            self.observation_space = space
        self._force.hold(self._sequence, self)
        self._keys = frozenset((*(change.name for change in self.changes), "phase", "changed"))
        self._holds = False
        self.times_forced = 0  # for who keeps what the values bring about
        self._step = self._episode_began = 0
        self._lost = (0, 0)  # steps or episodes, and restarts, in a row without a change
        self._said: set[str] = set()
        self._restart(self._seed)

    @classmethod
    def of(cls, env: gymnasium.Env[Any, Any]) -> NonStationary[Any, Any] | None:
        """The wrapper of this class around an environment, below others or not; None where there is none.

        Example:
            >>> import envs, gymnasium
            >>> env = gymnasium.make("envs:hopper-nonstationary-v0", seed=0)
            >>> envs.NonStationary.of(env).values == env.reset()[1]["friction"]
            False
        """
        while isinstance(env, gymnasium.Wrapper):
            if isinstance(env, cls):
                return env
            env = env.env
        return None

    @property
    def value(self) -> float:
        """The value in force of the parameter, of the first one where there are several."""
        return self.changes[0].value

    @property
    def values(self) -> dict[str, float]:
        """The value in force of each parameter."""
        return dict(self._values)

    @property
    def changes(self) -> tuple[Change, ...]:
        """Each parameter with its schedule."""
        return tuple(self._sequence.changes)

    @property
    def reach(self) -> dict[str, dict[str, list[str]]]:
        """What each parameter writes: the fields of the model, with the names of the objects whose numbers these are.

        Example:
            >>> import envs, gymnasium
            >>> env = envs.NonStationary(gymnasium.make("Hopper-v5"), "mass:torso")
            >>> env.reach
            {'mass:torso': {'body_mass': ['torso'], 'body_inertia': ['torso']}}
        """
        return {change.name: change.effect.reach(self._force.subject) for change in self.changes}

    @property
    def phase(self) -> int:
        """The phase in force: 0, 1, 2, …."""
        return self._phase

    @property
    def steps_in_phase(self) -> int:
        """Steps taken since the phase began."""
        return self._step - self._began

    @property
    def acts_in_steps(self) -> bool:
        """Whether it does more in a step than to count it."""
        return self._acts_in_steps

    @property
    def holds(self) -> bool:
        """Whether it stays in its phase until a state is loaded."""
        return self._holds

    def steps_to_event(self) -> int:
        """Steps up to the first or the last of a phase, which is the last of them; 0 where the next step changes something.

        The last step of a phase is known before only where the change comes in mid-episode.
        """
        to_change = min(self._end - self._step, 2**31)
        return min(to_change, 1) if self._step == self._began else to_change

    def skip(self, steps: int) -> None:
        """Counts steps within a phase and an episode that were taken without it."""
        self._step += steps

    def forecast(self, phases: int) -> list[dict[str, float]]:
        """The values of the phase in force and of those that follow, by the parameters' names; changes nothing.

        Held by :meth:`load_state_dict`, none of those comes until it is let go.

        Args:
            phases: How many.
        """
        return [values for _, values in self._sequence.forecast(phases, self._step)]

    def forecast_steps(self, phases: int) -> list[int]:
        """How many steps from now the phases of :meth:`forecast` begin, where none waits for the end of an episode."""
        return [step for step, _ in self._sequence.forecast(phases, self._step)]

    def set_value(self, name: str, value: float) -> None:
        """Puts a value into force from the next step on, whatever the schedule says: for curricula and callbacks.

        Where the phase in force has had a step, a new one begins with it, and the clock of the parameter from 0; else the phase
        has this value. The schedule is not asked, and gives the value of the next phase as it would have.

        Args:
            name: Of a parameter that changes.
            value: In the unit of its values. It may lie beyond ``low`` and ``high``, not beyond the parameter's bounds.

        Raises:
            envs.ParameterError: No such parameter, or a value that it cannot have. Nothing is changed then.

        Example:
            >>> import envs, gymnasium
            >>> env = envs.NonStationary(gymnasium.make("Hopper-v5"), seed=0)
            >>> env.set_value("friction", 0.5)
            >>> env.reset()[1]["friction"]
            0.5
        """
        self._check_episode()
        fresh = self._step == self._began
        self._sequence.set_value(name, value, self._step, within=fresh)
        self._put_into_force(began=self._began if fresh else self._step)

    def hold(self, values: Mapping[str, float]) -> None:
        """Holds values, whatever the schedules say, until a state is loaded.

        Unlike with a constant schedule, the parameters keep their ranges.

        Args:
            values: Of parameters that change, in their units, as for :meth:`set_value`.

        Raises:
            envs.ParameterError: No such parameter, or a value that it cannot have. Nothing is changed then.
        """
        self._sequence.check_values(values)
        for name, value in values.items():
            self.set_value(name, value)
        self.load_state_dict(self.state_dict(), hold=True)

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment, after a change where one is due.

        Args:
            action: The environment's action.

        Returns:
            What the environment returned, with the keys above added to ``info``.

        Raises:
            envs.EffectError: The environment does not return five parts, the last a mapping.
        """
        if self._step >= self._end:
            self._check_episode()
            self._sequence.begin_step(self._step)
            self._put_into_force(began=self._step)
        if self._acts_in_steps:
            action = self._acting.begin_step(self._force.subject, action)
        made: Any = self.env.step(action)
        if type(made) is not tuple or len(made) != len(checks.STEP):
            made = checks.parts(checks.env_name(self.env), "step", made, checks.STEP)
        observation, reward, terminated, truncated, own = made
        info = self._copied(own)
        if not self._keys.isdisjoint(info):
            self._keep(info)
        info.update(self._values)
        info["phase"] = self._phase
        info["changed"] = self._step == self._began
        self._step += 1
        if self._acts_in_steps:
            reward = self._acting.reward(self._force.subject, reward, info)
            observation = self._arriving(observation)
        return observation, reward, terminated, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environment, after a change where one is due, and sees to it that the values are in force afterwards.

        Args:
            seed: An integer of at least 0 restarts clock, phases and sequence and seeds the environment; None does neither.
            options: Passed on to the environment.

        Returns:
            The observation and ``info`` of the environment, with the keys above added to ``info``.

        Warns:
            UserWarning: Once, where seeds of ``reset`` have restarted the clock again and again, so that nothing ever changed;
                and where the environment wrote to what the parameters act on during an episode, or rebuilt it.

        Raises:
            envs.ParameterError: A seed that is neither None nor an integer of at least 0.
            envs.EffectError: The environment has rebuilt its simulation and has no place for a parameter any more; or it
                does not return observation and ``info``.
        """
        if seed is not None:
            seed = checks.integer("seed", seed, lowest=0)
        self._warn_of_writes()
        away = self._force.make_way()
        try:
            self._begin_episode(seed, write=not away)
            made = self.env.reset(seed=seed, options=options)
            observation, own = checks.parts(checks.env_name(self.env), "reset", made, checks.RESET)
        except BaseException:  # an environment that cannot be reset goes on in the world of before, if it has one
            with contextlib.suppress(Exception):
                self._force.write_again(self._sequence, self, always=away)
            raise
        self._force.write_again(self._sequence, self, always=away)
        info = self._copied(own)
        self._keep(info)
        info |= {**self._values, "phase": self._phase, "changed": False}
        return self._arriving(observation), info

    def _begin_episode(self, seed: int | None, *, write: bool) -> None:
        """Goes on to the phase of the next episode; begins anew with a seed."""
        if seed is not None:
            if not self._holds:
                self._warn_of_seeds()
                self._restart(seed if self._seed is None else self._seed, write=write)
            self._acting.restart(seed)
        elif not self._holds and self._sequence.begin_episode(self._step, ended=self._step > self._episode_began):
            self._put_into_force(began=self._step, write=write)
        self._episode_began = self._step
        self._acting.begin_episode()

    def close(self) -> None:
        """Gives the environment back what it had itself, and closes it."""
        self.give_back()
        super().close()

    def give_back(self) -> None:
        """Gives the environment back what it had itself; this wrapper is then of no use any more."""
        release(self._force.subject, self)

    def _arriving(self, observation: Any) -> Any:
        """What the agent observes."""
        observation = self._acting.observation(observation)
        if self._observes:
            observation = np.concatenate((observation, self._observed))
        return observation

    def _copied(self, own: dict[str, Any]) -> dict[str, Any]:
        """The environment's ``info``, which some give again and again."""
        if not isinstance(own, Mapping):
            raise EffectError(f"info of {checks.env_name(self.env)} must be a mapping, got {checks.shown(own)}")
        return dict(own)

    def _keep(self, info: dict[str, Any]) -> None:
        """Keeps what the environment itself says under a key of ours."""
        info |= {f"env_{key}": info[key] for key in (*self._values, "phase", "changed") if key in info}

    def _restart(self, seed: int | None, *, write: bool = True) -> None:
        """Goes back to phase 0 of the sequences of a seed."""
        self._sequence.restart(seed)
        self._step = self._episode_began = 0
        self._put_into_force(began=0, write=write)

    def _put_into_force(self, began: int, *, write: bool = True) -> None:
        """Puts the values into force in the simulation as it is now.

        Args:
            began: The step before which the phase began.
            write: Whether they are written; else who calls does it later.
        """
        self.times_forced += 1
        self._began = began
        self._end = _NEVER if self._holds else int(min(self._sequence.end, _NEVER))
        self._phase = self._sequence.phase
        self._values = self._sequence.values
        if self._observes:
            self._observed = np.array(list(self._values.values()), self.observation_space.dtype)
        if write:
            self._force.write(self._sequence, self)

    def take_up(self) -> None:
        """Puts its values back into force: nobody else changes the simulation after all."""
        self._force.write_again(self._sequence, self)

    def displace(self) -> None:
        """Another wrapper changes the simulation from now on: this one's values are not in force, and it says so when used."""
        self.step = self.reset = self.set_value = self.load_state_dict = self._refuse  # type: ignore[method-assign]
        self._end = 0

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise EffectError(
            f"the simulation of {checks.env_name(self.env)} is changed by another NonStationary, made later around the same "
            f"environment or one that shares its model: {' and '.join(self._values)} of this one are not in force"
        )

    def _check_episode(self) -> None:
        """Takes for the environment's own what was written to what the parameters act on; says so where an episode was on."""
        self._warn_of_writes()
        self._force.write_again(self._sequence, self)

    def _warn_of_writes(self) -> None:
        """Says where the environment has written during an episode."""
        if self._step > self._episode_began and self._force.was_rewritten():
            self._say_once(
                f"{checks.env_name(self.env)} has written to what {' and '.join(self._values)} act on during an episode, or "
                "rebuilt it; info was wrong therefore, and what it wrote counts as its own from now on"
            )

    def _warn_of_seeds(self) -> None:
        """Says where the seeds of resets have kept the world from ever changing."""
        sequence = self._sequence
        steps, restarts = self._lost if sequence.phase == 0 else (0, 0)
        self._lost = steps + sequence.elapsed(self._step), restarts + 1
        if sequence.changes_at_all and self._lost[0] > sequence.length and restarts >= MANY_RESTARTS:
            self._say_once(f"the world never changes ({', '.join(self._values)}): each reset(seed=…) {RESTARTED}", 5)

    def _say_once(self, text: str, stacklevel: int = 4) -> None:
        if text not in self._said:
            self._said.add(text)
            warnings.warn(text, stacklevel=stacklevel)

    def state_dict(self) -> dict[str, Any]:
        """Where the wrapper is in its sequence, as JSON can hold it: values, phase, clock and generators."""
        state = {
            **self._sequence.state_dict(self._step),
            "steps": self.steps_in_phase,
            "steps_in_episode": self._step - self._episode_began,
            "interface": self._acting.state_dicts(),
        }
        return state | ({"own": self._force.own_values()} if self._force.has_other_own else {})

    def whole_state_dict(self) -> dict[str, Any]:
        """As :meth:`state_dict`, with what the environment had itself at first: to go on in another environment's place."""
        return self.state_dict() | {"first": self._force.first} | self._force.since()

    def check_state_dict(self, state: Mapping[str, Any], *, timing: bool = True) -> None:
        """Refuses what :meth:`state_dict` of another problem returned, and with ``timing`` that of other clocks.

        Raises:
            envs.ParameterError: Such a state.
        """
        try:
            self._sequence.check_state(state, timing=timing)
            fits = len(state["interface"]) == len(self._acting) and {"phase", "steps", "steps_in_episode"} <= state.keys()
            fits &= "own" not in state or self._force.fits(state["own"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ParameterError(f"state must be one of NonStationary's, got one without {error}") from error
        if not fits:
            raise ParameterError(f"state must be that of {' and '.join(self._values)}, got one of another environment or model")

    def load_state_dict(self, state: Mapping[str, Any], *, hold: bool = False) -> None:
        """Goes on from where :meth:`state_dict` was called; the simulation itself stays as it is.

        Args:
            state: What it returned.
            hold: Stay in its phase until another state is loaded, however many steps and resets follow, and whatever their
                seeds: to judge in the world of another environment, which trains; its periods may differ.

        Raises:
            envs.ParameterError: The state is that of other parameters, schedules or clocks. Nothing is changed then.
        """
        self.check_state_dict(state, timing=not hold)
        self._holds = checks.boolean("hold", hold)
        self._step = 0
        self._sequence.load_state_dict(state, self._step)
        self._episode_began = -state["steps_in_episode"]
        self._acting.load_state_dicts(state["interface"])
        self._force.first = state.get("first", self._force.first)
        self._force.set_own_values(state.get("own"))
        self._put_into_force(began=-state["steps"])

    def take_simulation(self, state: Mapping[str, Any]) -> None:
        """Takes what the simulation has now for what is in force: it was loaded, whatever was written before.

        Args:
            state: What :meth:`whole_state_dict` returned, which says where the environment had written since.
        """
        self._force.take_simulation(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Applies the values to the simulation of a pickled or copied environment, which has been built anew."""
        self.__dict__.update(state)
        self._force.hold_again(self._sequence, self)
        self._put_into_force(began=self._began)


def _with_values(space: gymnasium.Space[Any], changes: tuple[Change, ...]) -> Box:
    """The space of observations with the values appended."""
    if not (isinstance(space, Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)):
        raise ParameterError(f"observe needs observations that are a vector of real numbers, got {space}")
    ends = np.array([change.extremes for change in changes])
    low, high = (
        np.concatenate((old, new)).astype(space.dtype) for old, new in zip((space.low, space.high), ends.T, strict=True)
    )
    return Box(low, high, dtype=space.dtype.type)
