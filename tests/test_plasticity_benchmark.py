"""The benchmark of the measures of plasticity passes, and fails where the labels are swapped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "plasticity.py"


@pytest.mark.soak
def test_the_measures_tell_what_loses_plasticity_from_what_keeps_it_and_not_the_other_way_round(tmp_path):
    def run(*options):
        command = [sys.executable, SCRIPT, "--data", tmp_path / "data.csv", *options]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    right = run("--figure", tmp_path / "figure.png")
    assert right.returncode == 0, right.stdout + right.stderr
    assert "FAILED" not in right.stdout
    assert (tmp_path / "figure.png").stat().st_size > 50_000
    swapped = run("--swap-labels")  # of the same measurements
    assert swapped.returncode == 1
    failed = swapped.stdout.split("FAILED:")[1]
    for name in ("accuracy", "dormant_fraction", "stable_rank", "effective_rank", "weight_magnitude", "probe_stable_rank"):
        assert f"- {name}\n" in failed
    assert failed.count("the verdict on loses") == failed.count("the verdict on keeps") == 5
