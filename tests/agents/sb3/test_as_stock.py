"""Plastic policies take every option and every door of the stock ones: options, spaces, files, parameters."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from gymnasium import spaces
from plastic_cases import BUSY, STOCK, Small, known, make, same, spaces_of, weights
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from agents.callbacks import PlasticityCallback
from agents.sb3.plastic import replaced_units

STEPS = 48
pytestmark = [
    pytest.mark.filterwarnings("ignore:no unit:UserWarning"),
    pytest.mark.filterwarnings("ignore:`n_steps=3` is ignored:UserWarning"),  # SB3's own, at each load of such a model
]
VECTOR, TWO, THREE = spaces_of("Mlp"), spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)
TABLE = spaces.Box(-2, 3, (2, 2), np.float32)


class WithModes(BaseFeaturesExtractor):
    """Behaves otherwise in training than in evaluation, and has statistics that no gradient trains."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=8)
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2))

    def forward(self, observations):
        return self.net(observations)


def case(label, name, settings=None, space=VECTOR, actions=None, *, quick=False, soak=False, **policy_kwargs):
    actions = actions or (THREE if name == "DQN" else TWO)
    marks = [] if quick else [pytest.mark.soak if soak else pytest.mark.slow]
    return pytest.param(name, settings or {}, space, actions, policy_kwargs, id=f"{name}-{label}", marks=marks)


