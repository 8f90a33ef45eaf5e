"""What any plastic policy does: which updates its methods follow, what they notice, where their state is, what is refused."""

from __future__ import annotations

import copy
import io
import math
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from plastic_cases import BUSY, NEEDS_CONTRIB, STEPS, Small, algorithm, env_of, make, same, spaces_of, weights
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import agents
import cbp
from agents.callbacks import ChangeCallback, PlasticityCallback
from agents.sb3.networks import target_pairs
from agents.sb3.plastic import replaced_units
from agents.sb3.updates import too_short, updates_left

pytestmark = pytest.mark.filterwarnings("ignore:no unit:UserWarning", "ignore:fire acts where:UserWarning")
OLD = {"maturity_threshold": 10**6}


def clocks(policy):
    return {network: {layer.clock for layer in method.layers} for network, method in policy.methods.items()}


# Which updates


def test_each_network_counts_the_updates_of_its_own_optimizer():
    # Steps 21 to 40 come after learning_starts=20: 20 updates; TD3 updates its actor at every second.
    assert clocks(make("SAC", method_kwargs=OLD).learn(STEPS).policy) == {"actor": {20}, "critic": {20}}
    assert clocks(make("TD3", method_kwargs=OLD).learn(STEPS).policy) == {"actor": {10}, "critic": {20}}
    assert clocks(make("DQN", method_kwargs=OLD).learn(STEPS).policy) == {"q_net": {20}}


@pytest.mark.parametrize(
    ("name", "settings", "networks"),
    [
        ("SAC", {}, ["actor"]),
        ("SAC", {"train_freq": 4, "gradient_steps": 2}, ["critic"]),
        ("SAC", {"train_freq": 16, "gradient_steps": 2, "learning_starts": 31}, ["critic"]),  # after steps 32, 48 and 64
        ("SAC", {"train_freq": 16, "gradient_steps": -1, "learning_starts": 31}, ["critic"]),
        ("SAC", {"train_freq": (1, "episode"), "gradient_steps": -1, "learning_starts": 0}, ["critic"]),
        ("TD3", {}, ["actor"]),
        ("TD3", {}, ["critic"]),
        ("PPO", {}, ["policy", "value"]),
        ("A2C", {}, ["policy", "value"]),
        pytest.param("TRPO", {}, ["policy"], marks=NEEDS_CONTRIB),
        pytest.param("TRPO", {}, ["value"], marks=NEEDS_CONTRIB),
        pytest.param("RecurrentPPO", {}, ["policy", "value"], marks=NEEDS_CONTRIB),
    ],
)
def test_the_updates_of_a_run_are_known_before_it(name, settings, networks):
    # 4 × 16 steps on-policy, 60 off-policy.
    steps = 64 if name in ("PPO", "A2C", "TRPO", "RecurrentPPO") else 60
    model = make(name, settings=settings, method_kwargs=dict.fromkeys(networks, OLD) if name == "TRPO" else OLD)
    model._total_timesteps = steps
    expected = updates_left(model, networks)
    model.learn(steps)
    assert clocks(model.policy)[networks[0]] == {expected}


def test_of_episodes_of_unknown_length_the_updates_are_not_known():
    model = make("TD3", settings={"train_freq": (1, "episode")})
    model._total_timesteps = 60
    assert updates_left(model, ["actor"]) == updates_left(model, ["critic"]) == math.inf


def test_critics_are_judged_by_what_they_received_before_their_own_update():
    # η = 0: a unit's utility is its contribution in the last pass of the critic's own loss. The pass in the actor's loss, on
    # other actions, comes later and would give other numbers.
    model = make("SAC", settings={"learning_starts": STEPS - 1}, method_kwargs={**OLD, "decay_rate": 0.0})
    batches = []
    critic = model.policy.critic
    critic.qf0[2].register_forward_pre_hook(lambda module, args: batches.append(args[0].detach().clone()))
    model.learn(STEPS)
    assert len(batches) == 2  # one update: the critic's loss, then the actor's
    of_loss, of_actors_loss = (batch.abs().mean(dim=0) * critic.qf0[2].weight.abs().sum(dim=0) for batch in batches)
    utility = model.policy.methods["critic"].layers[0].utility
    assert torch.allclose(utility, of_loss, rtol=1e-4)
    assert not torch.allclose(utility, of_actors_loss, rtol=1e-2)


def test_twin_critics_get_different_newborns_and_so_does_the_actor():
    methods = make("SAC").policy.methods
    generators = [layer.generator.get_state() for method in methods.values() for layer in method.layers]
    assert len({tuple(state.tolist()) for state in generators}) == 6
    given = make("SAC", method_kwargs={"seed": 5}).policy.methods
    assert [given[network].seed for network in ("actor", "critic")] == [5, 6]


