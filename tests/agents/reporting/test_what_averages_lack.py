"""What a reader must know of averages: other settings than the preset's, seeds and phases without a measure, other worlds."""

from __future__ import annotations

import json
import math

import pytest
from test_leaderboard import draw, run, section
from test_report import FLAT, config_for, even, write

from agents import report
from agents.reporting.comparison import compare, phase_measures
from agents.reporting.departures import departures_of
from agents.reporting.results import read_run
from agents.reporting.tables import left_out

LAYER = "plasticity/policy/hidden1"


def comparison_of(folder):
    return compare([read_run(path.parent) for path in sorted(folder.rglob("config.json"))])


def test_settings_that_are_not_the_preset_s_are_named_also_where_they_are_the_method_s_own(tmp_path):
    for method, own in (("ppo", ["gamma=0.9"]), ("cbp", ["gamma=0.9", "replacement_rate=0.5", "weight_decay=0.3"])):
        run(tmp_path, method, 0, *(part for value in own for part in ("--set", value)))
    found = comparison_of(tmp_path)
    assert departures_of(found)["cbp"] == {"gamma": 0.9, "weight_decay": 0.3, "replacement_rate": 0.5}
    assert [line for line in left_out(found) if "preset" in line] == [
        "not as in the preset: gamma=0.9 of every method",
        "not as in the preset: weight_decay=0.3, replacement_rate=0.5 of cbp",
    ]


def test_what_a_sweep_varied_is_told_by_its_name_alone(tmp_path):
    config = config_for("cbp", varied=["replacement_rate"])
    write(tmp_path / "run", config, even(FLAT, FLAT))
    assert departures_of(comparison_of(tmp_path)) == {"cbp,replacement_rate=0.0001": {}}
    config.method_kwargs["replacement_rate"] = 0.5
    (tmp_path / "run" / "config.json").write_text(config.to_json())
    assert departures_of(comparison_of(tmp_path)) == {"cbp,replacement_rate=0.5": {}}


@pytest.mark.parametrize(("preset", "learning_rate"), [("quick", 3e-4), ("paper", 1e-4)])
def test_runs_of_no_protocol_are_held_against_the_preset_they_are_nearest_to(tmp_path, preset, learning_rate):
    for seed, method in enumerate(("ppo", "cbp")):
        write(tmp_path / method, config_for(method, seed, preset=preset), even(FLAT, FLAT))
    found = comparison_of(tmp_path)
    assert found.config.hyperparameters.learning_rate == learning_rate
    assert departures_of(found) == {"ppo": {}, "cbp": {}}


def test_methods_begun_with_two_presets_differ(tmp_path):
    write(tmp_path / "a", config_for("ppo"), even(FLAT, FLAT))
    write(tmp_path / "b", config_for("cbp", preset="paper", env_kwargs={}), even(FLAT, FLAT))
    (line,) = (line for line in left_out(comparison_of(tmp_path)) if "preset" in line)
    assert "learning_rate" in line


def test_what_a_source_reports_is_not_of_other_settings_without_a_word(tmp_path):
    for seed, options in ((0, ()), (1, ("--set", "net_arch=[8,8]"))):
        folder = tmp_path / f"runs{seed}"
        run(folder, "ppo", seed, *options, name="nature-slippery-ant")
        assert report.main([str(folder), "--output", str(folder / "out")]) == 0
        reported = (folder / "out" / "table.md").read_text().split("## As its source reports")[1]
        assert ("| ppo, net_arch=[8, 8] (1) |" in reported) == bool(seed)


def test_a_measure_that_some_seeds_lack_is_named_with_them(tmp_path):
    for seed in range(6):
        of_units = [(2_000, 0, f"{LAYER}/dormant_fraction", 0.5), (4_000, 1, f"{LAYER}/dormant_fraction", 0.5)]
        write(tmp_path / str(seed), config_for(seed=seed), even(FLAT, FLAT), of_units if seed not in (1, 4) else ())
    lines = left_out(comparison_of(tmp_path))
    assert "not measured of ppo, seed 1, 4: dormant units, policy (%)" in lines


