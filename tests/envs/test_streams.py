from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from envs import ParameterError
from envs.streams import SlowlyChangingRegression


def changes(bits):
    """How many bits differ between each example and the next."""
    return [int((a != b).sum()) for a, b in pairwise(bits)]


def test_the_target_is_that_of_a_network_of_threshold_units_written_out():
    stream = SlowlyChangingRegression(seed=3, inputs=6, slow=4, period=5, target_units=30, beta=0.6)
    inputs, targets = stream.draw(40)
    for x, y in zip(inputs.tolist(), targets.tolist(), strict=True):
        total = stream._outgoing[30]
        for unit in range(30):
            *weights, bias = stream._weights[unit].tolist()
            threshold = 0.6 * (6 + 1) - sum(w == -1 for w in [*weights, bias])
            active = sum(w * bit for w, bit in zip(weights, x, strict=True)) + bias > threshold
            total += stream._outgoing[unit] * active
        assert y == total
    assert set(np.unique(stream._weights)) == set(np.unique(stream._outgoing)) == {-1.0, 1.0}
    assert len(set(targets.tolist())) > 2


def test_one_slow_bit_flips_after_each_period_and_only_then():
    inputs, _ = SlowlyChangingRegression(seed=0, period=4).draw(400)
    assert changes(inputs[:, :15]) == [1 if t % 4 == 0 else 0 for t in range(1, 400)]
    flipped = {int(np.flatnonzero(inputs[t, :15] != inputs[t - 1, :15])[0]) for t in range(4, 400, 4)}
    assert flipped == set(range(15))  # any of them


def test_all_slow_bits_are_drawn_anew_after_each_period_where_asked():
    inputs, _ = SlowlyChangingRegression(seed=0, change="redraw", period=4).draw(4_000)
    at_changes = [number for t, number in enumerate(changes(inputs[:, :15]), start=1) if t % 4 == 0]
    assert sum(changes(inputs[:, :15])) == sum(at_changes)
    # Half of 15 on average over 999 changes; the standard error of the mean is √(15/4/999) = 0.06.
    assert np.mean(at_changes) == pytest.approx(7.5, abs=0.25)


def test_the_other_bits_are_fair_and_independent():
    inputs, _ = SlowlyChangingRegression(seed=0).draw(20_000)
    fast = inputs[:, 15:]
    # Standard errors: √(1/4/20,000) = 0.0035 of a mean, 1/√20,000 = 0.007 of a correlation.
    assert fast.mean(axis=0) == pytest.approx([0.5] * 5, abs=0.015)
    assert np.corrcoef(fast.T) == pytest.approx(np.eye(5), abs=0.03)
    assert np.corrcoef(fast[:-1].T, fast[1:].T)[:5, 5:] == pytest.approx(np.zeros((5, 5)), abs=0.03)


@pytest.mark.parametrize("change", ["flip", "redraw"])
def test_examples_do_not_depend_on_how_many_are_drawn_at_a_time(change):
    whole, parts = (SlowlyChangingRegression(seed=5, change=change, period=7) for _ in range(2))
    inputs, targets = whole.draw(100)
    drawn = [parts.draw(number) for number in (1, 6, 1, 0, 13, 14, 65)]
    assert np.array_equal(np.concatenate([x for x, _ in drawn]), inputs)
    assert np.array_equal(np.concatenate([y for _, y in drawn]), targets)
    assert (inputs.dtype, targets.dtype) == (np.float32, np.float32)


def test_a_stream_goes_on_where_another_was():
    stream = SlowlyChangingRegression(seed=5, period=7)
    stream.draw(28)  # just before a change
    state = json.loads(json.dumps(stream.state_dict()))
    other = SlowlyChangingRegression(seed=5, period=7)
    other.load_state_dict(state)
    assert other.examples == 28
    for ours, theirs in zip(stream.draw(50), other.draw(50), strict=True):
        assert np.array_equal(ours, theirs)


def test_seeds_give_other_targets_and_other_examples():
    bits = np.random.default_rng(0).random((50, 20)) < 0.5
    first, second = SlowlyChangingRegression(seed=0), SlowlyChangingRegression(seed=1)
    assert not np.array_equal(first.target(bits), second.target(bits))
    assert not np.array_equal(first.draw(50)[0], second.draw(50)[0])
    # The way that bits change is no other target.
    assert np.array_equal(first.target(bits), SlowlyChangingRegression(seed=0, change="redraw").target(bits))


def test_nothing_is_drawn_from_the_global_generator():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    SlowlyChangingRegression(seed=0, period=2).draw(10)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"change": "flop"}, "change must be one of 'flip', 'redraw', got 'flop'"),
        ({"slow": 21}, "slow must be at most the 20 inputs, got 21"),
        ({"slow": 0}, "slow"),
        ({"period": 0}, "period"),
        ({"target_units": 0}, "target_units"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, words):
    with pytest.raises(ParameterError, match=words):
        SlowlyChangingRegression(**{"seed": 0, **arguments})
