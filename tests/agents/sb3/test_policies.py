from __future__ import annotations

import copy
import math
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from plastic_cases import same
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn

import agents
import cbp
from agents.sb3.networks import hidden_layers
from agents.sb3.policies import replaced_units

PPO_SETTINGS = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "seed": 3, "device": "cpu"}
A2C_SETTINGS = {"n_steps": 8, "seed": 3, "device": "cpu"}
# Four updates a rollout of PPO_SETTINGS: 2 epochs of 64 / 32 minibatches.
UPDATES_PER_ROLLOUT = 4
BUSY = {"replacement_rate": 0.05, "maturity_threshold": 4, "init": "lecun"}


def make(algorithm, policy, env="Pendulum-v1", **policy_kwargs):
    settings = A2C_SETTINGS if algorithm is A2C else PPO_SETTINGS
    return algorithm(policy, env, **settings, policy_kwargs={"net_arch": [8, 6], **policy_kwargs})


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


def known(method):
    """All that a method knows, as comparable values."""
    return [{k: v.tolist() if torch.is_tensor(v) else v for k, v in layer.items()} for layer in method.state_dict()["layers"]]


def learn_quietly(model, steps):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no unit will be replaced", UserWarning)
        warnings.filterwarnings("ignore", "fire acts where", UserWarning)
        return model.learn(steps, reset_num_timesteps=False)


# At work under stock algorithms


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"], ids=["box", "discrete"])
def test_with_replacement_rate_0_training_equals_that_of_mlp_policy_to_the_bit(algorithm, env):
    results = []
    for policy, kwargs in (("MlpPolicy", {}), ("CBPMlpPolicy", {"method_kwargs": {**BUSY, "replacement_rate": 0.0}})):
        model = make(algorithm, policy, env, **kwargs).learn(192)
        results.append((weights(model), torch.get_rng_state(), np.random.get_state()[1]))  # noqa: NPY002
    (plain, torch_state, numpy_state), (treated, treated_torch_state, treated_numpy_state) = results
    assert torch.equal(plain, treated)
    assert torch.equal(torch_state, treated_torch_state)
    assert (numpy_state == treated_numpy_state).all()


def test_units_of_both_networks_are_replaced_in_every_hidden_layer_and_change_the_training():
    plain = make(PPO, "MlpPolicy").learn(640)
    model = make(PPO, "CBPMlpPolicy", method_kwargs=BUSY).learn(640)
    # 10 rollouts of 4 updates; 5 % of 8 and of 6 units in each of the last 36: about 14 and 10.
    assert [layer.replaced for layer in model.policy.method.layers] == [pytest.approx(14, abs=2), pytest.approx(10, abs=2)] * 2
    assert replaced_units(model.policy) == {
        "policy": sum(layer.replaced for layer in model.policy.method.layers[:2]),
        "value": sum(layer.replaced for layer in model.policy.method.layers[2:]),
    }
    assert not torch.equal(weights(plain), weights(model))


@pytest.mark.parametrize(("algorithm", "updates"), [(PPO, 5 * UPDATES_PER_ROLLOUT), (A2C, 40)])
def test_the_method_acts_once_after_every_update(algorithm, updates):
    # 320 steps: 5 rollouts of 64 (PPO); 40 rollouts of 8 with an update each (A2C).
    model = learn_quietly(make(algorithm, "CBPMlpPolicy"), 320)
    assert {int(age) for layer in model.policy.method.layers for age in layer.age} == {updates}


def test_the_heads_are_the_outgoing_layers_of_the_last_hidden_layers():
    policy = make(PPO, "CBPMlpPolicy").policy
    layers = {layer.name: layer.hidden for layer in policy.method.layers}
    assert list(layers) == ["policy/hidden1", "policy/hidden2", "value/hidden1", "value/hidden2"]
    assert layers["policy/hidden2"].outgoing == (policy.action_net,)
    assert layers["value/hidden2"].outgoing == (policy.value_net,)


