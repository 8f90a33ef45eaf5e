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


@pytest.mark.parametrize(
    ("singular_values", "rank"),
    [
        ([1.0, 1.0, 1.0, 1.0], 4),  # 3/4 of the sum is not more than 99 %
        ([99.5, 0.5, 0.0, 0.0], 1),  # 99.5 / 100
        ([98.99, 1.01, 0.0, 0.0], 2),  # 98.99 %
        ([10.0, 10.0, 0.1, 0.05], 2),  # 20 / 20.15 = 99.26 %; squared, 1 would hold 50 %
        ([10.0, 1.0, 0.3, 0.0], 3),  # 11 / 11.3 = 97.3 %; squared, 101 / 101.09 = 99.9 % would make it 2
        ([0.0, 0.0, 0.0, 0.0], 0),
    ],
)
@pytest.mark.parametrize("samples", [4, 50])
def test_the_papers_stable_rank_of_matrices_with_known_singular_values(singular_values, rank, samples):
    generator = torch.Generator().manual_seed(1)
    u, _ = torch.linalg.qr(torch.randn(samples, 4, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    h = u @ torch.diag(torch.tensor(singular_values, dtype=torch.float64)) @ v.T
    assert metrics.stable_rank(h) == metrics.stable_rank(h.T) == rank


def test_the_rank_of_no_matrix_is_refused():
    with pytest.raises(ValueError, match="samples, units"):
        metrics.stable_rank(torch.zeros(3))
