"""Tests of the run that learns with any method: it is the batched run where both can do it, and a plain loop where not."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cbp
from agents.runs import checkpoint_files
from agents.runs import presets as of_agents
from agents.supervised import build
from agents.supervised.build import OnlineTasks, make_learner, together
from agents.supervised.config import LearningConfig, with_overrides
from agents.supervised.online import OnlineLearner, OnlineSettings
from agents.supervised.online_plain import PlainLearner
from agents.supervised.presets import PROBLEMS
from envs.streams import PermutedImages, SlowlyChangingRegression
from envs.streams.datasets import Images

CBP = {"replacement_rate": 0.02, "maturity_threshold": 20, "utility": "adaptable_contribution", "reset_optimizer": "none"}


def regression(seed: int = 3) -> SlowlyChangingRegression:
    return SlowlyChangingRegression(seed, period=100)


def permuted(seed: int = 3) -> PermutedImages:
    labels = np.repeat(np.arange(3), 20)
    pictures = np.random.default_rng(5).integers(0, 256, (60, 1, 3, 3))
    return PermutedImages(Images(pictures.astype(np.uint8), labels), seed, task_examples=150)


def plain(settings: OnlineSettings, make=regression, dtype=torch.float64) -> PlainLearner:
    return PlainLearner(make(), settings, 3, *((20, 1) if make is regression else (9, 3)), dtype=dtype)


def linears(learner: PlainLearner) -> list[nn.Linear]:
    return [module for module in learner.network if isinstance(module, nn.Linear)]


SHARED = {
    "backprop": OnlineSettings((6, 5), learning_rate=0.02),
    "l2": OnlineSettings((6, 5), activation="tanh", weight_decay=0.01),
    "l2-init": OnlineSettings((6, 5), method="l2-init", method_kwargs={"strength": 0.01}),
    "shrink-perturb": OnlineSettings((6, 5), method="shrink-perturb", method_kwargs={"shrink": 0.999, "perturb": 1e-3}),
    "cbp": OnlineSettings((6, 5), method="cbp", method_kwargs={**CBP, "rounding": "stochastic", "init": "kaiming"}),
    "cbp, counter": OnlineSettings((6, 5), method="cbp", method_kwargs={**CBP, "rounding": "counter"}),
}


@pytest.mark.parametrize("make", [regression, permuted])
@pytest.mark.parametrize("name", SHARED)
def test_it_is_the_batched_run(name, make):
    settings = replace(SHARED[name], loss="squared_error" if make is regression else "cross_entropy")
    if settings.method == "shrink-perturb":
        settings.method_kwargs.update(period=1, noise="normal")
    assert OnlineLearner.knows(settings)
    one = plain(settings, make)
    batched = OnlineLearner([make(3), make(4)], [settings] * 2, [3, 4], *one._sizes, dtype=torch.float64)
    for number in (130, 170):
        (own,), (expected,) = one.learn(number).values(), batched.learn(number).values()
        assert own == pytest.approx(expected[:1], abs=1e-9)
        one.begin_task()
    for layer, w, b in zip(linears(one), batched.weights, batched.biases, strict=True):
        assert torch.allclose(layer.weight, w[0], rtol=0, atol=1e-9)
        assert torch.allclose(layer.bias, b[0], rtol=0, atol=1e-9)
    own, expected = one.measures(), batched.measures()
    assert own.keys() == expected.keys()
    for measure, values in own.items():
        assert values == pytest.approx(expected[measure][:1], abs=1e-9)
    assert ("replaced" in own) == (settings.method == "cbp")
    assert own.get("replaced", np.ones(1)) > 0


def test_the_accuracy_of_a_run_that_has_diverged_is_no_number():
    settings = replace(SHARED["cbp"], loss="cross_entropy")
    diverges = replace(settings, learning_rate=1e200)
    one = plain(diverges, permuted)
    batched = OnlineLearner([permuted(3), permuted(3)], [diverges, settings], [3, 3], 9, 3, dtype=torch.float64)
    for _ in range(2):
        assert np.isnan(one.learn(60)["accuracy"])
        assert np.isnan(batched.learn(60)["accuracy"]).tolist() == [True, False]


class Loop:
    """Autograd, an optimizer and a method, written out; redo and regrama judge by the last 1,000 examples."""

    def __init__(self, settings: OnlineSettings, first: nn.Sequential) -> None:
        self.network = first
        self.optimizer = torch.optim.SGD(first.parameters(), lr=settings.learning_rate)
        seed = {"seed": 3} if settings.method in ("snr", "redo", "regrama", "upgd", "swr") else {}
        self.method = cbp.METHODS[settings.method](first, self.optimizer, **settings.method_kwargs, **seed)

    def learn(self, inputs: torch.Tensor, targets: torch.Tensor, judged: int | None) -> None:
        for i in range(len(inputs)):
            self.optimizer.zero_grad()
            F.mse_loss(self.network(inputs[i : i + 1])[0, 0], targets[i]).backward()
            self.method.before_update()
            self.optimizer.step()
            if judged is not None and (i + 1) % judged == 0:
                last = slice(max(0, i - 999), i + 1)
                self.optimizer.zero_grad()
                F.mse_loss(self.network(inputs[last])[:, 0], targets[last]).backward()
            self.method.step()


@pytest.mark.parametrize(
    ("method", "kwargs", "examples"),
    [
        ("parseval", {"strength": 1e-4}, 120),
        ("spectral", {"strength": 1e-2}, 120),
        ("upgd", {"sigma": 0.1}, 120),
        ("swr", {"factor": 0.05, "period": 1, "selection": "proportional", "decay_rate": 0.9}, 120),
        ("snr", {"max_silence": 30}, 120),
        ("hare-tortoise", {"period": 25, "momentum": 0.9}, 120),
        ("trac", {}, 120),
        ("redo", {"threshold": 0.5, "period": 40}, 120),
        ("regrama", {"threshold": 0.5, "period": 600}, 1300),
    ],
)
def test_other_methods_are_those_of_a_plain_loop(method, kwargs, examples):
    settings = OnlineSettings((6, 5), learning_rate=0.02, method=method, method_kwargs=kwargs)
    assert not OnlineLearner.knows(settings)
    one = plain(settings)
    loop = Loop(settings, plain(replace(settings, method=None, method_kwargs={})).network)
    for first, last in ((0, 70), (70, examples)):
        one.learn(last - first)
    inputs, targets = (torch.from_numpy(each).double() for each in regression().draw(examples))
    loop.learn(inputs, targets, kwargs["period"] if method in ("redo", "regrama") else None)
    for own, expected in zip(one.network.parameters(), loop.network.parameters(), strict=True):
        assert torch.allclose(own, expected, rtol=0, atol=1e-12)
    if loop.method.layers:
        assert one.measures()["replaced"] == [sum(layer.replaced for layer in loop.method.layers)] > [0]
    for own, expected in zip(one.method.layers, loop.method.layers, strict=True):
        assert torch.allclose(own.utility, expected.utility, rtol=0, atol=1e-12)


EVERY = {
    **{name: OnlineSettings((6, 4), method=name) for name in cbp.METHODS},
    "redo": OnlineSettings((6, 4), method="redo", method_kwargs={"threshold": 0.5, "period": 30}),
    "regrama": OnlineSettings((6, 4), method="regrama", method_kwargs={"threshold": 0.5, "period": 30}),
    "hare-tortoise": OnlineSettings((6, 4), method="hare-tortoise", method_kwargs={"period": 30}),
    "nap": OnlineSettings((6, 4), method="nap", layer_norm=True),
    "c-chain": OnlineSettings((6, 4), method="c-chain", method_kwargs={"first_strength": 0.1}),
    "crelu": OnlineSettings((6, 4), activation="crelu"),
    "reset-all": OnlineSettings((6, 4), fresh_at_task=True),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_run_that_stops_and_goes_on_is_the_run_that_does_not(name, monkeypatch):
    monkeypatch.setattr(build, "_CHUNK", 60)

    def tasks() -> OnlineTasks:
        return OnlineTasks(plain(EVERY[name], dtype=torch.float32), "error", 3, 100)

    def finish(run: OnlineTasks) -> list[dict[str, float]]:
        rows = []
        while run.done < run.total:
            rows += run.advance() or []
        return rows

    expected = finish(tasks())
    for stop in (1, 4):  # after 60 examples; after 200, where the method is about to be told of the second change
        first = tasks()
        rows = [row for _ in range(stop) for row in first.advance() or []]
        stream = io.BytesIO()
        torch.save(checkpoint_files.to_tensors(first.state_dict(0)), stream)
        stream.seek(0)
        second = tasks()
        second.advance()  # what it was does not matter
        second.load_state_dict(0, torch.load(stream, weights_only=True))
        assert rows + finish(second) == expected


def test_the_signal_of_a_change_comes_before_each_task_but_the_first():
    run = OnlineTasks(plain(OnlineSettings((8,), learning_rate=1e-9, method="fire")), "error", 2, 100)

    def products() -> torch.Tensor:
        weight = linears(run._learner)[0].weight.detach()
        return weight @ weight.T

    run.advance()
    apart = products()
    assert (apart - torch.diag(apart.diag())).abs().max() > 0.01
    run.advance()
    # FIRE: rows of length √(8/20), at right angles; ten iterations leave some thousandths.
    assert torch.allclose(products(), 0.4 * torch.eye(8, dtype=torch.float64), atol=0.02)


def test_a_network_that_is_fresh_in_each_task_has_forgotten():
    run = OnlineTasks(plain(OnlineSettings((8,), learning_rate=1e-9, fresh_at_task=True)), "error", 3, 100)
    seen = []
    for _ in range(3):
        run.advance()
        seen.append(linears(run._learner)[0].weight.detach().clone())
    assert torch.allclose(seen[0], plain(OnlineSettings((8,))).network[0].weight.detach(), atol=1e-6)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert (seen[first] - seen[second]).abs().mean() > 0.1


def test_norms_and_crelu_are_measured_as_the_next_layer_receives_them():
    inputs = torch.from_numpy(regression().draw(60)[0]).double()
    normed = plain(OnlineSettings((6,), layer_norm=True))
    normed.learn(60)
    first, norm, _, _ = normed.network
    h = torch.relu(norm(first(inputs))).detach()
    assert normed.measures()["hidden1/dormant_fraction"] == [cbp.metrics.dormant_fraction(h)]
    assert normed.measures()["hidden1/stable_rank"] == [cbp.metrics.stable_rank(h)]
    double = plain(OnlineSettings((6,), activation="crelu"))
    double.learn(60)
    z = double.network[0](inputs).detach()
    assert double.network[0].weight.shape == (3, 20)
    found = double.measures()
    assert found["hidden1/stable_rank"] == [cbp.metrics.stable_rank(torch.cat([z.relu(), (-z).relu()], dim=1))]
    assert "hidden1/dormant_fraction" not in found


def config(problem: str, method: str) -> LearningConfig:
    dataset, preset = next(iter(PROBLEMS[problem].items()))
    settings, kwargs, stream = with_overrides(preset, problem, method, [])
    world = (problem, dataset, method, preset.tasks, preset.examples, 0, None, "cpu")
    return LearningConfig(*world, stream=stream, method_kwargs=kwargs, settings=settings)


@pytest.mark.filterwarnings("ignore:some layers are left out:UserWarning")
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_preset_makes_a_learner(problem):
    for method in next(iter(PROBLEMS[problem].values())).methods:
        assert make_learner([config(problem, method)]).total > 0


def test_the_methods_of_agents_are_those_of_the_online_problems():
    of_policies = ("c-chain", "pfo")  # which compare what an agent does
    acting = {
        name for name in of_agents.METHODS if not name.startswith(("ppo", "l2-networks", "cbp-")) and name not in of_policies
    }
    for problem in ("slowly-changing-regression", "permuted-images"):
        for preset in PROBLEMS[problem].values():
            assert set(preset.methods) == acting | {"backprop"}


def test_only_runs_of_the_batched_learner_learn_together():
    apart = {m for m in of_agents.METHODS if not m.startswith(("ppo", "l2-networks", "cbp-"))} - {
        "l2",
        "l2-init",
        "shrink-perturb",
        "cbp",
    }
    for method in PROBLEMS["slowly-changing-regression"]["generated"].methods:
        assert (together(config("slowly-changing-regression", method)) is None) == (method in apart)
