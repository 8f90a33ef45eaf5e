"""A whole rollout in compiled code, and what callbacks are told of it.

Where nobody has to see every step, threads take the environments from event to event: :meth:`CompiledRollout.run`. An *event*
is a step in which an episode ends, or the first of a phase, or the last of one before a change in mid-episode. Callbacks are
told of these steps afterwards, in their order: :meth:`CompiledRollout.events`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents.sb3 import native
from agents.sb3.native import NativeEnvs, Policy, Steps, untimed
from agents.sb3.support import about_patches
from agents.sb3.vec_env import ThreadedVecEnv

_SHORTEST = 16
"""Steps that a thread takes of an environment before another may have it: in an Ant 3 ms, the work of a rollout's last 1 %."""


class Event(NamedTuple):
    """A step of a rollout in which something happened.

    Attributes:
        step: Its number in the rollout, from 0.
        infos: Of each environment: the environment's own where something happened in it, else the phase alone.
        dones: Whether an episode ended with it.
        rewards: Of the step.
    """

    step: int
    infos: list[dict[str, Any]]
    dones: NDArray[np.bool_]
    rewards: NDArray[np.float32]


def natives_of(vec_env: VecEnv) -> NativeEnvs | str:
    """The environments of a vectorised environment as compiled code steps them, or why it cannot, in words."""
    if type(vec_env) in (ThreadedVecEnv, DummyVecEnv) and (reason := about_patches([vec_env])):
        return reason
    if type(vec_env) is ThreadedVecEnv:
        return vec_env.natives or vec_env.stepped_in_python_because or "MuJoCo has a Python callback"
    if type(vec_env) is DummyVecEnv:
        return native.unsupported(vec_env) or NativeEnvs(vec_env)
    return f"{type(vec_env).__name__} is neither a ThreadedVecEnv nor a DummyVecEnv"


def simulates(vec_env: VecEnv) -> bool:
    """Whether all environments of a vectorised environment are MuJoCo's."""
    envs = getattr(vec_env.unwrapped, "envs", [])
    return bool(envs) and all(isinstance(env.unwrapped, MujocoEnv) for env in envs)


def sees_every_step(callback: BaseCallback) -> bool:
    """Whether a callback has to be called at every step: all but those that say ``every_step = False``."""
    if type(callback) is CallbackList:
        return any(sees_every_step(each) for each in callback.callbacks)
    if type(callback) is ConvertCallback and callback.callback is None:  # what SB3 makes of no callback
        return False
    return getattr(callback, "every_step", True)


class CompiledRollout:
    """A rollout of environments that compiled code steps.

    Args:
        natives: The environments.
        observations: Where the rollout begins.
        policy: What acts.
        steps: To be filled in; its noise has been drawn.
        threads: So many at most take the environments; the calling one is among them. The result does not depend on it.
    """

    def __init__(self, natives: NativeEnvs, observations: NDArray[Any], policy: Policy, steps: Steps, threads: int) -> None:
        self._natives = natives
        self._policy = policy
        self.steps = steps
        self._length, n_envs = steps.rewards.shape
        self._threads = min(threads, n_envs)
        self._at = [0] * n_envs
        self._phases = [env.phase for env in natives.envs]
        self._happened: list[tuple[int, int, dict[str, Any], bool]] = []
        self._waiting = deque(range(n_envs))
        natives.refresh()
        natives.arrays.observations[:] = observations  # after a resume the vectorised environment has none

    @untimed()
    def run(self) -> None:
        """Takes every environment to the end of the rollout.

        Raises:
            RuntimeError: An environment raised: names it, with its error as the cause.
            ValueError: The policy's actions are not numbers.
        """
        if self._threads == 1:
            self._work()
            return
        with ThreadPoolExecutor(self._threads - 1, "environments") as pool:
            others = [pool.submit(self._work) for _ in range(self._threads - 1)]
            self._work()
        for other in others:
            other.result()

    def _work(self) -> None:
        try:
            while self._waiting:
                try:
                    i = self._waiting.popleft()
                except IndexError:  # another thread was faster
                    return
                if self._take_a_share(i) < self._length:
                    self._waiting.append(i)
        except BaseException:
            self._waiting.clear()
            raise

    def _take_a_share(self, i: int) -> int:
        """Steps environment ``i`` half of the way to the end: the less is left, the less will one thread wait for another."""
        left = self._length - self._at[i]
        last = self._at[i] + (left if self._threads == 1 else min(left, max(_SHORTEST, left // 2)))
        while self._at[i] < last:
            try:
                self._at[i], info, done = self._natives.advance(i, self._at[i], last, self._policy, self.steps)
            except ValueError:
                raise
            except Exception as error:
                raise RuntimeError(f"environment {i} failed: {type(error).__name__}: {error}") from error
            if info is not None:
                self._happened.append((self._at[i] - 1, i, info, done))
        return self._at[i]

    @property
    def observations(self) -> NDArray[np.float64]:
        """After the rollout."""
        return self._natives.arrays.observations.copy()

    @property
    def dones(self) -> NDArray[np.bool_]:
        """Whether an episode ended: ``(steps, environments)``."""
        dones = np.zeros(self.steps.rewards.shape, bool)
        for t, i, _, done in self._happened:
            dones[t, i] = done
        return dones

    def events(self) -> Iterator[Event]:
        """The events in their order, and the last step of the rollout in any case."""
        dones, rewards = self.dones, self.steps.rewards.astype(np.float32)
        happened: dict[int, list[tuple[int, dict[str, Any]]]] = {self._length - 1: []}
        for t, i, info, _ in self._happened:
            happened.setdefault(t, []).append((i, info))
        for t in sorted(happened):
            infos = list(self._phases)
            for i, info in happened[t]:
                infos[i] = info
                self._phases[i] = {name: info[name] for name in self._phases[i]} | (
                    {"changed": False} if self._phases[i] else {}
                )
            yield Event(t, infos, dones[t], rewards[t])
