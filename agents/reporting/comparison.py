"""Methods compared over phases and seeds: measures, intervals, and what may be averaged at all.

The definitions are those of ``docs/comparison.md``.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.stats

from agents.reporting.results import BINS, RETURN, STD, AgentResult, Array, LearningResult, RunResult
from agents.runs.config import Config
from agents.runs.errors import UserError, unknown
from agents.runs.verdict import IDLE_UNITS, PhaseEnd
from agents.supervised.config import LearningConfig

Statistic = Literal["mean", "iqm"]

LEAST_SEEDS = 5
"""With fewer there is no interval."""

CONFIDENCE = 0.95
_TRIMMED: dict[Statistic, float] = {"mean": 0.0, "iqm": 0.25}  # of the seeds, at each end
_ROUNDING = 1e-9  # of a parameter's value, relative; processors differ in its last digits
_RECOVERED = 0.9  # of the way from the first part of a phase to its final return
_COLLAPSED = 0.5  # of the best return within the phase, lost at its end
_TENTH = 0.1

MEASURES: dict[str, str] = {
    "area": "area under the curve",
    "final_return": "final return",
    "drop": "drop at the change",
    "steps_to_recover": "steps to recover",
    "collapsed": "share of phases that collapse",
    "dormant_policy": "dormant units, policy (%)",
    "dormant_value": "dormant units, value (%)",
    "gradient_dormant_policy": "units with hardly any gradient, policy (%)",
    "gradient_dormant_value": "units with hardly any gradient, value (%)",
    "rank_policy": "stable rank, policy",
    "rank_value": "stable rank, value",
    "kernel_policy": "effective rank of the tangent kernel, policy",
    "kernel_value": "effective rank of the tangent kernel, value",
    "weight_policy": "mean size of weights, policy",
    "weight_value": "mean size of weights, value",
    "std": "standard deviation of the policy's actions",
}
"""Measures of a phase, and what they are called in words."""

_LEARNING_MEASURES: dict[str, str] = {
    "mean": "mean {score}",
    "first": "{score}, first tenth",
    "final": "{score}, last tenth",
    "change": "last tenth minus first",
    "dormant": "dormant units, last tenth (%)",
    "rank": "stable rank, last tenth",
    "weight": "mean size of weights, last tenth",
}


@dataclass(frozen=True)
class Comparison:
    """Complete runs that may be compared.

    Attributes:
        runs: The runs of each method by their seeds; methods in the order of their presets.
        unfinished: Runs that are not complete, which are left out.
        missing: Seeds that other methods have, by the method that lacks them.
        phases: The phases that are whole in every run: what measures are averaged over, so that all are over the same worlds.
            Of supervised runs all tasks.
    """

    runs: dict[str, dict[int, Any]]
    unfinished: list[RunResult]
    missing: dict[str, list[int]]
    phases: list[int]

    @property
    def config(self) -> Config | LearningConfig:
        """A configuration; all agree about the world."""
        config: Config | LearningConfig = next(iter(next(iter(self.runs.values())).values())).config
        return config

    @property
    def all_runs(self) -> list[Any]:
        """The runs of all methods, one method after the other."""
        return [run for by_seed in self.runs.values() for run in by_seed.values()]

    @property
    def measures(self) -> dict[str, str]:
        """The measures of a run, and what they are called in words."""
        config = self.config
        if isinstance(config, Config):
            alone = len(set(config.networks)) == 1  # the Q-network of DQN, which would be told twice
            return {name: words for name, words in MEASURES.items() if not (alone and name.endswith("_value"))}
        return {name: words.format(score=config.shown_score[0]) for name, words in _LEARNING_MEASURES.items()}


def compare(results: Iterable[RunResult]) -> Comparison:
    """Sorts runs by method and seed.

    Raises:
        UserError: Runs whose settings differ, a run that is there twice, a seed whose worlds differ, or no complete run.
    """
    results = list(results)
    if not results:
        raise UserError("there is no run to compare")
    unfinished = [result for result in results if not result.complete]
    complete = [result for result in results if result.complete]
    if not complete:
        raise UserError(f"none of the {len(results)} runs is complete yet, such as '{results[0].path}'")
    runs: dict[str, dict[int, Any]] = {}
    for result in sorted(
        complete, key=lambda result: (type(result).__name__, result.config.place, _natural(result.config.label))
    ):
        _check_fits(result, complete[0], runs.get(result.config.label, {}))
        runs.setdefault(result.config.label, {})[result.config.seed] = result
    check_worlds(run for by_seed in runs.values() for run in by_seed.values())
    seeds = {seed for by_seed in runs.values() for seed in by_seed}
    missing = {method: sorted(seeds - by_seed.keys()) for method, by_seed in runs.items() if seeds - by_seed.keys()}
    phases = sorted(set.intersection(*({*whole_phases(result)} for result in complete)))
    if not phases:
        raise UserError("no phase is whole in every run: the runs are shorter than the period")
    return Comparison({method: dict(sorted(by_seed.items())) for method, by_seed in runs.items()}, unfinished, missing, phases)


def _natural(label: str) -> list[tuple[float, str]]:
    """A label's parts, numbers by their size."""
    return [
        (float(part), "") if re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", part) else (math.inf, part)
        for part in re.split("[=,]", label)
    ]


