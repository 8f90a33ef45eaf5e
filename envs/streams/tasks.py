"""Streams of tasks that are learned by many passes over their own data: binary classification, and more and more classes.

Source: Dohare et al., *Loss of plasticity in deep continual learning*, Nature 632 (2024): Continual ImageNet and
class-incremental CIFAR-100.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs import checks
from envs.streams.datasets import ImageClasses, Images

Pictures = NDArray[np.float32]
Labels = NDArray[np.int64]


class Task(NamedTuple):
    """What is learned from, and tested on, before the next task comes.

    Attributes:
        number: From 0.
        classes: Output i of a learner stands for ``classes[i]``.
        inputs: ``(n, channels, height, width)``.
        labels: ``(n,)``, places in ``classes``.
        validation_inputs: As ``inputs``; empty where there are none.
        validation_labels: As ``labels``.
        test_inputs: As ``inputs``.
        test_labels: As ``labels``.
    """

    number: int
    classes: tuple[int, ...]
    inputs: Pictures
    labels: Labels
    validation_inputs: Pictures
    validation_labels: Labels
    test_inputs: Pictures
    test_labels: Labels


class BinaryTasks(Iterator[Task]):
    """Two classes are told apart, then two others, without end: the protocol of Continual ImageNet.

    Pairs are taken from a random order of all classes and, when it is used up, from another one (the published code repeats the
    same order, so that pairs come again after 500 tasks). Values are stretched from 0…255 to −1…1.

    Args:
        classes: The images.
        seed: Of the orders.
        train: Images of each class to learn from: its first ones. Default: the paper's, as the next.
        test: Images of each class to test on: those that follow.

    Raises:
        ParameterError: An argument out of its range.
        DataError: A class has too few images; from ``next``, where images cannot be read.
    """

    def __init__(self, classes: ImageClasses, seed: int, train: int = 600, test: int = 100) -> None:
        if len(classes) < 2:
            raise checks.ParameterError(f"classes must be at least 2, got {len(classes)}")
        self._classes = classes
        self._seed = checks.integer("seed", seed, 0)
        self._train, self._test = checks.integer("train", train, 1), checks.integer("test", test, 1)
        classes.check(train + test)
        self._number = 0

    def sizes(self, tasks: int) -> list[tuple[int, int]]:
        """Of the first tasks: a number of images to learn from, and how many tasks have as many."""
        return [(2 * self._train, tasks)]

    def __next__(self) -> Task:
        pairs = len(self._classes) // 2
        order = np.random.default_rng([self._seed, self._number // pairs]).permutation(len(self._classes))
        first = 2 * (self._number % pairs)
        chosen = tuple(int(number) for number in order[first : first + 2])
        images = [_stretched(self._classes.images(number, self._train + self._test)) for number in chosen]
        train, test = (
            np.concatenate([each[part] for each in images]) for part in (slice(self._train), slice(self._train, None))
        )
        self._number += 1
        return Task(
            self._number - 1,
            chosen,
            train,
            np.repeat(np.arange(2), self._train),
            np.empty((0, *train.shape[1:]), np.float32),
            np.empty(0, np.int64),
            test,
            np.repeat(np.arange(2), self._test),
        )

    def state_dict(self) -> dict[str, Any]:
        """Which task comes next."""
        return {"task": self._number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a stream of the same arguments was."""
        self._number = state["task"]