def test_the_last_layer_of_sacs_actor_feeds_its_spread_too_and_is_left_out_where_that_explores():
    policy = make("SAC").policy
    assert policy.methods["actor"].layers[-1].hidden.outgoing == (policy.actor.mu, policy.actor.log_std)
    explores = make("SAC", settings={"use_sde": True}, method_kwargs=BUSY).learn(STEPS).policy
    assert [layer.name for layer in explores.methods["actor"].layers] == ["actor/hidden1"]
    assert "log_std" in explores.left_out[0]
    assert replaced_units(explores)["actor"] > 0


@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_a_shared_features_extractor_is_treated_once_with_all_heads_and_moments(name):
    model = make(name, "Cnn", share_features_extractor=True, method_kwargs=BUSY).learn(STEPS)
    policy, actor = model.policy, model.policy.methods["actor"]
    names = [layer.name for method in policy.methods.values() for layer in method.layers]
    assert [layer for layer in names if "features" in layer] == ["actor/features1", "actor/features2"]
    # 4 channels × 4 positions: the actor's first layer and those of both critics receive all 16.
    heads = [edge.weights for edge in actor.layers[1].hidden.edges]
    assert len(heads) == 3
    assert [slices.per_unit for slices in heads] == [4, 4, 4]
    assert actor.layers[1].replaced > 0
    assert policy.critic.optimizer in actor.optimizers


def test_exploration_of_dqn_draws_the_same_numbers_with_and_without_replaced_units():
    states = []
    for kwargs in ({"method": None}, {"method_kwargs": BUSY}):
        make("DQN", prefix="Plastic", settings={"exploration_fraction": 1.0, "exploration_final_eps": 1.0}, **kwargs).learn(
            STEPS
        )
        states.append(np.random.get_state()[1].tolist())  # noqa: NPY002
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("settings", "n_envs"),
    [({"train_freq": 4, "gradient_steps": 3}, 1), ({"gradient_steps": -1}, 3), ({"learning_starts": 20}, 1)],
)
def test_other_schedules_of_updates_equal_stock_without_replacement(settings, n_envs):
    def trained(prefix, **kwargs):
        env = DummyVecEnv([lambda: env_of("SAC")] * n_envs)
        return weights(make("SAC", prefix=prefix, settings=settings, env=env, **kwargs).learn(STEPS))

    assert torch.equal(trained(None), trained("CBP", method_kwargs={**BUSY, "replacement_rate": 0.0}))


@NEEDS_CONTRIB
def test_a_replaced_unit_of_crossq_begins_anew_in_its_renormalisation_and_has_no_effect():
    model = make("CrossQ", method_kwargs={**BUSY, "replacement_rate": 0.5}).learn(STEPS)
    layer = model.policy.methods["critic"].layers[1]
    newborn = (layer.age == 0).nonzero().flatten()
    assert len(newborn)
    norm = model.policy.critic.qf0[6]
    assert (norm.scale[newborn] == 1).all()
    assert not norm.bias[newborn].any()
    # No pass in training mode has followed: the actor's loss takes the critic in evaluation.
    assert not norm.ra_mean[newborn].any()
    assert (norm.ra_var[newborn] == 1).all()
    assert norm.ra_mean.any()
    assert not layer.hidden.outgoing[0].weight[:, newborn].any()


@NEEDS_CONTRIB
def test_masked_actions_are_never_taken_while_units_are_replaced():
    taken = []

    class Masked(Small):
        def step(self, action):
            taken.append(bool(self.action_masks()[action]))
            return super().step(action)

    env = Masked(spaces_of("Mlp"), spaces.Discrete(3))
    model = make("MaskablePPO", env=env, method_kwargs=BUSY).learn(100)
    assert replaced_units(model.policy)["policy"] > 0
    assert len(taken) >= 100
    assert all(taken)
    observations = env.observation_space.sample()
    for allowed in range(3):
        assert model.predict(observations, action_masks=np.arange(3) == allowed)[0] == allowed


# By network


def test_networks_may_have_options_of_their_own_or_none():
    policy = make("SAC", method_kwargs={"actor": {"replacement_rate": 0.5}, "critic": None}).policy
    assert list(policy.methods) == ["actor"]
    assert policy.method.replacement_rate == 0.5
    ppo = make("PPO", method_kwargs={"policy": {"replacement_rate": 0.5}}).policy
    assert [ppo.methods[network].replacement_rate for network in ("policy", "value")] == [0.5, 1e-4]
    model = make("PPO", method_kwargs={"policy": BUSY, "value": None}).learn(STEPS)
    assert replaced_units(model.policy).keys() == {"policy"}


