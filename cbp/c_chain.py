"""C-CHAIN: let an update change what the network gives for other data as little as possible.

Sources: Tang, Obando-Ceron, Castro, Courville, Berseth, *Mitigating plasticity loss in continual reinforcement learning by
reducing churn*, ICML 2025 (arXiv 2506.00592); its term is that of Tang, Berseth, *Improving deep reinforcement learning by
reducing the chain effect of value and policy churn*, NeurIPS 2024 (arXiv 2409.04792).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cbp.discovery.recording import tensors_of
from cbp.method import check_number, check_whole
from cbp.replaying import Batch, Replaying, mean_square

_EPS = 1e-8  # the authors'


class CChain(Replaying, name="c-chain"):
    """Adds λ times the churn to the loss: how much the last update changed the outputs on a batch that it was not made from.

        λ · mean (f_θ(x) − f_θ'(x))²,   λ = target · mean |loss| / (mean churn + 10⁻⁸)

    θ' are the weights before the last update. x is the batch of the update before that, so that it is neither the one that
    the last update was made from nor that of the coming one. Means in λ are over the last ``window`` measurements, of which one
    is made every ``measure_every`` updates; before there are ``warm_up`` of them λ is ``first_strength``, as it is throughout
    where :meth:`before_update` is not told the loss.

    Args:
        model: Any module; what it returns may be any structure of tensors.
        optimizer: Not touched; every method takes it.
        target: How large λ · churn shall be beside the loss, at least 0. Default: the authors' code for PPO, as those below.
        first_strength: λ before it is known, at least 0.
        measure_every: Updates, at least 1; the authors measure once a rollout, which is 320 updates of theirs.
        warm_up: Measurements before λ follows them, at least 1.
        window: Measurements that λ follows, at least 1.
        receives: As for :class:`cbp.Replaying`.

    Attributes:
        strength: λ now.

    Raises:
        ValueError: An option out of its range.
        LayerError: The model's parameters are sharded, or it has none.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> method = CChain(model, torch.optim.SGD(model.parameters(), lr=1.0), first_strength=0.5)
        >>> for weight, x in [(1.0, 2.0), (1.5, 3.0), (1.75, 0.0)]:
        ...     _ = nn.init.constant_(model.weight, weight)
        ...     (0 * model(torch.tensor([[x]]))).sum().backward()
        ...     method.before_update()
        ...     _ = method.step()
        >>> model.weight.grad.item()  # 0.5 · 2 · (1.75 · 2 − 1.5 · 2) · 2: the batch is the first, the weight before was 1.5
        1.0
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        target: float = 0.05,
        first_strength: float = 100.0,
        measure_every: int = 320,
        warm_up: int = 50,
        window: int = 100,
        receives: nn.Module | None = None,
    ) -> None:
        self.target = check_number("target", target, 0)
        self.first_strength = check_number("first_strength", first_strength, 0)
        self.measure_every = check_whole("measure_every", measure_every, least=1)
        self.warm_up = check_whole("warm_up", warm_up, least=1)
        self.window = check_whole("window", window, least=1)
        super().__init__(model, optimizer, receives)
        self.strength = self.first_strength
        self._updates = 0
        self._measurements = 0
        self._measured: list[tuple[float, float]] = []  # |loss| and churn, the last of them
        self._last: Batch | None = None
        self._reference: tuple[Batch, Any] | None = None  # a batch, and what the model gave for it before the last update
        self._churn: Tensor | None = None
        self._made_for: tuple[Any, ...] | None = None
        self._device: torch.device | None = None

    @torch.no_grad()
    def before_update(self, scale: float = 1.0, loss: Tensor | float | None = None) -> None:
        """Adds the term's gradient.

        Args:
            scale: As for :meth:`cbp.Regularizer.before_update`.
            loss: The loss that λ follows, of the policy for an actor and a critic with one optimizer, without ``scale``.

        Raises:
            ValueError: ``loss`` is not a single number.
        """
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ValueError(f"loss must be a single number, got a tensor of shape {tuple(loss.shape)}")
        if self._measurements < self.warm_up:
            self.strength = self.first_strength
        super().before_update(scale)
        churn, self._churn = self._churn, None
        self._updates += 1
        if churn is not None and loss is not None and self._updates % self.measure_every == 0:
            self._measure(torch.as_tensor(loss).detach().to(churn).abs().reshape(()), churn)

    def _measure(self, loss: Tensor, churn: Tensor) -> None:
        measured = self._replicas.mean(torch.stack([loss, churn]))
        if not measured.isfinite().all():  # as at times under a gradient scaler
            return
        self._measurements += 1
        self._measured = [*self._measured, tuple(measured.tolist())][-self.window :]
        if self._measurements >= self.warm_up:
            losses, churns = (sum(values) / len(self._measured) for values in zip(*self._measured, strict=True))
            self.strength = self.target * losses / (churns + _EPS)

    def _term(self, batch: Batch) -> Tensor | None:
        self._look()
        if self._form() != self._made_for:  # cast or made otherwise since: what is kept is not for it any more
            self._made_for = self._form()
            self._drop()
        if self._device != (device := next(self._model.parameters()).device):
            self._device, self._last, self._reference = device, self._placed(self._last), self._placed(self._reference)
        reference, last = self._reference, self._last
        self._last = batch
        if last is not None:
            with torch.no_grad():
                # As tensors alone, which every file of weights may hold; they are found again in the order of these.
                self._reference = (last, [tensor.detach() for tensor in reversed(tensors_of(self._replay(last)))])
        if reference is None:
            return None
        churn = mean_square(self._replay(reference[0]), reference[1])
        self._churn = churn.detach()
        return churn

    def _drop(self) -> None:
        self._last = self._reference = None

    def state_dict(self) -> dict[str, Any]:
        """λ and what it follows, and the batches that are compared on, by the names and shapes of the weights."""
        self._look()
        return {
            "weights": self._shapes(),
            "dtype": self._dtype(),
            "updates": self._updates,
            "measurements": self._measurements,
            "strength": self.strength,
            "measured": [list(pair) for pair in self._measured],
            "last": self._last,
            "reference": self._reference,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state made by :meth:`state_dict`.

        Raises:
            ValueError: The state belongs to another model. Nothing is loaded then.
        """
        self._look()
        self._check(state, {"updates", "measurements", "strength", "measured", "last", "reference"})
        self._updates = int(state["updates"])
        self.strength = float(state["strength"])
        self._measurements = int(state["measurements"])
        self._measured = [(loss, churn) for loss, churn in state["measured"]]
        self._last, self._reference = self._placed(state["last"]), self._placed(state["reference"])
        self._made_for = self._form()
        if state.get("dtype", self._dtype()) != self._dtype():  # batches of another precision
            self._drop()
        self._has_seen |= self._last is not None
        self._exchanges.mark_loaded()

    def _dtype(self) -> str:
        return str(next(self._model.parameters()).dtype)
