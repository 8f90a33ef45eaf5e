"""The wrapper that changes a MuJoCo environment's physics while it runs."""

from __future__ import annotations

from typing import Any, SupportsFloat, TypeVar

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from envs import checks
from envs.parameters import PARAMETERS
from envs.schedules import SCHEDULES

ObsType = TypeVar("ObsType")
ActType = TypeVar("ActType")

DEFAULT_PERIOD = 200_000
"""Steps between changes: ours, a tenth of the paper's, so that several changes fit into an hour."""

CHANGE_AT = ("episode_end", "now")

# Keeps the values apart from the environment's own random numbers, which Gymnasium derives from the same seed with no key.
SPAWN_KEY = (0xC4A46E,)


class NonStationary(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Changes one parameter of a MuJoCo environment's physics again and again, each time to a newly drawn value.

    The time between two changes is a phase. Phase 0 has a drawn value too, in force from construction on. A clock counts
    this environment's own steps since the last change; it goes on through ``reset()``.

    - ``change_at="episode_end"``: the value changes in the first ``reset()`` for which *more* than ``period`` steps have been
      taken since the last change (as in the paper), so never within an episode and at most once a reset.
    - ``change_at="now"``: a phase has exactly ``period`` steps; the change comes before the physics of the next step, in
      mid-episode or not.

    Every ``info`` carries three keys:

    - the parameter's name, such as ``info["friction"]`` (float): the value under which the step was simulated;
    - ``info["phase"]`` (int): 0, 1, 2, …;
    - ``info["changed"]`` (bool): True at exactly the first step of each phase, phase 0 included. The ``info`` of ``reset()``
      has the value and the phase in force, and False here.

    The values come from a random generator of the wrapper's own. They depend on the seed alone, not on actions, episodes, the
    environment's randomness or any global state. A constructor ``seed`` fixes their sequence. ``reset(seed=s)`` restarts clock,
    phases and sequence (that of the constructor's seed or, where none was given, of ``s``) and passes ``s`` on to the
    environment; ``reset()`` restarts none of them. Without any seed the sequence is drawn from the operating system's entropy.

    Pickles and deep copies keep the value, clock, phase and sequence. Gymnasium rebuilds a MuJoCo environment from its
    arguments, so the state of its simulation is lost: the first call to a copy must be ``reset()``.

    Args:
        env: A MuJoCo environment, wrapped or not.
        parameter: What changes, a name in :data:`envs.PARAMETERS`.
        schedule: How the values are drawn, a name in :data:`envs.SCHEDULES`.
        low: The least value, in the parameter's unit. None is the parameter's default, 0.02 for friction (from the paper).
        high: The greatest value. None is the parameter's default, 2.0 for friction (from the paper).
        period: Steps between changes, at least 1. The default is ours; the paper's Ant changes every 2,000,000 steps.
        change_at: ``"episode_end"`` (from the paper) or ``"now"``.
        seed: Fixes the sequence of values whatever the seed of ``reset``; an integer of at least 0, or None.

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
    """

    def __init__(
        self,
        env: gymnasium.Env[ObsType, ActType],
        parameter: str = "friction",
        schedule: str = "log_uniform",
        low: float | None = None,
        high: float | None = None,
        period: int = DEFAULT_PERIOD,
        change_at: str = "episode_end",
        seed: int | None = None,
    ) -> None:
        model = checks.mujoco_model(env)
        chosen = PARAMETERS[checks.choice("parameter", parameter, PARAMETERS)]
        if not chosen.has_effect(model):
            raise checks.ParameterError(f"{parameter} needs {chosen.needs}, which {checks.env_name(env)} lacks")
        self._name = chosen.name
        self._schedule = checks.choice("schedule", schedule, SCHEDULES)
        self._low = checks.finite("low", chosen.default_low if low is None else low, chosen.lowest)
        self._high = checks.finite("high", chosen.default_high if high is None else high, chosen.lowest)
        if self._low > self._high:
            raise checks.ParameterError(f"low must be at most high, got low={self._low} and high={self._high}")
        self._period = checks.integer("period", period, lowest=1)
        self._now = checks.choice("change_at", change_at, CHANGE_AT) == "now"
        self._seed = None if seed is None else checks.integer("seed", seed, lowest=0)
        RecordConstructorArgs.__init__(
            self,
            parameter=self._name,
            schedule=self._schedule,
            low=self._low,
            high=self._high,
            period=self._period,
            change_at=change_at,
            seed=self._seed,
        )
        gymnasium.Wrapper.__init__(self, env)
        self._restart(self._seed)

    @property
    def value(self) -> float:
        """The parameter's value in force."""
        return self._value

    @property
    def phase(self) -> int:
        """The phase in force: 0, 1, 2, …."""
        return self._phase

    @property
    def steps_in_phase(self) -> int:
        """Steps taken since the phase began."""
        return self._steps

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment, after a change where one is due.

        Args:
            action: The environment's action.

        Returns:
            What the environment returned, with the three keys added to ``info``.
        """
        if self._steps >= self._period and self._now:
            self._begin_phase(self._phase + 1)
        transition = self.env.step(action)
        info = transition[4]
        info[self._name] = self._value
        info["phase"] = self._phase
        info["changed"] = self._steps == 0
        self._steps += 1
        return transition

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ObsType, dict[str, Any]]:
        """Resets the environment, after a change where one is due.

        Args:
            seed: An integer of at least 0 restarts clock, phases and sequence and seeds the environment; None does neither.
            options: Passed on to the environment.

        Returns:
            The observation and ``info`` of the environment, with the three keys added to ``info``.

        Raises:
            envs.ParameterError: A seed that is neither None nor an integer of at least 0.
        """
        if seed is not None:
            seed = checks.integer("seed", seed, lowest=0)
            self._restart(seed if self._seed is None else self._seed)
        elif self._steps > self._period:  # never so with "now", where the step after a whole period begins a phase
            self._begin_phase(self._phase + 1)
        observation, info = self.env.reset(seed=seed, options=options)
        info.update({self._name: self._value, "phase": self._phase, "changed": False})
        return observation, info

    def _restart(self, seed: int | None) -> None:
        """Goes back to phase 0 of the sequence of a seed."""
        entropy = np.random.SeedSequence(seed, spawn_key=SPAWN_KEY)
        self._generator = np.random.Generator(np.random.PCG64(entropy))
        self._begin_phase(0)

    def _begin_phase(self, phase: int) -> None:
        """Draws and applies the value of a phase that has had no step yet."""
        self._phase = phase
        self._steps = 0
        self._value = SCHEDULES[self._schedule](self._low, self._high, self._generator)
        self._apply()

    def _apply(self) -> None:
        """Writes the value into the model that the environment simulates now."""
        PARAMETERS[self._name].apply(checks.mujoco_model(self.env), self._value)

    def state_dict(self) -> dict[str, Any]:
        """Where the wrapper is in its sequence, as JSON can hold it: value, phase, clock and generator."""
        return {
            "value": self._value,
            "phase": self._phase,
            "steps": self._steps,
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where :meth:`state_dict` was called; the simulation itself stays as it is."""
        self._generator.bit_generator.state = state["generator"]
        self._value, self._phase, self._steps = state["value"], state["phase"], state["steps"]
        self._apply()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Applies the value to the model of a pickled or copied environment, which has been built anew."""
        self.__dict__.update(state)
        self._apply()