@pytest.mark.parametrize("treated", ["policy", "value"])
@pytest.mark.parametrize("method", [name for name in cbp.METHODS if name != "snr"])  # which has no silence of tanh
@pytest.mark.filterwarnings("ignore:the loss of .* is not found:UserWarning")  # no train() is at work
def test_a_network_that_is_left_out_is_trained_as_without_a_method(method, treated):
    left_out = {"policy": "value", "value": "policy"}[treated]
    options = {"method": method, "method_kwargs": {treated: {}, left_out: None}}
    model, stock = make("PPO", prefix="Plastic", **options), make("PPO", prefix="Plastic", method=None)
    begun = copy.deepcopy(stock.policy.state_dict())
    for policy in (model.policy, stock.policy):
        policy.load_state_dict(begun)
        policy.set_training_mode(True)
        numbers = torch.Generator().manual_seed(0)
        observations = torch.randn(8, *model.observation_space.shape, generator=numbers)
        for _ in range(4):
            policy.evaluate_actions(observations, torch.zeros(8, *model.action_space.shape))
            for parameter in policy.parameters():
                parameter.grad = 0.1 * torch.randn(parameter.shape, generator=numbers)
            policy.optimizer.step()
    for each in model.policy.methods.values():
        each.change()
    with_method, without = model.policy.state_dict(), stock.policy.state_dict()
    parts = {"policy": ("policy_net", "action_net", "log_std"), "value": ("value_net",)}
    for name in without:
        if any(part in name for part in parts[left_out]):
            assert torch.equal(with_method[name], without[name]), name
    acts_soon = ("c-chain", "fire", "l2-init", "nap", "parseval", "shrink-perturb", "spectral", "trac", "upgd")
    changed = [name for name in without if not torch.equal(with_method[name], without[name])]
    assert bool(changed) == (method in acts_soon)


def test_several_methods_are_not_mistaken_for_one():
    ppo = make("PPO").policy
    assert ppo.method is ppo.methods["policy"] is ppo.methods["value"]
    policy = make("SAC").policy
    with pytest.raises(
        AttributeError, match=r"several methods, not one: policy.methods\['actor'\], policy.methods\['critic'\]"
    ):
        _ = policy.method
    assert make("SAC", prefix="Plastic", method=None).policy.method is None


@pytest.mark.parametrize("name", ["DQN", "SAC", "TD3"])
def test_target_networks_become_the_networks_that_a_signal_has_changed(name):
    environment = gymnasium.Wrapper(env_of(name))
    environment.phase = 0
    seen = []

    class Watch(BaseCallback):
        def _on_step(self):
            environment.phase = self.num_timesteps // 20
            return True

        def _on_rollout_start(self):
            pairs = [(networks.state_dict(), target.state_dict()) for networks, target in target_pairs(self.model.policy)]
            seen.append([all(torch.equal(target[key], own[key]) for key in own) for own, target in pairs])

    settings = {"train_freq": 10, "gradient_steps": 2, "tau": 0.1, "learning_starts": 5}
    model = make(name, prefix="Plastic", env=environment, settings=settings, method="fire")
    model.learn(50, [ChangeCallback(), Watch()])
    # Rollouts after steps 0, 10, …, 40; the phase changes at steps 20 and 40. Before the first update they are alike.
    assert [set(alike) for alike in seen] == [{True}, {False}, {True}, {False}, {True}]


@pytest.mark.parametrize("phase", [lambda step: step / 100, lambda step: np.array([step, step + 1])])
def test_another_thing_that_an_environment_calls_its_phase_is_no_change(phase):
    environment = gymnasium.Wrapper(env_of("DQN"))
    environment.phase = phase(0)
    settings = {"train_freq": 100, "learning_starts": 5, "learning_rate": 0.0}  # so that weights change by the method alone
    model = make("DQN", prefix="Plastic", env=environment, settings=settings, method="fire")
    before = copy.deepcopy(model.policy.state_dict())

    class Gait(BaseCallback):
        def _on_step(self):
            environment.phase = phase(self.num_timesteps)
            return True

    model.learn(400, [ChangeCallback(), Gait()])
    after = model.policy.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("name", ["SAC", "DQN"])
@pytest.mark.parametrize("method", ["l2-init", "shrink-perturb", "redo"])
def test_other_methods_leave_target_networks_alone(name, method):
    kwargs = {"shrink-perturb": {"shrink": 0.5}, "redo": {"period": 3}}.get(method, {})
    model = make(name, prefix="Plastic", settings={"tau": 0.0}, method=method, method_kwargs=kwargs)
    target = model.policy.critic_target if name == "SAC" else model.policy.q_net_target
    before = copy.deepcopy(target.state_dict())
    model.learn(STEPS)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


# Targets


