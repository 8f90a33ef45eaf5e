"""What replacing one unit changes where a norm goes over several, and whether another fresh row changes less.

``python benchmarks/norms.py [--updates 500]`` trains networks with each norm on a regression whose target changes, replaces the
unit of least utility in 64 ways on copies, and prints in percent of the outputs' root mean square: what the unit itself
contributed, and what changed beyond it because the norm's statistics did. A minute on one core.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

import cbp

UNITS, INPUTS, DRAWS = 256, 16, 64
NORMS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "BatchNorm": lambda: nn.BatchNorm1d(UNITS),
    "LayerNorm": lambda: nn.LayerNorm(UNITS),
    "RMSNorm": lambda: nn.RMSNorm(UNITS),
    "GroupNorm, 8 groups": lambda: nn.GroupNorm(8, UNITS),
}


def trained(norm: Callable[[], nn.Module], updates: int) -> tuple[nn.Sequential, cbp.ContinualBackprop, Tensor]:
    """A network of one hidden layer in the middle of its training, and a batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INPUTS, UNITS), norm(), nn.ReLU(), nn.Linear(UNITS, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    method = cbp.ContinualBackprop(model, optimizer, replacement_rate=0.0)
    for update in range(updates):
        if update % 100 == 0:
            target = torch.randn(INPUTS, 4)
        x = torch.randn(128, INPUTS)
        optimizer.zero_grad()
        (model(x) - torch.sin(x @ target)).square().mean().backward()
        optimizer.step()
        method.step()
    return model, method, torch.randn(1024, INPUTS)


def rows(model: nn.Sequential, unit: Tensor, bound: float) -> dict[str, tuple[float, float]]:
    """The root mean square of a fresh row, and its bias, by the name of the choice."""
    weight, bias = model[0].weight, model[0].bias
    now = weight.square().mean().sqrt().item()
    return {
        "spread at the start": (bound / math.sqrt(3), 0.0),
        "spread of the layer now": (now, 0.0),
        "spread and mean bias of the layer now": (now, bias.mean().item()),
        "size and bias of the row it replaces": (weight[unit].square().mean().sqrt().item(), bias[unit].item()),
        "zero": (0.0, 0.0),
    }


@torch.no_grad()
def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=500, help="updates before the replacement (default: 500)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| norm | fresh row | own contribution, % | beyond it, % |\n|---|---|---|---|")
    for name, norm in NORMS.items():
        with torch.enable_grad():
            model, method, x = trained(norm, args.updates)
        (layer,) = method.layers
        unit = layer.corrected_utility.argmin().view(1)
        before = model(x)
        size = before.square().mean().sqrt()
        ablated = copy.deepcopy(model)
        ablated[3].weight[:, unit] = 0
        without = ablated(x)
        own = 100 * ((without - before).square().mean().sqrt() / size).item()
        for choice, (size_of_row, bias) in rows(model, unit, layer.fresh_bound).items():
            beyond = []
            for draw in range(DRAWS):
                generator = torch.Generator().manual_seed(draw)
                replaced = copy.deepcopy(ablated)
                drawn = 2 * torch.rand(1, INPUTS, generator=generator) - 1
                replaced[0].weight[unit] = drawn * math.sqrt(3) * size_of_row
                replaced[0].bias[unit] = bias
                if getattr(replaced[1], "weight", None) is not None:
                    replaced[1].weight[unit] = 1
                    if getattr(replaced[1], "bias", None) is not None:
                        replaced[1].bias[unit] = 0
                beyond.append(100 * ((replaced(x) - without).square().mean().sqrt() / size).item())
            print(f"| {name} | {choice} | {own:.2f} | {statistics.mean(beyond):.2f} |")


if __name__ == "__main__":
    main()
