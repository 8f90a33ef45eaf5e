"""How often an interval over a few seeds holds what it should: simulated.

``python benchmarks/intervals.py`` draws samples of 5, 10 and 20 numbers, normal and exponential, and prints how many of the
95 % intervals of their means and interquartile means hold the true ones: a bootstrap's by the percentile method, which many
papers use, and the report's, which is Student's. Then how many of the report's intervals of a mean that is 0 hold it at every
look, where more seeds are added and one looks again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.reporting.comparison import Statistic, centre_of, interval

SAMPLES, RESAMPLES, MANY = 4_000, 1_000, 4_000_000
KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
    "one in five collapses": lambda rng, shape: rng.normal(size=shape) - 6 * (rng.random(shape) < 0.2),
}


def bootstrap(
    samples: NDArray[np.float64], statistic: Statistic, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends of the percentile interval of a statistic over the first axis."""
    drawn = rng.integers(len(samples), size=(len(samples), RESAMPLES))
    low, high = np.percentile(centre_of(samples[drawn], statistic), [2.5, 97.5], axis=0)
    return low, high


def main() -> None:
    """Prints the table."""
    print("| seeds | numbers | statistic | bootstrap holds it (%) | the report (%) |\n|---|---|---|---|---|")
    statistics: tuple[Statistic, ...] = ("mean", "iqm")
    for seeds in (5, 10, 20):
        for kind, draw in KINDS.items():
            rng = np.random.default_rng(0)
            many, samples = draw(rng, MANY), draw(rng, (seeds, SAMPLES))
            for statistic in statistics:
                truth = centre_of(many, statistic)
                intervals = (bootstrap(samples, statistic, rng), interval(samples, statistic))
                held = [f"{100 * np.mean((low <= truth) & (truth <= high)):.0f}" for low, high in intervals]
                print(f"| {seeds} | {kind} | {statistic} | {' | '.join(held)} |")
    print("\n| looks at | all intervals hold the mean (%) |\n|---|---|")
    samples = np.random.default_rng(0).normal(size=(10, 10 * SAMPLES))
    for looks in ((10,), (8, 10), (5, 8, 10)):
        ends = [interval(samples[:seeds], "mean") for seeds in looks]
        held_each = np.all([(low <= 0) & (high >= 0) for low, high in ends], axis=0)
        print(f"| {' and '.join(map(str, looks))} seeds | {100 * np.mean(held_each):.1f} |")


if __name__ == "__main__":
    main()
