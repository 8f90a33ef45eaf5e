"""`cbp` needs torch, what torch requires, and nothing else: not even NumPy."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

import cbp

# Nothing is found any more but the standard library and the packages that are named to it.
HIDE = """
import sys

class Only:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        allowed = name.startswith("_sysconfigdata") or name.partition(".")[0] in {*sys.stdlib_module_names, *sys.argv[1:]}
        return self.finder.find_spec(name, path, target) if allowed else None

sys.meta_path[:] = [Only(finder) for finder in sys.meta_path]
"""
TRAIN = """
import importlib, pkgutil
import cbp
for module in pkgutil.walk_packages(cbp.__path__, "cbp."):
    importlib.import_module(module.name)
import torch
from torch import nn

for name, method_class in cbp.METHODS.items():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    method = method_class(model, optimizer)
    x = torch.randn(64, 4)
    losses = []
    for _ in range(60):
        losses.append((model(x) - x.sum(dim=1, keepdim=True)).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        if hasattr(method, "before_update"):
            method.before_update()
        optimizer.step()
        method.step()
    method.load_state_dict(method.state_dict())
    assert losses[-1] < losses[0], (name, losses[0], losses[-1])
    print(name)

assert cbp.metrics.stable_rank(torch.randn(64, 16)) > 1
"""


def import_names(name: str) -> set[str]:
    """What a distribution, and all that it requires without extras, give to import."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        package = canonical(waiting.pop())
        if package not in found:
            found.add(package)
            with suppress(PackageNotFoundError):  # required on another system
                requirements = [line for line in distribution(package).requires or [] if "extra" not in line]
                waiting += [re.split(r"[^\w.-]", line)[0] for line in requirements]
    return {module for module, owners in packages_distributions().items() if found & set(map(canonical, owners))}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def python(code, *allowed):
    return subprocess.run([sys.executable, "-c", HIDE + code, *allowed], capture_output=True, text=True, check=False)


def test_every_method_trains_where_nothing_but_torch_can_be_imported():
    allowed = import_names("torch")
    assert not allowed & {"numpy", "gymnasium", "stable_baselines3"}
    done = python(TRAIN, "cbp", *allowed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(cbp.METHODS)


def test_what_is_hidden_cannot_be_imported():
    done = python("import numpy", "torch")
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'numpy'"
