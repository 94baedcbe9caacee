"""Inside recurrences: layer, direction, time step, gate and sample of a planted birth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from nan_watch.origin.find import Origin, find_origin
from nan_watch.origin.fused_cells import gru_cell, gru_cell_backward, lstm_cell, lstm_cell_backward
from nan_watch.origin.ledger import Ledger
from probes.replay import Snapshot

HIDDEN, INPUT, SAMPLES, STEPS = 4, 3, 5, 6


def origin_of(model: nn.Module, loss: Callable[[], Tensor], batch: object = None) -> Origin | None:
    def step() -> Tensor:
        value = loss()
        value.backward()
        return value

    return find_origin(model, step, Snapshot.take(model), batch=batch)


def weight(rnn: nn.Module, name: str) -> Tensor:
    return getattr(rnn, name).data


def inputs(batch_first: bool = False) -> Tensor:
    shape = (SAMPLES, STEPS, INPUT) if batch_first else (STEPS, SAMPLES, INPUT)
    return torch.randn(shape) * 0.1


@pytest.fixture
def no_mkldnn() -> Iterator[None]:
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    yield
    torch._C._set_mkldnn_enabled(before)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_an_overflow_in_the_projection_of_all_inputs_has_its_time(
    batch_first: bool, packed: bool
) -> None:
    torch.manual_seed(0)
    kind = {"nonlinearity": "relu", "batch_first": batch_first}
    model = nn.ModuleDict({"rnn": nn.RNN(INPUT, HIDDEN, **kind)})
    x, lengths = inputs(batch_first), torch.tensor([6, 6, 5, 5, 2])
    x[(3, 2) if batch_first else (2, 3)] = 2e38  # sample 3, time 2
    weight(model["rnn"], "weight_ih_l0").copy_(torch.ones(HIDDEN, INPUT) * 0.1)
    weight(model["rnn"], "weight_ih_l0")[1] = 10.0

    def loss() -> Tensor:
        return _sum(model["rnn"](_fed(x, lengths, packed, batch_first))[0])

    found = origin_of(model, loss, {"x": x, "lengths": lengths})
    assert found is not None
    assert found.op in ("aten.addmm", "aten.mm")
    assert (found.site, found.phase) == ("rnn", "forward")
    where = {key: found.where[key] for key in ("layer", "time", "sample", "feature")}
    assert where == {"layer": 0, "time": 2, "sample": 3, "feature": 1}


@pytest.mark.usefixtures("no_mkldnn")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("packed", [False, True])
def test_inputs_against_state_are_named_by_gate(kind: str, packed: bool) -> None:
    """+inf from the inputs meets -inf from the state: in one sample, step and gate."""
    torch.manual_seed(0)
    rnn = getattr(nn, kind)(INPUT, HIDDEN)
    for name, parameter in rnn.named_parameters():
        parameter.data.fill_(0.0 if "weight" in name else 30.0)  # gates are open: state is kept
    weight(rnn, "weight_ih_l0")[HIDDEN + 2] = 10.0
    weight(rnn, "weight_hh_l0")[HIDDEN + 2] = 3e38
    x, lengths = inputs(), torch.tensor([6, 6, 5, 5, 2])
    x[2, 3] = -2e38
    start = torch.ones(1, SAMPLES, HIDDEN)
    states = (start, torch.ones_like(start)) if kind == "LSTM" else start

    def loss() -> Tensor:
        return _sum(rnn(_fed(x, lengths, packed, False), states)[0])

    found = origin_of(rnn, loss, {"x": x, "lengths": lengths})
    assert found is not None
    gate = "forget" if kind == "LSTM" else "update"
    assert found.where == {"layer": 0, "time": 2, "sample": 3, "gate": gate, "feature": 2}
    assert any(event.nan_born and event.place.rnn is not None for event in found.path)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_an_exploding_gradient_in_a_stacked_bidirectional_one(
    kind: str, packed: bool, reverse: bool
) -> None:
    """The states are all zero; backwards the gradient grows by 2.5e14 a step."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"rnn": getattr(nn, kind)(INPUT, HIDDEN, num_layers=2, bidirectional=True)}
    )
    rnn = model["rnn"]
    for parameter in rnn.parameters():
        parameter.data.zero_()
    new = slice(2 * HIDDEN, 3 * HIDDEN)
    suffix = "_l1_reverse" if reverse else "_l1"
    weight(rnn, f"weight_hh{suffix}")[new] = torch.eye(HIDDEN) * 1e15
    x, lengths = inputs(), torch.tensor([6, 6, 5, 5, 2])

    def loss() -> Tensor:
        return _sum(rnn(_fed(x, lengths, packed, False))[0])

    found = origin_of(model, loss, {"x": x, "lengths": lengths})
    assert found is not None
    assert (found.phase, found.site) == ("backward", "rnn"), found.story()
    assert found.kernels == ("unfused" if kind == "LSTM" and not packed else "the same")
    assert found.where["layer"] == 1
    assert found.where["direction"] == ("reverse" if reverse else "forward")
    assert found.where["time"] == (2 if reverse else 3)
    assert found.growth is not None
    assert max(found.growth.state) == 0
    assert found.growth.gradient_factor is not None


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_a_cell_that_is_called_step_by_step(cell: type[nn.Module]) -> None:
    model, x = nn.ModuleDict({"cell": cell(INPUT, HIDDEN)}), inputs()
    for parameter in model.parameters():
        parameter.data.zero_()
    weight(model["cell"], "weight_hh")[2 * HIDDEN : 3 * HIDDEN] = torch.eye(HIDDEN) * 1e15

    def loss() -> Tensor:
        state = None
        for each in x:
            state = model["cell"](each, state)
        last = state[0] if isinstance(state, tuple) else state
        assert last is not None
        return last.sum()

    found = origin_of(model, loss, {"x": x})
    assert found is not None
    assert (found.site, found.phase) == ("cell", "backward")
    assert found.where["time"] == 3, found.story()
    assert "layer" not in found.where
    assert found.growth is not None
    assert len(found.growth.state) == STEPS
    assert found.growth.gradient_factor == pytest.approx(2.5e14, rel=0.01)


