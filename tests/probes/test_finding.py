from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest

from probes import Evidence, Finding, Verdict, judge
from probes.finding import Judgement
from probes.strict_json import dumps

FIELDS = [
    "code",
    "rule",
    "verdict",
    "message",
    "fix",
    "site",
    "op",
    "node",
    "phase",
    "step",
    "source",
    "batch",
    "samples",
    "where",
    "confirmed",
    "evidence",
]


@dataclass(frozen=True)
class Large:
    """A number is larger than its limit."""

    code: ClassVar[str] = "TST001"
    rule: ClassVar[str] = "large"
    limit: float = 1.0

    def lacks(self, material: object) -> str | None:
        return None if isinstance(material, float) else "there is no number"

    def judge(self, material: float) -> Iterator[Finding]:
        if not material <= self.limit:  # a NaN does not slip through
            evidence = (Evidence("number", material, self.limit),)
            yield Finding(
                "TST001", "large", Verdict.FAIL, "x is large", "Shrink x.", evidence=evidence
            )


@dataclass(frozen=True)
class Raising:
    """A rule with a bug."""

    code: ClassVar[str] = "TST002"
    rule: ClassVar[str] = "raising"

    def lacks(self, material: object) -> str | None:
        return None

    def judge(self, material: float) -> Iterator[Finding]:
        yield from ()
        raise ZeroDivisionError("oh")


def test_a_rule_passes_finds_or_is_not_judged() -> None:
    assert judge([Large()], 0.5).passed == ("TST001",)
    assert judge([Large()], 2.0).findings[0].code == "TST001"
    assert judge([Large()], math.nan).verdict is Verdict.FAIL
    not_judged = judge([Large()], None)
    assert not_judged.not_judged[0].why == "there is no number"
    assert not_judged.passed == ()


def test_a_rule_that_raises_is_broken_never_healthy() -> None:
    judgement = judge([Large(), Raising()], 2.0)
    assert [finding.verdict for finding in judgement.findings] == [Verdict.BROKEN, Verdict.FAIL]
    assert "ZeroDivisionError: oh" in judgement.findings[0].message
    assert judgement.exit_status == 3


@pytest.mark.parametrize(
    ("verdict", "status"),
    [(Verdict.NOTE, 0), (Verdict.WARN, 1), (Verdict.FAIL, 1), (Verdict.BROKEN, 3)],
)
def test_exit_status(verdict: Verdict, status: int) -> None:
    found = Finding("X", "x", verdict, "it is so", "Do it.")
    assert Judgement(findings=(found,)).exit_status == status
    assert Judgement().exit_status == 0


def test_a_code_that_found_something_has_not_passed() -> None:
    both = judge([Large()], 0.5) + judge([Large()], 2.0)
    assert both.passed == ()


def test_findings_json_is_strict_and_comes_back_equal() -> None:
    found = Finding(
        "NAN001", "log-of-zero", Verdict.FAIL, "log gives NaN", "Use log_softmax.",
        site="decoder.cell[0]", op="aten.log", phase="backward", step=3, samples=(1, 2),
        where={"sample": 1, "time": 4},
        evidence=(Evidence("loss", math.nan), Evidence("norm", math.inf, 1.0, "L2", 3, "grad")),
    )  # fmt: skip
    judgement = Judgement((found,), passed=("GRD001",))
    text = dumps(judgement.as_json("run-1"))

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    row = json.loads(text, parse_constant=refuse)
    assert set(row) == {"schema", "run", "verdict", "findings", "not_judged", "passed"}
    assert (row["schema"], row["verdict"], row["passed"]) == (1, "fail", ["GRD001"])
    assert row["findings"][0]["evidence"][0]["value"] is None
    assert row["findings"][0]["evidence"][0]["nonfinite"] == "nan"
    back = Judgement.from_json(row)
    assert math.isnan(back.findings[0].evidence[0].value)
    assert back.findings[0].evidence[1] == found.evidence[1]
    assert back.findings[0].samples == (1, 2)


def test_a_finding_has_every_field_of_the_contract() -> None:
    row = Finding("X", "x", Verdict.NOTE, "it is so", "Do it.").as_json()
    assert list(row) == FIELDS


def test_an_anchor_names_code_and_site() -> None:
    found = Finding("NAN003", "x", Verdict.NOTE, "it is so", "Do it.", site="decoder.cell[0]")
    assert found.anchor == "NAN003-decoder-cell-0"
