"""Of samples that contradict each other, what would tell them apart is named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from probes import Subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

CHANCE = torch.Generator().manual_seed(0)
QUESTION = torch.randn(4, 6, generator=CHANCE)[torch.arange(32) % 4]
PLACE = torch.randint(2, 30, (8, 5), generator=CHANCE)[torch.arange(32) // 4]
LABELS = (torch.arange(32) % 4 + torch.arange(32) // 4) % 3


def found(**more: Tensor) -> Finding:
    """What is said of a model that reads the question alone."""
    seed_everything(0)
    subject = Subject(
        nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)),
        [{"question": QUESTION, **more, "labels": LABELS}],
        lambda model, batch: F.cross_entropy(model(batch["question"]), batch["labels"]),
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )
    (told,) = check(subject, chosen(only=["LBL006"])).findings
    assert told.verdict is Verdict.WARN
    return told


def test_a_key_that_nobody_reads_and_that_tells_them_apart_is_named() -> None:
    told = found(context=PLACE)
    assert "nobody reads `context`, which tells all of them apart" in told.message
    assert told.fix.startswith("Let the model read `context`")


@pytest.mark.parametrize(
    "more",
    [
        {"index": torch.arange(32)},
        {"group": torch.arange(32) // 16},
        {"finer": LABELS * 2 + torch.arange(32) % 2},
        {"context": torch.ones(32, 5)},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_numbers_them_repeats_the_label_or_does_not_tell_them_apart_is_not(
    more: dict[str, Tensor],
) -> None:
    assert "nobody reads" not in found(**more).message