@pytest.mark.parametrize(("target_units", "equal"), [("copy", True), ("drift", False)])
def test_a_fresh_unit_reaches_the_target_network_at_once_or_by_averaging(target_units, equal):
    model = make(
        "SAC", settings={"tau": 1e-6}, target_units=target_units, method_kwargs={**BUSY, "replacement_rate": 0.5}
    ).learn(STEPS)
    layer = model.policy.methods["critic"].layers[0]
    newborn = (layer.age == 0).nonzero().flatten()
    assert len(newborn)
    online, target = model.policy.critic.qf0, model.policy.critic_target.qf0
    # Averaging with τ = 1e-6 moves neither by itself.
    assert torch.allclose(target[0].weight[newborn], online[0].weight[newborn], atol=1e-4) is equal
    assert torch.allclose(target[2].weight[:, newborn], online[2].weight[:, newborn], atol=1e-4) is equal


# Noticed


def _train(policy, optimizer, updates=1):
    policy.set_training_mode(True)
    for _ in range(updates):
        values, log_probabilities, _ = policy.evaluate_actions(torch.zeros(8, 3), torch.zeros(8, 2))
        optimizer.zero_grad()
        (values.sum() + log_probabilities.sum()).backward()
        optimizer.step()


@pytest.mark.parametrize("algorithm", [PPO, agents.PPO])
def test_an_exchanged_optimizer_is_followed_and_what_is_known_of_the_units_kept(algorithm):
    settings = {"n_steps": 16, "batch_size": 8, "n_epochs": 2, "seed": 1, "device": "cpu"}
    kwargs = {"net_arch": [6, 5], "method_kwargs": BUSY}
    model = algorithm("CBPMlpPolicy", env_of("PPO"), **settings, policy_kwargs=kwargs).learn(STEPS)
    before, replaced = clocks(model.policy)["policy"], replaced_units(model.policy)
    model.policy.optimizer = torch.optim.Adam(model.policy.parameters(), lr=1e-3)
    model.learn(STEPS, reset_num_timesteps=False)
    assert min(clocks(model.policy)["policy"]) > max(before)
    assert all(total > replaced[network] for network, total in replaced_units(model.policy).items())
    assert "methods" in model.policy.optimizer.state_dict()


def test_an_optimizer_from_elsewhere_that_trains_the_policy_is_named():
    policy = make("PPO").policy
    other = torch.optim.SGD(policy.parameters(), lr=1e-3)
    with pytest.warns(UserWarning, match="trained by another optimizer .SGD. than its own"):
        _train(policy, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _train(policy, other)
    policy.optimizer = other
    _train(policy, other, 3)
    assert clocks(policy)["policy"] == {3}


def test_exchanged_modules_are_found_and_others_keep_their_ages():
    model = make("PPO", method_kwargs=BUSY).learn(STEPS)
    policy = model.policy
    before = max(clocks(policy)["policy"])
    policy.mlp_extractor.value_net = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh())
    policy.optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    with pytest.warns(UserWarning, match="exchanged or frozen: 4 hidden layers are treated now, of which 2 keep"):
        model.learn(STEPS, reset_num_timesteps=False)
    layers = {layer.name: layer for layer in policy.method.layers}
    assert layers["value/hidden1"].hidden.units == 7
    assert layers["policy/hidden1"].clock > before > 0
    assert layers["value/hidden1"].clock == layers["policy/hidden1"].clock - before


def test_frozen_layers_are_no_longer_replaced():
    model = make("PPO", method_kwargs={**BUSY, "replacement_rate": 0.5})
    frozen = model.policy.mlp_extractor.policy_net[0]
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    before = frozen.weight.clone()
    with pytest.warns(UserWarning, match="left out: 'weight' of the Linear around layer 'policy/hidden1' is frozen"):
        model.learn(STEPS)
    assert torch.equal(frozen.weight, before)
    assert [layer.name for layer in model.policy.method.layers] == ["policy/hidden2", "value/hidden1", "value/hidden2"]


# State


def test_options_that_were_set_while_training_are_saved():
    model = make("SAC", method_kwargs=BUSY)
    model.policy.methods["actor"].replacement_rate = 0.2
    model.policy.methods["critic"].maturity_threshold = 7
    file = io.BytesIO()
    model.save(file)
    loaded = SAC.load(file, device="cpu").policy.methods
    assert loaded["actor"].replacement_rate == 0.2
    assert loaded["critic"].maturity_threshold == 7
    assert {layer.maturity_threshold for layer in loaded["critic"].layers} == {7}


