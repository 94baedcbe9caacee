"""The specimen's spans are read as they are declared, and each fault of spans is named."""

from __future__ import annotations

from typing import Any

import pytest

from model.config import Config
from model.faults import Faults
from model.read import Corpus
from model.subject import subject
from probes.checking import check
from probes.checks.index_alignment import IndexAlignment
from probes.finding import Judgement
from probes.seeding import seed_everything

SMALL: dict[str, Any] = {
    "bert_width": 16,
    "bert_layers": 1,
    "bert_heads": 2,
    "width": 16,
    "vocabulary": 300,
}
pytestmark = pytest.mark.slow


def judged(corpus: Corpus, faults: Faults, **changes: Any) -> Judgement:
    seed_everything(0)
    return check(subject(Config(**(SMALL | changes)), corpus, faults), [IndexAlignment()])


@pytest.mark.parametrize("changes", [{}, {"model": "seq2seq", "transformer_layers": 1}])
def test_a_healthy_specimen_reads_its_spans(corpus: Corpus, changes: dict[str, Any]) -> None:
    assert judged(corpus, Faults(), **changes).passed == ("IDX001",)


@pytest.mark.parametrize(
    ("faults", "site", "words"),
    [
        (Faults(misaligned=1), "schema.pool", "1 token after its span"),
        (Faults(misaligned=3), "schema.pool", "3 tokens after its span"),
        (Faults(unit_index_offset=True), "schema", "every unit reads 1 unit after its own"),
    ],
)
def test_a_fault_of_spans_is_named(corpus: Corpus, faults: Faults, site: str, words: str) -> None:
    findings = judged(corpus, faults).findings
    assert [each.site for each in findings] == [site]
    assert words in findings[0].message
    assert findings[0].source is not None
    assert "schema.py" in findings[0].source
