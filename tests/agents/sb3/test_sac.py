"""`agents.SAC` trains what Stable-Baselines3's own SAC trains: the same draws, the same numbers up to float rounding."""

from __future__ import annotations

import copy
import math
import multiprocessing
import os
import pickle
import warnings

import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac import policies
from tape import Tape, tapes
from torch import nn
from torch.utils.hooks import RemovableHandle

import agents
import cbp
from agents.callbacks import PlasticityCallback
from agents.sb3 import plasticity
from agents.sb3.policies import replaced_units

BOTH = (stable_baselines3.SAC, agents.SAC)
BUSY = {"replacement_rate": 0.02, "maturity_threshold": 8}


def make(algorithm, vec_env=None, policy="MlpPolicy", policy_kwargs=None, **settings):
    defaults = {"learning_rate": 1e-3, "learning_starts": 20, "buffer_size": 500, "batch_size": 33, "seed": 5, "device": "cpu"}
    kwargs = {"net_arch": [16, 12], **(policy_kwargs or {})}
    return algorithm(policy, vec_env or tapes(), policy_kwargs=kwargs, **(defaults | settings))


class Recorder(BaseCallback):
    """Keeps the actions, and what was logged of each time of learning."""

    def __init__(self):
        super().__init__()
        self.actions, self.logged = [], []

    def _on_step(self):
        self.actions.append(self.locals["buffer_actions"])
        return True

    def _on_rollout_start(self):
        self.logged.append({name: value for name, value in self.logger.name_to_value.items() if name.startswith("train/")})


def states(model):
    """Parameters, those of targets too, what the optimizers keep, and the entropy coefficient."""
    found = dict(model.policy.state_dict())
    for name in ("actor", "critic"):
        for k, state in getattr(model.policy, name).optimizer.state_dict()["state"].items():
            found |= {f"{name}.{k}.{key}": value for key, value in state.items()}
    if model.log_ent_coef is not None:
        found["log_ent_coef"] = model.log_ent_coef.detach()
    return found


def assert_close(ours, theirs):
    expected = states(theirs)
    found = states(ours)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value.numpy(), rtol=1e-3, atol=3e-5, err_msg=name)


SETTINGS = {
    "stock": {},
    "a coefficient that is given, tanh, weight decay, a schedule": {
        "ent_coef": 0.3,
        "learning_rate": lambda left: 1e-3 * left,
        "policy_kwargs": {"activation_fn": nn.Tanh, "optimizer_kwargs": {"weight_decay": 0.01, "betas": (0.8, 0.99)}},
    },
    "several updates, n-step returns, targets that wait": {
        "train_freq": 4,
        "gradient_steps": 3,
        "target_update_interval": 2,
        "n_steps": 3,
    },
    "three environments, normalised, with noise": {
        "vec_env": lambda: VecNormalize(tapes(3)),
        "action_noise": NormalActionNoise(np.zeros(3), np.full(3, 0.1)),
    },
    "three environments, whose transitions are overwritten": {"vec_env": lambda: tapes(3), "buffer_size": 90},
    "observations kept once": {
        "buffer_size": 50,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
        "optimize_memory_usage": True,
    },
    "one critic": {"policy_kwargs": {"n_critics": 1}},
    "three critics": {"policy_kwargs": {"n_critics": 3}, "tau": 0.1},
    "units that are replaced": {"policy": "CBPMlpPolicy", "policy_kwargs": {"method_kwargs": BUSY}},
    "units that are copied to targets": {
        "policy": "CBPMlpPolicy",
        "policy_kwargs": {"method_kwargs": {**BUSY, "utility": "adaptable_contribution"}, "target_units": "copy"},
    },
    "another method, of the critic": {
        "policy": "PlasticMlpPolicy",
        "policy_kwargs": {"method": "l2-init", "method_kwargs": {"actor": None}},
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_learned_is_sb3s(name):
    models, recorders, generators = [], [], []
    for algorithm in BOTH:
        settings = dict(SETTINGS[name])
        if "vec_env" in settings:
            settings["vec_env"] = settings["vec_env"]()
        model, recorder = make(algorithm, **settings), Recorder()
        models.append(model.learn(140 if name == "stock" else 80, callback=recorder))
        recorders.append(recorder)
        generators.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()))  # noqa: NPY002
    theirs, ours = models
    assert ours.slow_because is None
    assert generators[0] == generators[1]
    assert ours._n_updates == theirs._n_updates >= 15
    np.testing.assert_allclose(*[np.concatenate(recorder.actions) for recorder in recorders], atol=1e-4)
    assert [logged.keys() for logged in recorders[0].logged] == [logged.keys() for logged in recorders[1].logged]
    for a, b in zip(*[recorder.logged for recorder in recorders], strict=True):
        np.testing.assert_allclose(list(b.values()), list(a.values()), rtol=1e-3, atol=1e-4)
    assert_close(ours, theirs)
    if "units" in name:
        replaced = [replaced_units(model.policy) for model in models]
        assert replaced[0] == replaced[1]
        assert min(replaced[0].values()) > 0


