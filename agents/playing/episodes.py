"""Plays episodes of a trained policy, each under one value, many side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed
from tqdm import tqdm

from agents.runs.checkpoints import Trained
from agents.runs.commands import progress_bar
from agents.runs.errors import RunError, in_words
from agents.sb3.threads import one_thread_each
from agents.sb3.vec_env import MOST_THREADS, ThreadedVecEnv

MODES = ("deterministic", "stochastic")
"""The mean of the policy's distribution, or a sample of it; a policy that draws no actions has the first alone."""

MakeEnv = Callable[[float], gymnasium.Env[Any, Any]]
"""Makes an environment that stays at a value."""

_TOGETHER = 16  # episodes
_LEAST_ROWS = 8  # fewer than 5 take other kernels of torch


@dataclass(frozen=True)
class Episode:
    """An episode that was played.

    Attributes:
        value: Of the parameter.
        mode: One of :data:`MODES`.
        number: From 0; the same numbers begin alike under all values and in both modes.
        total: The sum of its rewards, as the environment gave them.
        length: In steps.
    """

    value: float
    mode: str
    number: int
    total: float
    length: int


def play(
    trained: Trained,
    make_env: MakeEnv,
    values: Sequence[float],
    episodes: int,
    seed: int,
    modes: Sequence[str] = MODES,
) -> list[Episode]:
    """Plays episodes under each value in each mode, with a progress bar. They depend on the seed, not on the number of threads.

    Args:
        trained: The policy.
        make_env: Makes an environment that stays at a value.
        values: Of the parameter.
        episodes: For each value and mode.
        seed: Of the environments, of sampled actions, and of the global generators, which some environments use.
        modes: Some of :data:`MODES`.

    Returns:
        The episodes by mode, value and number.

    Raises:
        RunError: One of them broke off.
    """
    seeds = episode_seeds(seed, episodes)
    played: list[Episode] = []
    set_random_seed(seeds[0])
    with one_thread_each() as threads, progress_bar(len(modes) * len(values) * episodes, unit=" episodes") as bar:
        for mode in modes:
            tasks = [(value, number) for value in values for number in range(episodes)]
            for start in range(0, len(tasks), _TOGETHER):
                some = tasks[start : start + _TOGETHER]
                vec_env = _OneEpisodeEach([partial(make_env, value) for value, _ in some], min(threads, MOST_THREADS))
                vec_env._seeds = [seeds[number] for _, number in some]
                try:
                    totals, lengths = _play_all(trained, vec_env, mode, bar)
                except Exception as error:  # whatever an environment of others raises
                    raise RunError(f"an episode broke off: {in_words(error)}") from error
                finally:
                    vec_env.close()
                played += [
                    Episode(value, mode, number, float(total), int(length))
                    for (value, number), total, length in zip(some, totals, lengths, strict=True)
                ]
    return played


def episode_seeds(seed: int, episodes: int) -> list[int]:
    """The seeds with which the environments of episodes 0, 1, … are reset."""
    return [int(number) for number in np.random.SeedSequence(seed).generate_state(episodes)]


def act(trained: Trained, observations: NDArray[Any], mode: str) -> NDArray[Any]:
    """The policy's actions.

    Args:
        trained: The policy.
        observations: Of some environments, as these gave them: ``(environments, …)``.
        mode: One of :data:`MODES`.

    Returns:
        An action for each environment.
    """
    # With rows of zeros, so that an episode is the same to the bit alone and among others.
    rows = np.zeros((max(_LEAST_ROWS, len(observations)), *observations.shape[1:]), observations.dtype)
    rows[: len(observations)] = observations
    actions, _ = trained.policy.predict(trained.normalize(rows), deterministic=mode == "deterministic")
    return actions[: len(observations)]


class _OneEpisodeEach(ThreadedVecEnv):
    """Leaves an environment alone once its episode has ended, and keeps rewards as exact as they come."""

    def __init__(self, env_fns: list[Callable[[], gymnasium.Env[Any, Any]]], n_threads: int) -> None:
        super().__init__(env_fns, n_threads)
        self.buf_rews = np.zeros(self.num_envs)  # type: ignore[assignment]

    def _to_step(self) -> list[int]:
        return np.flatnonzero(~self.buf_dones).tolist()


def _play_all(
    trained: Trained, vec_env: _OneEpisodeEach, mode: str, bar: tqdm[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The return and the length of the first episode of each environment."""
    totals, lengths = np.zeros(vec_env.num_envs), np.zeros(vec_env.num_envs, np.int64)
    playing = np.ones(vec_env.num_envs, bool)
    observations = vec_env.reset()
    while playing.any():
        observations, rewards, dones, _ = vec_env.step(act(trained, np.asarray(observations), mode))
        totals[playing] += rewards[playing]
        lengths += playing
        if ended := int((playing & dones).sum()):
            bar.update(ended)
        playing = ~dones
    return totals, lengths