@pytest.mark.parametrize("how", ["load", "set_parameters"])
def test_options_that_are_given_anew_hold_and_those_that_were_set_since_go_on(how):
    model = make("PPO", method_kwargs={"replacement_rate": 0.01, "maturity_threshold": 5})
    model.policy.method.decay_rate = 0.5
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    if how == "load":
        kwargs = model.policy_kwargs | {"method_kwargs": {"replacement_rate": 0.3, "maturity_threshold": 5}}
        loaded = PPO.load(file, device="cpu", custom_objects={"policy_kwargs": kwargs})
    else:
        loaded = make("PPO", method_kwargs={"replacement_rate": 0.3, "maturity_threshold": 5})
        loaded.set_parameters(file)
    method = loaded.policy.method
    assert (method.replacement_rate, method.maturity_threshold, method.decay_rate) == (0.3, 5, 0.5)


def test_a_model_of_the_first_release_brings_its_ages():
    path = Path(__file__).parents[2] / "data" / "first_release.zip"
    policy = PPO.load(path, device="cpu").policy
    assert max(int(layer.age.max()) for layer in policy.method.layers) > 0


def test_a_deep_copy_of_a_policy_with_two_methods_trains_by_itself():
    original = make("SAC", method_kwargs=OLD).policy
    clone = copy.deepcopy(original)
    actions, _ = clone.actor.action_log_prob(torch.zeros(4, 3))
    actions.sum().backward()
    clone.actor.optimizer.step()
    assert clocks(clone) == {"actor": {1}, "critic": {0}}
    assert clocks(original) == {"actor": {0}, "critic": {0}}


def test_models_without_a_seed_have_generators_of_their_own():
    def generator(seed):
        return make("PPO", settings={"seed": seed}).policy.method.layers[0].generator.get_state()

    assert not torch.equal(generator(None), generator(None))
    assert torch.equal(generator(3), generator(3))


# Warned and refused


def test_learning_in_chunks_warns_once():
    model = make("SAC", settings={"learning_starts": 8})
    with pytest.warns(UserWarning, match="no unit of actor .* after 10,000 updates, and this run has 2;") as first:
        model.learn(10)
    assert len(first) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(10, reset_num_timesteps=False)


# Options with which a method does something in 20 updates.
SOON = {
    "cbp": BUSY,
    "snr": {"max_silence": 8},
    "redo": {"period": 3, "threshold": 0.5},
    "regrama": {"period": 3, "threshold": 0.5},
    "hare-tortoise": {"period": 3},
    "swr": {"factor": 0.1, "period": 3},
    "c-chain": {"measure_every": 3, "warm_up": 1},
}


def methods_under_algorithms():
    """The kinds of algorithms that have every method quickly; of the others each has some slowly, and all in a soak."""
    kinds = [("TD3", "Mlp"), ("PPO", "Cnn"), ("DQN", "Cnn"), ("SAC", "MultiInput")]
    for number, method in enumerate(name for name in cbp.METHODS if name != "pfo"):  # which is refused by all but one
        for case in (("SAC", "Mlp"), ("DQN", "Mlp")):
            yield pytest.param(*case, method)
        for case in kinds:
            slow = case == kinds[number % len(kinds)] or (case == ("PPO", "Cnn") and method == "cbp")
            yield pytest.param(*case, method, marks=pytest.mark.slow if slow else pytest.mark.soak)


@pytest.mark.parametrize(("name", "kind", "method"), [*methods_under_algorithms()])
def test_every_method_acts_under_every_kind_of_algorithm_and_is_saved(name, kind, method, tmp_path):
    relu = {"activation_fn": nn.ReLU}
    models = [
        make(name, kind, "Plastic", method=chosen, method_kwargs=kwargs, **relu)
        for chosen, kwargs in ((method, SOON.get(method, {})), (None, None))
    ]
    for model in models:
        model.learn(STEPS)
    for each in models[0].policy.methods.values():
        each.change()
    assert not torch.equal(*map(weights, models))
    assert all(parameter.isfinite().all() for parameter in models[0].policy.parameters())
    models[0].save(tmp_path / "model")
    loaded = type(models[0]).load(tmp_path / "model", device="cpu")
    for network, own in models[0].policy.methods.items():
        assert same(loaded.policy.methods[network].state_dict(), own.state_dict())


TOO_SHORT = {  # 52 steps
    ("SAC", "redo", 33): ["redo of actor does nothing: its period is 33 updates, and this run has 32", "redo of critic"],
    ("SAC", "redo", 32): [],
    ("TD3", "regrama", 17): ["regrama of actor does nothing: its period is 17 updates, and this run has 16"],
    ("PPO", "shrink-perturb", 17): ["shrink-perturb does nothing: its period is 17 updates, and this run has 16"],
    ("PPO", "shrink-perturb", 16): [],
    ("PPO", "cbp", 15): [],
    ("PPO", "cbp", 16): ["no unit will be replaced: units mature after 16 updates, and this run has 16"],
    ("PPO", "c-chain", 8): ["λ of c-chain stays 100: it follows the loss after 24 updates, and this run has 16; train longer"],
    ("PPO", "c-chain", 5): [],
    ("TRPO", "cbp", 15): ["no unit of policy will be replaced: units mature after 15 updates, and this run has 13"],
}


