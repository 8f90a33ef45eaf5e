from __future__ import annotations

import copy
import csv

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from torch import nn

import agents  # noqa: F401  (makes the policies known)
from agents.callbacks import FreshNetworkCallback, Phase, PhaseCallback, UnitCallback


class Scripted(gymnasium.Env):
    """Episodes of 3 steps; rewards 1, 10, 100 … in phases 0, 1, 2 …, of 2 · ``own`` episodes each."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, own: int) -> None:
        self.own, self.steps = own, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        phase = self.steps // (6 * self.own)
        self.steps += 1
        info = {"friction": 0.5 + phase, "phase": phase, "changed": False}
        return np.zeros(2, np.float32), float(10**phase), self.steps % 3 == 0, False, info


def learn(callback, steps, *, env, policy="MlpPolicy", **kwargs):
    model = PPO(policy, env, n_steps=24, batch_size=24, n_epochs=2, seed=0, device="cpu", **kwargs)
    logged = []
    model.set_logger(Recorder(logged))
    model.learn(steps, callback=callback)
    return model, logged


class Recorder(Logger):
    """Keeps what would be written at each dump."""

    def __init__(self, logged) -> None:
        super().__init__(None, [])
        self.logged = logged

    def dump(self, step=0):
        self.logged.append(dict(self.name_to_value))
        super().dump(step)


@pytest.fixture
def scripted():
    """Two environments: the first changes after 6 steps, the second after 12."""
    environments = iter([Scripted(1), Scripted(2)])
    return make_vec_env(lambda: next(environments), n_envs=2)


def test_rewards_are_grouped_by_each_environments_own_phase(scripted, tmp_path):
    callback = PhaseCallback("friction", tmp_path / "episodes.csv")
    _, logged = learn(callback, 48, env=scripted)
    # 24 steps each. The first: phases 0-3 of 6 steps and 2 episodes; the second: phases 0 and 1 of 12 steps and 4 episodes.
    assert {number: phase.steps for number, phase in callback.phases.items()} == {0: 18, 1: 18, 2: 6, 3: 6}
    assert {number: phase.value for number, phase in callback.phases.items()} == {0: 0.5, 1: 1.5, 2: 2.5, 3: 3.5}
    assert callback.phases[0].returns == [3.0] * 6
    assert callback.phases[1].returns == [30.0] * 6
    assert callback.phases[3].returns == [3000.0] * 2
    # Of the first environment.
    assert (logged[0]["env/friction"], logged[0]["env/phase"]) == (3.5, 3)


def test_every_episode_has_a_row_with_the_step_over_all_environments(scripted, tmp_path):
    learn(PhaseCallback("friction", tmp_path / "episodes.csv"), 48, env=scripted)
    with (tmp_path / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Both end an episode at every third step: at 2 · 3 = 6, 12, … of all environments.
    assert [int(row["step"]) for row in rows] == [step for step in range(6, 49, 6) for _ in range(2)]
    assert [int(row["env"]) for row in rows] == [0, 1] * 8
    assert [int(row["phase"]) for row in rows if row["env"] == "0"] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [float(row["friction"]) for row in rows if row["env"] == "1"] == [0.5] * 4 + [1.5] * 4
    assert {row["length"] for row in rows} == {"3"}


def test_the_state_goes_on_where_it_was(scripted):
    callback = PhaseCallback("friction")
    learn(callback, 48, env=scripted)
    other = PhaseCallback("friction")
    other.load_state_dict(callback.state_dict())
    assert other.phases == callback.phases


@pytest.mark.parametrize(
    ("returns", "mean", "final"),
    [
        ([], None, None),
        ([4.0], 4.0, 4.0),
        ([float(i) for i in range(10)], 4.5, 9.0),  # the last of ten
        ([float(i) for i in range(11)], 5.0, 9.5),  # ceil(1.1) = 2: (9 + 10) / 2
    ],
)
def test_the_final_return_is_the_mean_of_the_last_tenth(returns, mean, final):
    phase = Phase(1.0, 100, returns)
    assert (phase.mean_return, phase.final_return) == (mean, final)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_plasticity_of_a_stock_policy_agrees_with_a_loop_over_units(activation):
    kwargs = {"activation_fn": activation, "net_arch": [8, 6]}
    # With a learning rate of 0 the weights are still those of the record after the updates.
    model, logged = learn(UnitCallback(), 24, env=make_vec_env("Pendulum-v1"), policy_kwargs=kwargs, learning_rate=0.0)
    (values,) = logged
    observations = torch.as_tensor(model.rollout_buffer.observations.reshape(24, 3))
    for network, modules in (
        ("policy", model.policy.mlp_extractor.policy_net),
        ("value", model.policy.mlp_extractor.value_net),
    ):
        h = observations
        for i in (1, 2):
            linear = modules[2 * i - 2]
            h = modules[2 * i - 1](linear(h)).detach()
            magnitude = sum(abs(w) for row in linear.weight.tolist() for w in row) / linear.weight.numel()
            assert values[f"plasticity/{network}/hidden{i}/weight_magnitude"] == pytest.approx(magnitude, rel=1e-5)
            rank = f"plasticity/{network}/hidden{i}/stable_rank"
            assert (rank in values) == (i == 2)
            if i == 2:
                share = np.cumsum(singular := np.linalg.svd(h.double().numpy(), compute_uv=False)) / singular.sum()
                assert values[rank] == next(k for k, part in enumerate(share, start=1) if part > 0.99)
            name = f"plasticity/{network}/hidden{i}/dormant_fraction"
            if activation is nn.Tanh:
                assert name not in values
                continue
            # 1 % of 24 samples is less than one: a unit that is never active.
            dormant = sum(all(h[k, unit] <= 0 for k in range(24)) for unit in range(h.shape[1]))
            assert values[name] == pytest.approx(dormant / h.shape[1])


def test_units_are_recorded_as_the_method_knows_them():
    kwargs = {"net_arch": [8, 6], "method_kwargs": {"replacement_rate": 0.2, "maturity_threshold": 3}}
    seen = []

    class Compare(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            method = self.model.policy.method
            layers = [
                (layer.name, layer.corrected_utility.clone(), layer.age.tolist(), layer.replaced) for layer in method.layers
            ]
            seen.append((dict(self.logger.name_to_value), layers))

    learn([UnitCallback(every=1), Compare()], 240, env=make_vec_env("Pendulum-v1"), policy="CBPMlpPolicy", policy_kwargs=kwargs)
    assert len(seen) == 10
    for values, layers in seen:
        for name, utility, ages, _ in layers:
            assert torch.equal(values[f"cbp/{name}/utility"], utility)
            assert values[f"cbp/{name}/mature_fraction"] == sum(age > 3 for age in ages) / len(ages)
            assert values[f"cbp/{name}/mean_age"] == pytest.approx(sum(ages) / len(ages))
        replaced = [number for *_, number in layers]
        assert (values["cbp/policy/replaced"], values["cbp/value/replaced"]) == (sum(replaced[:2]), sum(replaced[2:]))
    assert min(replaced) > 0


def test_recording_changes_nothing_in_the_training():
    kwargs = {"net_arch": [8], "method_kwargs": {"replacement_rate": 0.2, "maturity_threshold": 3}}
    results = []
    for callback in (None, [UnitCallback(), PhaseCallback(None)]):
        model, _ = learn(callback, 120, env=make_vec_env("Pendulum-v1"), policy="CBPMlpPolicy", policy_kwargs=kwargs)
        results.append((torch.cat([p.detach().flatten() for p in model.policy.parameters()]), torch.get_rng_state()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_records_come_at_the_first_rollout_and_then_as_often_as_asked():
    _, logged = learn(UnitCallback(every=2), 96, env=make_vec_env("Pendulum-v1"))
    assert ["plasticity/policy/hidden1/weight_magnitude" in values for values in logged] == [True, False, True, False]
    with pytest.raises(ValueError, match="got 0"):
        UnitCallback(every=0)


class Phases(Scripted):
    """Knows its phase, as :class:`envs.NonStationary` does."""

    @property
    def phase(self):
        return self.steps // (6 * self.own)


def test_networks_and_optimizer_begin_anew_with_each_phase_of_the_first_environment():
    # A rollout of 24 steps in each of two environments. The first is in phase 0 until its step 48, in phase 1 from there on.
    environments = iter([Phases(8), Phases(2)])
    seen = []

    class Watch(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            policy = self.model.policy
            seen.append((copy.deepcopy(policy.state_dict()), len(policy.optimizer.state), torch.initial_seed()))

    model, _ = learn([FreshNetworkCallback(), Watch()], 5 * 48, env=make_vec_env(lambda: next(environments), n_envs=2))
    parameters = len(list(model.policy.parameters()))
    assert [held for _, held, _ in seen] == [0, parameters, 0, parameters, 0]  # phases 0, 0, 1, 1, 2
    heads = [state["value_net.bias"].item() for state, *_ in seen]
    assert [head == 0 for head in heads] == [True, False, True, False, True]  # SB3's first bias is 0
    first = [state["mlp_extractor.policy_net.0.weight"] for state, *_ in seen]
    assert not torch.equal(first[0], first[2])  # drawn anew
    for weight in (first[0], first[2], first[4]):  # SB3's first weights: orthogonal columns of norm √2
        assert torch.allclose(weight.T @ weight, 2 * torch.eye(2), atol=1e-5)