def test_utility_after_one_update_is_the_contribution_on_that_minibatch():
    # One update a rollout, on the whole of it. η = 0.5, so u = 0.5 · mean|h| · Σ|w_out|, h with the weights before the update
    # and w_out with those after it.
    kwargs = {"net_arch": [5], "method_kwargs": {"decay_rate": 0.5, "maturity_threshold": 100}}
    model = PPO(
        "CBPMlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu", policy_kwargs=kwargs
    )
    network = copy.deepcopy(model.policy.mlp_extractor.policy_net)
    learn_quietly(model, 16)
    h = network(torch.as_tensor(model.rollout_buffer.observations).reshape(16, 3))
    w_out = model.policy.action_net.weight
    expected = [
        0.5 * sum(abs(h[k, i].item()) for k in range(16)) / 16 * sum(abs(w.item()) for w in w_out[:, i]) for i in range(5)
    ]
    assert model.policy.method.layers[0].utility.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_methods_seed_follows_the_algorithms():
    states = [make(PPO, "CBPMlpPolicy").policy.method.layers[1].generator.get_state() for _ in range(2)]
    other = PPO("CBPMlpPolicy", "Pendulum-v1", seed=4).policy.method.layers[1].generator.get_state()
    given = make(PPO, "CBPMlpPolicy", method_kwargs={"seed": 4}).policy.method.layers[1].generator.get_state()
    assert torch.equal(*states)
    assert not torch.equal(states[0], other)
    assert torch.equal(other, given)


# Saved, loaded, copied


def test_a_policy_saved_alone_comes_back_with_its_method_and_every_argument(tmp_path):
    kwargs = {
        "method_kwargs": BUSY,
        "weight_init": "lecun",
        "padded_inputs": 9,
        "decay_log_std": False,
        "activation_fn": nn.ReLU,
        "share_features_extractor": False,
        "optimizer_class": cbp.Adam,
        "optimizer_kwargs": {"betas": (0.9, 0.99)},
    }
    model = make(PPO, "CBPMlpPolicy", **kwargs).learn(320)
    model.policy.save(tmp_path / "policy")
    loaded = agents.CBPMlpPolicy.load(tmp_path / "policy", device="cpu")
    assert known(loaded.method) == known(model.policy.method)
    assert any(layer.replaced for layer in loaded.method.layers)
    ours, theirs = model.policy._get_constructor_parameters(), loaded._get_constructor_parameters()
    for name in set(ours) - {"lr_schedule"}:
        assert ours[name] == theirs[name], name
    assert loaded.method.maturity_threshold == 4
    observation = np.zeros((1, 3), dtype=np.float32)
    assert (loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]).all()


def test_set_parameters_brings_weights_and_method_over():
    source, target = (make(PPO, "CBPMlpPolicy", method_kwargs={**BUSY, "seed": seed}) for seed in (1, 2))
    source.learn(320)
    target.set_parameters(source.get_parameters())
    assert torch.equal(weights(source), weights(target))
    assert known(source.policy.method) == known(target.policy.method)


def test_a_deep_copy_trains_by_itself():
    original = make(PPO, "CBPMlpPolicy", method_kwargs=BUSY).learn(320).policy
    clone = copy.deepcopy(original)
    before = known(original.method)
    assert known(clone.method) == before
    observations = torch.zeros(8, 3)

    def update(policy):
        policy.set_training_mode(True)
        policy.optimizer.zero_grad()
        values, log_probabilities, _ = policy.evaluate_actions(observations, torch.zeros(8, 1))
        (values.sum() + log_probabilities.sum()).backward()
        policy.optimizer.step()

    update(clone)
    assert known(original.method) == before
    assert all(layer.clock == 5 * UPDATES_PER_ROLLOUT + 1 for layer in clone.method.layers)
    update(original)
    assert known(original.method) == known(clone.method)


# Warned and refused


def test_a_run_too_short_for_any_unit_to_mature_is_warned_of_at_the_start():
    # 128 steps are 2 rollouts of 4 updates: 8. A unit must exceed the threshold.
    for threshold, warned in ((8, True), (7, False)):
        model = make(PPO, "CBPMlpPolicy", method_kwargs={"maturity_threshold": threshold})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.learn(128)
        messages = [str(w.message) for w in caught if "no unit will be replaced" in str(w.message)]
        assert len(messages) == warned
        assert all("8 updates" in message for message in messages)


