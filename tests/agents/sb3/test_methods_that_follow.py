"""What methods keep when their policy is frozen, trained by another optimizer, or loaded into another one."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from plastic_cases import NEEDS_CONTRIB, same
from stable_baselines3 import PPO, SAC
from torch import nn

import agents  # noqa: F401  makes the policies known
import cbp

WEIGHTS = ["l2-init", "hare-tortoise", "nap", "shrink-perturb", "spectral", "swr", "trac", "upgd"]
ANY = "short|does nothing|will be replaced|period is|fire acts|it follows the loss"  # of runs as short as these
pytestmark = pytest.mark.filterwarnings(f"ignore:.*({ANY}):UserWarning")


def ppo(method, policy_kwargs=None, seed=0, **options):
    kwargs = {"net_arch": [8, 8], **(policy_kwargs or {})}
    if method is not None:
        kwargs |= {"method": method, "method_kwargs": options}
    policy = "MlpPolicy" if method is None else "PlasticMlpPolicy"
    return PPO(policy, "Pendulum-v1", n_steps=32, batch_size=16, n_epochs=1, seed=seed, device="cpu", policy_kwargs=kwargs)


def sac(method, **options):
    kwargs = {"net_arch": [8, 8], "method": method, "method_kwargs": options}
    return SAC("PlasticMlpPolicy", "Pendulum-v1", learning_starts=5, batch_size=8, seed=0, device="cpu", policy_kwargs=kwargs)


def frozen(model):
    """The last layer of one network is frozen, and the policy takes note."""
    module = model.policy.value_net if isinstance(model, PPO) else model.policy.critic.qf0[-1]
    module.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was
        model.policy.set_training_mode(True)


def states(model):
    return [method.state_dict() for method in dict.fromkeys(model.policy.methods.values())]


@pytest.mark.parametrize("make", [ppo, sac])
@pytest.mark.parametrize("method", WEIGHTS)
def test_what_is_kept_of_all_other_weights_goes_on_where_a_layer_is_frozen(make, method):
    model = make(method)
    model.learn(64)
    before = states(model)
    made = list(model.policy.methods.values())
    frozen(model)
    assert [*model.policy.methods.values()] != made
    assert same(states(model), before)


@pytest.mark.parametrize("method", WEIGHTS)
def test_a_state_is_still_there_after_it_was_loaded_and_a_layer_frozen_again(method, tmp_path):
    model = ppo(method)
    frozen(model)
    model.learn(64)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", device="cpu")
    frozen(loaded)
    assert same(states(loaded), states(model))


def test_the_rest_goes_on_where_a_head_is_exchanged():
    model = ppo("l2-init", strength=1e-3)
    first = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
    model.learn(64)
    model.policy.value_net = nn.Linear(8, 1)
    model.policy.optimizer.add_param_group({"params": list(model.policy.value_net.parameters())})
    head = model.policy.value_net.weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(32)
    kept = model.policy.method._initial.now()
    for name, parameter in model.policy.named_parameters():
        if not name.startswith("value_net"):
            assert torch.equal(kept[parameter], first[name]), name
    assert torch.equal(kept[model.policy.value_net.weight], head)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("cbp", "replacement_rate", 0.05),
        ("redo", "period", 7),
        ("l2-init", "strength", 0.5),
        ("hare-tortoise", "period", 9),
        ("c-chain", "target", 0.2),
    ],
)
def test_options_that_were_set_stay_where_a_layer_is_frozen(method, option, value):
    model = ppo(method)
    model.learn(32)
    setattr(model.policy.method, option, value)
    frozen(model)
    assert getattr(model.policy.method, option) == value


@pytest.mark.parametrize("method", ["trac", "upgd"])
def test_an_optimizer_may_hold_the_parameters_in_another_order(method):
    model, twin = ppo(method).learn(64), ppo(method).learn(64)
    parameters = list(model.policy.parameters())
    groups = [{"params": [p for p in parameters if p.ndim > 1]}, {"params": [p for p in parameters if p.ndim < 2]}]
    model.policy.optimizer = torch.optim.SGD(groups, lr=3e-4)
    twin.policy.optimizer = torch.optim.SGD(twin.policy.parameters(), lr=3e-4)
    for each in (model, twin):
        each.policy.set_training_mode(True)
    assert same(states(model), states(twin))
    generator = torch.Generator().manual_seed(1)
    for parameter, of_twin in zip(parameters, twin.policy.parameters(), strict=True):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        of_twin.grad = parameter.grad.clone()
    for each in (model, twin):
        each.policy.optimizer.step()
    for parameter, of_twin in zip(parameters, twin.policy.parameters(), strict=True):
        torch.testing.assert_close(parameter, of_twin)


@pytest.mark.parametrize("method", [*WEIGHTS, "parseval", "fire", "cbp"])
def test_a_model_that_was_saved_with_a_frozen_layer_is_loaded(method, tmp_path):
    def first_layer(model):
        return model.policy.mlp_extractor.policy_net[0]

    model = ppo(method)
    first_layer(model).requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(32)
        model.save(tmp_path / "model")
        loaded = PPO.load(tmp_path / "model", env=model.get_env())
        first_layer(loaded).requires_grad_(False)
        loaded.policy.set_training_mode(True)
        assert same(states(loaded), states(model))
        loaded.learn(32)
    assert same(first_layer(loaded).state_dict(), first_layer(model).state_dict())
    assert not same(loaded.policy.state_dict(), model.policy.state_dict())


def load_all(model, parameters):
    model.set_parameters(parameters)


def load_the_weights(model, parameters):
    model.policy.load_state_dict(parameters["policy"])


def load_the_weights_of_a_copy(model, parameters):
    model.policy = copy.deepcopy(model.policy)
    model.policy.load_state_dict(parameters["policy"])


@pytest.mark.parametrize("load", [load_all, load_the_weights, load_the_weights_of_a_copy])
@pytest.mark.parametrize("method", ["trac", "hare-tortoise", "l2-init", "nap"])
def test_what_a_stock_model_learned_is_not_taken_back(method, load):
    stock = ppo(None, seed=9)
    stock.learn(64)
    options = {"l2-init": {"strength": 100.0}, "hare-tortoise": {"period": 2}, "trac": {"first_scale": 1e-8}}.get(method, {})
    model = ppo(method, **options)
    model.learn(64)
    load(model, stock.get_parameters())
    loaded = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
    model.learn(32)
    # Two updates with a step size of 3e-4 go no farther.
    assert max((parameter - loaded[name]).abs().max() for name, parameter in model.policy.named_parameters()) < 0.01


def test_a_state_that_is_loaded_before_its_weights_stays():
    model, other = ppo("l2-init", strength=1e-3), ppo("l2-init", seed=9, strength=1e-3)
    model.learn(64)
    before = copy.deepcopy(states(model))
    parameters = model.get_parameters()
    other.policy.optimizer.load_state_dict(parameters["policy.optimizer"])
    other.policy.load_state_dict(parameters["policy"])
    assert same(states(other), before)
    other.learn(32)  # from then on other weights are others
    other.policy.load_state_dict(parameters["policy"])
    kept = other.policy.method._initial.now()
    assert all(torch.equal(kept[parameter], parameter) for parameter in other.policy.parameters())


def test_weights_of_one_network_alone_are_not_taken_back():
    model = ppo("l2-init", strength=1e-3)
    model.learn(64)
    head = model.policy.value_net
    head.load_state_dict({"weight": torch.ones_like(head.weight), "bias": torch.zeros_like(head.bias)})
    kept = model.policy.method._initial.now()
    assert torch.equal(kept[head.weight], torch.ones_like(head.weight))


@pytest.mark.parametrize(("method", "kept"), [("trac", "first"), ("l2-init", "initial")])
def test_what_an_actor_learned_elsewhere_is_not_taken_back_and_the_critic_goes_on(method, kept):
    model, other = sac(method), sac(method)
    for each in (model, other):
        each.learn(30)
    critics = states(model)[1]
    with torch.no_grad():
        for parameter in other.actor.parameters():
            parameter.mul_(2)
    model.actor.load_state_dict(other.actor.state_dict())
    first = model.policy.methods["actor"].state_dict()[kept]
    assert all(any(torch.equal(weights, own) for own in first) for weights in model.actor.parameters())
    assert same(states(model)[1], critics)


@NEEDS_CONTRIB
@pytest.mark.parametrize("method", ["c-chain", "l2-init", "parseval", "regrama", "spectral", "swr", "trac", "upgd"])
def test_a_method_of_a_policy_whose_gradients_no_optimizer_has_does_nothing_and_says_so(method):
    from sb3_contrib import TRPO

    def train(**kwargs):
        kwargs = {"net_arch": [8, 8], **kwargs}
        model = TRPO("PlasticMlpPolicy", "Pendulum-v1", n_steps=32, batch_size=16, seed=0, device="cpu", policy_kwargs=kwargs)
        model.learn(64)
        return model

    with pytest.warns(UserWarning, match="gives its policy none of: it does nothing"):
        model = train(method=method, method_kwargs={"policy": {}, "value": None})
    plain = train(method=None)
    for one, other in zip(model.policy.parameters(), plain.policy.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["l2-init", "trac", "swr"])
def test_gradients_that_are_there_for_nobody_are_an_error_still(method):
    model = ppo(method)
    model.policy.set_training_mode(True)
    with pytest.raises(RuntimeError, match="finds no gradients"):
        model.policy.optimizer.step()


@pytest.mark.parametrize("method", [*WEIGHTS, "fire", "cbp", "redo"])
def test_a_network_that_is_frozen_as_a_whole_is_left_alone(method):
    model = sac(method)
    model.learn(10)
    model.actor.requires_grad_(False)
    before = {name: copy.deepcopy(getattr(model, name).state_dict()) for name in ("actor", "critic")}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.learn(10)
    assert any("were exchanged or frozen" in str(warning.message) for warning in told)
    assert list(model.policy.methods) == ["critic"]
    assert same(model.actor.state_dict(), before["actor"])
    assert not same(model.critic.state_dict(), before["critic"])


def test_ages_go_on_where_all_layers_rested():
    model = ppo("cbp")
    model.learn(64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for trained in (False, True):
            model.policy.mlp_extractor.requires_grad_(trained)
            model.policy.set_training_mode(True)
    assert [layer.clock for layer in model.policy.method.layers] == [4] * 4


@pytest.mark.parametrize(
    ("method", "option", "value", "plain"),
    [
        ("cbp", "replacement_rate", np.linspace(0, 1, 3)[1], 0.5),
        ("cbp", "replacement_rate", np.float32(0.5), 0.5),
        ("redo", "period", np.int64(7), 7),
        ("cbp", "init", np.str_("lecun"), "lecun"),
    ],
)
def test_options_may_be_numbers_of_numpy(method, option, value, plain, tmp_path):
    model = ppo(method)
    setattr(model.policy.method, option, value)
    model.save(tmp_path / "model")
    found = getattr(PPO.load(tmp_path / "model").policy.method, option)
    assert found == plain
    assert type(found) is type(plain)


def loaded_with(model, tmp_path, **policy_kwargs):
    model.save(tmp_path / "model")
    kwargs = {**model.policy_kwargs, **policy_kwargs}
    return PPO.load(tmp_path / "model", env=model.get_env(), custom_objects={"policy_kwargs": kwargs})


def test_options_that_a_model_is_loaded_with_hold(tmp_path):
    model = ppo("cbp")
    model.learn(32)
    lecun = loaded_with(model, tmp_path, method_kwargs={"init": "lecun"}).policy.method
    assert lecun.layers[0].fresh_bounds == ppo("cbp", init="lecun").policy.method.layers[0].fresh_bounds
    assert lecun.layers[0].clock == 2

    model = ppo("c-chain")
    model.learn(32)
    chain = loaded_with(model, tmp_path, method_kwargs={"first_strength": 5.0})
    chain.learn(32)
    assert chain.policy.method.strength == 5.0

    model = ppo("swr")
    model.learn(32)
    averaging = loaded_with(model, tmp_path, method_kwargs={"decay_rate": 0.5})
    averaging.learn(32)
    assert len(averaging.policy.method.state_dict()["averages"]) > 0

    model = ppo("trac")
    model.learn(32)
    two = loaded_with(model, tmp_path, method_kwargs={"decay_rates": [0.9, 0.99]})
    assert same(two.policy.method.state_dict()["first"], model.policy.method.state_dict()["first"])
    two.learn(32)
    assert len(two.policy.method.state_dict()["sums"]) == 2


@pytest.mark.parametrize("by_network", [False, True])
@pytest.mark.filterwarnings("error")
def test_units_go_on_where_a_method_is_for_one_network_and_was_for_both_or_the_other_way_round(tmp_path, by_network):
    kinds = [{}, {"policy": {}, "value": {}}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a short run
        model = ppo("cbp", **kinds[by_network])
        model.learn(32)
    loaded = loaded_with(model, tmp_path, method_kwargs=kinds[not by_network]).policy
    clocks = {layer.name: layer.clock for method in set(loaded.methods.values()) for layer in method.layers}
    assert clocks == {f"{network}/hidden{k}": 2 for network in ("policy", "value") for k in (1, 2)}


def test_weights_of_one_network_are_not_taken_for_those_of_both(tmp_path):
    model = ppo("upgd", policy={}, value={})
    model.learn(32)
    with pytest.raises(RuntimeError, match=r"of a method \(policy, value\) cannot be loaded into that of policy"):
        loaded_with(model, tmp_path, method_kwargs={})


def test_an_average_may_be_asked_for_later():
    model = ppo("swr")
    model.learn(32)
    model.policy.method.decay_rate = 0.9
    model.learn(32)
    assert any(average.any() for average in model.policy.method.state_dict()["averages"])


def test_a_first_strength_may_be_set_as_long_as_it_holds():
    model = ppo("c-chain")
    model.policy.method.first_strength = 5.0
    model.learn(32)
    assert model.policy.method.strength == 5.0


@pytest.mark.parametrize("method", ["nap", "pfo", "c-chain", "upgd"])
def test_the_first_layers_alone_are_refused_by_methods_that_know_no_layers(method):
    with pytest.raises(ValueError, match=f"method_layers='first' is for methods of hidden layers; {method} treats"):
        ppo(method, policy_kwargs={"method_layers": "first"})


@pytest.mark.parametrize("seed", [3, np.int64(3), 3.0])
def test_a_second_method_has_another_seed(seed):
    model = sac("upgd", seed=seed)
    actor, critic = (model.policy.methods[name]._generator for name in ("actor", "critic"))
    assert (actor.initial_seed(), critic.initial_seed()) == (3, 4)


def test_pfo_with_one_update_a_rollout_says_that_it_does_nothing():
    kwargs = {"method": "pfo", "net_arch": [8]}
    model = PPO("PlasticMlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, n_epochs=1, device="cpu", policy_kwargs=kwargs)
    with pytest.warns(UserWarning, match="pfo does nothing: it acts from the second update of a rollout on"):
        model.learn(16)


def test_activations_that_double_are_refused_where_nothing_makes_room_for_them():
    with pytest.raises(NotImplementedError, match=r"activation_fn=cbp\.CReLU.* for SACPlasticMlpPolicy is not supported"):
        SAC("PlasticMlpPolicy", "Pendulum-v1", policy_kwargs={"activation_fn": cbp.CReLU})


def test_a_network_that_is_trained_again_goes_on_where_it_was_frozen():
    model = sac("l2-init")
    model.learn(10)
    first = model.policy.methods["actor"].state_dict()["initial"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for trained in (False, True):
            model.actor.requires_grad_(trained)
            model.learn(10)
            assert ("actor" in model.policy.methods) == trained
    assert same(model.policy.methods["actor"].state_dict()["initial"], first)


def test_what_rests_in_a_policy_rests_in_its_copies():
    model = sac("shrink-perturb", shrink=0.5)
    model.actor.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(10)
    for policy in (model.policy, copy.deepcopy(model.policy), pickle.loads(pickle.dumps(model.policy))):  # noqa: S301
        assert list(policy.methods) == ["critic"]
        assert len(policy.actor.optimizer._optimizer_step_post_hooks) == 0
        assert len(policy.critic.optimizer._optimizer_step_post_hooks) == 1


@pytest.mark.parametrize("method", ["c-chain", "pfo"])
def test_a_new_head_of_the_same_shape_is_not_compared_with_the_old_one(method):
    model = ppo(method).learn(64)
    model.policy.action_net = nn.Linear(8, 1)
    model.policy.optimizer = torch.optim.Adam(model.policy.parameters(), lr=3e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.policy.set_training_mode(True)
    state = model.policy.method.state_dict()
    assert state.get("reference") is None
    assert state.get("then") is None


def test_options_that_are_lists_are_kept_too(tmp_path):
    model = ppo("trac")
    model.policy.method.decay_rates = [0.5, 0.6]
    model.learn(32)
    sums = model.policy.method.state_dict()["sums"]
    assert len(sums) == 2
    model.save(tmp_path / "model")
    for method in (PPO.load(tmp_path / "model", device="cpu").policy.method, model.policy.method):
        assert method.decay_rates == [0.5, 0.6]
        assert method.state_dict()["sums"] == sums
    frozen(model)
    assert model.policy.method.decay_rates == [0.5, 0.6]


@pytest.mark.parametrize("method", ["l2-init", "trac", "hare-tortoise", "nap"])
def test_a_state_where_the_first_releases_had_it_is_kept(method):
    model = ppo(method).learn(64)
    parameters = model.get_parameters()
    parameters["policy"] = {**parameters["policy"], "_extra_state": model.policy.method.state_dict()}
    parameters["policy.optimizer"] = {k: v for k, v in parameters["policy.optimizer"].items() if k != "methods"}
    other = ppo(method, seed=5)
    other.set_parameters(parameters)
    assert same(states(other), states(model))


def test_a_method_of_ones_own_goes_on_with_its_state_by_default():
    class Counting(cbp.Method, name="counting"):
        def __init__(self, model, optimizer):
            self.steps = 0

        def step(self):
            self.steps += 1
            return []

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

    try:
        model = ppo("counting").learn(64)
        model.policy.optimizer = torch.optim.SGD(model.policy.parameters(), lr=0.1)
        model.policy.set_training_mode(True)
        assert model.policy.method.steps == 4
    finally:
        del cbp.METHODS["counting"]
