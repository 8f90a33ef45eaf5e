"""Hare and tortoise: train fast weights, and set them back now and then to their slow average.

Source: Lee, Cho, Kim, Kim, Min, Choo, Lyle, *Slow and steady wins the race: maintaining plasticity with hare and tortoise
networks*, ICML 2024 (arXiv 2406.02596).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.discovery.recording import unwrapped
from cbp.exchanges import Exchanges, refuse_lazy
from cbp.method import Method, averaging_dtype, check_number, check_state, check_whole


class HareTortoise(Method, name="hare-tortoise"):
    """Averages the weights, and sets them back to their average every ``period`` updates.

        τ ← μ·τ + (1 − μ)·θ   after each update;   θ ← τ   every ``period`` updates

    θ (the hare) are the model's parameters and buffers, τ (the tortoise) the average, which begins as a copy, in float32 at
    least. The optimizer's state and buffers of whole numbers are left alone; so are frozen parameters, the buffers of modules
    whose parameters are all frozen, and the vectors that spectral normalisation follows.

    Args:
        model: Any module.
        optimizer: Not touched; every method takes it.
        momentum: μ, in [0, 1). Default: the authors'.
        period: Updates from one time to the next. Default: ours.

    Attributes:
        tortoise: The average, by the names of a ``state_dict``: ``load_state_dict(method.tortoise, strict=False)`` puts it into
            a copy of the model.

    Raises:
        ValueError: An option out of its range.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> method = HareTortoise(model, torch.optim.SGD(model.parameters(), lr=0.1), momentum=0.75, period=2)
        >>> for _ in range(2):
        ...     _ = nn.init.ones_(model.weight)  # 0.25, and 0.75·0.25 + 0.25
        ...     _ = method.step()
        >>> model.weight.item()
        0.4375
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,  # noqa: ARG002
        momentum: float = 0.999,
        period: int = 1000,
    ) -> None:
        self.momentum = check_number("momentum", momentum, 0, below=1)
        self.period = check_whole("period", period, least=1)
        self._updates = 0
        self._model = unwrapped(model)
        self.tortoise: dict[str, Tensor] = {}
        self._averaged: dict[str, tuple[object, str]] = {}
        self._exchanges = Exchanges(model)
        refuse_lazy(self._model)
        self._look()

    def _look(self) -> None:
        """Begins to average what is new."""
        before, self._averaged = self._by_tensor(), {}
        before.update({(new, ""): before[old, ""] for new, old in self._exchanges.renewed().items() if (old, "") in before})
        self.tortoise = {}
        for name, fast in self._hare():
            path, _, attribute = name.rpartition(".")
            # A buffer is another tensor once the model is cast: it is known by its module.
            known_by = fast if isinstance(fast, nn.Parameter) else self._model.get_submodule(path)
            self._averaged[name] = (known_by, "" if isinstance(fast, nn.Parameter) else attribute)
            slow = before.get(self._averaged[name])
            self.tortoise[name] = _copy(fast) if slow is None else slow

    def _by_tensor(self) -> dict[tuple[object, str], Tensor]:
        """The averages, by what is the same under another name."""
        return {self._averaged[name]: slow for name, slow in self.tortoise.items()}

    def _now(self) -> list[tuple[str, Tensor]]:
        """The tensors that are averaged, all of which have an average."""
        self._exchanges.follow(self._look)
        hare = list(self._hare())
        if len(hare) != len(self.tortoise):  # buffers, which may be others at any pass
            self._look()
        for name, fast in hare:
            if self.tortoise[name].shape != fast.shape:
                self.tortoise[name] = _copy(fast)
        return hare

    def _hare(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that are averaged, looked up anew: a model that is moved or cast has other buffers."""
        for name, tensor in (*self._model.named_parameters(), *self._model.named_buffers()):
            if (tensor.is_floating_point() or tensor.is_complex()) and not self._is_direction(name):
                yield name, tensor

    def _is_direction(self, name: str) -> bool:
        """Whether a buffer is a singular vector that spectral normalisation follows, whose average would be none."""
        path, _, attribute = name.rpartition(".")
        module = self._model.get_submodule(path)
        if attribute in ("_u", "_v"):
            return type(module).__name__ == "_SpectralNorm"
        return attribute.endswith(("_u", "_v")) and hasattr(module, f"{attribute[:-2]}_orig")  # of older torch

    def _is_trained(self, name: str, tensor: Tensor) -> bool:
        """Whether a parameter, or one beside a buffer, is not frozen. A module of buffers alone is trained."""
        if isinstance(tensor, nn.Parameter):
            return tensor.requires_grad
        beside = list(self._model.get_submodule(name.rpartition(".")[0]).parameters(recurse=False))
        return not beside or any(parameter.requires_grad for parameter in beside)

    @torch.no_grad()
    def step(self) -> list[Tensor]:
        """Averages; sets the weights back where it is time. Returns an empty list: no unit is replaced."""
        self._updates += 1
        for name, fast in self._now():
            slow = self.tortoise[name] = self.tortoise[name].to(fast.device, averaging_dtype(fast))
            average = torch.lerp(slow, fast.to(slow), 1 - self.momentum)
            slow.copy_(torch.where(slow == fast, slow, average))  # infinite ones stay, such as those of an attention mask
            if self._updates % self.period == 0 and self._is_trained(name, fast):
                fast.copy_(slow)
        return []

    def take_over(self, other: Self) -> None:
        """As for :class:`cbp.Method`."""
        self._updates = other._updates
        self._now()
        theirs = other._by_tensor()
        for name, known_by in self._averaged.items():
            self.tortoise[name] = theirs.get(known_by, self.tortoise[name])

    def begin_anew(self) -> None:
        """Takes the tensors as they are now for their average."""
        self.tortoise = {name: _copy(fast) for name, fast in self._now()}

    def state_dict(self) -> dict[str, Any]:
        """Updates so far and the average."""
        self._now()
        return {"updates": self._updates, "tortoise": {name: slow.clone() for name, slow in self.tortoise.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        check_state(state, {"tortoise", "updates"})
        self._now()
        theirs, own = (
            {name: list(slow.shape) for name, slow in tensors.items()} for tensors in (state["tortoise"], self.tortoise)
        )
        if theirs != own:
            raise ValueError(f"the state is of a model with {theirs}, this one has {own}")
        for name, slow in state["tortoise"].items():
            self.tortoise[name].copy_(slow)
        self._updates = int(state["updates"])
        self._exchanges.mark_loaded()


def _copy(fast: Tensor) -> Tensor:
    return fast.detach().to(averaging_dtype(fast), copy=True)
