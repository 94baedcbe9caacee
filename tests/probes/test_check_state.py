"""States that are wrong without being cases of their own, and right ones that look wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Layout, State, Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
STATE = [each for each in chosen() if each.code.startswith("STA")]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def said(subject: Subject) -> list[Finding]:
    return [f for f in check(subject, STATE).findings if f.verdict.rank > Verdict.NOTE.rank]


def places(subject: Subject) -> list[tuple[str, str | None]]:
    return sorted((f.code, f.site) for f in said(subject))


def of(model: nn.Module, layout: Layout | None = None, **more: Any) -> Subject:
    chance = torch.Generator().manual_seed(0)
    batches = [
        {
            "x": torch.randn(6, 5, 4, generator=chance),
            "labels": torch.randint(0, 3, (6,), generator=chance),
        }
        for _ in range(2)
    ]
    return Subject(
        model, batches, lambda m, b: F.cross_entropy(m(b["x"]), b["labels"]), adam,
        predict=lambda m, b: m(b["x"]), layout=layout, **more,
    )  # fmt: skip


class Reader(nn.Module):
    """A GRU whose state goes the way that it is told."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)
        self.way = way
        self.hidden: Tensor | None = None
        self.memo: dict[int, Tensor] = {}
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        begins = self.way == "begins" and float(x[0, 0, 0]) > 99
        out, h = self.gru(x, None if begins else self.hidden)
        if self.way in ("detached", "begins"):
            self.hidden = h.detach()
        elif self.way == "grown":
            self.hidden = h
        elif self.way == "memo":
            out = self.memo.setdefault(len(x), out.detach())
        elif self.way == "length":
            if self.scale is None:
                self.scale = torch.linspace(0, 1, x.shape[1])
            out = out * self.scale[None, : x.shape[1], None].clone()
            out = out if len(self.scale) == x.shape[1] else out * len(self.scale)
        return self.head(out.mean(1))  # type: ignore[no-any-return]


def retained(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer) -> Tensor:
    """A step that keeps its graph, as is done to silence an error; nothing is written."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(batch["x"]), batch["labels"])
    loss.backward(retain_graph=True)
    return loss


def test_a_state_that_is_left_over_is_named_and_can_be_declared() -> None:
    seed_everything(0)
    found = said(of(Reader("detached")))
    assert [(f.code, f.site, f.verdict) for f in found] == [
        ("STA001", "model.hidden", Verdict.WARN)
    ]
    assert "State('model.hidden', over='batch')" in found[0].fix
    declared = Layout(states=(State("model.hidden", over="batch", detached=True),))
    assert said(of(Reader("detached"), declared)) == []
    lost = said(of(Reader("fresh"), Layout(states=(State("gru", over="batch"),))))
    assert [(f.code, f.site) for f in lost] == [("STA001", "gru")]
    begins = of(Reader("begins"), declared)
    begins.batches[0]["x"][0, 0, 0] = 100.0  # type: ignore[index]  # the first of its sequences
    assert said(begins) == []


def test_graphs_that_grow_and_memos_are_named() -> None:
    seed_everything(0)
    grown = of(Reader("grown"), train_step=retained)
    assert ("STA004", "model.hidden") in places(grown)
    assert ("STA001", "model.memo") in places(of(Reader("memo")))
    assert ("STA008", "model.scale") in places(of(Reader("length")))


def test_a_state_outside_of_the_model_is_found() -> None:
    kept: list[Tensor | None] = [None]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        out, h = model.gru(batch["x"], kept[0])  # type: ignore[operator]
        kept[0] = h.detach()
        return F.cross_entropy(model.head(out[:, -1]), batch["labels"])  # type: ignore[operator]

    seed_everything(0)
    whole = of(Reader("fresh"))
    subject = Subject(whole.model, whole.batches, loss, adam)
    found = said(subject)
    assert [(f.code, f.site) for f in found] == [("STA001", "<loss>")]
    assert "`kept`, around" in found[0].message


class Remembers(nn.Module):
    """Keeps what is no attribute: a default value, or its own weight, written once or for ever."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.read = nn.Linear(4, 3)

    def forward(self, x: Tensor, past: list[Tensor] = []) -> Tensor:  # noqa: B006
        if self.way != "default":
            self.read.weight.data.div_(self.read.weight.norm() if self.way == "once" else 1.25)
        out = self.read(x.mean(1))
        if self.way == "default":
            past.append(out.detach())
            out = out + past[-2] if len(past) > 1 and len(past[-2]) == len(out) else out
        return out  # type: ignore[no-any-return]


def test_what_outlives_a_call_without_being_an_attribute_is_named() -> None:
    seed_everything(0)
    only = chosen(["STA001"])

    def found(way: str) -> list[tuple[str | None, str]]:
        model = nn.Sequential(Remembers(way), nn.Identity())
        findings = check(of(model), only).findings
        return [(f.site, f.message.partition(" is ")[0].partition(" outl")[0]) for f in findings]

    assert found("default") == [("0", "the default value of `past` in `Remembers.forward`")]
    assert found("for ever") == [("0.read", "`0.read.weight`")]
    assert found("once") == []


