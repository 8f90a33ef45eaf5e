"""Every algorithm with every kind of policy: it trains, is stock without replacement, is saved and goes on."""

from __future__ import annotations

import copy
import importlib.util
import io
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from plastic_cases import (
    ASKED,
    BUSY,
    CASES,
    CONTRIB,
    NEEDS_CONTRIB,
    SETTINGS,
    SHOWN,
    STEPS,
    STOCK,
    algorithm,
    cases,
    env_of,
    known,
    make,
    same,
    table,
    weights,
)
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.callbacks import PlasticityCallback
from agents.sb3 import plasticity
from agents.sb3.networks import hidden_layers, owners
from agents.sb3.plastic import replaced_units
from agents.sb3.policies import KINDS

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.filterwarnings("ignore:no unit:UserWarning")


@pytest.mark.parametrize(("name", "kind"), cases("trains"))
def test_without_replacement_each_policy_trains_as_its_stock_one_to_the_bit(name, kind):
    train_both(name, kind, STEPS)


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("PPO", "SAC", "DQN")),
        *(pytest.param(name, marks=pytest.mark.soak) for name in ("A2C", "TD3", "DDPG")),
        *(pytest.param(name, marks=[NEEDS_CONTRIB, pytest.mark.soak]) for name in CONTRIB),
    ],
)
def test_hundreds_of_updates_are_those_of_the_stock_policy_too(name):
    steps, settings = MANY_UPDATES.get(name, (220, {}))
    policy = train_both(name, "Mlp", steps, settings).policy
    taken = [state["step"] for owner in owners(policy).values() for state in owner.optimizer.state.values()]
    assert max(taken) >= 200


# Steps and settings for 200 updates; an off-policy algorithm makes one a step.
MANY_UPDATES = {
    **dict.fromkeys(("PPO", "MaskablePPO", "RecurrentPPO"), (10 * 16, {"n_epochs": 10})),
    "A2C": (200 * 2, {"n_steps": 2}),
    "TRPO": (200 * 2, {"n_steps": 2, "batch_size": 2, "n_critic_updates": 1}),
}


def train_both(name, kind, steps, settings=None):
    results = []
    for prefix, kwargs in ((None, {}), ("CBP", {"method_kwargs": {**BUSY, "replacement_rate": 0.0}})):
        model = make(name, kind, prefix, settings, **kwargs).learn(steps)
        results.append((weights(model), torch.get_rng_state(), np.random.get_state()[1].tolist()))  # noqa: NPY002
    (stock, torch_state, numpy_state), (plastic, other_torch_state, other_numpy_state) = results
    assert torch.equal(stock, plastic)
    assert torch.equal(torch_state, other_torch_state)
    assert numpy_state == other_numpy_state
    return model


@pytest.mark.parametrize(("name", "kind"), cases("saves"))
def test_units_are_replaced_in_every_network_and_a_saved_model_goes_on_with_them(name, kind):
    model = make(name, kind, method_kwargs=BUSY).learn(STEPS)
    policy = model.policy
    replaced = replaced_units(policy)
    assert replaced.keys() == policy.methods.keys()
    assert min(replaced.values()) > 0

    file = io.BytesIO()
    model.save(file)
    loaded = type(model).load(file, env=env_of(name, kind), device="cpu")
    assert same(known(loaded.policy), known(policy))
    alone = io.BytesIO()
    policy.save(alone)
    alone.seek(0)
    by_itself = type(policy).load(alone, device="cpu")
    assert same(known(by_itself), known(policy))
    assert torch.equal(weights(loaded), weights(model))
    other = make(name, kind, settings={"seed": 7}, method_kwargs=BUSY)
    other.set_parameters(copy.deepcopy(model.get_parameters()))
    assert same(known(other.policy), known(policy))

    loaded.learn(more_steps(loaded), reset_num_timesteps=False)
    assert all(total > replaced[network] for network, total in replaced_units(loaded.policy).items())


@pytest.mark.parametrize(("name", "kind"), cases("saves"))
def test_stock_and_plastic_models_exchange_parameters_in_both_directions(name, kind):
    plastic, stock = make(name, kind, method_kwargs=BUSY).learn(STEPS), make(name, kind, prefix=None, settings={"seed": 4})
    of_stock, method = weights(stock), known(plastic.policy)
    assert plastic.policy.state_dict().keys() == stock.policy.state_dict().keys()
    assert all(torch.is_tensor(value) for value in plastic.policy.state_dict().values())
    of_plastic = copy.deepcopy(plastic.get_parameters())
    plastic.set_parameters(copy.deepcopy(stock.get_parameters()), exact_match=True)
    assert torch.equal(weights(plastic), of_stock)
    assert same(known(plastic.policy), method)  # a stock model says nothing of it
    stock.set_parameters(of_plastic, exact_match=True)
    assert not torch.equal(weights(stock), of_stock)
    plastic.set_parameters(stock.get_parameters(), exact_match=True)
    assert torch.equal(weights(plastic), weights(stock))


def go_on(model, name, kind):
    """Learns on in a new environment with a new seed: what SB3 does not save is the same for all models."""
    model.set_env(env_of(name, kind))
    model.set_random_seed(7)
    return weights(model.learn(more_steps(model), reset_num_timesteps=False)), known(model.policy)


def more_steps(model):
    """As many as bring a unit of every layer, once learning has started."""
    return 20 if hasattr(model, "replay_buffer") else STEPS


@pytest.mark.parametrize(("name", "kind"), cases("resumes"))
def test_a_loaded_model_trains_on_exactly_as_the_one_that_was_saved(name, kind, tmp_path):
    model = make(name, kind, method_kwargs=BUSY).learn(STEPS)
    loaded = saved_and_loaded(model, tmp_path)
    (here, known_here), (there, known_there) = go_on(model, name, kind), go_on(loaded, name, kind)
    assert torch.equal(here, there)
    assert same(known_here, known_there)


