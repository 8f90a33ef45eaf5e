"""Learns tasks by minibatches, task after task: binary classification, and classes that become more and more."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import cbp
from agents.supervised.acting import count_on, make_method
from agents.supervised.networks import head_of, init_head, make_network
from agents.supervised.presets import Settings
from cbp import metrics
from envs.streams import BinaryTasks, ClassIncremental

_UPDATES = 20  # ours: from one point where a run can be stopped to the next
_EVALUATED = 500  # images at once

Augment = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]


class TaskLearner:
    """One network that learns the tasks of a stream.

    At the end of a task it tells ``task/accuracy`` (on the test examples, of the weights the task ends with),
    ``task/train_accuracy`` (while learning in the last epoch), where there are validation examples
    ``task/validation_accuracy``, and measures of plasticity on up to 500 test examples: of each hidden layer
    ``dormant_fraction`` and ``tau_dormant_fraction``, of what the head receives ``stable_rank`` and ``effective_rank``, and the
    mean size of all weights. A channel is one unit with a sample at each position. The accuracy of a network that has diverged
    is NaN.

    Args:
        stream: Yields the tasks.
        tasks: How many are learned.
        outputs: Of the network; a task with fewer classes uses the first.
        settings: Network, optimizer and how a task is learned.
        method: The method that acts around each update, one of :data:`cbp.METHODS`; None for none.
        method_kwargs: Its keyword arguments.
        seed: Of weights, orders and the method.
        device: Of the network.
        augment: Changes the images of a minibatch, if the settings ask for it.

    Attributes:
        updates: Of a task, each number with how many tasks have as many.

    Raises:
        ValueError: Settings that the stream, the network or the method cannot meet.
    """

    unit = "epoch"

    def __init__(
        self,
        stream: BinaryTasks | ClassIncremental,
        tasks: int,
        outputs: int,
        settings: Settings,
        method: str | None,
        method_kwargs: dict[str, Any],
        seed: int,
        device: str,
        augment: Augment,
    ) -> None:
        self.tasks = 0
        self.examples = 0
        self._epoch = 0
        self.total = tasks * settings.epochs
        sizes = stream.sizes(tasks)
        self.updates = [(settings.epochs * math.ceil(size / settings.batch_size), number) for size, number in sizes]
        self._stream = stream
        self._settings = settings
        self._method = method
        self._method_kwargs = method_kwargs
        self._seed = seed
        self._device = torch.device(device)
        self._augment = augment if settings.augment else None
        of_order, of_images = np.random.SeedSequence(seed).spawn(2)
        self._of_order, self._of_images = np.random.default_rng(of_order), np.random.default_rng(of_images)
        self._before_task = stream.state_dict()
        self._task = next(stream)
        if settings.restore_best and not len(self._task.validation_inputs):
            raise ValueError("restore_best needs validation images to choose by, and there are none: it must be false")
        self._outputs = outputs
        _check_minibatches(settings, self._task.inputs.shape[2:], [size for size, _ in sizes])
        self._build(seed)
        if settings.at_task == "zero_head":
            self._zero_head()
            if self.method is not None:
                self.method.begin_anew()  # the head's first weights are 0, those that it was drawn with are never used
        self._best: tuple[float, dict[str, Tensor]] | None = None
        self._begin_epoch()

    @property
    def done(self) -> int:
        """Epochs so far, over all tasks."""
        return self.tasks * self._settings.epochs + self._epoch

    def advance(self) -> list[dict[str, float]] | None:
        """Makes some updates; at the end of a task, tells what was measured: a list of one dictionary by names."""
        if self._position == len(self._order):
            self._next_task()
        for _ in range(_UPDATES):
            self._update()
            if self._position == len(self._order):
                self._end_epoch()
                if self._epoch == self._settings.epochs:
                    return [self._end_task()]
                break
        return None

    def _build(self, seed: int) -> None:
        settings = self._settings
        images = self._task.inputs
        shape = (images.shape[1], images.shape[2], images.shape[3])
        self.network = make_network(settings, shape, self._outputs, seed).to(self._device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
        )
        example = torch.zeros(2, *shape, device=self._device)
        self.layers = [] if settings.network == "linear" else cbp.find_layers(self.network, (example,))
        self.method = make_method(
            self._method, self.network, self.optimizer, self._method_kwargs, layers=self.layers, seed=seed
        )

    def _next_task(self) -> None:
        """Draws the next task and makes the network ready for it."""
        self._before_task = self._stream.state_dict()
        self._task = next(self._stream)
        at_task = self._settings.at_task
        seed = int(np.random.SeedSequence([self._seed, self.tasks]).generate_state(1)[0])
        if at_task == "fresh_network":
            last = self.method
            self._build(seed)
            count_on(self.method, last)
        elif self.method is not None:
            self.method.change()
        if at_task == "zero_head":
            self._zero_head()
        elif at_task == "fresh_head":
            self._draw_head(seed)
        self._best = None
        self._begin_epoch()

    @torch.no_grad()
    def _zero_head(self) -> None:
        head = head_of(self.network)
        head.weight.zero_()
        head.bias.zero_()

    def _draw_head(self, seed: int) -> None:
        head = head_of(self.network)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # of the CPU alone
            fresh = nn.Linear(head.in_features, head.out_features)
            init_head(fresh)
        head.load_state_dict(fresh.state_dict())

    def _begin_epoch(self) -> None:
        self._order = self._of_order.permutation(len(self._task.inputs))
        self._position = 0
        self._right: Tensor | float = 0
        settings = self._settings
        drops = sum(self._epoch >= round(share * settings.epochs) for share in settings.lr_drops)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.lr_drop_factor**drops

    def _update(self) -> None:
        chosen = self._order[self._position : self._position + self._settings.batch_size]
        images, labels = self._task.inputs[chosen], torch.from_numpy(self._task.labels[chosen]).to(self._device)
        if self._augment is not None:
            images = self._augment(images, self._of_images)
        self.network.train()
        outputs = self.network(torch.from_numpy(images).to(self._device))[:, : len(self._task.classes)]
        self.optimizer.zero_grad()
        F.cross_entropy(outputs, labels).backward()  # type: ignore[no-untyped-call]
        if self.method is not None:
            self.method.before_update()
        self.optimizer.step()
        if self.method is not None:
            self.method.step()
        right = (outputs.argmax(dim=1) == labels).sum()
        self._right = self._right + torch.where(outputs.isfinite().all(), right, math.nan)  # stays on the device
        self._position += len(chosen)
        self.examples += len(chosen)

    def _end_epoch(self) -> None:
        self._train_accuracy = float(self._right) / len(self._order)
        self._epoch += 1
        task = self._task
        if self._settings.restore_best and len(task.validation_inputs):
            accuracy = self._accuracy(task.validation_inputs, task.validation_labels)
            if self._best is None or accuracy > self._best[0]:
                self._best = accuracy, copy.deepcopy(self.network.state_dict())
        if self._epoch < self._settings.epochs:
            self._begin_epoch()

    def _end_task(self) -> dict[str, float]:
        row = {"task/number": self.tasks, "task/train_accuracy": self._train_accuracy}
        if self._best is not None:
            row["task/validation_accuracy"] = self._best[0]
            self.network.load_state_dict(self._best[1])
        row["task/accuracy"] = self._accuracy(self._task.test_inputs, self._task.test_labels)
        row |= self._measures()
        self.tasks += 1
        self._epoch = 0
        return row

    @torch.no_grad()
    def _accuracy(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        self.network.eval()
        right = 0.0
        for first in range(0, len(images), _EVALUATED):
            outputs = self.network(torch.from_numpy(images[first : first + _EVALUATED]).to(self._device))
            outputs = outputs[:, : len(self._task.classes)].cpu()
            is_right = outputs.argmax(dim=1).numpy() == labels[first : first + _EVALUATED]
            right += int(is_right.sum()) if outputs.isfinite().all() else math.nan
        return right / len(images)

    @torch.no_grad()
    def _measures(self) -> dict[str, float]:
        received: dict[str, Tensor] = {}

        def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _, args: received.__setitem__(name, args[0])

        images, labels = self._task.test_inputs, self._task.test_labels
        number = min(len(images), _EVALUATED)
        chosen = np.arange(number) * len(images) // number  # evenly spread: they may lie class by class
        with ExitStack() as hooks:
            for layer in self.layers:
                hooks.enter_context(layer.outgoing[0].register_forward_pre_hook(hook(layer.name)))
            hooks.enter_context(head_of(self.network).register_forward_pre_hook(hook("features")))
            self._accuracy(images[chosen], labels[chosen])
        row: dict[str, float] = {}
        for layer in self.layers:
            h = received[layer.name]
            columns = layer.columns(0)
            h = h.flatten(2).transpose(1, 2) if h.ndim > 2 else h.reshape(len(h), layer.units, columns).transpose(1, 2)
            h = h.reshape(-1, layer.units)
            for name, measure in (("dormant", metrics.dormant_fraction), ("tau_dormant", metrics.tau_dormant_fraction)):
                row[f"plasticity/network/{layer.name}/{name}_fraction"] = measure(h)
        if self.layers:
            for name, measure in (("stable_rank", metrics.stable_rank), ("effective_rank", metrics.effective_rank)):
                row[f"plasticity/network/features/{name}"] = measure(received["features"])
        weights = torch.cat([p.detach().flatten() for p in self.network.parameters() if p.ndim > 1])
        row["plasticity/network/weights/weight_magnitude"] = metrics.weight_magnitude(weights)
        if self.method is not None and self.method.layers:
            row["cbp/network/replaced"] = sum(layer.replaced for layer in self.method.layers)
        return row

    def state_dict(self, run: int = 0) -> dict[str, Any]:  # noqa: ARG002
        """Everything that changes with time: numbers, strings, arrays and tensors."""
        return {
            "tasks": self.tasks,
            "examples": self.examples,
            "stream": self._before_task,
            "epoch": self._epoch,
            "position": self._position,
            "order": self._order,
            "right": float(self._right),
            "best": None if self._best is None else {"accuracy": self._best[0], "network": self._best[1]},
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": None if self.method is None else self.method.state_dict(),
            "generators": [generator.bit_generator.state for generator in (self._of_order, self._of_images)],
        }

    def load_state_dict(self, run: int, state: dict[str, Any]) -> None:  # noqa: ARG002
        """Goes on from a state made by :meth:`state_dict`."""
        self.tasks, self.examples = state["tasks"], state["examples"]
        self._stream.load_state_dict(state["stream"])
        self._before_task = state["stream"]
        if self.done < self.total:
            self._task = next(self._stream)
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = np.asarray(state["order"])
        self._right = state["right"]
        best = state["best"]
        self._best = None if best is None else (best["accuracy"], best["network"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.method is not None:
            self.method.load_state_dict(state["method"])
        for generator, saved in zip((self._of_order, self._of_images), state["generators"], strict=True):
            generator.bit_generator.state = saved


def _check_minibatches(settings: Settings, size: tuple[int, ...], images: list[int]) -> None:
    """Refuses a minibatch in which a batch norm would have a single value of each channel.

    Raises:
        ValueError: There is one.
    """
    is_point = settings.network == "resnet" and max(size) <= 2 ** (len(settings.net_arch) - 1)
    if is_point and any((number - 1) % settings.batch_size == 0 for number in images):
        raise ValueError(
            f"{size[0]}×{size[1]} images shrink to one position in so many stages of net_arch, where a norm needs two: "
            f"batch_size must leave no minibatch of one, got {settings.batch_size}"
        )
