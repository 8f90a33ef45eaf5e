"""Random generators of a method's own."""

from __future__ import annotations

import torch


def for_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """The generator itself, which is on the CPU; one on the device, seeded from it, where weights are on a GPU.

    The CPU's generator is what a method saves, so that its state is the same wherever the weights are.
    """
    if device.type not in ("cuda", "mps", "xpu"):
        return generator
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)
