"""Concatenated ReLU: an activation that passes a gradient for whichever sign.

Source: Abbas, Zhao, Modayil, White, Machado, *Loss of plasticity in continual deep reinforcement learning*, CoLLAs 2023
(arXiv 2303.07507); the activation is that of Shang, Sohn, Almeida, Lee, ICML 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CReLU(nn.Module):
    """Gives [max(0, x), max(0, −x)]: twice as many values as it receives, of which mostly one in each pair is above zero.

    Args:
        dim: The dimension of the units: −1 behind a Linear layer, 1 behind a convolution.

    Example:
        >>> CReLU()(torch.tensor([[2.0, -3.0]])).tolist()
        [[2.0, 0.0, 0.0, 3.0]]
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Twice as large along ``dim``."""
        return torch.cat([torch.relu(x), torch.relu(-x)], dim=self.dim)