def saved_and_loaded(model, folder):
    """By a file, replay buffers by one of their own."""
    model.save(folder / "model")
    loaded = type(model).load(folder / "model", device="cpu")
    if hasattr(model, "replay_buffer"):
        model.save_replay_buffer(folder / "buffer")
        loaded.load_replay_buffer(folder / "buffer")
    return loaded


FRESH = """
    import importlib, sys, torch
    from pathlib import Path
    found = {}
    loaded = {}
    for path in sorted(Path(sys.argv[1]).glob("*.zip")):
        package, name = path.stem.split("-")
        loaded[name] = getattr(importlib.import_module(package), name).load(path, device="cpu")
        if path.with_suffix(".pkl").exists():
            loaded[name].load_replay_buffer(path.with_suffix(".pkl"))
    from test_algorithms import go_on
    torch.save({name: go_on(model, name, "Mlp") for name, model in loaded.items()}, sys.argv[2])
"""


@pytest.mark.slow
def test_a_fresh_process_that_imports_no_package_of_ours_loads_and_trains_on(tmp_path):
    names = [name for name in SETTINGS if name in STOCK or importlib.util.find_spec("sb3_contrib")]
    models = {name: make(name, method_kwargs=BUSY).learn(STEPS) for name in names}
    for name, model in models.items():
        path = tmp_path / f"{type(model).__module__.split('.')[0]}-{name}"
        model.save(path)
        if hasattr(model, "replay_buffer"):
            model.save_replay_buffer(path.with_suffix(".pkl"))
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", textwrap.dedent(FRESH), str(tmp_path), str(tmp_path / "found.pt")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert found.keys() == models.keys()
    for name, (there, known_there) in found.items():
        here, known_here = go_on(models[name], name, "Mlp")
        assert torch.equal(here, there), name
        assert same(known_here, known_there), name


@pytest.mark.parametrize(("name", "kind"), cases("measured"))
def test_what_is_recorded_has_every_layer_and_unit(name, kind, monkeypatch):
    monkeypatch.setattr(plasticity, "SAMPLES", 250)
    # 25 environments: few updates for the steps that a record takes.
    settings = {"buffer_size": 2000} if "buffer_size" in SETTINGS[name] else {"n_steps": 1}
    settings |= {"batch_size": 25} if name in ("PPO", "MaskablePPO", "TRPO") else {}
    env = DummyVecEnv([lambda: env_of(name, kind)] * 25)
    busier = {**BUSY, "replacement_rate": 0.2, "maturity_threshold": 1}
    model = make(name, kind, env=env, settings=settings, method_kwargs=busier)
    layers = hidden_layers(model.policy)
    recorded = PlasticityCallback(every=100, ranks_every=100)
    model.learn(400, recorded)
    assert recorded.recorded_at == 350
    names = {key.removeprefix("plasticity/").rsplit("/", 1)[0] for key in recorded.latest if key.endswith("/weight_magnitude")}
    assert names == {layer.name for layer in layers}
    for layer in layers:
        for measure in ("tau_dormant_fraction", "probe_effective_rank", "distance_from_init"):
            assert np.isfinite(recorded.latest[f"plasticity/{layer.name}/{measure}"])
    treated = [layer.name for method in model.policy.methods.values() for layer in method.layers]
    assert {f"cbp/{name}/mean_utility" for name in treated} <= recorded.latest.keys()
    for network, total in replaced_units(model.policy).items():
        assert 0 < recorded.latest[f"cbp/{network}/replaced"] <= total


@pytest.mark.parametrize(
    ("name", "kind"), [pytest.param(*case, marks=NEEDS_CONTRIB) for case, shown in CASES.items() if "measured" not in shown]
)
def test_what_cannot_be_recorded_is_refused_in_words(name, kind):
    with pytest.raises(
        NotImplementedError, match=r"PlasticityCallback cannot measure a Recurrent.*: what its units do depends"
    ):
        make(name, kind).learn(16, PlasticityCallback())


@NEEDS_CONTRIB
def test_what_is_searched_without_gradients_is_not_recorded():
    with pytest.raises(NotImplementedError, match="PlasticityCallback cannot measure a ARSPolicy: it has no value network"):
        algorithm("ARS")("MlpPolicy", "Pendulum-v1").learn(16, PlasticityCallback())


def test_the_table_in_the_readme_is_what_these_tests_show():
    assert {*SHOWN} == ASKED
    assert table() in (ROOT / "README.md").read_text(encoding="utf-8")


@NEEDS_CONTRIB
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in (*SETTINGS, "ARS") for kind in KINDS if (name, kind) not in CASES]
)
@pytest.mark.parametrize("prefix", ["Plastic", "CBP"])
def test_a_policy_that_the_table_calls_refused_says_why(name, kind, prefix):
    with pytest.raises(NotImplementedError, match=f"{prefix}{kind}Policy for {name} is not supported: "):
        algorithm(name)(f"{prefix}{kind}Policy", env_of(name, kind))


def test_the_page_names_the_networks_of_every_algorithm():
    page = (ROOT / "docs" / "sb3.md").read_text(encoding="utf-8")
    lines = re.findall(r"^- ((?:`\w+`(?:, )?)+): ([\w, ]+)$", page, re.MULTILINE)
    said = {name: re.findall(r"\w+", networks) for networks, names in lines for name in names.split(", ")}
    assert said.keys() == SETTINGS.keys()
    for name in STOCK:
        assert list(make(name).policy.methods) == said[name]
