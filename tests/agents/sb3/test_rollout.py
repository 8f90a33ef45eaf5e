"""A rollout in compiled code is the plain loop over environments and policy to the bit; callbacks hear of what happened."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, ConvertCallback, EveryNTimesteps
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import agents
from agents import ThreadedVecEnv
from agents.callbacks import PhaseCallback, PlasticityCallback
from agents.sb3.native import Policy, Steps, act_all
from agents.sb3.networks import networks
from agents.sb3.rollout import CompiledRollout, natives_of, sees_every_step

WORLDS = {
    "ant": ("ant-nonstationary-v0", {"period": 100, "seed": 0}),
    "ant, changed in mid-episode": ("ant-nonstationary-v0", {"period": 70, "seed": 0, "change_at": "now"}),
    "ant as published": ("ant-stationary-v0", {"terminate_after": 50}),
    "hopper with a time limit": ("Hopper-v5", {"max_episode_steps": 15}),
}


class Every(BaseCallback):
    """Has to see every step."""

    def _on_step(self):
        return True


class Recorder(BaseCallback):
    """Keeps what the events said, and each rollout."""

    every_step = False

    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at, self.events, self.rollouts = stop_at, [], []

    def _on_step(self):
        names = ("n_steps", "dones", "rewards", "infos")
        self.events.append((self.num_timesteps, *(self.locals[name] for name in names)))
        return self.stop_at is None or self.num_timesteps < self.stop_at

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        self.rollouts.append({name: value.copy() for name, value in vars(buffer).items() if isinstance(value, np.ndarray)})


def make_model(kind, env_id, kwargs, n_envs=3, steps=128, **settings):
    vec_env = kind([lambda: Monitor(gymnasium.make(f"envs:{env_id}", **kwargs))] * n_envs)
    method_kwargs = {"maturity_threshold": 2, "replacement_rate": 0.05}
    policy_kwargs = {"net_arch": [16, 12], "activation_fn": nn.ReLU, "method_kwargs": method_kwargs}
    defaults = {"batch_size": 64, "n_epochs": 2, "max_grad_norm": math.inf, "policy_kwargs": policy_kwargs}
    return agents.PPO("CBPMlpPolicy", vec_env, n_steps=steps, seed=5, device="cpu", **defaults | settings)


def train(*args, rollouts=2, callback=None, threads=2, **kwargs):
    model = make_model(*args, **kwargs)
    recorder = Recorder()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model.learn(rollouts * model.n_steps * model.n_envs, [recorder, *([callback] if callback else [])], log_interval=None)
    finally:
        torch.set_num_threads(before)
    return model, recorder


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_a_compiled_rollout_is_one_that_is_stepped_to_the_bit(world, n_envs):
    compiled, seen = train(ThreadedVecEnv, *world, n_envs=n_envs, steps=96)
    for kind, callback, threads in ((DummyVecEnv, Every(), 1), (DummyVecEnv, None, 2), (ThreadedVecEnv, None, 1)):
        stepped, expected = train(kind, *world, n_envs=n_envs, steps=96, callback=callback, threads=threads)
        for mine, theirs in zip(seen.rollouts, expected.rollouts, strict=True):
            for name, array in theirs.items():
                assert np.array_equal(mine[name], array), name
        assert np.array_equal(compiled._last_obs, stepped._last_obs)
        assert np.array_equal(compiled._last_episode_starts, stepped._last_episode_starts)
        for one, other in zip(compiled.policy.parameters(), stepped.policy.parameters(), strict=True):
            assert torch.equal(one, other)
        episodes = [[(e["r"], e["l"]) for e in model.ep_info_buffer] for model in (compiled, stepped)]
        assert episodes[0] == episodes[1]
        assert len(episodes[0]) >= 1
        assert compiled.num_timesteps == stepped.num_timesteps == 2 * 96 * n_envs


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_it_is_the_plain_loop_over_environments_and_forward_pass(world):
    env_id, kwargs = world
    make = [lambda: Monitor(gymnasium.make(f"envs:{env_id}", **kwargs))] * 2
    model = make_model(DummyVecEnv, *world, n_envs=2)
    modules = networks(model.policy)["policy/"]
    policy = Policy.of(modules, np.full(model.action_space.shape, 0.7, np.float32), model.action_space)
    loop, vec_env = DummyVecEnv(make), ThreadedVecEnv(make)
    steps, expected = (Steps.of(model.rollout_buffer, 128) for _ in range(2))
    steps = steps._replace(observations=steps.observations.copy())
    steps.noise[:] = expected.noise[:] = np.random.default_rng(0).normal(size=steps.noise.shape)
    for each in (loop, vec_env):
        each.seed(1)
        observations = each.reset()
    clipped, dones = np.zeros_like(expected.actions[0]), []
    for t in range(128):
        expected.observations[t] = observations
        assert act_all(t, policy, expected, clipped)
        observations, expected.rewards[t], done, _ = loop.step(clipped.copy())
        dones.append(done)
    natives = natives_of(vec_env)
    rollout = CompiledRollout(natives, vec_env.buf_obs[None].copy(), policy, steps, threads=2)
    rollout.run()
    for name in ("observations", "means", "actions"):
        assert np.array_equal(getattr(steps, name), getattr(expected, name)), name
    assert np.array_equal(steps.rewards.astype(np.float32), expected.rewards.astype(np.float32))
    assert np.array_equal(rollout.dones, dones)
    assert np.array_equal(rollout.observations, observations)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_actions_are_means_and_noise_in_float32_clipped_to_the_space(activation):
    torch.manual_seed(0)
    modules = [nn.Linear(5, 33), activation(), nn.Linear(33, 17), activation(), nn.Linear(17, 2)]
    space = gymnasium.spaces.Box(np.array([-0.5, -1], np.float32), np.array([0.5, 2], np.float32))
    std = np.array([0.5, 2.0], np.float32)
    policy, rng = Policy.of(modules, std, space), np.random.default_rng(0)
    observations = rng.normal(size=(7, 4, 5))
    steps = Steps(observations, rng.normal(size=(7, 4, 2)).astype("f"), *np.zeros((2, 7, 4, 2), "f"), np.zeros((7, 4)))
    clipped = np.zeros((4, 2), np.float32)
    for t in range(7):
        assert act_all(t, policy, steps, clipped)
        np.testing.assert_array_equal(clipped, steps.actions[t].clip(space.low, space.high))
    with torch.no_grad():
        means = nn.Sequential(*modules)(torch.tensor(observations, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(steps.means, means, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(steps.actions, steps.means + std * steps.noise)


def test_callbacks_are_called_at_events_and_at_the_end_of_the_rollout():
    """Two Ants that change every 100 steps: what the recorder hears is what one that sees every step finds remarkable."""
    world = ("ant-nonstationary-v0", {"period": 70, "seed": 0, "change_at": "now"})
    _, told = train(ThreadedVecEnv, *world, n_envs=2)
    _, saw = train(ThreadedVecEnv, *world, n_envs=2, callback=Every())
    remarkable = []
    phases = [None, None]
    for k, event in enumerate(saw.events):
        following = saw.events[k + 1][4] if k + 1 < len(saw.events) else None
        begun = [info["changed"] for info in event[4]]
        ends = following is not None and any(info["changed"] for info in following)
        if event[2].any() or any(begun) or ends or event[1] == 127:
            remarkable.append(event)
        phases = [info["phase"] for info in event[4]]
    assert phases == [3, 3]
    heard = [event[0] for event in told.events]
    assert set(heard) >= {event[0] for event in remarkable}
    assert len(heard) < 60 < len(saw.events) == 256
    by_step = {event[0]: event for event in saw.events}
    for steps, n_steps, dones, rewards, infos in told.events:
        _, number, ended, paid, said = by_step[steps]
        assert (n_steps, dones.tolist(), rewards.tolist()) == (number, ended.tolist(), paid.tolist())
        for mine, theirs, done in zip(infos, said, dones, strict=True):
            assert {name: theirs[name] for name in ("friction", "phase", "changed")}.items() <= mine.items()
            assert ("episode" in mine) == done
            if done:
                assert mine.keys() == theirs.keys()
                assert mine["episode"]["r"] == theirs["episode"]["r"]
                assert np.array_equal(mine["terminal_observation"], theirs["terminal_observation"])


def test_rewards_phases_and_measures_are_recorded_alike(tmp_path):
    recorded = []
    for name, others in (("compiled", []), ("stepped", [Every()])):
        model = make_model(
            ThreadedVecEnv, "ant-nonstationary-v0", {"period": 70, "seed": 0, "change_at": "now"}, n_envs=2, steps=512
        )
        phases, plasticity = PhaseCallback("friction", tmp_path / f"{name}.csv"), PlasticityCallback(every=1)
        model.learn(2 * 1024, [phases, plasticity, *others], log_interval=None)
        rows = (tmp_path / f"{name}.csv").read_text()
        recorded.append((phases.state_dict(), rows, plasticity.latest, plasticity.probe["observations"].tolist()))
        assert sum(phase.steps for phase in phases.phases.values()) == 2048
        assert [phase.steps for phase in list(phases.phases.values())[:-1]] == [140] * 14
    assert recorded[0] == recorded[1]


def test_a_callback_that_ends_training_ends_it_after_the_rollout():
    model, recorder = make_model(ThreadedVecEnv, *WORLDS["ant"]), Recorder(stop_at=100)
    model.learn(4 * 384, recorder)
    assert recorder.events[-1][0] >= 100 > recorder.events[-2][0]
    assert model.num_timesteps == 384  # the environments stand at the end of the rollout
    assert np.array_equal(model._last_obs, model.env.buf_obs[None])


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (CallbackList([]), False),
        (ConvertCallback(None), False),
        (ConvertCallback(lambda *_: True), True),
        (Recorder(), False),
        (CallbackList([Recorder(), CallbackList([Recorder()])]), False),
        (CallbackList([Recorder(), CallbackList([Every()])]), True),
        (CheckpointCallback(100, "nowhere"), True),
        (EveryNTimesteps(100, Recorder()), True),
    ],
)
def test_whoever_does_not_say_otherwise_sees_every_step(callback, expected):
    assert sees_every_step(callback) is expected


def test_normalised_environments_are_stepped_one_by_one():
    vec_env = VecNormalize(ThreadedVecEnv([lambda: gymnasium.make("Hopper-v5")]))
    assert natives_of(vec_env) == "VecNormalize is neither a ThreadedVecEnv nor a DummyVecEnv"


def test_a_mujoco_environment_that_is_not_compiled_is_told_once_and_others_never():
    class Own(gymnasium.Wrapper):
        pass

    vec_env = ThreadedVecEnv([lambda: Monitor(Own(gymnasium.make("Hopper-v5")))])
    model = agents.PPO("MlpPolicy", vec_env, n_steps=32, batch_size=32, n_epochs=1, device="cpu")
    with pytest.warns(UserWarning, match="stepped in Python") as said:
        model.learn(96)
    reason = "the wrapper Own has to see every step"
    assert [str(each.message) for each in said] == [f"environments are stepped in Python, which is slower: {reason}"]
    assert model.stepped_in_python_because == reason
    other = agents.PPO("MlpPolicy", "Pendulum-v1", n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(64)
    assert "PendulumEnv is none of the environments" in other.stepped_in_python_because


@pytest.mark.parametrize("kind", [ThreadedVecEnv, DummyVecEnv])
def test_a_vectorised_environment_whose_step_is_replaced_takes_that_one(kind):
    model = make_model(kind, "Hopper-v5", {}, steps=64)
    own = model.env.step_wait

    def twice_as_much():
        observations, rewards, dones, infos = own()
        return observations, 2 * rewards, dones, infos

    model.env.step_wait = twice_as_much
    with pytest.warns(UserWarning, match=rf"slower: {kind.__name__}\.step_wait\(\) was replaced on an object"):
        model.learn(192)
    plain = make_model(kind, "Hopper-v5", {}, steps=64).learn(192)
    assert np.array_equal(model.rollout_buffer.actions, plain.rollout_buffer.actions)
    ends = plain.rollout_buffer.episode_starts[1:].any(axis=1)  # an episode's last reward may have a value added
    assert np.allclose(model.rollout_buffer.rewards[:-1][~ends], 2 * plain.rollout_buffer.rewards[:-1][~ends])


@pytest.mark.parametrize("threads", [1, 2])
def test_means_that_are_not_numbers_end_training(threads):
    model = make_model(ThreadedVecEnv, *WORLDS["ant"])
    with torch.no_grad():
        model.policy.action_net.bias[3] = math.nan
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(ValueError, match="the policy's actions are not numbers, nan in"):
            model.learn(384)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_environment_that_raises_is_named(threads):
    class Failing(Recorder):
        def _on_rollout_start(self):
            def fail():
                raise OSError("no more worlds")

            self.training_env.envs[1].unwrapped.reset_model = fail

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(RuntimeError, match="environment 1 failed: OSError: no more worlds"):
            make_model(ThreadedVecEnv, *WORLDS["ant"]).learn(384, Failing())
    finally:
        torch.set_num_threads(before)
