"""The benchmark of what predicts trainability, on runs made up."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def predicting(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("predicting")
    for name in ("predicting", "plasticity"):
        del sys.modules[name]


def test_correlations_are_of_ranks_and_what_two_owe_to_a_third_is_taken_off(predicting):
    x, y, z = np.array([1.0, 2, 3, 4]), np.array([1.0, 10, 100, 90]), np.array([2.0, 1, 4, 3])
    assert predicting.correlation(x, -np.exp(x)) == pytest.approx(-1)
    # 1 − 6·Σd²/(4·15). x and y: d of their ranks 0, 0, 1, 1, so 0.8; x and z: 1, 1, 1, 1, so 0.6; y and z: 1, 1, 0, 0, so 0.8.
    assert predicting.correlation(x, y) == pytest.approx(0.8)
    # (0.8 − 0.6·0.8) / √((1 − 0.36)(1 − 0.64)) = 0.32 / 0.48
    assert predicting.partial(x, y, z) == pytest.approx(2 / 3)
    assert predicting.correlation(x, np.ones(4)) == predicting.partial(x, y, y) == 0


def test_a_measure_is_compared_with_the_score_now_and_twenty_tasks_later(predicting):
    names, numbers = list(predicting.EXPECTED), np.random.default_rng(0)
    runs = [numbers.normal(size=(60, len(names))) for _ in range(30)]
    for run in runs:
        for task in predicting.TASKS:
            run[task, names.index("dormant_fraction")] = -run[task + 20, names.index("trainability")]
            run[task, names.index("stable_rank")] = run[task, names.index("trainability")]
    now, later, beyond = predicting.tell(runs, "dormant_fraction")
    assert later == pytest.approx(-1)
    assert beyond < -0.99
    assert abs(now) < 0.9
    assert predicting.tell(runs, "stable_rank")[[0, 2]].tolist() == pytest.approx([1, 0])
