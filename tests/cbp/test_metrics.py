from __future__ import annotations

import copy
import math

import pytest
import torch
from small_networks import chain
from torch import nn

from cbp import metrics

OF_ACTIVATIONS = [
    metrics.dormant_fraction,
    metrics.dead_fraction,
    metrics.tau_dormant_fraction,
    metrics.saturated_fraction,
    metrics.stable_rank,
    metrics.true_stable_rank,
    metrics.effective_rank,
    metrics.feature_rank,
    metrics.ranks,
]


def with_singular_values(sigma, samples):
    """A matrix ``(samples, units)`` with these singular values, otherwise random."""
    generator = torch.Generator().manual_seed(1)
    units = len(sigma)
    u, _ = torch.linalg.qr(torch.randn(samples, units, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(units, units, generator=generator, dtype=torch.float64))
    return u @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ v.T


@pytest.mark.parametrize("measure", OF_ACTIVATIONS)
@pytest.mark.parametrize(
    ("h", "got"),
    [([[1.0, 2.0]], "a list"), (torch.ones(2, 3, dtype=torch.cfloat), r"one of torch\.complex64")],
    ids=["list", "complex"],
)
def test_what_is_no_tensor_of_real_numbers_is_refused(measure, h, got):
    with pytest.raises(TypeError, match=f"activations must be a tensor of real numbers, got {got}"):
        measure(h)


def test_gradients_inputs_and_actions_that_are_no_tensors_are_refused():
    with pytest.raises(TypeError, match="the gradient must be a tensor of real numbers, got a list"):
        metrics.gradient_dormant_fraction([[1.0]])
    with pytest.raises(TypeError, match="x must be a tensor of real numbers, got a list"):
        metrics.neural_tangent_kernel(nn.Linear(1, 1), [[1.0]])
    for before, after in ([0], torch.tensor([0])), (torch.tensor([0]), [0]):
        with pytest.raises(TypeError, match="actions must be a tensor of real numbers, got a list"):
            metrics.policy_churn(before, after)


def test_complex_weights_have_a_distance():
    # |(3 + 4i) − 0|² + |0 − 12i|² = 25 + 144
    assert metrics.weight_distance([torch.tensor([3 + 4j, 0j])], [torch.tensor([0j, 12j])]) == 13


def test_a_unit_active_on_at_most_one_in_a_hundred_samples_is_dormant():
    h = torch.zeros(200, 4)
    h[:2, 1] = 5.0  # 2 of 200 is 1 %: dormant
    h[:3, 2] = 1e-9  # 3 of 200 is more
    h[:, 3] = -1.0  # never above zero
    assert metrics.dormant_fraction(h) == 3 / 4


def test_a_unit_active_on_a_single_sample_is_not_dead():
    h = torch.zeros(2000, 4)
    h[7, 1] = 1e-9
    h[:, 3] = -1.0
    assert metrics.dead_fraction(h) == 3 / 4
    assert metrics.dormant_fraction(h) == 1


def test_a_unit_is_tau_dormant_where_its_share_of_the_layers_activity_is_at_most_tau():
    # E|h|: 4, 0.5, 0.25, 3.25; their mean is 2, so the scores are 2, 0.25, 0.125, 1.625.
    h = torch.tensor([[8.0, -1.0, 0.5, 3.25], [0.0, 0.0, 0.0, -3.25]])
    assert metrics.tau_dormant_fraction(h, tau=0.1) == 0
    assert metrics.tau_dormant_fraction(h, tau=0.125) == 1 / 4  # a score of τ is dormant
    assert metrics.tau_dormant_fraction(h, tau=0.3) == 2 / 4
    assert metrics.tau_dormant_fraction(h, tau=2.0) == 1
    # 9.5, 0.5: scores 1.9 and 0.1
    assert metrics.tau_dormant_fraction(torch.tensor([[9.5, 0.5]])) == 0.5


def test_tau_dormancy_with_no_activity_at_all_or_a_negative_threshold():
    assert metrics.tau_dormant_fraction(torch.zeros(3, 2)) == 1
    with pytest.raises(ValueError, match=r"tau must be >= 0, got -0\.1"):
        metrics.tau_dormant_fraction(torch.ones(3, 2), tau=-0.1)


def test_a_unit_beyond_nine_tenths_on_all_but_one_in_a_hundred_samples_is_saturated():
    h = torch.full((200, 4), 0.95)
    h[::2] *= -1  # either side counts
    h[:2, 1] = 0.9  # not beyond, on 1 %: still saturated
    h[:3, 2] = 0.0  # on 1.5 %: not
    h[:, 3] = 0.89
    assert metrics.saturated_fraction(h) == 2 / 4


@pytest.mark.parametrize("measure", OF_ACTIVATIONS, ids=lambda measure: measure.__name__)
@pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 0), (2, 3, 4)])
def test_activations_of_another_shape_are_refused(measure, shape):
    with pytest.raises(ValueError, match="samples, units"):
        measure(torch.zeros(shape))