class Stack(nn.Module):
    """Two cells, one above the other."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own = own
        self.cells = nn.ModuleList([nn.GRUCell(4, 6), nn.GRUCell(6, 6)])
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = [x.new_zeros(len(x), 6)] * 2
        for read in x.unbind(1):
            for i, cell in enumerate(self.cells):
                states[i] = cell(read, states[i if self.own else 0])
                read = states[i]
        return self.head(states[-1])  # type: ignore[no-any-return]


def test_a_layer_that_reads_the_state_of_another_is_named() -> None:
    seed_everything(0)
    assert places(of(Stack(own=False))) == [("STA005", "cells.1")]
    assert said(of(Stack(own=True))) == []


class Queue(nn.Module):
    """A queue of keys, and a first batch that sets a scale: buffers that remember by design."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4, 6)
        self.shift = nn.Parameter(torch.zeros(6))
        self.register_buffer("keys", torch.randn(9, 6))
        self.register_buffer("begun", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x.mean(1))
        if not self.begun:
            self.shift.data.copy_(-query.mean(0))
            self.begun.fill_(True)  # type: ignore[operator]
        scores: Tensor = (query + self.shift) @ self.keys.clone().T  # type: ignore[operator]
        if self.training:
            self.keys = torch.cat([query.detach(), self.keys[:-6]])  # type: ignore[index]
        return scores


def stream() -> Subject:
    """Pieces of one text, (time, sample), whose state goes on from piece to piece."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 6)
            self.rnn = nn.GRU(6, 6)
            self.head = nn.Linear(6, 20)
            self.hidden: Tensor | None = None

        def forward(self, ids: Tensor) -> Tensor:
            out, h = self.rnn(self.words(ids), self.hidden)
            self.hidden = h.detach()
            return self.head(out)  # type: ignore[no-any-return]

    text = torch.randint(0, 20, (25, 5), generator=torch.Generator().manual_seed(1))
    batches = [{"ids": text[i : i + 8], "labels": text[i + 1 : i + 9]} for i in (0, 8, 16)]
    return Subject(
        Model(), batches,
        lambda m, b: F.cross_entropy(m(b["ids"]).flatten(0, 1), b["labels"].flatten()), adam,
    )  # fmt: skip


@pytest.mark.parametrize("make", [lambda: of(Queue()), stream], ids=["queue", "stream"])
def test_what_remembers_by_design_is_no_more_than_a_note(make: Callable[[], Subject]) -> None:
    seed_everything(0)
    assert said(make()) == []


class Pieces(nn.Module):
    """A GRU that reads a sequence in two pieces, the second from a state that it is told."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        start = x.new_zeros(1, len(x), 6)
        if self.way == "windows":
            return self.head(sum(self.gru(piece)[0][:, -1] for piece in x.split(3, 1)))  # type: ignore[no-any-return]
        one, state = self.gru(x[:, :3], start)
        two, _ = self.gru(x[:, 3:], state if self.way == "carried" else start)
        return self.head(torch.cat([one, two], 1).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("way", "layout", "sites"),
    [
        ("dropped", None, ["gru"]),
        ("carried", None, []),
        ("windows", None, []),
        ("windows", Layout(states=(State("gru", over="turn"),)), ["gru"]),
    ],
)
def test_a_state_that_is_dropped_between_pieces_is_found(
    way: str, layout: Layout | None, sites: list[str]
) -> None:
    seed_everything(0)
    findings = check(of(Pieces(way), layout), chosen(["STA002"])).findings
    assert [f.site for f in findings] == sites


class Spans(nn.Module):
    """What stands at the heads of two spans, after a GRU that read something else before."""

    def __init__(self, sick: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.head = nn.Linear(12, 3)
        self.sick = sick

    def forward(self, x: Tensor, warm: Tensor, first: Tensor, second: Tensor) -> Tensor:
        state = self.gru(warm)[1]
        out = self.gru(x, None if self.sick else state)[0]
        rows = torch.arange(len(x))
        spans = out[rows, first], out[rows, first if self.sick else second]
        return self.head(torch.cat(spans, -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("sick", [True, False])
def test_a_key_that_is_passed_over_for_another_is_told(sick: bool) -> None:
    seed_everything(0)
    batch = {
        "x": torch.randn(6, 5, 4),
        "warm": torch.randn(6, 2, 4),
        "span1_head": torch.arange(6) % 3,
        "span2_head": torch.arange(6) % 2 + 3,
        "labels": torch.arange(6) % 3,
    }
    subject = Subject(
        Spans(sick), [batch],
        lambda m, b: F.cross_entropy(
            m(b["x"], b["warm"], b["span1_head"], b["span2_head"]), b["labels"]
        ), adam,
    )  # fmt: skip
    found = check(subject, chosen(["WIR007"])).findings
    told = [("gru", Verdict.WARN), ("model", Verdict.WARN)] if sick else []
    assert sorted((f.site or "", f.verdict) for f in found) == told


class Long(nn.Module):
    """Its state fades over many steps. way: `kept`, `reset` before each batch or `between`."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)
        self.way = way
        self.hidden: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        given = None if self.way == "reset" else self.hidden
        out, self.hidden = self.gru(x, given)
        assert self.hidden is not None
        self.hidden = self.hidden.detach() * (self.way != "between")
        logits: Tensor = self.head(out[:, -1])
        return logits


def long(way: str, streams: bool = False, layout: Layout | None = None) -> list[Finding]:
    """What STA001 says of two batches of 60 steps, which go on in each other or do not."""
    seed_everything(0)
    x = torch.randn(6, 120, 4) if not streams else torch.randn(6, 120, 4).mul(0.05).cumsum(1)
    batches = [{"x": part, "labels": torch.arange(6) % 3} for part in x.chunk(2, 1)]
    subject = of(Long(way), layout)
    return list(check(replace(subject, batches=batches), chosen(["STA001"])).findings)


def test_a_state_that_is_left_over_and_fades_before_the_end_is_told() -> None:
    (told,) = long("kept")
    assert (told.site, told.verdict) == ("model.hidden", Verdict.WARN)
    assert "first state in `gru`" in told.message
    assert long("reset") == long("between") == []
    assert [each.verdict for each in long("kept", streams=True)] == [Verdict.NOTE]
    declared = Layout(states=(State("model.hidden", over="batch", detached=True),))
    assert long("kept", layout=declared) == []
