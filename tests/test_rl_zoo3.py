"""The page's recipe for rl-zoo3, run by rl-zoo3 itself where it is installed."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from stable_baselines3 import PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent
TRAIN = ["-m", "rl_zoo3.train", "--algo", "ppo", "--env", "Hopper-v5", "--conf-file", "hyperparameters.yml", "--device", "cpu"]

pytestmark = pytest.mark.slow


@pytest.fixture
def rl_zoo3(tmp_path):
    """Runs it in a folder that has the page's file of hyperparameters."""
    pytest.importorskip("rl_zoo3", reason="rl-zoo3 is not installed", exc_type=ImportError)
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "sb3.md").read_text(), flags=re.DOTALL)
    (tmp_path / "hyperparameters.yml").write_text(text)
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(*arguments):
        command = [sys.executable, *TRAIN, *arguments, "--log-folder", "logs"]
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return tmp_path / "logs"

    return run


def test_the_recipe_trains_a_plastic_policy_in_a_changing_world_and_records_it(rl_zoo3, tmp_path):
    rl_zoo3("--gym-packages", "agents", "envs", "--tensorboard-log", "tb", "--eval-freq", "-1")
    (file,) = (tmp_path / "tb").rglob("events.*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert events.Scalars("cbp/policy/replaced")[-1].value > 0
    assert "plasticity/policy/hidden1/saturated_fraction" in events.Tags()["scalars"]


def test_optuna_searches_over_the_methods_options(rl_zoo3):
    pytest.importorskip("pandas", reason="the search needs pandas, which is not installed", exc_type=ImportError)
    few = ["--n-trials", "2", "--n-timesteps", "512", "--n-evaluations", "1", "--eval-episodes", "1", "--n-startup-trials", "1"]
    search = ["--gym-packages", "agents", "envs", "rl_zoo3_search", "--storage", "study.log", "--study-name", "plastic"]
    logs = rl_zoo3(*search, "-optimize", "--no-optim-plots", *few)
    (table,) = logs.rglob("report_*.csv")
    with table.open(newline="") as file:
        trials = list(csv.DictReader(file))
    assert len({trial["params_replacement_rate"] for trial in trials}) == 2
    assert all(100 <= int(trial["params_maturity_threshold"]) <= 10_000 for trial in trials)
    # What a trial found trains a policy that has it.
    rl_zoo3(*search, "--trial-id", "1", "--n-timesteps", "512", "--eval-freq", "-1")
    model = PPO.load(max(logs.glob("ppo/Hopper-v5_*/Hopper-v5.zip")), device="cpu")
    (trial,) = [trial for trial in trials if trial["number"] == "1"]
    assert model.policy.method.replacement_rate == pytest.approx(float(trial["params_replacement_rate"]))
    assert model.policy.method.maturity_threshold == int(trial["params_maturity_threshold"])
