"""Measures of plasticity: pure functions of activations and weights.

Source: Dohare et al., *Loss of plasticity in deep continual learning*, Nature 632 (2024), methods.
"""

from __future__ import annotations

import torch
from torch import Tensor

DORMANT_FRACTION_ACTIVE = 0.01  # paper: a unit active on at most 1 % of the samples is dormant


def dormant_fraction(h: Tensor) -> float:
    """Fraction of ReLU units that are active (> 0) on at most 1 % of the samples.

    Args:
        h: Activations, ``(samples, units)``; the paper takes the last 1,000 steps of the current policy.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: ``h`` is no matrix or has no samples.
    """
    if h.ndim != 2 or h.shape[0] == 0:
        raise ValueError(f"activations must be (samples, units) with at least one sample, got shape {tuple(h.shape)}")
    active = (h > 0).double().mean(dim=0)
    return (active <= DORMANT_FRACTION_ACTIVE).double().mean().item()


def weight_magnitude(weight: Tensor) -> float:
    """Mean of ``|w|`` over all elements."""
    return torch.mean(weight.detach().abs()).item()
