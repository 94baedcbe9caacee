"""The same findings as Markdown and as JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from probes.command import main
from probes.finding import Evidence, Finding, Judgement, NotJudged, Verdict
from probes.record import Recorder
from probes.run import Run
from reports.junit import junit
from reports.markdown import fenced, markdown, prose
from reports.page import read_page

STORY = (
    Evidence("loss", 0.5, "finite", step=2),
    Evidence("story", "backward: aten.div in LogBackward0 at a.py:1: 3 NaN of 9"),
    Evidence("story", "not finite: w"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text("x = `1`\ny = ```2```\n")
    recorder = Recorder(tmp_path / "run")
    bad = Finding(
        "NAN001", "log-of-zero", Verdict.FAIL, "`aten.log` takes | of *0*.", "Ask @me.",
        site="<loss>", step=3, source="a.py:1", confirmed=True, evidence=STORY,
    )  # fmt: skip
    broken = Finding("MSK001", "masks", Verdict.BROKEN, "raised \x00\x1b", "Report it.")
    note = Finding("FIT001", "memorised", Verdict.NOTE, "5 memorised.", "Go on.")
    recorder.close(Judgement((broken, bad, note), (NotJudged("GRD001", "<no>"),), ("FIT004",)))
    return tmp_path / "run"


def test_markdown_tells_cause_fix_story_and_lines(folder: Path) -> None:
    text = markdown(read_page(Run(folder)))
    assert text.startswith("## 🟣 whynan: A rule is broken (run)")
    assert "`aten.log` takes \\| of \\*0\\*." in text
    assert "**Fix:** Ask @\u200bme." in text
    assert "1. last finite: loss: 0.5\n2. first bad: backward: aten.div" in text
    assert "````python\n>     1 x = `1`" in text
    assert "| loss | 0.5 | finite | 2 |" in text
    assert "Not judged: GRD001." in text
    assert prose("a `b|c` d_e") == "a `b|c` d\\_e"
    assert fenced("a", "sh") == "```sh\na\n```"


def test_junit_fails_warnings_and_errs_on_broken_rules(folder: Path) -> None:
    suite = ET.fromstring(junit(read_page(Run(folder))))
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "1"}
    cases = {case.get("name"): case for case in suite}
    bad = cases["NAN001 log-of-zero <loss>"]
    assert (bad.get("file"), bad.get("line")) == ("a.py", "1")
    failure = bad.find("failure")
    assert failure is not None
    assert failure.get("message") == "`aten.log` takes | of *0*."
    assert "first bad: backward: aten.div" in (failure.text or "")
    assert cases["FIT001 memorised"].find("failure") is None
    error = cases["MSK001 masks"].find("error")
    assert error is not None
    assert error.get("message") == "raised \ufffd\ufffd"


def test_render_writes_the_format_that_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wanted, name in (("markdown", "report.md"), ("junit", "junit.xml")):
        with pytest.raises(SystemExit) as end:
            main(["render", str(folder), "--format", wanted])
        assert end.value.code == 0
        assert capsys.readouterr().out == f"report: {folder / name}\nrun: {folder}\n"
        assert (folder / name).is_file()


def test_a_notebook_shows_findings_as_text(folder: Path) -> None:
    run = Run(folder)
    text = run._repr_html_()
    assert text.count("<details open>") == 1
    assert text.count("<details>") == 2
    assert "✗ fail" in text
    assert "not finite: w" in text
    assert "<code>aten.log</code> takes" in text
    assert str(folder) in text
    hostile = Finding("A", "<b>", Verdict.FAIL, "<script>", "<i>", source="<u>.py:1")
    assert "&lt;script&gt;" in hostile._repr_html_()
    assert not any(tag in hostile._repr_html_() for tag in ("<script", "<i>", "<u>"))
    assert "No rule found anything." in Judgement(passed=("NAN000",))._repr_html_()
    assert "No rule could be judged." in Judgement()._repr_html_()
