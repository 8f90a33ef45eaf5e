"""The answers to the protocol's questions, from runs whose numbers are made up."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from agents.reporting.comparison import Comparison

SPEC = importlib.util.spec_from_file_location("nature", Path(__file__).parents[1] / "benchmarks" / "nature.py")
nature = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(nature)


def run(late, dormant=0.0, weight=0.0, rank=0.0):
    """A run whose late phases return this, whose early ones return a million, and whose measures change by so much."""
    curve = {}
    for name, change in (("dormant_fraction", dormant), ("weight_magnitude", weight), ("stable_rank", rank)):
        rows = np.full((10, 4), 5.0)
        rows[0] = 2, 3, 1, np.nan  # the phase ends at 1
        rows[9] = 9, 1 + change, np.nan, np.nan
        curve[f"plasticity/policy/hidden2/{name}"] = rows
    return SimpleNamespace(phases=[{"mean_return": 1e6}] * 5 + [{"mean_return": value} for value in late], curve=curve)


def comparison(seeds=5):
    """PPO at 0, 10, 20, … by seed, tuned Adam 3 above, L2 the same, CBP 100 above, fresh networks 7 above; phases differ."""
    at = {"ppo": 0, "ppo-tuned": 3, "l2": 0, "cbp": 100, "reset-all": 7}
    runs = {
        method: {
            seed: run(
                [10 * seed + above + k for k in (-2, -1, 0, 1, 2)],
                dormant=0.5 if method == "ppo" else 0.1,
                weight=-1.0 if method == "ppo" else 0.0,
                rank=-30.0 if method == "ppo" else [-50.0, 20.0][seed % 2],
            )
            for seed in range(seeds)
        }
        for method, above in at.items()
    }
    return Comparison(runs, [], {}, list(range(10)))


def rows(lines):
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return [(mean, interval, answer) for _, _, mean, interval, answer, _ in cells]


def test_each_question_is_answered_by_the_interval_of_the_paired_differences():
    (lost, with_ppo, with_tuned, with_l2, dormant, less_dormant, weight, _, rank, less_rank) = rows(
        nature.answers(comparison())
    )
    assert lost == ("-7", "-7 to -7", "lost")
    assert with_ppo == ("100", "100 to 100", "supported")
    assert with_tuned == ("97", "97 to 97", "supported")
    assert with_l2 == ("100", "100 to 100", "supported")
    assert dormant == ("0.5", "0.5 to 0.5", "supported")
    assert less_dormant == ("0.4", "0.4 to 0.4", "supported")
    assert weight == ("-1", "-1 to -1", "contradicted")  # the weights were to rise
    assert rank == ("-30", "-30 to -30", "supported")  # the rank was to fall
    # CBP's falls by 50, rises by 20, …: PPO's changes by 20, -50, 20, -50, 20 more, -8 in the mean
    assert less_rank[0] == "-8"
    assert less_rank[2] == "open"


def test_with_fewer_than_five_seeds_nothing_is_answered():
    assert {answer for *_, answer in rows(nature.answers(comparison(4)))} == {"open: 4 of 5 seeds"}


@pytest.mark.parametrize(
    ("each", "expected", "word"),
    [([1, 2, 3, 4, 5], 1, "yes"), ([1, 2, 3, 4, 5], -1, "no"), ([-1, -2, -3, -4, -5], 1, "no"), ([-5, 5, 0, 1, -1], 1, "open")],
)
def test_an_interval_supports_contradicts_or_leaves_open(each, expected, word):
    assert nature.answer(each, expected, ("yes", "no")) == word


def test_the_protocol_s_interval_is_that_of_a_plain_bootstrap():
    each = [3.0, -1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    drawn = np.random.default_rng(8).integers(0, 8, (20_000, 8))
    means = [sum(each[k] for k in row) / 8 for row in drawn]
    assert nature.bootstrap(each) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.15)
    assert nature.bootstrap(each) == nature.bootstrap(each)
    assert nature.bootstrap(each[:4]) is None


def test_the_report_s_interval_stands_beside_it():
    at = {"ppo": [0, 0, 0, 0, 0], "cbp": [1, 2, 3, 4, 5]}
    runs = {method: {seed: run([value] * 5) for seed, value in enumerate(values)} for method, values in at.items()}
    line = next(line for line in nature.answers(Comparison(runs, [], {}, list(range(10)))) if "`cbp` − `ppo`" in line)
    # mean 3, standard error √(2.5 / 5) = 0.7071, t of four degrees of freedom 2.776: 3 ± 1.963
    assert line.endswith("| supported | 1.037 to 4.963 |")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/pilot"], "'runs/pilot' must have runs of nature-slippery-ant, got those of ant-nonstationary"),
        (["runs/supervised/class-incremental-cifar"], "must have runs of nature-slippery-ant"),
        (["runs/none"], "'runs/none' is no folder"),
        (["runs/nature", "--output", "README.md/table.md"], "README.md/table.md"),
    ],
)
def test_questions_are_answered_from_runs_of_the_protocol_alone(monkeypatch, capsys, arguments, words):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["nature.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(root / "benchmarks" / "nature.py"), run_name="__main__")
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert words in err.splitlines()[-1]
    assert not out


def test_answers_of_the_recorded_runs_are_written_too(monkeypatch, capsys, tmp_path):
    root = Path(__file__).parents[1]
    monkeypatch.setattr(sys, "argv", ["nature.py", str(root / "runs" / "nature"), "--output", str(tmp_path / "table.md")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(root / "benchmarks" / "nature.py"), run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text()
    assert len((tmp_path / "table.md").read_text().splitlines()) == 12
