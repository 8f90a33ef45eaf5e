"""Tasks and environments one after the other, as one environment."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from envs import checks
from envs.checks import ParameterError
from envs.clock import MANY_RESTARTS, RESTARTED
from envs.nonstationary import DEFAULT_PERIOD
from envs.sequence import SPAWN_KEY, check_timing, make_clock
from envs.simulation import check_env

TASK = "task"
"""What changes in a sequence of tasks, where the name of a parameter says what changes."""

Task = str | Callable[[], gymnasium.Env[Any, Any]] | gymnasium.Env[Any, Any]
"""An id of Gymnasium, ``module:id`` too; a function that makes an environment; or an environment."""

_KEYS = (TASK, "phase", "changed")


class TaskSequence(gymnasium.Env[Any, Any]):
    """Goes through tasks one after the other, after the last one through the first again; each is an environment of its own.

    The time that a task lasts is a phase. The clock is that of :class:`envs.NonStationary`: it counts steps, or episodes, since
    the last change, and goes on through ``reset()``. A new task always begins with a reset, since nothing of a simulation goes
    on in another one.

    - ``change_at="episode_end"``: the task changes in the first ``reset()`` for which *more* than ``period`` steps have been
      taken since the last change; with ``count="episodes"`` in the reset after ``period`` episodes.
    - ``change_at="now"``: a phase has exactly ``period`` steps. Its last step cuts the episode off (``truncated``), and the
      reset that follows changes the task.

    Every ``info`` carries ``info["task"]`` (int), the place of the task in ``tasks``; ``info["phase"]`` (int) and
    ``info["changed"]`` (bool) as :class:`envs.NonStationary` does. What a task itself says under such a key stands under
    ``"env_"`` and the key.

    All tasks must have one observation space and one action space. Nothing is padded: the published sequences of DeepMind's
    control suite are tasks of one robot, with the same observations and actions. A task that differs is given in a wrapper.

    A task from an id or a function is made when it begins, and closed once the next one is made, so only one stays open.
    Environments that are given stay open until ``close()``, which closes all. At a change the new task is reset with a seed
    that follows from the phase and from the last seed of ``reset``, without one from the operating system's entropy: a task
    that comes again goes on alike whether it was kept or made anew.

    ``reset(seed=s)`` restarts clock and sequence, that of the constructor's seed or, where none was given, of ``s``, and passes
    ``s`` on to the first task; ``reset()`` restarts neither. A seed at every reset keeps the first task.

    Args:
        tasks: At least one: ids, functions that make environments, or environments. The same may stand in several places.
        period: As in :class:`envs.NonStationary`: steps or episodes, or a mapping such as
            ``{"name": "geometric", "mean": 1000}``. The default is ours.
        change_at: ``"episode_end"`` or ``"now"``.
        seed: Fixes the lengths of phases at random times whatever the seed of ``reset``; an integer of at least 0, or None.
        count: What the period counts, ``"steps"`` or ``"episodes"``.
        **kwargs: Of the environments that are made from an id, such as ``render_mode``.

    Raises:
        envs.ParameterError: An argument that is not one of those above, or tasks whose spaces differ.

    Source:
        Tang et al., Mitigating plasticity loss in continual reinforcement learning by reducing churn, ICML 2025: its sequences
        are chains of single environments, a million steps each.

    Example:
        >>> import envs
        >>> env = envs.TaskSequence(["HalfCheetah-v5", "Walker2d-v5"], period=30, change_at="now")
        >>> _, info = env.reset(seed=0)
        >>> seen = [info["task"]]
        >>> for _ in range(100):
        ...     _, _, terminated, truncated, info = env.step(env.action_space.sample())
        ...     if info["changed"]:
        ...         seen.append(info["task"])
        ...     if terminated or truncated:
        ...         _ = env.reset()
        >>> seen
        [0, 0, 1, 0, 1]
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        period: Any = DEFAULT_PERIOD,
        change_at: str = "episode_end",
        seed: int | None = None,
        count: str = "steps",
        **kwargs: Any,
    ) -> None:
        self._tasks: list[Task] = checks.sequence("tasks", tasks, 1)
        self._kwargs = kwargs
        self._clock = make_clock({"period": period, "change_at": change_at, "count": count})
        self._seed = None if seed is None else checks.integer("seed", seed, lowest=0)
        self.tasks = tuple(map(_name, self._tasks))
        if kwargs and not any(isinstance(task, str) for task in self._tasks):
            raise ParameterError(
                f"TaskSequence has no argument {' or '.join(map(repr, kwargs))}; others are for tasks that are ids, got "
                f"{', '.join(self.tasks)}"
            )
        self.task = 0
        self._step = self._episode_began = 0
        self._holds = False
        self._lost, self._told_of_seeds = (0, 0), False  # steps or episodes, and restarts, in a row without a change
        self._entropy: Any = None
        self.env = self._make(0)
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space
        try:
            self._check_spaces()
        except BaseException:
            self.env.close()
            raise
        self._restart(self._seed, None)

    @property
    def metadata(self) -> dict[str, Any]:  # type: ignore[override]
        """That of the task in force."""
        return self.env.metadata

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """That of the task in force."""
        return self.env.render_mode

    @property
    def phase(self) -> int:
        """The phase in force: 0, 1, 2, …."""
        return self._clock.phase

    @property
    def steps_in_phase(self) -> int:
        """Steps taken since the phase began."""
        return self._step - self._clock.began

    @property
    def holds(self) -> bool:
        """Whether it stays in its phase until a state is loaded."""
        return self._holds

    @property
    def waiting(self) -> dict[int, gymnasium.Env[Any, Any]]:
        """The environments that were given, but the task in force, each by its first place in ``tasks``."""
        given = {id(task): (number, task) for number, task in reversed(list(enumerate(self._tasks)))}
        return {number: env for number, env in given.values() if isinstance(env, gymnasium.Env) and env is not self.env}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the task in force; cuts the episode off where the phase is over and does not wait for its end.

        Args:
            action: The task's action.

        Returns:
            What the task returned, with the keys above added to ``info``.

        Raises:
            envs.EffectError: The task does not return five parts.
        """
        made = checks.parts(self.tasks[self.task], "step", self.env.step(action), checks.STEP)
        observation, reward, terminated, truncated, own = made
        info = self._told(own, changed=self._step == self._clock.began)
        self._step += 1
        is_over = self._step >= self._clock.end and not self._holds
        return observation, reward, terminated, truncated or (is_over and not terminated), info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the task in force, or the next one where a change is due.

        Args:
            seed: An integer of at least 0 restarts clock and sequence and seeds the task; None does neither.
            options: Passed on to the task.

        Returns:
            The observation and ``info`` of the task, with the keys above added to ``info``.

        Raises:
            envs.ParameterError: A seed that is neither None nor an integer of at least 0.
            envs.EffectError: The task does not return observation and ``info``.
        """
        if seed is not None:
            seed = checks.integer("seed", seed, lowest=0)
            super().reset(seed=seed)
            if not self._holds:
                self._warn_of_seeds()
                self._restart(seed if self._seed is None else self._seed, seed)
        elif not self._holds:
            self._clock.episodes += self._step > self._episode_began
            if self._clock.due(self._step) or self._step >= self._clock.end:
                self._enter((self._clock.phase + 1) % len(self._tasks))
                self._clock.begin(self._clock.phase + 1, self._step)
                spawned = np.random.SeedSequence(self._entropy, spawn_key=(*SPAWN_KEY, self._clock.phase))
                seed = int(spawned.generate_state(1)[0])
        self._episode_began = self._step
        made = self.env.reset(seed=seed, options=options)
        observation, own = checks.parts(self.tasks[self.task], "reset", made, checks.RESET)
        return observation, self._told(own, changed=False)

    def render(self) -> Any:
        """What the task in force draws."""
        return self.env.render()

    def close(self) -> None:
        """Closes the task in force, and all environments that were given."""
        for env in {id(env): env for env in (self.env, *self._tasks) if isinstance(env, gymnasium.Env)}.values():
            env.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the sequence is, as JSON can hold it, without the state of the task: that is its environment's."""
        return {
            "tasks": list(self.tasks),
            "task": self.task,
            "phase": self.phase,
            "steps_in_episode": self._step - self._episode_began,
            "entropy": self._entropy,
            "clock": self._clock.state_dict(self._step),
            "timing": [self._clock.describe()],
        }

    def check_state_dict(self, state: Mapping[str, Any], *, timing: bool = True) -> None:
        """Refuses what :meth:`state_dict` of another sequence returned, and with ``timing`` that of another clock.

        Raises:
            envs.ParameterError: Such a state.
        """
        needed = {"tasks", "task", "steps_in_episode", "entropy", "clock"}
        if not isinstance(state, Mapping) or needed - state.keys():
            missing = sorted(needed - state.keys()) if isinstance(state, Mapping) else sorted(needed)
            raise ParameterError(f"state must be one of TaskSequence's, got one without {', '.join(missing)}")
        if state["task"] not in range(len(self.tasks)):
            raise ParameterError(f"task must be one of 0 to {len(self.tasks) - 1}, got {checks.shown(state['task'])}")
        if state.get("tasks") != list(self.tasks):
            raise ParameterError(f"state must be that of tasks {', '.join(self.tasks)}, got that of {state.get('tasks')}")
        if timing:
            check_timing(state.get("timing"), [self._clock])

    def load_state_dict(self, state: Mapping[str, Any], *, hold: bool = False) -> None:
        """Goes on from where :meth:`state_dict` was called, with the task of then; what it simulates is still to be loaded.

        Args:
            state: What it returned.
            hold: Stay in its phase until another state is loaded, as :class:`envs.NonStationary` does.

        Raises:
            envs.ParameterError: The state is that of other tasks or another clock. Nothing is changed then.
        """
        self.check_state_dict(state, timing=not hold)
        self._holds = checks.boolean("hold", hold)
        self._enter(state["task"])
        self._step, self._episode_began = 0, -state["steps_in_episode"]
        self._entropy = state["entropy"]
        self._clock.load_state_dict(state["clock"], self._step)

    def _warn_of_seeds(self) -> None:
        """Says where the seeds of resets have kept the task from ever changing, once."""
        steps, restarts = self._lost if self.phase == 0 else (0, 0)
        self._lost = steps + self._clock.elapsed(self._step), restarts + 1
        if (
            self._lost[0] > self._clock.length
            and restarts >= MANY_RESTARTS
            and len(self._tasks) > 1
            and not self._told_of_seeds
        ):
            self._told_of_seeds = True
            warnings.warn(f"the task never changes ({self.tasks[0]}): each reset(seed=…) {RESTARTED}", stacklevel=3)

    def _restart(self, seed: int | None, of_tasks: int | None) -> None:
        """Goes back to the first task.

        Args:
            seed: Of the lengths of phases; None for the operating system's entropy.
            of_tasks: What the seeds of the tasks to come follow from, likewise.
        """
        self._enter(0)
        self._entropy = np.random.SeedSequence(of_tasks).entropy
        self._step = self._episode_began = 0
        self._clock.restart(np.random.SeedSequence(seed, spawn_key=(*SPAWN_KEY, 0, 3)))  # not that of a parameter of a task
        self._clock.begin(0, 0)

    def _enter(self, task: int) -> None:
        if task == self.task:
            return
        made = self._make(task)  # or not, and everything stays as it is
        if all(self.env is not task for task in self._tasks):
            self.env.close()
        self.env, self.task = made, task

    def _make(self, number: int) -> gymnasium.Env[Any, Any]:
        task = self._tasks[number]
        if isinstance(task, str):
            try:
                return gymnasium.make(task, **self._kwargs)
            except TypeError as error:
                if not self._kwargs:
                    raise
                raise ParameterError(f"{task} cannot be made with {', '.join(map(repr, self._kwargs))}: {error}") from error
        env = task if isinstance(task, gymnasium.Env) else task()
        check_env(env)
        return env

    def _check_spaces(self) -> None:
        """Looks at each task once, so that a run does not end where the first one that does not fit would begin."""
        for number, task in enumerate(self._tasks):
            if any(_are_same(task, other) for other in self._tasks[:number]):
                continue
            env = self._make(number)
            try:
                for kind in ("observation_space", "action_space"):
                    own, of_first = getattr(env, kind), getattr(self, kind)
                    if own != of_first:
                        raise ParameterError(
                            f"tasks must have one {kind}, got {of_first} of {self.tasks[0]} and {own} of {self.tasks[number]}; "
                            "a wrapper around a task can bring them together"
                        )
            finally:
                if env is not task:
                    env.close()

    def _told(self, own: dict[str, Any], *, changed: bool) -> dict[str, Any]:
        """What a task says, which some give again and again, with what is to be said of it."""
        if not isinstance(own, Mapping):
            raise ParameterError(f"info of {self.tasks[self.task]} must be a mapping, got {checks.shown(own)}")
        kept = {f"env_{key}": own[key] for key in _KEYS if key in own}
        return {**own, **kept, TASK: self.task, "phase": self.phase, "changed": changed}


def _are_same(task: Task, other: Task) -> bool:
    """Whether two tasks are one; environments that are equal, as those of dataclasses can be, are still two."""
    return task is other or (isinstance(task, str) and isinstance(other, str) and task == other)


def _name(task: Task) -> str:
    if isinstance(task, str):
        return task
    if isinstance(task, gymnasium.Env):
        return checks.env_name(task)
    if callable(task):
        return str(getattr(task, "__name__", type(task).__name__))
    raise ParameterError(
        f"each task must be an id, a function that makes an environment or an environment; got {checks.shown(task)}"
    )
