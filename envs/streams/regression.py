"""Slowly-changing regression: the target function stays, the inputs that are seen drift.

Source: Dohare et al., *Loss of plasticity in deep continual learning*, Nature 632 (2024), and the code published with it;
first in Dohare, Sutton, Mahmood, arXiv 2108.06325, where it is called bit-flipping.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import checks

CHANGES = ("flip", "redraw")

Examples = tuple[NDArray[np.float32], NDArray[np.float32]]


class SlowlyChangingRegression:
    """A stream of binary inputs, most of which change slowly, and of a fixed function of them.

    Of m input bits f are slow: they stay for T examples; the other m − f are drawn anew, each 0 or 1 with probability ½, for
    each example. The target is the output of a network of linear threshold units that is drawn once and never changes:

        φ_i(x) = 1 if w_i·x + b_i > θ_i, else 0,   θ_i = β·(m + 1) − S_i,   y = Σ_i v_i·φ_i + c

    with w, b, v and c each −1 or 1 with probability ½ and S_i the number of −1 among w_i and b_i. A learner with fewer units
    than the target has to follow the slow bits for as long as it learns. (The published code counts a bias into S_i by half
    and with the other sign.)

    Args:
        seed: Of the target, of the slow bits and of the others; each has a generator of its own.
        change: What happens after T examples: one slow bit, each as likely, changes (``"flip"``, the paper), or all are drawn
            anew (``"redraw"``, the default of the published code).
        inputs: m. Default: the paper's, as all others.
        slow: f, from 1 to m.
        period: T, in examples.
        target_units: Of the target.
        beta: β.

    Attributes:
        examples: How many have been drawn.
        inputs: Input bits of an example.

    Raises:
        ParameterError: An argument out of its range.

    Example:
        >>> stream = SlowlyChangingRegression(seed=0, period=2)
        >>> inputs, targets = stream.draw(6)
        >>> inputs.shape, targets.shape
        ((6, 20), (6,))
        >>> [int((a != b).sum()) for a, b in zip(inputs[:-1, :15], inputs[1:, :15])]  # slow bits that change
        [0, 1, 0, 1, 0]
    """

    def __init__(
        self,
        seed: int,
        change: str = "flip",
        inputs: int = 20,
        slow: int = 15,
        period: int = 10_000,
        target_units: int = 100,
        beta: float = 0.7,
    ) -> None:
        self._change = checks.choice("change", change, CHANGES)
        self._period = checks.integer("period", period, 1)
        self.inputs = inputs
        self._fast = checks.integer("inputs", inputs, 1) - checks.integer("slow", slow, 1)
        if self._fast < 0:
            raise checks.ParameterError(f"slow must be at most the {inputs} inputs, got {slow}")
        units = checks.integer("target_units", target_units, 1)
        of_target, self._of_slow, self._of_fast = (
            np.random.default_rng(child) for child in np.random.SeedSequence(checks.integer("seed", seed, 0)).spawn(3)
        )
        self._weights = _signs(of_target, (units, inputs + 1))  # the bias last
        self._outgoing = _signs(of_target, (units + 1,))
        self._thresholds = beta * (inputs + 1) - (self._weights < 0).sum(axis=1)
        self._slow_bits = self._of_slow.random(slow) < 0.5
        self.examples = 0

    def draw(self, number: int) -> Examples:
        """Draws the next examples.

        Args:
            number: How many.

        Returns:
            Inputs ``(number, m)``, each 0 or 1, the slow ones first, and targets ``(number,)``, both float32.
        """
        bits = np.empty((number, len(self._slow_bits) + self._fast), dtype=bool)
        # A number for each bit, so that two draws of one example are one draw of two.
        bits[:, len(self._slow_bits) :] = self._of_fast.random((number, self._fast)) < 0.5
        done = 0
        while done < number:
            if self.examples and self.examples % self._period == 0:
                self._change_slow_bits()
            until = min(number, done + self._period - self.examples % self._period)
            bits[done:until, : len(self._slow_bits)] = self._slow_bits
            self.examples += until - done
            done = until
        return bits.astype(np.float32), self.target(bits)

    def target(self, bits: NDArray[Any]) -> NDArray[np.float32]:
        """The target of some inputs, ``(examples, m)``: ``(examples,)``."""
        sums = bits.astype(np.float64) @ self._weights[:, :-1].T + self._weights[:, -1]
        targets: NDArray[np.float32] = ((sums > self._thresholds) @ self._outgoing[:-1] + self._outgoing[-1]).astype(np.float32)
        return targets

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is: numbers, strings and lists."""
        return {
            "examples": self.examples,
            "slow_bits": self._slow_bits.tolist(),
            "generators": [generator.bit_generator.state for generator in (self._of_slow, self._of_fast)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a stream of the same arguments was."""
        self.examples = state["examples"]
        self._slow_bits = np.array(state["slow_bits"], dtype=bool)
        for generator, saved in zip((self._of_slow, self._of_fast), state["generators"], strict=True):
            generator.bit_generator.state = saved

    def _change_slow_bits(self) -> None:
        if self._change == "flip":
            self._slow_bits[self._of_slow.integers(len(self._slow_bits))] ^= True
        else:
            self._slow_bits = self._of_slow.random(len(self._slow_bits)) < 0.5


def _signs(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """−1 or 1, each with probability ½."""
    return np.where(generator.random(shape) < 0.5, -1.0, 1.0)