@pytest.mark.parametrize("measure", OF_ACTIVATIONS, ids=lambda measure: measure.__name__)
def test_measures_do_not_change_what_they_measure(measure):
    h = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    before = h.clone()
    measure(h)
    assert torch.equal(h, before)


@pytest.mark.parametrize("measure", [*OF_ACTIVATIONS, metrics.gradient_dormant_fraction], ids=lambda measure: measure.__name__)
@pytest.mark.parametrize("where", [slice(None), (3, 1)], ids=["all", "one"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_of_what_is_not_finite_nothing_is_known(measure, where, value, dtype):
    h = torch.ones(30, 5, dtype=dtype)
    h[where] = value
    found = measure(h)
    assert all(math.isnan(number) for number in (found.values() if isinstance(found, dict) else [found]))


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e300])
def test_ranks_do_not_depend_on_how_large_activations_are(scale):
    h = torch.rand(30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    expected, found = metrics.ranks(h), metrics.ranks(scale * h)
    for name in ("stable_rank", "true_stable_rank", "effective_rank"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)
    assert found["feature_rank"] == (5 if scale > 1 else 0)
    assert metrics.dormant_fraction(scale * h) == metrics.tau_dormant_fraction(scale * h) == 0


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
    h = with_singular_values(singular_values, samples)
    assert metrics.stable_rank(h) == metrics.stable_rank(h.T) == rank


@pytest.mark.parametrize(
    ("singular_values", "rank"),
    [
        ([2.0, 2.0, 2.0, 2.0], 4.0),
        ([2.0, 1.0, 1.0, 0.0], 1.5),  # (4 + 1 + 1) / 4
        ([3.0, 0.0, 0.0, 0.0], 1.0),
        ([0.0, 0.0, 0.0, 0.0], 0.0),
    ],
)
def test_the_true_stable_rank_is_the_squared_frobenius_norm_over_the_squared_spectral_norm(singular_values, rank):
    h = with_singular_values(singular_values, 50)
    assert metrics.true_stable_rank(h) == pytest.approx(rank)
    if rank:
        assert rank == pytest.approx((h.norm() ** 2 / torch.linalg.matrix_norm(h, 2) ** 2).item())


@pytest.mark.parametrize(
    ("singular_values", "rank"),
    [
        ([5.0, 5.0, 5.0, 5.0], 4.0),
        ([5.0, 5.0, 0.0, 0.0], 2.0),
        # p = 1/2, 1/4, 1/4: the entropy is (1/2 + 1/4 · 2 + 1/4 · 2) ln 2 = 1.5 ln 2, its exponential 2^1.5
        ([2.0, 1.0, 1.0, 0.0], 2**1.5),
        ([0.0, 0.0, 0.0, 0.0], 0.0),
    ],
)
def test_the_effective_rank_is_the_exponential_of_the_entropy_of_the_singular_values(singular_values, rank):
    assert metrics.effective_rank(with_singular_values(singular_values, 50)) == pytest.approx(rank, rel=1e-6)


def test_the_feature_rank_counts_singular_values_above_a_hundredth_per_root_of_samples():
    # √100 = 10: the singular values of h/√samples are 1, 0.02, 0.011, 0.009.
    h = with_singular_values([10.0, 0.2, 0.11, 0.09], 100)
    assert metrics.feature_rank(h) == 3
    assert metrics.feature_rank(10 * h) == 4  # it knows the scale
    assert metrics.feature_rank(0 * h) == 0


def test_all_ranks_of_one_decomposition_are_those_of_the_single_functions():
    h = with_singular_values([10.0, 3.0, 0.2, 0.01], 60)
    of_functions = {
        function.__name__: function(h)
        for function in (metrics.stable_rank, metrics.true_stable_rank, metrics.effective_rank, metrics.feature_rank)
    }
    assert metrics.ranks(h) == of_functions


def test_weight_magnitude_is_the_mean_of_absolute_values():
    # (1 + 3 + 0 + 2) / 4
    assert metrics.weight_magnitude(torch.tensor([[1.0, -3.0], [0.0, 2.0]], requires_grad=True)) == 1.5


def test_the_gradient_norm_is_that_of_all_gradients_together():
    a, b, without = (torch.zeros(2, requires_grad=True) for _ in range(3))
    a.grad, b.grad = torch.tensor([2.0, -3.0]), torch.tensor([6.0, 0.0])
    assert metrics.gradient_norm([a, b, without]) == 7  # √(4 + 9 + 36)
    assert metrics.gradient_norm([without]) is None


def test_the_weight_distance_is_euclidean_over_all_weights():
    weights = [torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([5.0])]
    others = [torch.tensor([[1.0, 5.0]]), torch.tensor([1.0])]
    assert metrics.weight_distance(weights, others) == 5  # √(0 + 9 + 16)
    assert metrics.weight_distance(weights, weights) == 0


def test_weights_of_other_shapes_have_no_distance():
    with pytest.raises(ValueError, match=r"shape \(2,\) have no distance from \(1,\)"):
        metrics.weight_distance([torch.zeros(2)], [torch.zeros(1)])
    with pytest.raises(ValueError, match="there are no weights"):
        metrics.weight_distance(iter([]), [])
    with pytest.raises(ValueError, match="zip"):
        metrics.weight_distance([torch.zeros(2)], [])


def test_churn_of_discrete_actions_is_the_fraction_of_states_with_another():
    assert metrics.policy_churn(torch.tensor([3, 1, 2, 0]), torch.tensor([3, 2, 2, 1])) == 0.5
    # With several discrete dimensions an action is another if any differs.
    assert metrics.policy_churn(
        torch.tensor([[0, 1], [2, 2], [0, 0]]), torch.tensor([[0, 0], [2, 2], [1, 1]])
    ) == pytest.approx(2 / 3)


def test_churn_of_continuous_actions_is_their_mean_distance():
    # √(9 + 16) = 5 and 0
    assert metrics.policy_churn(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]])) == 2.5
    assert metrics.policy_churn(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])) == 0.5


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.zeros(3), torch.zeros(4)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long)),
        (torch.zeros(0), torch.zeros(0)),
        (torch.tensor(1.0), torch.tensor(1.0)),
    ],
)
def test_actions_that_cannot_be_compared_are_refused(before, after):
    with pytest.raises(ValueError, match="of the same states"):
        metrics.policy_churn(before, after)


