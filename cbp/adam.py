"""Adam with a step count per element."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer, ParamsT

from cbp.method import averaging_dtype, check_number, in_reals

_BLOCK = 2**16  # elements that are updated at once where counts differ: what stays in the cache


@dataclass
class _Counts:
    """What is known of the step counts of a tensor, as long as nobody else writes to them.

    A tensor is seen as a matrix, of one row if it has one dimension. Units that begin anew are rows and columns of it: the
    count of an element is that of its row or of its column, whichever is lower.

    Attributes:
        version: Of the counts, when it was looked up.
        settled: The count beyond which all are taken for the same.
        common: The highest count, as the fused kernels take it; None where counts are mixed otherwise.
        rows: The rows with a lower count, and their counts ``(rows, 1)``.
        columns: The columns with a lower count, and their counts ``(columns,)``.
    """

    version: int
    settled: int
    common: Tensor | None
    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]


class Adam(Optimizer):
    """Adam whose bias correction counts the steps of each weight by itself.

    A weight that is made anew in the middle of training (``ContinualBackprop(reset_optimizer="moments_and_step")``) then
    starts like any new weight: its first step has size lr. With one count per tensor, as in ``torch.optim.Adam``, zeroed
    moments under a large count make a first step of (1−β₁)/√(1−β₂)·lr: 3.2·lr at the default β. As long as no count is reset,
    the steps equal those of ``torch.optim.Adam`` up to rounding, by the same fused kernel.

    State per parameter: ``step`` (a float: exact to 16 million steps in float32), ``exp_avg``, ``exp_avg_sq`` and with
    ``amsgrad`` ``max_exp_avg_sq``, all of its shape.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Step size.
        betas: Decay rates of the two moments, each in [0, 1).
        eps: Added to the denominator.
        weight_decay: Coupled L2 penalty, added to the gradient times the weight; or decoupled, see below.
        amsgrad: Whether the second moment never shrinks (Reddi et al., 2018).
        decoupled_weight_decay: Whether weights shrink by lr·weight_decay beside the step, as in AdamW.

    Raises:
        ValueError: An option out of its range.

    Source: Kingma & Ba (2015), algorithm 1; the per-unit count is that of arXiv 2108.06325, algorithm 2. Defaults: torch's.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        self._counts: dict[Tensor, _Counts] = {}
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        _check(defaults)
        super().__init__(params, {**defaults, "amsgrad": amsgrad, "decoupled_weight_decay": decoupled_weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As for any torch optimizer.

        Raises:
            ValueError: An option out of its range.
        """
        if isinstance(param_group, dict):
            _check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As for any torch optimizer.

        Raises:
            ValueError: An option of a group is out of its range. Nothing is loaded then.
        """
        for group in state_dict["param_groups"]:
            _check({**self.defaults, **group})
        super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._counts = {}
        for group in self.param_groups:
            group.setdefault("amsgrad", False)
            group.setdefault("decoupled_weight_decay", False)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_counts": {}}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient.

        Args:
            closure: Evaluates the model anew and returns the loss, as for any torch optimizer.

        Returns:
            The closure's loss, or None.

        Raises:
            RuntimeError: A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            fused: list[Tensor] = []
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self._state_of(parameter, group)
                    counts = self._counts_of(parameter, state["step"], group)
                    if counts.common is None:
                        _update_by_element(parameter, state, group)
                        counts.version = state["step"]._version
                    elif all(value.is_contiguous() for value in state.values()):
                        fused.append(parameter)
                    else:
                        _update_by_element(parameter, state, group)
                        del self._counts[parameter]
            self._update_fused(fused, group)
        return loss

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise RuntimeError("cbp.Adam does not support sparse gradients")
        state = cast("dict[str, Tensor]", self.state[parameter])
        if not state:
            state["step"] = torch.zeros_like(parameter, dtype=averaging_dtype(parameter))
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        if group["amsgrad"] and "max_exp_avg_sq" not in state:
            state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()
        if state["step"].shape != parameter.shape:  # a state of torch.optim.Adam
            state["step"] = state["step"].to(averaging_dtype(parameter)).expand(parameter.shape).clone()
        if state["step"].device != parameter.device:  # a state that was saved on another
            state["step"] = state["step"].to(parameter.device)
        return state

    def _counts_of(self, parameter: Tensor, step: Tensor, group: dict[str, Any]) -> _Counts:
        """What is known of the counts; looked up anew only where they were written to since the last update."""
        counts = self._counts.get(parameter)
        # Beyond this count, 1 − β^t is 1 for both β.
        settled = math.ceil(math.log(torch.finfo(step.dtype).eps / 4) / math.log(max(*group["betas"], 1e-3)))
        known = counts is not None and (counts.version, counts.settled) == (step._version, settled)
        if counts is None or not known or counts.rows[0].device != parameter.device:
            counts = self._counts[parameter] = _look_up(parameter, step, settled)
        return counts

    def _update_fused(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """The update of torch's fused Adam, corrected in rows and columns whose count is another."""
        if not parameters:
            return
        states = [cast("dict[str, Tensor]", self.state[parameter]) for parameter in parameters]
        known = [self._counts[parameter] for parameter in parameters]
        before = [
            (_as_matrix(parameter).index_select(0, counts.rows[0]), _as_matrix(parameter).index_select(1, counts.columns[0]))
            if len(counts.rows[0]) or len(counts.columns[0])
            else None
            for parameter, counts in zip(parameters, known, strict=True)
        ]
        beta1, beta2 = group["betas"]
        adam(
            parameters,
            [cast("Tensor", parameter.grad).contiguous() for parameter in parameters],  # the kernel takes them for that
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [cast("Tensor", counts.common) for counts in known],
            fused=True,
            amsgrad=group["amsgrad"],
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
            decoupled_weight_decay=group["decoupled_weight_decay"],
        )
        torch._foreach_add_([state["step"] for state in states], 1)
        for parameter, state, counts, old in zip(parameters, states, known, before, strict=True):
            counts.version = state["step"]._version
            if old is not None:
                _correct(_as_matrix(parameter), state, counts, *old, group)


def _check(options: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        check_number(name, _plain(options[name]), 0)
    betas = options["betas"]
    try:
        first, second = map(_plain, betas)
        are_decays = 0 <= first < 1 and 0 <= second < 1
    except (TypeError, ValueError):
        are_decays = False
    if not are_decays:
        raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}")
    if options.get("maximize"):
        raise ValueError("cbp.Adam minimises, got maximize=True: minimise the negative instead")


def _plain(value: Any) -> Any:
    """A tensor of one number as a number."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _look_up(parameter: Tensor, step: Tensor, settled: int) -> _Counts:
    nothing = step.new_zeros(0, dtype=torch.int64), step.new_zeros(0)
    counts = _Counts(step._version, settled, None, nothing, nothing)
    if not (parameter.numel() and parameter.is_contiguous() and step.is_contiguous() and _has_fused(parameter)):
        return counts
    matrix = _as_matrix(step).clamp_max(settled)
    of_rows, of_columns = matrix.amax(dim=1, keepdim=True), matrix.amax(dim=0)
    if torch.equal(matrix, torch.minimum(of_rows, of_columns)):
        common = of_rows.max()
        rows, columns = ((of != common).flatten().nonzero().flatten() for of in (of_rows, of_columns))
        counts.rows, counts.columns = (rows, of_rows[rows]), (columns, of_columns[columns])
        counts.common = common.to(torch.float32)
    return counts


def _correct(
    matrix: Tensor, state: dict[str, Tensor], counts: _Counts, old_rows: Tensor, old_columns: Tensor, group: dict[str, Any]
) -> None:
    """Makes the step of rows and columns anew, from what they were before, by their own counts."""
    (rows, of_rows), (columns, of_columns) = counts.rows, counts.columns
    of_rows += 1
    of_columns += 1
    averages = {name: _as_matrix(value) for name, value in state.items() if name != "step"}
    both = old_rows.index_select(1, columns)
    if len(columns):
        _descend(old_columns, {"step": of_columns, **_select(averages, 1, columns)}, group)
        matrix.index_copy_(1, columns, old_columns)
    if len(rows):
        size = max(_BLOCK // matrix.shape[1], 1)
        for old, some, steps in zip(*(torch.split(part, size) for part in (old_rows, rows, of_rows)), strict=True):
            _descend(old, {"step": steps, **_select(averages, 0, some)}, group)
        matrix.index_copy_(0, rows, old_rows)
    if len(rows) and len(columns):
        where = rows.unsqueeze(1), columns
        of_both = {"step": torch.minimum(of_rows, of_columns), **{name: value[where] for name, value in averages.items()}}
        _descend(both, of_both, group)
        matrix[where] = both


def _select(tensors: dict[str, Tensor], dim: int, index: Tensor) -> dict[str, Tensor]:
    return {name: tensor.index_select(dim, index) for name, tensor in tensors.items()}


def _as_matrix(tensor: Tensor) -> Tensor:
    """``(rows, …)`` as ``(rows, columns)``, and ``(n,)`` as ``(1, n)``: a view."""
    return tensor.view(len(tensor), -1) if tensor.ndim > 1 else tensor.view(1, -1)


def _has_fused(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")


def _update_by_element(parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """The whole update where counts differ, block by block."""
    gradient = cast("Tensor", parameter.grad)
    tensors = {name: in_reals(tensor) for name, tensor in {"parameter": parameter, "gradient": gradient, **state}.items()}
    if all(tensor.is_contiguous() for tensor in tensors.values()):
        blocks = list(zip(*(torch.split(tensor.view(-1), _BLOCK) for tensor in tensors.values()), strict=True))
    else:
        blocks = [tuple(tensors.values())]
    beta1, beta2 = group["betas"]
    for block in blocks:
        of_block = dict(zip(tensors, block, strict=True))
        weight, gradient = of_block.pop("parameter"), of_block.pop("gradient")
        if group["weight_decay"] and not group["decoupled_weight_decay"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        of_block["step"] += 1
        of_block["exp_avg"].lerp_(gradient, 1 - beta1)
        of_block["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if group["amsgrad"]:
            torch.maximum(of_block["max_exp_avg_sq"], of_block["exp_avg_sq"], out=of_block["max_exp_avg_sq"])
        _descend(weight, of_block, group)


def _descend(weight: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    """θ ← θ − lr · m̂ / (√v̂ + ε),  m̂ = m / (1 − β₁^t),  v̂ = v / (1 − β₂^t), in place."""
    beta1, beta2 = group["betas"]
    if group["weight_decay"] and group["decoupled_weight_decay"]:
        weight.mul_(1 - group["lr"] * group["weight_decay"])
    # m̂ / (√v̂ + ε) = m / ((√v + ε·√c₂) · c₁/√c₂), with the corrections c = 1 − β^t
    root = _bias_correction(beta2, state["step"]) ** 0.5
    squares = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
    denominator = squares.to(state["step"].dtype).sqrt().add_(group["eps"] * root)
    denominator *= _bias_correction(beta1, state["step"]) / root
    weight.addcdiv_(state["exp_avg"], denominator.to(weight.dtype), value=-group["lr"])


def _bias_correction(beta: float, step: Tensor) -> Tensor | float:
    """1 − β^t; through expm1, because 1 − 0.999^1 loses half its digits in float32."""
    return torch.expm1_(step * math.log(beta)).neg_() if beta else 1.0
