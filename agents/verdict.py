"""Says in words whether a run shows signs of loss of plasticity: thresholds with names, and no more than the data can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

# All thresholds are ours; docs/plasticity.md says how they did on runs whose loss is known.
LEAST_PHASES = 5
"""With fewer phases it is too early to tell."""

IDLE = 0.1
"""Fraction of the policy's units that are dormant (ReLU) or saturated (tanh), from which on it counts …"""

IDLE_RISE = 0.05
"""… where it is also greater by this than at the end of the first phase."""

RANK_FALL = 0.25
"""Of the greatest rank at the end of an earlier phase."""

RETURN_FALL = 0.25
"""Of the best final return of an earlier phase that had a like value of the parameter."""

LIKE = 1 / 3
"""Two values of the parameter are alike where they differ by at most this share of the greater one."""

ERRORS = 2.0
"""A fall of the final return counts where it is also this many standard errors of the two means wide."""

Sign = Literal["units", "rank", "return", "control"]

_ADVICE = ("l2", "redo", "cbp")


@dataclass(frozen=True)
class PhaseEnd:
    """What is known of a phase at its end.

    Attributes:
        number: The phase.
        value: The parameter's value; None in a world that does not change.
        final_return: Mean return of the last tenth of its episodes; None without one.
        final_return_error: The standard error of that mean; None with fewer than three episodes in it.
        measures: Of the policy, those that there are, by name: ``dormant_fraction`` or ``saturated_fraction`` (means over its
            hidden layers), ``stable_rank`` (of the last hidden layer).
    """

    number: int
    value: float | None
    final_return: float | None = None
    final_return_error: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """A verdict on a run.

    Attributes:
        signs: The signs of loss of plasticity that were seen: ``"units"`` (dormant or saturated, and rising), ``"rank"``
            (falling), ``"return"`` (falling at like values of the parameter), ``"control"`` (below a fresh network).
        judged: The signs that there was enough data to look for.
        words: The verdict in a sentence, with what it rests on, and what to try where there are signs.
        caveats: What could not be judged, a sentence each.
    """

    signs: tuple[Sign, ...]
    judged: tuple[Sign, ...]
    words: str
    caveats: tuple[str, ...] = ()


def policy_measures(latest: Mapping[str, float]) -> dict[str, float]:
    """The measures of a :class:`PhaseEnd`, out of those recorded last, by their names in TensorBoard and in forward order."""
    found = {}
    for name in ("dormant_fraction", "saturated_fraction", "stable_rank"):
        layers = [value for key, value in latest.items() if key.startswith("plasticity/policy/") and key.endswith(f"/{name}")]
        if layers:
            found[name] = layers[-1] if name == "stable_rank" else sum(layers) / len(layers)
    return found


def judge(phases: Sequence[PhaseEnd], parameter: str | None, method: str, control: Sequence[PhaseEnd] | None = None) -> Verdict:
    """Judges a run after some phases.

    Args:
        phases: The phases that are whole, in their order.
        parameter: What changes; None in a world that does not.
        method: The run's method.
        control: The same phases of a run of the same seed whose networks begin anew with each phase (``reset-all``).

    Returns:
        The verdict. With fewer than five phases it says that it is too early to tell.
    """
    if not phases:
        return Verdict((), (), "Too early to tell: no phase has ended.")
    checks: dict[Sign, tuple[bool, str] | None] = {
        "units": _units(phases),
        "rank": _rank(phases),
        "return": _returns(phases, parameter),
        "control": _against(phases, control),
    }
    signs = tuple(name for name, found in checks.items() if found and found[0])
    judged = tuple(name for name, found in checks.items() if found)
    seen = [found[1] for found in checks.values() if found]
    words = _head(signs, len(phases), judged=not {"return", "control"}.isdisjoint(judged))
    words += f": {'; '.join(seen)}." if seen else "."
    if signs and len(phases) >= LEAST_PHASES and (advice := [name for name in _ADVICE if name != method]):
        words += f" To try: --method {', '.join(advice[:-1])} or {advice[-1]}."
    caveats = []
    if parameter is None:
        caveats.append("The world does not change, so returns are not compared.")
    else:
        if "return" not in judged:
            caveats.append(
                f"No earlier phase with enough episodes had a {parameter} like the last one's: returns are not compared."
            )
        if "control" not in judged and method != "reset-all":
            caveats.append("Not compared with a fresh network: that takes a run with --method reset-all, and agents.report.")
    return Verdict(signs, judged, words, tuple(caveats))


