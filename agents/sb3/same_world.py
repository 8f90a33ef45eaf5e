"""Evaluations during training in the world in which training is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.sb3.phases import has_phases

_FIRST = [0]


class SameWorldCallback(BaseCallback):
    """Lets every ``EvalCallback`` of a training judge in the training's world: its values, its phase.

    An evaluation environment has a clock of its own, so that it may be in another phase than training, and so are the best
    model and whatever stops the training. This callback puts the state of :class:`envs.NonStationary` or
    :class:`envs.TaskSequence` in the first training environment into every evaluation environment, with each phase, and holds
    it there: the world does not change while it is evaluated in. Stands before the ``EvalCallback`` in the list of callbacks,
    and finds it there by itself, those of rl-zoo3 included.

    Raises:
        ValueError: At the start of training, there is no ``EvalCallback``, or an environment that does not change.
        envs.ParameterError: The evaluation environment changes in another way than that of training.

    Example:
        >>> import gymnasium
        >>> from agents.callbacks import SameWorldCallback
        >>> from stable_baselines3.common.callbacks import EvalCallback
        >>> eval_env = gymnasium.make("envs:hopper-nonstationary-v0")
        >>> callbacks = [SameWorldCallback(), EvalCallback(eval_env, eval_freq=10_000)]
    """

    def _on_training_start(self) -> None:
        self._phase: int | None = None
        self._eval_envs: list[VecEnv] = [evaluation.eval_env for evaluation in _evaluations(self.locals["callback"])]
        if not self._eval_envs:
            raise ValueError("SameWorldCallback needs an EvalCallback among the callbacks of this training, got none")
        for name, vec_env in (("training", self.training_env), *(("evaluation", vec_env) for vec_env in self._eval_envs)):
            if not has_phases(vec_env):
                raise ValueError(
                    f"SameWorldCallback needs environments that change; that of {name} has neither envs.NonStationary nor "
                    "envs.TaskSequence"
                )

    def _on_step(self) -> bool:
        phase = self.locals["infos"][0]["phase"]
        if phase != self._phase:
            (state,) = self.training_env.env_method("state_dict", indices=_FIRST)
            for vec_env in self._eval_envs:
                vec_env.env_method("load_state_dict", state, hold=True)
            self._phase = phase
        return True


def _evaluations(callback: Any) -> Iterator[EvalCallback]:
    """The evaluations of a training, behind other callbacks or not."""
    if isinstance(callback, EvalCallback):
        yield callback
    for child in (*getattr(callback, "callbacks", ()), getattr(callback, "callback", None)):
        if isinstance(child, BaseCallback):
            yield from _evaluations(child)
