"""Many runs of one small network, each with its own stream, learning example by example at the same time.

An update of a network of five units is all overhead in eager PyTorch. Here each operation is done for all runs at once, on
weights of shape ``(runs, units, inputs)``. Forward pass, gradients and steps are written out; what a method does is left to the
functions that the classes of :mod:`cbp` use themselves. All are elementwise, or sums over the last dimension: what a run learns
does not depend, to the bit, on which runs learn with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.supervised.mlp import MODULES, draw_weights, measure_units
from agents.supervised.online_methods import Replacing, make_regularizer, make_replacing
from cbp import metrics

SAMPLES = 1000  # paper: of the measures of units


class Stream(Protocol):
    """What a run learns from."""

    def draw(self, number: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """The next inputs ``(number, inputs)`` and targets ``(number,)``."""

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on there."""


@dataclass(frozen=True)
class OnlineSettings:
    """Network, step size and method of a run.

    Runs that learn together may differ in ``learning_rate``, ``weight_decay`` and the keyword arguments in
    :attr:`OnlineLearner.PER_RUN`.

    Attributes:
        net_arch: Units of the hidden layers.
        activation: Of the hidden layers: a key of :data:`agents.supervised.mlp.MODULES`.
        loss: Squared error of one output, or cross-entropy of labels.
        learning_rate: Of plain stochastic gradient descent.
        weight_decay: Coupled L2 penalty on every parameter, as in ``torch.optim.SGD``.
        method: A name of :data:`cbp.METHODS`; None for none.
        method_kwargs: Its keyword arguments.
        layer_norm: Whether each hidden layer has a norm in front of its activation.
        fresh_at_task: Whether each task but the first begins with a fresh network.
    """

    net_arch: tuple[int, ...]
    activation: str = "relu"
    loss: Literal["squared_error", "cross_entropy"] = "squared_error"
    learning_rate: float = 0.01
    weight_decay: float = 0.0
    method: str | None = None
    method_kwargs: dict[str, Any] = field(default_factory=dict)
    layer_norm: bool = False
    fresh_at_task: bool = False


def _sigmoid_slope(z: Tensor, h: Tensor) -> Tensor:  # noqa: ARG001
    return h * (1 - h)


def _swish_slope(z: Tensor, h: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s + h * (1 - s)


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu, lambda _, h: h > 0),
    "tanh": (torch.tanh, lambda _, h: 1 - h * h),
    "sigmoid": (torch.sigmoid, _sigmoid_slope),
    "elu": (nn.functional.elu, lambda z, h: torch.where(z > 0, 1.0, h + 1)),
    "leaky_relu": (nn.functional.leaky_relu, lambda z, _: torch.where(z > 0, 1.0, 0.01)),
    "swish": (nn.functional.silu, _swish_slope),
}
"""The six of the paper: the function, and its slope from what went in and what came out."""


