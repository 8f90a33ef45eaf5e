"""Operations that a GPU has in one, written out as the CPU makes them, so that their units can be followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _lstm_cell(
    of_input: Tensor, of_hidden: Tensor, cell: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``(h', c', workspace)``: i, f, g, o = gates; c' = σ(f)·c + σ(i)·tanh(g); h' = σ(o)·tanh(c')."""
    gates = _with(of_hidden, hidden_bias) + _with(of_input, input_bias)
    i, f, g, o = gates.unsafe_chunk(4, 1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell, gates


def _gru_cell(
    of_input: Tensor, of_hidden: Tensor, hidden: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``(h', workspace)``: n = tanh(i_n + σ(i_r + h_r)·h_n), z = σ(i_z + h_z); h' = (h − n)·z + n."""
    of_input, of_hidden = _with(of_input, input_bias), _with(of_hidden, hidden_bias)
    (i_r, i_z, i_n), (h_r, h_z, h_n) = of_input.unsafe_chunk(3, 1), of_hidden.unsafe_chunk(3, 1)
    new = (i_n + (h_r + i_r).sigmoid() * h_n).tanh()
    return (hidden - new) * (h_z + i_z).sigmoid() + new, of_input


def _with(gates: Tensor, bias: Tensor | None) -> Tensor:
    return gates if bias is None else gates + bias


WRITTEN_OUT: dict[Any, Callable[..., Any]] = {
    torch.ops.aten._thnn_fused_lstm_cell.default: _lstm_cell,
    torch.ops.aten._thnn_fused_gru_cell.default: _gru_cell,
}
