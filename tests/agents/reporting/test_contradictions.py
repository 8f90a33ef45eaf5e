"""Files of a run that contradict each other, messages that name the file, and records that broke off."""

from __future__ import annotations

import errno
import os

import pytest
from test_report import BINS, FLAT, config_for, edit, even, ramp, write

from agents import report
from agents.reporting.comparison import compare
from agents.reporting.results import read_run, record
from agents.runs import logs
from agents.runs.commands import INTERRUPTED
from agents.runs.errors import UserError

RAMP = ramp(0, BINS - 1)  # 0, 1, …, 19


def lines_of(path):
    return path.read_text().splitlines(keepends=True)


def cut(folder, name, keep):
    """A run with a file of fewer rows, or whose last row is cut."""
    write(folder, config_for(), even(FLAT, FLAT))
    lines = lines_of(folder / name)
    (folder / name).write_text("".join(keep(lines)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: cut(folder, "progress.csv", lambda lines: lines[:-1]), "progress.csv does not go on from step to step"),
        (
            lambda folder: cut(folder, "progress.csv", lambda lines: [*lines[:9], *lines[7:]]),
            "does not go on from step to step",
        ),
        (  # rows are 100 steps apart, a rollout is of 2,048
            lambda folder: cut(folder, "progress.csv", lambda lines: [*lines[:5], *lines[30:]]),
            "progress.csv has lost rows: there is none between steps 400 and 3,000, and the run wrote one every 2,048",
        ),
        (
            lambda folder: cut(folder, "progress.csv", lambda lines: [lines[0], *lines[22:]]),
            "progress.csv has lost rows: there is none between steps 0 and 2,200",
        ),
        (lambda folder: cut(folder, "progress.csv", lambda lines: [*lines[:-1], "4000"]), "a row of another length, line 41"),
        (lambda folder: cut(folder, "progress.csv", lambda lines: lines[:1]), "progress.csv has no rows"),
        (lambda folder: cut(folder, "progress.csv", lambda lines: [*lines[:-1], "4000,"]), "whose env/phase is none of the 2"),
        (lambda folder: cut(folder, "progress.csv", lambda lines: [*lines[:-1], "4000,7"]), "whose env/phase is none of the 2"),
        (lambda folder: cut(folder, "episodes.csv", lambda lines: [*lines[:-1], "4000,0,1"]), "a row of another length"),
        (
            lambda folder: edit(folder, lambda summary: summary["phases"][1].update(mean_return=5.1)),
            "episodes.csv has a mean return of 5.0 in phase 1, summary.json one of 5.1",
        ),
        (
            lambda folder: write(folder, config_for(timesteps=5_000), even(FLAT, FLAT)),
            "4,000 of 5,000 steps are there, though summary.json says that it is complete; agents.train --resume goes on",
        ),
        (lambda folder: edit(folder, lambda summary: summary["phases"].pop()), "has 4000 timesteps, and 2000 in its phases"),
        (lambda folder: edit(folder, lambda summary: summary["phases"][1].update(steps=5)), "and 2005 in its phases"),
        (lambda folder: edit(folder, lambda summary: summary.update(timesteps="many")), "has 'many' timesteps, and 4000"),
        (  # of 20 episodes the last two
            lambda folder: edit(folder, lambda summary: summary["phases"][1].update(mean_return=9.5, final_return=18.0), RAMP),
            "episodes.csv has a final return of 18.5 in phase 1, summary.json one of 18.0",
        ),
        (lambda folder: edit(folder, lambda summary: summary.pop("versions")), "summary.json has no 'versions'"),
        (lambda folder: edit(folder, lambda summary: summary.pop("phases")), "summary.json has no 'phases'"),
        (lambda folder: edit(folder, lambda summary: summary.pop("time")), "summary.json has no 'time'"),
        (
            lambda folder: edit(folder, lambda summary: summary.update(complete=None)),
            "does not say whether the run is complete",
        ),
        (lambda folder: edit(folder, lambda summary: summary["phases"][0].pop("steps")), "a phase without 'steps'"),
        (lambda folder: edit(folder, lambda summary: summary["phases"][0].update(steps=True)), "a phase of True steps"),
        (lambda folder: edit(folder, lambda summary: summary["phases"][0].update(final_return=True)), "final return of True"),
        (lambda folder: (write(folder, config_for(), []) / "summary.json").write_text("{"), "summary.json is no JSON: "),
        (lambda folder: (write(folder, config_for(), even(FLAT, FLAT)) / "progress.csv").unlink(), "neither curve.csv"),
    ],
)
def test_what_contradicts_or_is_damaged_is_named_with_its_file(tmp_path, capsys, make, words):
    make(tmp_path / "runs")
    assert report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert str(tmp_path / "runs") in line
    assert not (tmp_path / "out").exists()


def test_a_mean_and_a_final_return_that_the_episodes_have_are_right(tmp_path):
    edit(tmp_path / "run", lambda summary: summary["phases"][1].update(mean_return=9.5, final_return=18.5), RAMP)
    assert read_run(tmp_path / "run").complete


def test_a_measure_that_was_no_number_is_none(tmp_path):
    name = "plasticity/policy/hidden1/stable_rank"
    folder = write(tmp_path / "run", config_for(), even(FLAT, FLAT), [(2_000, 0, name, "nan"), (4_000, 1, name, 7.0)])
    curve = read_run(folder).curve[name]
    assert curve[1, BINS - 1] == 7
    assert (curve == curve).sum() == 1


def test_a_record_that_broke_off_is_no_complete_run(tmp_path, monkeypatch):
    result = read_run(write(tmp_path / "run", config_for(), even(FLAT, FLAT)))
    whole = logs.write_atomically

    def full(path, text):
        if path.name == "curve.csv":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        whole(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(logs, "write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            record(result, tmp_path / "record")
    assert not read_run(tmp_path / "record").complete
    record(result, tmp_path / "record")
    again = read_run(tmp_path / "record")
    assert again.complete
    assert (again.curve["return"] == result.curve["return"]).all()


def test_runs_are_not_recorded_where_they_would_be_read_again(tmp_path, capsys):
    runs = tmp_path / "runs"
    write(runs / "a", config_for(), even(FLAT, FLAT))
    made = [str(runs), "--output", str(tmp_path / "out"), "--record"]
    assert report.main([*made, str(runs / "records")]) == 2
    assert f"--record must lie outside of '{runs}', whose runs are read" in capsys.readouterr().err
    assert sorted(path.name for path in runs.iterdir()) == ["a"]
    assert report.main([*made, str(tmp_path / "records")]) == 0
    # What is recorded in its own place stays there.
    again = [str(tmp_path / "records"), "--output", str(tmp_path / "out"), "--record", str(tmp_path / "records")]
    assert [report.main(again) for _ in range(2)] == [0, 0]


def test_nothing_untrue_is_said_where_some_was_written_before_ctrl_c(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    write(tmp_path / "runs", config_for(), even(FLAT, FLAT))
    monkeypatch.setattr(report, "record", interrupt)
    made = [str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--record", str(tmp_path / "records")]
    assert report.main(made) == INTERRUPTED
    assert (tmp_path / "out" / "table.md").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "each file is as it was or whole" in line


def test_no_runs_cannot_be_compared():
    with pytest.raises(UserError, match="there is no run to compare"):
        compare([])
