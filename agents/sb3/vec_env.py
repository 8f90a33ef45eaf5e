"""An SB3 vectorised environment that steps its environments in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from agents.sb3.native import NativeEnvs, unsupported
from envs.native import python_callbacks

MOST_THREADS = 4
"""Unless more are asked for: Gymnasium's Ant keeps the lock for a quarter of its step."""


class ThreadedVecEnv(DummyVecEnv):
    """SB3's ``DummyVecEnv``, stepping its environments in threads: faster where a step releases the interpreter's lock.

    MuJoCo does, so on two cores the physics of two environments goes on side by side. An environment is stepped by one thread
    at a time and shares nothing with another, so results do not depend on the number of threads. Works with any Gymnasium
    environment; one that keeps the lock gains nothing and loses a few per cent.

    The ``info`` dictionaries are handed out as the environments made them, not as deep copies: an environment must make a new
    one at each step, as Gymnasium's do.

    Args:
        env_fns: Functions that make the environments, one each.
        n_threads: Number of threads, at most one an environment. None for ``torch.get_num_threads()``, so that
            ``OMP_NUM_THREADS`` holds here too, but at most 4: beyond that threads mostly wait for the lock.

    Raises:
        ValueError: ``n_threads`` below 1.
        RuntimeError: From ``step``, where an environment raised: names the environment, with its error as the cause.

    Example:
        >>> import gymnasium
        >>> from agents import ThreadedVecEnv
        >>> vec_env = ThreadedVecEnv([lambda: gymnasium.make("Hopper-v5")] * 4, n_threads=2)
        >>> vec_env.reset().shape
        (4, 11)
    """

    def __init__(self, env_fns: list[Callable[[], gymnasium.Env[Any, Any]]], n_threads: int | None = None) -> None:
        whole = isinstance(n_threads, int | np.integer) and not isinstance(n_threads, bool)
        if n_threads is not None and not (whole and n_threads >= 1):
            raise ValueError(f"n_threads must be a whole number >= 1, or None; got {n_threads!r}")
        super().__init__(env_fns)
        self.n_threads = min(self.num_envs, n_threads or min(MOST_THREADS, torch.get_num_threads()))
        self.stepped_in_python_because = unsupported(self)
        self._natives: NativeEnvs | None = None  # made when it is needed: it may have to compile
        # The thread that calls step() is one of them.
        self._threads = ThreadPoolExecutor(self.n_threads - 1, "environments") if self.n_threads > 1 else None

    def step_wait(self) -> VecEnvStepReturn:
        """Steps every environment once; one whose episode ended is reset, as in SB3."""
        # Whoever is free takes the next: steps differ in length, and with fixed shares one thread would wait for the other.
        natives = self.natives if self.actions.dtype == np.float32 else None
        indices = self._to_step()
        size = 1 if natives is None else max(1, len(indices) // (4 * self.n_threads))
        shares = iter([indices[start : start + size] for start in range(0, len(indices), size)])
        others = (
            [self._threads.submit(self._step_some, shares, natives) for _ in range(self.n_threads - 1)] if self._threads else []
        )
        try:
            self._step_some(shares, natives)
        finally:
            errors = [other.exception() for other in others]  # waits: no thread stays behind in an environment
        for error in errors:
            if error is not None:
                raise error
        return self._obs_from_buf(), self.buf_rews.copy(), self.buf_dones.copy(), list(self.buf_infos)

    def _obs_from_buf(self) -> VecEnvObs:
        return dict_to_obs(self.observation_space, {key: buffer.copy() for key, buffer in self.buf_obs.items()})

    @property
    def natives(self) -> NativeEnvs | None:
        """The environments as compiled code steps them; None where Python does."""
        if self.stepped_in_python_because or python_callbacks():
            return None
        if self._natives is None:
            self._natives = NativeEnvs(self)
        return self._natives

    def _to_step(self) -> list[int]:
        """The environments of which a step is taken."""
        return list(range(self.num_envs))

    def _step_some(self, shares: Iterator[list[int]], natives: NativeEnvs | None) -> None:
        for share in shares:
            if natives is not None:
                natives.step(share)
                continue
            for index in share:
                try:
                    self._step_one(index)
                except Exception as error:
                    raise RuntimeError(f"environment {index} failed: {type(error).__name__}: {error}") from error

    def _step_one(self, index: int) -> None:
        env = self.envs[index]
        observation, reward, terminated, truncated, info = env.step(self.actions[index])
        done = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, self.reset_infos[index] = env.reset()
        self.buf_rews[index] = reward
        self.buf_dones[index] = done
        self.buf_infos[index] = info
        self._save_obs(index, observation)

    def reset(self) -> VecEnvObs:
        """Resets every environment, as in SB3."""
        observations = super().reset()
        self._refresh()
        return observations

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of the outermost wrapper of some environments, as in SB3."""
        super().set_attr(attr_name, value, indices)
        self._refresh()

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list[Any]:
        """Calls a method of some environments, as in SB3."""
        results = super().env_method(method_name, *method_args, indices=indices, **method_kwargs)
        self._refresh()
        return results

    def _refresh(self) -> None:
        if self._natives is not None:
            self._natives.refresh()

    def close(self) -> None:
        """Ends the threads and closes the environments."""
        if self._threads is not None:
            self._threads.shutdown()
        super().close()
