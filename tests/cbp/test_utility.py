"""Utilities worked out by hand, and with leading dimensions."""

from __future__ import annotations

import pytest
import torch

from cbp import utility

# A batch of two samples, two units, three inputs, two outputs.
H = torch.tensor([[1.0, -4.0], [3.0, 2.0]])
H_MEAN = torch.tensor([1.5, -2.0])
W_IN = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -0.25]])
W_OUT = torch.tensor([[0.5, -1.0], [-0.25, 2.0]])


def test_activity_is_the_mean_magnitude_over_the_batch():
    # (1 + 3) / 2 = 2;  (4 + 2) / 2 = 3
    assert utility.activity(H).tolist() == [2.0, 3.0]
    # (|1 − 1.5| + |3 − 1.5|) / 2 = 1;  (|−4 + 2| + |2 + 2|) / 2 = 3
    assert utility.activity(H, H_MEAN).tolist() == [1.0, 3.0]


def test_outgoing_magnitude_sums_over_the_outputs():
    # 0.5 + 0.25 = 0.75;  1 + 2 = 3
    assert utility.outgoing_magnitude(W_OUT).tolist() == [0.75, 3.0]


def test_incoming_magnitude_is_the_mean_over_the_inputs():
    # (1 + 2 + 3) / 3 = 2;  (0.5 + 0 + 0.25) / 3 = 0.25
    assert utility.incoming_magnitude(W_IN).tolist() == [2.0, 0.25]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_incoming_magnitude_is_at_least_the_machine_epsilon(dtype):
    w_in = torch.zeros(2, 3, dtype=dtype)
    w_in[1] = 1
    assert utility.incoming_magnitude(w_in).tolist() == [torch.finfo(dtype).eps, 1.0]
    assert utility.adaptation(w_in).isfinite().all()


def test_contribution():
    # 2 · 0.75 = 1.5;  3 · 3 = 9
    assert utility.contribution(H, W_OUT).tolist() == [1.5, 9.0]


def test_zero_contribution():
    # 1 · 0.75 = 0.75;  3 · 3 = 9
    assert utility.zero_contribution(H, H_MEAN, W_OUT).tolist() == [0.75, 9.0]


def test_adaptable_contribution():
    # 0.75 / 2 = 0.375;  9 / 0.25 = 36
    assert utility.adaptable_contribution(H, H_MEAN, W_IN, W_OUT).tolist() == [0.375, 36.0]


def test_weight():
    assert utility.weight(W_OUT).tolist() == [0.75, 3.0]


def test_adaptation():
    # 1 / 2 = 0.5;  1 / 0.25 = 4
    assert utility.adaptation(W_IN).tolist() == [0.5, 4.0]


def test_feature_by_input():
    # 1 / 2 = 0.5;  3 / 0.25 = 12
    assert utility.feature_by_input(H, H_MEAN, W_IN).tolist() == [0.5, 12.0]


def test_leading_dimensions_equal_a_loop_over_runs():
    generator = torch.Generator().manual_seed(0)
    runs, batch, units, inputs, outputs = (2, 3), 5, 4, 6, 7
    h = torch.randn(*runs, batch, units, generator=generator, dtype=torch.float64)
    h_mean = torch.randn(*runs, units, generator=generator, dtype=torch.float64)
    w_in = torch.randn(*runs, units, inputs, generator=generator, dtype=torch.float64)
    w_out = torch.randn(*runs, outputs, units, generator=generator, dtype=torch.float64)
    cases = {
        utility.activity: (h,),
        utility.contribution: (h, w_out),
        utility.zero_contribution: (h, h_mean, w_out),
        utility.adaptable_contribution: (h, h_mean, w_in, w_out),
        utility.weight: (w_out,),
        utility.adaptation: (w_in,),
        utility.feature_by_input: (h, h_mean, w_in),
    }
    for function, arguments in cases.items():
        together = function(*arguments)
        assert together.shape == (*runs, units), function.__name__
        for i in range(runs[0]):
            for j in range(runs[1]):
                torch.testing.assert_close(together[i, j], function(*(argument[i, j] for argument in arguments)))
