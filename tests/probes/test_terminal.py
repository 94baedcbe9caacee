from __future__ import annotations

import pytest

from probes import Evidence, Finding, Verdict
from probes.finding import Judgement, NotJudged
from probes.terminal import lines, say


def test_findings_fit_80_columns_without_colour_when_piped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    evidence = tuple(Evidence("loss", 1.0 / (step + 1), None, None, step) for step in range(8))
    found = Finding(
        "NAN000", "unknown-origin", Verdict.FAIL, "the [red]loss[/red] " * 12, "Mend it.",
        source="train.py:3", evidence=evidence,
    )  # fmt: skip
    say(Judgement((found,), (NotJudged("GRD001", "there are no gradient norms"),)))
    out = capsys.readouterr().out
    assert out.startswith("verdict: fail\n")
    assert "\x1b" not in out
    assert "[red]loss[/red]" in out, "markup of others is text"
    assert all(len(line) <= 80 and line == line.rstrip() for line in out.splitlines())
    assert "0 rules passed, 1 not judged; the report says why." in out


@pytest.mark.parametrize(
    ("judgement", "interrupted", "words"),
    [
        (Judgement(), False, "ok"),
        (Judgement(passed=("A",)), False, "ok"),
        (Judgement(passed=("A",)), True, "ok so far (interrupted)"),
        (Judgement(not_judged=(NotJudged("A", "b"),)), False, "not judged"),
        (Judgement(), True, "not judged (interrupted)"),
    ],
)
def test_nothing_judged_is_not_called_ok(
    capsys: pytest.CaptureFixture[str], judgement: Judgement, interrupted: bool, words: str
) -> None:
    say(judgement, interrupted)
    assert capsys.readouterr().out.splitlines()[0] == f"verdict: {words}"


def test_a_history_shares_a_line() -> None:
    history = [
        Evidence("loss", value, "finite", None, step) for step, value in enumerate((2.0, 1.0))
    ]
    assert list(lines([*history, Evidence("norm", float("nan"), 1.0, "L2", 2)])) == [
        "loss, steps 0 to 1: 2, 1",
        "norm: nan L2 (limit 1) at step 2",
    ]
