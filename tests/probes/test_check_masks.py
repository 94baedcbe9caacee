"""Masks that are lost, turned or thrown away: what is said, and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Layout, Reads, Subject
from probes.checking import check, chosen
from probes.checks import RULES
from probes.experiment import Experiment
from probes.finding import Verdict, judge
from probes.guess import complete
from probes.masking.longer import longer
from probes.record import Recorder
from probes.run import Run
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Apply = Callable[[Tensor, Tensor], Tensor]
MASKS = ["MSK001", "MSK004", "MSK005", "MSK006", "MSK007", "MSK008"]
LOW = torch.finfo(torch.float32).min


def tokens(length: int = 9) -> Batch:
    chance = torch.Generator().manual_seed(0)
    keep = torch.arange(length) < torch.tensor([9, 8, 7, 5, 4, 3])[:, None].clamp(max=length)
    ids = torch.randint(3, 50, (6, length), generator=chance).masked_fill(~keep, 0)
    return {"ids": ids, "mask": keep.long(), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}


class Reader(nn.Module):
    def __init__(self, apply_mask: Apply, pool: Apply) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.attention = Attention(apply_mask)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 3)
        self.pool = pool

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        logits: Tensor = self.head(
            self.pool(self.norm(hidden + self.attention(hidden, mask)), mask)
        )
        return logits


class Attention(nn.Module):
    num_heads = 2

    def __init__(self, apply_mask: Apply) -> None:
        super().__init__()
        self.into = nn.Linear(16, 48)
        self.apply_mask = apply_mask

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        n, t, d = hidden.shape
        q, k, v = (
            part.view(n, t, 2, -1).transpose(1, 2) for part in self.into(hidden).chunk(3, -1)
        )
        weights = self.apply_mask(q @ k.transpose(2, 3) / 8**0.5, mask).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(n, t, d)


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def obeyed(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask[:, None, None] == 0, LOW)


def said(apply_mask: Apply, pool: Apply, batch: Batch | None = None) -> dict[str, str | None]:
    seed_everything(0)
    subject = Subject(
        Reader(apply_mask, pool),
        [batch or tokens()],
        lambda model, b: F.cross_entropy(model(b["ids"], b["mask"]), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    found = judge(chosen(MASKS, known=RULES), Experiment.of(subject)).findings
    return {f.code: f.site for f in found if f.verdict.rank > Verdict.NOTE.rank}


@pytest.mark.parametrize(
    "apply_mask",
    [
        lambda s, m: s.masked_fill(m[:, None, None] == 1, LOW),
        lambda s, m: s.masked_fill(m[:, None, :, None] == 0, LOW),
        lambda s, m: obeyed(s, m.roll(1, 0)),
        lambda s, m: obeyed(s, F.pad(m, (1, 0), value=1)[:, :-1]),
    ],
    ids=["inverted", "queries", "other", "shifted"],
)
def test_a_misapplied_mask_is_placed_in_its_attention(apply_mask: Apply) -> None:
    assert said(apply_mask, mean)["MSK006"] == "attention"


def test_what_every_change_came_to_is_an_array_beside_its_noise(tmp_path: Path) -> None:
    seed_everything(0)
    subject = Subject(
        Reader(obeyed, lambda h, m: h.mean(1)),
        [tokens()],
        lambda model, b: F.cross_entropy(model(b["ids"], b["mask"]), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    recorder = Recorder(tmp_path)
    recorder.close(check(subject, chosen(["MSK001", "MSK002"], known=RULES), recorder=recorder))
    leak, beside = (Run(tmp_path).array(f"{n}-effects") for n in ("pad-leak", "batch-dependence"))
    assert leak.axes == beside.axes == ("change", "output", "number")
    assert leak.labels["number"] == ["largest", "noise", "limit"]
    assert leak.labels["change"][-1] == "ids under mask"
    assert (leak.values[-1, :, 0] > leak.values[-1, :, 2]).all()
    assert not (beside.values[..., 0] > beside.values[..., 2]).any()


@pytest.mark.parametrize(
    ("pool", "codes"),
    [
        (lambda h, m: mean(h, 1 - m + 1e-7), {"MSK001"}),
        (lambda h, m: (h * m[..., None]).sum(1) / m.shape[1], {"MSK004"}),
        (lambda h, m: h.mean(1), {"MSK001"}),
        (mean, set()),
        (lambda h, m: h[:, 0], set()),
        (lambda h, m: h.masked_fill(m[..., None] == 0, LOW).amax(1), set()),
    ],
    ids=["inverted", "length", "all", "mean", "first", "largest"],
)
def test_a_pooling_is_placed_where_it_is(pool: Apply, codes: set[str]) -> None:
    assert said(obeyed, pool) == dict.fromkeys(codes, "model")


class Normed(nn.Module):
    """Batch norm between two layers by place, and a mean over what is visible."""

    def __init__(self, normed: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.into, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, 3)
        self.normed = normed

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.head(self.drop(mean(self.normed(self, self.into(x), mask), mask)))
        return logits


def kept(model: Normed, hidden: Tensor, mask: Tensor) -> Tensor:
    keep = mask == 1
    return torch.zeros_like(hidden).masked_scatter(keep[..., None], model.norm(hidden[keep]))


@pytest.mark.parametrize(
    ("normed", "code"),
    [
        (lambda own, h, m: own.norm(h.flatten(0, 1)).view_as(h), "MSK001"),
        (lambda own, h, m: own.norm((h * m[..., None]).mT).mT, "MSK004"),
        (kept, None),
        (lambda own, h, m: kept(own, h, m) + (h.roll(1, 0) if own.training else 0), None),
        (lambda own, h, m: own.norm(h[:, :1].mT).mT + h, None),
    ],
    ids=["padding", "zeroed", "kept", "mixed", "first"],
)
def test_statistics_over_padding_are_told_where_they_are_taken(
    normed: Callable[[Any, Tensor, Tensor], Tensor], code: str | None
) -> None:
    seed_everything(0)
    batch = {**tokens(), "x": torch.randn(6, 9, 4)}
    subject = Subject(
        Normed(normed),
        [batch],
        lambda model, b: F.cross_entropy(model(b["x"], b["mask"]), b["labels"]),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    found = check(subject, chosen(["MSK001", "MSK004"], known=RULES)).findings
    told = [(code, Verdict.WARN, "norm")] if code else []
    assert [(f.code, f.verdict, f.site) for f in found] == told
    assert all("in training mode" in f.message for f in found)
    after = subject.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_mask_that_nobody_reads_is_told_where_it_is_missed() -> None:
    found = said(lambda scores, _: scores, lambda hidden, _: hidden[:, 0])
    assert found == dict.fromkeys(("MSK001", "MSK007"), "attention")


def test_a_mask_that_hides_everything_is_read_in_the_attention() -> None:
    found = said(lambda s, m: s.masked_fill(m[:, None, None] < 2, LOW), mean)
    assert found["MSK005"] == "attention"


def test_what_stands_in_a_mask_says_more_than_its_name() -> None:
    batch = tokens()
    for name in ("attention_mask", "key_padding_mask"):
        for values, means in ((batch["mask"], "keep"), (1 - batch["mask"], "hide")):
            guessed = complete({"ids": batch["ids"], name: values}).layout.masks
            assert [mask.means for mask in guessed] == [means]
    left = {key: batch[key].flip(1) for key in ("ids", "mask")}
    assert [mask.side for mask in complete(left).layout.masks] == ["left"]


def test_a_longer_batch_has_more_of_its_own_padding() -> None:
    batch = tokens() | {"tags": torch.where(tokens()["mask"] == 1, 1, -100)}
    subject = Subject(
        nn.Embedding(50, 3),
        [batch],
        lambda model, b: model(b["ids"]).sum(),
        lambda model: torch.optim.Adam(model.parameters()),
    )
    (made,) = longer(Experiment.of(subject), 2)
    assert made.keys == ("ids", "mask", "tags")
    assert made.batch["ids"].shape == (len(made.batch["labels"]), 11)
    for key, value in (("ids", 0), ("mask", 0), ("tags", -100)):
        assert bool((made.batch[key][:, -2:] == value).all())


class Writer(nn.Module):
    """A causal model that also generates, with or without a state that goes on."""

    def __init__(self, goes_on: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.causal = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 50)
        self.goes_on = goes_on

    def forward(self, ids: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, state = self.causal(self.embedding(ids), state)
        return self.head(out), state

    def generate(self, ids: Tensor, steps: int) -> Tensor:
        scores, state = self(ids)
        for _ in range(steps):
            ids = torch.cat([ids, scores[:, -1:].argmax(-1)], 1)
            scores, after = self(ids[:, -1:], state)
            state = after if self.goes_on else state
        return ids


@pytest.mark.parametrize("goes_on", [True, False])
def test_greedy_generation_is_the_likeliest_of_the_whole_pass(goes_on: bool) -> None:
    seed_everything(0)
    text = torch.randint(0, 50, (6, 10))
    subject = Subject(
        Writer(goes_on),
        [{"ids": text[:, :-1], "labels": text[:, 1:]}],
        lambda model, b: F.cross_entropy(model(b["ids"])[0].flatten(0, 1), b["labels"].flatten()),
        lambda model: torch.optim.Adam(model.parameters()),
        predict=lambda model, b: model(b["ids"])[0],
        layout=Layout(reads=(Reads("output", of="ids", rule="causal"),)),
    )
    experiment = Experiment.of(subject)
    found = judge(chosen(["MSK009"], known=RULES), experiment).findings
    assert [f.verdict for f in found] == ([] if goes_on else [Verdict.FAIL])
    kept = experiment.arrays["decoding-parity-difference"]
    assert [bool(value) for value in kept.values] == [*[False] * 3, not goes_on, False]


class Placed(nn.Module):
    """A tagger that holds a table by place, and does something with it."""

    def __init__(self, place: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.mixing = nn.GRU(8, 8, batch_first=True)
        self.register_buffer("table", torch.randn(7, 8))
        self.frozen = nn.Parameter(torch.randn(1, 7, 8), requires_grad=False)
        self.gate, self.side = nn.Parameter(torch.zeros(1)), nn.Linear(8, 8)
        self.place = place

    def forward(self, ids: Tensor) -> Tensor:
        pad = (ids == 0)[..., None]
        x = self.place(self, self.embedding(ids), pad)
        logits: Tensor = self.head(self.mixing(x)[0])
        return logits


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (lambda own, x, pad: x + own.table * pad, "model.table"),
        (lambda own, x, pad: x + own.table + own.frozen * pad, "model.frozen"),
        (lambda own, x, pad: x + own.table * ~pad, None),
        (lambda own, x, pad: x + own.gate * own.table, None),
        (lambda own, x, pad: torch.where(x > 99, own.table, x), None),
        (lambda own, x, pad: (x, own.side(own.table))[0], None),
        (lambda own, x, pad: x + own.side(own.table) * pad, None),
        (lambda own, x, pad: x + own.table * (pad if not own.training else ~pad), None),
    ],
    ids=["padding", "frozen", "added", "gated", "filled", "aside", "resting", "training"],
)
def test_a_table_that_reaches_padding_alone_is_told(
    place: Callable[[Any, Tensor, Tensor], Tensor], told: str | None
) -> None:
    seed_everything(0)
    ids = torch.randint(1, 20, (6, 7)) * (torch.arange(7) < torch.tensor([[7, 6, 5, 4, 3, 3]]).T)
    model = Placed(place)
    subject = Subject(
        model,
        [{"ids": ids, "tags": (ids % 3).masked_fill(ids == 0, -100)}],
        lambda m, b: F.cross_entropy(m(b["ids"]).flatten(0, 1), b["tags"].flatten()),
        lambda m: torch.optim.Adam([m.embedding.weight, *m.mixing.parameters()], lr=1e-3),
    )
    table, frozen = model.table, model.frozen
    said = check(subject, chosen(["WIR023"])).findings
    assert [f.message.partition("`")[2].partition("`")[0] for f in said] == [told] * bool(told)
    assert model.table is table
    assert model.frozen is frozen
