"""Says in words whether a run shows signs of loss of plasticity: thresholds with names, and no more than the data can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from agents.sb3.phases import Phase
from envs.tasks import TASK

# All thresholds are ours; docs/plasticity.md says how they did on runs whose loss is known, and on a control that has none.
LEAST_PHASES = 5
"""With fewer phases it is too early to tell."""

IDLE = 0.1
"""Fraction of the policy's units that are dormant (ReLU) or saturated (tanh), from which on it is high."""

IDLE_RISE = 0.1
"""A high fraction is a sign where the mean of the last third of the phases is greater by this than that of the first third."""

RANK_FALL = 0.25
"""The rank is a sign where the mean of the last third of the phases is smaller by this share than that of the first third."""

RETURN_FALL = 0.25
"""The final return is a sign where it is below the median of earlier phases with a like value of the parameter by this share
of that median, and of the range of all final returns."""

LIKE = 1 / 3
"""Two values of the parameter are alike where they differ by at most this share of the greater one."""

ERRORS = 2.0
"""A difference of returns counts where it is also more than this many standard errors wide."""

LEAST_PAIRS = 3
"""Phases in the later half of a run that it takes to compare it with a fresh network."""

IDLE_UNITS = ("dormant_fraction", "saturated_fraction")
"""What tells idle units, of ReLU and of tanh."""

Sign = Literal["units", "rank", "return", "control"]

_POLICIES = ("policy", "actor", "q_net")
"""What the network that acts is called, by algorithm."""

_ADVICE = ("l2", "redo", "cbp")


