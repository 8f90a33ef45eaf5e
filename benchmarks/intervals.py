"""How often an interval over a few seeds holds what it should: simulated.

``python benchmarks/intervals.py`` draws samples of 5, 10 and 20 numbers, normal and exponential, and prints how many of the
95 % intervals of their means hold the true mean: the report's bootstrap by the percentile method, and Student's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

SAMPLES, RESAMPLES = 4_000, 1_000
KINDS = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0),
}


def bootstrap(samples: NDArray[np.float64], rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends of the percentile interval of each row's mean."""
    drawn = rng.integers(samples.shape[1], size=(RESAMPLES, samples.shape[1]))
    low, high = np.percentile(samples[:, drawn].mean(axis=2), [2.5, 97.5], axis=1)
    return low, high


def student(samples: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends of Student's interval of each row's mean."""
    centre, reach = samples.mean(axis=1), stats.t.ppf(0.975, samples.shape[1] - 1) * stats.sem(samples, axis=1)
    return centre - reach, centre + reach


def main() -> None:
    """Prints the table."""
    print("| seeds | numbers | bootstrap holds the mean (%) | Student's (%) |\n|---|---|---|---|")
    for seeds in (5, 10, 20):
        for kind, (draw, truth) in KINDS.items():
            rng = np.random.default_rng(0)
            samples = draw(rng, (SAMPLES, seeds))
            intervals = (bootstrap(samples, rng), student(samples))
            held = [100 * np.mean((low <= truth) & (truth <= high)) for low, high in intervals]
            print(f"| {seeds} | {kind} | {held[0]:.0f} | {held[1]:.0f} |")


if __name__ == "__main__":
    main()
