"""An SB3 vectorised environment that steps its environments in threads."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from agents.sb3.native import NativeEnvs, unsupported, untimed
from envs.native import python_callbacks
from envs.simulation import look_for_model

MOST_THREADS = 4
"""Unless more are asked for: Gymnasium's Ant keeps the lock for a quarter of its step."""


_CLOSELY = 100
"""Steps that are looked at for the use of global generators, and then one in so many: a look takes 0.1 ms."""


class ThreadedVecEnv(DummyVecEnv):
    """SB3's ``DummyVecEnv``, stepping its environments in threads: faster where a step releases the interpreter's lock.

    MuJoCo does, so on two cores the physics of two environments goes on side by side. Each environment is reset and stepped by
    one thread, always the same. Results do not depend on the number of threads where environments share nothing: no generator,
    no object. One that keeps the lock gains nothing and loses a few per cent.

    The calling thread takes all environments where one of them renders, since an OpenGL context belongs to the thread that made
    it; and from then on where the global generators of NumPy or Python were used in a step or a reset, since threads would take
    numbers from them in any order. To see that, the first reset and the first step take one environment after the other; the
    next 100 steps are looked at, and then each 100th: an environment that comes to use them later is noticed later.

    The ``info`` dictionaries are handed out as the environments made them, not as deep copies: an environment must make a new
    one at each step, as Gymnasium's do.

    Args:
        env_fns: Functions that make the environments, one each.
        n_threads: Number of threads, at most one an environment. None for ``torch.get_num_threads()``, so that
            ``OMP_NUM_THREADS`` holds here too, but at most 4: beyond that threads mostly wait for the lock.

    Attributes:
        n_threads: Those in use.
        one_thread_because: Why only one is, in words; None where no more was asked for, or more are.

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
        self.one_thread_because: str | None = None
        if any(map(_renders, self.envs)):
            self._use_one_thread("an environment renders")
        self._threads = self._other_threads()
        self._seen: set[str] = set()
        self._taken = 0

    def _other_threads(self) -> list[ThreadPoolExecutor]:
        """Those beside the caller of step(), each with a queue of its own, so that an environment stays with its thread."""
        return [ThreadPoolExecutor(1, "environments") for _ in range(self.n_threads - 1)]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_threads": None, "_natives": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._threads = self._other_threads()

    def step_wait(self) -> VecEnvStepReturn:
        """Steps every environment once; one whose episode ended is reset, as in SB3."""
        natives = self.natives if getattr(self.actions, "dtype", None) == np.float32 else None
        indices = self._to_step()
        if natives is not None:
            # Whoever is free takes the next: steps differ in length, and with fixed shares one thread would wait for the other.
            size = max(1, len(indices) // (4 * self.n_threads))
            shares = iter([indices[start : start + size] for start in range(0, len(indices), size)])
            with untimed():
                self._in_threads([lambda: self._step_natives(natives, shares)] * self.n_threads)
        else:
            self._each(self._step_one, indices)
        return self._obs_from_buf(), self.buf_rews.copy(), self.buf_dones.copy(), list(self.buf_infos)

    def _each(self, do: Callable[[int], None], indices: list[int]) -> None:
        """Does something to some environments, each in its thread; for the first time not at once, to see what it uses."""
        if self.n_threads == 1:
            for index in indices:
                do(index)
            return
        self._taken += 1
        looks = self._taken <= _CLOSELY or self._taken % _CLOSELY == 0
        before = _global_generators() if looks else None
        shares = [[index for index in indices if index % self.n_threads == thread] for thread in range(self.n_threads)]
        jobs = [partial(_one_after_the_other, do, share) for share in shares]
        if do.__name__ in self._seen:
            self._in_threads(jobs)
        else:
            self._seen.add(do.__name__)
            for index in indices:
                thread = index % self.n_threads
                self._threads[thread - 1].submit(do, index).result() if thread else do(index)
        if before is not None and _global_generators() != before:
            self._use_one_thread("an environment uses a global generator")

    def _in_threads(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Does the first job in this thread, and the others each in one of their own."""
        others = [thread.submit(job) for thread, job in zip(self._threads, jobs[1:], strict=False)]
        try:
            jobs[0]()
        finally:
            errors = [other.exception() for other in others]  # waits: no thread stays behind in an environment
        for error in errors:
            if error is not None:
                raise error

    def _use_one_thread(self, reason: str) -> None:
        self.n_threads, self.one_thread_because = 1, reason

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

    @staticmethod
    def _step_natives(natives: NativeEnvs, shares: Iterator[list[int]]) -> None:
        for share in shares:
            natives.step(share)

    def _step_one(self, index: int) -> None:
        try:
            observation, reward, done, info = self._transition(index)
        except Exception as error:
            raise RuntimeError(f"environment {index} failed: {type(error).__name__}: {error}") from error
        self.buf_rews[index] = reward
        self.buf_dones[index] = done
        self.buf_infos[index] = info
        self._save_obs(index, observation)

    def _transition(self, index: int) -> tuple[Any, Any, bool, dict[str, Any]]:
        env = self.envs[index]
        observation, reward, terminated, truncated, info = env.step(self.actions[index])
        done = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, self.reset_infos[index] = env.reset()
        return observation, reward, done, info

    def reset(self) -> VecEnvObs:
        """Resets every environment, as in SB3, each in its thread."""
        self._each(self._reset_one, list(range(self.num_envs)))
        self._reset_seeds()
        self._reset_options()
        self._refresh()
        return self._obs_from_buf()

    def _reset_one(self, index: int) -> None:
        options = {"options": self._options[index]} if self._options[index] else {}
        observation, self.reset_infos[index] = self.envs[index].reset(seed=self._seeds[index], **options)
        self._save_obs(index, observation)

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
        """Ends the threads and closes the environments; those that can be used again get threads anew."""
        for thread in self._threads:
            thread.shutdown()
        self._threads = self._other_threads()
        super().close()


def _one_after_the_other(do: Callable[[int], None], indices: list[int]) -> None:
    for index in indices:
        do(index)


def _renders(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether an environment draws: it was made to, or its observations are images of a simulation."""
    spaces = getattr(env.observation_space, "spaces", env.observation_space)
    parts = spaces.values() if isinstance(spaces, dict) else [spaces]
    images = any(getattr(part, "dtype", None) == np.uint8 and len(part.shape or ()) > 1 for part in parts)
    return env.render_mode is not None or (images and look_for_model(env) is not None)


def _global_generators() -> Any:
    """The states of the global generators of NumPy and Python, to be compared."""
    return pickle.dumps(np.random.get_state(legacy=False)), random.getstate()  # noqa: NPY002
