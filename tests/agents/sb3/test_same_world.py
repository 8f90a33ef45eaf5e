"""Stock evaluations during training, in the world of training."""

from __future__ import annotations

from functools import partial

import gymnasium
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv

import agents
import envs
from agents.callbacks import SameWorldCallback
from envs import ParameterError

EPISODE = 20


def changing(period=100, seed=0):
    """A pendulum whose gravity changes after the episode in which a phase has had its steps; 20 steps an episode."""
    inner = gymnasium.make("InvertedPendulum-v5", max_episode_steps=EPISODE)
    return Monitor(envs.NonStationary(inner, "gravity", low=0.1, high=2.0, period=period, seed=seed))


class Look(gymnasium.Wrapper):
    """Keeps the worlds of all steps."""

    def __init__(self, env):
        super().__init__(env)
        self.worlds = []

    def step(self, action):
        transition = super().step(action)
        self.worlds.append((transition[4]["phase"], transition[4]["gravity"]))
        return transition


class OfTraining(BaseCallback):
    """Keeps the training's world at each step."""

    def __init__(self):
        super().__init__()
        self.worlds = {}

    def _on_step(self):
        info = self.locals["infos"][0]
        self.worlds[self.num_timesteps] = info["phase"], info["gravity"]
        return True


def ppo(env):
    return PPO("MlpPolicy", env, n_steps=50, batch_size=50, n_epochs=1, policy_kwargs={"net_arch": [4]}, seed=0, device="cpu")


class Worlds(BaseCallback):
    """After each evaluation: when it was, and the worlds of its steps."""

    def __init__(self, look):
        super().__init__()
        self.look, self.found = look, []

    def _on_step(self):
        self.found.append((self.num_timesteps, set(self.look.worlds)))
        self.look.worlds.clear()
        return True


def evaluations(look, **kwargs):
    after = Worlds(look)
    options = {"eval_freq": 35, "n_eval_episodes": 4, "verbose": 0, "warn": False, **kwargs}
    return EvalCallback(look, callback_after_eval=after, **options), after.found


def test_each_evaluation_is_in_the_value_and_phase_of_training_and_stays_there():
    training = OfTraining()
    evaluation, found = evaluations(Look(changing(period=25)))
    ppo(changing(period=60)).learn(500, [training, SameWorldCallback(), evaluation])
    assert [step for step, _ in found] == list(range(35, 491, 35))
    for step, worlds in found:
        assert worlds == {training.worlds[step]}
    assert len({phase for _, worlds in found for phase, _ in worlds}) >= 4


def test_without_it_the_evaluation_is_in_a_world_of_its_own():
    training = OfTraining()
    evaluation, found = evaluations(Look(changing(period=25)))
    ppo(changing(period=60)).learn(200, [training, evaluation])
    assert not set.union(*(worlds for _, worlds in found)) <= set(training.worlds.values())


def test_evaluations_behind_other_callbacks_are_found_and_a_second_training_goes_on():
    training, same = OfTraining(), SameWorldCallback()
    evaluation, found = evaluations(Look(changing()), eval_freq=1)
    model = ppo(changing(period=60))
    model.learn(200, CallbackList([training, same, CallbackList([EveryNTimesteps(40, evaluation)])]))
    model.learn(50, [training, same, evaluation], reset_num_timesteps=False)
    assert len(found) > 50
    assert all(worlds == {training.worlds[step]} for step, worlds in found)


def test_environments_in_processes_of_their_own_are_put_into_the_same_world(tmp_path):
    makers = [partial(changing, period=40, seed=seed) for seed in (3, 3)]
    vec_env, eval_env = SubprocVecEnv(makers, start_method="fork"), SubprocVecEnv(makers[:1], start_method="fork")
    try:
        training = OfTraining()
        stop = StopTrainingOnRewardThreshold(reward_threshold=10**6)
        evaluation = EvalCallback(
            eval_env, eval_freq=30, n_eval_episodes=3, callback_on_new_best=stop, best_model_save_path=str(tmp_path), verbose=0
        )
        ppo(vec_env).learn(300, [training, SameWorldCallback(), evaluation])
        held = eval_env.get_attr("phase")[0], eval_env.get_attr("value")[0]
        assert held == training.worlds[300]
        assert held[0] >= 2
        assert (tmp_path / "best_model.zip").exists()
    finally:
        vec_env.close()
        eval_env.close()


