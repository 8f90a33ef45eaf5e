"""Replicas of a model that learn together, each on a part of the batch."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from cbp.groups import LayerError


def refuse_sharded(model: nn.Module) -> None:
    """Refuses a model whose parameters are spread over processes.

    Raises:
        LayerError: It is one.
    """
    for name, parameter in model.named_parameters():
        check_whole_tensor(name, parameter)


def refuse_flattened(model: nn.Module) -> None:
    """Refuses a model whose parameters are parts of a vector, as ``FullyShardedDataParallel`` keeps them: no matrix is there.

    Raises:
        LayerError: It is one.
    """
    for name, parameter in model.named_parameters():
        if is_flattened(parameter):
            check_whole_tensor(name, parameter)


def check_whole_tensor(name: str, tensor: Tensor) -> None:
    """Refuses a weight that is spread over processes.

    Raises:
        LayerError: It is one.
    """
    if hasattr(tensor, "placements") or is_flattened(tensor):
        raise LayerError(f"'{name}' is sharded over processes, which is not supported: wrap in DistributedDataParallel")


def is_flattened(tensor: Tensor) -> bool:
    """Whether a parameter is a part of a vector of ``FullyShardedDataParallel``."""
    return hasattr(tensor, "_fsdp_flattened")


class Replicas:
    """The processes that hold replicas of a model wrapped in DistributedDataParallel; of any other model, this one alone.

    That another model is trained by one of several processes is told in a warning at its first update.
    """

    def __init__(self, model: nn.Module) -> None:
        while isinstance(getattr(model, "_orig_mod", None), nn.Module):  # compiled
            model = model._orig_mod  # type: ignore[assignment]
        distributed = isinstance(model, nn.parallel.DistributedDataParallel)
        self._group: Any = model.process_group if distributed else None
        self._may_differ = distributed and model.find_unused_parameters
        self._is_checked = distributed

    def __getstate__(self) -> dict[str, Any]:
        return {"_group": None, "_may_differ": False, "_is_checked": False}  # a copy is a model of its own

    @property
    def alone(self) -> bool:
        """Whether there is only one."""
        if not self._is_checked:
            self._is_checked = True
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                _warn_of_other_processes(torch.distributed.get_world_size())
        return self._group is None

    def mean(self, numbers: Tensor) -> Tensor:
        """The mean over the replicas, the same on all of them."""
        if self._group is None:
            return numbers
        return self.total(numbers) / torch.distributed.get_world_size(self._group)

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over the replicas, the same on all of them."""
        if self._group is None:
            return numbers
        numbers = numbers.clone()
        torch.distributed.all_reduce(numbers, group=self._group)
        return numbers

    def all(self, flags: list[bool], device: torch.device) -> list[bool]:
        """Which flags are set on all replicas. They are compared where replicas may use other parts of the model."""
        if not self._may_differ:
            return flags
        reduced = torch.tensor(flags, dtype=torch.uint8, device=device)
        torch.distributed.all_reduce(reduced, torch.distributed.ReduceOp.MIN, group=self._group)
        return [bool(flag) for flag in reduced.tolist()]


@cache
def _warn_of_other_processes(processes: int) -> None:
    """Warns where this is one of several processes: once, of however many methods."""
    if processes > 1:
        warnings.warn(
            f"this is one of {processes} processes of torch.distributed, and a method acts on what it alone sees: replicas of "
            "one model may drift apart. Wrap the model in DistributedDataParallel before the method is made, and give the "
            "method the wrapped model. Where each process trains a model of its own, this is as it should be",
            stacklevel=1,
        )
