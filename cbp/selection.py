"""Which units are replaced.

Pure functions, as those of :mod:`cbp.utility`, and with the same leading dimensions, written ``…``: none for one network, one
for a batch of runs that learn together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bias_corrected(average: Tensor, age: Tensor, decay_rate: float) -> Tensor:
    """A running average that began at 0 with each unit, over 1 − η^age; 0 at age 0: ``(…, units)``.

    Args:
        average: ``(…, units)``.
        age: Updates since each unit was made: ``(…, units)``, int64.
        decay_rate: η.
    """
    correction = 1 - decay_rate ** age.double()
    return torch.where(age > 0, average / correction, 0).to(average.dtype)


def least_useful_first(utility: Tensor, age: Tensor, maturity_threshold: int) -> Tensor:
    """The units in the order in which they are replaced: ``(…, units)``, int64.

    Units that are not mature come last. A unit whose utility is not a number comes first.

    Args:
        utility: Bias-corrected: ``(…, units)``.
        age: ``(…, units)``.
        maturity_threshold: m; units older than that are mature.
    """
    # NaN sorts last.
    rank = utility.nan_to_num(nan=-math.inf).masked_fill(age <= maturity_threshold, math.nan)
    return rank.argsort(dim=-1, stable=True)
