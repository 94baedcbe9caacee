"""Outputs that read the future, and those that only look so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Layout, Reads, Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def said(subject: Subject) -> list[Finding]:
    return [f for f in check(subject).findings if f.verdict.rank > Verdict.NOTE.rank]


@pytest.mark.parametrize("leak", ["bidirectional", "mean"])
def test_a_declared_order_is_held_to(leak: str) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 8)
            self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=leak == "bidirectional")
            self.head = nn.Linear(16 if leak == "bidirectional" else 8, 3)

        def forward(self, ids: Tensor) -> Tensor:
            out, _ = self.lstm(self.embedding(ids))
            if leak == "mean":
                out = out - out.mean(1, keepdim=True)
            logits: Tensor = self.head(out)
            return logits

    keep = torch.arange(9) < torch.tensor([9, 8, 7, 5, 4, 3])[:, None]
    ids = torch.randint(3, 50, (6, 9)).masked_fill(~keep, 0)
    subject = Subject(
        Tagger(),
        [{"ids": ids, "labels": ids % 3}],
        lambda model, b: F.cross_entropy(model(b["ids"]).flatten(0, 1), b["labels"].flatten()),
        adam,
        layout=Layout(reads=(Reads("output", of="ids", rule="causal"),)),
    )
    found = said(subject)
    assert (found[0].code, found[0].verdict) == ("MSK003", Verdict.FAIL)
    assert {f.code for f in found} <= {"MSK003", "MSK009"}
    assert found[0].site == ("lstm" if leak == "bidirectional" else "model")
    assert said(replace(subject, layout=None)) == []


@pytest.mark.parametrize(
    ("gives", "codes"),
    [("average", ["MSK005"]), ("zeros", []), ("future", ["MSK005", "MSK003"])],
)
def test_a_future_that_is_read_by_rows_that_see_nothing_is_told_once(
    gives: str, codes: list[str]
) -> None:
    class Earlier(nn.Module):
        """Reads its own id, and attends to the earlier ones: the first has none."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 8)
            self.head = nn.Linear(16, 3)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embedding(ids)
            there = torch.ones(9, 9, dtype=torch.bool).tril(-1)
            there = there.T if gives == "future" else there
            scores = (x @ x.transpose(1, 2)).masked_fill(~there, torch.finfo(x.dtype).min)
            read = scores.softmax(-1) @ x
            if gives == "zeros":
                read = read * there.any(-1)[:, None]
            logits: Tensor = self.head(torch.cat([x, read], -1))
            return logits

    seed_everything(0)
    ids = torch.randint(3, 50, (6, 9))
    subject = Subject(
        Earlier(),
        [{"ids": ids, "labels": ids % 3}],
        lambda model, b: F.cross_entropy(model(b["ids"]).flatten(0, 1), b["labels"].flatten()),
        adam,
        layout=Layout(reads=(Reads("output", of="ids", rule="causal"),)),
    )
    found = check(subject, chosen(["MSK001", "MSK003", "MSK005"])).findings
    assert [f.code for f in found if f.verdict is Verdict.FAIL] == codes


class Chomped(nn.Module):
    """A convolution over what went before, whose padding is cut off at the end, or at the start."""

    def __init__(self, at_start: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(9, 9, 3, padding=2)
        self.at_start = at_start

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + (out[:, :, 2:] if self.at_start else out[:, :, :-2]).relu()


@pytest.mark.parametrize("sick", [None, 0, 1])
def test_channels_as_many_as_places_are_not_taken_for_them(sick: int | None) -> None:
    seed_everything(0)
    blocks = [Chomped(i == sick) for i in range(2)]
    series = torch.randn(6, 10)
    subject = Subject(
        nn.Sequential(
            nn.Unflatten(1, (1, 9)), nn.Conv1d(1, 9, 1), *blocks, nn.Conv1d(9, 1, 1), nn.Flatten()
        ),
        [{"past": series[:, :-1], "next": series[:, 1:]}],
        lambda model, b: F.mse_loss(model(b["past"]), b["next"]),
        adam,
        layout=Layout(
            axes={"past": ("sample", "time")},
            reads=(Reads("output", of="past", rule="causal"),),
        ),
    )
    found = check(subject, chosen(["MSK003"])).findings
    assert [f.site for f in found] == ([] if sick is None else [str(sick + 2)])