def _check_fits(result: RunResult, any_other: RunResult, of_method: dict[int, RunResult]) -> None:
    for other in (any_other, *list(of_method.values())[:1]):
        if type(result) is not type(other):
            raise UserError(f"'{result.path}' and '{other.path}' are runs of different kinds")
        same_method = other.config.label == result.config.label
        differences = result.config.differences(other.config)
        for name, own, theirs in sorted(differences, key=lambda difference: difference[0] != "algo"):  # which changes others
            if name in ("seed", "device") or not (same_method or name.split(".")[0] in result.config.of_world):
                continue
            where = f"{own} in '{result.path}' and {theirs} in '{other.path}'"
            raise UserError(f"runs of different settings are not averaged: {name} is {where}")
    if (seed := result.config.seed) in of_method:
        raise UserError(f"'{of_method[seed].path}' and '{result.path}' are both {result.config.label} with seed {seed}")


def check_worlds(results: Iterable[RunResult]) -> None:
    """Checks that the same seed has given every run the same values of the parameters.

    Raises:
        UserError: It has not.
    """
    first: dict[int, AgentResult] = {}
    for result in results:
        if not isinstance(result, AgentResult):
            continue
        seed = result.config.seed
        other = first.setdefault(seed, result)
        for phase, (own, theirs) in enumerate(zip(values(result), values(other), strict=False)):
            for name in own:
                if not _same(own[name], theirs.get(name)):
                    raise UserError(
                        f"seed {seed} is not the same world: {name} in phase {phase} is {own[name]} in '{result.path}' and "
                        f"{theirs.get(name)} in '{other.path}'"
                    )


def _same(own: float | None, other: float | None) -> bool:
    """Whether two values of a parameter are the same, up to the rounding of another processor."""
    return own == other or (own is not None and other is not None and math.isclose(own, other, rel_tol=_ROUNDING))


def values(result: AgentResult) -> list[dict[str, float | None]]:
    """The value in each phase of each parameter that changes, by name."""
    return [{name: phase.get(name) for name in result.config.params} for phase in result.phases]


def single(of_phase: Mapping[str, float | None]) -> float | None:
    """The value of the only parameter that changes; None where there is none, or several."""
    return next(iter(of_phase.values())) if len(of_phase) == 1 else None


def whole_phases(result: RunResult) -> list[int]:
    """The phases that lasted as long as they should, of which the last one may be cut off; of a supervised run all tasks."""
    if not isinstance(result, AgentResult):
        return list(range(result.config.tasks)) if isinstance(result.config, LearningConfig) else []
    config, begun = result.config, len(result.phases)
    return [number for number, phase in enumerate(result.phases) if config.is_whole(number, begun, phase["steps"])]


