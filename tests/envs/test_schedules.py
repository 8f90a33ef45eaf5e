from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import scipy.stats

import envs


def kolmogorov_smirnov(values):
    return scipy.stats.kstest(values, scipy.stats.loguniform(0.02, 2.0).cdf).pvalue


def test_log_uniform_draws_are_log_uniform():
    generator = np.random.default_rng(0)
    values = [envs.SCHEDULES["log_uniform"](0.02, 2.0, generator) for _ in range(10_000)]
    assert kolmogorov_smirnov(values) > 0.05
    # The test has power: uniform draws, and the right law on a slightly wrong range, fail it.
    assert kolmogorov_smirnov(generator.uniform(0.02, 2.0, 10_000)) < 1e-4
    assert kolmogorov_smirnov(scipy.stats.loguniform(0.02, 1.8).rvs(10_000, random_state=generator)) < 1e-4


def test_the_values_of_phases_are_log_uniform():
    env = envs.NonStationary(gymnasium.make("Hopper-v5", terminate_when_unhealthy=False), period=1, change_at="now", seed=0)
    env.reset(seed=0)
    values = [env.step(np.zeros(3))[4]["friction"] for _ in range(900)]
    assert len(set(values)) == 900
    assert kolmogorov_smirnov(values) > 0.05


@pytest.mark.parametrize(("low", "high"), [(0.02, 2.0), (0.3, 0.3), (1e-5, 1e300)])
def test_log_uniform_never_leaves_its_range(low, high):
    generator = np.random.default_rng(0)
    values = [envs.SCHEDULES["log_uniform"](low, high, generator) for _ in range(1000)]
    assert min(values) >= low
    assert max(values) <= high


def test_equal_ends_give_that_very_value():
    generator = np.random.default_rng(0)
    for value in generator.uniform(0.02, 2.0, 100):
        assert envs.SCHEDULES["log_uniform"](value, value, generator) == value


def test_schedules_are_stateless():
    draw = envs.SCHEDULES["log_uniform"]
    first = [draw(0.02, 2.0, np.random.default_rng(7)) for _ in range(3)]
    assert len(set(first)) == 1