class ClassIncremental(Iterator[Task]):
    """Classes become more and more, and the data of those that were there stay: the protocol of class-incremental CIFAR-100.

    Values have mean 0 and standard deviation 1 over the training images, for each channel.

    Args:
        train: What is learned from.
        test: What is tested on.
        seed: Of the order in which classes come.
        classes_per_task: How many more there are with each task. Default: the paper's, as the next.
        validation: Images of each class that are set aside to choose the best epoch: the first ones, as in the published code.

    Raises:
        ParameterError: An argument out of its range.
    """

    def __init__(self, train: Images, test: Images, seed: int, classes_per_task: int = 5, validation: int = 50) -> None:
        self._train, self._test = train, test
        self._per_task = checks.integer("classes_per_task", classes_per_task, 1)
        validation = checks.integer("validation", validation, 0)
        labels = np.unique(train.labels)
        if len(untested := np.setdiff1d(labels, test.labels)):
            raise checks.ParameterError(f"test must have images of every class, it has none of {untested.tolist()}")
        fewest = min(int((train.labels == label).sum()) for label in labels)
        if validation >= fewest:
            raise checks.ParameterError(f"validation must be less than the {fewest} images of a class, got {validation}")
        self._order = np.random.default_rng(checks.integer("seed", seed, 0)).permutation(labels)
        self._mean = train.images.mean(axis=(0, 2, 3), dtype=np.float64)[:, None, None].astype(np.float32)
        self._std = train.images.std(axis=(0, 2, 3), dtype=np.float64)[:, None, None].astype(np.float32)
        if not self._std.all():
            raise checks.ParameterError(
                f"train must have images that differ in channel {int(self._std.argmin())}, all are alike"
            )
        self._set_aside = np.zeros(len(train.labels), dtype=bool)
        for label in labels:
            self._set_aside[np.flatnonzero(train.labels == label)[:validation]] = True
        self._number = 0

    def __len__(self) -> int:
        """Tasks until all classes are there."""
        return len(self._order) // self._per_task

    def sizes(self, tasks: int) -> list[tuple[int, int]]:
        """As :meth:`BinaryTasks.sizes`."""
        labels = self._train.labels[~self._set_aside]
        last = range(self._per_task, (tasks + 1) * self._per_task, self._per_task)
        return [(int(np.isin(labels, self._order[:classes]).sum()), 1) for classes in last]

    def __next__(self) -> Task:
        if self._number >= len(self):
            raise StopIteration
        self._number += 1
        classes = self._order[: self._number * self._per_task]
        return Task(
            self._number - 1,
            tuple(int(label) for label in classes),
            *self._of(self._train, classes, ~self._set_aside),
            *self._of(self._train, classes, self._set_aside),
            *self._of(self._test, classes, np.ones(len(self._test.labels), dtype=bool)),
        )

    def _of(self, images: Images, classes: Labels, among: NDArray[np.bool_]) -> tuple[Pictures, Labels]:
        chosen = np.flatnonzero(among & np.isin(images.labels, classes))
        places = np.empty(int(classes.max()) + 1, np.int64)
        places[classes] = np.arange(len(classes))
        pictures = images.images[chosen].astype(np.float32)
        pictures -= self._mean
        pictures /= self._std
        return pictures, places[images.labels[chosen]]

    def state_dict(self) -> dict[str, Any]:
        """Which task comes next."""
        return {"task": self._number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a stream of the same arguments was."""
        self._number = state["task"]


def split(images: Images, share: float, seed: int) -> tuple[Images, Images]:
    """Sets a share of each class aside, for data that have no test images of their own.

    Args:
        images: What is split.
        share: Of each class, rounded down; from 0 to 1.
        seed: Of the choice.

    Returns:
        The rest, and what is set aside; both in their old order.

    Raises:
        envs.ParameterError: A share that is none.
    """
    share = checks.finite("share", share, 0, 1)
    generator = np.random.default_rng(seed)
    aside = np.zeros(len(images.labels), dtype=bool)
    for label in np.unique(images.labels):
        own = np.flatnonzero(images.labels == label)
        aside[generator.permutation(own)[: int(share * len(own))]] = True
    kept, taken = (Images(images.images[chosen], images.labels[chosen]) for chosen in (~aside, aside))
    return kept, taken


def _stretched(images: NDArray[np.uint8]) -> Pictures:
    stretched: Pictures = images.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
    return stretched