def test_the_warning_counts_the_age_that_units_have_already():
    model = make(PPO, "CBPMlpPolicy", method_kwargs={"maturity_threshold": 15})
    with pytest.warns(UserWarning, match=r"mature after 15 updates, and this run has 8"):
        model.learn(128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(128, reset_num_timesteps=False)  # 8 + 8 > 15


def test_an_on_policy_algorithm_that_is_neither_ppo_nor_a2c_is_refused():
    class Other(OnPolicyAlgorithm):
        def train(self):
            raise AssertionError("must not get here")

    settings = {"gamma": 1.0, "gae_lambda": 1.0, "ent_coef": 0.0, "vf_coef": 1.0, "max_grad_norm": 1.0}
    settings |= {"learning_rate": 1e-3, "n_steps": 8, "use_sde": False, "sde_sample_freq": -1}
    with pytest.raises(NotImplementedError, match="CBPMlpPolicy for Other is not supported; it is for PPO, A2C"):
        Other(agents.CBPMlpPolicy, "Pendulum-v1", **settings)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        (
            {"env": "CartPole-v1", "decay_log_std": False},
            ValueError,
            "decay_log_std=False is for Gaussian actions; these come from a CategoricalDistribution",
        ),
        ({"method": "cpb"}, ValueError, "got 'cpb' .did you mean 'cbp'"),
        ({"weight_init": "he"}, ValueError, "weight_init .* got 'he'"),
        ({"padded_inputs": 9}, ValueError, "needs weight_init='lecun' .* got 9 with weight_init='sb3'"),
        ({"padded_inputs": 2, "weight_init": "lecun"}, ValueError, "at least the 3 of the observation; got 2"),
        ({"padded_inputs": "9", "weight_init": "lecun"}, ValueError, "at least the 3 of the observation; got '9'"),
        ({"method_kwargs": {"replacement_rate": math.nan}}, ValueError, "replacement_rate .* got nan"),
        ({"method_kwargs": {"reset_optimizer": "moments_and_step"}}, TypeError, "needs cbp.Adam"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(kwargs, error, message):
    with pytest.raises(error, match=message):
        make(PPO, "PlasticMlpPolicy", **kwargs)


def test_dictionaries_of_observations_are_refused():
    class DictEnv(gymnasium.Env):
        observation_space = spaces.Dict({"x": spaces.Box(-1, 1, (2,))})
        action_space = spaces.Discrete(2)

    with pytest.raises(TypeError, match="CBPMlpPolicy takes no dictionaries of observations: PlasticMultiInputPolicy does"):
        agents.CBPMlpPolicy(DictEnv.observation_space, DictEnv.action_space, lambda _: 1e-3)


def test_weight_decay_draws_the_standard_deviation_towards_1_unless_it_is_told_not_to(tmp_path):
    options = {"log_std_init": -2.0, "optimizer_kwargs": {"weight_decay": 0.1}}
    for decays in (True, False):
        model = make(PPO, "PlasticMlpPolicy", decay_log_std=decays, method=None, **options)
        before = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
        for parameter in model.policy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        model.policy.optimizer.step()
        # Adam's first step is the step size, 3·10⁻⁴, against the sign of the gradient: here that of the weight decay, 0.1·(−2).
        assert model.policy.log_std.item() == pytest.approx(-2 + (3e-4 if decays else 0), abs=1e-6)
        assert all(
            not torch.equal(parameter, before[name]) for name, parameter in model.policy.named_parameters() if "weight" in name
        )
        model.save(tmp_path / "model")
        loaded = PPO.load(tmp_path / "model", device="cpu")
        assert [group["weight_decay"] for group in loaded.policy.optimizer.param_groups] == ([0.1] if decays else [0.1, 0.0])
        assert torch.equal(weights(loaded), weights(model))


# Networks


def test_lecun_weights_stay_within_their_bound_and_biases_are_zero():
    policy = make(PPO, "PlasticMlpPolicy", weight_init="lecun", method=None, net_arch=[300, 200]).policy
    linears = [module for module in policy.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 6
    for linear in linears:
        bound = math.sqrt(3 / linear.in_features)
        assert linear.weight.abs().max() <= bound
        assert linear.weight.abs().max() > 0.9 * bound
        assert not linear.bias.any()


def test_first_layers_and_their_fresh_units_are_drawn_as_if_observations_were_padded_with_zeros():
    options = {"weight_init": "lecun", "method_kwargs": {**BUSY, "replacement_rate": 0.5}, "net_arch": [300, 200]}
    policies = [make(PPO, "CBPMlpPolicy", padded_inputs=padded, **options).policy for padded in (None, 12)]
    for own, padded in zip(*(policy.parameters() for policy in policies), strict=True):
        # Pendulum observes 3 numbers: √(3/12) is half of √(3/3). The same draws, and every other layer as it was.
        assert torch.allclose(padded, own * (0.5 if own.shape == (300, 3) else 1.0), rtol=1e-6)
    bounds = {layer.name: layer.fresh_bound for layer in policies[1].method.layers}
    assert bounds == {
        "policy/hidden1": 0.5,
        "policy/hidden2": math.sqrt(3 / 300),
        "value/hidden1": 0.5,
        "value/hidden2": math.sqrt(3 / 300),
    }
    again = agents.CBPMlpPolicy(**policies[1]._get_constructor_parameters())
    assert again.mlp_extractor.policy_net[0].weight.abs().max() <= 0.5
    model = make(PPO, "CBPMlpPolicy", padded_inputs=12, **options).learn(320)
    layer = model.policy.method.layers[0]
    newborn = layer.hidden.incoming.weight[layer.age == 0]
    assert layer.replaced > len(newborn) > 20
    assert 0.45 < newborn.abs().max() <= 0.5


@pytest.mark.parametrize(("activation", "name"), [(nn.Tanh, "tanh"), (nn.ReLU, "relu")])
def test_hidden_layers_of_stock_mlp_policy_are_found(activation, name):
    model = PPO(
        "MlpPolicy",
        "Pendulum-v1",
        device="cpu",
        policy_kwargs={"activation_fn": activation, "net_arch": {"pi": [8], "vf": [4, 4]}},
    )
    layers = hidden_layers(model.policy)
    assert [(layer.name, layer.units, layer.activation) for layer in layers] == [
        ("policy/hidden1", 8, name),
        ("value/hidden1", 4, name),
        ("value/hidden2", 4, name),
    ]


def test_without_a_method_training_equals_that_of_mlp_policy():
    plain, without = make(PPO, "MlpPolicy").learn(128), make(PPO, "PlasticMlpPolicy", method=None).learn(128)
    assert without.policy.method is None
    assert torch.equal(weights(plain), weights(without))


# Every method


@pytest.mark.parametrize(
    ("algorithm", "method"),
    [*((PPO, method) for method in cbp.METHODS), *((A2C, method) for method in ("cbp", "shrink-perturb", "trac", "upgd"))],
)
def test_every_method_trains_by_its_name_and_is_saved_and_loaded_with_its_state(method, algorithm, tmp_path):
    kwargs = {"period": 5} if method in ("redo", "regrama", "hare-tortoise", "swr") else {}
    if method == "c-chain":
        kwargs = {"measure_every": 3, "warm_up": 1}
    model = learn_quietly(make(algorithm, "PlasticMlpPolicy", method=method, method_kwargs=kwargs, activation_fn=nn.ReLU), 192)
    assert type(model.policy.method) is cbp.METHODS[method]
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=model.get_env(), device="cpu")
    states = [policy.method.state_dict() for policy in (model.policy, loaded.policy)]
    assert same(*states)
    assert type(loaded.policy.method) is cbp.METHODS[method]


def test_a_method_without_a_seed_or_layers_of_its_own_is_not_given_any():
    assert not make(PPO, "PlasticMlpPolicy", method="l2-init").policy.method.layers
    one, other = (make(PPO, "PlasticMlpPolicy", method="shrink-perturb").policy.method.state_dict() for _ in range(2))
    assert torch.equal(one["generator"], other["generator"])
    assert one["generator"].equal(torch.Generator().manual_seed(PPO_SETTINGS["seed"]).get_state())


def test_l2_init_acts_on_the_gradients_of_stock_ppo():
    # One update by SGD with a step of 1: θ − θ' is the gradient. A penalty of 0.5·‖θ − θ₀‖² shifted by 1 adds θ − θ₀ = 1.
    def after(method):
        kwargs = {"optimizer_class": torch.optim.SGD, "net_arch": [5], "method": method, "method_kwargs": {}}
        if method:
            kwargs["method_kwargs"] = {"strength": 0.5}
        settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "seed": 0, "learning_rate": 1.0, "max_grad_norm": math.inf}
        model = PPO("PlasticMlpPolicy", "Pendulum-v1", **settings, policy_kwargs=kwargs)
        with torch.no_grad():
            model.policy.value_net.bias += 1.0
        model.learn(16)
        return model.policy.value_net.bias.item()

    assert after("l2-init") == pytest.approx(after(None) - 1.0, rel=1e-5)


def test_the_method_may_treat_the_first_hidden_layer_alone():
    policy = make(PPO, "CBPMlpPolicy", method_layers="first").policy
    assert [layer.name for layer in policy.method.layers] == ["policy/hidden1", "value/hidden1"]
    with pytest.raises(ValueError, match="method_layers must be 'all' or 'first'; got 'last'"):
        make(PPO, "CBPMlpPolicy", method_layers="last")


@pytest.mark.parametrize("layer_norm", [False, True])
def test_with_crelu_a_layer_gives_two_values_of_each_of_half_as_many_units(layer_norm):
    settings = {"activation_fn": cbp.CReLU, "net_arch": [8, 6], "method_kwargs": BUSY, "layer_norm": layer_norm}
    model = make(PPO, "PlasticMlpPolicy", method="cbp", **settings)
    for network in (model.policy.mlp_extractor.policy_net, model.policy.mlp_extractor.value_net):
        linears = [module for module in network if isinstance(module, nn.Linear)]
        assert [(linear.in_features, linear.out_features) for linear in linears] == [(3, 4), (8, 3)]
        x = torch.randn(5, 3)
        h = linears[0](x) if not layer_norm else network[1](linears[0](x))
        k = 3 if layer_norm else 2
        assert torch.equal(network[:k](x), torch.cat([h.clamp(min=0), (-h).clamp(min=0)], dim=1))
    assert model.policy.action_net.in_features == 6
    learn_quietly(model, 320)
    assert [layer.hidden.units for layer in model.policy.method.layers] == [4, 3, 4, 3]
    assert all(layer.replaced for layer in model.policy.method.layers)
    with pytest.raises(ValueError, match=r"activation_fn=cbp\.CReLU needs an even number of values in each layer; got 7"):
        make(PPO, "PlasticMlpPolicy", activation_fn=cbp.CReLU, net_arch=[8, 7])


def test_layers_are_normalised_before_their_activation():
    model = make(PPO, "PlasticMlpPolicy", method="cbp", layer_norm=True, activation_fn=nn.ReLU, method_kwargs=BUSY)
    for network in (model.policy.mlp_extractor.policy_net, model.policy.mlp_extractor.value_net):
        kinds = [type(module) for module in network]
        assert kinds == [nn.Linear, nn.LayerNorm, nn.ReLU, nn.Linear, nn.LayerNorm, nn.ReLU]
    assert all(len(layer.hidden.norms) == 1 for layer in model.policy.method.layers)
    before = model.policy.mlp_extractor.policy_net[1].weight.detach().clone()
    model.learn(640)
    assert not torch.equal(model.policy.mlp_extractor.policy_net[1].weight, before)
    assert min(layer.replaced for layer in model.policy.method.layers) > 0
