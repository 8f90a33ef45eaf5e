"""Which measures of plasticity tell early how well a network will still learn?

``python benchmarks/predicting.py [--data FILE.csv]`` trains networks in eleven ways, five seeds each, in some twenty-five
minutes of processor time. They lose their ability to learn at different speeds, some not at all. The tasks, networks and
measures are those of :mod:`plasticity`, beside it; what is to be predicted is ``cbp.Trainability`` under a fresh head, 20 tasks
after the measure was taken.

For each measure it prints Spearman's rank correlation over runs, averaged over the tasks 11, 21 and 31 at which it was taken:
with the trainability then, with that of 20 tasks later, and with that of 20 tasks later at the same trainability then (the
partial correlation): what the measure tells beyond the score that one could have measured. The intervals are those of a
bootstrap of whole settings, at 95 %, since runs that differ in their seed alone are alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import plasticity
from numpy.typing import NDArray
from plasticity import EXPECTED, Rows, Setting
from scipy.stats import rankdata

SETTINGS = {
    "adam": Setting(),
    "adam, step size 3e-4": Setting(learning_rate=3e-4),
    "adam, step size 2e-3": Setting(learning_rate=2e-3),
    "adam, both betas 0.99": Setting(betas=(0.99, 0.99)),
    "layer norm": Setting(norm=True),
    "l2-init, weak": Setting("l2-init", {"strength": 3e-4}),
    "l2-init": Setting("l2-init", {"strength": 3e-3}),
    "cbp, slow": Setting("cbp", {"replacement_rate": 1e-4, "maturity_threshold": 100}),
    "cbp": Setting("cbp", {"replacement_rate": 1e-3, "maturity_threshold": 100}),
    "redo": Setting("redo", {"threshold": 0.1, "period": plasticity.UPDATES}),
    "shrink-perturb": Setting(
        "shrink-perturb", {"shrink": 0.9, "perturb": 0.1, "period": plasticity.UPDATES, "noise": "fresh"}
    ),
}
TASKS = (10, 20, 30)  # where measures are taken, counted from 0
AHEAD = 20
DRAWS = 1_000

Array = NDArray[np.float64]


def correlation(x: Array, y: Array) -> float:
    """Spearman's; 0 where either is the same in all runs."""
    x, y = rankdata(x), rankdata(y)
    return float(np.corrcoef(x, y)[0, 1]) if x.std() and y.std() else 0.0


def partial(x: Array, y: Array, z: Array) -> float:
    """Of x and y at the same z: (r_xy − r_xz·r_yz) / √((1 − r_xz²)(1 − r_yz²)); 0 where x or y follows z altogether."""
    xy, xz, yz = correlation(x, y), correlation(x, z), correlation(y, z)
    rest = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / rest**0.5 if rest > 1e-9 else 0.0


def tell(runs: list[Array], measure: str) -> Array:
    """The three correlations of a measure, averaged over the tasks at which it was taken."""
    names = list(EXPECTED)
    score, measured = names.index("trainability"), names.index(measure)
    found = []
    for task in TASKS:
        columns = (task, measured), (task, score), (task + AHEAD, score)
        x, now, later = (np.array([run[column] for run in runs]) for column in columns)
        found.append([correlation(x, now), correlation(x, later), partial(x, later, now)])
    return np.mean(found, axis=0)


def tell_all(rows: Rows) -> dict[str, tuple[Array, Array]]:
    """By measure the three correlations, and their intervals ``(2, 3)``."""
    by_setting = [[rows[label, seed] for seed in range(plasticity.SEEDS)] for label in SETTINGS]
    draws = np.random.default_rng(0).integers(len(by_setting), size=(DRAWS, len(by_setting)))
    told = {}
    for measure in EXPECTED:
        resampled = [tell([run for setting in draw for run in by_setting[setting]], measure) for draw in draws]
        of_all = tell([run for runs in by_setting for run in runs], measure)
        told[measure] = of_all, np.percentile(resampled, [2.5, 97.5], axis=0)
    return told


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="measurements: runs in it are taken from there, others are added")
    rows = plasticity.measure_all(parser.parse_args().data, SETTINGS)
    print(
        "| setting | accuracy, last 10 tasks | trainability after tasks 11, 31 and 51 | under its own head |\n|---|---|---|---|"
    )
    accuracy, score, own = (list(EXPECTED).index(name) for name in ("accuracy", "trainability", "trainability_own_head"))
    for label in SETTINGS:
        of_label = np.mean([rows[label, seed] for seed in range(plasticity.SEEDS)], axis=0)
        scores, under_own = (", ".join(f"{of_label[task, name]:.2f}" for task in (10, 30, 50)) for name in (score, own))
        print(f"| {label} | {of_label[-plasticity.LAST :, accuracy].mean():.2f} | {scores} | {under_own} |")
    print("\n| measure | trainability now | 20 tasks later | 20 tasks later, beyond what it is now |\n|---|---|---|---|")
    told = tell_all(rows)
    for measure, (values, intervals) in sorted(told.items(), key=lambda item: -abs(item[1][0][1])):
        cells = (f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" for value, low, high in zip(values, *intervals, strict=True))
        print(f"| `{measure}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
