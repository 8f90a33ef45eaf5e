"""Methods against loss of plasticity for many runs at once: what :mod:`cbp` does, with the runs as first dimension.

Random numbers are those that the classes of :mod:`cbp` would draw with a run's seed, so that each run is the run that a plain
loop with these classes makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import cbp
from agents.supervised.mlp import MODULES
from cbp import selection
from cbp import utility as utilities

_CHUNK = 64  # updates whose random numbers are drawn at once
_NUMBERS = 2**21  # of a run, that are kept at most; those of one update in any case


def make_regularizer(
    method: str | None, kwargs: Sequence[dict[str, Any]], seeds: Sequence[int], parameters: Sequence[Tensor], rates: Tensor
) -> Pull | Perturb | None:
    """What a method does to all weights at each update, if it does.

    Args:
        method: Its name; None for none.
        kwargs: Its keyword arguments, of each run.
        seeds: Of each run.
        parameters: ``(runs, …)`` each, in the order in which the method's class would meet them.
        rates: Step sizes: ``(runs, 1)``.

    Raises:
        ValueError: A method that does not apply, or an option out of its range.
    """
    if method in (None, "cbp"):
        return None
    for options in kwargs:
        _make_plain(method, options)  # checks the options
    if method == "l2-init":
        return Pull(parameters, rates * _column([options["strength"] for options in kwargs], rates))
    if method == "shrink-perturb":
        return Perturb(parameters, kwargs, seeds)
    raise ValueError(f"method '{method}' has no code here")


def _make_plain(method: str | None, options: dict[str, Any]) -> Any:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    make: Any = cbp.METHODS[method or ""]
    return make(model, torch.optim.SGD(model.parameters(), lr=0.1), **options)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _broadcast(of_runs: Tensor, like: Tensor) -> Tensor:
    return of_runs.view(-1, *[1] * (like.ndim - 1))


class Pull:
    """:class:`cbp.L2Init` of each run."""

    def __init__(self, parameters: Sequence[Tensor], strengths: Tensor) -> None:
        self._parameters = list(parameters)
        self._initial = [parameter.clone() for parameter in parameters]
        self._strengths = [_broadcast(2 * strengths, parameter) for parameter in parameters]

    def before_update(self) -> None:
        """Takes note of where the parameters are."""
        pairs = zip(self._parameters, self._initial, strict=True)
        self._pulls = [(parameter - initial) * s for (parameter, initial), s in zip(pairs, self._strengths, strict=True)]

    def after_update(self) -> None:
        """Adds 2λ(θ − θ₀) to the gradients of the update that was made."""
        for parameter, pull in zip(self._parameters, self._pulls, strict=True):
            parameter.sub_(pull)

    def state_dict(self, run: int) -> dict[str, Any]:
        """The initial parameters of a run."""
        return {"initial": [initial[run].clone() for initial in self._initial]}

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Goes on with them."""
        for initial, saved in zip(self._initial, state["initial"], strict=True):
            initial[run].copy_(saved)


