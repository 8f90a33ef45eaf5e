"""Online permuted images: now and then the pixels of all images are shuffled in another way.

Source: Dohare et al., *Loss of plasticity in deep continual learning*, Nature 632 (2024): online permuted MNIST.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import checks
from envs.streams.datasets import Images

_BLOCK = 500  # examples made at once

Examples = tuple[NDArray[np.float32], NDArray[np.int64]]
Augment = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]


class PermutedImages:
    """A stream of images and labels; with each task the pixels of all images are permuted anew, in the first one too.

    Within a task the images come in a random order, all of them before any comes again.

    Args:
        images: What is shown.
        seed: Of permutations, orders and augmentation.
        task_examples: Examples of a task. Default: as many as there are images, as in the paper.
        augment: Changes images before their pixels are permuted, each time in another way: for data that are fewer than the
            stream is long.

    Attributes:
        examples: How many have been drawn.

    Raises:
        ParameterError: An argument out of its range.

    Example:
        >>> images = Images(np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2), np.array([0, 1]))
        >>> stream = PermutedImages(images, seed=0)
        >>> inputs, labels = stream.draw(4)
        >>> inputs.shape, sorted(labels[:2].tolist()), stream.task
        ((4, 4), [0, 1], 2)
    """

    def __init__(self, images: Images, seed: int, task_examples: int | None = None, augment: Augment | None = None) -> None:
        self._images = images
        self._seed = checks.integer("seed", seed, 0)
        self._task_examples = len(images.images) if task_examples is None else checks.integer("task_examples", task_examples, 1)
        self._augment = augment
        self._block: tuple[tuple[int, int], Examples] | None = None  # the last one that was made
        self.examples = 0

    @property
    def task(self) -> int:
        """The task of the next example."""
        return self.examples // self._task_examples

    def draw(self, number: int) -> Examples:
        """Draws the next examples.

        Args:
            number: How many.

        Returns:
            Inputs ``(number, pixels)`` from 0 to 1, float32, and labels ``(number,)``, int64.
        """
        pixels = self._images.images[0].size
        inputs, labels = [np.empty((0, pixels), np.float32)], [np.empty(0, np.int64)]
        left = number
        while left:
            place = self.examples % self._task_examples
            of_block = self._make_block(self.task, place // _BLOCK)
            first = place % _BLOCK
            taken = slice(first, first + left)
            inputs.append(of_block[0][taken])
            labels.append(of_block[1][taken])
            self.examples += len(inputs[-1])
            left -= len(inputs[-1])
        return np.concatenate(inputs), np.concatenate(labels)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is."""
        return {"examples": self.examples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a stream of the same arguments was."""
        self.examples = state["examples"]

    def _make_block(self, task: int, block: int) -> Examples:
        """The examples of a block of a task; everything that is drawn follows from their numbers."""
        if self._block is None or self._block[0] != (task, block):
            places = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self._task_examples))
            chosen = np.empty(len(places), dtype=np.int64)
            rounds = places // len(self._images.images)
            for number in np.unique(rounds):
                order = self._generator(0, task, number).permutation(len(self._images.images))
                chosen[rounds == number] = order[places[rounds == number] % len(order)]
            pictures: NDArray[np.float32] = self._images.images[chosen].astype(np.float32) / np.float32(255)
            if self._augment is not None:
                pictures = self._augment(pictures, self._generator(1, task, block))
            flat = pictures.reshape(len(pictures), -1)
            permutation = self._generator(2, task, 0).permutation(flat.shape[1])
            made = flat[:, permutation], self._images.labels[chosen]
            self._block = (task, block), made
        return self._block[1]

    def _generator(self, purpose: int, task: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, purpose, task, int(number)])
