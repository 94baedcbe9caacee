"""Culprit before victim: a poisoned step that was let through is one story over the steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nan_watch import NanWatch, PoisonedStep
from nan_watch.hunt import hunt
from probes import Finding, Subject
from probes.run import Run

POISONED = 2


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(ids))[0][:, -1])


def loss(model: nn.Module, batch: Any) -> Tensor:
    p = model(batch["ids"]).softmax(-1) * batch["weight"]
    return -p.gather(1, batch["y"]).log().mean()  # HERE


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 0.01)


def made(steps: int = 5, sick: bool = True) -> Subject:
    torch.manual_seed(0)
    batches = [
        {
            "ids": torch.randint(0, 10, (4, 5)),
            "y": torch.randint(0, 4, (4, 1)),
            "weight": torch.ones(4, 1),
        }
        for _ in range(steps)
    ]
    if sick:
        batches[POISONED]["weight"][1] = 0.0
    return Subject(Reader(), batches, loss, adam)


def plain(subject: Subject, tier: Any, on_poison: Any) -> NanWatch:
    optimizer = subject.optimizer(subject.model)
    watch = NanWatch(subject.model, optimizer, tier, on_poison)
    with watch:
        for batch in subject.batches:
            optimizer.zero_grad()
            watch.backward(subject.loss(subject.model, batch))
            optimizer.step()
    return watch


def story(finding: Finding) -> list[tuple[int | None, Any]]:
    return [(e.step, e.value) for e in finding.evidence if e.what == "story" and e.step is not None]


WROTE = (
    "Adam left 7 tensors that are not finite: `embedding.weight`, `rnn.weight_ih_l0`, "
    "`rnn.weight_hh_l0` and 4 more"
)
VICTIM = "the first victim is `embedding`, whose output holds NaN"


def test_a_hunt_that_lets_it_through_names_the_birth_the_write_and_the_first_victim() -> None:
    subject = made()
    (finding,) = hunt(subject, 5, on_poison="allow").judgement.findings
    assert (finding.op, finding.step) == ("aten.log", POISONED)
    line = Path(__file__).read_text().partition("  # HERE")[0].count("\n") + 1
    assert (finding.source or "").endswith(f"test_story.py:{line}")
    assert story(finding) == [(2, WROTE), (3, VICTIM)]
    assert finding.evidence[-1].what == "poisoned steps like this one"
    assert finding.evidence[-1].value == 3
    assert all(parameter.isnan().any() for parameter in subject.model.head.parameters())


def test_a_replay_is_no_part_of_the_record_of_the_next_step() -> None:
    replayed = Run(hunt(made(), 5, on_poison="skip").folder)
    bare = plain(made(), "sites", "skip").run  # a plain loop has nothing to be replayed
    for kind in ("output", "output_grad"):
        left, right = (each.matrix(kind, "abs_max") for each in (replayed, bare))
        assert left.sites == right.sites
        assert np.array_equal(left.values, right.values, equal_nan=True)


def test_the_replay_of_a_step_that_is_let_through_changes_nothing_of_what_is_written() -> None:
    ends = []
    for watched in (False, True):
        subject = made()
        if watched:
            hunt(subject, 5, on_poison="allow")
        else:
            optimizer = adam(subject.model)
            for batch in subject.batches:
                optimizer.zero_grad()
                loss(subject.model, batch).backward()
                optimizer.step()
        ends.append([*subject.model.parameters()])
    for bare, seen in zip(*ends, strict=True):
        assert torch.equal(bare.isnan(), seen.isnan())
        assert torch.equal(bare.nan_to_num(), seen.nan_to_num())


def test_a_story_that_ends_with_its_step_has_no_victim() -> None:
    (finding,) = hunt(made(POISONED + 1), 3, on_poison="allow").judgement.findings
    assert story(finding) == [(2, WROTE)]
    assert "poisoned steps like this one" not in [e.what for e in finding.evidence]


def test_a_plain_loop_tells_it_too() -> None:
    (finding,) = plain(made(), "sites", "allow").findings
    assert story(finding) == [(2, WROTE), (3, VICTIM)]
    (finding,) = plain(made(), "sentinel", "allow").findings
    assert story(finding) == [(2, WROTE), (3, "the loss is nan")]


def test_nothing_is_written_where_it_is_skipped() -> None:
    (finding,) = hunt(made(), 5, on_poison="skip").judgement.findings
    assert story(finding) == []


@pytest.mark.parametrize("tier", ["sites", "sentinel"])
@pytest.mark.parametrize("how", ["hunt", "plain"])
def test_weights_that_were_poisoned_before_the_first_step(how: str, tier: Any) -> None:
    subject = made(sick=False)
    with torch.no_grad():
        subject.model.embedding.weight[3, 2] = float("nan")
        subject.model.head.bias[1] = float("inf")
    if how == "hunt":
        (finding,) = hunt(subject, 5, tier=tier).judgement.findings
    else:
        with pytest.raises(PoisonedStep) as caught:
            plain(subject, tier, "raise")
        finding = caught.value.finding
    assert finding.message == (
        "`embedding.weight` (row 3), `head.bias` held numbers that are not finite before the "
        "first step: no step of this run did it."
    )
    assert (finding.site, finding.step, finding.where["row"]) == ("embedding.weight", 0, 3)


def test_the_command_tells_the_story(whynan: Any, tmp_path: Path) -> None:
    text = Path(__file__).read_text()
    (tmp_path / "train.py").write_text(
        text.replace("\nPOISONED", "\nsubject = lambda: made()\nPOISONED")
    )
    done = whynan(
        "hunt", "train.py:subject", "--steps", "5", "--on-poison", "allow", "--out", "run"
    )
    assert done.returncode == 1, done.stderr
    (lead,) = json.loads((tmp_path / "run" / "findings.json").read_text())["findings"]
    assert [e["value"] for e in lead["evidence"] if e["value"] in (WROTE, VICTIM)] == [
        WROTE,
        VICTIM,
    ]