def _fed(x: Tensor, lengths: Tensor, packed: bool, batch_first: bool) -> Any:
    return pack_padded_sequence(x, lengths, batch_first) if packed else x


def _sum(out: Any) -> Tensor:
    return getattr(out, "data", out).sum() if isinstance(out, tuple) else out.sum()


@pytest.mark.parametrize("scale", [30.0, 0.3])
def test_an_exploding_recurrence_shows_its_growth(scale: float) -> None:
    """A ReLU recurrence that grows thirtyfold a step leaves the range of fp32."""
    torch.manual_seed(0)
    rnn = nn.RNN(INPUT, HIDDEN, nonlinearity="relu", batch_first=True)
    for name, parameter in rnn.named_parameters():
        parameter.data.zero_() if "bias" in name else parameter.data.fill_(0.1)
    weight(rnn, "weight_hh_l0").copy_(torch.eye(HIDDEN) * scale)
    x = torch.ones(2, 40, INPUT)
    found = origin_of(rnn, lambda: rnn(x)[0].square().mean(), x)
    assert (found is not None) == (scale > 1)
    if found is not None:
        assert found.growth is not None
        assert found.growth.factor == pytest.approx(30, rel=0.1)
        assert len(found.growth.state) == 40
        assert found.where["time"] == 27
        assert found.where["layer"] == 0


