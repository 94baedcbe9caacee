"""CUDA's fused recurrent cells, step by step: so that a replay sees their gates.

Formulas: aten/src/ATen/native/cuda/RNN.cu; the workspaces are laid out as there, so that forward
and backward may each be the fused one or ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def lstm_cell(
    inputs: Tensor, hidden: Tensor, cx: Tensor, ib: Tensor | None = None, hb: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`_thnn_fused_lstm_cell`: the next state, (batch, hidden) twice, and the activated gates."""
    gates = _sum(inputs, hidden, ib, hb)  # (batch, 4 * hidden)
    i, f, g, o = gates.chunk(4, 1)  # views, each (batch, hidden)
    i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
    cy = f * cx + i * g
    return o * cy.tanh(), cy, gates


def lstm_cell_backward(
    grad_hy: Tensor | None,
    grad_cy: Tensor | None,
    cx: Tensor,
    cy: Tensor,
    workspace: Tensor,
    has_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`_thnn_fused_lstm_cell_backward_impl`: gradients of the gates, the cell and the biases."""
    if grad_hy is None and grad_cy is None:
        return None, None, None
    i, f, g, o = workspace.chunk(4, 1)
    hy = torch.zeros_like(cx) if grad_hy is None else grad_hy
    tanh = cy.tanh()
    cell = hy * o * (1 - tanh * tanh)
    cell = cell if grad_cy is None else cell + grad_cy
    gates = torch.cat([
        cell * g * (1 - i) * i,
        cell * cx * (1 - f) * f,
        cell * i * (1 - g * g),
        hy * tanh * (1 - o) * o,
    ], 1)  # (batch, 4 * hidden)  # fmt: skip
    return gates, cell * f, gates.sum(0) if has_bias else None


def gru_cell(
    inputs: Tensor, hidden: Tensor, hx: Tensor, ib: Tensor | None = None, hb: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`_thnn_fused_gru_cell`: the next state and the workspace, (batch, 5 * hidden)."""
    (ir, iz, i_new), (hr, hz, h_new) = _sum(inputs, ib).chunk(3, 1), _sum(hidden, hb).chunk(3, 1)
    reset, update = (ir + hr).sigmoid_(), (iz + hz).sigmoid_()
    new = (i_new + reset * h_new).tanh_()
    return new + update * (hx - new), torch.cat([reset, update, new, hx, h_new], 1)


def gru_cell_backward(
    grad_hy: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """`_thnn_fused_gru_cell_backward`: of both gate inputs, the state, and both biases."""
    reset, update, new, hx, h_new = workspace.chunk(5, 1)
    grad_update = grad_hy * (hx - new) * (1 - update) * update
    grad_new = grad_hy * (1 - update) * (1 - new * new)
    grad_reset = grad_new * h_new * (1 - reset) * reset
    inputs = torch.cat([grad_reset, grad_update, grad_new], 1)  # (batch, 3 * hidden)
    hidden = torch.cat([grad_reset, grad_update, grad_new * reset], 1)
    biases = (inputs.sum(0), hidden.sum(0)) if has_bias else (None, None)
    return inputs, hidden, grad_hy * update, *biases


def _sum(*parts: Tensor | None) -> Tensor:
    first, *rest = [part for part in parts if part is not None]
    total = first.clone()
    for part in rest:
        total.add_(part)
    return total


DECOMPOSED: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten._thnn_fused_lstm_cell.default: lstm_cell,
    torch.ops.aten._thnn_fused_lstm_cell_backward_impl.default: lstm_cell_backward,
    torch.ops.aten._thnn_fused_gru_cell.default: gru_cell,
    torch.ops.aten._thnn_fused_gru_cell_backward.default: gru_cell_backward,
}
