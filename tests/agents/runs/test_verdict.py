"""Verdicts on made-up phases whose signs can be read off."""

from __future__ import annotations

import pytest

from agents.runs.verdict import PhaseEnd, judge, policy_measures


def phases(finals, values=None, dormant=None, ranks=None, error=10.0, measure="dormant_fraction"):
    """Phases with these final returns; by default all at one value, with healthy units."""
    number = len(finals)
    values, dormant, ranks = values or [0.5] * number, dormant or [0.01] * number, ranks or [200.0] * number
    return [
        PhaseEnd(i, value, final, None if final is None else error, {measure: d, "stable_rank": r})
        for i, (final, value, d, r) in enumerate(zip(finals, values, dormant, ranks, strict=True))
    ]


def verdict(*args, method="ppo", control=None, **kwargs):
    return judge(phases(*args, **kwargs), "friction", method, control)


def test_returns_are_not_compared_where_several_parameters_change():
    both = judge(phases([100, 300, 500, 600, 200], values=[None] * 5), "friction and gravity", "ppo")
    assert "return" not in both.judged
    assert "Returns are not compared: two phases are hardly ever alike in friction and gravity." in both.caveats


def test_a_healthy_run_shows_no_sign():
    healthy = verdict([100, 300, 500, 600, 700])
    assert (healthy.signs, healthy.judged) == ((), ("units", "rank", "return"))
    # The median of 100, 300, 500 and 600.
    assert healthy.words == (
        "No sign of loss of plasticity: 1 % of the policy's units dormant, 1 % in the first 2 phases; "
        "stable rank 200, 200 in the first 2 phases; final return 700 at friction 0.5, 400 in 4 phases like it."
    )
    assert healthy.caveats == (
        "Not compared with a fresh network: that takes a run with --method reset-all, and agents.report.",
    )


LOST = {"dormant": [0.0, 0.1, 0.2, 0.3, 0.5], "ranks": [200, 220, 180, 150, 80]}


def test_all_signs_together_make_loss_likely_and_say_what_to_try():
    lost = verdict([100, 900, 1000, 400, -50], **LOST)
    assert lost.signs == ("units", "rank", "return")
    # Means over the last two and the first two of five phases; the median of 100, 900, 1000 and 400.
    assert lost.words == (
        "Loss of plasticity is likely: 40 % of the policy's units dormant, 5 % in the first 2 phases; "
        "stable rank 115, 210 in the first 2 phases; final return -50 at friction 0.5, 650 in 4 phases like it. "
        "To try: --method l2, redo or cbp."
    )


def test_no_method_is_advised_to_a_run_that_has_it_and_none_to_the_control():
    assert verdict([100, 900, 1000, 400, -50], **LOST, method="cbp").words.endswith("To try: --method l2 or redo.")
    control = verdict([100, 900, 1000, 400, -50], **LOST, method="reset-all")
    assert "To try" not in control.words
    assert control.caveats == ()


@pytest.mark.parametrize(
    ("dormant", "first", "last", "sign"),
    [
        ([0.0, 0.0, 0.5, 0.1, 0.12], 0, 11, True),  # means of two: 0 and 0.11
        ([0.0, 0.0, 0.5, 0.1, 0.08], 0, 9, False),  # 0 and 0.09
        ([0.2, 0.1, 0.5, 0.2, 0.31], 15, 26, True),  # 0.15 and 0.255
        ([0.2, 0.1, 0.5, 0.2, 0.28], 15, 24, False),  # 0.15 and 0.24
        ([0.5, 0.5, 0.5, 0.2, 0.2], 50, 20, False),
    ],
)
@pytest.mark.parametrize(("measure", "word"), [("dormant_fraction", "dormant"), ("saturated_fraction", "saturated")])
def test_units_are_a_sign_from_a_tenth_on_where_a_tenth_more_are_idle_than_at_first(dormant, first, last, sign, measure, word):
    result = verdict([1, 2, 3, 4, 5], dormant=dormant, measure=measure)
    assert result.signs == (("units",) if sign else ())
    many = " (many, but not rising)" if not sign and last >= 10 else ""
    assert f"{last} % of the policy's units {word}, {first} % in the first 2 phases{many}; " in result.words
    heads = {True: "Signs of loss of plasticity in the units, none in the return: ", False: "No sign of loss of plasticity: "}
    assert result.words.startswith(heads[sign])


