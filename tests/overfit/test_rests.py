"""What the decisions of a blind model rest on, told as evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overfit.asked import Asked
from overfit.curves import read_curves
from overfit.plan import Plan
from overfit.rules.stuck_on_floor import StuckOnFloor
from overfit.suite import run_copy
from probes import Subject
from probes.finding import Evidence
from probes.run import Run
from reports import render

WORDS = 20


class Decoder(nn.Module):
    """Says the token before once more; never mind the question."""

    def __init__(self) -> None:
        super().__init__()
        self.question, self.prefix = nn.Embedding(WORDS, 8), nn.Embedding(WORDS, 8)
        self.head = nn.Linear(8, WORDS)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        seen = self.question(batch["question"]).mean(1, keepdim=True) * 0
        out: Tensor = self.head(self.prefix(batch["prefix"]) + seen)
        return out


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        seen = self.body(batch["x"]).relu().mean(0, keepdim=True).expand(len(batch["x"]), 16)
        out: Tensor = self.head(seen)
        return out


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    scores = model(batch)
    return nn.functional.cross_entropy(scores.flatten(0, -2), batch["labels"].flatten())


def evidence(model: nn.Module, batch: Any, folder: Path, **more: Any) -> dict[str, Evidence]:
    def adam(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.05)

    subject = Subject(model, [batch], loss, adam, **more)
    run_copy(subject, Plan(5, (5,), steps=60, rests=True), folder, lambda *_: None)
    (finding,) = StuckOnFloor().judge(read_curves(Run(folder)))
    return {each.what: each for each in finding.evidence}


def predict(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    out: Tensor = model(batch)
    return out


def test_a_blind_model_rests_on_the_prefix_or_on_its_neighbours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids = torch.randint(1, WORDS, (8, 4))
    labels = ids[:, :1].expand(8, 4).clone()
    prefix = torch.cat([torch.zeros(8, 1, dtype=torch.long), labels[:, :-1]], 1)
    batch = {"question": ids, "prefix": prefix, "labels": labels}
    told = evidence(Decoder(), batch, tmp_path / "run", predict=predict)
    share = told["share of decisions that rests on `prefix`, the labels before"]
    assert share.value == 1
    assert share.anchor == "run-attribution-0"
    assert told["no decision rests on"].value == "`question`"
    delta = told["convergence delta of these shares, the worst of 4 decisions"]
    assert isinstance(delta.value, float)
    assert isinstance(delta.limit, float)
    assert delta.value < delta.limit
    assert 'href="#attributions"' in render(tmp_path / "run").read_text()

    batch = {"x": torch.randn(8, 8), "labels": torch.randint(0, 3, (8,))}
    told = evidence(Averaged(), batch, tmp_path / "averaged", predict=predict)
    others = told["share of decisions that rests on the other samples of the batch"]
    assert isinstance(others.value, float)
    assert others.value > 0.5

    told = evidence(Averaged(), batch, tmp_path / "unpredicted")
    why = told["what decisions rest on"].value
    assert why == ("not judged: decisions are attributed of `Subject.predict`, which is not given")


def test_a_quick_diagnosis_attributes_nothing() -> None:
    assert not any(each.rests for each in Asked(quick=True).plans())
    assert [each.rests for each in Asked().plans() if each.kind == "suite"][:2] == [True, True]
