"""Verdicts on made-up phases whose signs can be read off."""

from __future__ import annotations

import pytest

from agents.verdict import PhaseEnd, judge, policy_measures


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


def test_a_healthy_run_shows_no_sign():
    healthy = verdict([100, 300, 500, 600, 700])
    assert (healthy.signs, healthy.judged) == ((), ("units", "rank", "return"))
    assert healthy.words == (
        "No sign of loss of plasticity: 1 % of the policy's units dormant (1 % after the first phase); "
        "stable rank 200 (before at most 200); final return 700 at friction 0.5 (600 at 0.5 in phase 3)."
    )
    assert healthy.caveats == (
        "Not compared with a fresh network: that takes a run with --method reset-all, and agents.report.",
    )


def test_all_signs_together_make_loss_likely_and_say_what_to_try():
    lost = verdict([100, 900, 1000, 400, -50], dormant=[0.01, 0.1, 0.2, 0.3, 0.4], ranks=[200, 210, 180, 150, 90])
    assert lost.signs == ("units", "rank", "return")
    assert lost.words.startswith(
        "Loss of plasticity is likely: 40 % of the policy's units dormant (1 % after the first phase); "
    )
    assert "stable rank 90 (before at most 210)" in lost.words
    assert "final return -50 at friction 0.5 (1,000 at 0.5 in phase 2)" in lost.words
    assert lost.words.endswith("To try: --method l2, redo or cbp.")


def test_no_method_is_advised_to_a_run_that_has_it():
    lost = verdict([100, 900, 1000, 400, -50], dormant=[0.01, 0.1, 0.2, 0.3, 0.4], method="cbp")
    assert lost.words.endswith("To try: --method l2 or redo.")


@pytest.mark.parametrize(
    ("first", "last", "sign"),
    [
        (0.0, 0.10, True),  # a tenth, risen by a tenth
        (0.0, 0.09, False),  # fewer than a tenth
        (0.25, 0.31, True),
        (0.26, 0.30, False),  # there from the start
        (0.5, 0.2, False),
    ],
)
@pytest.mark.parametrize(("measure", "word"), [("dormant_fraction", "dormant"), ("saturated_fraction", "saturated")])
def test_units_are_a_sign_from_a_tenth_on_where_they_rose_by_five_points(first, last, sign, measure, word):
    result = verdict([1, 2, 3, 4, 5], dormant=[first, 0.0, 0.0, 0.0, last], measure=measure)
    assert result.signs == (("units",) if sign else ())
    assert f"{100 * last:.0f} % of the policy's units {word} ({100 * first:.0f} % after the first phase)" in result.words
    head = "Early signs of loss of plasticity in the units, none in the return" if sign else "No sign of loss of plasticity:"
    assert result.words.startswith(head)


@pytest.mark.parametrize(("last", "sign"), [(75.0, True), (75.1, False)])
def test_the_rank_is_a_sign_where_it_is_a_quarter_below_its_greatest(last, sign):
    result = verdict([1, 2, 3, 4, 5], ranks=[80.0, 100.0, 90.0, 90.0, last])
    assert result.signs == (("rank",) if sign else ())


@pytest.mark.parametrize(
    ("finals", "values", "error", "sign"),
    [
        ([0, 0, 1000, 0, 740], None, 10, True),  # 26 % below the best
        ([0, 0, 1000, 0, 760], None, 10, False),  # 24 %
        ([0, 0, 1000, 0, 700], None, 110, False),  # 300 is less than 2 · √2 · 110 = 311
        ([0, 0, 1000, 0, 700], None, 100, True),  # and more than 283
        ([-400, -100, -400, -400, -130], None, 1, True),  # 30 of 100
        ([-400, -100, -400, -400, -120], None, 1, False),
        ([0, 0, 1000, 0, 100], [0.1, 0.1, 0.61, 1.0, 0.4], 1, False),  # 0.4 is 34 % below 0.61: phases 2 and 4 are not alike
        ([0, 0, 1000, 0, 100], [0.1, 0.1, 0.59, 1.0, 0.4], 1, True),  # 32 %
        ([0, 0, 1000, 0, 100], [-1.0, -1.0, -3.0, 0.0, -3.5], 1, True),  # values need not be positive
    ],
)
def test_the_return_is_a_sign_where_it_fell_clearly_at_a_like_value(finals, values, error, sign):
    result = verdict([float(f) for f in finals], values=values, error=error)
    assert result.signs == (("return",) if sign else ())
    if sign:
        assert result.words.startswith("The return falls, but the units show no sign of loss of plasticity: ")


def test_what_cannot_be_compared_is_not_judged_and_said_so():
    alone = verdict([1.0, 2.0, 3.0, 4.0, -500.0], values=[0.02, 0.1, 0.5, 2.0, 1.0])
    assert (alone.signs, alone.judged) == ((), ("units", "rank"))
    assert alone.words.startswith("No sign of loss of plasticity in the units, the return cannot be judged: ")
    assert alone.caveats[0] == (
        "No earlier phase with enough episodes had a friction like the last one's: returns are not compared."
    )
    few_episodes = [PhaseEnd(i, 0.5, 1000.0 - 300 * i, None, {}) for i in range(5)]
    assert judge(few_episodes, "friction", "ppo").caveats == alone.caveats
    without_last = [*phases([1000.0] * 4), PhaseEnd(4, 0.5)]  # no episode ended in it
    assert judge(without_last, "friction", "ppo").caveats == alone.caveats


@pytest.mark.parametrize("number", [1, 2, 4])
def test_few_phases_are_too_early_to_tell_whatever_they_show(number):
    finals, dormant = [1000.0, 500.0, 200.0, 0.0], [0.0, 0.3, 0.5, 0.9]
    result = verdict(finals[:number], dormant=dormant[:number])
    assert result.words.startswith(f"Too early to tell ({number} of 5 phases): ")
    assert "To try" not in result.words
    assert judge([], "friction", "ppo").words == "Too early to tell: no phase has ended."


def test_a_world_that_does_not_change_is_judged_by_its_units_alone():
    result = judge([PhaseEnd(0, None, 10.0, 1.0, {"dormant_fraction": 0.3})], None, "ppo")
    assert result.words == "Too early to tell (1 of 5 phases): 30 % of the policy's units dormant."
    assert result.caveats == ("The world does not change, so returns are not compared.",)


@pytest.mark.parametrize(
    ("finals", "fresh", "sign"),
    [
        # The later half is phases 2 to 4 (of 5).
        ([900, 900, 100, 100, 100], [500, 500, 500, 500, 500], True),
        ([0, 0, 600, 600, 600], [500, 500, 500, 500, 500], False),
        ([0, 0, 600, 600, -5000], [500, 500, 500, 500, 500], False),  # below in the mean, but not in most phases
        ([0, 0, 400, 400, 5000], [500, 500, 500, 500, 500], False),  # below in most phases, but not in the mean
    ],
)
def test_a_return_below_a_fresh_networks_is_a_sign(finals, fresh, sign):
    values = [0.02, 0.06, 0.2, 0.6, 2.0]  # no two alike
    result = verdict([float(f) for f in finals], values=values, control=phases([float(f) for f in fresh], values=values))
    assert result.signs == (("control",) if sign else ())
    assert f"final return {sum(finals[2:]) / 3:,.0f} in the later half of the phases (a fresh network 500)" in result.words
    assert not any("fresh network" in caveat for caveat in result.caveats)


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
