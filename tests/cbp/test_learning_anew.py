"""`cbp.Trainability`: how well a network learns something new, beside fresh networks."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import cbp
from cbp.trainability import Score

INPUTS = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))


def network(units: int = 24) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, units), nn.ReLU(), nn.Linear(units, 2))


@pytest.fixture(scope="module")
def trainability():
    return cbp.Trainability(network, INPUTS, repetitions=6, updates=120, batch_size=50)


def some_network() -> nn.Sequential:
    torch.manual_seed(5)
    return network()


@pytest.fixture(scope="module")
def score_of_some(trainability):
    return trainability(some_network())


def test_a_fresh_network_is_as_able_as_new(score_of_some):
    found = score_of_some
    assert found.low < found.score < found.high
    assert 0.8 < found.score < 1.25


def test_a_network_whose_hidden_units_are_dead_learns_nothing(trainability):
    dead = network()
    nn.init.constant_(dead[0].bias, -100)
    # The output bias learns the mean of the targets, which is 0 already.
    assert trainability(dead).score < 0.02


def test_a_head_of_large_weights_learns_faster_and_is_left_out_on_demand(trainability, score_of_some):
    large = some_network()
    with torch.no_grad():
        large[2].weight.mul_(10)
    assert trainability(large).score > score_of_some.score + 0.05
    found, plain = trainability(large, head="2"), trainability(some_network(), head="2")
    assert found.areas.tolist() == plain.areas.tolist() != score_of_some.areas.tolist()


def test_a_fresh_head_is_that_of_the_fresh_network_of_the_repetition():
    measure = cbp.Trainability(network, INPUTS, repetitions=3, updates=20, batch_size=50)
    for repetition, (_, of_network, _) in enumerate(measure._seeds):
        torch.manual_seed(of_network)
        fresh = network()
        nn.init.zeros_(fresh[2].weight)
        assert measure(fresh, head="2").areas[repetition] == measure.fresh_areas[repetition]


@pytest.mark.parametrize("path", ["3", "2.weight", "0"])
def test_a_head_that_networks_do_not_share_is_refused(trainability, path):
    other = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match=f"head must be the path of a module that .* have alike, got '{path}'"):
        trainability(other, head=path)


@pytest.mark.parametrize("alive", [4, 12])
def test_the_fewer_units_are_alive_the_less_it_learns(trainability, score_of_some, alive):
    some = some_network()
    with torch.no_grad():
        some[0].bias[alive:] = -100
    assert trainability(some).score < score_of_some.score - 0.05


def test_what_it_computes_already_does_not_count(trainability, score_of_some):
    moved = some_network()
    with torch.no_grad():
        moved[2].bias += 1024  # a power of two, so that nearly nothing is rounded away
    assert trainability(moved).score == pytest.approx(score_of_some.score, abs=0.02)


@pytest.mark.parametrize(("updates", "batch_size", "points"), [(20, 100, range(1, 21)), (40, 64, range(2, 41, 2))])
def test_the_area_is_that_of_a_loop_written_out(updates, batch_size, points):
    found = cbp.Trainability(
        network, INPUTS, repetitions=2, updates=updates, batch_size=batch_size, optimizer=lambda w: torch.optim.SGD(w, 0.1)
    )
    seeds = torch.randint(2**62, (2, 3), generator=torch.Generator().manual_seed(0)).tolist()
    for repetition, (of_targets, of_network, of_order) in enumerate(seeds):
        torch.manual_seed(of_targets)
        g = network()(INPUTS).detach()
        torch.manual_seed(of_network)
        net = network()
        y = net(INPUTS).detach() + (g - g.mean(0)) / ((g - g.mean(0)) ** 2).mean(0).sqrt()
        generator, area, order = torch.Generator().manual_seed(of_order), 0.0, []
        for update in range(1, updates + 1):
            # Minibatches of an epoch are all of one size: 200 are three of 64.
            order = order or list(torch.randperm(200, generator=generator)[: 200 // batch_size * batch_size].split(batch_size))
            rows = order.pop(0)
            loss = ((net(INPUTS[rows]) - y[rows]) ** 2).mean()
            gradients = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for weight, gradient in zip(net.parameters(), gradients, strict=True):
                    weight -= 0.1 * gradient
            if update in points:
                area += max(0, 1 - ((net(INPUTS) - y) ** 2).mean().item()) / 20
        assert found.fresh_areas[repetition].item() == pytest.approx(area, rel=1e-4)


def test_a_score_is_the_ratio_of_means_and_its_interval_is_over_pairs():
    # Each pair has half of what its fresh network has.
    found = Score.of(torch.tensor([0.2, 0.4]), torch.tensor([0.4, 0.8]))
    assert (found.score, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    # Of two pairs: 0.5 ± 12.706 · std(0, 1) / √2 = 0.5 ± 12.706 · 0.7071 / 1.4142
    found = Score.of(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0]))
    assert (found.score, found.low, found.high) == pytest.approx((0.5, -5.853, 6.853))
    # 0.4/0.8; what remains of each pair is 0.1 − 0.5·0.5 = −0.15, 0.3 − 0.5·0.9 = −0.15 and 0.8 − 0.5·1.0 = 0.3, of a standard
    # deviation of √(0.135/2) = 0.2598, and 4.303 · 0.2598 / (√3 · 0.8) = 0.8068
    found = Score.of(torch.tensor([0.1, 0.3, 0.8]), torch.tensor([0.5, 0.9, 1.0]))
    assert (found.score, found.low, found.high) == pytest.approx((0.5, 0.5 - 0.8068, 0.5 + 0.8068), abs=1e-3)


@pytest.mark.parametrize("repetitions", [2, 3, 5, 10, 30])
def test_nineteen_of_twenty_intervals_have_the_true_ratio(repetitions):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        fresh = rng.normal(0.6, 0.06, repetitions)
        found = Score.of(torch.from_numpy(0.8 * fresh + rng.normal(0, 0.05, repetitions)), torch.from_numpy(fresh))
        held += found.low <= 0.8 <= found.high
    assert held / 2000 == pytest.approx(0.95, abs=0.015)  # three standard errors


@pytest.mark.parametrize("factor", [1e10, 1e20, 1e30, math.inf, math.nan])
def test_a_network_that_has_diverged_has_a_score(trainability, factor):
    diverged = some_network()
    with torch.no_grad():
        diverged[2].bias += factor
        diverged[2].weight *= factor
    assert trainability(diverged).score == pytest.approx(0, abs=0.1)


def test_dropout_draws_alike_and_leaves_the_global_generator_alone():
    def dropping():
        return nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 2))

    trainability, some, state = cbp.Trainability(dropping, INPUTS, repetitions=2, updates=20), dropping(), torch.get_rng_state()
    assert torch.equal(trainability(some).areas, trainability(some).areas)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_learns_where_no_gradients_are_wanted(mode):
    def score():
        return cbp.Trainability(network, INPUTS.clone(), repetitions=2, updates=20)(some_network()).areas

    with mode():
        areas = score()
    assert torch.equal(areas, score())


def test_a_network_with_other_outputs_is_refused(trainability):
    with pytest.raises(ValueError, match=r"must be that of fresh ones, \(200, 2\), got \(200, 1\)"):
        trainability(nn.Linear(3, 1))


def test_the_network_and_the_global_generator_stay_as_they_are():
    some = network()
    before, state = copy.deepcopy(some.state_dict()), torch.get_rng_state()
    trainability = cbp.Trainability(network, INPUTS, repetitions=2, updates=20)
    one, other = trainability(some), trainability(some)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.areas, other.areas)
    assert all(torch.equal(value, some.state_dict()[name]) for name, value in before.items())


def test_a_network_that_diverges_has_learned_nothing():
    diverging = cbp.Trainability(network, INPUTS, repetitions=2, updates=40)
    wild = network()
    nn.init.constant_(wild[2].weight, math.nan)
    assert diverging(wild).score == 0


@pytest.mark.parametrize(
    ("fresh", "options", "words"),
    [
        (network, {"repetitions": 1}, "repetitions must be a whole number >= 2, got 1"),
        (network, {"updates": 3}, "updates must be a whole number >= 20, got 3"),
        (network, {"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        (lambda: nn.Sequential(network(), nn.Flatten(0)), {}, r"\(batch, outputs\), got a shape of \(400,\)"),
        (lambda: nn.LSTM(3, 2), {}, "must be a tensor .* got tuple"),
        (lambda: nn.Sequential(network(), nn.Threshold(1e9, 0)), {}, "the same for all inputs"),
        (network, {"optimizer": lambda weights: torch.optim.SGD(weights, 0.0)}, None),
    ],
)
def test_what_it_cannot_measure_it_refuses(fresh, options, words):
    if words is None:
        still = cbp.Trainability(fresh, INPUTS, repetitions=2, updates=20, **options)
        with pytest.raises(ValueError, match="fresh networks learned hardly anything"):
            still(network())
    else:
        with pytest.raises(ValueError, match=words):
            cbp.Trainability(fresh, INPUTS, **options)


@pytest.mark.parametrize("scale", [1, 6, 30])
def test_networks_with_batch_norms_are_compared_whatever_their_statistics(scale):
    def normed():
        return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))

    torch.manual_seed(0)
    inputs = scale * torch.randn(256, 6) + scale / 2
    seen = normed().train()
    with torch.no_grad():
        for _ in range(200):
            seen(inputs)  # fresh weights; statistics of the inputs
    before = seen[1].running_mean.clone()
    found = cbp.Trainability(normed, inputs, repetitions=3, updates=100, batch_size=64)(seen)
    assert 0.85 < found.score < 1.15
    assert torch.equal(seen[1].running_mean, before)
    assert seen[1].momentum == 0.1


@pytest.mark.parametrize("head", ["", "1"])
def test_a_head_without_weights_or_the_whole_network_is_refused(head):
    learning = cbp.Trainability(network, INPUTS, repetitions=2, updates=20)
    with pytest.raises(ValueError, match="head must be the path of a module"):
        learning(network(), head=head)


@pytest.mark.parametrize("inputs", [INPUTS[:0], INPUTS * float("inf"), torch.full_like(INPUTS, float("nan"))])
def test_inputs_that_are_none_are_refused(inputs):
    with pytest.raises(ValueError, match="inputs must be samples of finite numbers"):
        cbp.Trainability(network, inputs, repetitions=2, updates=20)


def test_a_frozen_network_is_refused_and_inputs_get_no_gradient():
    inputs = INPUTS.clone().requires_grad_()
    learning = cbp.Trainability(network, inputs, repetitions=2, updates=20)
    assert inputs.grad is None
    with pytest.raises(ValueError, match="no parameter that is trained: all are frozen"):
        learning(network().requires_grad_(False))
