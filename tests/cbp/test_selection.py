"""Selection for many runs at once, against one after the other."""

from __future__ import annotations

import math

import torch

from cbp.selection import bias_corrected, least_useful_first

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
    runs, units = 3, 6
    utility = torch.rand(runs, units, generator=generator)
    age = torch.randint(0, 5, (runs, units), generator=generator)
    corrected = bias_corrected(utility, age, 0.99)
    order = least_useful_first(corrected, age, 2)
    for run in range(runs):
        one = bias_corrected(utility[run], age[run], 0.99)
        assert torch.equal(one, corrected[run])
        assert torch.equal(least_useful_first(one, age[run], 2), order[run])
