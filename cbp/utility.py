"""Utilities of units: how much a network would lose with each.

Pure functions of activations and weights. All accept leading dimensions, written ``…`` (a batch of runs, say), which every
argument must share:

=============  ======================  ==========================================================
``h``          ``(…, batch, units)``   what the outgoing layer receives
``h_mean``     ``(…, units)``          running mean of ``h``, bias-corrected, this batch included
``w_in``       ``(…, units, inputs)``  incoming weights, without the bias
``w_out``      ``(…, outputs, units)`` outgoing weights
=============  ======================  ==========================================================

Sources: Dohare et al., *Loss of plasticity in deep continual learning*, Nature 632 (2024), equation 1 (`contribution`);
arXiv 2108.06325 (the mean-corrected and adaptable forms).
"""

from __future__ import annotations

import torch
from torch import Tensor


def activity(h: Tensor, h_mean: Tensor | None = None, *, non_negative: bool = False) -> Tensor:
    """Mean over the batch of ``|h|``, or of ``|h − h_mean|``: ``(…, units)``.

    ``non_negative`` says that no value of ``h`` is below zero, as behind ReLU: ``|h|`` need not be computed then.
    """
    if h_mean is not None:
        return (h - h_mean.unsqueeze(-2)).abs().mean(dim=-2)
    # Cheaper than mean(), which divides in a kernel of its own after a copy.
    return (h if non_negative else h.abs()).sum(dim=-2) / h.shape[-2]


def outgoing_magnitude(w_out: Tensor) -> Tensor:
    """Sum over the outputs k of ``|w_out,k|``: ``(…, units)``."""
    return w_out.abs().sum(dim=-2)


def incoming_magnitude(w_in: Tensor) -> Tensor:
    """Mean over the inputs of ``|w_in|``, at least the machine epsilon, since it divides: ``(…, units)``."""
    return w_in.abs().mean(dim=-1).clamp_min(torch.finfo(w_in.dtype).eps)


def contribution(h: Tensor, w_out: Tensor, *, non_negative: bool = False) -> Tensor:
    """``mean|h| · Σ_k |w_out,k|`` (Nature, equation 1); ``non_negative`` as for :func:`activity`."""
    return activity(h, non_negative=non_negative) * outgoing_magnitude(w_out)


def zero_contribution(h: Tensor, h_mean: Tensor, w_out: Tensor) -> Tensor:
    """``mean|h − ĥ| · Σ_k |w_out,k|``: the contribution beyond what a bias could supply."""
    return activity(h, h_mean) * outgoing_magnitude(w_out)


def adaptable_contribution(h: Tensor, h_mean: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    """``zero_contribution / mean|w_in|``: large incoming weights make a unit slow to change (arXiv 2108.06325)."""
    return zero_contribution(h, h_mean, w_out) / incoming_magnitude(w_in)


def weight(w_out: Tensor) -> Tensor:
    """``Σ_k |w_out,k|``."""
    return outgoing_magnitude(w_out)


def adaptation(w_in: Tensor) -> Tensor:
    """``1 / mean|w_in|``."""
    return incoming_magnitude(w_in).reciprocal()


def feature_by_input(h: Tensor, h_mean: Tensor, w_in: Tensor) -> Tensor:
    """``mean|h − ĥ| / mean|w_in|``."""
    return activity(h, h_mean) / incoming_magnitude(w_in)