@pytest.mark.parametrize(("last", "sign"), [(80.0, True), (80.2, False)])
def test_the_rank_is_a_sign_where_it_is_a_quarter_below_that_of_the_first_phases(last, sign):
    # (90 + 110) / 2 = 100; (70 + last) / 2 is 75 or 75.1.
    result = verdict([1, 2, 3, 4, 5], ranks=[90.0, 110.0, 10.0, 70.0, last])
    assert result.signs == (("rank",) if sign else ())


@pytest.mark.parametrize(
    ("finals", "values", "error", "sign"),
    [
        ([1000, 900, 1000, 1100, 740], None, 10, True),  # the median is 1000: 26 % below it; 260 of a range of 360
        ([1000, 900, 1000, 1100, 760], None, 10, False),  # 24 %
        ([1000, -900, 1000, 1100, 600], None, 10, False),  # 40 %, but of a range of 2,000 a fifth
        ([1000, 900, 1000, 1100, 700], None, 140, False),  # 300 is less than 2 · √(140² + 4 · (140/4)²) = 313
        ([1000, 900, 1000, 1100, 700], None, 130, True),  # and more than 291
        ([-1000, -300, -5, 1, 0], None, 0.3, False),  # the median is -152
        ([0, 0, 1000, 0, 100], [0.1, 0.1, 0.61, 1.0, 0.4], 1, False),  # 0.4 is 34 % below 0.61: phases 2 and 4 are not alike
        ([0, 0, 1000, 0, 100], [0.1, 0.1, 0.59, 1.0, 0.4], 1, True),  # 32 %
        ([0, 0, 1000, 0, 100], [-1.0, -1.0, -3.0, 0.0, -3.5], 1, True),  # values need not be positive
    ],
)
def test_the_return_is_a_sign_where_it_fell_clearly_at_like_values(finals, values, error, sign):
    result = verdict([float(f) for f in finals], values=values, error=error)
    assert result.signs == (("return",) if sign else ())
    if sign:
        assert result.words.startswith("The return falls at like values, but the units show no sign of loss of plasticity: ")


def test_what_cannot_be_compared_is_not_judged_and_said_so():
    alone = verdict([1.0, 2.0, 3.0, 4.0, -500.0], values=[0.02, 0.1, 0.5, 2.0, 1.0])
    assert (alone.signs, alone.judged) == ((), ("units", "rank"))
    assert alone.words.startswith("No sign of loss of plasticity in the units; the return not judged: ")
    no_return = "Returns are not compared: no earlier phase of enough episodes had a friction like the last one's."
    assert alone.caveats[0] == no_return
    few_episodes = [PhaseEnd(i, 0.5, 1000.0 - 300 * i, None, {}) for i in range(5)]
    nothing = judge(few_episodes, "friction", "ppo")
    assert nothing.words == "Not judged."
    assert nothing.caveats[:2] == (
        "Dormant or saturated units are not judged: they were not recorded in two phases.",
        no_return,
    )
    without_last = [*phases([1000.0] * 4), PhaseEnd(4, 0.5)]  # no episode ended in it
    assert no_return in judge(without_last, "friction", "ppo").caveats


def test_units_that_were_not_looked_at_are_not_said_to_be_well():
    falling = [PhaseEnd(i, 0.5, final, 1.0) for i, final in enumerate([1000.0, 1000.0, 1000.0, 1000.0, 100.0])]
    assert judge(falling, "friction", "ppo").words.startswith("The return falls at like values, but no unit was judged: ")
    steady = [PhaseEnd(i, 0.5, 1000.0, 1.0) for i in range(5)]
    assert judge(steady, "friction", "ppo").words.startswith("No sign of loss of plasticity in the return; units not judged: ")


def test_a_measure_of_one_phase_is_said_and_not_judged():
    late = [PhaseEnd(i, 0.5, 10.0, 1.0) for i in range(4)] + [PhaseEnd(4, 0.5, 10.0, 1.0, {"dormant_fraction": 0.9})]
    result = judge(late, "friction", "ppo")
    assert "units" not in result.judged
    assert "90 % of the policy's units dormant;" in result.words