def test_a_measure_that_some_phases_lack_is_named_with_them(tmp_path):
    for seed, phases in ((0, [0, 1]), (1, [1]), (2, [1])):
        of_units = [(2_000 * (phase + 1), phase, f"{LAYER}/stable_rank", 9.0) for phase in phases]
        write(tmp_path / str(seed), config_for(seed=seed), even(FLAT, FLAT), of_units)
    (line,) = left_out(comparison_of(tmp_path))
    assert line == "not measured of ppo, seed 1, 2, in phase 0: stable rank, policy"


def test_a_layer_without_a_value_is_not_left_out_of_the_mean_over_layers(tmp_path):
    layers = {1: [0.5, 0.25], 2: [0.75, "nan"]}
    rows = [
        (2_000 * (phase + 1), phase, f"plasticity/policy/hidden{layer}/weight_magnitude", value)
        for layer, of_phases in layers.items()
        for phase, value in enumerate(of_phases)
    ]
    write(tmp_path / "run", config_for(), even(FLAT, FLAT), rows)
    found = comparison_of(tmp_path)
    assert phase_measures(found.all_runs[0], 0)["weight_policy"] == (0.5 + 0.75) / 2
    assert math.isnan(phase_measures(found.all_runs[0], 1)["weight_policy"])
    assert left_out(found) == ["not measured of ppo, seed 0, in phase 1: mean size of weights, policy"]


def test_phases_without_an_episode_are_one_line_of_each_run(tmp_path):
    for seed in (0, 1):
        write(tmp_path / str(seed), config_for(seed=seed), [])
    assert left_out(comparison_of(tmp_path)) == [
        f"no episode ended in phases 0 to 1 of {tmp_path / str(seed)}" for seed in (0, 1)
    ]


def test_a_version_that_only_a_later_run_tells_is_another(tmp_path):
    for seed, versions in enumerate(({"torch": "2"}, {"torch": "2", "scipy": "1"})):
        path = write(tmp_path / str(seed), config_for(seed=seed), even(FLAT, FLAT)) / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"versions": versions}))
    assert left_out(comparison_of(tmp_path)) == ["runs were made by different versions of scipy"]


def test_a_run_that_went_on_with_another_version_is_of_both(tmp_path):
    for seed, earlier in enumerate(({}, {"earlier_versions": [{"torch": "1"}]})):
        path = write(tmp_path / str(seed), config_for(seed=seed), even(FLAT, FLAT)) / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | earlier))
    assert read_run(tmp_path / "1").versions == {"torch": "1, 2"}
    assert left_out(comparison_of(tmp_path)) == ["runs were made by different versions of torch"]
    (tmp_path / "0" / "summary.json").write_text((tmp_path / "1" / "summary.json").read_text())
    assert left_out(comparison_of(tmp_path)) == ["runs were made by different versions of torch"]  # each by both


def test_the_leaderboard_has_no_rows_of_other_worlds_and_names_other_versions(tmp_path, capsys):
    run(tmp_path / "runs", "ppo", 0)
    other = run(tmp_path / "runs", "cbp", 0, "--set", "gamma=0.9")
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps(summary | {"versions": {"torch": "3"}}))
    assert draw(tmp_path / "runs", page=tmp_path / "page.md") == 0
    assert "- runs were made by different versions of torch" in section(tmp_path / "page.md")
    for phase in summary["phases"]:
        phase["friction"] = 7.0
    (other / "summary.json").write_text(json.dumps(summary))
    assert draw(tmp_path / "runs", page=tmp_path / "page.md") == 2
    assert "seed 0 is not the same world: friction in phase 0 is" in capsys.readouterr().err


def test_many_runs_of_no_protocol_are_one_line(tmp_path, capsys):
    run(tmp_path / "runs")
    for seed in range(3):
        run(tmp_path / "runs", "cbp", seed, n_envs=4)
    assert draw(tmp_path / "runs", page=tmp_path / "page.md") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("2,000,000 steps; and 2 more")


def test_methods_without_a_common_seed_have_no_differences_and_that_is_said(tmp_path):
    write(tmp_path / "a", config_for("ppo", 0), even(FLAT, FLAT))
    write(tmp_path / "b", config_for("cbp", 1), even(FLAT, FLAT))
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert "No other method has a seed in common with ppo." in text