class Gradients(PlasticityCallback):
    """Keeps what was measured of gradients, and the steps at which that was."""

    def __init__(self):
        super().__init__(every=15, ranks_every=10_000)
        self.measured = []

    def _record_changes(self, *before):
        of_layers = {(layer, name): value for layer, each in self._gradients.items() for name, value in each.items()}
        self.measured.append((self.num_timesteps, of_layers))
        super()._record_changes(*before)


@pytest.mark.parametrize("name", ["stock", "units that are replaced"])
def test_gradients_are_measured_in_compiled_updates_too(name, monkeypatch):
    monkeypatch.setattr(plasticity, "SAMPLES", 64)
    callbacks = [Gradients(), Gradients()]
    for algorithm, callback in zip(BOTH, callbacks, strict=True):
        model = make(algorithm, **SETTINGS[name])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.learn(130, callback=callback)
        assert len(model.critic.optimizer._optimizer_step_pre_hooks) == (name != "stock")  # the method's
    assert model.slow_because is None
    theirs, ours = [callback.measured for callback in callbacks]
    assert [step for step, _ in ours] == [step for step, _ in theirs] == [84, 99, 114, 129]
    for (_, expected), (_, found) in zip(theirs, ours, strict=True):
        assert found.keys() == expected.keys()
        assert len(found) == 2 * 6  # two measures of two layers of three networks
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("updates", [1, 10])
def test_the_first_updates_are_sb3s_to_the_last_digits(updates):
    theirs, ours = (make(algorithm).learn(20 + updates) for algorithm in BOTH)
    for name, value in states(theirs).items():
        np.testing.assert_allclose(states(ours)[name].numpy(), value.numpy(), rtol=1e-4, atol=3e-6, err_msg=name)


def test_a_rate_of_zero_changes_no_bit():
    kwargs = {"method_kwargs": {"replacement_rate": 0, "maturity_threshold": 5}}
    without = make(agents.SAC).learn(60)
    with_method = make(agents.SAC, policy="CBPMlpPolicy", policy_kwargs=kwargs).learn(60)
    for name, value in states(without).items():
        assert torch.equal(states(with_method)[name], value), name


