"""The wrong RNN state is found without being told, and named at the decoder's SQL cell."""

from __future__ import annotations

from typing import Any

import pytest

from model.config import Config
from model.faults import Faults
from model.read import embedded
from model.subject import subject
from probes.checking import check, chosen
from probes.finding import Verdict
from probes.seeding import seed_everything

SMALL: dict[str, Any] = {
    "bert_width": 16,
    "bert_layers": 1,
    "bert_heads": 2,
    "width": 16,
    "vocabulary": 300,
}
STATE = [each for each in chosen() if each.code.startswith("STA")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "site", "file"),
    [("hierarchical", "decoder.sql_cell", "decoder.py"), ("seq2seq", "writer", "seq2seq.py")],
)
def test_the_wrong_state_is_named_at_the_sql_cell(kind: str, site: str, file: str) -> None:
    seed_everything(0)
    config = Config(model=kind, **SMALL)
    sick = check(subject(config, embedded(), Faults(wrong_state=True)), STATE).findings
    assert [(f.code, f.site, f.verdict) for f in sick] == [("STA002", site, Verdict.FAIL)]
    assert str(sick[0].source).startswith(f"model/{file}:")
    assert sick[0].where == {"time": 1}
