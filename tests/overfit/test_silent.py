"""A part of the loss that nobody counts, and that teaches nothing, keeps samples from memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.asked import Asked
from overfit.diagnose import examine
from overfit.silent import silent_parts
from probes import Ratio, Subject
from probes.finding import Finding
from probes.seeding import seed_everything

Batch = dict[str, Tensor]
Bound = Callable[[Tensor], Tensor]


class Detector(nn.Module):
    """Gives a class and a place, which it holds to bounds."""

    def __init__(self, bound: Bound) -> None:
        super().__init__()
        self.body, self.kind, self.place = nn.Linear(6, 32), nn.Linear(32, 3), nn.Linear(32, 2)
        self.bound = bound

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.body(x).relu()
        return self.kind(seen), self.bound(self.place(seen) + 2)


def of_kind(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch["x"])[0], batch["kind"])


def of_place(model: nn.Module, batch: Batch) -> Tensor:
    return F.l1_loss(model(batch["x"])[1], batch["place"])


def right(model: nn.Module, batch: Batch) -> Ratio:
    return Ratio((model(batch["x"])[0].argmax(1) == batch["kind"]).sum(), len(batch["kind"]))


def subject(bound: Bound, named: bool = True) -> Subject:
    seed_everything(0)
    x, kind = torch.randn(5, 6), torch.arange(5) % 3
    return Subject(
        Detector(bound),
        [{"x": x, "kind": kind, "place": 10 + torch.randn(5, 2)}],
        lambda m, b: of_kind(m, b) + 0.1 * of_place(m, b),
        lambda m: torch.optim.Adam(m.parameters(), lr=0.01),
        parts={"kind": of_kind, "place": of_place} if named else {},
        metrics={"kind": right},
    )


def verdicts(one: Subject, out: Path) -> tuple[Finding, ...]:
    asked = Asked(quick=True, sizes=(5,), steps=100, hunted=False)
    found = examine(one, asked, out / "run").judgement.findings
    return tuple(each for each in found if each.code.startswith("FIT"))


def held(x: Tensor) -> Tensor:
    return x.round()  # held


def line() -> str:
    rows = Path(__file__).read_text().splitlines()
    number = next(i for i, row in enumerate(rows, 1) if row.endswith("  # held"))
    return f"tests/overfit/test_silent.py:{number}"


@pytest.mark.parametrize("named", [True, False])
def test_a_part_whose_gradient_a_rounding_takes_is_a_head_that_is_stuck(
    named: bool, tmp_path: Path
) -> None:
    lead = verdicts(subject(held, named), tmp_path)[0]
    assert (lead.code, lead.source) == ("FIT008", line())
    assert "`round`" in lead.message
    assert "while `kind` 5 of 5" in lead.message


@pytest.mark.parametrize("named", [True, False])
def test_a_part_that_learns_slowly_leaves_the_samples_memorised(
    named: bool, tmp_path: Path
) -> None:
    found = verdicts(subject(lambda x: x, named), tmp_path)
    assert [each.code for each in found] == ["FIT001"]


def entropy(model: nn.Module, batch: Batch) -> Tensor:
    return batch["place"].square().mean()  # a constant of the labels


def of_weights(model: nn.Module, batch: Batch) -> Tensor:
    size = torch.stack([p.square().sum() for p in model.parameters()]).sum()
    return size.clamp(min=1e6)


def met(model: nn.Module, batch: Batch) -> Tensor:
    over: Tensor = model(batch["x"])[1] - batch["place"] - 1e6
    return over.relu().mean()


@pytest.mark.parametrize("other", [entropy, of_weights, met])
def test_constants_bounded_norms_and_hinges_that_are_met_are_not_silent(
    other: Callable[[nn.Module, Batch], Tensor],
) -> None:
    one = replace(subject(lambda x: x), parts={"kind": of_kind, "other": other})
    assert silent_parts(one, list(one.batches)) == ()
    silent = silent_parts(subject(held), list(one.batches))
    assert [each.name for each in silent] == ["place"]
