"""What every report must be: whole, small, the same twice, safe, without a network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probes.errors import RequestError
from probes.finding import Evidence, Finding, Judgement, NotJudged, Verdict
from probes.record import Recorder
from reports import render
from reports.render import spans

Check = Callable[..., Any]


def test_the_main_jobs_report(main_job: Path, check: Check) -> None:
    seen = check(main_job / "report.html")
    assert {"overfit-20-seed0", "overfit-5-seed0"} <= set(seen.ids)
    assert {"grad-overfit-20-seed0", "grad-overfit-5-seed0"} <= set(seen.ids)
    assert {"NAN000-decoder-sql_cell-0", "FIT001", "FIT001-2"} <= set(seen.ids)
    assert "#overfit-20-seed0" in seen.links
    assert seen.text.index("Failing") < seen.text.index("gave NaN first") < 400
    assert "5 parameters have a gradient that is not finite, first at step 151" in seen.text
    assert "string 20 of 20" in seen.text
    assert "FIT003 not judged: no loss" in seen.text
    assert "40 maps" in seen.text
    figures = seen.tags["figure"]
    assert figures == seen.tags["figcaption"] >= 8
    assert seen.tags["table"] >= figures  # a table of numbers under each


def test_the_same_record_gives_the_same_bytes(main_job: Path) -> None:
    first = (main_job / "report.html").read_bytes()
    assert render(main_job) == main_job / "report.html"
    assert (main_job / "report.html").read_bytes() == first


def test_small_suites_stand_before_large_ones(main_job: Path) -> None:
    text = (main_job / "report.html").read_text()
    assert text.index("Overfitting 5 samples") < text.index("Overfitting 20 samples")


def test_a_figure_writes_no_date_and_no_library(main_job: Path) -> None:
    text = (main_job / "report.html").read_text()
    assert "Matplotlib" not in text
    assert "www.w3.org" not in text


def test_an_empty_run_is_a_small_page_that_says_so(tmp_path: Path, check: Check) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.close(Judgement(passed=("NAN000",)))
    seen = check(render(tmp_path / "run"), limit=40 * 1024)
    assert "Nothing found run No rule found anything in this run." in seen.text
    assert "No gradient norm was recorded." in seen.text
    assert "No attention map was recorded." in seen.text
    assert seen.tags["figure"] == 0


def test_a_run_whose_rules_lacked_what_they_need_is_not_called_well(
    tmp_path: Path, check: Check
) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.close(Judgement(not_judged=(NotJudged("MSK001", "no mask"),)))
    seen = check(render(tmp_path / "run"))
    assert "Not judged run No rule could be judged: 1 lacked what it needs." in seen.text
    assert "Nothing found" not in seen.text


def test_an_incomplete_run_without_findings_is_not_called_well(
    tmp_path: Path, check: Check
) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.values(7, "loss", "value", {"<loss>": 1.0})
    seen = check(render(tmp_path / "run"))
    assert "This run is incomplete: its record reaches step 7 or" not in seen.text
    assert "This run is incomplete: its record reaches to step 7" in seen.text
    assert "nothing was judged. That is not to say that all is well" in seen.text
    assert "Nothing found" not in seen.text


def test_a_part_that_was_cut_off_is_named(tmp_path: Path, check: Check) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.part("overfit-5-seed0", settings={"part": "suite", "size": 5})
    recorder.close(Judgement())
    seen = check(render(tmp_path / "run"))
    assert "Cut off before they were done: overfit-5-seed0." in seen.text


def test_what_an_interrupted_run_lacks_is_told_with_the_command_that_goes_on(
    tmp_path: Path, check: Check
) -> None:
    recorder = Recorder(tmp_path / "run", settings={"part": "diagnosis"})
    recorder.facts["command"] = ["whynan", "train.py:subject", "--quick"]
    recorder.part("check").close(Judgement(passed=("MSK001",)))
    recorder.part("hunt")
    recorder.note(interrupted=True, not_begun=["overfit-5-seed0"])
    recorder.close(Judgement(passed=("MSK001",)), complete=False)
    seen = check(render(tmp_path / "run"))
    assert seen.text.index("Nothing found so far") < 400
    assert "was interrupted and is incomplete: what follows rests on what was fin" in seen.text
    for words in ("Finished, and judged: check.", "done: hunt.", "Not begun: overfit-5-seed0."):
        assert words in seen.text
    assert f"whynan train.py:subject --quick --out {tmp_path / 'run'} --resume" in seen.text


def test_a_history_shares_a_row(tmp_path: Path, check: Check) -> None:
    recorder = Recorder(tmp_path / "run")
    history = tuple(Evidence("loss", step / 2, step=step) for step in (3, 4, 5))
    lone = Evidence("rate", 0.5, 0.1, "nats", 9)
    finding = Finding("A", "a", Verdict.FAIL, "m", "f", evidence=(*history, lone))
    recorder.close(Judgement((finding,)))
    seen = check(render(tmp_path / "run"))
    assert "loss 1.5, 2, 2.5 \u2013 3 to 5" in seen.text
    assert "rate 0.5 nats 0.1 9" in seen.text


def test_a_note_says_what_to_do_and_leads_to_what_its_check_measured(
    tmp_path: Path, check: Check
) -> None:
    recorder = Recorder(tmp_path / "run")
    for name in ("pad-leak-effect", "more-padding-effect"):
        recorder.array(name, np.ones(1), ("mask",), {"mask": ["m"]}, what=f"What of {name}")
    note = Finding("MSK001", "pad-leak", Verdict.NOTE, "nobody reads `m`.", "Nothing.")
    recorder.close(Judgement((note, Finding("A", "a", Verdict.NOTE, "m", "f"))))
    seen = check(render(tmp_path / "run"))
    assert "No fault found run Nobody reads m . To do Nothing." in seen.text
    assert "1 more finding" in seen.text
    assert seen.links.count("#array-pad-leak-effect") == 2  # of the finding and of the figure
    assert seen.links.count("#array-more-padding-effect") == 1
    assert "What of pad-leak-effect. The largest is 1, at mask m." in seen.text


def test_many_samples_are_told_as_spans() -> None:
    assert spans([0, 1, 2, 3, 7, 8, 11]) == "0 to 3, 7, 8, 11"
    assert spans([]) == ""
    assert spans(range(0, 32, 2)) == "0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22 and 4 more"


def test_a_broken_rule_has_a_banner(tmp_path: Path, check: Check) -> None:
    recorder = Recorder(tmp_path / "run")
    finding = Finding("MSK001", "masks", Verdict.BROKEN, "rule MSK001 raised", "Report it.")
    recorder.close(Judgement((finding,)))
    seen = check(render(tmp_path / "run"))
    assert "A rule raised an exception and was not judged: MSK001." in seen.text
    assert "A rule is broken" in seen.text


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_few_steps(tmp_path: Path, steps: int, check: Check) -> None:
    recorder = Recorder(tmp_path / "run")
    for step in range(steps):
        recorder.values(step, "loss", "value", {"<loss>": 1.0})
        recorder.values(step, "param_grad", "norm", {"w": 1.0, "b": 0.0})
    recorder.close(Judgement())
    seen = check(render(tmp_path / "run"))
    assert seen.tags["figure"] == (2 if steps else 0)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), 0.0, -1.0])
def test_odd_numbers_everywhere(tmp_path: Path, odd: float, check: Check) -> None:
    recorder = Recorder(tmp_path / "run", settings={"lr": odd}, limits={"A": {"most": odd}})
    for step in range(3):
        recorder.values(step, "loss", "value", {"<loss>": odd, "part": 1.0})
        recorder.values(step, "param_grad", "norm", {"w": odd, "b": odd})
        recorder.values(step, "metric", "hits", {"string": odd})
        recorder.values(step, "metric", "count", {"string": odd})
    for shape in ((1, 1, 1), (2, 3, 4)):
        name = f"attention-{len(shape)}{shape[0]}"
        about = {"kind": "attention", "site": "s", "layer": 0}
        recorder.array(name, np.full(shape, odd), ("head", "query", "key"), **about)
    evidence = (Evidence("x", odd, odd),)
    recorder.close(Judgement((Finding("A", "a", Verdict.FAIL, "m", "f", evidence=evidence),)))
    seen = check(render(tmp_path / "run"))
    assert seen.tags["figure"] == 4
    if not np.isfinite(odd):
        assert "It is not finite at 3 of 3 steps." in seen.text
        assert "2 parameters have a gradient that is not finite, first at step 0" in seen.text
        assert "rows of weights, over all heads, are not finite" in seen.text


def test_hostile_text_stays_text(tmp_path: Path, check: Check, hostile: str) -> None:
    settings = {"part": "suite", "size": hostile, "samples": [hostile], hostile: hostile}
    recorder = Recorder(tmp_path / "run", settings=settings)
    recorder.values(0, "loss", "value", {hostile: 1.0, "<loss>": 2.0})
    recorder.values(0, "param_grad", "norm", {hostile: 1.0})
    recorder.values(0, "metric", "hits", {hostile: 1.0})
    recorder.values(0, "metric", "count", {hostile: 1.0})
    recorder.array(
        "attention-000",
        np.ones((1, 1, 1)),
        (hostile, hostile, hostile),
        {"head": [hostile]},
        site=hostile,
        layer=0,
        sample=0,
        sample_name=hostile,
        row=hostile,
        queries=[hostile],
        keys=[hostile],
    )
    finding = Finding(
        hostile, hostile, Verdict.FAIL, hostile, hostile, site=hostile, source=hostile,
        where={hostile: hostile},
        evidence=(Evidence(hostile, hostile, hostile, hostile, 0, hostile),),
    )  # fmt: skip
    recorder.close(Judgement((finding,), (NotJudged(hostile, hostile),), (hostile,)))
    seen = check(render(tmp_path / "run"))
    assert seen.tags["img"] == 0
    assert seen.text.count(hostile) > 10


def test_many_steps_and_parameters_are_binned_and_said(tmp_path: Path, check: Check) -> None:
    recorder = Recorder(tmp_path / "run")
    for place in range(600):
        recorder.column("param_grad", f"p{place}")
    norms = np.ones(600, np.float32)
    for step in range(1100):
        norms[599] = np.nan if step == 1000 else 1
        recorder.write(step, {("param_grad", "norm"): norms})
    recorder.close(Judgement())
    seen = check(render(tmp_path / "run"))
    assert "1100 steps are binned by their maximum" in seen.text
    assert "600 parameters are binned by their maximum into 480 rows" in seen.text
    assert "1 parameter has a gradient that is not finite, first at step 1000: p599" in seen.text
    assert 'class="odd"' in (tmp_path / "run" / "report.html").read_text()


def test_a_torn_record_is_said_part_by_part(tmp_path: Path, check: Check) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.values(0, "loss", "value", {"<loss>": 1.0})
    about = {"site": "s", "layer": 0}
    for name in ("attention-000", "attention-001", "attention-002"):
        recorder.array(name, np.ones((1, 2, 2)), ("head", "query", "key"), **about)
    recorder.close(Judgement())
    folder = tmp_path / "run"
    (folder / "arrays" / "attention-000.npy").unlink()
    (folder / "arrays" / "attention-001.npy").write_bytes(b"\x93NUMPY")
    (folder / "arrays" / "attention-002.json").write_text("{")
    (folder / "findings.json").write_text('{"schema": 1')
    seen = check(render(folder))
    for name in ("attention-000", "attention-001", "attention-002"):
        assert f"Missing from this page: array {name} of run cannot be read" in seen.text
    assert "Missing from this page: findings.json cannot be read" in seen.text
    assert "This run was not judged." in seen.text


def test_the_users_lines_stand_around_the_culprit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Check
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"x{number} = '<b>'" for number in range(1, 21)]
    Path("train.py").write_text("\n".join(lines))
    recorder = Recorder(tmp_path / "run")
    here = Finding("A", "a", Verdict.FAIL, "m", "f", source="train.py:9")
    gone = Finding("B", "b", Verdict.FAIL, "m", "f", source="train.py:99")
    recorder.close(Judgement((here, gone)))
    seen = check(render(tmp_path / "run"))
    assert "9 ▸ x9 = '<b>'" in seen.text
    assert "x5" not in seen.text
    assert seen.tags["pre"] == 2  # the lines and the command


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is not a run folder: it holds no `run.json`"):
        render(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_page_is_whole_without_its_script(main_job: Path, read: Check) -> None:
    text = (main_job / "report.html").read_text()
    without = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert read(without).text == read(text).text
    hidden = re.findall(r"([^{}]*)\{[^{}]*display: none", without.split("@media print")[0])
    # nothing waits for it: a message that stands below again, and an empty line
    assert [each.strip() for each in hidden] == [".card[open] > summary .brief", "#value:empty"]