def test_ranks_of_a_network_wide_matrix_agree_with_its_singular_values():
    h = torch.relu(torch.randn(300, 64, generator=torch.Generator().manual_seed(2)))
    sigma = torch.linalg.svdvals(h.double()).tolist()
    total = sum(sigma)
    share, least = 0.0, 0
    for least, value in enumerate(sigma, start=1):  # noqa: B007
        share += value / total
        if share > 0.99:
            break
    expected = {
        "stable_rank": least,
        "true_stable_rank": sum(s**2 for s in sigma) / sigma[0] ** 2,
        "effective_rank": math.exp(-sum(s / total * math.log(s / total) for s in sigma)),
        "feature_rank": sum(s / math.sqrt(300) > 0.01 for s in sigma),
    }
    assert metrics.ranks(h) == pytest.approx(expected)


def test_a_share_of_exactly_99_percent_is_not_more_than_it():
    # 99 / 100 of the sum of a diagonal matrix's singular values, without rounding: 99 · 1/100 = 0.99 as floats divide.
    assert metrics.STABLE_RANK_SHARE == 99.0 / 100.0
    assert metrics.stable_rank(torch.diag(torch.tensor([99.0, 1.0], dtype=torch.float64))) == 2


def test_the_feature_rank_counts_from_just_above_a_hundredth():
    # √4 = 2: the singular values of h/√samples are 0.0102 and 0.0099.
    h = torch.zeros(4, 2, dtype=torch.float64)
    h[0, 0], h[1, 1] = 0.0204, 0.0198
    assert metrics.feature_rank(h) == 1