NOISE = {"action_noise": NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))}
SMALLER = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
OPTIONS = [
    case("networks of their own", "PPO", net_arch={"pi": [4], "vf": [6, 5]}, quick=True),
    case("value alone", "A2C", net_arch={"pi": [], "vf": [5]}, activation_fn=nn.ELU, ortho_init=False),
    case("deep", "PPO", net_arch=[6, 6, 6, 6], log_std_init=-1.0),
    case("sde", "PPO", {"use_sde": True, "sde_sample_freq": 4}, quick=True),
    case("sde", "A2C", {"use_sde": True}, use_expln=True, squash_output=True, full_std=False),
    case("sde", "SAC", {"use_sde": True, "sde_sample_freq": 4, "use_sde_at_warmup": True}, quick=True),
    case("adamw", "PPO", optimizer_class=torch.optim.AdamW, optimizer_kwargs={"weight_decay": 0.01}),
    case("sgd", "SAC", optimizer_class=torch.optim.SGD, optimizer_kwargs={"momentum": 0.9}),
    case("adam", "A2C", {"use_rms_prop": False}),
    case("schedule", "PPO", {"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left}),
    case("schedule", "TD3", {"learning_rate": lambda left: 1e-3 * left}, soak=True),
    case("modes", "PPO", features_extractor_class=WithModes, share_features_extractor=False, quick=True),
    case("modes", "SAC", features_extractor_class=WithModes, quick=True),
    case("modes", "DQN", {"target_update_interval": 5}, features_extractor_class=WithModes, soak=True),
    case("modes", "TD3", features_extractor_class=WithModes, share_features_extractor=True, soak=True),
    case("one critic", "TD3", n_critics=1),
    case("three critics", "SAC", n_critics=3, net_arch={"pi": [4], "qf": [6, 5]}),
    case("delayed, with noise", "TD3", {"policy_delay": 3, "target_noise_clip": 0.1, **NOISE}),
    case("noise", "DDPG", NOISE, soak=True),
    case("fixed entropy, rare targets", "SAC", {"ent_coef": 0.1, "target_update_interval": 3, "tau": 0.5}),
    case("hard copies", "DQN", {"target_update_interval": 5, "exploration_fraction": 0.5}, quick=True),
    case("several steps", "DQN", {"n_steps": 3}, quick=True),
    case("several steps", "SAC", {"n_steps": 3}, soak=True),
    case("episodes", "TD3", {"train_freq": (1, "episode"), "gradient_steps": -1}),
    case("little memory", "DQN", SMALLER),
    case("numbers observed", "PPO", space=spaces.Discrete(5)),
    case("numbers observed", "DQN", space=spaces.MultiDiscrete([3, 2]), quick=True),
    case("bits observed", "SAC", space=spaces.MultiBinary(4)),
    case("a table of bits observed", "DQN", space=spaces.MultiBinary((3, 2))),
    case("a table observed", "TD3", space=spaces.Box(-1, 1, (2, 3), np.float32)),
    case("a table of actions", "SAC", actions=TABLE, quick=True),
    case("a table of actions", "PPO", actions=TABLE, soak=True),
    case("several numbers", "A2C", actions=spaces.MultiDiscrete([2, 3]), quick=True),
    case("bits", "PPO", actions=spaces.MultiBinary(3)),
]


@pytest.mark.parametrize(("name", "settings", "space", "actions", "kwargs"), OPTIONS)
def test_every_option_trains_as_stock_replaces_and_comes_back_from_a_file(name, settings, space, actions, kwargs):
    def trained(prefix, **method):
        return make(name, prefix=prefix, settings=settings, env=Small(space, actions), **kwargs, **method).learn(STEPS)

    idle = trained("CBP", method_kwargs={**BUSY, "replacement_rate": 0.0})
    assert torch.equal(weights(trained(None)), weights(idle))
    model = trained("CBP", method_kwargs=BUSY)
    assert min(replaced_units(model.policy).values()) > 0
    file = io.BytesIO()
    model.save(file)
    loaded = type(model).load(file, device="cpu")
    assert same(known(loaded.policy), known(model.policy))
    observations = np.stack([space.sample() for _ in range(5)])
    chosen, of_loaded = (each.predict(observations, deterministic=True)[0] for each in (model, loaded))
    assert np.array_equal(chosen, of_loaded)
    assert all(actions.contains(each) for each in chosen)
    one, _ = loaded.predict(observations[0])
    assert actions.contains(one if one.shape else one.item())


@pytest.mark.parametrize(
    "name", ["PPO", pytest.param("SAC", marks=pytest.mark.soak), pytest.param("DQN", marks=pytest.mark.soak)]
)
def test_normalised_observations_of_several_environments_are_saved_beside_the_model(name, tmp_path):
    def normalised():
        return DummyVecEnv([lambda: Small(VECTOR, THREE if name == "DQN" else TWO)] * 3)

    env = VecNormalize(normalised())
    model = make(name, env=env, method_kwargs=BUSY).learn(3 * STEPS)
    model.save(tmp_path / "model")
    env.save(tmp_path / "normaliser")
    again = VecNormalize.load(tmp_path / "normaliser", normalised())
    loaded = type(model).load(tmp_path / "model", env=again, device="cpu")
    assert loaded.get_vec_normalize_env().obs_rms.count == env.obs_rms.count
    loaded.learn(3 * STEPS, reset_num_timesteps=False)
    assert all(
        total > before for total, before in zip(*(replaced_units(m.policy).values() for m in (loaded, model)), strict=True)
    )


@pytest.mark.parametrize("name", STOCK)
def test_files_of_every_kind_bring_the_same_model(name, tmp_path):
    model = make(name, method_kwargs=BUSY).learn(STEPS)
    stream = io.BytesIO()
    for target in (str(tmp_path / "text"), tmp_path / "path", stream):
        model.save(target, exclude=["gamma"], include=["_seed_of_the_test"])
    stream.seek(0)
    for source in (str(tmp_path / "text"), tmp_path / "path.zip", stream):
        loaded = type(model).load(source, custom_objects={"learning_rate": 1e-5}, device="cpu")
        assert torch.equal(weights(loaded), weights(model))
        assert same(known(loaded.policy), known(model.policy))
        assert loaded.learning_rate == 1e-5
    with pytest.raises(FileNotFoundError):
        type(model).load(tmp_path / "nowhere", device="cpu")


def test_parameters_that_do_not_fit_are_refused_as_by_stock():
    model = make("SAC", method_kwargs=BUSY)
    before, parameters = known(model.policy), model.get_parameters()
    assert parameters.keys() == make("SAC", prefix=None).get_parameters().keys()
    with pytest.raises(ValueError, match="invalid object name"):
        model.set_parameters({**parameters, "nothing": {}})
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters({"policy": parameters["policy"]})
    model.set_parameters({"policy": parameters["policy"]}, exact_match=False)
    assert same(known(model.policy), before)
    with pytest.raises(RuntimeError, match="size mismatch"):
        model.set_parameters(make("SAC", net_arch=[7, 5]).get_parameters())


@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "DQN"])
def test_an_environment_may_be_exchanged_and_one_that_does_not_fit_is_refused(name):
    model = make(name, method_kwargs=BUSY).learn(STEPS)
    before = known(model.policy)
    model.set_env(Small(VECTOR, model.action_space))
    assert same(known(model.policy), before)
    model.learn(STEPS, reset_num_timesteps=False)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(Small(spaces.Box(-1, 1, (4,), np.float32), model.action_space))


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_equal_seeds_give_equal_runs_and_different_ones_do_not(name):
    one, again, other = (weights(make(name, settings={"seed": seed}, method_kwargs=BUSY).learn(STEPS)) for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_evaluation_between_updates_changes_nothing_that_is_learned(name):
    class Evaluate(BaseCallback):
        def _on_step(self):
            self.model.predict(np.full((9, 3), 0.5, np.float32), deterministic=True)
            return True

    idle, evaluated = (make(name, method_kwargs=BUSY).learn(STEPS, callback) for callback in (None, Evaluate()))
    assert same(known(evaluated.policy), known(idle.policy))
    assert torch.equal(weights(evaluated), weights(idle))


def test_critics_of_a_table_of_actions_are_measured():
    model = make(
        "SAC", settings={"buffer_size": 2000}, env=DummyVecEnv([lambda: Small(VECTOR, TABLE)] * 25), method_kwargs=BUSY
    )
    recorded = PlasticityCallback(every=10**6)
    model.learn(1100, recorded)
    assert recorded.probe["actions"].shape == (1000, 2, 2)
    assert np.isfinite(recorded.latest["plasticity/critic/qf1_hidden2/stable_rank"])
