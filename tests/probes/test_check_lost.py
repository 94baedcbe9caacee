"""Where the way of an input ends is named with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.lost import where_lost
from probes import Layout, Reads, Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]


class Reader(nn.Module):
    """Reads what is said, and what was said before, of which it keeps a share."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        self.body, self.before = nn.Linear(4, 8), Before(share)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        seen = self.body(x)
        if context is not None:
            seen = seen + self.before(context)
        logits: Tensor = self.head(seen.relu())
        return logits


class Before(nn.Module):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.inner, self.share = nn.Linear(5, 8), share

    def forward(self, context: Tensor) -> Tensor:
        read: Tensor = self.inner(context) * self.share  # in the module
        return read


def lost_before(model: nn.Module, batch: Batch) -> Tensor:
    x = batch["x"].clamp(9, 9)  # around the model
    return F.cross_entropy(model(x), batch["labels"])


def with_context(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"], batch["context"]), batch["labels"])


def unread(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["labels"])


def said(loss: Loss, model: nn.Module | None = None, layout: Layout | None = None) -> list[Finding]:
    seed_everything(0)
    batch = {"x": torch.randn(9, 4), "context": torch.randn(9, 5), "labels": torch.arange(9) % 3}
    subject = Subject(
        model or Reader(),
        [batch],
        loss,
        lambda each: torch.optim.SGD(each.parameters(), lr=0.1),
        layout=layout,
    )
    return list(check(subject, chosen(only=["WIR007"])).findings)


def line(mark: str) -> str:
    rows = Path(__file__).read_text().splitlines()
    return f"{next(i for i, row in enumerate(rows, 1) if row.endswith(f'# {mark}'))}"


def test_an_input_that_is_lost_around_the_model_is_told_with_its_line() -> None:
    (found,) = said(lost_before)
    assert (found.verdict, found.site, found.op) == (Verdict.FAIL, "<loss>", "clamp")
    assert str(found.source).endswith(f"test_check_lost.py:{line('around the model')}")


@pytest.mark.parametrize(
    ("layout", "verdict"),
    [(None, Verdict.NOTE), (Layout(reads=(Reads("output", "context", "all"),)), Verdict.WARN)],
)
def test_one_of_several_that_is_lost_in_a_module_is_told_there(
    layout: Layout | None, verdict: Verdict
) -> None:
    (found,) = said(with_context, layout=layout)
    assert (found.verdict, found.site, found.op) == (verdict, "before", "mul")
    assert str(found.source).endswith(f"test_check_lost.py:{line('in the module')}")


class Steps(nn.Module):
    """Reads one column after the other, of which the first alone says anything."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.Linear(2, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 8)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step, None].expand(-1, 2)) + state * 1e-9  # forgets
        logits: Tensor = self.head(state)
        return logits


def test_a_part_that_says_nothing_beside_one_that_does_loses_nothing() -> None:
    model, x = Steps(), torch.zeros(9, 4)
    x[:, 0] = torch.arange(9) % 3
    batch = {"x": x, "labels": torch.arange(9) % 3}
    subject = Subject(model, [batch], unread, lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    lost = where_lost(subject, [batch], ["x"])
    assert lost is not None
    assert lost.op != "getitem"
    assert str(lost.source).endswith(f"test_check_lost.py:{line('forgets')}")


def test_what_nobody_reads_is_lost_nowhere_and_what_is_kept_is_not_told() -> None:
    (found,) = said(unread)
    assert (found.site, found.source) == ("<data>", None)
    assert "nobody reads `context`" in found.message
    assert said(with_context, Reader(share=0.5)) == []
