"""The method that CONTRIBUTING adds with one file and one line works everywhere that it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE, LINE = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs Python with a copy of the packages to which the method was added."""
    root = tmp_path_factory.mktemp("packages")
    for package in ("agents", "cbp", "envs"):
        if package == "cbp":
            shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (root / package).symlink_to(ROOT / package)
    (root / "cbp" / "weight_clipping.py").write_text(FILE)
    with (root / "cbp" / "__init__.py").open("a") as file:
        file.write(LINE)

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def trained(python, tmp_path_factory):
    """The folder of a run, what was printed while it was trained and, afterwards, with a bad option, and both exit codes."""
    run = tmp_path_factory.mktemp("runs") / "run"
    method = ["--env", "ant-nonstationary", "--method", "weight-clipping"]
    good = [*method, "--set", "factor=0.5", "--timesteps", "1024", "--n-envs", "4", "--set", "rollout_steps=512"]
    good += ["--set", "net_arch=[16]", "--run-dir", str(run)]
    bad = [*method, "--set", "factor=-1", "--run-dir", str(run / "bad")]
    process = python("-c", f"from agents import train; print([train.main(arguments) for arguments in ({good}, {bad})])")
    assert process.returncode == 0, process.stderr
    return run, process.stderr, json.loads(process.stdout.splitlines()[-1])


def test_it_trains_by_its_name_and_takes_its_options(trained):
    run, printed, codes = trained
    assert codes[0] == 0
    assert "slower loop" not in printed
    assert json.loads((run / "config.json").read_text())["method_kwargs"] == {"factor": 0.5}
    assert json.loads((run / "summary.json").read_text())["complete"]


def test_it_clips_and_goes_on_in_any_loop(python):
    code = """
import cbp, torch
from torch import nn
model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
nn.init.constant_(model[0].weight, 0.5)
method = cbp.WeightClipping(model, torch.optim.SGD(model.parameters(), lr=0.1), factor=2.0)
nn.init.constant_(model[0].weight, 7.0)
assert method.step() == []
print(model[0].weight.unique().tolist())
again = cbp.METHODS["weight-clipping"](model, None, factor=3.0)
again.load_state_dict(method.state_dict())
nn.init.constant_(model[0].weight, -7.0)
again.step()
print(model[0].weight.unique().tolist())
"""
    assert python("-c", code).stdout.split() == ["[1.0]", "[-1.0]"]  # ±2 · 0.5


def test_a_bad_option_is_refused_in_one_line(trained):
    run, printed, codes = trained
    assert codes[1] == 2
    assert printed.endswith("\nerror: factor must be a finite number >= 0, got -1\n")
    assert printed.count("error") == 1
    assert not (run / "bad").exists()
