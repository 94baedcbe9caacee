"""What the checks of masks say of the specimen and of its faults, without being told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from model.config import Config
from model.faults import Faults
from model.read import Corpus
from model.subject import subject
from probes.checking import check, chosen
from probes.finding import Finding, Verdict
from probes.seeding import seed_everything

SMALL: dict[str, Any] = {
    "bert_width": 16,
    "bert_layers": 1,
    "bert_heads": 2,
    "width": 16,
    "vocabulary": 300,
}
MASKS = ["MSK001", "MSK003", "MSK004", "MSK005", "MSK006", "MSK007", "MSK008", "MSK009"]
Said = Callable[..., list[Finding]]


@pytest.fixture
def said(corpus: Corpus) -> Said:
    def run(kind: str, **planted: Any) -> list[Finding]:
        seed_everything(0)
        config = Config(model=kind, **SMALL)  # type: ignore[arg-type]
        made = subject(config, corpus, Faults(**planted))
        return list(check(made, chosen(MASKS)).findings)

    return run


def worse(found: list[Finding]) -> list[Finding]:
    return [f for f in found if f.verdict.rank > Verdict.NOTE.rank]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hierarchical", "seq2seq"])
@pytest.mark.parametrize(
    ("fault", "code", "place"),
    [
        ("pad_position_leak", "MSK001", "encoder"),
        ("sum_over_padding", "MSK001", "schema"),
        ("padded_rows_averaged", "MSK005", "attend_utterance"),
    ],
)
def test_a_fault_is_found_and_placed(
    said: Said, kind: str, fault: str, code: str, place: str
) -> None:
    found = [f for f in worse(said(kind, **{fault: True})) if f.code == code]
    assert any(place in (f.site or "") for f in found)


@pytest.mark.slow
def test_a_mask_that_changes_nothing_is_a_note(said: Said) -> None:
    found = said("hierarchical", mask_without_effect=True)
    assert worse(found) == []
    assert any(f.code == "MSK007" and "attend_units" in (f.site or "") for f in found)


@pytest.mark.slow
def test_a_first_turn_without_its_pre_turn_is_a_note(said: Said) -> None:
    found = said("hierarchical", first_turn_without_pre_turn=True)
    assert worse(found) == []
    assert any(f.code == "MSK005" and f.site == "decoder.attend_previous" for f in found)