@pytest.mark.parametrize(("name", "method", "waits"), TOO_SHORT)
def test_a_run_too_short_for_a_method_is_known_at_its_start(name, method, waits):
    if name == "TRPO":
        pytest.importorskip("sb3_contrib")
    lines = TOO_SHORT[name, method, waits]
    options = {"cbp": {"maturity_threshold": waits}, "c-chain": {"measure_every": waits, "warm_up": 3}}.get(method)
    options = options or {"period": waits}
    model = make(name, prefix="Plastic", method=method, method_kwargs=options)
    model._total_timesteps = 52
    found = too_short(model, model.policy.methods)
    assert len(found) == len(lines)
    assert all(words in line for line, words in zip(found, lines, strict=True)), found


# What a method does not reach under TRPO, whose policy has no gradients when the optimizer takes a step.
UNDER_TRPO = {
    **dict.fromkeys(("l2-init", "parseval", "spectral", "upgd", "trac", "swr", "regrama"), "it acts on value alone"),
    "c-chain": "it does nothing",
}


@NEEDS_CONTRIB
@pytest.mark.parametrize("method", [name for name in cbp.METHODS if name != "pfo"])  # which is refused
def test_a_method_that_acts_on_gradients_says_what_it_does_not_reach(method):
    model = make("TRPO", prefix="Plastic", method=method, method_kwargs=SOON.get(method, {}), activation_fn=nn.ReLU)
    model._total_timesteps = 10**6
    words = UNDER_TRPO.get(method)
    lines = [f"{method} acts on gradients, which TRPO gives its policy none of: {words}"] if words else []
    assert too_short(model, model.policy.methods) == lines
    other = make("PPO", prefix="Plastic", method=method, method_kwargs=SOON.get(method, {}), activation_fn=nn.ReLU)
    other._total_timesteps = 10**6
    assert not too_short(other, other.policy.methods)


@pytest.mark.parametrize("name", ["PPO", "SAC", "DQN"])
def test_the_state_of_another_method_is_refused_by_both_names(name, tmp_path):
    make(name).save(tmp_path / "model")
    other = make(name, prefix="Plastic", method="redo")
    words = "the state is of ContinualBackprop, and this policy carries ReDo"
    with pytest.raises(RuntimeError, match=words):
        other.set_parameters(tmp_path / "model")
    with pytest.raises(RuntimeError, match=words):
        algorithm(name).load(tmp_path / "model", custom_objects={"policy_kwargs": {**other.policy_kwargs}})


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG, DQN])
def test_a_class_that_is_for_other_algorithms_is_refused_with_the_name_to_give(algorithm):
    env = "CartPole-v1" if algorithm is DQN else "Pendulum-v1"
    with pytest.raises(
        NotImplementedError, match=rf"CBPMlpPolicy for {algorithm.__name__} is not supported; .* PlasticMlpPolicy"
    ):
        algorithm(agents.CBPMlpPolicy, env, buffer_size=10)


@NEEDS_CONTRIB
def test_algorithms_without_updates_or_such_a_policy_say_why():
    with pytest.raises(NotImplementedError, match="CBPMlpPolicy for ARS is not supported: it searches without gradients"):
        algorithm("ARS")("CBPMlpPolicy", "Pendulum-v1")
    with pytest.raises(NotImplementedError, match=r"CBPCnnPolicy for CrossQ is not supported: .* vectors alone"):
        algorithm("CrossQ")("CBPCnnPolicy", "Pendulum-v1")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"replacement_rate": 1e-3}, TypeError, r"option of the method 'cbp', .*method_kwargs=dict\(replacement_rate=0.001\)"),
        (
            {"method_kwargs": {"replacment_rate": 1e-3}},
            TypeError,
            "no option 'replacment_rate' .did you mean 'replacement_rate'",
        ),
        ({"method_kwargs": {"critics": None}}, ValueError, "networks are actor, critic; got 'critics' .did you mean 'critic'"),
        ({"method_kwargs": {"actor": None, "seed": 1}}, TypeError, r"not both; got \['seed'\] beside \['actor'\]"),
        ({"method_kwargs": {"replacement_rate": None}}, ValueError, r"replacement_rate must be a finite number .* got None"),
        ({"method_kwargs": {"seed": None}}, ValueError, "seed must be a whole number, got None"),
        ({"method_kwargs": "cbp"}, TypeError, "method_kwargs must be a dictionary of options, .* got 'cbp'"),
        ({"method_kwargs": [1]}, TypeError, r"method_kwargs must be a dictionary of options, .* got \[1\]"),
        ({"method_kwargs": {"layers": ["policy/hidden1"]}}, TypeError, "no option 'layers'"),
        ({"method_kwargs": {"strict": True}}, TypeError, "no option 'strict'"),
        ({"method": ["cbp"]}, ValueError, r"method must be one of .* got \['cbp'\]"),
        ({"method": "CBP"}, ValueError, "got 'CBP' .did you mean 'cbp'"),
        ({"method_kwarg": {}}, TypeError, "has no option 'method_kwarg' .did you mean 'method_kwargs'"),
        ({"target_unit": "copy"}, TypeError, "has no option 'target_unit' .did you mean 'target_units'"),
        ({"target_units": "keep"}, ValueError, "target_units must be 'drift' or 'copy'; got 'keep'"),
        ({"net_arch": []}, cbp.LayerError, r"no hidden layer that can be treated .net_arch=\[\]"),
    ],
)
def test_slips_are_answered_in_words(kwargs, error, message):
    with pytest.raises(error, match=message):
        make("SAC", **kwargs)


