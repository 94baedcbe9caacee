"""Labels contradict each other where a picture that tells samples apart does not come through."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overfit.asked import Asked
from overfit.diagnose import examine
from probes import Ratio, Subject
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

Batch = dict[str, Tensor]


class Answering(nn.Module):
    """Answers a question on a picture, of which a gate lets nothing through."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.picture, self.question = nn.Linear(12, 16), nn.Embedding(3, 16)
        self.gate = nn.Linear(16, 16)
        nn.init.constant_(self.gate.bias, bias)
        self.head = nn.Linear(16, 2)

    def forward(self, picture: Tensor, question: Tensor) -> Tensor:
        asked = self.question(question)
        opened = F.hardsigmoid(self.gate(asked))
        return self.head(asked + opened * self.picture(picture))  # type: ignore[no-any-return]


def right(model: nn.Module, batch: Batch) -> Ratio:
    said = model(batch["picture"], batch["question"]).argmax(1)
    return Ratio((said == batch["answer"]).sum(), len(said))


def verdicts(bias: float, out: Path) -> tuple[Finding, ...]:
    seed_everything(0)
    picture, question = torch.randn(20, 12), torch.arange(20) % 3
    answer = (picture[:, 0] > 0).long()
    batches = [
        {"picture": picture[i:j], "question": question[i:j], "answer": answer[i:j]}
        for i, j in ((0, 10), (10, 20))
    ]
    subject = Subject(
        Answering(bias),
        batches,
        lambda m, b: F.cross_entropy(m(b["picture"], b["question"]), b["answer"]),
        lambda m: torch.optim.Adam(m.parameters(), lr=0.02),
        metrics={"answered": right},
    )
    asked = Asked(quick=True, sizes=(20,), steps=200, hunted=False)
    found = examine(subject, asked, out / "run").judgement.findings
    return tuple(each for each in found if each.code.startswith("FIT"))


def test_a_gate_that_is_shut_leads_and_no_labels(tmp_path: Path) -> None:
    found = {each.code: each for each in verdicts(-6.0, tmp_path)}
    assert next(iter(found)) == "FIT012"
    assert found["FIT015"].verdict is Verdict.WARN
    assert "the model does not read `picture`, which tells samples apart" in found["FIT015"].message


def test_a_gate_that_is_open_lets_them_be_memorised(tmp_path: Path) -> None:
    assert [each.code for each in verdicts(0.0, tmp_path)] == ["FIT001"]