@pytest.mark.parametrize("number", [1, 2, 4])
def test_few_phases_are_too_early_to_tell_whatever_they_show(number):
    finals, dormant = [1000.0, 500.0, 200.0, 0.0], [0.0, 0.3, 0.5, 0.9]
    result = verdict(finals[:number], dormant=dormant[:number])
    assert result.words.startswith(f"Too early to tell ({number} of 5 phases): ")
    assert "To try" not in result.words
    assert judge([], "friction", "ppo").words == "Too early to tell: no phase has ended."


def test_a_world_that_does_not_change_is_not_judged():
    result = judge([PhaseEnd(0, None, 10.0, 1.0, {"dormant_fraction": 0.3})], None, "ppo")
    assert result.words == "Not judged, because the world does not change: 30 % of the policy's units dormant."
    assert result.caveats == ()


@pytest.mark.parametrize(
    ("finals", "fresh", "sign"),
    [
        # The later half is phases 2 to 4 (of 5). Mean and standard error of the differences:
        ([900, 900, 100, 100, 100], [500, 500, 500, 500, 500], True),  # 400 and 0
        ([0, 0, 600, 600, 600], [500, 500, 500, 500, 500], False),
        ([0, 0, 100, 200, 300], [500, 500, 500, 500, 500], True),  # 300 and 100/√3 = 58
        ([0, 0, 100, 600, 300], [500, 500, 500, 500, 500], False),  # 167 and 252/√3 = 145
        ([0, 0, 0, 0, 0], [500, 500, None, 500, 500], False),  # phases 1, 3 and 4 of the four that both have: see below
    ],
)
def test_a_return_clearly_below_a_fresh_networks_is_a_sign(finals, fresh, sign):
    values = [0.02, 0.06, 0.2, 0.6, 2.0]  # no two alike
    control = phases([None if f is None else float(f) for f in fresh], values=values)
    result = verdict([float(f) for f in finals], values=values, control=control)
    if None in fresh:  # of four pairs the later half is two: too few
        assert "control" not in result.judged
        return
    assert result.signs == (("control",) if sign else ())
    assert f"final return {sum(finals[2:]) / 3:,.0f} in the last 3 phases, a fresh network's 500" in result.words
    assert not any("fresh network" in caveat for caveat in result.caveats)
    if sign:
        assert result.words.startswith("The return is below a fresh network's, but the units show no sign")


def test_a_fresh_network_is_compared_phase_by_phase():
    own = phases([100.0] * 6, values=[1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    control = [phase for phase in phases([500.0, 500.0, 500.0, 90.0, 90.0, 90.0]) if phase.number != 0]
    # Of the phases 1 to 5 the later half is 3, 4 and 5.
    assert judge(own, "friction", "ppo", control).signs == ()


def test_the_policys_measures_are_means_over_layers_and_the_last_layers_rank():
    latest = {
        "plasticity/policy/hidden9/dormant_fraction": 0.2,
        "plasticity/policy/hidden10/dormant_fraction": 0.4,
        "plasticity/policy/hidden10/probe_dormant_fraction": 1.0,
        "plasticity/policy/hidden10/tau_dormant_fraction": 1.0,
        "plasticity/value/hidden1/dormant_fraction": 1.0,
        "plasticity/policy/hidden9/stable_rank": 50.0,
        "plasticity/policy/hidden10/stable_rank": 30.0,
        "plasticity/policy/hidden10/true_stable_rank": 3.0,
    }
    assert policy_measures(latest) == {"dormant_fraction": pytest.approx(0.3), "stable_rank": 30.0}
    assert policy_measures({"plasticity/policy/hidden1/saturated_fraction": 0.5}) == {"saturated_fraction": 0.5}


def test_a_run_that_diverged_is_not_said_to_be_well():
    nan = float("nan")
    diverged = verdict([100, 300, 500, 600, nan], dormant=[0.1, 0.1, nan, nan, nan], ranks=[200, nan, nan, nan, nan])
    assert "nan" not in diverged.words
    assert "return" not in diverged.judged
    nothing = verdict([100, 300, 500, 600, 700], dormant=[nan] * 5, ranks=[nan] * 5)
    assert nothing.judged == ("return",)
    beside = judge(phases([nan] * 5), "friction", "ppo", phases([100] * 5))
    assert beside.judged == ("units", "rank")


def test_a_rank_that_was_zero_from_the_first_does_not_fall():
    assert "rank" not in verdict([100, 300, 500, 600, 700], ranks=[0] * 5).signs