def test_numbers_of_numpy_are_options():
    method = make(
        "DQN", method_kwargs={"replacement_rate": np.float32(0.5), "maturity_threshold": np.int64(3), "seed": np.int64(2)}
    )
    assert (method.policy.method.replacement_rate, method.policy.method.maturity_threshold) == (0.5, 3)
    assert make("DQN", method_kwargs={"maturity_threshold": 1e4}).policy.method.maturity_threshold == 10_000


def test_hindsight_experience_replay_trains_with_its_dictionaries():
    from stable_baselines3 import HerReplayBuffer
    from stable_baselines3.common.envs import BitFlippingEnv

    def trained(policy, **kwargs):
        settings = {
            "replay_buffer_class": HerReplayBuffer,
            "learning_starts": 8,
            "batch_size": 8,
            "seed": 1,
            "buffer_size": 100,
        }
        env = BitFlippingEnv(n_bits=3, continuous=False, max_steps=4)
        return DQN(policy, env, **settings, train_freq=1, device="cpu", policy_kwargs={"net_arch": [6, 5], **kwargs}).learn(
            STEPS
        )

    plastic = trained("CBPMultiInputPolicy", method_kwargs={**BUSY, "replacement_rate": 0.0})
    assert torch.equal(weights(trained("MultiInputPolicy")), weights(plastic))
    assert replaced_units(trained("CBPMultiInputPolicy", method_kwargs=BUSY).policy)["q_net"] > 0


def frozen(name, *paths, **settings):
    model = make(name, method_kwargs=BUSY, **settings)
    for path in paths:
        model.policy.get_submodule(path).requires_grad_(False)
    return model


FROZEN = [
    ("PPO", "mlp_extractor.value_net"),
    ("PPO", "mlp_extractor.policy_net.0"),
    ("SAC", "actor.latent_pi"),
    ("DQN", "q_net.q_net.0"),
]


@pytest.mark.filterwarnings("ignore:modules of this")
@pytest.mark.parametrize(("name", "path"), FROZEN)
@pytest.mark.parametrize("target", ["a model", "one frozen alike"])
def test_a_model_with_frozen_layers_is_saved_and_loaded(tmp_path, name, path, target):
    """No file tells what is frozen: what is known of the other layers goes on, and a warning says of which it does not."""
    model = frozen(name, path).learn(STEPS)
    model.save(tmp_path / "model.zip")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if target == "a model":
            again = algorithm(name).load(tmp_path / "model.zip", device="cpu")
        else:
            again = frozen(name, path)
            again.set_parameters(tmp_path / "model.zip", device="cpu")
    saved = {layer.name: layer for method in model.policy.methods.values() for layer in method.layers}
    loaded = {layer.name: layer for method in again.policy.methods.values() for layer in method.layers}
    assert saved.keys() <= loaded.keys()
    for layer_name, layer in saved.items():
        assert torch.equal(loaded[layer_name].age, layer.age)
        assert torch.equal(loaded[layer_name].utility, layer.utility)
        assert layer.clock > 0
    missing = loaded.keys() - saved.keys()
    assert all(loaded[layer_name].clock == 0 for layer_name in missing)
    lines = [str(warning.message) for warning in told if "frozen here" in str(warning.message)]
    names = {carried.name for carried in model.policy._carried}  # without a network that is frozen as a whole
    of_both = {layer.name for each in again.policy._carried if each.name in names for layer in each.method.layers}
    assert bool(lines) == bool(missing & of_both)
    again.set_env(env_of(name))
    again.learn(STEPS, reset_num_timesteps=False)


