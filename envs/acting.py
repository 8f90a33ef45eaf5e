"""The effects of some parameters that act in steps: on observations, actions, rewards and velocities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np

from envs.effects import Acting, Effect
from envs.places import Subject
from envs.sequence import SPAWN_KEY


class ActingEffects:
    """Those among some effects.

    Args:
        effects: Of all parameters, in their order.
    """

    def __init__(self, effects: Iterable[Effect]) -> None:
        self._all: list[Any] = [effect for effect in effects if isinstance(effect, Acting)]
        self._on_observations = self._of("observation")
        self._on_actions = self._of("action")
        self._on_rewards = self._of("reward")
        self._on_simulation = self._of("simulation")

    def __len__(self) -> int:
        return len(self._all)

    def begin_episode(self) -> None:
        """Forgets what belongs to the last episode."""
        for effect in self._all:
            effect.begin_episode()

    def begin_step(self, subject: Subject, action: Any) -> Any:
        """Acts on the simulation before a step. Returns the action that arrives."""
        for effect in self._on_actions:
            action = effect.change(action)
        for effect in self._on_simulation:
            effect.begin_step(subject)
        return action

    def observation(self, observation: Any) -> Any:
        """The observation that arrives."""
        if self._on_observations:
            observation = np.asarray(observation)  # some give lists
        for effect in self._on_observations:
            observation = effect.change(observation)
        return observation

    def observation_space(self, env: gymnasium.Env[Any, Any]) -> Any:
        """The space of observations that arrive; None where it is the environment's own."""
        if not self._on_observations:
            return None
        space = env.observation_space
        for effect in self._on_observations:
            space = effect.arriving(space)
        return None if space is env.observation_space else space

    def reward(self, subject: Subject, reward: Any, info: dict[str, Any]) -> Any:
        """The reward of a step that has been taken."""
        for effect in self._all:
            effect.end_step()
        for effect in self._on_rewards:
            reward = effect.change_reward(subject, reward, info)
        return reward

    def restart(self, seed: int) -> None:
        """Begins the sequences of random numbers of a seed."""
        for number, effect in enumerate(self._all):
            effect.restart(np.random.SeedSequence(seed, spawn_key=(*SPAWN_KEY, number, 1)))

    def state_dicts(self) -> list[dict[str, Any]]:
        """What changes with time, as JSON can hold it."""
        return [effect.state_dict() for effect in self._all]

    def load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        """Goes on from there."""
        for effect, saved in zip(self._all, states, strict=True):
            effect.load_state_dict(saved)

    def _of(self, kind: str) -> list[Any]:
        return [effect for effect in self._all if effect.acts_on == kind]