def _head(signs: tuple[Sign, ...], phases: int, *, judged: bool) -> str:
    """The verdict itself; ``judged`` says whether there was a return to compare with."""
    if phases < LEAST_PHASES:
        return f"Too early to tell ({phases} of {LEAST_PHASES} phases)"
    in_units, in_return = {"units", "rank"} & {*signs}, {"return", "control"} & {*signs}
    if in_units and in_return:
        return "Loss of plasticity is likely"
    if in_return:
        return "The return falls, but the units show no sign of loss of plasticity"
    of_return = "none in the return" if judged else "the return cannot be judged"
    if in_units:
        return f"Early signs of loss of plasticity in the units, {of_return}"
    return "No sign of loss of plasticity" + ("" if judged else f" in the units, {of_return}")


def _units(phases: Sequence[PhaseEnd]) -> tuple[bool, str] | None:
    for name in ("dormant_fraction", "saturated_fraction"):
        if name in phases[-1].measures:
            now, word = phases[-1].measures[name], name.split("_")[0]
            text = f"{100 * now:.0f} % of the policy's units {word}"
            first = phases[0].measures.get(name)
            if len(phases) == 1 or first is None:
                return False, text
            return now >= IDLE and now - first >= IDLE_RISE, f"{text} ({100 * first:.0f} % after the first phase)"
    return None


def _rank(phases: Sequence[PhaseEnd]) -> tuple[bool, str] | None:
    now = phases[-1].measures.get("stable_rank")
    earlier = [rank for phase in phases[:-1] if (rank := phase.measures.get("stable_rank")) is not None]
    if now is None or not earlier:
        return None
    return now <= (1 - RANK_FALL) * max(earlier), f"stable rank {now:.0f} (before at most {max(earlier):.0f})"


def _returns(phases: Sequence[PhaseEnd], parameter: str | None) -> tuple[bool, str] | None:
    known = [
        (phase.value, phase.final_return, phase.final_return_error, phase.number)
        for phase in phases
        if phase.value is not None and phase.final_return is not None and phase.final_return_error is not None
    ]
    if not known or known[-1][3] != phases[-1].number:
        return None
    *earlier, (value, now, error, _) = known
    like = [phase for phase in earlier if abs(phase[0] - value) <= LIKE * max(abs(phase[0]), abs(value))]
    if not like:
        return None
    best_value, best, best_error, number = max(like, key=lambda phase: phase[1])
    fell = best - now > RETURN_FALL * abs(best) and best - now > ERRORS * math.hypot(error, best_error)
    before = f"{_number(best)} at {_number(best_value)} in phase {number}"
    return fell, f"final return {_number(now)} at {parameter} {_number(value)} ({before})"


def _against(phases: Sequence[PhaseEnd], control: Sequence[PhaseEnd] | None) -> tuple[bool, str] | None:
    """Whether the return is below a fresh network's in the mean over the later half of the phases and in most of them."""
    of_fresh = {phase.number: phase.final_return for phase in control or ()}
    pairs = [
        (phase.final_return, fresh)
        for phase in phases
        if phase.final_return is not None and (fresh := of_fresh.get(phase.number)) is not None
    ]
    later = np.array(pairs[len(pairs) // 2 :])
    if not len(later):
        return None
    own, fresh = later.mean(axis=0)
    below = own < fresh and np.mean(later[:, 0] < later[:, 1]) > 0.5
    return bool(below), f"final return {_number(own)} in the later half of the phases (a fresh network {_number(fresh)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"
