"""How well a network still learns something new: what ranks and dormant units are to tell, measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.discovery.recording import left_by_passes
from cbp.method import check_whole

POINTS = 20  # of a learning curve, evenly spaced
LEAST_AREA = 1e-3
"""The area under the learning curves of fresh networks below which a ratio to it would tell nothing. Ours."""

_STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
"""The 97.5 % quantile of Student's t, by its degrees of freedom."""

MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]
ADAM: MakeOptimizer = partial(torch.optim.Adam, lr=1e-3)


@dataclass(frozen=True)
class Score:
    """What a network learned, beside what fresh networks did.

    Attributes:
        score: Mean area under its learning curves ÷ that of the fresh networks: 1 is as able as new, 0 learns nothing.
        low: Lower end of the score's 95 % interval over repetitions, paired with fresh networks: Student's, of the ratio of
            means by its linear terms (Cochran, *Sampling techniques*, 1977, chapter 6). It is of this one network: another of
            the same kind has another score.
        high: Upper end.
        areas: Under its learning curve in each repetition, ``(repetitions,)``.
    """

    score: float
    low: float
    high: float
    areas: Tensor

    @classmethod
    def of(cls, areas: Tensor, fresh: Tensor, least: float = LEAST_AREA) -> Score:
        """The score of areas ``(repetitions,)`` beside those of fresh networks, repetition by repetition.

        Raises:
            ValueError: The fresh networks learned hardly anything, on average not more than ``least``.
        """
        areas, fresh = areas.double(), fresh.double()
        if not fresh.mean() > least:
            raise ValueError(
                f"fresh networks learned hardly anything, {100 * fresh.mean().item():.2g} % on average, so that there is "
                "nothing to compare with: let them learn longer"
            )
        score = (areas.mean() / fresh.mean()).item()
        error = ((areas - score * fresh).std() / fresh.mean()).item() / math.sqrt(len(areas))
        reach = _student(len(areas) - 1) * error
        return cls(score, score - reach, score + reach, areas)