@functools.cache
def phase_measures(result: RunResult, phase: int) -> dict[str, float]:
    """The measures of one phase or task of a run by their names; NaN where there is none.

    Args:
        result: A complete run.
        phase: One of its phases, or of its tasks.
    """
    if isinstance(result, LearningResult):
        score = result.config.score
        return {
            score: result.config.shown_score[1] * float(result.curve[f"task/{score}"][phase, 0]),
            "dormant": 100 * _last(result, phase, "network", "dormant_fraction"),
            "rank": _last(result, phase, "network", "stable_rank"),
            "weight": _last(result, phase, "network", "weight_magnitude"),
        }
    assert isinstance(result, AgentResult)  # noqa: S101
    curve = fill(result.curve[RETURN][phase])
    final = _final_return(result, phase)
    best = curve.max()
    networks = dict(zip(("policy", "value"), result.config.networks, strict=True))
    return {
        "area": float(curve.mean()),
        "final_return": final,
        "drop": _final_return(result, phase - 1) - float(curve[0]) if phase else np.nan,
        "steps_to_recover": steps_to_recover(curve, final, result.phase_lengths[phase]),
        "collapsed": float(best - final > _COLLAPSED * abs(best)) if np.isfinite(best - final) else np.nan,
        **{f"dormant_{network}": 100 * _last(result, phase, name, "dormant_fraction") for network, name in networks.items()},
        **{
            f"gradient_dormant_{network}": 100 * _last(result, phase, name, "gradient_dormant_fraction")
            for network, name in networks.items()
        },
        **{f"rank_{network}": _last(result, phase, name, "stable_rank") for network, name in networks.items()},
        **{f"kernel_{network}": _last(result, phase, name, "probe_ntk_effective_rank") for network, name in networks.items()},
        **{f"weight_{network}": _last(result, phase, name, "weight_magnitude") for network, name in networks.items()},
        "std": _last_of([result.curve[STD][phase]] if STD in result.curve else []),
    }


def phase_ends(result: AgentResult, phases: Iterable[int]) -> list[PhaseEnd]:
    """What a verdict needs of some phases of a run."""
    ends = []
    for number in phases:
        phase = result.phases[number]
        of_policy = {name: _last(result, number, result.config.networks[0], name) for name in (*IDLE_UNITS, "stable_rank")}
        ends.append(
            PhaseEnd(
                number,
                single(values(result)[number]),
                phase["final_return"],
                phase.get("final_return_error"),  # which runs recorded earlier do not have
                {name: value for name, value in of_policy.items() if np.isfinite(value)},
            )
        )
    return ends


def steps_to_recover(curve: Array, final: float, length: int) -> float:
    """Steps until the return has come 90 % of the way from the first part of a phase to the phase's final return.

        least b with R(b) ≥ R(0) + 0.9 · (F − R(0)), as b/BINS · length

    Args:
        curve: R, the mean return in each part: ``(BINS,)`` without gaps.
        final: F.
        length: Steps of a phase.

    Returns:
        The steps; 0 where the final return is not above the first part's, NaN where a return is missing.
    """
    if not np.isfinite(curve).all() or not np.isfinite(final):
        return np.nan
    if final <= curve[0]:
        return 0.0
    reached = np.flatnonzero(curve >= curve[0] + _RECOVERED * (final - curve[0]))
    return float(reached[0] if len(reached) else BINS) / BINS * length


def _final_return(result: AgentResult, phase: int) -> float:
    final = result.phases[phase]["final_return"]
    return np.nan if final is None else float(final)


def curves_of(result: RunResult, network: str, measure: str) -> list[Array]:
    """A measure of a network's hidden layers, each ``(phases, BINS)``; the rank is the last one's alone, as in the paper."""
    names = [name for name in result.curve if name.startswith(f"plasticity/{network}/") and name.endswith(f"/{measure}")]
    in_order = sorted(names, key=lambda name: (len(name), name))  # hidden10 comes after hidden9
    return [result.curve[name] for name in (in_order[-1:] if measure == "stable_rank" else in_order)]


def _last(result: RunResult, phase: int, network: str, measure: str) -> float:
    """The last recorded value in a phase, averaged over the network's layers."""
    return _last_of([curve[phase] for curve in curves_of(result, network, measure)])


def _last_of(rows: Sequence[Array]) -> float:
    """The mean of the last values of some rows; NaN where one of them has none."""
    last = [row[np.isfinite(row)][-1:] for row in rows]
    return float(np.mean(last)) if last and all(map(len, last)) else np.nan


def fill(row: Array) -> Array:
    """A row whose gaps have the value before them, the first ones that of the first value; without any value, all NaN."""
    known = np.flatnonzero(np.isfinite(row))
    if not len(known):
        return row
    before = np.searchsorted(known, np.arange(len(row)), side="right") - 1
    return row[known[np.maximum(before, 0)]]


