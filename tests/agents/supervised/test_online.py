"""Tests of runs that learn together: each is what a plain loop with PyTorch's modules and the classes of ``cbp`` makes."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cbp
from agents.runs import checkpoint_files
from agents.supervised.mlp import MODULES
from agents.supervised.online import ACTIVATIONS, OnlineLearner, OnlineSettings
from cbp import metrics
from envs.streams import PermutedImages, SlowlyChangingRegression
from envs.streams.datasets import Images

CBP = {"replacement_rate": 0.02, "maturity_threshold": 20, "decay_rate": 0.99, "rounding": "stochastic", "init": "kaiming"}


def regression(seed: int) -> SlowlyChangingRegression:
    return SlowlyChangingRegression(seed, period=100)


def permuted(seed: int) -> PermutedImages:
    rng = np.random.default_rng(5)
    labels = np.repeat(np.arange(3), 20)
    pictures = rng.integers(0, 200, (3, 1, 3, 3))[labels] + rng.integers(0, 56, (60, 1, 3, 3))
    return PermutedImages(Images(pictures.astype(np.uint8), labels), seed, task_examples=150)


def learner(settings, seeds, make=regression, dtype=torch.float64) -> OnlineLearner:
    inputs, outputs = (20, 1) if make is regression else (9, 3)
    settings = settings if isinstance(settings, list) else [settings] * len(seeds)
    return OnlineLearner([make(seed) for seed in seeds], settings, seeds, inputs, outputs, dtype=dtype)


class PlainLoop:
    """One run, from the same first weights, by autograd, ``torch.optim.SGD`` and the classes of ``cbp``."""

    def __init__(self, settings: OnlineSettings, seed: int, first: OnlineLearner, run: int, make=regression) -> None:
        modules = []
        for w in first.weights:
            linear = nn.Linear(w.shape[2], w.shape[1], dtype=w.dtype)
            linear.weight.data = w[run].clone()
            nn.init.zeros_(linear.bias)
            modules += [linear, MODULES[settings.activation][0]()]
        self.model = nn.Sequential(*modules[:-1])
        self.settings, self.stream = settings, make(seed)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        kwargs = dict(settings.method_kwargs)
        if settings.method in ("cbp", "shrink-perturb"):
            kwargs["seed"] = seed
        self.method = cbp.METHODS[settings.method](self.model, self.optimizer, **kwargs) if settings.method else None
        self.replaced: list[tuple[int, list[list[int]]]] = []

    def learn(self, examples: int) -> float:
        inputs, targets = self.stream.draw(examples)
        scores = []
        for i in range(examples):
            x = torch.from_numpy(inputs[i : i + 1]).double()
            outputs = self.model(x)
            if self.settings.loss == "squared_error":
                loss = (outputs[0, 0] - targets[i]) ** 2
                scores.append(loss.item())
            else:
                loss = F.cross_entropy(outputs, torch.tensor([targets[i]]))
                scores.append(float(outputs.argmax() == targets[i]))
            self.optimizer.zero_grad()
            loss.backward()
            if self.method is not None:
                self.method.before_update()
            self.optimizer.step()
            if self.method is not None:
                replaced = self.method.step()
                if any(len(units) for units in replaced):
                    self.replaced.append((i, [units.tolist() for units in replaced]))
        return float(np.mean(scores))


def same(batched: OnlineLearner, plain: list[PlainLoop], tolerance: float = 1e-9) -> None:
    for run, loop in enumerate(plain):
        linears = [module for module in loop.model if isinstance(module, nn.Linear)]
        for w, b, linear in zip(batched.weights, batched.biases, linears, strict=True):
            assert torch.allclose(w[run], linear.weight, rtol=0, atol=tolerance)
            assert torch.allclose(b[run], linear.bias, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("activation", "gain"),
    [
        ("relu", 2**0.5),
        ("tanh", 5 / 3),
        ("sigmoid", 1),
        ("elu", 2**0.5),
        ("leaky_relu", (2 / 1.0001) ** 0.5),
        ("swish", 2**0.5),
    ],
)
def test_weights_are_kaiming_uniform_and_so_are_those_of_new_units(activation, gain):
    settings = OnlineSettings((3000, 400), activation, method="cbp", method_kwargs=CBP)
    batched = learner(settings, [3, 4])
    # Uniform on ±gain·√(3/inputs), the last layer without gain; of 400 numbers the largest is hardly below 0.97 of the bound.
    bounds = [gain * math.sqrt(3 / 20), gain * math.sqrt(3 / 3000), math.sqrt(3 / 400)]
    for weights, biases, bound in zip(batched.weights, batched.biases, bounds, strict=True):
        assert weights.abs().amax(dim=(1, 2)).tolist() == pytest.approx([bound] * 2, rel=0.03)
        assert weights.abs().max() <= bound * (1 + 1e-6)
        assert weights.abs().mean().item() == pytest.approx(bound / 2, rel=0.1)
        assert not biases.any()
    for layer, bound in zip(batched._replacing, bounds, strict=False):
        assert layer._bounds == pytest.approx([bound] * 2)
    assert not torch.equal(batched.weights[0][0], batched.weights[0][1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("net_arch", [(5,), (6, 4)])
def test_learning_is_the_plain_loop(activation, net_arch):
    settings = OnlineSettings(net_arch, activation, learning_rate=0.005, weight_decay=0.01)
    batched = learner(settings, [3, 4])
    plain = [PlainLoop(settings, seed, batched, run) for run, seed in enumerate([3, 4])]
    errors = batched.learn(200)["error"]
    assert errors == pytest.approx([loop.learn(200) for loop in plain], abs=1e-9)
    same(batched, plain)


UTILITIES = [
    "contribution",
    "zero_contribution",
    "adaptable_contribution",
    "weight",
    "adaptation",
    "feature_by_input",
    "random",
]


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("rounding", ["counter", "stochastic"])
def test_continual_backpropagation_is_that_of_the_plain_loop(utility, rounding):
    kwargs = {**CBP, "utility": utility, "rounding": rounding, "reset_optimizer": "none"}
    settings = [
        OnlineSettings((6, 5), learning_rate=0.005, method="cbp", method_kwargs={**kwargs, "replacement_rate": rate})
        for rate in (0.02, 0.3)  # 0.3 of six eligible units are more than one at once
    ]
    batched = learner(settings, [3, 4])
    plain = [PlainLoop(settings[run], seed, batched, run) for run, seed in enumerate([3, 4])]
    for _ in range(2):
        errors = batched.learn(200)["error"]
        assert errors == pytest.approx([loop.learn(200) for loop in plain], abs=1e-9)
        same(batched, plain)
    counts = batched.measures()["replaced"].tolist()
    assert counts == [sum(layer.replaced for layer in loop.method.layers) for loop in plain]
    assert 20 < counts[0] < counts[1]


@pytest.mark.parametrize(
    ("method", "kwargs", "per_run"),
    [
        ("shrink-perturb", {"shrink": 0.999, "period": 1, "noise": "normal"}, ("perturb", (1e-3, 1e-2))),
        ("l2-init", {}, ("strength", (1e-3, 1e-1))),
    ],
)
def test_what_acts_on_all_weights_is_that_of_the_plain_loop(method, kwargs, per_run):
    name, values = per_run
    settings = [
        OnlineSettings((6, 5), learning_rate=rate, method=method, method_kwargs={**kwargs, name: value})
        for rate, value in zip((0.005, 0.01), values, strict=True)
    ]
    batched = learner(settings, [3, 4])
    plain = [PlainLoop(settings[run], seed, batched, run) for run, seed in enumerate([3, 4])]
    errors = batched.learn(150)["error"]
    assert errors == pytest.approx([loop.learn(150) for loop in plain], abs=1e-9)
    same(batched, plain)


@pytest.mark.parametrize("units", [700, 100_000])
def test_noise_is_that_of_the_plain_loop_however_little_of_it_is_kept(units):
    # 22 u + 1 numbers an update: 2^21 are those of 136 updates of 700 units, of which 64 are drawn at once; one of 100,000.
    kwargs = {"shrink": 1.0, "perturb": 1e-3, "period": 1, "noise": "normal"}
    settings = OnlineSettings((units,), learning_rate=1e-6, method="shrink-perturb", method_kwargs=kwargs)
    batched = learner(settings, [3])
    assert batched._regularizer._drawn.shape[1] == (64 if units == 700 else 1)
    plain = PlainLoop(settings, 3, batched, 0)
    batched.learn(5)
    plain.learn(5)
    same(batched, [plain])


@pytest.mark.parametrize("method", [None, "cbp"])
def test_labels_are_learned_as_by_the_plain_loop(method):
    kwargs = {**CBP, "utility": "adaptable_contribution", "reset_optimizer": "none"} if method else {}
    settings = OnlineSettings((8, 6), loss="cross_entropy", learning_rate=0.05, method=method, method_kwargs=kwargs)
    batched = learner(settings, [3, 4], permuted)
    plain = [PlainLoop(settings, seed, batched, run, permuted) for run, seed in enumerate([3, 4])]
    accuracies = batched.learn(400)["accuracy"]
    assert accuracies == pytest.approx([loop.learn(400) for loop in plain])
    assert accuracies.min() > 0.4
    same(batched, plain)


METHODS = {
    None: {},
    "cbp": {**CBP, "utility": "adaptable_contribution"},
    "shrink-perturb": {"shrink": 1.0, "perturb": 1e-3, "period": 1, "noise": "normal"},
    "l2-init": {"strength": 1e-3},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [regression, permuted])
def test_a_run_does_not_depend_on_its_company(method, make):
    loss = "squared_error" if make is regression else "cross_entropy"
    settings = OnlineSettings((7, 5), loss=loss, weight_decay=1e-3, method=method, method_kwargs=METHODS[method])
    alone, among = (learner(settings, seeds, make, torch.float32) for seeds in ([5], [1, 5, 2, 7, 8, 9, 11]))
    for _ in range(3):
        (own,), (others,) = alone.learn(350).values(), among.learn(350).values()
        assert own[0] == others[1]
    for w, other in zip([*alone.weights, *alone.biases], [*among.weights, *among.biases], strict=True):
        assert torch.equal(w[0], other[1])
    for name, values in alone.measures().items():
        assert values[0] == among.measures()[name][1]


@pytest.mark.parametrize("method", METHODS)
def test_runs_that_stop_go_on_in_other_company(method):
    settings = OnlineSettings((7, 5), method=method, method_kwargs=METHODS[method])
    seeds = [1, 2, 3]
    whole = learner(settings, seeds, dtype=torch.float32)
    scores = [whole.learn(number)["error"] for number in (330, 90, 600)]
    first = learner(settings, seeds, dtype=torch.float32)
    first.learn(330)
    states = []
    for run in range(3):
        stream = io.BytesIO()
        torch.save(checkpoint_files.to_tensors(first.state_dict(run)), stream)
        stream.seek(0)
        states.append(torch.load(stream, weights_only=True))
    again = learner(settings, [3, 1], dtype=torch.float32)
    again.learn(33)  # what it was does not matter
    for run, number in enumerate((2, 0)):
        again.load_state_dict(run, states[number])
    for expected, number in zip(scores[1:], (90, 600), strict=True):
        assert again.learn(number)["error"].tolist() == expected[[2, 0]].tolist()
    for w, other in zip([*again.weights, *again.biases], [*whole.weights, *whole.biases], strict=True):
        assert torch.equal(w, other[[2, 0]])
    for name, values in again.measures().items():
        assert values.tolist() == whole.measures()[name][[2, 0]].tolist()


@pytest.mark.parametrize(
    ("net_arch", "examples"),
    [
        pytest.param((5,), 64, id="all of the noise that was drawn at once"),
        pytest.param((5,), 63, id="all but one"),
        pytest.param((1500, 1000), 1, id="noise of one update at once"),
    ],
)
def test_a_run_that_stops_when_its_noise_is_used_up_goes_on_with_new_noise(net_arch, examples):
    settings = OnlineSettings(net_arch, learning_rate=1e-4, method="shrink-perturb", method_kwargs=METHODS["shrink-perturb"])
    whole, again = (learner(settings, [3], dtype=torch.float32) for _ in range(2))
    whole.learn(examples)
    again.load_state_dict(0, whole.state_dict(0))
    for each in (whole, again):
        each.learn(2)
    for w, other in zip([*whole.weights, *whole.biases], [*again.weights, *again.biases], strict=True):
        assert torch.equal(w, other)


def test_measures_are_those_of_the_last_thousand_examples():
    batched = learner(OnlineSettings((6, 4)), [3, 4])
    batched.learn(600)
    batched.learn(700)
    streams = [regression(3), regression(4)]
    found = batched.measures()
    for run, stream in enumerate(streams):
        x = torch.from_numpy(stream.draw(1300)[0][300:]).double()
        h1 = torch.relu(x @ batched.weights[0][run].T + batched.biases[0][run])
        h2 = torch.relu(h1 @ batched.weights[1][run].T + batched.biases[1][run])
        for name, h in (("hidden1", h1), ("hidden2", h2)):
            assert found[f"{name}/dormant_fraction"][run] == ((h > 0).double().mean(0) <= 0.01).double().mean()
            assert found[f"{name}/stable_rank"][run] == metrics.stable_rank(h)
        assert found["hidden1/weight_magnitude"][run] == pytest.approx(batched.weights[0][run].abs().mean().item())


def test_a_run_that_diverges_leaves_the_others_alone():
    steps = [0.01, 50.0]
    together = learner([OnlineSettings((5,), learning_rate=step) for step in steps], [1, 2])
    error = together.learn(1100)["error"]
    assert not np.isfinite(error[1])
    assert error[0] == learner(OnlineSettings((5,)), [1]).learn(1100)["error"][0]
    assert np.isnan(together.measures()["hidden1/stable_rank"][1])


def test_settings_that_cannot_learn_together_are_refused():
    with pytest.raises(ValueError, match="may differ in step size"):
        learner([OnlineSettings((5,)), OnlineSettings((6,))], [1, 2])
    with pytest.raises(ValueError, match="replacement_rate must be a finite number in"):
        learner(OnlineSettings((5,), method="cbp", method_kwargs={"replacement_rate": 2}), [1])
    kwargs = {"shrink": 1.0, "perturb": 1e-3, "period": 5, "noise": "normal"}
    with pytest.raises(ValueError, match="do not learn together"):
        learner(OnlineSettings((5,), method="shrink-perturb", method_kwargs=kwargs), [1])
