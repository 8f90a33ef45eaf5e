"""`agents.PPO` trains what Stable-Baselines3's own PPO trains: the same draws, the same numbers up to float rounding.

Actions and parameters are compared within rounding; a sample whose probability ratio lies
within rounding of the clip range would fall on one side here and on the other there, so settings are such that none does.
"""

from __future__ import annotations

import functools
import math
import warnings

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tape import Tape, tapes
from torch import nn

import agents
import cbp
from agents.sb3.buffers import NormalizedRolloutBuffer, compute_advantages
from agents.sb3.kernels import tanh
from agents.sb3.networks import hidden_layers

BOTH = (stable_baselines3.PPO, agents.PPO)
BUSY = {"replacement_rate": 0.02, "maturity_threshold": 8, "init": "lecun"}


def ants(n_envs):
    return DummyVecEnv([lambda: Monitor(gymnasium.make("envs:ant-nonstationary-v0", period=100, seed=0))] * n_envs)


def make(algorithm, vec_env, policy="MlpPolicy", net_arch=(16, 12), activation_fn=nn.ReLU, policy_kwargs=None, **settings):
    defaults = {"n_steps": 64, "batch_size": 32, "n_epochs": 3, "seed": 5, "device": "cpu", "max_grad_norm": math.inf}
    net_arch = list(net_arch) if isinstance(net_arch, tuple) else net_arch
    kwargs = {"net_arch": net_arch, "activation_fn": activation_fn, **(policy_kwargs or {})}
    return algorithm(policy, vec_env, policy_kwargs=kwargs, **(defaults | settings))


def numpy_state():
    """Where NumPy's generator is: its numbers, and how many of them are used up."""
    _, numbers, position, *_ = np.random.get_state()  # noqa: NPY002
    return [*numbers.tolist(), position]


