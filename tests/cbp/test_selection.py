"""Selection and replacement for many runs at once, against one after the other."""

from __future__ import annotations

import math

import torch

from cbp.selection import bias_corrected, least_useful_first, renew, silence

NAN = math.nan


def test_an_average_is_corrected_by_its_age():
    average = torch.tensor([[0.5, 0.5, 0.5], [1.0, 2.0, 3.0]])
    age = torch.tensor([[0, 1, 2], [3, 0, 1]])
    # 1 − 0.9 = 0.1, 1 − 0.9² = 0.19, 1 − 0.9³ = 0.271
    expected = [[0, 0.5 / 0.1, 0.5 / 0.19], [1 / 0.271, 0, 3 / 0.1]]
    torch.testing.assert_close(bias_corrected(average, age, 0.9), torch.tensor(expected))


def test_the_mature_come_first_by_utility_and_those_without_a_number_before_them():
    utility = torch.tensor([[3.0, 1.0, 0.0, 2.0], [NAN, 1.0, -1.0, 5.0]])
    age = torch.tensor([[9, 9, 2, 9], [9, 3, 3, 2]])  # mature: more than 2
    assert least_useful_first(utility, age, 2)[:, :3].tolist() == [[1, 3, 0], [0, 2, 1]]


def test_equal_units_are_taken_in_their_order():
    assert least_useful_first(torch.zeros(2, 4), torch.full((2, 4), 9), 2).tolist() == [[0, 1, 2, 3]] * 2


def test_runs_are_those_of_one_run_at_a_time():
    generator = torch.Generator().manual_seed(0)
    runs, units, inputs, outputs = 3, 6, 4, 5
    utility = torch.rand(runs, units, generator=generator)
    age = torch.randint(0, 5, (runs, units), generator=generator)
    w_in, w_out = torch.rand(runs, units, inputs, generator=generator), torch.rand(runs, outputs, units, generator=generator)
    corrected = bias_corrected(utility, age, 0.99)
    order = least_useful_first(corrected, age, 2)
    chosen = torch.tensor([0, 0, 2]), torch.tensor([1, 4, 3])  # (run, unit)
    fresh = torch.rand(3, inputs, generator=generator)
    many_in, many_out = w_in.clone(), w_out.clone()
    renew(chosen, many_in, fresh)
    silence(chosen, many_out)
    for run in range(runs):
        one = bias_corrected(utility[run], age[run], 0.99)
        assert torch.equal(one, corrected[run])
        assert torch.equal(least_useful_first(one, age[run], 2), order[run])
        own = chosen[0] == run
        one_in, one_out = w_in[run].clone(), w_out[run].clone()
        renew((chosen[1][own],), one_in, fresh[own])
        silence((chosen[1][own],), one_out)
        assert torch.equal(one_in, many_in[run])
        assert torch.equal(one_out, many_out[run])
    assert torch.equal(many_in[0, 1], fresh[0])
    assert not many_out[2, :, 3].any()
    assert (many_in != w_in).any(dim=2).sum() == 3


def test_a_unit_of_a_convolution_is_a_channel():
    w_in, w_out = torch.rand(4, 2, 3, 3), torch.rand(5, 4, 3, 3)
    before = w_out.clone()
    fresh = torch.rand(1, 2, 3, 3)
    renew((torch.tensor([2]),), w_in, fresh)
    silence((torch.tensor([2]),), w_out)
    assert torch.equal(w_in[2], fresh[0])
    assert not w_out[:, 2].any()
    assert torch.equal(w_out[:, [0, 1, 3]], before[:, [0, 1, 3]])
