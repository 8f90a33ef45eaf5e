"""Times ``cbp.Adam`` beside torch's on two million weights, with counts that are equal or were reset row by row.

``python benchmarks/adam.py [--repeats 20]`` prints the least processor time of an update on one thread, in units of that of
torch's fused Adam.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

import cbp

ROWS, COLUMNS = 1000, 2000


def seconds(
    make: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], young: float, repeats: int, *, rows: bool = True
) -> float:
    """The least time of an update, after the counts of a part of the rows or columns were reset, one by one."""
    weight = nn.Parameter(torch.randn(ROWS, COLUMNS))
    weight.grad = torch.randn_like(weight)
    optimizer = make([weight])
    optimizer.step()
    size = ROWS if rows else COLUMNS
    for unit in torch.randperm(size, generator=torch.Generator().manual_seed(0))[: int(young * size)]:
        optimizer.step()
        optimizer.state[weight]["step"].select(0 if rows else 1, int(unit)).zero_()
    optimizer.step()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        optimizer.step()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="updates of each (default: 20)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    fused = seconds(partial(torch.optim.Adam, fused=True), 0.0, args.repeats)
    print(f"torch.optim.Adam(fused=True): {1e3 * fused:.2f} ms")
    print(f"torch.optim.Adam: {seconds(torch.optim.Adam, 0.0, args.repeats) / fused:.1f}")
    print(f"cbp.Adam, all counts equal: {seconds(cbp.Adam, 0.0, args.repeats) / fused:.1f}")
    for young in (0.05, 0.15, 0.5):
        of_rows, of_columns = (seconds(cbp.Adam, young, args.repeats, rows=rows) / fused for rows in (True, False))
        print(f"cbp.Adam, {young:.0%} of the rows reset: {of_rows:.1f}, of the columns: {of_columns:.1f}")


if __name__ == "__main__":
    main()
