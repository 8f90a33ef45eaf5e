"""Small float64 networks and training steps that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

import cbp

UTILITIES = (
    "contribution",
    "zero_contribution",
    "adaptable_contribution",
    "weight",
    "adaptation",
    "feature_by_input",
    "random",
)


def chain(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU, seed: int = 0, bias: bool = True) -> nn.Sequential:
    """Linear layers of these widths with an activation between; the global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        modules: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            modules += [nn.Linear(n_in, n_out, bias=bias, dtype=torch.float64), activation()]
        return nn.Sequential(*modules[:-1])


def by_hand(incoming: list[list[float]], outgoing: list[list[float]]) -> nn.Sequential:
    """One hidden ReLU layer with these weights and zero biases."""
    model = chain(len(incoming[0]), len(incoming), len(outgoing))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(incoming))
        model[2].weight.copy_(torch.tensor(outgoing))
        model[0].bias.zero_()
        model[2].bias.zero_()
    return model


def still(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that leaves the weights where they are."""
    return torch.optim.SGD(model.parameters(), lr=0.0)


class Problem:
    """Batches of a regression whose target function is drawn anew every 50 batches."""

    def __init__(self, inputs: int, outputs: int, batch: int = 4, seed: int = 0) -> None:
        self.inputs, self.outputs, self.batch = inputs, outputs, batch
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn = 0

    def __call__(self) -> tuple[Tensor, Tensor]:
        if self.drawn % 50 == 0:
            self.target = self._normal(self.inputs, self.outputs)
        self.drawn += 1
        x = self._normal(self.batch, self.inputs)
        return x, torch.sin(2 * x @ self.target)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """A forward and a backward pass and the optimizer's step; several outputs learn the same target."""
    optimizer.zero_grad()
    outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum((output - y).square().mean() for output in outputs).backward()
    optimizer.step()


@torch.no_grad()
def begin_alike(
    model: nn.Module, optimizer: torch.optim.Optimizer, twin: nn.Module, twin_optimizer: torch.optim.Optimizer
) -> None:
    """Puts a twin that was found to be close where the model is, so that what rounding leaves does not grow step by step."""
    states = [(model.state_dict(), twin.state_dict())]
    for parameter, its_twin in zip(model.parameters(), twin.parameters(), strict=True):
        states.append((optimizer.state.get(parameter, {}), twin_optimizer.state.get(its_twin, {})))
    pairs = [(ours[name], value) for ours, theirs in states for name, value in theirs.items() if isinstance(value, Tensor)]
    assert all(ours.shape == theirs.shape for ours, theirs in pairs)
    # All in one: a comparison of each tensor by itself would take longer than the training.
    ours, theirs = (torch.cat([value.double().flatten() for value in values]) for values in zip(*pairs, strict=True))
    assert torch.allclose(theirs, ours, rtol=1e-7, atol=1e-7), f"differs by {(theirs - ours).abs().max().item()}"
    for ours, theirs in pairs:
        theirs.copy_(ours)


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, method: cbp.ContinualBackprop, x: Tensor, y: Tensor
) -> list[list[int]]:
    """A whole training step; the units replaced in each layer."""
    learn(model, optimizer, x, y)
    return [units.tolist() for units in method.step()]
