"""What the checks say of the specimen, well and with a bug of its loss planted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model.config import Config
from model.faults import Faults
from model.read import Corpus
from model.subject import subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict

SMALL: dict[str, Any] = {
    "bert_width": 16,
    "bert_layers": 1,
    "bert_heads": 2,
    "width": 16,
    "vocabulary": 300,
}


def said(corpus: Corpus, faults: Faults, kind: str) -> list[Finding]:
    torch.manual_seed(0)
    checks = [each for each in chosen() if each.code.startswith(("WIR", "MSK004"))]
    findings = check(subject(Config(model=kind, **SMALL), corpus, faults), checks).findings
    return [each for each in findings if each.verdict.rank > Verdict.NOTE.rank]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hierarchical", "seq2seq"])
def test_wiring_names_the_faults_of_the_specimens_loss(corpus: Corpus, kind: str) -> None:
    (log,) = [f for f in said(corpus, Faults(softmax_then_log=True), kind) if f.code == "WIR012"]
    assert log.source is not None
    assert "model/heads.py:" in log.source
    (drowned,) = said(corpus, Faults(key_drowns_db=True), kind)
    assert drowned.code == "WIR015"
    assert "`key` drowns `db`" in drowned.message
    assert "with 3 more positions under `unit_" in drowned.message
