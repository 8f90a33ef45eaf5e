"""The page of tables by protocol: numbers worked out by hand, which runs are on it, and that the repository has it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from test_report import write

from agents import report, train
from agents.reporting.leaderboard import MARK
from agents.runs.options import make_config
from agents.runs.protocols import PROTOCOLS
from agents.runs.run_folder import RunFolder

ROOT = Path(__file__).parents[3]


def config_of(method, seed, name, *options):
    return make_config(train._parser().parse_args(["--protocol", name, *options]), method, seed)


def run(
    folder,
    method="ppo",
    seed=0,
    *options,
    name="quick-ant",
    returns=(10.0, 20.0),
    finals=(30.0, 50.0),
    time=None,
    dormant=0.25,
    **changes,
):
    """A run of a protocol with two phases, each with one return throughout; the second lasts to the end."""
    config = dataclasses.replace(config_of(method, seed, name, *options), **changes)
    period = config.period
    path = RunFolder.below(folder, config, f"seed{seed}-{len(list(folder.rglob('config.json')))}").path
    episodes = [(period, 0, 0, returns[0]), (2 * period, 0, 1, returns[1])]
    of_units = "plasticity/policy/hidden1/dormant_fraction"
    rows = [(period, 0, of_units, dormant), (2 * period, 1, of_units, dormant)]
    write(path, config, episodes, rows, finals, (period, config.timesteps - period))
    summary = json.loads((path / "summary.json").read_text()) | {"time": time or {}}
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def draw(*folders, page):
    return report.main([*map(str, folders), "--leaderboard", str(page)])


def section(page, name="quick-ant"):
    return page.read_text().split(f"\n## {name}\n")[1].split("\n## ")[0]


def test_a_row_has_each_column_worked_out_by_hand(tmp_path):
    path = run(tmp_path / "runs", time={"seconds": 50.0, "steps": 400_000})
    (path / "trainability.csv").write_text(
        "checkpoint,phase,steps,kind,score,low,high\n"
        "a,0,200000,policy-fresh-head,0.9,0.8,1\nb,1,2000000,policy-targets,0.8,0.7,0.9\n"
        "b,1,2000000,policy-fresh-head,0.75,0.7,0.8\nb,1,2000000,value-fresh-head,0.5,0.4,0.6\n"
    )
    run(tmp_path / "runs", "reset-all", returns=(0.0, 12.0), finals=(1.0, 2.0), dormant=0.5)
    assert draw(tmp_path / "runs", page=tmp_path / "page.md") == 0
    text = section(tmp_path / "page.md")
    # (10 + 20)/2 and (30 + 50)/2; the last checkpoint's policy; 25 %; 50 s by 400,000 steps.
    assert "| `ppo` | 1 | 15.0 | 40.0 | 0.75 | 25.0 | 125 |" in text
    assert "| `reset-all` † | 1 | 6.00 | 1.50 | – | 50.0 | – |" in text
    assert text.index("`ppo`") < text.index("`reset-all`")
    assert PROTOCOLS["quick-ant"].source in text
    assert "Phases 0 to 1 of ant-nonstationary-v0, friction changes every 200,000 steps." in text


def test_a_run_that_went_on_after_it_was_measured_has_no_trainability(tmp_path):
    path = run(tmp_path / "runs")
    (path / "trainability.csv").write_text(
        "checkpoint,phase,steps,kind,score,low,high\na,0,200000,policy-fresh-head,0.9,0.8,1\n"
    )
    draw(tmp_path / "runs", page=tmp_path / "page.md")
    assert "| `ppo` | 1 | 15.0 | 40.0 | – |" in section(tmp_path / "page.md")


def test_a_score_of_some_of_the_seeds_is_told_as_such(tmp_path):
    for seed in range(3):
        path = run(tmp_path / "runs", seed=seed)
        if seed < 2:
            (path / "trainability.csv").write_text(
                "checkpoint,phase,steps,kind,score,low,high\na,1,2000000,policy-fresh-head,0.9,0.8,1\n"
            )
    draw(tmp_path / "runs", page=tmp_path / "page.md")
    assert "- Seeds of which trainability was measured: `ppo` 2 of 3." in section(tmp_path / "page.md")


def test_five_seeds_have_an_interval(tmp_path):
    for seed in range(5):
        run(tmp_path / "runs", seed=seed, returns=(10.0 + seed, 10.0 + seed))
    draw(tmp_path / "runs", page=tmp_path / "page.md")
    assert "| `ppo` | 5 | 12.0 [10.0, 14.0] |" in section(tmp_path / "page.md")  # 12 ± 2.776 · √(2.5/5)


def test_settings_that_depart_from_the_protocol_have_a_row_of_their_own(tmp_path):
    run(tmp_path / "runs")
    run(tmp_path / "runs", "ppo", 0, "--set", "gamma=0.9", "--set", "max_grad_norm=0.5", returns=(30.0, 30.0))
    run(tmp_path / "runs", "cbp", 0, "--set", "replacement_rate=0.5", returns=(40.0, 40.0), varied=["replacement_rate"])
    draw(tmp_path / "runs", page=tmp_path / "page.md")
    rows = [line.split("|")[1].strip() for line in section(tmp_path / "page.md").splitlines() if line.startswith("| `")]
    assert rows == ["`cbp`, replacement_rate=0.5", "`ppo`, gamma=0.9, max_grad_norm=0.5", "`ppo`"]


def test_a_sweep_over_values_has_one_row_with_runs_of_the_method_s_own_value(tmp_path, capsys):
    run(tmp_path / "runs", "cbp", 0, returns=(10.0, 10.0))
    run(tmp_path / "runs", "cbp", 1, "--set", "replacement_rate=1e-4", varied=["replacement_rate"], returns=(20.0, 20.0))
    page = tmp_path / "page.md"
    assert draw(tmp_path / "runs", page=page) == 0
    assert "| `cbp` | 2 | 15.0 (10.0, 20.0) |" in section(page)
    run(tmp_path / "runs", "cbp", 0, "--set", "replacement_rate=1e-4", varied=["replacement_rate"])
    assert draw(tmp_path / "runs", page=page) == 2
    assert "are both `cbp` with seed 0" in capsys.readouterr().err


def test_runs_belong_to_a_protocol_by_what_they_are_and_others_are_left_out_by_name(tmp_path, capsys):
    run(tmp_path / "runs", protocol=None)
    other = run(tmp_path / "runs", "cbp", n_envs=4)
    unfinished = run(tmp_path / "runs", "l2")
    summary = json.loads((unfinished / "summary.json").read_text()) | {"complete": False}
    (unfinished / "summary.json").write_text(json.dumps(summary))
    assert draw(tmp_path / "runs", page=tmp_path / "page.md") == 0
    error = capsys.readouterr().err
    assert f"left out, of no protocol: {other}" in error
    assert f"left out, not complete: {unfinished}" in error
    text = section(tmp_path / "page.md")
    assert "`ppo`" in text
    assert "`cbp`" not in text
    assert "`l2`" not in text


def test_one_run_of_a_protocol_is_not_on_the_page_twice(tmp_path, capsys):
    run(tmp_path / "runs")
    run(tmp_path / "runs")
    assert draw(tmp_path / "runs", page=tmp_path / "page.md") == 2
    assert "are both ppo with seed 0" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_runs_of_no_protocol_leave_the_page_as_it_is(tmp_path, capsys):
    run(tmp_path / "runs")
    draw(tmp_path / "runs", page=tmp_path / "page.md")
    before = (tmp_path / "page.md").read_text()
    run(tmp_path / "others", "cbp", n_envs=4)
    capsys.readouterr()
    assert draw(tmp_path / "others", page=tmp_path / "page.md") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"no complete run of a protocol is below {tmp_path / 'others'}: left out, of no protocol" in line
    assert (tmp_path / "page.md").read_text() == before


def test_what_stands_above_the_mark_stays(tmp_path):
    run(tmp_path / "runs")
    page = tmp_path / "page.md"
    page.write_text(f"# Ours\n\nBy hand.\n\n{MARK}\n\n## quick-ant\n\nold\n")
    draw(tmp_path / "runs", page=page)
    assert page.read_text().startswith(f"# Ours\n\nBy hand.\n\n{MARK}\n\n## quick-ant\n")
    assert "old" not in page.read_text()
    before = page.read_text()
    draw(tmp_path / "runs", page=page)
    assert page.read_text() == before


def test_a_recorded_run_has_the_same_row(tmp_path):
    path = run(tmp_path / "runs", time={"seconds": 50.0, "steps": 400_000})
    (path / "trainability.csv").write_text(
        "checkpoint,phase,steps,kind,score,low,high\nb,1,2000000,policy-fresh-head,0.75,0.7,0.8\n"
    )
    recorded = tmp_path / "recorded"
    assert report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--record", str(recorded)]) == 0
    for folder in ("runs", "recorded"):
        draw(tmp_path / folder, page=tmp_path / f"{folder}.md")
    assert "| 0.75 | 25.0 | 125 |" in (tmp_path / "recorded.md").read_text()
    assert (tmp_path / "recorded.md").read_text() == (tmp_path / "runs.md").read_text()


def score(path, value, updates):
    (path / "trainability.csv").write_text(
        f"checkpoint,phase,steps,kind,score,low,high\nb,1,2000000,policy-fresh-head,{value},0.7,0.8\n"
    )
    if updates:
        (path / "trainability.json").write_text(json.dumps({"repetitions": 5, "updates": updates}))


def test_trainability_by_another_number_of_updates_is_not_beside_the_others(tmp_path):
    for seed, updates in enumerate((300, 300, 20, None)):
        score(run(tmp_path / "runs", seed=seed), 0.5 + seed / 10, updates)
    assert report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--record", str(tmp_path / "recorded")]) == 0
    for folder in ("runs", "recorded"):
        draw(tmp_path / folder, page=tmp_path / "page.md")
        text = section(tmp_path / "page.md")
        assert "| `ppo` | 4 | 15.0 (15.0, 15.0, 15.0, 15.0) | 40.0 (40.0, 40.0, 40.0, 40.0) | 0.55 (0.50, 0.60)" in text
        assert "- Trainability that was not measured by 300 updates is left out: `ppo`, seed 2; `ppo`, seed 3." in text


def test_a_run_is_never_recorded_over_another_one(tmp_path, capsys):
    recorded = tmp_path / "recorded"
    run(tmp_path / "a")
    run(tmp_path / "b", "cbp", returns=(1.0, 2.0))
    run(tmp_path / "b", "ppo", 0, "--set", "gamma=0.9")
    record = ["--output", str(tmp_path / "out"), "--record", str(recorded)]
    for _ in range(2):  # the same run may be recorded again
        assert report.main([str(tmp_path / "a"), *record]) == 0
    before = {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert report.main([str(tmp_path / "b"), *record]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    place = recorded / "quick-ant" / "ppo" / "seed0"
    assert f"'{place}' has another run, which is not overwritten: its hyperparameters.gamma is 0.99, that of '" in line
    assert {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("summary.json", "has a summary.json of no run, which is not overwritten"),
        ("trainability.csv", "has a trainability.csv of no run, which is not overwritten"),
        ("checkpoints", "is a run itself, with its checkpoints"),
        ("results", "has other results of this run, which are not overwritten"),
    ],
)
def test_what_is_no_record_of_the_run_is_not_overwritten(tmp_path, capsys, there, words):
    path = run(tmp_path / "a")
    place = tmp_path / "recorded" / "quick-ant" / "ppo" / "seed0"
    place.mkdir(parents=True)
    if there in ("checkpoints", "results"):
        (place / "config.json").write_text((path / "config.json").read_text())
        summary = json.loads((path / "summary.json").read_text())
        summary["phases"][0]["final_return"] = 1.0
        (place / "summary.json").write_text(json.dumps(summary))
    if there != "results":
        (place / there).mkdir() if there == "checkpoints" else (place / there).write_text("mine")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert report.main([str(tmp_path / "a"), "--output", str(tmp_path / "out"), "--record", str(tmp_path / "recorded")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{place}' {words}" in line
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_page_with_other_ends_of_lines_keeps_them(tmp_path):
    run(tmp_path / "runs")
    page = tmp_path / "page.md"
    page.write_bytes(f"# Mine\r\n\r\n{MARK}\r\nold\r\n".encode())
    draw(tmp_path / "runs", page=page)
    drawn = page.read_bytes()
    assert drawn.startswith(f"# Mine\r\n\r\n{MARK}\r\n\r\n## quick-ant\r\n".encode())
    assert drawn.count(b"\n") == drawn.count(b"\r\n")


def test_seeds_that_ran_on_another_device_are_of_the_same_row(tmp_path):
    for seed, device in enumerate(("cpu", "cuda")):
        path = run(tmp_path / "runs", seed=seed)
        config = json.loads((path / "config.json").read_text()) | {"device": device}
        (path / "config.json").write_text(json.dumps(config))
    assert draw(tmp_path / "runs", page=tmp_path / "page.md") == 0
    assert "| `ppo` | 2 | 15.0 (15.0, 15.0) |" in section(tmp_path / "page.md")


def test_the_page_says_where_it_has_interquartile_means(tmp_path):
    run(tmp_path / "runs")
    for options, said in ((["--statistic", "iqm"], True), ([], False)):
        assert report.main([str(tmp_path / "runs"), "--leaderboard", str(tmp_path / "page.md"), *options]) == 0
        assert ("Over seeds, what follows are interquartile means." in (tmp_path / "page.md").read_text()) == said


def test_supervised_runs_alone_and_a_page_that_is_no_text_are_refused(tmp_path, capsys):
    supervised = Path(__file__).parents[3] / "runs" / "supervised" / "class-incremental-cifar"
    assert draw(supervised, page=tmp_path / "page.md") == 2
    assert "no complete run of a protocol is below" in capsys.readouterr().err
    run(tmp_path / "runs")
    (tmp_path / "page.md").write_bytes(b"\xff\xfe")
    assert draw(tmp_path / "runs", page=tmp_path / "page.md") == 2
    assert "page.md' is no page of text in UTF-8, and is left as it is" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_bytes() == b"\xff\xfe"


def test_the_report_has_the_table_of_the_protocols_source(tmp_path):
    run(tmp_path / "runs", name="eppo-slippery-ant")
    run(tmp_path / "runs", "cbp", name="eppo-slippery-ant", returns=(1.0, 3.0))
    assert report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "table.md").read_text()
    table = text.split("## As its source reports `eppo-slippery-ant`")[1].split("\n## ")[0]
    assert "|  | area under the curve | final return |" in table
    assert "| ppo (1) | 15.0 | 40.0 |" in table
    assert "| cbp (1) | 2.00 | 40.0 |" in table


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--output OUT, or --leaderboard FILE in its place, says what is made"),
        (["--output", "a", "--leaderboard", "b"], "--output OUT, or --leaderboard FILE in its place"),
        (["--leaderboard", "b", "--record", "c"], "--record goes with --output, not with --leaderboard"),
        (["--leaderboard", "no/folder/b.md"], "cannot write 'no/folder"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(tmp_path, capsys, monkeypatch, options, words):
    run(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert report.main([str(tmp_path / "runs"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def test_the_page_in_the_repository_is_what_its_command_draws(tmp_path):
    written = (ROOT / "docs" / "leaderboard.md").read_text()
    (tmp_path / "page.md").write_text(written)
    recorded = re.findall(r"^!/(runs/[^/\n]+)/$", (ROOT / ".gitignore").read_text(), re.MULTILINE)  # and no run of one's own
    with_runs = [ROOT / name for name in recorded if any((ROOT / name).rglob("config.json"))]
    assert draw(*with_runs, page=tmp_path / "page.md") == 0
    assert (tmp_path / "page.md").read_text() == written, "python -m agents.report runs --leaderboard docs/leaderboard.md"