def test_the_fast_loop_and_off_policy_algorithms_evaluate_in_the_same_world():
    training = OfTraining()
    evaluation, found = evaluations(Look(changing()))
    vec_env = agents.ThreadedVecEnv([partial(changing, period=40)] * 2)
    settings = {"n_steps": 50, "batch_size": 50, "n_epochs": 1, "policy_kwargs": {"net_arch": [4]}}
    with pytest.warns(UserWarning, match="stepped in Python"):
        agents.PPO("MlpPolicy", vec_env, **settings, device="cpu").learn(300, [training, SameWorldCallback(), evaluation])
    assert found
    assert all(worlds == {training.worlds[step]} for step, worlds in found)

    training = OfTraining()
    evaluation, found = evaluations(Look(changing()))
    model = SAC("MlpPolicy", changing(period=40), learning_starts=10**6, policy_kwargs={"net_arch": [4]}, device="cpu")
    model.learn(200, [training, SameWorldCallback(), evaluation])
    assert found
    assert all(worlds == {training.worlds[step]} for step, worlds in found)


def test_the_task_of_training_is_the_task_of_its_evaluation():
    def tasks(period):
        return Monitor(
            envs.TaskSequence(["InvertedPendulum-v5", partial(gymnasium.make, "InvertedPendulum-v5")], period, "now")
        )

    evaluated, seen, trained = tasks(15), [], []

    class Task(BaseCallback):
        def __init__(self, worlds, info):
            super().__init__()
            self.worlds, self.info = worlds, info

        def _on_step(self):
            self.worlds.append(self.info(self))
            return True

    after = Task(seen, lambda _: (evaluated.get_wrapper_attr("task"), evaluated.get_wrapper_attr("phase")))
    training = Task(trained, lambda own: (own.locals["infos"][0]["task"], own.locals["infos"][0]["phase"]))
    evaluation = EvalCallback(evaluated, eval_freq=1, n_eval_episodes=3, callback_after_eval=after, verbose=0, warn=False)
    ppo(tasks(20)).learn(50, [training, SameWorldCallback(), evaluation])
    assert seen == trained == [(phase % 2, phase) for phase in [0] * 20 + [1] * 20 + [2] * 10]


def test_what_cannot_be_the_same_world_is_refused_in_words():
    with pytest.raises(ValueError, match="needs an EvalCallback among the callbacks of this training, got none"):
        ppo(changing()).learn(50, SameWorldCallback())
    plain = Monitor(gymnasium.make("InvertedPendulum-v5"))
    with pytest.raises(ValueError, match=r"that of evaluation has neither envs\.NonStationary nor"):
        ppo(changing()).learn(50, [SameWorldCallback(), EvalCallback(plain, warn=False)])
    with pytest.raises(ValueError, match=r"that of training has neither envs\.NonStationary nor"):
        ppo(plain).learn(50, [SameWorldCallback(), EvalCallback(changing(), warn=False)])
    plain.unwrapped.phase = 0.3  # of a gait, say
    with pytest.raises(ValueError, match=r"that of training has neither envs\.NonStationary nor"):
        ppo(plain).learn(50, [SameWorldCallback(), EvalCallback(changing(), warn=False)])
    other = Monitor(envs.NonStationary(gymnasium.make("InvertedPendulum-v5"), "damping", period=100))
    with pytest.raises(ParameterError, match="state must be that of damping, got gravity"):
        ppo(changing()).learn(50, [SameWorldCallback(), EvalCallback(other, warn=False)])