@pytest.mark.filterwarnings("ignore:modules of this")
def test_a_policy_with_frozen_layers_is_saved_and_loaded(tmp_path):
    model = frozen("PPO", "mlp_extractor.value_net").learn(STEPS)
    model.policy.save(tmp_path / "policy.pth")
    with pytest.warns(UserWarning, match="what is known of value/hidden1, value/hidden2 stays as it is"):
        again = type(model.policy).load(tmp_path / "policy.pth", device="cpu")
    ages = {layer.name: layer.age.tolist() for layer in again.method.layers}
    assert {layer.name: layer.age.tolist() for layer in model.policy.method.layers}.items() <= ages.items()
    whole = make("PPO", method_kwargs=BUSY).learn(STEPS)
    whole.save(tmp_path / "whole.zip")
    model.policy.set_training_mode(True)
    with pytest.warns(UserWarning, match="what is known of value/hidden1, value/hidden2 is left aside"):
        model.set_parameters(tmp_path / "whole.zip", device="cpu")


def test_the_state_of_quite_another_model_is_still_refused():
    with pytest.raises(ValueError, match=r"the state is of hidden layers \['policy/hidden1', .*this model has \['q_net"):
        make("DQN").policy._carried[0].load_state_dict(make("PPO").policy._carried[0].state_dict())


def test_a_method_rests_while_every_hidden_layer_is_frozen():
    model = make("DQN", method_kwargs=BUSY).learn(STEPS)
    layers = [module for module in model.policy.q_net.q_net[:-1] if isinstance(module, nn.Linear)]
    for layer in layers:
        layer.requires_grad_(False)
    before = [layer.weight.clone() for layer in layers]
    with pytest.warns(UserWarning, match="the method of this DQNPlasticMlpPolicy rests: .*'q_net/hidden1' is frozen"):
        model.learn(STEPS, reset_num_timesteps=False)
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, before, strict=True))
    for layer in layers:
        layer.requires_grad_(True)
    with pytest.warns(UserWarning, match="2 hidden layers are treated now"):
        model.learn(STEPS, reset_num_timesteps=False)
    assert sum(replaced_units(model.policy).values()) > 0


class OwnNetworks(nn.Module):
    """A user's own, in which nothing is called or arranged as in Stable-Baselines3."""

    latent_dim_pi = latent_dim_vf = 5

    def __init__(self, *, trunk: bool) -> None:
        super().__init__()
        names = ("trunk", "pi", "vf") if trunk else ("shared", "policy_net", "value_net")
        self.names = names
        for name, width in zip(names, (3, 6, 6), strict=True):
            self.add_module(name, Layer(width, 6 if width == 3 else 5))

    def forward(self, x):
        return self.forward_actor(x), self.forward_critic(x)

    def forward_actor(self, x):
        return getattr(self, self.names[1])(getattr(self, self.names[0])(x))

    def forward_critic(self, x):
        return getattr(self, self.names[2])(getattr(self, self.names[0])(x))


class Layer(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x):
        return torch.relu(self.linear(x))


class OwnPolicy(agents.CBPMlpPolicy):
    trunk = True

    def _build_mlp_extractor(self):
        self.mlp_extractor = OwnNetworks(trunk=self.trunk)


class OwnPolicyOfParts(OwnPolicy):
    trunk = False


@pytest.mark.parametrize("policy", [OwnPolicy, OwnPolicyOfParts])
@pytest.mark.parametrize("method", [None, *cbp.METHODS])
def test_networks_of_a_user_s_own_are_trained_and_measured(monkeypatch, capsys, policy, method):
    monkeypatch.setattr("agents.sb3.plasticity.SAMPLES", 64)
    options = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "device": "cpu", "verbose": 1}
    if method in ("pfo", "c-chain") and policy is OwnPolicy:
        with pytest.raises(cbp.LayerError, match=r"this OwnPolicy has no 'mlp_extractor\.policy_net', where its networks"):
            PPO(policy, env_of("PPO"), policy_kwargs={"method": method}, **options)
        return
    model = PPO(policy, env_of("PPO"), policy_kwargs={"method": method}, **options)
    callback = PlasticityCallback(every=1, ranks_every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of methods that do nothing in so short a run
        model.learn(192, callback)
    kernels = {name for name in callback.latest if name.endswith("probe_ntk_effective_rank")}
    assert len(kernels) == (0 if policy is OwnPolicy else 2)  # of networks that are chains
    printed = capsys.readouterr().out
    for measure in ("gradient_norm", "gradient_dormant_fraction"):  # which Stable-Baselines3's table would cut to the same
        assert f"mlp_extractor.{'trunk' if policy is OwnPolicy else 'shared'}.linear/{measure}" in printed
