"""Can the measures of plasticity tell a network that loses its ability to learn from one that keeps it?

``python benchmarks/plasticity.py [--data FILE.csv] [--figure FILE.png] [--swap-labels]`` trains both, five seeds each, in some
four minutes of processor time, and exits with 1 if a measure does not tell them apart in the expected direction, by a 95 %
interval over seeds, or if the verdict of ``agents.runs.verdict`` is wrong about a run.

The task changes fast: 256 random inputs with random labels are to be learned by heart in 320 updates, then come 256 others.
All tasks are equally hard, so a network that gets worse at them has lost plasticity, by definition and whatever its units look
like. ``loses`` is a small network (two hidden layers of 64 ReLU units) under Adam with its usual β of 0.9 and 0.999; ``keeps``
is the same with ``cbp.L2Init``. Accuracy at the end of each task is the ground truth, the rest is to agree with it;
``trainability`` is ``cbp.Trainability`` on the probe batch under a fresh head, so of the hidden layers, measured after tasks 1,
11, 21, …; ``trainability_own_head`` is that of the whole network.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

import cbp
from agents.reporting.comparison import estimate, interval
from agents.runs.verdict import PhaseEnd, judge
from cbp import metrics

SEEDS = 5
TASKS = 60
LAST = 10  # tasks, over which the compared values are averaged
INPUTS, WIDTH, CLASSES, EXAMPLES, EPOCHS, BATCH = 16, 64, 8, 256, 40, 32
UPDATES = EPOCHS * EXAMPLES // BATCH  # of a task
PROBE = 1000  # samples

# Where a network that loses plasticity should lie: above (+1) or below (-1) one that keeps it; 0 where theory is silent.
EXPECTED = {
    "accuracy": -1,
    "trainability": -1,
    "trainability_own_head": -1,
    "dormant_fraction": +1,
    "dead_fraction": +1,
    "tau_dormant_fraction": +1,
    "stable_rank": -1,
    "true_stable_rank": 0,
    "effective_rank": -1,
    "feature_rank": -1,
    "weight_magnitude": +1,
    "distance_from_init": +1,
    "weight_change": 0,
    "gradient_norm": 0,
    "churn": 0,
}
EXPECTED |= {f"probe_{name}": sign for name, sign in EXPECTED.items() if name.endswith(("_fraction", "_rank"))}
EXPECTED |= {"gradient_dormant_fraction": +1, "probe_ntk_effective_rank": 0}
KERNEL = 64  # samples of the probe batch


@dataclass(frozen=True)
class Setting:
    """How a network is trained.

    Attributes:
        method: One of :data:`cbp.METHODS`, or None.
        options: Of the method.
        learning_rate: Of Adam.
        betas: Of Adam.
        norm: Whether each hidden layer is normalised.
    """

    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    norm: bool = False

    def network(self) -> nn.Sequential:
        """A fresh network."""
        hidden = ([nn.Linear(size, WIDTH), *[nn.LayerNorm(WIDTH)] * self.norm, nn.ReLU()] for size in (INPUTS, WIDTH))
        return nn.Sequential(*(module for modules in hidden for module in modules), nn.Linear(WIDTH, CLASSES))


SETTINGS = {"loses": Setting(), "keeps": Setting("l2-init", {"strength": 3e-3})}
LABELS = tuple(SETTINGS)

Rows = dict[tuple[str, int], NDArray[np.float64]]  # of each run (tasks, measures), in the order of EXPECTED


def train(setting: Setting, seed: int) -> NDArray[np.float64]:
    """Trains one network on all tasks and measures it at the end of each: ``(tasks, measures)``."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = setting.network()
    optimizer = torch.optim.Adam(network.parameters(), lr=setting.learning_rate, betas=setting.betas)
    make: Any = cbp.METHODS.get(setting.method or "")
    method: cbp.Method | None = make and make(network, optimizer, **setting.options)
    draws = torch.Generator().manual_seed(seed)  # the same tasks for all settings
    probe = torch.randn(PROBE, INPUTS, generator=draws)
    trainability = cbp.Trainability(setting.network, probe[:EXAMPLES], 3, UPDATES, BATCH, seed=seed)
    scores: dict[str, float] = {}
    head = str(len(network) - 1)
    hidden, weight = network[:-1], [module for module in network if isinstance(module, nn.Linear)][-2].weight
    initial = weight.detach().clone()
    rows = []
    for task in range(TASKS):
        inputs = torch.randn(EXAMPLES, INPUTS, generator=draws)
        labels = torch.randint(CLASSES, (EXAMPLES,), generator=draws)
        before, actions = weight.detach().clone(), network(probe).argmax(dim=1)
        for _ in range(EPOCHS):
            for batch in torch.randperm(EXAMPLES, generator=draws).split(BATCH):
                loss = nn.functional.cross_entropy(network(inputs[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                if method:
                    method.before_update()
                optimizer.step()
                if method:
                    method.step()
        measured = {"probe_ntk_effective_rank": metrics.ntk_effective_rank(network, probe[:KERNEL])}
        with torch.no_grad():
            measured["accuracy"] = (network(inputs).argmax(dim=1) == labels).double().mean().item()
            if task % LAST == 0:
                scores["trainability"] = trainability(network, head).score
                scores["trainability_own_head"] = trainability(network).score
            measured |= scores
            for prefix, batch in (("", inputs), ("probe_", probe)):
                h = hidden(batch)
                for measure in (metrics.dormant_fraction, metrics.dead_fraction, metrics.tau_dormant_fraction):
                    measured[prefix + measure.__name__] = measure(h)
                measured |= {prefix + name: rank for name, rank in metrics.ranks(h).items()}
            measured["weight_magnitude"] = metrics.weight_magnitude(weight)
            measured["distance_from_init"] = metrics.weight_distance([weight], [initial])
            measured["weight_change"] = metrics.weight_distance([weight], [before])
            measured["gradient_norm"] = metrics.gradient_norm([weight]) or 0.0
            measured["gradient_dormant_fraction"] = metrics.gradient_dormant_fraction(weight.grad)
            measured["churn"] = metrics.policy_churn(actions, network(probe).argmax(dim=1))
        rows.append([measured[name] for name in EXPECTED])
    return np.array(rows)


def measure_all(path: Path | None, settings: dict[str, Setting] = SETTINGS) -> Rows:
    """Every run; those that the file has are taken from there, the others are added to it."""
    rows = read(path) if path and path.exists() else {}
    missing = [run for run in product(settings, range(SEEDS)) if run not in rows]
    with ProcessPoolExecutor(2) as pool:
        trained = pool.map(train, [settings[label] for label, _ in missing], [seed for _, seed in missing])
        for run, measured in tqdm(zip(missing, trained, strict=True), total=len(missing), unit=" runs"):
            rows[run] = measured
            if path:
                write(path, rows)
    return rows


def read(path: Path) -> Rows:
    """The runs in a file."""
    rows: dict[tuple[str, int], list[list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault((row["label"], int(row["seed"])), []).append([float(row[name]) for name in EXPECTED])
    return {run: np.array(measured) for run, measured in rows.items()}


def write(path: Path, rows: Rows) -> None:
    """Writes the runs to a file."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["label", "seed", "task", *EXPECTED])
        for (label, seed), measured in rows.items():
            for task, values in enumerate(measured):
                table.writerow([label, seed, task, *values])


def compare(rows: Rows) -> list[str]:
    """Prints the table and returns the measures that do not tell the two labels apart as expected."""
    failed = []
    ends = {run: measured[-LAST:].mean(axis=0) for run, measured in rows.items()}
    print("| measure, last 10 tasks | loses | keeps | loses − keeps, paired by seed [95 %] | expected | told apart |")
    print("|---|---|---|---|---|---|")
    for k, (name, sign) in enumerate(EXPECTED.items()):
        of_label = {label: np.array([ends[label, seed][k] for seed in range(SEEDS)]) for label in LABELS}
        difference = estimate((of_label["loses"] - of_label["keeps"]).tolist(), "mean")
        assert difference.low is not None and difference.high is not None  # noqa: S101, PT018  there are five seeds
        apart = difference.low > 0 or difference.high < 0
        as_expected = apart and (sign * difference.centre > 0 or sign == 0)
        if sign and not as_expected:
            failed.append(name)
        means = " | ".join(f"{of_label[label].mean():.3g}" for label in LABELS)
        interval = f"{difference.centre:+.3g} [{difference.low:+.3g}, {difference.high:+.3g}]"
        word = {1: "above", -1: "below", 0: "–"}[sign]
        print(f"| `{name}` | {means} | {interval} | {word} | {'yes' if apart else 'no'} |")
    return failed


def judge_all(rows: Rows) -> list[str]:
    """Prints what the verdict says of each run, with tasks for phases, and returns the runs about which it is wrong."""
    wrong = []
    print("\n| run | signs at the end, and the task after which each was first seen | accuracy 10 points below its best |")
    print("|---|---|---|")
    names = list(EXPECTED)
    for (label, seed), measured in rows.items():
        ends = []
        for task, values in enumerate(measured, start=1):
            accuracy = values[names.index("accuracy")]
            error = math.sqrt(accuracy * (1 - accuracy) / EXAMPLES)
            of_units = {name: values[names.index(name)] for name in ("dormant_fraction", "stable_rank")}
            ends.append(PhaseEnd(task, 1.0, accuracy, error, of_units))
        verdicts = [judge(ends[:tasks], "task", "ppo") for tasks in range(1, len(ends) + 1)]
        firsts = [(sign, next(t for t, v in enumerate(verdicts, start=1) if sign in v.signs)) for sign in verdicts[-1].signs]
        signs = ", ".join(f"{sign} ({task})" for sign, task in firsts) or "none"
        accuracies = measured[:, names.index("accuracy")]
        fallen = np.flatnonzero(np.maximum.accumulate(accuracies) - accuracies > 0.1)
        print(f"| {label}, seed {seed} | {signs} | {f'after task {fallen[0] + 1}' if len(fallen) else 'never'} |")
        if (label == "loses") != verdicts[-1].words.startswith("Loss of plasticity is likely"):
            wrong.append(f"the verdict on {label}, seed {seed}: {verdicts[-1].words}")
    return wrong


def draw(rows: Rows, path: Path) -> None:
    """Draws accuracy and measures over tasks: means over seeds in their 95 % intervals."""
    shown = {
        "accuracy": "accuracy at the end of the task",
        "dormant_fraction": "dormant units (fraction)",
        "tau_dormant_fraction": "τ-dormant units (fraction)",
        "stable_rank": "stable rank (of 64)",
        "effective_rank": "effective rank (of 64)",
        "feature_rank": "feature rank (of 64)",
        "weight_magnitude": "mean |w|",
        "trainability": "trainability (1: as able as new)",
        "gradient_norm": "gradient norm",
    }
    figure = Figure(figsize=(11, 8), layout="constrained")
    names = list(EXPECTED)
    for axis, (name, title) in zip(figure.subplots(3, 3, sharex=True).flat, shown.items(), strict=True):
        for label, colour in zip(LABELS, ("#d55e00", "#0072b2"), strict=True):
            for prefix, style in (("", "-"), ("probe_", "--")):
                if prefix + name in names:
                    samples = np.array([rows[label, seed][:, names.index(prefix + name)] for seed in range(SEEDS)])
                    tasks = np.arange(1, samples.shape[1] + 1)
                    axis.fill_between(tasks, *interval(samples, "mean"), color=colour, alpha=0.2, linewidth=0)
                    where = ", probe batch" if prefix else ""
                    axis.plot(tasks, samples.mean(axis=0), style, color=colour, linewidth=1.5, label=label + where)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in figure.axes[-3:]:
        axis.set_xlabel("task")
    handles, labels = figure.axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"Random labels learned by heart, task by task: mean over {SEEDS} seeds, 95 % interval", fontsize=11)
    figure.savefig(path, dpi=130)


def main() -> int:
    """Measures, prints, draws; returns 1 if a measure failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="measurements: runs in it are taken from there, others are added")
    parser.add_argument("--figure", type=Path, help="draw accuracy and measures over tasks into this file")
    parser.add_argument("--swap-labels", action="store_true", help="call the runs by each other's label: must fail")
    args = parser.parse_args()
    rows = measure_all(args.data)
    if args.swap_labels:
        rows = {(LABELS[1 - LABELS.index(label)], seed): measured for (label, seed), measured in rows.items()}
    failed = compare(rows) + judge_all(rows)
    if args.figure:
        draw(rows, args.figure)
    if failed:
        print("FAILED:", *failed, sep="\n- ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