def train_both(environments, rollouts, n_envs=2, **settings):
    """Both classes from the same seed; the models, the random states they leave, and what they logged at the end."""
    results = []
    for algorithm in BOTH:
        model = make(algorithm, environments(n_envs), **settings)
        model.learn(rollouts * model.n_steps * n_envs, log_interval=None)
        logged = {name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")}
        results.append((model, torch.get_rng_state(), numpy_state(), logged))
    assert results[1][0].slow_because is None
    return results


def kept(model):
    """Of each parameter of the policy: itself, its gradient, and what Adam keeps of it."""
    state = model.policy.optimizer.state
    return {
        name: {"parameter": parameter, "gradient": parameter.grad, **state[parameter]}
        for name, parameter in model.policy.named_parameters()
    }


def assert_equal(results, rtol=2e-4, atol=1e-5, gradients=True):
    """What both hold; a parameter may be apart by a thirtieth of the largest step that Adam makes in one update, 3·10⁻⁴."""
    (theirs, their_torch, their_numpy, their_log), (ours, our_torch, our_numpy, our_log) = results
    assert torch.equal(their_torch, our_torch)
    assert their_numpy == our_numpy
    assert theirs.num_timesteps == ours.num_timesteps
    assert theirs._n_updates == ours._n_updates
    close = {"rtol": rtol, "atol": atol}
    kinds = [*(["gradient"] if gradients else []), "exp_avg", "exp_avg_sq"]
    expected, found = kept(theirs), kept(ours)
    for name, values in expected.items():
        # A gradient is a sum over samples whose terms may cancel. Its rounding is that of the terms, and these are as large as
        # the largest gradients of the network.
        network = [other for other_name, other in expected.items() if ("value" in other_name) == ("value" in name)]
        torch.testing.assert_close(
            found[name]["parameter"], values["parameter"], **close, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert found[name]["step"] == values["step"]
        for kind in kinds:
            largest = max(float(other[kind].abs().max()) for other in network)
            torch.testing.assert_close(found[name][kind], values[kind], rtol=1e-2, atol=1e-4 * largest)
    assert our_log.keys() == their_log.keys()
    for name, value in their_log.items():
        assert our_log[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    method = getattr(theirs.policy, "method", None)
    for layer, expected in zip(ours.policy.method.layers, method.layers, strict=True) if method else ():
        assert layer.name == expected.name
        assert layer.replaced == expected.replaced > 2
        assert torch.equal(layer.age, expected.age)
        assert torch.equal(layer.generator.get_state(), expected.generator.get_state())
        torch.testing.assert_close(layer.utility, expected.utility, rtol=1e-3, atol=1e-5)
        if isinstance(layer, cbp.MaturingLayer):
            assert layer.eligible == expected.eligible


# One rollout of the Ant


@pytest.mark.parametrize(("n_envs", "kwargs"), [(1, {}), (4, {}), (1, {"method": None, "layer_norm": True})])
def test_the_first_steps_of_the_ant_are_those_of_sb3(n_envs, kwargs):
    """An Ant is chaotic: the rounding of an action has grown to another trajectory after 50 steps."""
    policy = "PlasticMlpPolicy" if kwargs else "MlpPolicy"
    models = []
    for algorithm in BOTH:
        model = make(algorithm, ants(n_envs), policy, net_arch=(64, 64), n_steps=64, policy_kwargs=kwargs)
        generator = torch.Generator().manual_seed(0)
        for module in model.policy.modules():
            if isinstance(module, nn.LayerNorm):  # whose weights are 1 and 0 before training
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
                module.eps = 0.1
        models.append(model.learn(1, log_interval=None))
    theirs, ours = models
    assert ours.slow_because is None
    # the buffers have been flattened, environment by environment
    first = np.arange(64 * n_envs) % 64 < 10
    for name in ("observations", "actions", "values", "log_probs"):
        expected, found = (getattr(model.rollout_buffer, name)[first] for model in (theirs, ours))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)
    assert torch.equal(ours.policy.optimizer.state[ours.policy.log_std]["step"], torch.tensor(3.0 * 2 * n_envs))


@pytest.mark.parametrize("policy", ["MlpPolicy", "CBPMlpPolicy"])
@pytest.mark.parametrize(("max_grad_norm", "clip_range_vf"), [(math.inf, None), (0.5, 0.2)])
def test_after_a_rollout_of_the_ant_parameters_are_those_of_sb3(policy, max_grad_norm, clip_range_vf):
    """SB3's own policy, advantages and updates on the observations and actions of our rollout."""
    settings = {
        "policy": policy,
        "policy_kwargs": {"method_kwargs": BUSY} if policy == "CBPMlpPolicy" else {},
        "net_arch": (64, 64),
        "max_grad_norm": max_grad_norm,
        "clip_range_vf": clip_range_vf,
        "n_epochs": 2,
        "learning_rate": 1e-4,
    }
    ours, theirs = (make(algorithm, ants(4), **settings) for algorithm in BOTH[::-1])
    seen = Copied()
    ours.learn(64 * 4, callback=seen, log_interval=None)
    theirs._setup_learn(64 * 4)  # as the beginning of learn(): resets environments, makes a logger
    buffer = theirs.rollout_buffer
    for t in range(64):
        observations, actions = seen.observations[t], seen.actions[t]
        with torch.no_grad():
            values, log_probs, _ = theirs.policy.evaluate_actions(*map(torch.as_tensor, (observations, actions)))
        buffer.add(observations, actions, seen.rewards[t], seen.episode_starts[t], values, log_probs)
    with torch.no_grad():
        last_values = theirs.policy.predict_values(torch.as_tensor(ours._last_obs))
    buffer.compute_returns_and_advantage(last_values, ours._last_episode_starts)
    for name in ("values", "log_probs", "advantages", "returns"):
        np.testing.assert_allclose(getattr(seen, name), getattr(buffer, name), rtol=1e-4, atol=1e-5, err_msg=name)
    assert seen.episode_starts.sum() > 4  # episodes end in this rollout
    np.random.set_state(seen.numpy_state)  # noqa: NPY002
    theirs.train()
    for name, values in kept(theirs).items():
        torch.testing.assert_close(kept(ours)[name]["parameter"], values["parameter"], rtol=2e-4, atol=1e-5, msg=name)
    for mine, expected in (
        zip(*(model.policy.method.layers for model in (ours, theirs)), strict=True) if policy != "MlpPolicy" else ()
    ):
        assert mine.replaced == expected.replaced > 2


class Copied(BaseCallback):
    """Keeps a rollout, and where NumPy's generator was at its end."""

    every_step = False

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        vars(self).update(
            {name: array.copy() for name, array in vars(self.model.rollout_buffer).items() if isinstance(array, np.ndarray)}
        )
        self.numpy_state = np.random.get_state()  # noqa: NPY002


# Several rollouts of an environment that actions do not change


SETTINGS = {
    "stock settings, tanh": {"max_grad_norm": 0.5, "activation_fn": nn.Tanh, "net_arch": None, "ent_coef": 0.0},
    "not coupled": {},
    "value clipping": {"clip_range_vf": 0.1, "max_grad_norm": 0.3},
    "value clipping, not coupled": {"clip_range_vf": 0.1},
    "entropy bonus, weighted values": {"ent_coef": 0.01, "vf_coef": 0.25, "normalize_advantage": False},
    "advantages normalised over the rollout": {
        "normalize_advantage": False,
        "rollout_buffer_class": NormalizedRolloutBuffer,
    },
    "weight decay, betas, fused": {
        "policy_kwargs": {"optimizer_kwargs": {"weight_decay": 1e-2, "betas": (0.99, 0.99), "eps": 1e-8, "fused": True}}
    },
    "weight decay, but not of log_std": {
        "policy": "PlasticMlpPolicy",
        "policy_kwargs": {"method": None, "decay_log_std": False, "optimizer_kwargs": {"weight_decay": 0.5}},
        "learning_rate": lambda left: 3e-4 * left,
    },
    "networks of different shapes": {"net_arch": {"pi": [20, 12], "vf": [9]}},
    "three hidden layers": {"net_arch": [20, 12, 8], "policy": "CBPMlpPolicy", "policy_kwargs": {"method_kwargs": BUSY}},
    "extractors not shared": {"policy_kwargs": {"share_features_extractor": False}},
    "schedules": {"learning_rate": lambda left: 3e-4 * left, "clip_range": lambda left: 0.1 + 0.2 * left},
    "layer norm, tanh": {
        "policy": "PlasticMlpPolicy",
        "policy_kwargs": {"method": None, "layer_norm": True},
        "activation_fn": nn.Tanh,
    },
    "one environment": {"n_envs": 1, "gamma": 0.9, "gae_lambda": 0.5},
}


@pytest.mark.parametrize(
    "settings",
    [
        # Each depth is compiled by itself, which takes a while.
        pytest.param(settings, id=name, marks=[pytest.mark.soak] if name == "three hidden layers" else [])
        for name, settings in SETTINGS.items()
    ],
)
def test_after_several_rollouts_parameters_are_those_of_sb3(settings):
    assert_equal(train_both(tapes, 3, **settings))


METHODS = {
    "redo": {"method": "redo", "method_kwargs": {"threshold": 0.7, "period": 5}},
    "self-normalised resets": {"method": "snr", "method_kwargs": {"rejection": 0.2, "max_silence": 200, "min_silence": 0}},
    "shrink and perturb": {"method": "shrink-perturb", "method_kwargs": {"shrink": 0.999, "perturb": 1e-3}},
    "soft, now and then": {
        "method": "shrink-perturb",
        "method_kwargs": {"shrink": 0.9, "perturb": 0.1, "period": 7, "noise": "fresh"},
    },
    "l2 init": {"method": "l2-init", "method_kwargs": {"strength": 1.0}},
    "regrama": {"method": "regrama", "method_kwargs": {"threshold": 0.7, "period": 5}},
    "parseval": {"method": "parseval", "method_kwargs": {"strength": 1.0, "scale": 0.2}},
    "spectral": {"method": "spectral", "method_kwargs": {"strength": 1.0}},
    "upgd": {"method": "upgd", "method_kwargs": {"sigma": 1.0}},
    "swr": {"method": "swr", "method_kwargs": {"factor": 0.01, "period": 3, "utility": "magnitude"}},
    "nap": {"method": "nap"},
    "hare and tortoise": {"method": "hare-tortoise", "method_kwargs": {"momentum": 0.9, "period": 5}},
    "trac": {"method": "trac", "method_kwargs": {"decay_rates": (0.9, 0.99), "first_scale": 0.1}},
    "layer norm": {"method": None, "layer_norm": True},
    "cbp and layer norm": {"method": "cbp", "method_kwargs": BUSY, "layer_norm": True},
    "cbp in the first layer": {"method": "cbp", "method_kwargs": BUSY, "method_layers": "first"},
}


@pytest.mark.parametrize("max_grad_norm", [math.inf, 0.5])
@pytest.mark.parametrize("policy_kwargs", METHODS.values(), ids=METHODS)
def test_with_any_method_parameters_are_those_of_sb3(policy_kwargs, max_grad_norm):
    settings, rollouts = {"policy": "PlasticMlpPolicy", "max_grad_norm": max_grad_norm}, 2
    if policy_kwargs["method"] == "snr":  # so that units are silent at times
        settings, rollouts = {**settings, "batch_size": 8, "n_epochs": 2}, 3
    results = train_both(tapes, rollouts, policy_kwargs=policy_kwargs, **settings)
    assert_equal(results)
    weights = [
        model.policy.mlp_extractor.policy_net[0].weight for model in (without_method(rollouts, **settings), results[1][0])
    ]
    assert not torch.allclose(*weights, atol=1e-4)


@functools.cache
def without_method(rollouts, **settings):
    """A model that trained without any method."""
    return make(agents.PPO, tapes(2), policy_kwargs={"method": None}, **settings).learn(rollouts * 128)


def test_norms_are_trained_with_their_own_epsilon():
    trained = []
    for algorithm, eps in ((stable_baselines3.PPO, 0.1), (agents.PPO, 0.1), (agents.PPO, 1e-5)):
        model = make(algorithm, tapes(2), "PlasticMlpPolicy", policy_kwargs={"method": None, "layer_norm": True})
        for module in model.policy.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps
        trained.append(nn.utils.parameters_to_vector(model.learn(256).policy.parameters()))
    theirs, ours, other = trained
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-5)
    assert not torch.allclose(other, theirs, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("method", [None, "cbp", "redo"])  # redo acts between two updates of both
def test_each_network_clipped_by_itself_has_its_gradient_scaled_to_the_norm(method):
    """One update: the gradients of an unclipped one, each network's times min(1, 0.1 / its norm)."""
    gradients = []
    for settings in ({}, {"max_grad_norm": 0.1, "clip_each_network": True}):
        policy_kwargs = {"method": method, "method_kwargs": {"period": 1} if method == "redo" else {}}
        model = make(
            agents.PPO, tapes(2), "PlasticMlpPolicy", policy_kwargs=policy_kwargs, batch_size=128, n_epochs=1, **settings
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="no unit will be replaced")
            model.learn(128)
        assert model.slow_because is None
        gradients.append({name: parameter.grad.double() for name, parameter in model.policy.named_parameters()})
    for of_value in (False, True):
        names = [name for name in gradients[0] if ("value" in name) == of_value]
        norm = torch.cat([gradients[0][name].flatten() for name in names]).norm()
        assert norm > 0.1
        for name in names:
            torch.testing.assert_close(gradients[1][name], gradients[0][name] * 0.1 / norm, rtol=1e-4, atol=1e-8)


def test_clipping_each_network_needs_the_fast_path():
    model = make(agents.PPO, tapes(2), activation_fn=nn.ELU, max_grad_norm=0.5, clip_each_network=True)
    with pytest.raises(ValueError, match="clip_each_network needs the fast path: a network is not made of Linear layers"):
        model.learn(128)


@pytest.mark.parametrize("max_grad_norm", [math.inf, 0.5])
def test_samples_whose_ratio_is_clipped_train_the_policy_as_under_sb3(max_grad_norm):
    results = train_both(tapes, 2, learning_rate=1e-3, clip_range=0.05, n_epochs=5, max_grad_norm=max_grad_norm)
    assert results[0][3]["train/clip_fraction"] > 0.05
    assert_equal(results)


@pytest.mark.parametrize("max_grad_norm", [math.inf, 0.5])
@pytest.mark.parametrize("reset_optimizer", ["none", "moments"])
@pytest.mark.parametrize("rounding", ["counter", "stochastic"])
def test_units_are_replaced_as_under_sb3(rounding, reset_optimizer, max_grad_norm):
    method_kwargs = BUSY | {"rounding": rounding, "reset_optimizer": reset_optimizer}
    policy_kwargs = {"method_kwargs": method_kwargs}
    settings = {"policy": "CBPMlpPolicy", "policy_kwargs": policy_kwargs, "max_grad_norm": max_grad_norm}
    assert_equal(train_both(tapes, 3, learning_rate=1e-4, **settings))


@pytest.mark.parametrize("max_grad_norm", [math.inf, 0.5])
@pytest.mark.parametrize("activation_fn", [nn.ReLU, nn.Tanh])
def test_units_of_every_layer_of_unequal_networks_are_replaced_as_under_sb3(activation_fn, max_grad_norm):
    optimizer_kwargs = {"weight_decay": 1e-2, "fused": True}
    policy_kwargs = {"method_kwargs": BUSY, "optimizer_kwargs": optimizer_kwargs, "share_features_extractor": False}
    settings = {"activation_fn": activation_fn, "max_grad_norm": max_grad_norm, "net_arch": {"pi": [9], "vf": [20, 12]}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*truncated mini-batch", UserWarning)
        # 128 rows are minibatches of 50, 50 and 28.
        results = train_both(tapes, 4, 2, policy="CBPMlpPolicy", policy_kwargs=policy_kwargs, batch_size=50, **settings)
    assert_equal(results)
    assert [layer.name for layer in results[1][0].policy.method.layers] == [
        "policy/hidden1",
        "value/hidden1",
        "value/hidden2",
    ]


UTILITIES = ["zero_contribution", "adaptable_contribution", "weight", "adaptation", "feature_by_input", "random"]


@pytest.mark.parametrize("utility", UTILITIES)
def test_other_utilities_are_averaged_as_under_sb3(utility):
    policy_kwargs = {"method_kwargs": BUSY | {"utility": utility}}
    assert_equal(train_both(tapes, 2, policy="CBPMlpPolicy", learning_rate=1e-4, policy_kwargs=policy_kwargs))


def test_many_updates_without_a_clip_range_stay_within_rounding():
    policy_kwargs = {"method_kwargs": BUSY}
    settings = {"clip_range": 1e6, "n_epochs": 20, "learning_rate": 1e-4, "net_arch": (32, 32)}
    assert_equal(train_both(tapes, 4, policy="CBPMlpPolicy", policy_kwargs=policy_kwargs, **settings), rtol=1e-3, atol=1e-5)


def test_a_last_minibatch_that_is_smaller_is_trained_on_too():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*truncated mini-batch", UserWarning)
        assert_equal(train_both(tapes, 2, batch_size=50))
        assert_equal(train_both(tapes, 2, batch_size=127, max_grad_norm=0.5))  # of 1: not normalised
        assert_equal(train_both(tapes, 2, batch_size=500))  # the only one


@pytest.mark.parametrize("policy", ["MlpPolicy", "CBPMlpPolicy"])
def test_a_target_for_the_divergence_stops_at_the_same_update(policy, capsys):
    policy_kwargs = {"method_kwargs": BUSY | {"replacement_rate": 0.05}} if policy == "CBPMlpPolicy" else {}
    settings = {"target_kl": 0.001, "learning_rate": 3e-3, "verbose": 1}
    results = train_both(tapes, 4, policy=policy, policy_kwargs=policy_kwargs, **settings)
    assert_equal(results, gradients=False)  # those of the update that was not made any more are known here
    assert capsys.readouterr().out.count("Early stopping at step") >= 4
    steps = float(next(iter(results[1][0].policy.optimizer.state.values()))["step"])
    assert 0 < steps < 4 * 12


def test_normalised_environments_are_trained_on_as_by_sb3():
    results = train_both(lambda n: VecNormalize(tapes(n)), 4)
    assert_equal(results)
    statistics = [(model.env.obs_rms.mean, model.env.ret_rms.var) for model, *_ in results]
    assert np.array_equal(statistics[0][0], statistics[1][0])
    assert statistics[0][1] == statistics[1][1]


@pytest.mark.parametrize("max_grad_norm", [math.inf, 0.5])
def test_the_number_of_threads_does_not_change_the_result(max_grad_norm):
    before, parameters = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            model = make(
                agents.PPO, tapes(2), "CBPMlpPolicy", policy_kwargs={"method_kwargs": BUSY}, max_grad_norm=max_grad_norm
            )
            parameters.append(nn.utils.parameters_to_vector(model.learn(512).policy.parameters()))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    assert torch.equal(*parameters)


def test_actions_of_several_dimensions_are_those_of_sb3():
    class Square(Tape):
        action_space = spaces.Box(-1, 1, (2, 2), np.float32)

    seen = []
    for algorithm in BOTH:
        recorder = Recorder()
        make(algorithm, DummyVecEnv([lambda: Monitor(Square(0))] * 2), learning_rate=0.0).learn(256, callback=recorder)
        seen.append(recorder)
    assert_seen_alike(*seen)


def test_a_method_stepped_by_a_callback_finds_its_forward_passes():
    class Stepping(BaseCallback):
        def _on_training_start(self):
            self.method = cbp.ContinualBackprop(
                self.model.policy, self.model.policy.optimizer, layers=hidden_layers(self.model.policy)
            )

        def _on_step(self):
            return True

        def _on_rollout_start(self):
            if self.num_timesteps:
                self.method.step()

    model = make(agents.PPO, tapes(2))
    with pytest.warns(UserWarning, match="hooks"):
        model.learn(384, callback=Stepping())


# Callbacks, saving and loading


class Recorder(BaseCallback):
    """Notes what a callback can see; stops training at a step if told to."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.seen, self.computed, self.stop_at = [], [], stop_at

    def _on_training_start(self):
        self.seen.append("training starts")

    def _on_rollout_start(self):
        self.seen.append("rollout starts")

    def _on_step(self):
        arrays = [self.locals[name].tolist() for name in ("rewards", "dones", "new_obs")]
        infos = [{name: self.comparable(value) for name, value in info.items()} for info in self.locals["infos"]]
        self.seen.append((self.num_timesteps, self.n_calls, self.locals["n_steps"], arrays, infos))
        self.computed += [self.locals[name].copy() for name in ("actions", "clipped_actions")]
        return self.num_timesteps != self.stop_at

    @staticmethod
    def comparable(value):
        """An array as a list; an episode's return and length without the time it took."""
        if isinstance(value, dict):
            return {name: item for name, item in value.items() if name != "t"}
        return value.tolist() if isinstance(value, np.ndarray) else value

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        self.seen.append(("rollout ends", buffer.full, buffer.pos))
        self.computed += [buffer.actions, buffer.log_probs, buffer.values, buffer.advantages, buffer.returns]

    def _on_training_end(self):
        self.seen.append("training ends")


def assert_seen_alike(theirs, ours):
    assert theirs.seen == ours.seen
    for expected, found in zip(theirs.computed, ours.computed, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stop_at", [None, 180])
def test_callbacks_see_what_they_see_under_sb3(stop_at):
    recorders = []
    for algorithm in BOTH:
        recorders.append(Recorder(stop_at))
        model = make(algorithm, tapes(2), learning_rate=0.0).learn(256, callback=recorders[-1])
        assert model.num_timesteps == (stop_at or 256)
    theirs, ours = recorders
    assert_seen_alike(theirs, ours)
    assert sum(entry[0] == "rollout ends" for entry in ours.seen) == (2 if stop_at is None else 1)


def anneal(policy, step):
    if step % 10 == 0:
        policy.log_std.data.sub_(0.05)


def shrink_the_critic(policy, step):
    if step % 32 == 0:  # the last step of a rollout, too
        with torch.no_grad():
            policy.value_net.weight.mul_(0.5)


def load_others(policy, step):
    if step == 40:
        policy.load_state_dict({name: 1.1 * weights for name, weights in policy.state_dict().items()})


def exchange_the_head(policy, step):
    if step == 50:
        policy.action_net = nn.Linear(12, 3)
        policy.optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)


class Changing(BaseCallback):
    """Changes the policy at some steps; counts rollouts."""

    def __init__(self, change):
        super().__init__()
        self.change, self.begun = change, 0

    def _on_rollout_start(self):
        self.begun += 1

    def _on_step(self):
        torch.manual_seed(self.n_calls)
        self.change(self.model.policy, self.n_calls)
        return True


@pytest.mark.parametrize("change", [anneal, shrink_the_critic, load_others, exchange_the_head])
def test_what_a_callback_changes_within_a_rollout_acts_at_once_as_under_sb3(change):
    recorders, models = [], []
    for algorithm in BOTH:
        recorders.append(Recorder())
        models.append(make(algorithm, tapes(2)).learn(256, [Changing(change), recorders[-1]]))
    theirs, ours = models
    assert ours.slow_because is None
    assert_seen_alike(*recorders)
    for (name, parameter), other in zip(theirs.policy.named_parameters(), ours.policy.parameters(), strict=True):
        torch.testing.assert_close(other, parameter, rtol=2e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def bend(policy):
    policy.mlp_extractor.policy_net[1] = nn.GELU()


def test_what_has_no_fast_path_from_the_start_of_a_rollout_takes_sb3s_loop_at_once():
    class Bending(Changing):
        def _on_rollout_start(self):
            super()._on_rollout_start()
            bend(self.model.policy)

    parameters = []
    for algorithm in BOTH:
        callback = Bending(lambda *_: None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = make(algorithm, tapes(2)).learn(256, callback)
        assert callback.begun == 2
        parameters.append(nn.utils.parameters_to_vector(model.policy.parameters()))
    assert torch.equal(*parameters)
    assert ["GELU" in str(warning.message) for warning in caught] == [True]


def draw_otherwise(policy):
    class Other(DiagGaussianDistribution):
        pass

    policy.action_dist = Other(policy.action_dist.action_dim)


@pytest.mark.parametrize("change", [bend, draw_otherwise])
def test_what_has_no_fast_path_from_within_a_rollout_waits_for_its_end_and_it_is_said(change):
    with pytest.warns(UserWarning, match="next rollout|slower loop") as told:
        make(agents.PPO, tapes(2)).learn(256, Changing(lambda policy, step: change(policy) if step == 20 else None))
    first, second = (str(warning.message) for warning in told)
    assert "acts from the next rollout on, not at once" in first
    assert "slower loop" in second


@pytest.mark.parametrize("policy", ["MlpPolicy", "CBPMlpPolicy"])
@pytest.mark.parametrize(("saver", "loader"), [BOTH, BOTH[::-1]], ids=["from SB3", "to SB3"])
def test_what_one_class_saved_the_other_goes_on_with(saver, loader, policy, tmp_path):
    policy_kwargs = {"method_kwargs": BUSY} if policy == "CBPMlpPolicy" else {}
    make(saver, tapes(2), policy, policy_kwargs=policy_kwargs, learning_rate=1e-4).learn(256).save(tmp_path / "model")
    models = []
    for algorithm in (saver, loader):
        model = algorithm.load(tmp_path / "model", env=tapes(2), device="cpu")
        assert type(model) is algorithm
        model.set_random_seed(9)
        models.append(model.learn(256, reset_num_timesteps=False))
        assert getattr(model, "slow_because", None) is None
    for parameter, other in zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True):
        torch.testing.assert_close(other, parameter, rtol=2e-4, atol=2e-6)


# What has no fast path


class Trunk(BaseFeaturesExtractor):
    """Shared layers below both networks."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=8)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(spaces.flatdim(observation_space), 8), nn.ReLU())

    def forward(self, observations):
        return self.layers(observations)


class OwnBuffer(RolloutBuffer):
    """Adds in its own way."""

    def add(self, *args, **kwargs):
        super().add(*args, **kwargs)


def hook_a_module(model):
    model.policy.action_net.register_forward_hook(lambda *_: None)


def hook_the_optimizer(model):
    model.policy.optimizer.register_step_post_hook(lambda *_: None)


def freeze(model):
    model.policy.action_net.bias.requires_grad = False


def group_parameters(model):
    policy = model.policy
    actor = [policy.log_std, *policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]
    critic = [*policy.mlp_extractor.value_net.parameters(), *policy.value_net.parameters()]
    policy.optimizer = torch.optim.Adam([{"params": actor, "lr": 1e-3}, {"params": critic, "lr": 1e-3, "betas": (0.8, 0.99)}])


def replace_a_forward(model):
    layer = model.policy.mlp_extractor.value_net[0]
    layer.forward = lambda x: 0.5 * nn.functional.linear(x, layer.weight, layer.bias)


def replace_a_step(model):
    optimizer, step = model.policy.optimizer, model.policy.optimizer.step
    optimizer.step = lambda: step() if model._n_updates % 2 else None


def replace_minibatches(model):
    whole = model.rollout_buffer.get
    model.rollout_buffer.get = lambda batch_size: list(whole(batch_size))[1:]


def replace_the_entropy(model):
    distribution = model.policy.action_dist
    distribution.entropy = lambda: 0.1 * type(distribution).entropy(distribution)


class EveryOther(RolloutBuffer):
    """Gives every second minibatch."""

    def get(self, batch_size=None):
        for index, samples in enumerate(super().get(batch_size)):
            if index % 2:
                yield samples


def share_a_network(model):
    policy = model.policy
    policy.mlp_extractor.value_net = policy.mlp_extractor.policy_net
    policy.optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)


def hook_a_gradient(model):
    model.policy.action_net.weight.register_hook(lambda gradient: 0 * gradient)


def exchange_an_extractor(model):
    class Half(FlattenExtractor):
        def forward(self, observations):
            return 0.5 * super().forward(observations)

    model.policy.vf_features_extractor = Half(model.observation_space)


def tie_two_layers(model):
    policy = model.policy
    policy.mlp_extractor.value_net[0].weight = policy.mlp_extractor.policy_net[0].weight
    policy.optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)


def normalise_without_weights(model):
    extractor = model.policy.mlp_extractor
    extractor.policy_net.insert(1, nn.LayerNorm(16, elementwise_affine=False))
    extractor.policy_net.insert(4, nn.LayerNorm(12, elementwise_affine=False))


def normalise_one_layer(model):
    model.policy.mlp_extractor.policy_net.insert(1, nn.LayerNorm(16))
    model.policy.optimizer = torch.optim.Adam(model.policy.parameters(), lr=1e-3)


def normalise_otherwise(model):
    model.policy.mlp_extractor.value_net[1].eps = 0.1


UNSUPPORTED = {
    "norms that differ": (
        {"policy": "PlasticMlpPolicy", "policy_kwargs": {"method": None, "layer_norm": True}},
        normalise_otherwise,
        "are not alike",
    ),
    "norms without weights": ({}, normalise_without_weights, "a LayerNorm has no bias"),
    "one norm": ({}, normalise_one_layer, "LayerNorm and ReLU or Tanh"),
    "buffer with its own minibatches": ({"rollout_buffer_class": EveryOther}, None, "method get() of its own"),
    "a layer's own forward": ({}, replace_a_forward, "Linear.forward() was replaced on an object"),
    "an optimizer's own step": ({}, replace_a_step, "Adam.step() was replaced"),
    "a buffer's own minibatches": ({}, replace_minibatches, "RolloutBuffer.get() was replaced"),
    "a distribution's own entropy": ({"ent_coef": 0.1}, replace_the_entropy, "DiagGaussianDistribution.entropy() was replaced"),
    "networks that share": ({}, share_a_network, "share a module"),
    "an extractor of the value network": ({}, exchange_an_extractor, "pass a Half"),
    "layers that are tied": ({}, tie_two_layers, "policy_net.0.weight, too"),
    "hooked gradient": ({}, hook_a_gradient, "action_net.weight has hooks"),
    "shared layers": ({"policy_kwargs": {"features_extractor_class": Trunk}}, None, "pass a Trunk"),
    "ELU": ({"activation_fn": nn.ELU}, None, "ReLU or Tanh"),
    "no hidden layer": ({"net_arch": ()}, None, "no hidden layer"),
    "state-dependent exploration": ({"use_sde": True}, None, "StateDependentNoiseDistribution"),
    "SGD": ({"policy_kwargs": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}}}, None, "torch.optim.sgd.SGD"),
    "cbp.Adam": ({"policy_kwargs": {"optimizer_class": cbp.Adam}}, None, "cbp.adam.Adam"),
    "amsgrad": ({"policy_kwargs": {"optimizer_kwargs": {"amsgrad": True}}}, None, "amsgrad"),
    "own buffer": ({"rollout_buffer_class": OwnBuffer}, None, "OwnBuffer"),
    "hooked module": ({}, hook_a_module, "Linear has hooks"),
    "hooked optimizer": ({}, hook_the_optimizer, "optimizer has hooks"),
    "frozen parameter": ({}, freeze, "action_net.bias is frozen"),
    "groups of parameters": ({}, group_parameters, "groups with another betas"),
}


@pytest.mark.parametrize(("settings", "change", "reason"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_has_no_fast_path_takes_sb3s_and_says_so_once(settings, change, reason):
    parameters, told = [], []
    for algorithm in BOTH:
        model = make(algorithm, tapes(2), **settings)
        if change:
            change(model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.learn(256)
        parameters.append(nn.utils.parameters_to_vector(model.policy.parameters()))
        told.append([str(warning.message) for warning in caught])
    assert torch.equal(*parameters)
    assert told[0] == []
    assert len(told[1]) == 1
    assert "slower loop" in told[1][0]
    assert reason in told[1][0]
    assert model.slow_because in told[1][0]


def forget_the_head(state, head):
    for parameter in head.parameters():
        del state[parameter]


def read_of_nothing(state, head):
    state.clear()
    state[head.weight].get("exp_avg")  # which leaves an empty entry there


@pytest.mark.parametrize("change", [forget_the_head, read_of_nothing])
def test_what_an_optimizer_forgot_begins_anew_as_under_sb3(change):
    found = []
    for algorithm in BOTH:
        model = make(algorithm, tapes(2)).learn(256)
        change(model.policy.optimizer.state, model.policy.value_net)
        model.set_random_seed(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.append(model.learn(128, reset_num_timesteps=False))
    theirs, ours = (nn.utils.parameters_to_vector(model.policy.parameters()) for model in found)
    torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=1e-5)
    assert ["more steps for some parameters" in str(warning.message) for warning in caught] == [True] * (
        change is forget_the_head
    )


def test_hooks_of_all_modules_are_called():
    model = make(agents.PPO, tapes(2))
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        with pytest.warns(UserWarning, match="all modules have hooks"):
            model.learn(128)
    finally:
        handle.remove()
    assert model.policy.value_net in seen


def test_a_schedule_of_torch_that_counts_the_steps_of_an_optimizer_takes_nothing_from_the_fast_path():
    model = make(agents.PPO, tapes(2))
    torch.optim.lr_scheduler.ExponentialLR(model.policy.optimizer, 0.9)
    model.learn(256)
    assert model.slow_because is None


PARTS = spaces.Dict({"position": spaces.Box(-1, 1, (2,)), "speed": spaces.Box(-1, 1, (3,))})
IMAGE = spaces.Box(0, 255, (1, 8, 8), np.uint8)
HALF = spaces.Box(-5, 5, (3,), np.float16)
TINY = {"policy_kwargs": {"features_extractor_class": Trunk}}


@pytest.mark.parametrize(
    ("observations", "actions", "settings", "reason"),
    [
        (Tape.observation_space, spaces.Discrete(3), {}, "not from a Gaussian"),
        (Tape.observation_space, spaces.MultiBinary(2), {}, "not from a Gaussian"),
        (PARTS, Tape.action_space, {"policy": "MultiInputPolicy"}, "observation space is Dict"),
        (IMAGE, Tape.action_space, {"policy": "CnnPolicy", **TINY}, "not a Box of numbers"),
        (HALF, Tape.action_space, {}, "numbers in float16"),
    ],
    ids=["discrete actions", "binary actions", "dictionaries", "images", "float16"],
)
def test_other_spaces_take_sb3s_loop_and_it_is_said_once(observations, actions, settings, reason):
    class Other(Tape):
        observation_space, action_space = observations, actions

        def observe(self):
            observations.seed(int(self.numbers.integers(1000)))
            return observations.sample()

    parameters = []
    for algorithm in BOTH:
        model = make(algorithm, DummyVecEnv([lambda: Monitor(Other(0))]), **settings)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parameters.append(nn.utils.parameters_to_vector(model.learn(128).policy.parameters()))
    assert torch.equal(*parameters)
    assert len(caught) == 1
    assert reason in str(caught[0].message)
    assert model.slow_because in str(caught[0].message)


def test_actions_in_float64_stay_within_their_space():
    """0.2 is nearest in float32 to a number above it."""

    class Exact(Tape):
        action_space = spaces.Box(-0.2, 0.2, (3,), np.float64)

        def step(self, action):
            received[-1].append(action.copy())
            assert self.action_space.contains(action)
            return super().step(action)

    received = []
    for algorithm in BOTH:
        received.append([])
        make(algorithm, DummyVecEnv([lambda: Monitor(Exact(0))]), policy_kwargs={"log_std_init": 1.0}).learn(64)
    theirs, ours = np.array(received)
    assert theirs.dtype == ours.dtype == np.float64
    assert np.array_equal(theirs == 0.2, ours == 0.2)
    assert (ours == 0.2).sum() > 50
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.float16])
def test_probabilities_are_those_of_the_actions_that_were_drawn_whatever_the_buffer_keeps_of_them(dtype):
    class Coarse(Tape):
        action_space = spaces.Box(-5, 5, (3,), dtype)

    found = []
    for algorithm in BOTH:
        model = make(algorithm, DummyVecEnv([lambda: Monitor(Coarse(0))]), policy_kwargs={"log_std_init": 1.0}).learn(128)
        found.append(nn.utils.parameters_to_vector(model.policy.parameters()))
    assert model.slow_because is None
    torch.testing.assert_close(*reversed(found), rtol=2e-4, atol=1e-5)


def test_why_training_was_slow_is_not_saved(tmp_path):
    model = make(agents.PPO, tapes(1), net_arch=())
    with pytest.warns(UserWarning, match="no hidden layer"):
        model.learn(64)
    model.save(tmp_path / "model")
    assert "slow_because" not in vars(stable_baselines3.PPO.load(tmp_path / "model", device="cpu"))


def test_a_loss_that_is_not_finite_ends_training():
    class Broken(Tape):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, math.nan, *rest

    model = make(agents.PPO, DummyVecEnv([lambda: Monitor(Broken(0))]))
    with pytest.raises(ValueError, match="loss is not a finite number"):
        model.learn(64)


@pytest.mark.parametrize("max_grad_norm", [math.inf, 0.5])
@pytest.mark.parametrize("activation_fn", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("name", ["action_net", "value_net", "mlp_extractor.policy_net.0", "mlp_extractor.value_net.0"])
def test_weights_that_are_not_finite_end_training(name, activation_fn, max_grad_norm):
    threads = torch.get_num_threads()
    model = make(agents.PPO, tapes(1), activation_fn=activation_fn, max_grad_norm=max_grad_norm)
    with torch.no_grad():
        model.policy.get_submodule(name).bias[0] = math.nan
    with pytest.raises(ValueError, match=r"nan|not a finite number"):
        model.learn(64)
    assert torch.get_num_threads() == threads


# The numerics underneath


@pytest.mark.parametrize("n_envs", [1, 3])
def test_advantages_are_sb3s_to_the_bit(n_envs):
    numbers = np.random.default_rng(0)
    box = spaces.Box(-1, 1, (1,), np.float32)
    buffers = [RolloutBuffer(50, box, box, gamma=0.98, gae_lambda=0.9, n_envs=n_envs) for _ in range(2)]
    rewards, values = (numbers.normal(size=(50, n_envs)).astype(np.float32) for _ in range(2))
    starts = (numbers.random((50, n_envs)) < 0.2).astype(np.float32)
    for buffer in buffers:
        buffer.rewards, buffer.values, buffer.episode_starts = rewards.copy(), values.copy(), starts.copy()
    last_values, dones = torch.from_numpy(numbers.normal(size=n_envs).astype(np.float32)), numbers.random(n_envs) < 0.5
    buffers[0].compute_returns_and_advantage(last_values, dones)
    compute_advantages(buffers[1], last_values[:, None], dones)
    assert np.array_equal(buffers[0].advantages, buffers[1].advantages)
    assert np.array_equal(buffers[0].returns, buffers[1].returns)


def test_tanh_is_exact_to_float_rounding():
    tiny = np.logspace(-30, -1, 3000)
    z = np.concatenate([np.linspace(-20, 20, 40_001), tiny, -tiny, [0.0, 1e30, -1e30]]).astype(np.float32)
    found = z[None].copy()
    tanh(found)
    expected = np.tanh(z.astype(np.float64))
    error = np.abs(found[0] - expected)[expected != 0] / np.abs(expected[expected != 0])
    assert error.max() < 8 * np.finfo(np.float32).eps
    assert np.median(error) < np.finfo(np.float32).eps
    assert np.abs(found).max() <= 1


def test_tanh_is_odd_keeps_the_sign_of_zero_and_does_not_hide_nan():
    z = np.concatenate([np.linspace(0, 20, 4001), np.logspace(-30, -1, 300)]).astype(np.float32)
    of_z, of_minus_z = z[None].copy(), -z[None]
    tanh(of_z)
    tanh(of_minus_z)
    np.testing.assert_allclose(of_minus_z, -of_z, rtol=8 * np.finfo(np.float32).eps)
    special = np.array([[0.0, -0.0, math.inf, -math.inf, math.nan]], np.float32)
    tanh(special)
    assert special[0, :4].tolist() == [0, 0, 1, -1]
    assert np.signbit(special[0, :2]).tolist() == [False, True]
    assert np.isnan(special[0, 4])