def test_a_unit_is_gradient_dormant_where_its_share_of_the_layers_gradient_is_at_most_tau():
    # Mean |∂L/∂w|: 4, 0.5, 0.25, 3.25; their mean is 2, so the scores are 2, 0.25, 0.125, 1.625.
    gradient = torch.tensor([[8.0, 0.0], [-1.0, 0.0], [0.25, 0.25], [3.25, -3.25]])
    assert metrics.gradient_dormant_fraction(gradient) == 2 / 4  # a score of τ, 0.25, is dormant
    assert metrics.gradient_dormant_fraction(gradient, tau=0.2) == 1 / 4
    assert metrics.gradient_dormant_fraction(gradient.view(4, 1, 2, 1)) == 2 / 4  # a convolution's
    assert metrics.gradient_dormant_fraction(torch.zeros(3, 2)) == 1


def test_what_is_no_gradient_of_a_weight_is_refused():
    with pytest.raises(ValueError, match=r"must be \(units, …\) with at least one unit, got shape \(3,\)"):
        metrics.gradient_dormant_fraction(torch.zeros(3))
    with pytest.raises(ValueError, match="tau must be >= 0, got nan"):
        metrics.gradient_dormant_fraction(torch.zeros(3, 2), math.nan)


@pytest.mark.parametrize("bias", [True, False])
def test_the_tangent_kernel_is_that_of_the_gradients_of_single_samples(bias):
    network = chain(3, 5, 4, 2, activation=nn.Tanh, seed=2, bias=bias)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = []
    for sample in x:
        gradients = [torch.autograd.grad(network(sample)[o], list(network.parameters())) for o in range(2)]
        rows.append([torch.cat([g.flatten() for g in of_output]) for of_output in gradients])
    expected = [[sum((a[o] * b[o]).sum().item() for o in range(2)) for b in rows] for a in rows]
    kernel = metrics.neural_tangent_kernel(network, x)
    assert kernel.flatten().tolist() == pytest.approx([k for row in expected for k in row])
    assert all(parameter.grad is None for parameter in network.parameters())
    eigenvalues = torch.linalg.eigvalsh(torch.tensor(expected, dtype=torch.float64)).tolist()
    entropy = -sum(p * math.log(p) for p in (value / sum(eigenvalues) for value in eigenvalues) if p > 0)
    assert metrics.ntk_effective_rank(network, x) == pytest.approx(math.exp(entropy), rel=1e-4)


def test_the_rank_of_the_kernel_is_one_where_samples_cannot_be_told_apart():
    network = chain(3, 5, 2)
    assert metrics.ntk_effective_rank(network, torch.ones(4, 3, dtype=torch.float64)) == pytest.approx(1, abs=1e-5)
    for parameter in network.parameters():
        parameter.requires_grad_(False)  # a target network, say
    assert metrics.ntk_effective_rank(network, torch.eye(3, dtype=torch.float64)) > 1


