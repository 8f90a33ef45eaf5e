"""A table and a generator in a module of their own, from which an environment of another module takes."""

from __future__ import annotations

import numpy as np

WEIGHTS = {"light": [0.5], "heavy": [2.0]}

luck = np.random.default_rng(5)
