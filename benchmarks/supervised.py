"""What the supervised problems cost: online learning of many runs at once, and a method's share of a step of ResNet-18.

``python benchmarks/supervised.py [--examples 20000] [--steps 2] [--repeats 7]``. Three tables in minutes, on an idle machine:

- Slowly-changing regression, on one thread. Where runs learn together, thirty at once: microseconds per example (of all
  thirty), and the minutes that thirty runs of a million examples take. For every method microseconds per example of one run by
  itself (a module, a torch optimizer, a method of ``cbp``), and how many times as long thirty of these take. Both take turns.
- ResNet-18 on images of 32×32 in minibatches of 90, and the network of Continual ImageNet in minibatches of 100: what each
  method adds to a step. Steps with and without it alternate, and ratios are taken pair by pair.

Units are replaced as often as in a long run: they are mature from the start.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cbp
from agents.supervised.networks import make_network
from agents.supervised.online import OnlineLearner, OnlineSettings
from agents.supervised.online_plain import PlainLearner
from agents.supervised.presets import PROBLEMS, Method, Settings
from envs.streams import SlowlyChangingRegression

RUNS = 30
IMAGE_NETWORKS = {
    "ResNet-18": ("class-incremental-cifar", "cifar100"),
    "Continual ImageNet": ("continual-imagenet", "imagenet32"),
}


def settings_of(settings: Settings, method: Method) -> OnlineSettings:
    """What a run of a method learns with."""
    settings = replace(settings, **method.changes)
    return OnlineSettings(
        net_arch=settings.net_arch,
        activation=settings.activation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        method=method.method,
        method_kwargs=method.method_kwargs,
        layer_norm=settings.layer_norm,
        fresh_at_task=settings.at_task == "fresh_network",
    )


def make_method(method: Method, model: nn.Module, optimizer: torch.optim.Optimizer) -> cbp.Method | None:
    """The method around the updates of a model; None for none."""
    if method.method is None:
        return None
    make: type[cbp.Method] = cbp.METHODS[method.method]
    return make(model, optimizer, **method.method_kwargs)


def update(optimizer: torch.optim.Optimizer, method: cbp.Method | None, loss: Tensor) -> None:
    """One update."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if method is not None:
        method.before_update()
    optimizer.step()
    if method is not None:
        method.step()


def measure_online(examples: int, repeats: int) -> None:
    """Prints the table of slowly-changing regression."""
    print(f"| one thread | {RUNS} runs, µs per example | minutes for a million | µs of one run by itself | {RUNS} of these ÷ |")
    print("|---|---|---|---|---|")
    preset = PROBLEMS["slowly-changing-regression"]["generated"]
    for name, method in preset.methods.items():
        settings = settings_of(preset.settings, method)
        plain = PlainLearner(SlowlyChangingRegression(0), settings, 0, 20, 1)
        learner = None
        if OnlineLearner.knows(settings):
            streams = [SlowlyChangingRegression(seed) for seed in range(RUNS)]
            learner = OnlineLearner(streams, [settings] * RUNS, list(range(RUNS)), 20, 1)
            learner.learn(2_000)
        plain.learn(200)
        together, alone = [], []
        for _ in range(repeats):
            if learner is not None:
                start = time.perf_counter()
                learner.learn(examples)
                together.append((time.perf_counter() - start) / examples)
            start = time.perf_counter()
            plain.learn(examples // 20)
            alone.append((time.perf_counter() - start) / (examples // 20))
        cells = ["–", "–", f"{1e6 * statistics.median(alone):.0f}", "–"]
        if together:
            per_example = 1e6 * statistics.median(together)
            ratio = statistics.median(RUNS * slow / fast for slow, fast in zip(alone, together, strict=True))
            cells = [f"{per_example:.0f}", f"{per_example / 60:.1f}", cells[2], f"{ratio:.0f}"]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


def measure_images(title: str, problem: str, dataset: str, steps: int, repeats: int) -> None:
    """Prints the table of an image problem."""
    preset = PROBLEMS[problem][dataset]
    print(f"\n| {title}, {torch.get_num_threads()} threads | ms per step | extra, median [quartiles] |\n|---|---|---|")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(preset.settings.batch_size, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 2, (preset.settings.batch_size,), generator=generator)
    for name in ("shrink-perturb", "cbp", "redo", "l2-init"):
        pair = []
        for method in (Method(), preset.methods[name]):
            settings = replace(
                preset.settings, weight_decay=5e-4, **{k: v for k, v in method.changes.items() if k != "weight_decay"}
            )
            model = make_network(settings, (3, 32, 32), 100, seed=0)
            optimizer = torch.optim.SGD(model.parameters(), 1e-3, settings.momentum, weight_decay=settings.weight_decay)
            mature = {"maturity_threshold": 0} if method.method == "cbp" else {}
            of_method = replace(method, method_kwargs={**method.method_kwargs, **mature})
            pair.append((model, optimizer, make_method(of_method, model, optimizer)))
        seconds: list[list[float]] = [[], []]
        for _ in range(repeats):
            for which, (model, optimizer, method) in enumerate(pair):
                start = time.perf_counter()
                for _ in range(steps):
                    update(optimizer, method, F.cross_entropy(model(images), labels))
                seconds[which].append((time.perf_counter() - start) / steps)
        low, median, high = np.percentile([100 * (b / a - 1) for a, b in zip(*seconds, strict=True)], [25, 50, 75])
        print(f"| `{name}` | {1e3 * statistics.median(seconds[1]):.1f} | {median:.1f} % [{low:.1f}, {high:.1f}] |", flush=True)


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20_000, help="of regression, in a turn (default: 20000)")
    parser.add_argument(
        "--steps", type=int, default=2, help="of ResNet-18 in a turn; ten times as many of the other (default: 2)"
    )
    parser.add_argument("--repeats", type=int, default=7, help="turns (default: 7)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of layers of a ResNet whose units are left as they are
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measure_online(args.examples, args.repeats)
    torch.set_num_threads(threads)
    for title, (problem, dataset) in IMAGE_NETWORKS.items():
        measure_images(title, problem, dataset, args.steps * (1 if dataset == "cifar100" else 10), args.repeats)


if __name__ == "__main__":
    main()
