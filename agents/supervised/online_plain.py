"""One run of one small network that learns example by example, with any method of :mod:`cbp`.

Slower than :mod:`agents.supervised.online`, which has code of its own for what many runs do together; where that has it, both
learn the same from the same seed, up to rounding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import cbp
from agents.supervised.acting import count_on, make_method
from agents.supervised.mlp import make_mlp, measure_units
from agents.supervised.online import SAMPLES, OnlineSettings, Stream
from cbp import metrics


class PlainLearner:
    """A run that learns one example at a time: autograd, ``torch.optim.SGD`` and a class of :mod:`cbp`.

    Methods that judge units by a minibatch (:class:`cbp.ReDo`, :class:`cbp.ReGraMa`) judge them by the last 1,000 examples, at
    the updates at which they do: a single example says nothing about a unit.

    Args:
        stream: What is learned from.
        settings: Network, step size and method.
        seed: Of the first weights and of what the method draws.
        inputs: Of the network.
        outputs: Of the network.
        device: Of the network.
        dtype: Of the network.

    Attributes:
        runs: 1.
        network: The network.
        method: What acts around each update; None for nothing.

    Raises:
        ValueError: An option out of its range.

    Example:
        >>> from envs.streams import SlowlyChangingRegression
        >>> settings = OnlineSettings(net_arch=(5,), method="snr")
        >>> learner = PlainLearner(SlowlyChangingRegression(0), settings, seed=0, inputs=20, outputs=1)
        >>> learner.learn(100)["error"].shape
        (1,)
    """

    runs = 1

    def __init__(
        self,
        stream: Stream,
        settings: OnlineSettings,
        seed: int,
        inputs: int,
        outputs: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._stream = stream
        self._settings = settings
        self._seed = seed
        self._sizes = inputs, outputs
        self._device, self._dtype = torch.device(device), dtype
        self._classifies = settings.loss == "cross_entropy"
        self._tasks = 0
        of_targets = torch.int64 if self._classifies else dtype
        self._last = torch.zeros(0, inputs, dtype=dtype).to(device), torch.zeros(0, dtype=of_targets).to(device)
        self._build(seed)

    def _build(self, seed: int) -> None:
        self._updates = 0
        settings, (inputs, outputs) = self._settings, self._sizes
        self.network = make_mlp(
            inputs,
            settings.net_arch,
            outputs,
            settings.activation,
            layer_norm=settings.layer_norm,
            seed=seed,
            dtype=self._dtype,
        ).to(self._device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, foreach=False
        )
        example = torch.zeros(2, inputs, dtype=self._dtype, device=self._device)
        layers = cbp.find_layers(self.network, (example,))
        self.method = make_method(
            settings.method, self.network, self.optimizer, settings.method_kwargs, layers=layers, seed=seed
        )

    def begin_task(self) -> None:
        """Tells the method that the next example is of another task; a network that is fresh in each task begins anew."""
        self._tasks += 1
        if self._settings.fresh_at_task:
            last = self.method
            self._build(int(np.random.SeedSequence([self._seed, self._tasks]).generate_state(1)[0]))
            count_on(self.method, last)
        elif self.method is not None:
            self.method.change()

    def learn(self, examples: int) -> dict[str, NDArray[np.float64]]:
        """Learns from the next examples of the stream.

        Args:
            examples: How many.

        Returns:
            As :meth:`agents.supervised.online.OnlineLearner.learn`, of one run: ``(1,)``.
        """
        inputs, targets = (torch.from_numpy(each).to(self._device) for each in self._stream.draw(examples))
        inputs, targets = inputs.to(self._dtype), targets.to(self._last[1].dtype)
        known = [torch.cat(pair) for pair in zip(self._last, (inputs, targets), strict=True)]
        first = len(self._last[0])
        given = [
            self._update(*pair, known, first + i + 1)
            for i, pair in enumerate(zip(torch.split(inputs, 1), torch.split(targets, 1), strict=True))
        ]
        self._last = (known[0][-SAMPLES:].clone(), known[1][-SAMPLES:].clone())
        outputs = torch.cat(given)
        if self._classifies:
            right = (outputs.argmax(dim=1) == targets).double().mean().item()
            return {"accuracy": np.array([right if outputs.isfinite().all() else math.nan])}
        return {"error": np.array([(outputs[:, 0] - targets).square().double().mean().item()])}

    def _update(self, x: Tensor, target: Tensor, known: list[Tensor], last: int) -> Tensor:
        """Learns from one example, the last but none of those known; returns the outputs before that."""
        outputs = self._learn_from(x, target)
        method = self.method
        if method is not None:
            method.before_update()
        self.optimizer.step()
        self._updates += 1
        if method is not None:
            if isinstance(method, cbp.ReDo) and self._updates % method.period == 0:
                self._learn_from(*(each[max(0, last - SAMPLES) : last] for each in known))
            method.step()
        return outputs

    def _learn_from(self, x: Tensor, targets: Tensor) -> Tensor:
        """One pass, forward and back: leaves the gradients, and returns the outputs."""
        outputs: Tensor = self.network(x)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(outputs, targets) if self._classifies else F.mse_loss(outputs[:, 0], targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return outputs.detach()

    @torch.no_grad()
    def measures(self) -> dict[str, NDArray[np.float64]]:
        """As :meth:`agents.supervised.online.OnlineLearner.measures`, of one run: ``(1,)`` each.

        Units are measured as the next layer receives them; ``"replaced"`` is there where the method replaces units.
        """
        *hidden, head = (module for module in self.network if isinstance(module, nn.Linear))
        weights = {**{f"hidden{k + 1}": layer.weight for k, layer in enumerate(hidden)}, "head": head.weight}
        found: dict[str, float] = {}
        h, names = self._last[0], iter(weights)
        for module, after in zip(self.network, [*list(self.network)[1:], None], strict=True):
            h = module(h)
            if isinstance(after, nn.Linear):
                name = next(names)
                found |= {f"{name}/{measure}": value for measure, value in measure_units(h, self._settings.activation).items()}
        found |= {f"{name}/weight_magnitude": metrics.weight_magnitude(weight) for name, weight in weights.items()}
        if self.method is not None and self.method.layers:
            found["replaced"] = float(sum(layer.replaced for layer in self.method.layers))
        return {name: np.array([value]) for name, value in found.items()}

    def state_dict(self, run: int = 0) -> dict[str, Any]:  # noqa: ARG002
        """Everything that changes with time: numbers, strings, lists, arrays and tensors."""
        return {
            "tasks": self._tasks,
            "updates": self._updates,
            "stream": self._stream.state_dict(),
            "last": [each.clone() for each in self._last],
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": None if self.method is None else self.method.state_dict(),
        }

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:  # noqa: ARG002
        """Goes on from a state made by :meth:`state_dict`."""
        self._tasks, self._updates = state["tasks"], state["updates"]
        self._stream.load_state_dict(state["stream"])
        self._last = (state["last"][0].to(self._device), state["last"][1].to(self._device))
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.method is not None:
            self.method.load_state_dict(state["method"])
