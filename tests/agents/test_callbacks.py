from __future__ import annotations

import copy
import csv
import math

import gymnasium
import numpy as np
import pytest
import torch
from recorder import Recorder
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

import agents
from agents.callbacks import ChangeCallback, FreshNetworkCallback, Phase, PhaseCallback, PlasticityCallback, VerdictCallback


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
    assert {number: phase.values for number, phase in callback.phases.items()} == {i: {"friction": 0.5 + i} for i in range(4)}
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


class Told(gymnasium.Wrapper):
    """Keeps what the last step of each episode said."""

    def __init__(self, env, told):
        super().__init__(env)
        self.told = told

    def step(self, action):
        transition = super().step(action)
        if transition[2] or transition[3]:
            self.told.append(transition[4])
        return transition


@pytest.mark.parametrize("threaded", [False, True])  # whose rollouts run in compiled code, and outside it
def test_each_episode_has_the_value_of_its_own_environment(threaded, tmp_path):
    """SB3 seeds environment i with seed + i, so without a seed of their own each has another sequence of values."""
    told = [[], [], []]
    places = iter(told)

    def make():
        env = gymnasium.make("envs:hopper-nonstationary-v0", period=60)
        return env if threaded else Told(env, next(places))

    vec_env = make_vec_env(make, 3, seed=0, vec_env_cls=agents.ThreadedVecEnv if threaded else None)
    algorithm = agents.PPO if threaded else PPO
    model = algorithm("MlpPolicy", vec_env, n_steps=200, batch_size=100, n_epochs=1, device="cpu")
    with pytest.warns(
        UserWarning, match=r"environments differ within a phase: in phase 0 environment 1 has friction"
    ) as warned:
        model.learn(600, PhaseCallback("friction", tmp_path / "episodes.csv"))
    assert sum("environments differ" in str(warning.message) for warning in warned) == 1
    with (tmp_path / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for i in range(3):
        own = [(int(row["phase"]), float(row["friction"])) for row in rows if row["env"] == str(i)]
        assert len(own) > 5
        assert len(dict(own)) == len(set(own)) > 1  # one value a phase
        if not threaded:
            assert own == [(info["phase"], info["friction"]) for info in told[i]]
    assert len({row["friction"] for row in rows if row["phase"] == "1"}) == 3


def test_environments_with_a_seed_of_their_own_do_not_differ(recwarn):
    vec_env = make_vec_env("envs:hopper-nonstationary-v0", 3, seed=0, env_kwargs={"period": 60, "seed": 0})
    PPO("MlpPolicy", vec_env, n_steps=200, batch_size=100, n_epochs=1, device="cpu").learn(600, PhaseCallback("friction"))
    assert not [warning for warning in recwarn if "environments differ" in str(warning.message)]


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


def test_frozen_layers_stay_as_they_are_while_the_others_begin_anew():
    environments = iter([Phases(8), Phases(2)])
    env = make_vec_env(lambda: next(environments), n_envs=2)
    soon = {"replacement_rate": 0.1, "maturity_threshold": 5}
    options = {"policy_kwargs": {"net_arch": [4, 4], "method_kwargs": soon}, "seed": 0, "device": "cpu"}
    model = PPO("CBPMlpPolicy", env, n_steps=24, batch_size=24, **options)
    frozen = model.policy.mlp_extractor.value_net.requires_grad_(False)
    before = copy.deepcopy(frozen.state_dict()), model.policy.action_net.weight.detach().clone()
    with pytest.warns(UserWarning, match="frozen"):
        model.learn(3 * 48, FreshNetworkCallback())
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in frozen.state_dict().items())
    assert not torch.equal(model.policy.action_net.weight, before[1])
    assert [layer.name for layer in model.policy.method.layers] == ["policy/hidden1", "policy/hidden2"]


def test_a_file_of_other_columns_is_not_continued(tmp_path):
    path = tmp_path / "episodes.csv"
    path.touch()  # without even a line
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, device="cpu")
    for _ in range(2):  # it may be named by a string, and is continued
        model.learn(128, PhaseCallback(None, str(path)))
    before = path.read_text()
    with pytest.raises(
        ValueError, match=r"cannot be continued: its columns are \['step', 'env', 'phase', 'return', 'length'\], not"
    ):
        model.learn(128, PhaseCallback("friction", path))
    assert path.read_text() == before
    assert before.count("step") == 1