def test_a_network_whose_kernel_is_not_known_is_refused():
    shared = nn.Linear(2, 2)
    for network, x in (
        (nn.Sequential(shared, nn.ReLU(), shared), torch.ones(3, 2)),
        (nn.Linear(2, 2), torch.ones(3, 4, 2)),
    ):
        with pytest.raises(ValueError, match=r"each Linear layer must be called once, on \(samples, inputs\): Linear"):
            metrics.neural_tangent_kernel(network, x)
        assert not shared._forward_hooks
    with pytest.raises(ValueError, match="must have Linear layers"):
        metrics.neural_tangent_kernel(nn.ReLU(), torch.ones(3, 2))
    for outputs in ((torch.ones(3, 2),), {"logits": torch.ones(3, 2)}, torch.distributions.Normal(0.0, 1.0)):
        with pytest.raises(ValueError, match=rf"a tensor \(samples, outputs\), got {type(outputs).__name__}"):
            metrics.neural_tangent_kernel(Giving(outputs), torch.ones(3, 2))


class Giving(nn.Module):
    """Calls its layer by keyword, and gives what it is told to; else what the layer gave."""

    def __init__(self, outputs=None):
        super().__init__()
        self.table, self.layer, self.outputs = nn.Embedding(5, 2), nn.Linear(2, 2), outputs

    def forward(self, x):
        h = self.layer(input=x if x.is_floating_point() else self.table(x[:, 0]))
        return h if self.outputs is None else self.outputs


def test_the_kernel_of_frozen_layers_and_under_inference_is_that_of_trained_ones():
    network, x = Giving(), torch.tensor([[0], [1], [4]])
    expected = metrics.neural_tangent_kernel(network, x)
    a = network.table.weight[x[:, 0]]  # one layer of two outputs: K = 2 · (a·a + 1)
    torch.testing.assert_close(expected, 2 * (a @ a.T + 1).detach())
    with torch.inference_mode():
        assert torch.equal(metrics.neural_tangent_kernel(network, x.clone()), expected)
        assert torch.equal(metrics.neural_tangent_kernel(network.layer, a.clone()), expected)
    network.requires_grad_(False)
    assert torch.equal(metrics.neural_tangent_kernel(network, x), expected)


def test_a_kernel_in_half_precision_does_not_overflow():
    network = nn.Linear(2, 1).half()
    kernel = metrics.neural_tangent_kernel(network, torch.full((3, 2), 1000.0, dtype=torch.float16))
    assert kernel[0, 0].item() == 2 * 1000**2 + 1
    assert metrics.ntk_effective_rank(network, torch.full((3, 2), 1000.0, dtype=torch.float16)) == pytest.approx(1, abs=1e-5)


def test_the_kernel_changes_nothing_of_a_network_with_norms_and_dropout_and_takes_each_sample_by_itself():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    network[2].eval()
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(6, 3)
    kernel = metrics.neural_tangent_kernel(network, x)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert [module.training for module in network] == [True, True, False, True]
    torch.testing.assert_close(metrics.neural_tangent_kernel(network, x[:2]), kernel[:2, :2])


@pytest.mark.parametrize("value", [1e5, 1e7, 2.0**30])
@pytest.mark.parametrize("shape", [(1000, 64), (100, 20)])
def test_large_activations_of_one_direction_have_one_feature(value, shape):
    assert metrics.feature_rank(torch.full(shape, value, dtype=torch.float64)) == 1
    assert metrics.stable_rank(torch.full(shape, value)) == 1


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.mixed, self.last = nn.Linear(3, 4), nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        h = self.first(x)
        return self.last(self.mixed(h[:, None], h[:, None], h[:, None])[0][:, 0])


class Borrowing(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(nn.functional.linear(x, self.first.weight, self.first.bias))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.last = nn.Linear(3, 1), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(x) * self.scale(torch.ones(1, 3))


class Folded(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(1, 4), nn.Linear(12, 2)

    def forward(self, x):
        return self.last(self.first(x.reshape(-1, 1)).reshape(len(x), -1))


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("make", [Attending, Borrowing, Scaled, Folded, tied])
def test_a_kernel_that_would_leave_something_out_is_refused(make):
    with pytest.raises(ValueError, match="each Linear layer must be called"):
        metrics.neural_tangent_kernel(make(), torch.rand(6, 3))
