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


def test_it_trains_by_its_name_and_takes_its_options(python, tmp_path):
    arguments = ["--env", "ant-nonstationary", "--method", "weight-clipping", "--set", "factor=0.5", "--timesteps", "1024"]
    arguments += ["--n-envs", "4", "--set", "rollout_steps=512", "--set", "net_arch=[16]", "--run-dir", str(tmp_path / "run")]
    process = python("-m", "agents.train", *arguments)
    assert process.returncode == 0, process.stderr
    assert "slower loop" not in process.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["method_kwargs"] == {"factor": 0.5}
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["complete"]


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


def test_a_bad_option_is_refused_in_one_line(python, tmp_path):
    arguments = [
        "--env",
        "ant-nonstationary",
        "--method",
        "weight-clipping",
        "--set",
        "factor=-1",
        "--run-dir",
        str(tmp_path / "x"),
    ]
    process = python("-m", "agents.train", *arguments)
    assert (process.returncode, process.stderr) == (2, "error: factor must be a finite number >= 0, got -1\n")