def test_the_method_is_told_of_each_phase_of_the_first_environment():
    environments = iter([Phases(8), Phases(2)])
    seen = []

    class Watch(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            weight = self.model.policy.action_net.weight.detach()
            seen.append(torch.linalg.vector_norm(weight).item() / math.sqrt(1 / 4))
            weight.mul_(3)

    env = make_vec_env(lambda: next(environments), n_envs=2)
    options = {"policy_kwargs": {"net_arch": [4], "method": "fire"}, "seed": 0, "device": "cpu"}
    model = PPO("PlasticMlpPolicy", env, n_steps=24, batch_size=24, learning_rate=0.01, **options)
    model.learn(5 * 48, [ChangeCallback(), Watch()])
    # Phases 0, 0, 1, 1, 2: the head, one action and four units, becomes √(1/4) long where a phase begins.
    assert [length == pytest.approx(1, abs=1e-3) for length in seen] == [False, False, True, False, True]


class Counting(ChangeCallback):
    """Counts what it tells."""

    told = 0

    def _change(self):
        self.told += 1


@pytest.mark.parametrize(("calls", "rollouts"), [(1, 6), (3, 2), (6, 1)])
def test_changes_are_told_however_the_training_is_cut(calls, rollouts):
    model, _ = learn(None, 0, env=make_vec_env(lambda: Phases(4), n_envs=1))  # phases of one rollout
    callback = Counting()
    for _ in range(calls):
        model.learn(rollouts * 24, callback, reset_num_timesteps=False)
    assert callback.told == 5
    model.set_env(make_vec_env(lambda: Phases(4), n_envs=1))  # which are in a phase of their own
    model.learn(24, callback, reset_num_timesteps=False)
    assert callback.told == 5


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_a_method_that_nobody_tells_of_changes_says_so_at_the_start(name):
    def make():
        options = {"policy_kwargs": {"net_arch": [4], "method": "fire"}, "device": "cpu"}
        rollout = {"n_steps": 8, "batch_size": 8} if name == "PPO" else {"learning_starts": 4}
        return {"PPO": PPO, "SAC": SAC}[name]("PlasticMlpPolicy", "Pendulum-v1", **options, **rollout)

    with pytest.warns(UserWarning, match=r"fire acts where the task changes, and nothing says where: .*ChangeCallback\(\)"):
        make().learn(8)
    model = make().learn(8, ChangeCallback())  # warnings are errors in tests
    model.learn(8, reset_num_timesteps=False)


class Recording(PlasticityCallback):
    """Records at every second rollout, without a network to measure: the number of the record stands for the measure."""

    def _on_training_start(self):
        self.records = 0

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        pass

    def _on_rollout_end(self):
        if self.num_timesteps % 48 == 0:
            self.records += 1
            self.recorded_at = self.num_timesteps
            self.latest = {"plasticity/policy/hidden1/dormant_fraction": float(self.records)}


def verdicts_of(parts, capsys, own=8, parameter="friction"):
    """What is said, with one environment that changes after every 6 · own steps, in several calls of learn()."""
    phases = PhaseCallback(parameter)
    states, said = None, []
    model = PPO("MlpPolicy", make_vec_env(lambda: Scripted(own)), n_steps=24, batch_size=24, seed=0, device="cpu")
    for steps in parts:
        plasticity = Recording()
        verdicts = VerdictCallback(phases, plasticity, "ppo")
        if states is not None:
            verdicts.load_state_dict(states)
        model.learn(steps, [phases, plasticity, verdicts], reset_num_timesteps=False)
        states = verdicts.state_dict()
        said += [line for line in capsys.readouterr().err.splitlines() if line.startswith("Phase ")]
    return said, phases


@pytest.mark.parametrize("parts", [[192], [48, 48, 96], [24, 72, 24, 72]])
def test_the_end_of_each_phase_is_said_once_however_the_training_is_cut(parts, capsys):
    # Phases of 48 steps: the steps 49, 97 and 145 are the first of the phases 1, 2 and 3.
    said, _ = verdicts_of(parts, capsys)
    assert [line.split(". ")[0] for line in said] == [
        "Phase 0 ended at step 49, friction 0.5 → 1.5",
        "Phase 1 ended at step 97, friction 1.5 → 2.5",
        "Phase 2 ended at step 145, friction 2.5 → 3.5",
    ]
    assert "Too early to tell (1 of 5 phases)" in said[0]
    assert "Too early to tell (3 of 5 phases)" in said[2]


def test_verdicts_are_of_the_model_that_learns(capsys):
    phases, plasticity = PhaseCallback("friction"), Recording()
    verdicts = VerdictCallback(phases, plasticity, "ppo")
    for own in (8, 30):  # the second is in phase 0 throughout
        model = PPO("MlpPolicy", make_vec_env(lambda own=own: Scripted(own)), n_steps=24, batch_size=24, seed=0, device="cpu")
        model.learn(120, [phases, plasticity, verdicts])
    said = [line.split(",")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("Phase ")]
    assert said == ["Phase 0 ended at step 49", "Phase 1 ended at step 97"]
    assert list(phases.phases) == [0]


def test_a_phase_has_the_measures_that_were_recorded_in_it(capsys):
    # Phases of 36 steps, rollouts of 24; records at 48 (in phase 1), 96 (in phase 2), 144 (in phase 3).
    _, phases = verdicts_of([144], capsys, own=6)
    measures = {number: phase.measures for number, phase in phases.phases.items()}
    assert measures == {0: {}, 1: {"dormant_fraction": 1.0}, 2: {"dormant_fraction": 2.0}, 3: {"dormant_fraction": 3.0}}


def test_without_a_parameter_nothing_is_said(capsys):
    said, phases = verdicts_of([192], capsys, parameter=None)
    assert said == []
    assert {number: phase.steps for number, phase in phases.phases.items()} == {0: 192}


def test_what_a_world_that_does_not_change_calls_its_phase_is_no_phase_of_the_training(tmp_path):
    class Walking(Scripted):
        def step(self, action):
            *rest, _ = super().step(action)
            return *rest, {"phase": self.steps % 4 / 4}

    path = tmp_path / "made at the start" / "episodes.csv"
    callback = PhaseCallback(None, path)
    learn(callback, 24, env=make_vec_env(lambda: Walking(1), n_envs=1))
    assert {number: phase.steps for number, phase in callback.phases.items()} == {0: 24}
    with path.open(newline="") as file:
        assert {row["phase"] for row in csv.DictReader(file)} == {"0"}


@pytest.mark.parametrize("recurrent", [False, True])
def test_fresh_networks_are_made_as_the_model_made_its_own(recurrent):
    """What a stock policy says of its construction leaves out an LSTM's width and whether extractors are shared."""
    options = {"n_steps": 24, "batch_size": 24, "n_epochs": 1, "device": "cpu", "seed": 0}
    env = make_vec_env(lambda: Phases(4), n_envs=1)
    if recurrent:
        contrib = pytest.importorskip("sb3_contrib")
        model = contrib.RecurrentPPO("MlpLstmPolicy", env, policy_kwargs={"lstm_hidden_size": 8}, **options)
    else:
        kwargs = {"features_extractor_class": OneLayer, "share_features_extractor": False}
        model = PPO("MlpPolicy", env, policy_kwargs=kwargs, **options)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(120, FreshNetworkCallback())
    after = model.policy.state_dict()
    assert {name: weight.shape for name, weight in before.items()} == {name: weight.shape for name, weight in after.items()}
    if not recurrent:
        assert not torch.equal(after["pi_features_extractor.layer.weight"], after["vf_features_extractor.layer.weight"])


class OneLayer(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=5)
        self.layer = torch.nn.Linear(2, 5)

    def forward(self, observations):
        return torch.tanh(self.layer(observations))


def test_a_callback_counts_the_phases_of_one_model():
    callback = PhaseCallback("friction")
    for steps in (48, 24):
        learn(callback, steps, env=make_vec_env(lambda: Scripted(1), n_envs=1))
        assert sum(phase.steps for phase in callback.phases.values()) == steps


def test_a_model_that_is_loaded_goes_on_with_its_phases(tmp_path):
    callback = PhaseCallback("friction")
    env = make_vec_env(lambda: Scripted(1), n_envs=1)
    model, _ = learn(callback, 48, env=env)
    model.save(tmp_path / "model.zip")
    PPO.load(tmp_path / "model.zip", env=env, device="cpu").learn(24, callback, reset_num_timesteps=False)
    assert sum(phase.steps for phase in callback.phases.values()) == 72


def test_a_world_of_the_user_s_own_need_not_count_phases():
    class Own(Scripted):
        def step(self, action):
            *rest, _ = super().step(action)
            return *rest, {"friction": 0.5}

    callback = PhaseCallback("friction")
    _, logged = learn(callback, 24, env=make_vec_env(lambda: Own(1), n_envs=1))
    assert list(callback.phases) == [0]
    assert logged[-1]["env/phase"] == 0