class Perturb:
    """:class:`cbp.ShrinkPerturb` of each run, at every update and with normal noise."""

    def __init__(self, parameters: Sequence[Tensor], kwargs: Sequence[dict[str, Any]], seeds: Sequence[int]) -> None:
        self._parameters = list(parameters)
        self._shrink = [_broadcast(_column([one["shrink"] for one in kwargs], p), p) for p in parameters]
        self._sigma = _column([one["perturb"] for one in kwargs], parameters[0])
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._sizes = [parameter[0].numel() for parameter in parameters]
        self._padded = cbp.ShrinkPerturb.padded(sum(self._sizes))
        self._shrinks = any(one["shrink"] != 1 for one in kwargs)
        like = parameters[0]
        self._updates = max(1, min(_CHUNK, _NUMBERS // self._padded))  # whose noise is drawn at once
        self._drawn = torch.empty(len(seeds), self._updates, self._padded, dtype=like.dtype, device=like.device)
        self._states = [generator.get_state() for generator in self._generators]
        self._used = self._updates

    def before_update(self) -> None:
        """Acts afterwards only."""

    def after_update(self) -> None:
        """θ ← λ·θ + σ·ε."""
        if self._used == self._updates:
            for run in range(len(self._generators)):
                self._draw(run)
            self._used = 0
        noise = self._drawn[:, self._used, : sum(self._sizes)] * self._sigma
        parts = torch.split(noise, self._sizes, dim=-1)
        self._used += 1
        for parameter, part, shrink in zip(self._parameters, parts, self._shrink, strict=True):
            if self._shrinks:
                parameter.mul_(shrink)
            parameter.add_(part.reshape(parameter.shape))

    def _draw(self, run: int) -> None:
        """Draws a run's noise for the next updates."""
        self._states[run] = self._generators[run].get_state()
        drawn = torch.empty(self._updates, self._padded, dtype=self._drawn.dtype)
        self._drawn[run] = drawn.normal_(generator=self._generators[run]).to(self._drawn.device)

    def state_dict(self, run: int) -> dict[str, Any]:
        """The generator before the noise at hand was drawn, and how much of it was used; as it is now where all of it was."""
        state = self._generators[run].get_state() if self._used == self._updates else self._states[run]
        return {"generator": state, "used": self._used}

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self._generators[run].set_state(state["generator"])
        self._used = state["used"]
        if self._used < self._updates:
            self._draw(run)


class _Uniform:
    """Uniform numbers from a generator of each run, drawn ahead of their use."""

    def __init__(self, generators: list[torch.Generator]) -> None:
        self._generators = generators
        self._numbers = np.zeros((len(generators), _CHUNK))
        self._used = np.full(len(generators), _CHUNK)
        self._states = [generator.get_state() for generator in generators]

    def take(self, runs: NDArray[np.int64]) -> NDArray[np.float64]:
        """The next number of some runs."""
        for run in runs[self._used[runs] == _CHUNK]:
            self._states[run] = self._generators[run].get_state()
            self._numbers[run] = torch.rand(_CHUNK, generator=self._generators[run])
            self._used[run] = 0
        numbers: NDArray[np.float64] = self._numbers[runs, self._used[runs]]
        self._used[runs] += 1
        return numbers

    def generator(self, run: int) -> torch.Generator:
        """A run's generator as if only what was taken had been drawn, to draw something else from it."""
        if self._used[run] < _CHUNK:
            self._generators[run].set_state(self._states[run])
            torch.rand(int(self._used[run]), generator=self._generators[run])
            self._used[run] = _CHUNK
        return self._generators[run]


class Replacing:
    """A hidden layer of each run under :class:`cbp.ContinualBackprop`.

    Attributes:
        replaced: Units replaced so far: ``(runs,)``.
    """

    def __init__(
        self,
        w_in: Tensor,
        bias: Tensor,
        w_out: Tensor,
        plain: Sequence[tuple[cbp.ContinualBackprop, cbp.MaturingLayer]],
    ) -> None:
        self._w_in, self._bias, self._w_out = w_in, bias, w_out
        self._method = plain[0][0]
        self._rates = np.array([method.replacement_rate for method, _ in plain])
        self._uniform = _Uniform([layer.generator for _, layer in plain])
        self._bounds = [layer.fresh_bound for _, layer in plain]
        self._non_negative = plain[0][1].non_negative
        runs, units = bias.shape
        self._utility, self._mean = torch.zeros_like(bias), torch.zeros_like(bias)
        self._born = torch.zeros(runs, units, dtype=torch.int64, device=bias.device)
        self._clock = 0
        self._births: dict[int, NDArray[np.int64]] = {0: np.full(runs, units)}
        self._eligible = np.zeros(runs, dtype=np.int64)
        self._counter = np.zeros(runs)
        self.replaced = np.zeros(runs, dtype=np.int64)

    def judge(self, h: Tensor) -> NDArray[np.int64] | None:
        """Takes note of an update in which the units had the values ``(runs, units)``.

        Returns:
            How many units of each run are to be replaced; None where none is.
        """
        method = self._method
        self._clock += 1
        if (matured := self._births.pop(self._clock - method.maturity_threshold - 1, None)) is not None:
            self._eligible += matured
        # u ← η·u + (1−η)·y
        weight = 1 - (0.0 if method.utility == "random" else method.decay_rate)
        self._utility.lerp_(self._utility_now(h), weight)
        counts = self._due()
        return counts if counts is not None and counts.any() else None

    def _utility_now(self, h: Tensor) -> Tensor:
        name = self._method.utility
        if name == "random":
            units = self._bias.shape[1]
            drawn = [torch.rand(units, generator=self._uniform.generator(run)) for run in range(len(self._rates))]
            return torch.stack(drawn).to(self._utility)
        if name == "adaptation":
            return utilities.adaptation(self._w_in)
        if name == "weight":
            return utilities.weight(self._w_out)
        batch = h.unsqueeze(-2)
        if name == "contribution":
            return utilities.contribution(batch, self._w_out, non_negative=self._non_negative)
        # f ← η·f + (1−η)·mean h;  ĥ = f / (1 − η^a)
        self._mean.lerp_(h, 1 - self._method.decay_rate)
        mean = selection.bias_corrected(self._mean, self._clock - self._born, self._method.decay_rate)
        if name == "zero_contribution":
            return utilities.zero_contribution(batch, mean, self._w_out)
        if name == "adaptable_contribution":
            return utilities.adaptable_contribution(batch, mean, self._w_in, self._w_out)
        return utilities.feature_by_input(batch, mean, self._w_in)

    def _due(self) -> NDArray[np.int64] | None:
        if not self._eligible.any():
            return None
        expected = self._rates * self._eligible
        if self._method.rounding == "counter":
            self._counter += expected
            due = np.minimum(np.floor(self._counter).astype(np.int64), self._eligible)
            self._counter -= due
            return due
        due = np.floor(expected).astype(np.int64)
        runs = np.flatnonzero((expected > 0) & (expected < 1))
        due[runs] = self._uniform.take(runs) < expected[runs]
        return due

    def replace(self, counts: NDArray[np.int64]) -> None:
        """Replaces the least useful mature units, so many of each run."""
        age = self._clock - self._born
        decay_rate = 0.0 if self._method.utility == "random" else self._method.decay_rate
        utility = selection.bias_corrected(self._utility, age, decay_rate)
        order = selection.least_useful_first(utility, age, self._method.maturity_threshold)
        runs = np.repeat(np.arange(len(counts)), counts)
        places = np.concatenate([np.arange(count) for count in counts])
        device = self._bias.device
        of_runs = torch.from_numpy(runs).to(device)
        index = of_runs, order[of_runs, torch.from_numpy(places).to(device)]
        fresh = torch.empty(len(runs), self._w_in.shape[-1], dtype=self._w_in.dtype)
        first = 0
        for run in np.flatnonzero(counts):
            bound, last = self._bounds[run], first + int(counts[run])
            fresh[first:last].uniform_(-bound, bound, generator=self._uniform.generator(int(run)))
            first = last
        self._w_in[index] = fresh.to(device)
        self._w_out.mT[index] = 0
        for of_units in (self._bias, self._utility, self._mean):
            of_units[index] = 0
        self._born[index] = self._clock
        self._eligible -= counts
        self._births[self._clock] = counts
        self.replaced += counts

    def state_dict(self, run: int) -> dict[str, Any]:
        """Everything of a run that changes with time."""
        return {
            "utility": self._utility[run].clone(),
            "mean": self._mean[run].clone(),
            "born": self._born[run].clone(),
            "clock": self._clock,
            "counter": float(self._counter[run]),
            "replaced": int(self.replaced[run]),
            "fresh_bound": self._bounds[run],
            "generator": self._uniform.generator(run).get_state(),
        }

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Goes on from a state of a run; all runs must be equally far."""
        if self._clock != state["clock"]:
            self._clock = state["clock"]
            self._births = {}
        self._utility[run], self._mean[run], self._born[run] = state["utility"], state["mean"], state["born"]
        self._counter[run], self.replaced[run] = state["counter"], state["replaced"]
        self._bounds[run] = state["fresh_bound"]
        self._uniform.generator(run).set_state(state["generator"])
        born = np.asarray(state["born"])
        young = born[self._clock - born <= self._method.maturity_threshold]
        self._eligible[run] = len(born) - len(young)
        for counts in self._births.values():
            counts[run] = 0
        for time, count in zip(*np.unique(young, return_counts=True), strict=True):
            self._births.setdefault(int(time), np.zeros(len(self._rates), dtype=np.int64))[run] = count


def make_replacing(
    kwargs: Sequence[dict[str, Any]], seeds: Sequence[int], weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str
) -> list[Replacing]:
    """The hidden layers of each run under continual backpropagation.

    Args:
        kwargs: Of :class:`cbp.ContinualBackprop`, of each run; may differ in ``replacement_rate``.
        seeds: Of each run.
        weights: Of each layer: ``(runs, units, inputs)``.
        biases: Of each layer: ``(runs, units)``.
        activation: Of the hidden layers.

    Raises:
        ValueError: An option out of its range.
    """
    plain = [
        _plain(options, seed, [w[run] for w in weights], activation)
        for run, (options, seed) in enumerate(zip(kwargs, seeds, strict=True))
    ]
    return [
        Replacing(weights[k], biases[k], weights[k + 1], [(method, method.layers[k]) for method in plain])
        for k in range(len(weights) - 1)
    ]


def _plain(options: dict[str, Any], seed: int, weights: list[Tensor], activation: str) -> cbp.ContinualBackprop:
    """The method on one run's own network: checks the options, and has its generators and the spread of fresh weights."""
    modules: list[nn.Module] = []
    for w in weights:
        linear = nn.Linear(w.shape[1], w.shape[0], dtype=w.dtype)
        linear.weight.data = w.cpu().clone()
        modules += [linear, MODULES[activation][0]()]
    model = nn.Sequential(*modules[:-1])
    return cbp.ContinualBackprop(model, torch.optim.SGD(model.parameters(), lr=0.1), **options, seed=seed)
