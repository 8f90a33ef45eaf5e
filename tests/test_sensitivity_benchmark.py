"""What `benchmarks/sensitivity.py` draws and prints of a sweep, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from agents.reporting.results import find_runs
from agents.runs.config import Config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def sensitivity(monkeypatch, capsys):
    """Runs the benchmark: its exit code, and what it printed to either stream."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sensitivity.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "benchmarks" / "sensitivity.py"), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def sweep(tmp_path):
    """Recorded runs of CBP as those of a sweep: one replacement rate with two seeds, another with one."""
    for seed, rate in ((0, 1e-4), (1, 1e-4), (0, 1e-3)):
        folder = tmp_path / "sweep" / f"{rate}" / f"seed{seed}"
        shutil.copytree(ROOT / "runs" / "quick-ant" / "cbp" / f"seed{seed}", folder)
        config = Config.from_json((folder / "config.json").read_text())
        varied = dataclasses.replace(
            config, varied=["replacement_rate"], method_kwargs={**config.method_kwargs, "replacement_rate": rate}
        )
        (folder / "config.json").write_text(varied.to_json())
    return tmp_path / "sweep"


def mean_returns(folder):
    """The mean over phases 0 to 8 of the mean over the parts of each: by hand, of a record without gaps."""
    lines = (folder / "curve.csv").read_text().splitlines()
    column = lines[0].split(",").index("return")
    values = [float(line.split(",")[column]) for line in lines[1 : 1 + 9 * 20]]
    return sum(values) / len(values)


def test_each_mean_tells_of_how_many_seeds_it_is_where_that_differs(sensitivity, sweep, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure))
    code, out, err = sensitivity(sweep, "--output", tmp_path / "map.png")
    assert code == 0
    means = [mean_returns(ROOT / "runs" / "quick-ant" / "cbp" / f"seed{seed}") for seed in (0, 1)]
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts == [f"{sum(means) / 2:,.0f}\n(2)", f"{means[0]:,.0f}\n(1)"]
    assert "mean of 1 to 2 seeds" in drawn[0].get_suptitle()
    assert f"| 10,000 | 0.001 | 0.0001 | {means[0]:,.0f} |" in out
    assert "missing, though other methods have it: cbp,replacement_rate=0.001 with seed 1" in err


@pytest.mark.parametrize(
    ("folder", "output", "words"),
    [
        (ROOT / "runs" / "supervised" / "slowly-changing-regression" / "cbp", "map.png", "runs of cbp by agents.train alone"),
        (ROOT / "runs" / "quick-ant" / "ppo", "map.png", "runs of cbp by agents.train alone, got ppo"),
        (ROOT / "runs" / "quick-ant" / "cbp", "map.zzz", "--output must end in one of "),
        (ROOT / "runs" / "quick-ant" / "cbp", "map", "--output must end in one of "),
        (ROOT / "runs" / "quick-ant" / "cbp", "file/map.png", "file"),
        (ROOT / "runs" / "none", "map.png", "is no folder"),
    ],
)
def test_what_it_cannot_draw_brings_one_line(sensitivity, tmp_path, folder, output, words):
    (tmp_path / "file").write_text("keep me")
    code, _, err = sensitivity(folder, "--output", tmp_path / output)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_runs_with_the_same_settings_and_seed_are_refused(sensitivity, sweep, tmp_path):
    one, other = min(find_runs([sweep / "0.0001"])), sweep / "0.001" / "seed0"
    values = json.loads((one / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(values | {"varied": []}))
    code, out, err = sensitivity(sweep, "--output", tmp_path / "map.png")
    assert code == 2
    assert "have the same settings and seed" in err
    assert not out


@pytest.mark.parametrize(
    ("varied", "words"), [(["learning_rate"], "learning_rate is "), ([], "learning_rate is "), (["rounding"], "rounding is ")]
)
def test_a_setting_that_is_not_drawn_must_be_the_same_in_all_runs(sensitivity, sweep, tmp_path, varied, words):
    """One that a sweep varied, too, or one that another --set gave all runs of a method."""
    path = sweep / "0.001" / "seed0" / "config.json"
    values = json.loads(path.read_text()) | {"varied": varied, "seed": 2}
    changed = "method_kwargs" if varied == ["rounding"] else "hyperparameters"
    values[changed] |= {"rounding": "counter"} if varied == ["rounding"] else {"learning_rate": 0.003}
    path.write_text(json.dumps(values))
    code, out, err = sensitivity(sweep, "--output", tmp_path / "map.png")
    assert code == 2
    assert "runs must differ in maturity_threshold, replacement_rate, weight_decay and seed alone: " in err
    assert words in err
    assert str(path.parent) in err
    assert not out