@pytest.fixture
def threads():
    """Sets how many threads there are, until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "name",
    [
        "stock",
        "several updates, n-step returns, targets that wait",
        "three critics",
        "units that are copied to targets",
    ],
)
def test_the_number_of_threads_changes_no_bit(name, threads):
    found = []
    for number in (1, 2):
        threads(number)
        settings = dict(SETTINGS[name])
        if "vec_env" in settings:
            settings["vec_env"] = settings["vec_env"]()
        recorder = Recorder()
        model = make(agents.SAC, **settings).learn(60, callback=recorder)
        assert torch.get_num_threads() == number
        found.append((states(model), recorder.logged))
    (expected, logged), (got, logged_too) = found
    for key, value in expected.items():
        assert torch.equal(got[key], value), key
    assert logged_too == logged


def test_an_error_of_a_method_ends_an_update_on_two_threads_and_the_next_one_goes_on(threads, monkeypatch):
    threads(2)
    model = make(agents.SAC, **SETTINGS["units that are replaced"]).learn(30)
    method = model.policy.methods["critic"]
    before = states(model)
    with monkeypatch.context() as patch:
        patch.setattr(method, "before_update", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.learn(10, reset_num_timesteps=False)
    for name, value in states(model).items():  # no network has made its step
        assert torch.equal(value, before[name]), name
    updates = model._n_updates
    assert model.learn(10, reset_num_timesteps=False)._n_updates == updates + 10


def _train_on_two_threads(model, sender):
    sender.send(model.learn(5, reset_num_timesteps=False)._n_updates)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU, PyTorch refuses backward() in a forked process")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_second_thread_of_its_own(threads):
    threads(2)
    model = make(agents.SAC).learn(25)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train_on_two_threads, args=(model, sender))
    process.start()
    process.join(60)
    ended = process.exitcode
    process.kill()
    assert ended == 0
    assert receiver.recv() == model._n_updates + 5


@pytest.mark.parametrize(("first", "second"), [BOTH, BOTH[::-1]], ids=["from SB3", "to SB3"])
def test_either_class_goes_on_where_the_other_stopped(first, second, tmp_path):
    whole = make(first).learn(60)
    saved = make(first).learn(40)
    saved.save(tmp_path / "model")
    saved.save_replay_buffer(tmp_path / "buffer")
    generators = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    resumed = second.load(tmp_path / "model", env=saved.get_env(), device="cpu")
    resumed.load_replay_buffer(tmp_path / "buffer")
    assert not {"slow_because", "_marks", "_networks"} & vars(second.load(tmp_path / "model")).keys()
    torch.set_rng_state(generators[0])
    np.random.set_state(generators[1])  # noqa: NPY002
    resumed._last_obs = saved._last_obs
    resumed.learn(20, reset_num_timesteps=False)
    assert_close(resumed, whole)


def exchange_parameters(model):
    model.set_parameters(make(type(model), seed=6).get_parameters())


def exchange_a_module(model):
    torch.manual_seed(3)
    model.actor.latent_pi[0] = nn.Linear(6, 16)
    model.actor.optimizer = torch.optim.Adam(model.actor.parameters(), lr=1e-3)


def exchange_memory(model):
    for parameter in model.policy.parameters():
        parameter.data = parameter.data * 0.9
        parameter.grad = None


def change_options(model):
    model.critic.optimizer.param_groups[0]["weight_decay"] = 0.1


def read_of_nothing(model):
    model.critic.optimizer.state.clear()
    model.critic.optimizer.state[model.critic.qf0[0].weight].get("exp_avg")  # which leaves an empty entry there


def exchange_the_replay_buffer(model):
    model.replay_buffer = make(type(model), seed=6).learn(50).replay_buffer


def exchange_what_is_stored(model):
    model.replay_buffer.next_observations = model.replay_buffer.next_observations * 0.5


def exchange_the_coefficient(model):
    model.log_ent_coef.data = torch.tensor([-2.0])


CHANGES = [
    exchange_the_coefficient,
    exchange_parameters,
    exchange_a_module,
    exchange_memory,
    change_options,
    read_of_nothing,
    exchange_the_replay_buffer,
    exchange_what_is_stored,
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_between_updates_is_noticed(change):
    (theirs, ours), told = learn_on(change)
    assert told == []
    assert ours.slow_because is None
    assert_close(ours, theirs)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])  # noqa: S301
def test_a_copy_of_a_model_at_work_goes_on_by_itself_as_the_model_does(copied):
    model = make(agents.SAC, policy="CBPMlpPolicy", policy_kwargs={"method_kwargs": BUSY}).learn(40)
    generators = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    twin = copied(model)
    before = {name: value.clone() for name, value in states(model).items()}
    twin.learn(30, reset_num_timesteps=False)
    assert twin.slow_because is None
    for name, value in states(model).items():
        assert torch.equal(value, before[name]), name
    torch.set_rng_state(generators[0])
    np.random.set_state(generators[1])  # noqa: NPY002
    model.learn(30, reset_num_timesteps=False)
    for name, value in states(model).items():
        assert torch.equal(value, states(twin)[name]), name


def test_no_update_at_all_changes_nothing():
    model = make(agents.SAC).learn(30)
    before = {name: value.clone() for name, value in states(model).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about means of nothing: Stable-Baselines3 logs them
        model.train(0, 8)
    assert all(torch.equal(value, before[name]) for name, value in states(model).items())


class Trunk(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 4)
        self.layer = nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
        self.layer(torch.zeros(1, *observation_space.shape))

    def forward(self, observations):
        return self.layer(observations)


def hook_a_module(model):
    model.critic.qf0.register_forward_hook(lambda *_: None)


def hook_an_optimizer(model):
    model.critic.optimizer.register_step_post_hook(lambda *_: None)


def hook_the_coefficients_optimizer(model):
    model.ent_coef_optimizer.register_step_post_hook(lambda *_: None)


def freeze(model):
    model.actor.mu.bias.requires_grad = False


def replace_a_forward(model):
    layer = model.critic_target.qf1[0]
    layer.forward = lambda x: 0.5 * nn.functional.linear(x, layer.weight, layer.bias)


def replace_how_it_acts(model):
    mean = model.actor.mu
    mean.forward = lambda x: 0.5 * nn.functional.linear(x, mean.weight, mean.bias)


def replace_a_step(model):
    optimizer, step = model.critic.optimizer, model.critic.optimizer.step
    optimizer.step = lambda: step() if model.num_timesteps % 2 else None


def replace_the_coefficients_step(model):
    model.ent_coef_optimizer.step = lambda: None


def replace_the_minibatch(model):
    whole = model.replay_buffer.sample
    model.replay_buffer.sample = lambda batch_size, env: (torch.manual_seed(5), whole(batch_size, env=env))[1]


def replace_the_density(model):
    distribution, own = model.actor.action_dist, model.actor.action_dist.log_prob_from_params

    def halved(*arguments):
        actions, log_prob = own(*arguments)
        return actions, 0.5 * log_prob

    distribution.log_prob_from_params = halved


PATCHES = [
    replace_the_density,
    replace_a_forward,
    replace_how_it_acts,
    replace_a_step,
    replace_the_coefficients_step,
    replace_the_minibatch,
]


@pytest.mark.parametrize(("change", "steps"), [(PATCHES[0], 0), *((change, 40) for change in PATCHES)])
def test_methods_that_are_replaced_on_an_object_are_called(change, steps):
    found = []
    for algorithm in BOTH:
        model = make(algorithm)
        if steps:
            model.learn(steps)
        change(model)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.append(model.learn(steps + 30, reset_num_timesteps=not steps))
    assert "was replaced on an object" in model.slow_because
    assert len(caught) == 1
    assert_close(*found)


def forget_a_layer(model):
    for parameter in model.critic.qf0[0].parameters():
        del model.critic.optimizer.state[parameter]


class Halved(SquashedDiagGaussianDistribution):
    def log_prob(self, actions, gaussian_actions=None):
        return 0.5 * super().log_prob(actions, gaussian_actions)


def exchange_the_distribution(model):
    model.actor.action_dist = Halved(3)


def exchange_epsilon(model):
    model.actor.action_dist.epsilon = 1e-2


def hook_what_a_gradient_becomes(model):
    def zero(parameter):
        parameter.grad.zero_()

    model.actor.mu.weight.register_post_accumulate_grad_hook(zero)


def hook_the_coefficients_gradient(model):
    model.log_ent_coef.register_hook(lambda gradient: 0 * gradient)


def hook_all_modules(model):
    mean = model.actor.mu
    return nn.modules.module.register_module_forward_hook(lambda module, _, out: 0.9 * out if module is mean else None)


def tie_two_critics(model):
    for critic in (model.critic, model.critic_target):
        critic.qf1[0].weight = critic.qf0[0].weight
    model.critic.optimizer = torch.optim.Adam(model.critic.parameters(), lr=1e-3)


LATE = {
    forget_a_layer: "more steps for some parameters",
    exchange_the_distribution: "come from a Halved",
    exchange_epsilon: "epsilon 0.01",
    hook_what_a_gradient_becomes: "actor.mu.weight has hooks",
    hook_the_coefficients_gradient: "log_ent_coef has hooks",
    hook_all_modules: "all modules have hooks",
    tie_two_critics: "critic.qf0.0.weight, too",
}


def learn_on(change):
    """Both classes, with a change after the first updates, which may be taken back; the models, and what was told since."""
    models = []
    for algorithm in BOTH:
        model = make(algorithm).learn(40)
        handle = change(model)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            models.append(model.learn(30, reset_num_timesteps=False))
        if isinstance(handle, RemovableHandle):
            handle.remove()
    return models, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(("change", "reason"), LATE.items())
def test_what_has_no_fast_path_since_the_first_updates_takes_sb3s_loop(change, reason):
    (theirs, ours), (line,) = learn_on(change)
    assert reason in line
    assert_close(ours, theirs)


@pytest.mark.parametrize(("option", "value"), [("weight_decay", 1.0), ("betas", (0.5, 0.9))])
def test_options_of_a_second_group_of_parameters_are_noticed(option, value):
    class Set(BaseCallback):
        def _on_step(self):
            if self.n_calls == 40:
                self.model.critic.optimizer.param_groups[1][option] = value
            return True

    models = []
    for algorithm in BOTH:
        model = make(algorithm)
        held = [*model.critic.parameters()]
        model.critic.optimizer = torch.optim.Adam([{"params": held[:4]}, {"params": held[4:]}], lr=1e-3)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            models.append(model.learn(60, Set()))
    assert [f"another {option}" in str(warning.message) for warning in caught] == [True]
    assert_close(*reversed(models))


def test_bounds_of_the_standard_deviation_are_those_of_sb3_or_it_has_no_fast_path(monkeypatch):
    monkeypatch.setattr(policies, "LOG_STD_MAX", -1.0)
    theirs = make(stable_baselines3.SAC).learn(60)
    with pytest.warns(UserWarning, match="log σ lies within"):
        ours = make(agents.SAC).learn(60)
    assert_close(ours, theirs)


def halve_what_the_policy_predicts(model):
    whole = model.policy.predict
    model.policy.predict = lambda *args, **kwargs: (0.5 * whole(*args, **kwargs)[0], None)


def halve_what_the_model_predicts(model):
    whole = model.predict
    model.predict = lambda *args, **kwargs: (0.5 * whole(*args, **kwargs)[0], None)


def halve_what_its_class_predicts(model):
    whole = type(model).predict
    halved = {"predict": lambda self, *args, **kwargs: (0.5 * whole(self, *args, **kwargs)[0], None)}
    model.__class__ = type("Halving", (type(model),), halved)


@pytest.mark.parametrize(
    "change", [halve_what_the_policy_predicts, halve_what_the_model_predicts, halve_what_its_class_predicts]
)
def test_actions_are_those_that_predict_gives(change):
    class Change(BaseCallback):
        def _on_step(self):
            if self.n_calls == 45:  # between two updates
                change(self.model)
            return True

    models = []
    for algorithm in BOTH:
        model = make(algorithm, train_freq=30)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the policy
            models.append(model.learn(100, Change()))
    theirs, ours = models
    np.testing.assert_allclose(ours.replay_buffer.actions, theirs.replay_buffer.actions, atol=1e-4)
    assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_float16_takes_sb3s_loop(name):
    class Coarse(Tape):
        def observe(self):
            return super().observe().astype(self.observation_space.dtype)

    setattr(Coarse, name, spaces.Box(-5, 5, (2, 3), np.float16))
    model = make(agents.SAC, DummyVecEnv([lambda: Coarse(0)]))
    with pytest.warns(UserWarning, match="numbers in float16"):
        model.learn(40)


def test_targets_that_are_frozen_take_nothing_from_the_fast_path():
    models, told = learn_on(lambda model: model.critic_target.requires_grad_(False))
    assert told == []
    assert_close(*reversed(models))


UNSUPPORTED = {
    "features": ({"policy_kwargs": {"features_extractor_class": Trunk}}, None, "pass a Trunk"),
    "ELU": ({"policy_kwargs": {"activation_fn": nn.ELU}}, None, "with ReLU or Tanh between"),
    "no hidden layer": ({"policy_kwargs": {"net_arch": []}}, None, "no hidden layer"),
    "state-dependent exploration": ({"use_sde": True}, None, "use_sde"),
    "SGD": ({"policy_kwargs": {"optimizer_class": torch.optim.SGD}}, None, "torch.optim.sgd.SGD"),
    "cbp.Adam": ({"policy_kwargs": {"optimizer_class": cbp.Adam}}, None, "cbp.adam.Adam"),
    "amsgrad": ({"policy_kwargs": {"optimizer_kwargs": {"amsgrad": True}}}, None, "amsgrad"),
    "one row": ({"batch_size": 1}, None, "one transition"),
    "hooked module": ({}, hook_a_module, "Sequential has hooks"),
    "hooked optimizer": ({}, hook_an_optimizer, "optimizer has hooks"),
    "hooked optimizer of the coefficient": ({}, hook_the_coefficients_optimizer, "entropy coefficient has hooks"),
    "frozen parameter": ({}, freeze, "actor.mu.bias is frozen"),
}


@pytest.mark.parametrize(("settings", "change", "reason"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_has_no_fast_path_takes_sb3s_and_says_so_once(settings, change, reason):
    found, told = [], []
    for algorithm in BOTH:
        model = make(algorithm, **settings)
        if change:
            change(model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.learn(40)
        found.append(nn.utils.parameters_to_vector(model.policy.parameters()))
        told.append([str(warning.message) for warning in caught])
    assert torch.equal(*found)
    assert told[0] == []
    (line,) = told[1]
    assert "slower loop" in line
    assert reason in line
    assert model.slow_because in line


def test_dictionaries_take_sb3s_loop():
    class Parts(Tape):
        observation_space = spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "speed": spaces.Box(-1, 1, (3,))})

        def observe(self):
            return self.observation_space.sample()

    model = make(agents.SAC, DummyVecEnv([lambda: Parts(0)]), "MultiInputPolicy")
    with pytest.warns(UserWarning, match="slower loop: the observation space is Dict"):
        model.learn(30)


def test_a_loss_that_is_not_finite_ends_training():
    class Broken(Tape):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, math.nan, *rest

    with pytest.raises(ValueError, match="loss is not a finite number"):
        make(agents.SAC, DummyVecEnv([lambda: Broken(0)])).learn(40)
