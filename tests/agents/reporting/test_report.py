"""The comparison of methods: numbers worked out by hand, files that are real, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import processes
import pytest
import scipy.stats
from matplotlib.figure import Figure

from agents import report
from agents.reporting import comparison
from agents.reporting.comparison import (
    compare,
    estimate,
    fill,
    interval,
    paired_differences,
    phase_measures,
    run_measures,
    steps_to_recover,
)
from agents.reporting.figure import draw_comparison
from agents.reporting.results import BINS, RETURN, part_of_phase, read_run, time_in_phase
from agents.reporting.tables import phase_range
from agents.runs.commands import Parser, add_shared_options
from agents.runs.off_policy import SACHyperparameters
from agents.runs.options import add_run_options, make_config
from agents.runs.run_folder import write_atomically

ROOT = Path(__file__).parents[3]
PERIOD = 2_000  # so that a part of a phase has 100 steps


def config_for(method="ppo", seed=0, preset="quick", **changes):
    parser = Parser()
    add_run_options(parser)
    add_shared_options(parser)
    options = [
        "--env",
        "ant-nonstationary",
        "--timesteps",
        "4000",
        "--period",
        str(PERIOD),
        "--n-envs",
        "1",
        "--preset",
        preset,
    ]
    return dataclasses.replace(make_config(parser.parse_args(options), method, seed), **changes)


def write(
    folder, config, episodes, progress=(), finals=(10.0, 20.0), steps=(2_000, 2_000), frictions=(0.5, 1.5), complete=True
):
    """A run folder with these episodes (step, env, phase, return), rows of measures (step, phase, name, value), and phases.

    An episode may have its length in the end, otherwise 100.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json())
    with (folder / "episodes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["step", "env", "phase", "friction", "return", "length"])
        table.writerows([step, env, phase, frictions[phase], *(*of, 100)[:2]] for step, env, phase, *of in episodes)
    names = sorted({name for _, _, name, _ in progress})
    with (folder / "progress.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["time/total_timesteps", "env/phase", *names])
        every = max(100, sum(steps) // 10_000)  # of a long run fewer rows, and still one in each rollout
        for step in sorted({*range(every, sum(steps), every), *(at for at, *_ in progress), sum(steps)}):
            values = {name: value for at, _, name, value in progress if at == step}
            table.writerow([step, 0 if step <= steps[0] else 1, *(values.get(name, "") for name in names)])
    ended = [sum(1 for _, _, of_phase, *_ in episodes if of_phase == phase) for phase in range(len(steps))]
    phases = [
        {"friction": friction, "final_return": final if number else None, "episodes": number, "steps": length}
        for friction, final, number, length in zip(frictions, finals, ended, steps, strict=True)
    ]
    summary = {"complete": complete, "phases": phases, "timesteps": sum(steps), "versions": {"torch": "2"}, "time": {}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def even(first, second):
    """An episode at the end of each part of two phases of PERIOD, with these returns."""
    returns = [*first, *second]
    return [(100 * (k + 1), 0, k // BINS, value) for k, value in enumerate(returns)]


def ramp(start, stop):
    return [start + (stop - start) * k / (BINS - 1) for k in range(BINS)]


FLAT = [5.0] * BINS


# When an episode ended, by the clock of its own phase


def test_each_environment_has_its_own_clock_in_each_phase():
    # Environment 0 leaves phase 0 at 40, environment 1 at 70. Its episodes: 10 and 40 in phase 0; 60 = 20 later, 90 = 50 later.
    steps = np.array([10.0, 20.0, 40.0, 60.0, 70.0, 90.0, 100.0])
    envs = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    phases = np.array([0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    assert time_in_phase(steps, envs, phases).tolist() == [10, 20, 40, 20, 70, 50, 30]


NOW = {"change_at": "now"}


def test_where_changes_come_in_mid_episode_a_phase_begins_with_its_change_and_with_the_next_episode(tmp_path):
    # Episodes of 450 steps, rewarded by 1 a step in phase 0 and by 0 in phase 1: that from 1,800 to 2,250 by 200.
    episodes = [(450 * k, 0, 0, 450.0, 450) for k in (1, 2, 3, 4)]
    episodes += [(2_250, 0, 1, 200.0, 450), *((450 * k, 0, 1, 0.0, 450) for k in (6, 7, 8))]
    result = read_run(write(tmp_path / "run", config_for(change=NOW), episodes, finals=(450.0, 0.0)))
    # 450, 900, 1,350 and 1,800 after step 0; 700, 1,150 and 1,600 after step 2,000.
    first, second = ({part: curve[part] for part in np.flatnonzero(np.isfinite(curve))} for curve in result.curve[RETURN])
    assert first == {4: 450, 8: 450, 13: 450, 17: 450}
    assert second == {6: 0, 11: 0, 15: 0}
    found = phase_measures(result, 1)
    assert [found[name] for name in ("drop", "steps_to_recover", "collapsed", "area")] == [450, 0, 0, 0]


def test_at_random_times_several_environments_change_in_mid_episode_together(tmp_path):
    config = config_for(change={**NOW, "times": {"name": "geometric"}}, n_envs=2, timesteps=2_050)
    # The change comes after step 1,050, that is 525 of each. Environment 0 has episodes of 200 of its steps, 400 of the run;
    # that which ends at 1,200 began at 800. The second of environment 1 begins with the change and ends 100 of its steps later.
    of_0 = [(400 * k, 0, int(k > 2), float(k), 200) for k in (1, 2, 3, 4)]
    of_1 = [(1_050, 1, 0, 7.0, 525), (1_250, 1, 1, 8.0, 100)]
    measure = "plasticity/policy/hidden1/dormant_fraction"
    rows = [(1_000, 0, measure, 0.25), (1_100, 1, measure, 0.5)]
    result = read_run(write(tmp_path / "run", config, [*of_0, *of_1], rows, steps=(1_050, 1_000)))
    # Parts of 52.5 and 50 steps: 400 and 800 are 7.6 and 15.2 of them, 1,600 − 1,050 is 11, 1,250 − 1,050 is 4.
    parts = [{part: curve[part] for part in np.flatnonzero(np.isfinite(curve))} for curve in result.curve[RETURN]]
    assert parts == [{7: 1, 15: 2, 19: 7}, {10: 4, 3: 8}]
    assert (result.curve[measure][0, 19], result.curve[measure][1, 0]) == (0.25, 0.5)


def test_of_a_phase_whose_only_episode_began_before_it_the_final_return_alone_is_known(tmp_path, capsys):
    episodes = [(1_000, 0, 0, 5.0, 1_000), (3_000, 0, 1, 9.0, 2_000)]
    write(tmp_path / "runs", config_for(change=NOW), episodes, finals=(5.0, 9.0))
    made = ["--output", str(tmp_path / "out"), "--record", str(tmp_path / "recorded")]
    assert report.main([str(tmp_path / "runs"), *made]) == 0
    names = "area under the curve, steps to recover, share of phases that collapse"
    assert f"not measured of ppo, seed 0, in phase 1: {names}\n" in capsys.readouterr().err
    for folder in (tmp_path / "runs", next((tmp_path / "recorded").rglob("config.json")).parent):
        found = phase_measures(read_run(folder), 1)
        assert found["final_return"] == 9
        assert all(math.isnan(found[name]) for name in ("area", "drop", "steps_to_recover", "collapsed"))


def test_a_phase_is_cut_into_twenty_parts_and_what_overshoots_is_in_the_last():
    times = np.array([1.0, 100.0, 101.0, 1_900.0, 1_901.0, 2_000.0, 2_399.0])
    assert part_of_phase(times, PERIOD).tolist() == [0, 0, 1, 18, 19, 19, 19]


def test_a_gap_has_the_value_before_it_and_the_first_one_that_of_the_first_value():
    nan = math.nan
    assert fill(np.array([nan, nan, 3.0, nan, 4.0, nan])).tolist() == [3, 3, 3, 3, 4, 4]
    assert np.isnan(fill(np.array([nan, nan]))).all()


def test_several_episodes_in_a_part_are_averaged(tmp_path):
    episodes = [(50, 0, 0, 1.0), (100, 0, 0, 3.0), (150, 0, 0, 8.0), (2_000, 0, 0, 9.0), (2_050, 0, 1, 4.0)]
    result = read_run(write(tmp_path / "run", config_for(), episodes))
    # Parts of 100 steps: 50 and 100 in the first, 150 in the second, 2,000 in the last; in phase 1, 50 after its beginning.
    curve = result.curve[RETURN]
    assert curve.shape == (2, BINS)
    assert (curve[0, 0], curve[0, 1], curve[0, 19], curve[1, 0]) == (2.0, 8.0, 9.0, 4.0)
    assert np.isfinite(curve).sum() == 4


def test_where_some_phases_last_longer_each_is_cut_into_parts_of_its_own_length(tmp_path):
    config = config_for(change={**config_for().change, "times": {"name": "exponential"}})
    # 1,000 steps: parts of 50; 3,000: parts of 150.
    episodes = [
        (50, 0, 0, 1.0),
        (100, 0, 0, 3.0),
        (1_000, 0, 0, 9.0),
        (1_150, 0, 1, 4.0),
        (1_151, 0, 1, 6.0),
        (4_000, 0, 1, 7.0),
    ]
    measure = "plasticity/policy/hidden1/dormant_fraction"
    progress = [(900, 0, measure, 0.25), (1_300, 1, measure, 0.5)]
    result = read_run(write(tmp_path / "run", config, episodes, progress, steps=(1_000, 3_000)))
    curve = result.curve[RETURN]
    assert [curve[0, part] for part in (0, 1, 19)] == [1, 3, 9]
    assert [curve[1, part] for part in (0, 1, 19)] == [4, 6, 7]
    assert np.isfinite(curve).sum() == 6
    assert (result.curve[measure][0, 17], result.curve[measure][1, 1]) == (0.25, 0.5)
    assert result.phase_lengths == [1_000, 3_000]


# Measures of a phase


def measures(tmp_path, first, second, **kwargs):
    return read_run(write(tmp_path / "run", config_for(), even(first, second), **kwargs))


def test_the_area_is_the_mean_over_the_parts_not_over_the_episodes(tmp_path):
    crowd = [(95 + k, 0, 0, 100.0) for k in range(5)]  # five more episodes in the first part, with 100: 6 · 100 / 6
    result = read_run(write(tmp_path / "run", config_for(), sorted([*crowd, (100, 0, 0, 100.0), *even(FLAT, FLAT)[1:]])))
    assert phase_measures(result, 0)["area"] == pytest.approx((100 + 19 * 5) / 20)


def test_the_drop_is_from_the_final_return_before_to_the_first_part_after_the_change(tmp_path):
    result = measures(tmp_path, FLAT, ramp(-3, 16), finals=(7.0, 15.0))
    assert math.isnan(phase_measures(result, 0)["drop"])
    assert phase_measures(result, 1)["drop"] == 7 - -3
    assert phase_measures(result, 1)["final_return"] == 15


@pytest.mark.parametrize(
    ("curve", "final", "steps"),
    [
        (ramp(0, 19), 10.0, 9 * 100),  # 0 + 0.9 · 10 = 9, reached in part 9
        (ramp(0, 19), 19.0, 18 * 100),  # 17.1, reached by 18
        (ramp(10, 29), 20.0, 9 * 100),  # 10 + 0.9 · 10 = 19
        (ramp(-10, 9), 0.0, 9 * 100),  # −10 + 0.9 · 10 = −1
        (FLAT, 5.0, 0),  # not above the first part
        (ramp(19, 0), 0.0, 0),
        (FLAT, 6.0, PERIOD),  # 5.9 is never reached by the parts' means
    ],
)
def test_recovered_is_nine_tenths_of_the_way_to_the_phases_own_final_return(curve, final, steps):
    assert steps_to_recover(np.array(curve, dtype=float), final, PERIOD) == pytest.approx(steps)


@pytest.mark.parametrize(
    ("best", "final", "collapsed"),
    [(100.0, 50.0, 0.0), (100.0, 49.0, 1.0), (-10.0, -15.0, 0.0), (-10.0, -16.0, 1.0), (100.0, 100.0, 0.0)],
)
def test_a_phase_collapses_that_ends_more_than_half_its_best_below_its_best(tmp_path, best, final, collapsed):
    curve = [min(best, -1000.0) if k != 7 else best for k in range(BINS)]
    assert phase_measures(measures(tmp_path, curve, FLAT, finals=(final, 0.0)), 0)["collapsed"] == collapsed


def test_measures_of_units_are_the_last_of_the_phase_averaged_over_layers(tmp_path):
    rows = [
        (400, 0, "plasticity/policy/hidden1/dormant_fraction", 0.9),
        (1_900, 0, "plasticity/policy/hidden1/dormant_fraction", 0.1),
        (1_900, 0, "plasticity/policy/hidden2/dormant_fraction", 0.3),
        (1_900, 0, "plasticity/policy/hidden1/stable_rank", 99.0),  # the paper's is the last layer's
        (1_900, 0, "plasticity/policy/hidden2/stable_rank", 33.0),
        (1_900, 0, "plasticity/policy/hidden2/true_stable_rank", 2.0),
        (1_900, 0, "plasticity/policy/hidden2/probe_stable_rank", 77.0),
        (1_900, 0, "plasticity/value/hidden1/dormant_fraction", 0.5),
        (2_400, 1, "plasticity/policy/hidden1/dormant_fraction", 0.7),
        (2_400, 1, "plasticity/policy/hidden2/dormant_fraction", 0.9),
        (2_400, 1, "plasticity/value/hidden1/weight_magnitude", 0.25),
        (2_400, 1, "plasticity/value/hidden1/gradient_dormant_fraction", 0.125),
        (2_400, 1, "plasticity/value/probe_ntk_effective_rank", 12.5),
        (2_400, 1, "train/std", 0.25),
        (2_600, 1, "train/std", 0.0625),
    ]
    result = measures(tmp_path, FLAT, FLAT, progress=rows)
    first, second = phase_measures(result, 0), phase_measures(result, 1)
    assert first["dormant_policy"] == pytest.approx(100 * (0.1 + 0.3) / 2)
    assert (first["dormant_value"], first["rank_policy"]) == (50, 33)
    assert second["dormant_policy"] == pytest.approx(80)
    assert second["weight_value"] == 0.25
    assert (second["gradient_dormant_value"], second["kernel_value"], second["std"]) == (12.5, 12.5, 0.0625)
    assert math.isnan(first["std"])
    assert math.isnan(second["rank_policy"])


CUT = config_for(timesteps=2 * PERIOD - 1)


def test_a_phase_that_was_cut_off_does_not_count(tmp_path):
    result = read_run(write(tmp_path / "run", CUT, even(FLAT, ramp(0, 19)), steps=(2_000, 1_999), finals=(5.0, 19.0)))
    assert comparison.whole_phases(result) == [0]
    assert run_measures(result, [0])["final_return"] == 5


def test_of_a_period_that_environments_cannot_share_a_phase_has_what_they_can(tmp_path):
    config = config_for(period=2_001, n_envs=4, timesteps=3_999)  # 500 steps of each environment
    assert config.phase_steps == 2_000
    write(tmp_path / "run", config, even(FLAT, FLAT), steps=(2_000, 1_999))
    result = read_run(tmp_path / "run")
    assert comparison.whole_phases(result) == [0]
    assert result.phase_lengths == [2_000, 2_000]


def test_all_averages_are_over_the_phases_that_are_whole_in_every_run(tmp_path, capsys):
    write(tmp_path / "a", CUT, even(FLAT, FLAT), finals=(100.0, 0.0))
    for seed in range(5):
        own = config_for("cbp", seed, timesteps=CUT.timesteps)
        write(tmp_path / f"b{seed}", own, even(FLAT, FLAT), finals=(100.0, 0.0), steps=(2_000, 1_999))
    found = compare([read_run(tmp_path / name) for name in ("a", "b0")])
    assert found.phases == [0]
    assert paired_differences(found, "cbp", "ppo", "mean")["final_return"].each == [0.0]
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    named = ", ".join(str(tmp_path / f"b{seed}") for seed in range(3))
    assert f"because they are not whole in every run: phases 1; not in {named} and 2 more\n" in capsys.readouterr().err


# Over seeds


def test_below_five_seeds_there_is_no_interval():
    few = estimate([1.0, 2.0, 3.0, 6.0], "mean")
    assert (few.centre, few.low, few.high, few.each) == (3.0, None, None, [1.0, 2.0, 3.0, 6.0])
    assert estimate([1.0, 2.0, 3.0, 6.0, 8.0], "mean").low is not None
    assert estimate([1.0, 2.0, 3.0, 6.0, math.nan], "mean").low is None  # four that have a value
    assert math.isnan(estimate([math.nan], "mean").centre)


@pytest.mark.parametrize(
    ("statistic", "centre", "reach"),
    [
        # Squared deviations from the mean: 173 − 29²/8 = 67.875; √(67.875 / (8·7)) = 1.1009; t of 7 degrees of freedom 2.3646.
        ("mean", 29 / 8, 2.6033),
        # Of -1 1 2 3 4 5 6 9 a quarter is cut at each end: 2 3 4 5. With the cut ones winsorised, 2 2 2 3 4 5 5 5, the squared
        # deviations from their mean are 14; √(14 / (4·3)) = 1.0801; t of 3 degrees of freedom 3.1824.
        ("iqm", 3.5, 3.4374),
    ],
)
def test_the_interval_is_student_s(statistic, centre, reach):
    found = estimate([3.0, -1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0], statistic)
    assert found.centre == pytest.approx(centre)
    assert (found.low, found.high) == (pytest.approx(centre - reach, abs=1e-4), pytest.approx(centre + reach, abs=1e-4))


def test_the_interval_of_each_column_is_its_own():
    samples = np.random.default_rng(0).exponential(size=(5, 3, 2))
    low, high = interval(samples, "mean")
    for place in np.ndindex(3, 2):
        of_one = scipy.stats.ttest_1samp(samples[:, *place], 0).confidence_interval(0.95)
        assert (low[place], high[place]) == pytest.approx((of_one.low, of_one.high))


@pytest.mark.parametrize("statistic", ["mean", "iqm"])
def test_the_interval_of_equal_values_is_that_value(statistic):
    found = estimate([0.3] * 5, statistic)
    assert (found.low, found.high) == pytest.approx((0.3, 0.3))


def written(tmp_path, finals, **kwargs):
    """Runs with these final returns in both phases, by method and seed."""
    for (method, seed), final in finals.items():
        write(tmp_path / method / f"seed{seed}", config_for(method, seed), even(FLAT, FLAT), finals=(final, final), **kwargs)
    return compare([read_run(path.parent) for path in sorted(tmp_path.rglob("config.json"))])


def test_differences_are_paired_by_seed(tmp_path):
    finals = {("ppo", seed): 100.0 * seed for seed in range(6)} | {("cbp", seed): 100.0 * seed + seed % 2 for seed in range(5)}
    found = written(tmp_path, finals)
    difference = paired_differences(found, "cbp", "ppo", "mean")["final_return"]
    assert difference.each == [0, 1, 0, 1, 0]  # seed 5 has no pair
    assert difference.centre == pytest.approx(2 / 5)
    # Their standard deviation is 0.5477, t of four degrees of freedom 2.776; unpaired, the seeds' spread of 100 would swamp it.
    assert difference.high - difference.centre == pytest.approx(2.776 * 0.5477 / math.sqrt(5), rel=1e-3)
    assert found.missing == {"cbp": [5]}


# What is not averaged


def mixed(tmp_path, capsys, *, words, first=("ppo", 0), **changes):
    write(tmp_path / "a", config_for(*first), even(FLAT, FLAT))
    write(tmp_path / "b", config_for(changes.pop("method", "ppo"), changes.pop("seed", 1), **changes), even(FLAT, FLAT))
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for word in [str(tmp_path / "a"), str(tmp_path / "b"), *words]:
        assert word in line
    assert not (tmp_path / "out").exists()


def test_runs_of_a_method_with_other_settings_are_refused(tmp_path, capsys):
    other = dataclasses.replace(config_for().hyperparameters, learning_rate=0.5)
    mixed(tmp_path, capsys, hyperparameters=other, words=["hyperparameters.learning_rate", "0.5", "0.0003"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("period", 1_000), ("timesteps", 3_000), ("n_envs", 2), ("normalize", True), ("env", "Hopper-v5")],
)
def test_methods_in_other_worlds_are_refused(tmp_path, capsys, name, value):
    mixed(tmp_path, capsys, method="cbp", seed=0, words=[name, str(value)], **{name: value})


def test_two_runs_of_a_second_method_must_agree_too(tmp_path, capsys):
    write(tmp_path / "first", config_for("ppo", 0), even(FLAT, FLAT))
    other = dataclasses.replace(config_for("cbp").hyperparameters, gamma=0.5)
    mixed(
        tmp_path, capsys, first=("cbp", 0), method="cbp", seed=1, hyperparameters=other, words=["hyperparameters.gamma", "0.5"]
    )


def test_worlds_that_differ_behind_another_difference_are_refused(tmp_path, capsys):
    other = dataclasses.replace(config_for("cbp").hyperparameters, gamma=0.5)
    changes = {"hyperparameters": other, "env_kwargs": {"terminate_after": 7}}
    mixed(tmp_path, capsys, method="cbp", seed=0, words=["env_kwargs.terminate_after", "7"], **changes)


def test_another_algorithm_is_named_before_the_lengths_that_it_brings(tmp_path, capsys):
    changes = {"algo": "sac", "hyperparameters": SACHyperparameters(), "timesteps": 3_000, "n_envs": 2}
    mixed(tmp_path, capsys, method="cbp", seed=0, words=["algo is sac in", "and ppo in"], **changes)


def test_methods_that_differ_in_more_than_the_method_are_named(tmp_path, capsys):
    other = dataclasses.replace(config_for("cbp").hyperparameters, gamma=0.5, beta1=0.7)
    write(tmp_path / "a", config_for("ppo", 0), even(FLAT, FLAT))
    write(tmp_path / "b", config_for("cbp", 0, hyperparameters=other), even(FLAT, FLAT))
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert "not as in the preset: gamma=0.5, beta1=0.7 of cbp\n" in capsys.readouterr().err


def test_a_phase_without_an_episode_is_named(tmp_path, capsys):
    write(tmp_path / "a", config_for("ppo", 0), even(FLAT, FLAT)[:BINS])
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert f"no episode ended in phase 1 of {tmp_path / 'a'}" in capsys.readouterr().err


def test_the_same_folder_given_twice_counts_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a", config_for("ppo", 0), even(FLAT, FLAT))
    assert report.main(["a", str(tmp_path / "a"), "--output", str(tmp_path / "out")]) == 0


def test_methods_may_differ_in_their_settings_and_runs_in_threads(tmp_path):
    write(tmp_path / "a", config_for("ppo", 0, threads=1), even(FLAT, FLAT))
    write(tmp_path / "b", config_for("ppo", 1, threads=2, checkpoint_minutes=1.0), even(FLAT, FLAT))
    write(tmp_path / "c", config_for("cbp", 0), even(FLAT, FLAT))
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0


def test_a_run_that_is_there_twice_is_refused(tmp_path, capsys):
    mixed(tmp_path, capsys, seed=0, words=["both ppo with seed 0"])


def test_a_value_that_another_processor_rounds_otherwise_is_the_same(tmp_path):
    write(tmp_path / "a", config_for("ppo", 0), even(FLAT, FLAT), frictions=(0.0, 0.6))
    write(tmp_path / "b", config_for("cbp", 0), even(FLAT, FLAT), frictions=(0.0, math.nextafter(0.6, 1)))
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0


def test_a_seed_that_met_another_sequence_is_refused(tmp_path, capsys):
    write(tmp_path / "a", config_for("ppo", 0), even(FLAT, FLAT))
    write(tmp_path / "b", config_for("cbp", 0), even(FLAT, FLAT), frictions=(0.5, 0.6))
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "seed 0 is not the same world: friction in phase 1 is 0.6" in capsys.readouterr().err


def test_incomplete_and_missing_runs_are_named_and_left_out(tmp_path, capsys):
    write(tmp_path / "a", config_for("ppo", 0), even(FLAT, FLAT))
    write(tmp_path / "b", config_for("ppo", 1), even(FLAT, FLAT), complete=False, finals=(9e9, 9e9))
    write(tmp_path / "c", config_for("cbp", 2), even(FLAT, FLAT))
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    left_out = f"left out, not complete: {tmp_path / 'b'}, 4,000 of 4,000 steps"
    text, err = (tmp_path / "out" / "table.md").read_text(), capsys.readouterr().err
    for line in (left_out, "missing, though other methods have it: ppo with seed 2", "cbp with seed 0"):
        assert line in text
        assert line in err
    assert "9,000,000,000" not in text
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        assert [(row["method"], row["seed"]) for row in csv.DictReader(file)] == [("ppo", "0")] * 2 + [("cbp", "2")] * 2


def test_versions_that_differ_are_named(tmp_path):
    for seed, version in enumerate(("2", "3")):
        folder = write(tmp_path / str(seed), config_for(seed=seed), even(FLAT, FLAT))
        summary = json.loads((folder / "summary.json").read_text()) | {"versions": {"torch": version, "numpy": "1"}}
        (folder / "summary.json").write_text(json.dumps(summary))
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert "different versions of torch\n" in (tmp_path / "out" / "table.md").read_text()


# Bad input


def spoil(folder, phases=None, **changes):
    """A run whose summary has other phases, or whose first phase has other entries."""
    summary = json.loads((write(folder, config_for(), even(FLAT, FLAT)) / "summary.json").read_text())
    summary["phases"] = [{**summary["phases"][0], **changes}, summary["phases"][1]] if phases is None else phases
    (folder / "summary.json").write_text(json.dumps(summary))


def edit(folder, change, second=FLAT):
    """A run with a changed summary, and with these returns in its second phase."""
    path = write(folder, config_for(), even(FLAT, second)) / "summary.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary))


def recorded(folder, change):
    """A recorded run whose curve has other rows."""
    path = write(folder, config_for(), even(FLAT, FLAT))
    for name in ("episodes.csv", "progress.csv"):
        (path / name).unlink()
    rows = [[str(phase), str(part), "1.0"] for phase in (0, 1) for part in range(BINS)]
    with (path / "curve.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["phase", "bin", "return"], *change(rows)])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "is no folder"),
        (lambda folder: folder.mkdir(), "has no runs in it"),
        (lambda folder: (folder.mkdir(), (folder / "config.json").write_text("{}")), "config.json': not a run's configuration"),
        (lambda folder: write(folder, config_for(), [], complete=False), "none of the 1 runs is complete yet"),
        (lambda folder: (write(folder, config_for(), []) / "summary.json").write_text("{"), "cannot be read"),
        (lambda folder: (write(folder, config_for(), []) / "summary.json").write_text("[]"), "cannot be read"),
        (lambda folder: spoil(folder, phases=[]), "summary.json has no phases"),
        (lambda folder: spoil(folder, phases=[{}]), "cannot be read"),
        (lambda folder: spoil(folder, phases=["one"]), "cannot be read"),
        (lambda folder: spoil(folder, final_return="high"), "cannot be read"),
        (lambda folder: spoil(folder, final_return=math.nan), "a final return of nan"),
        (lambda folder: spoil(folder, friction="ice"), "a friction of 'ice'"),
        (lambda folder: spoil(folder, friction=[1]), "a friction of [1]"),
        (lambda folder: spoil(folder, friction=math.nan), "a friction of nan"),
        (lambda folder: spoil(folder, steps=None), "a phase of None steps"),
        (lambda folder: spoil(folder, episodes=19), "episodes.csv has [20, 20] episodes by phase, summary.json [19, 20]"),
        (lambda folder: write(folder, config_for(), even([math.nan] * BINS, FLAT)), "a return that is no finite number"),
        (lambda folder: (write(folder, config_for(), []) / "progress.csv").write_text("what,is\nthis"), "cannot be read"),
        (lambda folder: (write(folder, config_for(), []) / "episodes.csv").write_text("step\n1"), "cannot be read"),
        (
            lambda folder: (write(folder, config_for(), []) / "curve.csv").write_text("phase,bin\n1,1"),
            "curve.csv has no column 'return', or no rows",
        ),
        (lambda folder: edit(folder, lambda summary: summary.update(versions=None)), "versions that are none: None"),
        (lambda folder: edit(folder, lambda summary: summary.update(versions={"torch": []})), "versions that are none"),
        (lambda folder: edit(folder, lambda summary: summary.update(earlier_versions=[3])), "versions that are none: 3"),
        (lambda folder: edit(folder, lambda summary: summary.update(time={"seconds": 10**400, "steps": 1})), "cannot be read"),
        (lambda folder: spoil(folder, final_return=[1]), "a final return of [1]"),
        (lambda folder: spoil(folder, final_return_error="x"), "a final return error of 'x'"),
        (lambda folder: (write(folder, config_for(), []) / "summary.json").write_text("[" * 10**5), "cannot be read"),
        (
            lambda folder: (write(folder, config_for(), []) / "episodes.csv").write_text(
                "step,env,phase,friction,return,length\n100,0,99999999999,1,1,100\n"
            ),
            "episodes.csv has episodes in other phases than the 2 of summary.json",
        ),
        (
            lambda folder: (write(folder, config_for(), [], complete=False) / "progress.csv").write_text(
                "time/total_timesteps\ninf\n"
            ),
            "none of the 1 runs is complete yet",
        ),
        (lambda folder: recorded(folder, lambda rows: rows[::-1]), "curve.csv does not have the 20 parts of each phase"),
        (lambda folder: recorded(folder, lambda rows: [["0", *row[1:]] for row in rows]), "20 parts of each phase in their"),
        (lambda folder: recorded(folder, lambda rows: [rows[0][:-1], *rows[1:]]), "has a row of another length, line 2"),
        (lambda folder: recorded(folder, lambda rows: [[*row[:-1], "abc"] for row in rows]), "has 'abc' for a number, line 2"),
        (lambda folder: recorded(folder, lambda rows: [[*row[:-1], "inf"] for row in rows]), "return that is no finite number"),
        (lambda folder: recorded(folder, lambda rows: [[*row[:-1], ""] for row in rows]), "an episode ended in phase 0"),
    ],
)
def test_a_folder_that_is_no_run_brings_one_line(tmp_path, capsys, make, words):
    make(tmp_path / "runs")
    assert report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert str(tmp_path / "runs") in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--baseline", "pop"], "unknown baseline 'pop'; did you mean 'ppo'?"),
        (["--statistic", "median"], "invalid choice: 'median'"),
        (["--output", "file"], "cannot write to '"),
        (["--output", ""], "argument --output: must name a file or a folder, got ''"),
        (["--baseline", ""], "unknown baseline ''"),
    ],
)
def test_bad_options_bring_one_line(tmp_path, capsys, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("keep me")
    write(tmp_path / "run", config_for(), even(FLAT, FLAT))
    assert report.main(["run", "--output", "out", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert (tmp_path / "file").read_text() == "keep me"


# Whole


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Two real runs, their report, and that of their records."""
    folder = tmp_path_factory.mktemp("report")
    for method in ("ppo", "redo"):
        arguments = [
            "--env",
            "ant-nonstationary",
            "--method",
            method,
            "--timesteps",
            "6144",
            "--period",
            "2048",
            "--n-envs",
            "4",
        ]
        arguments += ["--env-kwargs", "max_episode_steps=64"]  # so that episodes end in every phase, whatever the rounding
        arguments += ["--set", "rollout_steps=512", "--set", "net_arch=[16,12]", "--run-dir", str(folder / "runs" / method)]
        processes.run("agents.train", *arguments)
    made = [folder / "runs", "--output", folder / "out", "--record", folder / "recorded"]
    printed = processes.run("agents.report", *made)
    processes.run("agents.report", folder / "recorded", "--output", folder / "again")
    return folder, printed


def test_the_report_of_real_runs_has_figure_and_tables(reported):
    folder, printed = reported
    assert printed.stderr == "warning: not as in the preset: rollout_steps=512, net_arch=[16, 12] of every method\n"
    assert printed.stdout.startswith(f"2 runs of ppo, redo: {folder / 'out' / 'report.png'}")
    png = (folder / "out" / "report.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert min(int.from_bytes(png[i : i + 4], "big") for i in (16, 20)) > 900
    svg = (folder / "out" / "report.svg").read_text()
    for words in ("ppo", "redo", "episode return", "dormant units (%)", "stable rank", "mean |w|", "too few for an interval"):
        assert words in svg
    with (folder / "out" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((folder / "runs" / "redo" / "summary.json").read_text())
    whole = [phase for phase in summary["phases"] if phase["steps"] >= 2048]
    own = [row for row in rows if row["method"] == "redo"]
    assert [float(row["final_return"]) for row in own] == [phase["final_return"] for phase in whole]
    assert [float(row["friction"]) for row in own] == [phase["friction"] for phase in whole]
    assert all(0 <= float(row["dormant_policy"]) <= 100 and 1 <= float(row["rank_value"]) <= 12 for row in rows)


def test_what_is_recorded_of_runs_gives_the_same_report(reported):
    folder = reported[0]
    recorded = sorted(path.relative_to(folder / "recorded") for path in (folder / "recorded").rglob("*.*"))
    assert [str(path) for path in recorded] == [
        f"ant-nonstationary/{method}/seed0/{name}"
        for method in ("ppo", "redo")
        for name in ("config.json", "curve.csv", "summary.json")
    ]
    for name in ("table.csv", "table.md", "report.png"):
        assert (folder / "out" / name).read_bytes() == (folder / "again" / name).read_bytes()
    assert sum(path.stat().st_size for path in (folder / "recorded").rglob("*.csv")) < 60_000


def test_with_five_seeds_the_figure_and_the_tables_have_intervals(tmp_path):
    finals = {(method, seed): 10.0 * seed + len(method) for method in ("ppo", "cbp", "redo") for seed in range(5)}
    written(tmp_path / "runs", finals)
    assert report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out"), "--statistic", "iqm"]) == 0
    svg, text = ((tmp_path / "out" / name).read_text() for name in ("report.svg", "table.md"))
    assert "interquartile mean over 5 seeds, 95 % interval" in svg
    # Final returns of ppo: 3, 13, 23, 33, 43; the middle ones (a quarter of 5, rounded down, off at each end) have mean 23.
    final = next(line for line in text.splitlines() if line.startswith("| final return"))
    assert "| 23.0 [" in final
    assert "## Minus ppo, paired by seed" in text
    paired = [line for line in text.splitlines() if line.startswith("| final return")][1]
    assert paired == "| final return | +1.00 [+1.00, +1.00] | 0 [0, 0] |".replace(" 0 [0, 0]", " +0 [+0, +0]")


def test_the_recorded_pilot_gives_its_table_and_the_signs_that_its_summaries_show(tmp_path):
    pilot = Path(__file__).parents[3] / "runs" / "pilot"
    assert report.main([str(pilot), "--output", str(tmp_path / "report")]) == 0
    table = (tmp_path / "report" / "table.md").read_text()
    assert table == (pilot / "table.md").read_text()

    def folder_of(method, seed):
        return pilot / "ant-nonstationary" / method / f"seed{seed}"

    def finals(method, seed):
        summary = json.loads((folder_of(method, seed) / "summary.json").read_text())
        return [phase["final_return"] for phase in summary["phases"]]

    def is_below(method, seed):
        pairs = list(zip(finals(method, seed), finals("reset-all", seed), strict=False))[:9]  # what is whole in every run
        differences = [fresh - own for own, fresh in pairs[4:]]
        error = np.std(differences, ddof=1) / math.sqrt(len(differences))
        return sum(differences) / len(differences) > 2 * error

    def has_idle_units(method, seed):
        with (folder_of(method, seed) / "curve.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        at_end = []
        for phase in range(9):
            layers = [
                [row[f"plasticity/policy/{layer}/dormant_fraction"] for row in rows if int(row["phase"]) == phase]
                for layer in ("hidden1", "hidden2")
            ]
            at_end.append(sum(float([value for value in of_layer if value][-1]) for of_layer in layers) / 2)
        first, last = sum(at_end[:3]) / 3, sum(at_end[-3:]) / 3
        return last >= 0.1 and last - first >= 0.1

    methods = ("ppo", "l2", "redo", "cbp")
    idle = [sum(has_idle_units(method, seed) for seed in (0, 1)) for method in (*methods, "reset-all")]
    below = [sum(is_below(method, seed) for seed in (0, 1)) for method in methods]
    assert f"| dormant or saturated units | {' | '.join(f'{number} of 2' for number in idle)} |\n" in table
    assert f"| return below a fresh network's | {' | '.join(f'{number} of 2' for number in below)} | – |\n" in table
    assert (idle[0], below[0]) == (1, 1)
    # Recorded before the error of the final return was.
    assert "| return falling at like values | – | – | – | – | – |" in table


def test_a_folder_that_cannot_be_read_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "runs" / "closed").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: cannot read '{tmp_path / 'runs' / 'closed'}': Permission denied\n"


def test_a_report_does_not_go_into_a_run(tmp_path, capsys):
    path = tmp_path / "run"
    write(path, config_for("ppo", 0), even(FLAT, FLAT))
    (path / "report.png").write_text("of the run")
    assert report.main([str(path), "--output", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--output must not be a run, whose report.png would be overwritten; '{path}' is one" in line
    assert (path / "report.png").read_text() == "of the run"
    assert not (path / "table.md").exists()


def test_an_algorithm_with_one_network_is_told_once(tmp_path):
    root = Path(__file__).parents[3]
    for recorded, network in (("off-policy/CartPole-dqn", False), ("off-policy/Pendulum-sac", True)):
        out = tmp_path / Path(recorded).name
        assert report.main([str(root / "runs" / recorded), "--output", str(out)]) == 0
        assert ("| stable rank, value |" in (out / "table.md").read_text()) == network


def test_the_axis_of_an_accuracy_ends_where_it_does(tmp_path):
    runs = Path(__file__).parents[3] / "runs" / "supervised" / "continual-imagenet"
    found = compare([read_run(path) for path in sorted((runs / "cbp,learning_rate=0.03").iterdir())])
    last = [100 * run.curve["task/accuracy"][-1] for run in found.runs["cbp,learning_rate=0.03"].values()]
    assert interval(np.array(last), "mean")[1] > 110  # four runs near 98 %, one at 50 %
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure.axes[0].get_ylim()))
        draw_comparison(found, "mean", [tmp_path / "report.png"])
    assert drawn[0][1] == 102


def test_the_standard_deviation_of_actions_is_drawn_where_it_was_logged(tmp_path, monkeypatch):
    logged = [(step, int(step > 2_000), "train/std", 1 / step) for step in range(100, 4_001, 100)]
    write(tmp_path / "with", config_for("ppo"), even(FLAT, FLAT), progress=logged)
    write(tmp_path / "without", config_for("cbp"), even(FLAT, FLAT))
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure.axes))
    for names in (["with", "without"], ["without"]):
        draw_comparison(compare([read_run(tmp_path / name) for name in names]), "mean", [tmp_path / "report.png"])
    (returns, sigma), (alone,) = drawn
    assert (returns.get_ylabel(), sigma.get_ylabel(), alone.get_ylabel()) == (
        "episode return",
        "σ of actions",
        "episode return",
    )
    assert sigma.get_yscale() == "log"
    # One run: its own values, and thicker the mean over seeds, the last of each of 40 parts of 100 steps.
    assert sigma.lines[-1].get_ydata() == pytest.approx([1 / step for step in range(100, 4_001, 100)])


def test_a_seed_without_an_episode_takes_nothing_from_the_curve_of_the_others(tmp_path, monkeypatch):
    for seed in range(5):
        write(tmp_path / f"seed{seed}", config_for("ppo", seed), even([seed] * BINS, [seed] * BINS))
    write(tmp_path / "silent", config_for("ppo", 5), [])
    half = even([9.0] * BINS, FLAT)[: BINS // 2]  # the last episode ended in the first phase
    write(tmp_path / "half", config_for("ppo", 6), half)
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure.axes[0]))
    draw_comparison(compare([read_run(path) for path in tmp_path.iterdir()]), "mean", [tmp_path / "report.png"])
    centre = next(line for line in drawn[0].lines if line.get_label() == "ppo").get_ydata()
    # (0 + 1 + 2 + 3 + 4 + 9) / 6 as long as the sixth has episodes, then (0 + 1 + 2 + 3 + 4) / 5.
    assert centre == pytest.approx([19 / 6] * (BINS // 2) + [2.0] * (2 * BINS - BINS // 2))


@pytest.mark.parametrize(("phases", "words"), [([0, 1, 2], "0 to 2"), ([3], "3"), ([0, 1, 3], "0, 1, 3"), ([2, 4], "2, 4")])
def test_phases_are_named_with_their_gaps(phases, words):
    assert phase_range(phases) == words


@pytest.mark.parametrize("others", [{"gravity": {}, "mass:pole": {}}, {"gravity": {}}, {"gravity": {"low": 5}, "damping": {}}])
def test_runs_in_which_other_parameters_change_are_refused(tmp_path, capsys, others):
    """A parameter of which nothing more is said changes, too."""
    config = config_for(param={"gravity": {}, "damping": {}}, change={})
    other = dataclasses.replace(config, param=others, seed=1)
    assert [name for name, *_ in config.differences(other) if name != "seed"]
    write(tmp_path / "a", config, even(FLAT, FLAT))
    write(tmp_path / "b", other, even(FLAT, FLAT))
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "runs of different settings are not averaged: param" in capsys.readouterr().err


def test_a_supervised_run_without_its_score_is_refused(tmp_path, capsys):
    shutil.copytree(ROOT / "runs" / "supervised" / "class-incremental-cifar", tmp_path / "runs")
    path = next((tmp_path / "runs").rglob("curve.csv"))
    path.write_text(path.read_text().replace("task/accuracy", "task/other"))
    assert report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 2
    assert "there is no column 'task/accuracy'" in capsys.readouterr().err


def test_a_page_may_be_a_link_and_a_failure_leaves_nothing(tmp_path):
    (tmp_path / "page.md").write_text("old")
    (tmp_path / "link.md").symlink_to("page.md")
    write_atomically(tmp_path / "link.md", "new")
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "page.md").read_text() == "new"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder") as caught:
        write_atomically(tmp_path / "folder", "new")
    assert caught.value.filename == str(tmp_path / "folder")
    with pytest.raises(OSError, match="Not a directory") as caught:
        write_atomically(tmp_path / "page.md" / "page", "new")
    assert caught.value.filename == str(tmp_path / "page.md" / "page")
    assert {path.name for path in tmp_path.iterdir()} == {"page.md", "link.md", "folder"}
