"""What lines of the report's figure are over, how they differ, and where they end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_report import BINS, FLAT, ROOT, config_for, even, write

from agents.reporting.comparison import compare, interval
from agents.reporting.figure import _lines, _over_seeds, draw_comparison
from agents.reporting.results import find_runs, read_run
from agents.reporting.tables import markdown_table

NAN = math.nan


def drawn(comparison, tmp_path, monkeypatch):
    """The figure of a comparison."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.append(figure))
    draw_comparison(comparison, "mean", [tmp_path / "report.png"])
    return figures[0]


def test_each_point_is_over_the_seeds_that_have_a_value_there():
    samples = np.array([[1.0, 1, 1, NAN], [2, 2, NAN, NAN], [3, 3, 3, NAN], [4, 4, 4, NAN], [5, 5, 5, NAN], [9, NAN, 9, NAN]])
    centre, low, high = _over_seeds(samples, "mean")
    # (1+2+3+4+5+9)/6 = 4; without the last 3; without the second (1+3+4+5+9)/5 = 4.4
    assert centre[:3] == pytest.approx([4, 3, 4.4])
    for point, rows in ((0, slice(None)), (1, [0, 1, 2, 3, 4]), (2, [0, 2, 3, 4, 5])):
        assert (low[point], high[point]) == pytest.approx(interval(samples[rows, point], "mean"))
    assert np.isnan([centre[3], low[3], high[3]]).all()
    assert np.isnan(_over_seeds(samples[:4], "mean")[1:]).all()  # below five seeds there is no interval
    assert _over_seeds(samples[:4], "mean")[0, 0] == 2.5


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (None, "friction changes every 2,000"),
        ({"name": "geometric"}, "friction changes every 2,000 on average (geometric)"),
        (
            {"name": "bursts", "changes": 3, "gap": 500},
            "friction changes in bursts 2,000 apart",
        ),  # a phase has 1,000 in the mean
    ],
)
def test_the_period_is_said_to_be_what_it_is_of(tmp_path, monkeypatch, times, words):
    config = config_for(change={"times": times} if times else {})
    write(tmp_path / "run", config, even(FLAT, FLAT))
    comparison = compare([read_run(tmp_path / "run")])
    assert f"4,000 steps of 1 environment, {words}." in markdown_table(comparison, "mean", "ppo")
    label = drawn(comparison, tmp_path, monkeypatch).axes[-1].get_xlabel()
    assert label == (f"phases, drawn equally wide; in environment steps, {words}" if times else "environment steps")


def test_no_two_lines_are_alike_while_there_are_others():
    methods = ["cbp"] * 9 + ["ppo"] * 3 + [f"method {k}" for k in range(20)] + ["cbp"] * 30
    lines = _lines(methods)
    assert len({str(line) for line in lines}) == len(methods) == 62
    assert {colour for colour, _ in lines[:8]} == {lines[0][0]}  # a method's own colour as long as it has lines


def test_a_seed_that_diverged_ends_at_a_mark_and_the_others_go_on(tmp_path, monkeypatch):
    runs = ROOT / "runs" / "supervised" / "slowly-changing-regression" / "backprop"
    for folder in sorted(runs.iterdir())[:6]:
        to = tmp_path / "runs" / folder.name
        to.mkdir(parents=True)
        for name in ("config.json", "summary.json", "curve.csv"):
            (to / name).write_text((folder / name).read_text())
    results = [read_run(path) for path in find_runs([tmp_path / "runs"])]
    lost = results[3]
    lost.curve["task/error"][10:] = NAN
    axis = drawn(compare(results), tmp_path, monkeypatch).axes[0]
    line, mark = axis.lines
    assert np.isfinite(line.get_ydata()).all()
    merged = 5  # tasks to a point: 300 of them in 60
    assert len(line.get_ydata()) == 60
    others = [run.curve["task/error"][-merged:].mean() for run in results if run is not lost]
    assert line.get_ydata()[-1] == pytest.approx(np.mean(others))
    assert mark.get_marker() == "x"
    assert mark.get_ydata() == pytest.approx(lost.curve["task/error"][5:10].mean())
    assert "× where a seed has its last value" in axis.figure.get_suptitle().replace("\n", " ")


def test_a_phase_without_an_episode_in_one_seed_is_drawn_over_the_others(tmp_path, monkeypatch):
    for seed in range(6):
        episodes = even([float(seed)] * BINS, FLAT)
        write(tmp_path / str(seed), config_for(seed=seed), episodes if seed else episodes[BINS:])
    found = compare([read_run(tmp_path / str(seed)) for seed in range(6)])
    (line,) = drawn(found, tmp_path, monkeypatch).axes[0].lines
    assert line.get_ydata() == pytest.approx([3.0] * BINS + FLAT)  # (1+2+3+4+5)/5


def test_methods_with_too_few_seeds_for_an_interval_are_told_in_the_title(tmp_path, monkeypatch):
    for method, number in (("ppo", 6), ("cbp", 2)):
        for seed in range(number):
            write(tmp_path / f"{method}{seed}", config_for(method, seed), even(FLAT, FLAT))
    figure = drawn(compare([read_run(path) for path in sorted(tmp_path.iterdir())]), tmp_path, monkeypatch)
    assert "mean over 2 to 6 seeds, 95 % interval from 5 on, below it single runs (thin)" in figure.get_suptitle().replace(
        "\n", " "
    )


def test_a_long_legend_has_room(tmp_path, monkeypatch):
    for number in range(40):
        varied = config_for("cbp", varied=["replacement_rate", "maturity_threshold", "decay_rate"])
        varied.method_kwargs["replacement_rate"] = (1 + number) / 100
        write(tmp_path / str(number), varied, even(FLAT, FLAT))
    figure = drawn(compare([read_run(path) for path in tmp_path.iterdir()]), tmp_path, monkeypatch)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.y0 < box.y1 <= figure.bbox.height
    assert box.x1 <= figure.bbox.width
    assert box.width < figure.bbox.width / 3


def test_a_long_title_leaves_the_legend_alone(tmp_path, monkeypatch):
    folder = ROOT / "runs" / "supervised" / "continual-imagenet"
    names = ("backprop,learning_rate=0.03", "cbp,learning_rate=0.03")
    found = compare([read_run(path) for name in names for path in find_runs([folder / name])])
    figure = drawn(found, tmp_path, monkeypatch)
    assert "× where a seed has its last value" in figure.get_suptitle().replace("\n", " ")
    figure.draw_without_rendering()
    title, legend = figure._suptitle.get_window_extent(), figure.legends[0].get_window_extent()
    assert 0 <= title.x0 < title.x1 < legend.x0
