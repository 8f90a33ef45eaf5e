"""Plastic policies and the fast algorithms on a GPU."""

from __future__ import annotations

import io

import pytest
import torch
from plastic_cases import BUSY, CONTRIB, NEEDS_CONTRIB, SETTINGS, STEPS, algorithm, make, weights
from stable_baselines3 import PPO, SAC

import agents
from agents.callbacks import PlasticityCallback
from agents.sb3.plastic import replaced_units

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:no unit:UserWarning"),
    pytest.mark.filterwarnings("ignore:training takes Stable-Baselines3's own:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are trying to run:UserWarning"),  # Stable-Baselines3's own
]
GPU = {"device": "cuda"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(pytest.param(name, "Mlp", marks=[NEEDS_CONTRIB] * (name in CONTRIB)) for name in SETTINGS),
        *((name, kind) for name in ("PPO", "SAC", "DQN") for kind in ("Cnn", "MultiInput")),
    ],
)
def test_every_algorithm_trains_replaces_is_measured_and_comes_back_on_either_device(name, kind):
    model = make(name, kind, settings=GPU, method_kwargs=BUSY)
    recorder = None if name == "RecurrentPPO" else PlasticityCallback()
    model.learn(STEPS, recorder)
    assert next(model.policy.parameters()).device.type == "cuda"
    assert min(replaced_units(model.policy).values()) > 0
    file = io.BytesIO()
    model.save(file)
    for device in ("cpu", "cuda"):
        loaded = algorithm(name).load(file, env=model.get_env(), device=device)
        assert replaced_units(loaded.policy) == replaced_units(model.policy)
        assert torch.equal(weights(loaded).cpu(), weights(model).cpu())
        loaded.learn(STEPS)
        assert sum(replaced_units(loaded.policy).values()) > sum(replaced_units(model.policy).values())


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_without_replacement_the_policy_trains_as_its_stock_one(name):
    idle = {"method_kwargs": {**BUSY, "replacement_rate": 0.0}}
    found = [make(name, prefix=prefix, settings=GPU, **kwargs).learn(STEPS) for prefix, kwargs in ((None, {}), ("CBP", idle))]
    assert torch.allclose(*map(weights, found), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "stock", "settings"), [(agents.PPO, PPO, {"n_steps": 64}), (agents.SAC, SAC, {"learning_starts": 32})]
)
def test_the_fast_classes_take_the_stock_loop(ours, stock, settings):
    models = [kind("MlpPolicy", "Pendulum-v1", seed=0, device="cuda", **settings).learn(128) for kind in (ours, stock)]
    assert torch.allclose(*map(weights, models), rtol=1e-4, atol=1e-6)