def run_measures(result: RunResult, phases: Iterable[int]) -> dict[str, float]:
    """The measures of a run: means over those of some phases that have the measure, of a supervised run also over tenths."""
    rows = [phase_measures(result, phase) for phase in phases]
    if isinstance(result, LearningResult):
        tenth = math.ceil(_TENTH * len(rows))
        scores = [row[result.config.score] for row in rows]
        # A run that diverged has no score from there on; over the tasks before it would look like a good one.
        parts = (scores, scores[:tenth], scores[-tenth:])
        mean, first, final = (_mean(some) if np.isfinite(some).all() else np.nan for some in parts)
        of_units = {name: _mean([row[name] for row in rows[-tenth:]]) for name in ("dormant", "rank", "weight")}
        return {"mean": mean, "first": first, "final": final, "change": final - first, **of_units}
    return {name: _mean([row[name] for row in rows]) for name in MEASURES}


def _mean(numbers: Sequence[float]) -> float:
    known = [number for number in numbers if np.isfinite(number)]
    return float(np.mean(known)) if known else np.nan


@dataclass(frozen=True)
class Estimate:
    """A statistic over seeds.

    Attributes:
        centre: Mean or interquartile mean.
        low: Lower end of its interval; None with fewer than five seeds.
        high: Upper end.
        each: The value of each seed.
    """

    centre: float
    low: float | None
    high: float | None
    each: list[float]


def estimate(each: Sequence[float], statistic: Statistic) -> Estimate:
    """A statistic over seeds with its 95 % interval, see :func:`interval`; seeds without a value do not count."""
    known = [float(value) for value in each if np.isfinite(value)]
    if not known:
        return Estimate(np.nan, None, None, [])
    centre = float(centre_of(np.array(known), statistic))
    if len(known) < LEAST_SEEDS:
        return Estimate(centre, None, None, known)
    low, high = interval(np.array(known), statistic)
    return Estimate(centre, float(low), float(high), known)


def centre_of(samples: Array, statistic: Statistic) -> Array:
    """The statistic over the first axis: the mean, or the mean of the middle half (``scipy.stats.trim_mean``)."""
    return np.asarray(scipy.stats.trim_mean(samples, _TRIMMED[statistic], axis=0))


def interval(samples: Array, statistic: Statistic) -> tuple[Array, Array]:
    """The 95 % interval of the statistic over the first axis: Student's, of the interquartile mean that of a trimmed mean.

        centre ± t(h − 1) · √( Σ (w − mean w)² / (h · (h − 1)) )

    h of the n values are left when the outer ones are trimmed, and in w these have the value of the nearest one that is left
    (winsorised; Tukey and McLaughlin, *Sankhyā* A 25, 1963). Of the mean h = n and w are the values themselves.

    Args:
        samples: ``(n, ...)``, n at least 4.
        statistic: What is taken over the first axis.

    Returns:
        Lower and upper ends.
    """
    cut = int(_TRIMMED[statistic] * len(samples))  # at each end, as trim_mean cuts
    left = len(samples) - 2 * cut
    ordered = np.sort(samples, axis=0)
    winsorised = np.clip(samples, ordered[cut], ordered[-1 - cut])
    error = np.sqrt(len(samples) * winsorised.var(axis=0) / (left * (left - 1)))
    reach = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, left - 1) * error
    centre = centre_of(samples, statistic)
    return centre - reach, centre + reach


def paired_differences(comparison: Comparison, method: str, baseline: str, statistic: Statistic) -> dict[str, Estimate]:
    """By how much a method's measures exceed the baseline's, over the seeds that both have.

    Raises:
        UserError: There is no such baseline.
    """
    if baseline not in comparison.runs:
        raise unknown("baseline", baseline, comparison.runs)
    own, theirs = comparison.runs[method], comparison.runs[baseline]
    pairs = [_differences(own[seed], theirs[seed], comparison.phases) for seed in own if seed in theirs]
    return {name: estimate([pair[name] for pair in pairs], statistic) for name in comparison.measures}


def _differences(own: RunResult, theirs: RunResult, phases: Sequence[int]) -> dict[str, float]:
    """By how much a run's measures exceed another's, over the phases in which both have them."""
    if isinstance(own, LearningResult):
        a, b = run_measures(own, phases), run_measures(theirs, phases)
        return {name: a[name] - b[name] for name in a}
    rows = [(phase_measures(own, phase), phase_measures(theirs, phase)) for phase in phases]
    return {name: _mean([a[name] - b[name] for a, b in rows]) for name in MEASURES}
