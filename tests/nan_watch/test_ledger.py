"""Births, spread and healing, and which event wrote what: by storage, latest writer first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nan_watch.origin.events import Event
from nan_watch.origin.held import Held, held, held_number, is_mask, where
from nan_watch.origin.ledger import Ledger
from nan_watch.origin.memory import Memory

NAN, INF = torch.nan, torch.inf


def events_of(
    run: Callable[[], Any], batch: Any = None, model: nn.Module | None = None
) -> list[Event]:
    ledger = Ledger(model or nn.Linear(1, 1), batch)
    with ledger:
        run()
    return ledger.events


def births(events: list[Event]) -> list[str | None]:
    return [event.op for event in events if event.nan_born or event.inf_born]


def test_kinds_are_told_apart() -> None:
    assert held(torch.tensor([NAN, INF, -INF, -INF, 1.0])) == Held(1, 1, 2, 5)
    assert str(Held(1, 0, 2, 5)) == "1 NaN, 2 -inf of 5"
    assert held(torch.tensor([1e38, 3e38, -3e38])) is None, "no sum that overflows"
    assert held(torch.tensor([60000.0, 60000.0], dtype=torch.float16)) is None
    assert held(torch.tensor([complex(1, INF)])) == Held(0, 1, 0, 2)
    for healthy in (torch.ones(0), torch.ones(2, dtype=torch.int64), torch.empty(2, device="meta")):
        assert held(healthy) is None
    assert held(torch.tensor([INF]).to(torch.bfloat16)) == Held(0, 1, 0, 1)
    assert held(torch.tensor([NAN]).to(torch.float8_e4m3fn)) == Held(1, 0, 0, 1)
    assert held_number(3) is None
    assert held_number(-INF) == Held(0, 0, 1, 1)


def test_where_is_cut_at_sixteen() -> None:
    found = where(torch.full((5, 9), NAN), nan=True)
    assert (found.shape, len(found.first)) == ((5, 9), 16)
    assert found.first[0] == (0, 0)
    assert found.along == (tuple(range(5)), tuple(range(9)))
    assert where(torch.tensor([1.0, INF, NAN]), nan=False).first == ((1,),)
    assert where(torch.full((32, 1), NAN), nan=True).along[0] == tuple(range(32))


def test_masks_are_known() -> None:
    assert is_mask(torch.tensor([0.0, -INF]))
    assert not is_mask(torch.tensor([0.0, INF]))
    assert not is_mask(torch.tensor([0.5, -INF]))
    assert not is_mask(torch.tensor([NAN, -INF]))


def test_birth_spread_and_healing() -> None:
    x = torch.tensor([-1.0, 4.0])

    def run() -> None:
        root = x.sqrt()
        more = root * 2
        torch.where(x > 0, more, 0.0)

    birth, spread, healed = events_of(run)
    assert (birth.op, birth.nan_born, birth.reads) == ("aten.sqrt", True, ())
    assert birth.largest_finite == 4
    assert birth.where is not None
    assert birth.where.first == ((0,),)
    assert (spread.op, spread.nan_born) == ("aten.mul", False)
    assert spread.reads[0].writers == (birth.index,)
    assert (healed.op, healed.held) == ("aten.where", None)
    assert healed.reads[0].writers == (spread.index,)


def test_a_branch_that_was_not_taken_does_not_reach() -> None:
    def run() -> None:
        innocent = torch.tensor([-1.0, 1.0]).sqrt()
        guilty = torch.tensor([1.0, -1.0]).log()
        torch.where(torch.tensor([False, False]), innocent, guilty)

    *_, chosen = events_of(run)
    assert chosen.op == "aten.where"
    assert [(read.writers, read.reaches) for read in chosen.reads] == [((0,), False), ((1,), True)]


def test_a_healthy_run_leaves_nothing() -> None:
    def run() -> None:
        x = torch.empty(3).normal_()
        y = torch.empty_like(x)
        torch.add(x, 1, out=y)
        y.clamp_(min=-INF).exp_().sum().item()

    assert events_of(run) == []


@pytest.mark.parametrize("meant", ["masked_fill", "where", "full", "fill_", "index_put_", "log"])
def test_infinities_that_are_asked_for_are_meant(meant: str) -> None:
    hide = torch.tensor([True, False])

    def run() -> None:
        x = torch.ones(2)
        if meant == "masked_fill":
            x.masked_fill(hide, -INF)
        elif meant == "where":
            torch.where(hide, x, -INF)
        elif meant == "full":
            torch.full((2,), -INF)
        elif meant == "fill_":
            x[:1].fill_(-INF)
        elif meant == "index_put_":
            x[hide] = -INF
        else:
            hide.float().log()

    found = [event for event in events_of(run) if event.nan_born or event.inf_born]
    assert found
    assert all(event.meant for event in found)


def test_an_overflow_beside_a_mask_is_a_birth() -> None:
    def run() -> None:
        x = torch.tensor([1.0, 200.0]).masked_fill(torch.tensor([True, False]), -INF)
        x.exp()
        (-x).exp()

    found = events_of(run)
    assert [e.op for e in found if e.inf_born and not e.meant] == ["aten.exp"]


def test_views_and_partial_writes_lead_to_their_writer() -> None:
    ledger = Ledger(nn.Linear(1, 1))
    with ledger:
        out = torch.zeros(4, 3)
        out[1] = torch.tensor([0.0, -1.0, 4.0]).sqrt()
        out[2] = 1.0
        out[3] = torch.tensor([0.0, 1.0, 4.0]).log()
        spread = out.t()[:, 1] + 1
        clean = out[2] + 1
    sqrt, first, log, second, add = ledger.events
    assert (sqrt.op, first.op, log.op, second.op) == (
        "aten.sqrt",
        "aten.copy_",
        "aten.log",
        "aten.copy_",
    )
    assert ledger.writers(out) == (first.index, second.index)
    assert add.reads[0].writers == (first.index,)
    assert ledger.writers(spread) == (add.index,)
    assert ledger.writers(clean) == ()


def test_an_overwritten_place_is_clean() -> None:
    ledger = Ledger(nn.Linear(1, 1))
    with ledger:
        x = torch.zeros(3).log()
        x[:2] = 1.0
        half = ledger.writers(x[:2])
        x.zero_()
    assert half != (), "the first write covered all three"
    assert ledger.writers(x) == ()


def test_in_place_operators_read_what_was_there_before() -> None:
    x = torch.tensor([200.0, 1.0])

    def run() -> None:
        x.exp_()
        x.sub_(x.clone())

    overflow, copied, minus = events_of(run)
    assert (overflow.op, overflow.largest_finite) == ("aten.exp_", 200)
    assert (minus.op, minus.nan_born) == ("aten.sub_", True)
    assert [read.writers for read in minus.reads] == [(overflow.index,), (copied.index,)]


def test_lists_of_tensors_are_followed() -> None:
    def run() -> None:
        many = [torch.zeros(2), torch.ones(2)]
        torch._foreach_log_(many)
        torch.stack(many).sum()

    found = events_of(run)
    assert [event.op for event in found] == ["aten._foreach_log_", "aten.stack", "aten.sum"]
    assert found[1].reads[0].writers == (0,)


def test_numbers_that_were_read_back_keep_their_birth() -> None:
    def run() -> None:
        bad = torch.tensor([-1.0]).sqrt().item()
        torch.ones(2) * bad

    born, read_back, spread = events_of(run)
    assert read_back.op == "aten._local_scalar_dense"
    assert spread.reads[0].writers == (read_back.index,)
    assert not spread.nan_born
    assert births([born, read_back, spread]) == ["aten.sqrt"]


def test_what_was_there_before_is_its_own_source() -> None:
    model = nn.BatchNorm1d(2)
    assert model.running_var is not None
    model.running_var[0] = INF
    with torch.no_grad():
        model.weight[1] = NAN
    batch = {"x": torch.tensor([1.0, -INF]), "mask": torch.tensor([0.0, -INF]), "n": 3}
    constant = torch.tensor([NAN])
    found = events_of(lambda: constant + 1, batch, model)
    told = [(event.given, event.name, event.meant) for event in found[:4]]
    assert told == [
        ("parameter", "weight", False),
        ("buffer", "running_var", False),
        ("batch", "x", False),
        ("batch", "mask", True),
    ]
    assert (found[4].given, found[4].phase) == ("constant", "data")
    assert found[5].reads[0].writers == (4,)


def test_memory_that_nobody_set_is_a_source_only_where_it_is_read() -> None:
    def run() -> None:
        kept = torch.empty(4)
        kept.numpy()[:] = float("nan")
        kept[:2] = 0.0
        (kept[:2] + 1).sum()
        kept.sum()

    source, summed = events_of(run)
    assert (source.given, source.op) == ("uninitialised", "aten.empty")
    assert summed.reads[0].writers == (source.index,)


def test_backward_events_have_node_site_and_the_line_of_their_forward_operator() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self) -> Tensor:
            return self.weight.sqrt().sum()

    model = nn.ModuleDict({"root": Root()})
    [birth] = events_of(lambda: model["root"]().backward(), model=model)
    assert (birth.op, birth.node, birth.phase) == ("aten.div", "SqrtBackward0", "backward")
    assert birth.place.site == "root"
    assert birth.place.source is not None
    assert "test_ledger.py:" in birth.place.source


def test_the_memory_of_a_freed_tensor_is_not_taken_for_another() -> None:
    memory = Memory()
    for event in range(50):
        tensor = torch.ones(64)
        assert not memory.knows(tensor)
        memory.wrote(tensor, event, fresh=True)
        assert memory.writers(tensor) == (event,)
        del tensor