class OnlineLearner:
    """Runs that learn together, one example of each at a time, by stochastic gradient descent.

    First weights are those of :func:`agents.supervised.mlp.draw_weights`, biases 0. They are drawn from a run's seed, and so is
    what its method draws. :meth:`knows` says for what there is code here;
    :class:`agents.supervised.online_plain.PlainLearner` learns with the rest.

    Args:
        streams: Of each run.
        settings: Of each run.
        seeds: Of each run.
        inputs: Of the network.
        outputs: Of the network.
        device: Of the networks.
        dtype: Of the networks.

    Attributes:
        runs: How many.
        weights: Of each layer: ``(runs, units, inputs)``.
        biases: Of each layer: ``(runs, units)``.

    Raises:
        ValueError: Settings that differ where they must not, or an option of a method out of its range.

    Example:
        >>> from envs.streams import SlowlyChangingRegression
        >>> streams = [SlowlyChangingRegression(seed) for seed in range(3)]
        >>> learner = OnlineLearner(streams, 3 * [OnlineSettings(net_arch=(5,))], seeds=range(3), inputs=20, outputs=1)
        >>> learner.learn(100)["error"].shape
        (3,)
    """

    PER_RUN: ClassVar[tuple[str, ...]] = ("replacement_rate", "shrink", "perturb", "strength")

    def __init__(
        self,
        streams: Sequence[Stream],
        settings: Sequence[OnlineSettings],
        seeds: Sequence[int],
        inputs: int,
        outputs: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        first = settings[0]
        if any(self._common(other) != self._common(first) for other in settings):
            raise ValueError("runs that learn together may differ in step size, weight decay and rates of their method only")
        if not self.knows(first):
            raise ValueError(f"runs do not learn together with {first}")
        self.runs = len(streams)
        self._streams = list(streams)
        self._settings = first
        self._device, self._dtype = torch.device(device), dtype
        self._function, self._slope = ACTIVATIONS[first.activation]
        sizes = (inputs, *first.net_arch, outputs)
        shapes = [(units, before) for before, units in pairwise(sizes)]
        drawn = [draw_weights(seed, shapes, MODULES[first.activation][1]) for seed in seeds]
        self.weights = [torch.stack([run[k] for run in drawn]).to(self._device, dtype) for k in range(len(sizes) - 1)]
        self.biases = [torch.zeros(self.runs, size, dtype=dtype, device=self._device) for size in sizes[1:]]
        self._rates = self._column([one.learning_rate for one in settings])
        decays = [one.learning_rate * one.weight_decay for one in settings]
        self._keep = self._column([1 - decay for decay in decays]) if any(decays) else None
        kwargs = [one.method_kwargs for one in settings]
        parameters = [tensor for pair in zip(self.weights, self.biases, strict=True) for tensor in pair]
        self._regularizer = make_regularizer(first.method, kwargs, seeds, parameters, self._rates)
        self._replacing: list[Replacing] = []
        if first.method == "cbp":
            self._replacing = make_replacing(kwargs, seeds, self.weights, self.biases, first.activation)
        self._last: Tensor | None = None

    @staticmethod
    def knows(settings: OnlineSettings) -> bool:
        """Whether there is code here for what a run's settings ask for."""
        if settings.activation not in ACTIVATIONS or settings.layer_norm or settings.fresh_at_task:
            return False
        if settings.method == "shrink-perturb":  # at every update and with normal noise
            kwargs = settings.method_kwargs
            return (kwargs.get("period", 1), kwargs.get("noise", "normal")) == (1, "normal")
        return settings.method in (None, "cbp", "l2-init")

    @staticmethod
    def _common(settings: OnlineSettings) -> tuple[Any, ...]:
        kwargs = {name: value for name, value in settings.method_kwargs.items() if name not in OnlineLearner.PER_RUN}
        return settings.net_arch, settings.activation, settings.loss, settings.method, kwargs

    def begin_task(self) -> None:
        """Has nothing to do: no method here needs a signal of the change."""

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self._dtype, device=self._device)[:, None]

    @torch.no_grad()
    def learn(self, examples: int) -> dict[str, NDArray[np.float64]]:
        """Learns from the next examples of each stream.

        Args:
            examples: How many.

        Returns:
            How good the predictions made before each update were, on average: ``"error"``, the squared error, or
            ``"accuracy"``: ``(runs,)``. NaN of a run that has diverged.
        """
        drawn = [stream.draw(examples) for stream in self._streams]
        # Examples first, so that those of one update lie side by side.
        inputs = torch.from_numpy(np.stack([each[0] for each in drawn], axis=1)).to(self._device, self._dtype)
        targets = torch.from_numpy(np.stack([each[1] for each in drawn], axis=1)).to(self._device)
        classifies = self._settings.loss == "cross_entropy"
        score = torch.zeros(self.runs, dtype=torch.float64, device=self._device)
        wanted = nn.functional.one_hot(targets, self.weights[-1].shape[1]).to(self._dtype) if classifies else targets[..., None]
        for i in range(examples):
            outputs = self._update(inputs[i], wanted[i].to(self._dtype))
            if classifies:
                score += outputs.argmax(dim=-1) == targets[i]
            else:
                score += (outputs[:, 0] - targets[i]).square()
        if classifies:
            score[~self.biases[-1].isfinite().all(dim=-1)] = math.nan  # which they stay: argmax would call it class 0
        before = [] if self._last is None or examples >= SAMPLES else [self._last]
        self._last = torch.cat([*before, inputs])[-SAMPLES:].clone()
        return {"accuracy" if classifies else "error": (score / examples).cpu().numpy()}

    def _update(self, x: Tensor, wanted: Tensor) -> Tensor:
        """Learns from one example of each run, ``(runs, inputs)`` and ``(runs, outputs)``; returns the outputs before that."""
        before, received = [], [x]
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            before.append((w * received[-1].unsqueeze(-2)).sum(dim=-1).add_(b))
            received.append(self._function(before[-1]))
        outputs = (self.weights[-1] * received[-1].unsqueeze(-2)).sum(dim=-1).add_(self.biases[-1])
        if self._settings.loss == "squared_error":
            delta = (outputs - wanted).mul_(2)  # d(o − y)²/do
        else:
            delta = torch.softmax(outputs, dim=-1).sub_(wanted)
        if self._regularizer is not None:
            self._regularizer.before_update()
        self._descend(delta.mul_(self._rates), before, received)
        if self._regularizer is not None:
            self._regularizer.after_update()
        # Every layer is judged by the weights that made this update, before any unit is replaced.
        due = [layer.judge(h) for layer, h in zip(self._replacing, received[1:], strict=False)]
        for layer, counts in zip(self._replacing, due, strict=True):
            if counts is not None:
                layer.replace(counts)
        return outputs

    def _descend(self, delta: Tensor, before: list[Tensor], received: list[Tensor]) -> None:
        """Changes all weights and biases.

        Args:
            delta: Gradient of the loss at the outputs, times the step size: ``(runs, outputs)``.
            before: What went into each activation.
            received: What went into each layer.
        """
        for k in range(len(self.weights) - 1, -1, -1):
            w, b, h = self.weights[k], self.biases[k], received[k]
            below = (w.mT * delta.unsqueeze(-2)).sum(dim=-1).mul_(self._slope(before[k - 1], h)) if k else delta
            if self._keep is not None:
                w.mul_(self._keep.unsqueeze(-1))
                b.mul_(self._keep)
            w.addcmul_(delta.unsqueeze(-1), h.unsqueeze(-2), value=-1)
            b.sub_(delta)
            delta = below

    @torch.no_grad()
    def measures(self) -> dict[str, NDArray[np.float64]]:
        """Plasticity now, on the last 1,000 examples: of each hidden layer ``hidden1/dormant_fraction`` (ReLU) and so on.

        Returns:
            By name, each ``(runs,)``; ``"replaced"`` is the number of units replaced so far. NaN of a run that has diverged.
        """
        found: dict[str, list[float]] = {}
        h = torch.zeros(1) if self._last is None else self._last.transpose(0, 1)  # (runs, samples, inputs)
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = k < len(self.weights) - 1
            if hidden:  # each run by itself, so that the others make no difference to the last digit
                outputs = [torch.addmm(b[run], h[run], w[run].T) for run in range(self.runs)]
                h = self._function(torch.stack(outputs))
            for run in range(self.runs):
                name = f"hidden{k + 1}" if hidden else "head"
                found.setdefault(f"{name}/weight_magnitude", []).append(metrics.weight_magnitude(w[run]))
                for measure, value in (measure_units(h[run], self._settings.activation) if hidden else {}).items():
                    found.setdefault(f"{name}/{measure}", []).append(value)
        if self._replacing:
            found["replaced"] = [float(sum(layer.replaced[run] for layer in self._replacing)) for run in range(self.runs)]
        return {name: np.array(values) for name, values in found.items()}

    def state_dict(self, run: int) -> dict[str, Any]:
        """Everything of a run that changes with time: numbers, strings, lists, arrays and tensors."""
        return {
            "stream": self._streams[run].state_dict(),
            "weights": [w[run].clone() for w in self.weights],
            "biases": [b[run].clone() for b in self.biases],
            "last": None if self._last is None else self._last[:, run].clone(),
            "regularizer": None if self._regularizer is None else self._regularizer.state_dict(run),
            "replacing": [layer.state_dict(run) for layer in self._replacing],
        }

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:
        """Goes on from a state of a run; all runs must be equally far."""
        self._streams[run].load_state_dict(state["stream"])
        for own, saved in zip([*self.weights, *self.biases], [*state["weights"], *state["biases"]], strict=True):
            own[run].copy_(saved)
        if state["last"] is not None:
            if self._last is None or len(self._last) != len(state["last"]):
                self._last = torch.zeros(
                    len(state["last"]), self.runs, state["last"].shape[1], dtype=self._dtype, device=self._device
                )
            self._last[:, run].copy_(state["last"])
        if self._regularizer is not None:
            self._regularizer.load_state_dict(run, state["regularizer"])
        for layer, saved in zip(self._replacing, state["replacing"], strict=True):
            layer.load_state_dict(run, saved)