class Trainability:
    """Lets networks learn something new for a short while, beside fresh networks of the same kind under the same draws.

    The targets are the outputs of a random network, standardised, *added* to what the network computes now: every network
    begins with the same error, however large its outputs have become, as far as their precision holds the targets at all; batch
    norms begin with the statistics of the inputs. The
    learning curve is the share of the targets' variance that it has learned, from 0 to 1 (below 0 counts as 0); what is
    compared is the area under it. The network itself is not changed, and torch's global generators are afterwards as they were.

    A network whose head has large weights learns faster, since the same change of its units does more to its outputs: called
    with ``head`` this is left out.

    Random targets are after Lyle et al., "Understanding plasticity in neural networks" (ICML 2023), section 3. The network that
    draws them, the area under the curve and its ratio are ours.

    Args:
        fresh: Makes a network of the same kind with fresh weights, drawn from torch's global generator. Its output for a batch
            is ``(batch, outputs)``.
        inputs: What is learned on, ``(samples, …)``; of an agent, states that it met.
        repetitions: How often: each with other targets, another order of minibatches and another fresh network.
        updates: Of each learning. Default ours.
        batch_size: Samples in a minibatch.
        optimizer: Makes the optimizer of some parameters. Default ours: Adam with step size 10⁻³.
        seed: Of everything that is drawn.

    Attributes:
        fresh_areas: Under the learning curves of the fresh networks, ``(repetitions,)``.

    Raises:
        ValueError: A number out of its range; fresh networks whose outputs are no matrix, or the same for all inputs.

    Example:
        >>> def network():
        ...     return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        >>> trainability = Trainability(network, torch.randn(256, 4), repetitions=4, updates=200)
        >>> dead = network()
        >>> _ = nn.init.constant_(dead[0].bias, -100.0)
        >>> trainability(dead).score < 0.2 < 0.5 < trainability(network()).score
        True
    """

    @torch.inference_mode(mode=False)
    def __init__(
        self,
        fresh: Callable[[], nn.Module],
        inputs: Tensor,
        repetitions: int = 10,
        updates: int = 500,
        batch_size: int = 128,
        optimizer: MakeOptimizer = ADAM,
        seed: int = 0,
    ) -> None:
        check_whole("repetitions", repetitions, 2)
        check_whole("updates", updates, POINTS)
        check_whole("batch_size", batch_size, 1)
        check_whole("seed", seed, 0)
        if len(inputs) == 0 or (inputs.is_floating_point() and not inputs.isfinite().all()):
            raise ValueError(f"inputs must be samples of finite numbers, got a shape of {tuple(inputs.shape)} or others")
        self._fresh = fresh
        self._inputs = inputs.detach().clone()  # be it made in inference mode
        self._updates = updates
        self._batch_size = min(batch_size, len(inputs))
        self._make_optimizer = optimizer
        self._seeds = torch.randint(2**62, (repetitions, 3), generator=torch.Generator().manual_seed(seed)).tolist()
        self._targets = [self._standardised(_drawn(fresh, of_targets)) for of_targets, _, _ in self._seeds]
        self.fresh_areas = self._areas([_drawn(fresh, of_network) for _, of_network, _ in self._seeds])

    @torch.inference_mode(mode=False)
    def __call__(self, network: nn.Module, head: str | None = None) -> Score:
        """The score of a network.

        Args:
            network: Its output for a batch of the inputs is ``(batch, outputs)``.
            head: The path of one of its modules with weights, as ``"4"`` in a Sequential. If it is given this module's weights
                are those of the fresh network of the same repetition, so that the score is that of the layers in front of it.

        Raises:
            ValueError: The network's output is another than that of fresh ones; or it has no such module, or another one.
        """
        if head is None:
            networks = [network] * len(self._seeds)
        else:
            networks = [_with_part(network, head, _drawn(self._fresh, of_network)) for _, of_network, _ in self._seeds]
        return Score.of(self._areas(networks), self.fresh_areas)

    def _standardised(self, network: nn.Module) -> Tensor:
        _calibrate(network, self._inputs)
        outputs = _outputs(network, self._inputs)
        if outputs.ndim != 2:
            raise ValueError(f"a network's output must be (batch, outputs), got a shape of {tuple(outputs.shape)}")
        deviation = outputs.std(dim=0, correction=0)
        if not (deviation > 0).all():
            raise ValueError("an output of a fresh network is the same for all inputs, so that there is nothing to learn")
        return (outputs - outputs.mean(dim=0)) / deviation

    def _areas(self, networks: list[nn.Module]) -> Tensor:
        each = zip(networks, self._targets, self._seeds, strict=True)
        areas = []
        for network, targets, (*_, order) in each:
            with _seeded(order):  # of dropout
                areas.append(self._learn(copy.deepcopy(network, left_by_passes(network)), targets, order))
        return torch.tensor(areas)

    def _learn(self, network: nn.Module, new: Tensor, seed: int) -> float:
        """The area under the learning curve of a network, which is changed."""
        _calibrate(network, self._inputs)
        outputs = _outputs(network, self._inputs)
        if outputs.shape != new.shape:
            raise ValueError(f"the network's output must be that of fresh ones, {tuple(new.shape)}, got {tuple(outputs.shape)}")
        # The difference to the outputs is learned: added to large outputs, targets would be rounded.
        at_first = new.square().mean().item()  # 1 but for rounding
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError("the network has no parameter that is trained: all are frozen")
        optimizer = self._make_optimizer(trained)
        generator = torch.Generator().manual_seed(seed)
        batches = _minibatches(len(self._inputs), self._batch_size, generator)
        learned = 0.0
        marks = {round((point + 1) * self._updates / POINTS) for point in range(POINTS)}
        for update in range(1, self._updates + 1):
            batch = next(batches).to(new.device)
            network.train()
            with torch.enable_grad():
                loss = (network(self._inputs[batch]) - outputs[batch] - new[batch]).square().mean()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            if update in marks:
                error = (_outputs(network, self._inputs) - outputs - new).square().mean().item()
                learned += max(0.0, 1.0 - error / at_first)  # a NaN counts as nothing learned
        return learned / POINTS


def _student(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; of many degrees of freedom by Cornish and Fisher's series."""
    return _STUDENT.get(degrees) or 1.95996 + 2.37227 / degrees + 2.82250 / degrees**2 + 2.55585 / degrees**3


def _with_part(network: nn.Module, path: str, giver: nn.Module) -> nn.Module:
    """A copy of a network in which one module has the weights that it has in another network."""
    network = copy.deepcopy(network, left_by_passes(network))
    try:
        if not path or not any(True for _ in network.get_submodule(path).parameters()):
            raise ValueError(f"head must be the path of a module with weights, got {path!r}")
        network.get_submodule(path).load_state_dict(giver.get_submodule(path).state_dict())
    except (AttributeError, RuntimeError) as error:
        raise ValueError(
            f"head must be the path of a module that the network and fresh ones have alike, got {path!r}"
        ) from error
    return network


def _drawn(fresh: Callable[[], nn.Module], seed: int) -> nn.Module:
    with _seeded(seed):
        return fresh()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's global generators with a seed, and as they were afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _calibrate(network: nn.Module, inputs: Tensor) -> None:
    """Gives batch norms the statistics of the inputs: those of a fresh network are none, and outputs would begin elsewhere."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    if norms:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all passes, of which there is one
        network.train()(inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@torch.no_grad()
def _outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    network.eval()
    outputs: Any = network(inputs)
    if not isinstance(outputs, Tensor):
        raise ValueError(f"a network's output must be a tensor (batch, outputs), got {type(outputs).__name__}")
    return outputs


def _minibatches(samples: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(samples, generator=generator)
        yield from order[: samples - samples % size].view(-1, size)
