from __future__ import annotations

import pytest
import torch

from cbp import metrics


def test_a_unit_active_on_at_most_one_in_a_hundred_samples_is_dormant():
    h = torch.zeros(200, 4)
    h[:2, 1] = 5.0  # 2 of 200 is 1 %: dormant
    h[:3, 2] = 1e-9  # 3 of 200 is more
    h[:, 3] = -1.0  # never above zero
    assert metrics.dormant_fraction(h) == 3 / 4


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 3, 4)])
def test_activations_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="samples, units"):
        metrics.dormant_fraction(torch.zeros(shape))


def test_weight_magnitude_is_the_mean_of_absolute_values():
    # (1 + 3 + 0 + 2) / 4
    assert metrics.weight_magnitude(torch.tensor([[1.0, -3.0], [0.0, 2.0]], requires_grad=True)) == 1.5