def test_a_gradient_that_explodes_within_has_its_time_step() -> None:
    """Backwards the gradient grows thirtyfold a step, while the states stay small."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.RNN(INPUT, HIDDEN, nonlinearity="relu")})
    rnn = model["rnn"]
    for name, parameter in rnn.named_parameters():
        parameter.data.fill_(1e-30 if "bias" in name else 0.0)
    weight(rnn, "weight_hh_l0").copy_(torch.eye(HIDDEN) * 100)
    x = torch.zeros(25, 2, INPUT)
    found = origin_of(model, lambda: rnn(x)[0][-1].sum() * 1e4, x)
    assert found is not None
    assert (found.phase, found.site) == ("backward", "rnn")
    assert found.growth is not None
    assert found.growth.gradient_factor == pytest.approx(100, rel=0.05)
    assert found.where["time"] in range(10)


def test_healthy_recurrences_have_no_origin() -> None:
    torch.manual_seed(0)
    rnn = nn.LSTM(INPUT, HIDDEN, num_layers=2, bidirectional=True, dropout=0.5)
    assert origin_of(rnn, lambda: rnn(inputs())[0].square().mean()) is None


def test_cudas_fused_cells_are_decomposed_as_torch_computes_them() -> None:
    torch.manual_seed(0)
    kind = {"dtype": torch.float64}
    cell = nn.LSTMCell(INPUT, HIDDEN, **kind)
    x, h, c = (torch.randn(2, n, **kind, requires_grad=True) for n in (INPUT, HIDDEN, HIDDEN))
    hy, cy = cell(x, (h, c))
    (hy.sum() + 2 * cy.square().sum()).backward()
    with torch.no_grad():
        ig, hg = x @ cell.weight_ih.T, h @ cell.weight_hh.T
        ours = lstm_cell(ig, hg, c, cell.bias_ih, cell.bias_hh)
        assert torch.allclose(ours[0], hy)
        assert torch.allclose(ours[1], cy)
        back = lstm_cell_backward(torch.ones_like(hy), 4 * cy, c, ours[1], ours[2], True)
        assert torch.allclose(back[0] @ cell.weight_ih, x.grad)
        assert torch.allclose(back[1], c.grad)
        assert torch.allclose(back[2], cell.bias_hh.grad)
    assert lstm_cell_backward(None, None, c, cy, ours[2], True) == (None, None, None)


def test_the_same_of_the_gru() -> None:
    torch.manual_seed(0)
    kind = {"dtype": torch.float64}
    cell = nn.GRUCell(INPUT, HIDDEN, **kind)
    x, h = (torch.randn(2, n, **kind, requires_grad=True) for n in (INPUT, HIDDEN))
    hy = cell(x, h)
    hy.square().sum().backward()
    with torch.no_grad():
        ig, hg = x @ cell.weight_ih.T, h @ cell.weight_hh.T
        ours, workspace = gru_cell(ig, hg, h, cell.bias_ih, cell.bias_hh)
        assert torch.allclose(ours, hy)
        back = gru_cell_backward(2 * hy, workspace, True)
        assert torch.allclose(back[0] @ cell.weight_ih, x.grad)
        assert torch.allclose(back[1] @ cell.weight_hh + back[2], h.grad)
        assert torch.allclose(back[3], cell.bias_ih.grad)
        assert torch.allclose(back[4], cell.bias_hh.grad)


def test_a_ledger_sees_inside_a_fused_cell() -> None:
    """The fused operator is CUDA's alone; under a ledger its steps run, on any device."""
    gates = torch.zeros(2, 4 * HIDDEN)
    gates[1, HIDDEN] = torch.inf
    other = torch.zeros_like(gates)
    other[1, HIDDEN] = -torch.inf
    ledger = Ledger(nn.Linear(1, 1), decompose=True)
    with ledger:
        torch.ops.aten._thnn_fused_lstm_cell(gates, other, torch.zeros(2, HIDDEN))
    births = [event for event in ledger.events if event.nan_born]
    assert births[0].op == "aten.add_"
    assert births[0].where is not None
    assert births[0].where.first == ((1, HIDDEN),)
    assert [read.held.count for read in births[0].reads] == [1, 1]