@dataclass(frozen=True)
class PhaseEnd:
    """What is known of a phase at its end.

    Attributes:
        number: The phase.
        value: The parameter's value; None in a world that does not change, or in which several do.
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

    @classmethod
    def of(cls, number: int, phase: Phase) -> PhaseEnd:
        """What a verdict needs of a recorded phase."""
        value = next(iter(phase.values.values())) if len(phase.values) == 1 else None  # two of several values are never alike
        return cls(number, value, phase.final_return, phase.final_return_error, phase.measures)


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


@dataclass(frozen=True)
class _Check:
    found: bool | None  # None: not to be judged
    words: str | None = None


def and_list(parameters: Sequence[str]) -> str | None:
    """The parameters that change, in words: ``"friction and gravity"``; None where none does."""
    return " and ".join(parameters) or None


def policy_measures(latest: Mapping[str, float]) -> dict[str, float]:
    """The measures of a :class:`PhaseEnd`, out of those recorded last, by their names in TensorBoard and in forward order."""
    found, prefixes = {}, tuple(f"plasticity/{network}/" for network in _POLICIES)
    for name in (*IDLE_UNITS, "stable_rank"):
        layers = [value for key, value in latest.items() if key.startswith(prefixes) and key.endswith(f"/{name}")]
        if layers:
            found[name] = layers[-1] if name == "stable_rank" else sum(layers) / len(layers)
    return found


def judge(phases: Sequence[PhaseEnd], parameter: str | None, method: str, control: Sequence[PhaseEnd] | None = None) -> Verdict:
    """Judges a run after some phases.

    Args:
        phases: The phases that are whole, in their order.
        parameter: What changes, in words; None in a world that does not.
        method: The run's method.
        control: The same phases of a run of the same seed whose networks begin anew with each phase (``reset-all``).

    Returns:
        The verdict. With fewer than five phases it says that it is too early to tell, whatever they show.
    """
    if not phases:
        return Verdict((), (), "Too early to tell: no phase has ended.")
    phases, control = list(map(_known, phases)), None if control is None else list(map(_known, control))
    checks: dict[Sign, _Check] = {
        "units": _units(phases),
        "rank": _rank(phases),
        "return": _returns(phases, parameter),
        "control": _against(phases, control),
    }
    signs = tuple(name for name, check in checks.items() if check.found)
    judged = tuple(name for name, check in checks.items() if check.found is not None)
    seen = [check.words for check in checks.values() if check.words]
    words = _head(signs, judged, len(phases), parameter) + (f": {'; '.join(seen)}." if seen else ".")
    of_control = method == "reset-all"
    if signs and len(phases) >= LEAST_PHASES and not of_control:
        advice = [name for name in _ADVICE if name != method]
        words += f" To try: --method {', '.join(advice[:-1])} or {advice[-1]}."
    return Verdict(signs, judged, words, _caveats(judged, parameter, several=phases[-1].value is None, of_control=of_control))


def _head(signs: tuple[Sign, ...], judged: tuple[Sign, ...], phases: int, parameter: str | None) -> str:
    if parameter is None:
        return "Not judged, because the world does not change"
    if phases < LEAST_PHASES:
        return f"Too early to tell ({phases} of {LEAST_PHASES} phases)"
    in_units, in_return = {"units", "rank"} & {*signs}, {"return", "control"} & {*signs}
    of_units, of_return = {"units", "rank"} & {*judged}, {"return", "control"} & {*judged}
    if in_units and in_return:
        return "Loss of plasticity is likely"
    if in_return:
        what = "falls at like values" if "return" in signs else "is below a fresh network's"
        return f"The return {what}, but {'the units show no sign of loss of plasticity' if of_units else 'no unit was judged'}"
    if in_units:
        return f"Signs of loss of plasticity in the units, {'none in the return' if of_return else 'the return not judged'}"
    if of_units and of_return:
        return "No sign of loss of plasticity"
    if of_units or of_return:
        return f"No sign of loss of plasticity in the {'units; the return' if of_units else 'return; units'} not judged"
    return "Not judged"


def _caveats(judged: tuple[Sign, ...], parameter: str | None, *, several: bool, of_control: bool) -> tuple[str, ...]:
    if parameter is None:
        return ()
    caveats = []
    if "units" not in judged:
        caveats.append("Dormant or saturated units are not judged: they were not recorded in two phases.")
    if "return" not in judged and several:
        caveats.append(f"Returns are not compared: two phases are hardly ever alike in {parameter}.")
    elif "return" not in judged:
        caveats.append(f"Returns are not compared: no earlier phase of enough episodes had a {parameter} like the last one's.")
    if "control" not in judged and not of_control:
        caveats.append("Not compared with a fresh network: that takes a run with --method reset-all, and agents.report.")
    return tuple(caveats)


def _first_and_last(phases: Sequence[PhaseEnd], measure: str) -> tuple[float, float, int] | None:
    """Means of a measure over the first and the last third of the phases that have it, and how many these are."""
    found = [phase.measures[measure] for phase in phases if measure in phase.measures]
    number = math.ceil(len(found) / 3)
    return (sum(found[:number]) / number, sum(found[-number:]) / number, number) if len(found) > 1 else None


def _known(phase: PhaseEnd) -> PhaseEnd:
    """What is known of a phase: a network that diverged has no measures, and its returns may be no numbers."""
    final = phase.final_return if phase.final_return is not None and math.isfinite(phase.final_return) else None
    measures = {name: value for name, value in phase.measures.items() if math.isfinite(value)}
    return replace(phase, final_return=final, measures=measures)


def _units(phases: Sequence[PhaseEnd]) -> _Check:
    for name in IDLE_UNITS:
        word = name.split("_")[0]
        if (ends := _first_and_last(phases, name)) is not None:
            first, last, number = ends
            rose = last >= IDLE and last - first >= IDLE_RISE
            words = f"{100 * last:.0f} % of the policy's units {word}, {100 * first:.0f} % {_at_first(number)}"
            return _Check(rose, words + (" (many, but not rising)" if last >= IDLE and not rose else ""))
        if name in phases[-1].measures:
            return _Check(None, f"{100 * phases[-1].measures[name]:.0f} % of the policy's units {word}")
    return _Check(None)


def _rank(phases: Sequence[PhaseEnd]) -> _Check:
    if (ends := _first_and_last(phases, "stable_rank")) is None:
        return _Check(None)
    first, last, number = ends
    return _Check(last < first and last <= (1 - RANK_FALL) * first, f"stable rank {last:.0f}, {first:.0f} {_at_first(number)}")


def _at_first(number: int) -> str:
    return "in the first phase" if number == 1 else f"in the first {number} phases"


def _returns(phases: Sequence[PhaseEnd], parameter: str | None) -> _Check:
    known = [
        (phase.value, phase.final_return, phase.final_return_error, phase.number)
        for phase in phases
        if phase.value is not None and phase.final_return is not None and phase.final_return_error is not None
    ]
    if not known or known[-1][3] != phases[-1].number:
        return _Check(None)
    *earlier, (value, now, error, _) = known
    share = 0.0 if parameter == TASK else LIKE  # tasks with numbers close by are not alike
    like = [phase for phase in earlier if abs(phase[0] - value) <= share * max(abs(phase[0]), abs(value))]
    if not like:
        return _Check(None)
    before = float(np.median([final for _, final, _, _ in like]))
    error = math.hypot(error, *(of_phase / len(like) for _, _, of_phase, _ in like))
    spread = float(np.ptp([final for _, final, _, _ in known]))
    fell = before - now > max(RETURN_FALL * abs(before), RETURN_FALL * spread, ERRORS * error)
    times = f"phase {like[0][3]}" if len(like) == 1 else f"{len(like)} phases"
    return _Check(fell, f"final return {_number(now)} at {parameter} {_number(value)}, {_number(before)} in {times} like it")


def _against(phases: Sequence[PhaseEnd], control: Sequence[PhaseEnd] | None) -> _Check:
    """Whether the return is clearly below a fresh network's in the later half of the phases, paired by phase."""
    of_fresh = {phase.number: phase.final_return for phase in control or ()}
    pairs = [
        (phase.final_return, fresh)
        for phase in phases
        if phase.final_return is not None and (fresh := of_fresh.get(phase.number)) is not None
    ]
    later = np.array(pairs[len(pairs) // 2 :])
    if len(later) < LEAST_PAIRS:
        return _Check(None)
    own, fresh = later.mean(axis=0)
    error = np.std(later[:, 1] - later[:, 0], ddof=1) / math.sqrt(len(later))
    words = f"final return {_number(own)} in the last {len(later)} phases, a fresh network's {_number(fresh)}"
    return _Check(bool(fresh - own > ERRORS * error), words)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"
