"""The measures of one layer's activations, as plain as can be: an oracle for what is recorded."""

from __future__ import annotations

import math

import numpy as np
from torch import nn


def measured_by_hand(h, activation):
    """By their names, of ``h`` ``(samples, units)``; of ``(samples, channels, positions)`` ranks are those of means."""
    averaged = h.reshape(*h.shape[:2], -1).mean(axis=2)
    h = h.reshape(*h.shape[:2], -1).swapaxes(1, 2).reshape(-1, h.shape[1])
    samples, units = h.shape
    columns = h.T.tolist()  # plain floats, of one unit in each
    active = [sum(value > 0 for value in column) for column in columns]
    mean = [sum(abs(value) for value in column) / samples for column in columns]
    values = {"tau_dormant_fraction": sum(m <= 0.1 * sum(mean) / units for m in mean) / units}
    if activation is nn.ReLU:
        values["dormant_fraction"] = sum(a <= 0.01 * samples for a in active) / units
        values["dead_fraction"] = sum(a == 0 for a in active) / units
    if activation is nn.Tanh:
        beyond = [sum(abs(value) > 0.9 for value in column) for column in columns]
        values["saturated_fraction"] = sum(b >= 0.99 * samples for b in beyond) / units
    sigma = np.linalg.svd(averaged, compute_uv=False)
    p = sigma / sigma.sum()
    values["stable_rank"] = next(k for k in range(1, units + 1) if p[:k].sum() > 0.99)
    values["true_stable_rank"] = (sigma**2).sum() / sigma[0] ** 2
    values["effective_rank"] = math.exp(-sum(x * math.log(x) for x in p if x > 0))
    values["feature_rank"] = sum(sigma / math.sqrt(len(averaged)) > 0.01)
    return values
