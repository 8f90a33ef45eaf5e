"""Tables and generators in a module of their own, from which environments of another module take."""

from __future__ import annotations

import numpy as np

WEIGHTS = {"light": [0.5], "heavy": [2.0]}

luck = np.random.default_rng(5)
rng = np.random.default_rng(6)


def clip(number):
    return min(number, 0.5)
