"""Records that are odd, hostile, huge or torn: a page that says so, never a blank or broken one."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probes.chunks import NOT_SEEN
from probes.command import main
from probes.errors import RequestError
from probes.finding import Evidence, Finding, Judgement, Verdict
from probes.record import Recorder
from probes.run import Run
from reports import render
from reports.comparison import compare
from reports.figures.attention_file import save
from reports.junit import junit
from reports.markdown import markdown
from reports.page import read_page
from reports.reading.attention import read_attention
from reports.reading.stretches import stretches
from reports.render import compared, render_index, text_of
from reports.sections import LARGEST, fitting

Check = Callable[..., Any]


def whole(folder: Path, text: str = "plain", number: float = 1.0) -> Recorder:
    """A record with something of every figure, every word `text` and every number `number`."""
    told = {
        "step": 3,
        "size": 9,
        "by_site": [[text, "forward", 5]],
        "largest": [[text, 4]],
    }
    bounds = [{"name": text, "head": text, "accuracy": number, "loss": number}]
    settings = {"out_of_memory": told, "floors": bounds, "ceilings": bounds}
    recorder = Recorder(folder, settings=settings)
    for step in range(3):
        recorder.values(step, "loss", "value", {"<loss>": number})
        recorder.values(step, "metric", "hits", {text: number})
        recorder.values(step, "metric", "count", {text: 4.0})
        recorder.values(step, "update", "ratio", {text: number})
        recorder.values(step, "clip", "total_norm", {"<optimizer>": number})
        recorder.values(step, "clip", "factor", {"<optimizer>": number})
    recorder.array("index-x", np.full((2, 2, 3), number), (text, "b", "c"), {text: [text, text]})
    about = {"sample": 0, "decision": text, "score": number, "baseline_score": 0.0, "delta": number}
    names = {"entry": [text, text]}
    recorder.array("attribution-000-00", [number, -1.0], ("entry",), names, key=text, **about)
    recorder.array("conductance-000", [number], ("module",), {"module": [text]}, decision=text)
    node = {"name": text, "op": text, "site": text, "source": text, "reads": [], "guilty": True}
    recorder.graph("graph-000", {"total": 1, "finding": text, "step": 3, "operators": [node]})
    evidence = (Evidence("story", text), Evidence("story", f"not finite: {text}"))
    recorder.close(Judgement((Finding("A", "a", Verdict.FAIL, text, text, evidence=evidence),)))
    return recorder


@pytest.mark.parametrize("number", [1.0, 0.0, -2.5, float("nan"), float("inf"), -float("inf")])
def test_any_number_in_every_figure(tmp_path: Path, number: float, check: Check) -> None:
    seen = check(render(whole(tmp_path / "run", number=number).folder))
    assert seen.tags["figure"] == 8
    assert "Memory at step 3" in seen.text
    odd = not np.isfinite(number)
    assert ("attributions are not finite" in seen.text) == odd
    assert ("12 of 12 entries are not finite" in seen.text) == odd


def test_hostile_text_in_every_figure(tmp_path: Path, check: Check, hostile: str) -> None:
    seen = check(render(whole(tmp_path / "run", hostile).folder))
    assert seen.tags["figure"] == 8
    assert seen.tags["img"] == 0
    assert "first bad" in seen.text


def test_hostile_text_in_pages_over_runs_and_in_files(
    tmp_path: Path, hostile: str, read: Check, attention: Check
) -> None:
    odd = tmp_path / "<img src=x>"
    for folder, number in ((tmp_path / "one", 1.0), (odd, 2.0)):
        recorder = Recorder(folder, settings={hostile: number, "subject": hostile})
        recorder.values(0, "loss", "value", {hostile: number})
        recorder.close(Judgement((Finding("A", "a", Verdict.FAIL, hostile, hostile),)))
    called = {"queries": [hostile], "keys": [hostile], "padding": [False]}
    one = {"weights": np.ones((1, 1, 1)), "hidden": [False], "masked_rows": [False], **called}
    attention(recorder, 0, site=hostile, row=hostile, **one)
    index = read(render_index(tmp_path).read_text(encoding="utf-8"))
    both = read(compared(compare([tmp_path / "one", odd])))
    for seen in (index, both, read(text_of(Run(odd)))):
        assert (seen.tags["img"], seen.tags["script"], seen.handlers) == (0, 1, [])
        assert hostile in seen.text
    (map_,) = read_attention(stretches(Run(odd)), [])
    save(map_, tmp_path / "map.svg")
    drawn = {each.tag.rpartition("}")[2] for each in ET.parse(tmp_path / "map.svg").iter()}
    assert "text" in drawn
    assert not drawn & {"script", "img", "foreignObject"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "holds a JSON list where an object was expected"),
        ('{"run', "is not JSON"),
        ("\udcff", "is not JSON"),
        ('{"schema": "new"}', "has schema 'new', which is no number"),
    ],
)
def test_a_record_that_is_none_is_a_sentence(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RequestError, match=re.escape(f"run.json` {words}")):
        render(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("findings.json", "[]", "findings.json` holds a JSON list"),
        ("findings.json", '{"schema": 99}', "findings.json` has schema 99"),
        ("findings.json", '{"findings": [{}]}', "holds no findings as whynan writes them"),
        ("readings/steps.i64", None, "the readings of run, whose `readings/steps.i64` is empty"),
        ("sites.jsonl", None, "sites.jsonl` names 0 sites of `loss`, but"),
        ("arrays/index-x.json", None, "array index-x of run cannot be read"),
        ("arrays/index-x.npy", None, "array index-x of run cannot be read"),
    ],
)
def test_what_a_record_has_lost_is_said_by_every_mouth(
    tmp_path: Path, check: Check, file: str, content: str | None, words: str
) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.values(0, "loss", "value", {"<loss>": 1.0})
    recorder.array("index-x", np.ones((2, 2)), ("a", "b"))
    recorder.close(Judgement(passed=("NAN000",)))
    path = recorder.folder / file
    path.unlink() if content is None else path.write_text(content)
    run = Run(recorder.folder)
    assert words in check(render(run.folder)).text.partition("Missing from this page:")[2]
    assert words in markdown(read_page(run))
    torn = file == "findings.json"
    assert junit(read_page(run)).count('errors="1"') == torn
    assert (words in run._repr_html_()) == torn


def test_a_newer_record_has_a_page_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], check: Check
) -> None:
    folder = whole(tmp_path / "run").folder
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**facts, "schema": 99}))
    with pytest.raises(SystemExit) as end:
        main(["render", str(folder)])
    assert (end.value.code, capsys.readouterr().err) == (0, "")
    seen = check(folder / "report.html")
    assert "has schema 99, but this version of whynan reads up to 1" in seen.text
    assert "Not read" in seen.text


def test_a_torn_part_graph_and_array_are_said(tmp_path: Path, check: Check) -> None:
    recorder = whole(tmp_path / "run")
    folder = recorder.folder
    part = folder / "parts" / "overfit-5-seed0"
    part.mkdir(parents=True)
    (part / "run.json").write_text("{")
    (folder / "graphs" / "graph-000.json").write_text('{"operators": [{}]}')
    (folder / "arrays" / "index-x.npy").unlink()
    (folder / "arrays" / "conductance-000.npy").write_bytes(b"")
    (folder / "sources.json").write_text("[")
    recorder.array("mask-none", np.zeros((0, 3)), ("row", "token"))  # nothing was measured
    seen = check(render(folder))
    for words in (
        "part overfit-5-seed0 cannot be read",
        "a graph of run cannot be read (TypeError",
        "array index-x of run cannot be read (FileNotFoundError",
        "array conductance-000 of run cannot be read",
        "sources.json cannot be read",
    ):
        assert f"Missing from this page: {words}" in seen.text
    assert seen.tags["figure"] == 5


def test_a_hundred_thousand_steps(tmp_path: Path, check: Check) -> None:
    recorder = Recorder(tmp_path / "run")
    recorder.close(Judgement())
    folder = tmp_path / "run"
    steps = np.arange(100_000)
    for kind, site, numbers in (
        ("loss", "<loss>", np.exp(-steps / 3e4)),
        ("param_grad", "w", np.where(steps == 77_777, np.nan, 1.0)),
    ):
        stream = "value" if kind == "loss" else "norm"
        path = folder / "readings" / f"{kind}.{stream}"
        path.mkdir()
        table = np.stack([steps.astype(np.int32).view(np.float32), numbers.astype(np.float32)], 1)
        (path / "000000000-1-1.f32").write_bytes(table.astype(np.float32).tobytes())
        with (folder / "sites.jsonl").open("a") as sites:
            sites.write(json.dumps({"kind": kind, "site": site, "tick": 0}) + "\n")
    (folder / "readings" / "steps.i64").write_bytes(steps.astype(np.int64).tobytes())
    seen = check(render(folder))
    assert "100000 steps are binned by their maximum into 1000 columns" in seen.text
    assert "not finite, first at step 77777" in seen.text
    assert "from 1 at step 0 to 0.03568 at step 99999" in seen.text


def test_five_thousand_parameters(tmp_path: Path, check: Check) -> None:
    recorder = Recorder(tmp_path / "run")
    for place in range(5000):
        recorder.column("param_grad", f"layer.{place}.weight")
    norms = np.ones(5000, np.float32)
    norms[4321], norms[17] = np.inf, NOT_SEEN
    for step in range(2):
        recorder.write(step, {("param_grad", "norm"): norms})
    recorder.close(Judgement())
    seen = check(render(tmp_path / "run"))
    assert "5000 parameters are binned by their maximum into 480 rows" in seen.text
    assert "first at step 0: layer.4321.weight" in seen.text
    assert "Never seen: layer.17.weight ." in seen.text


def test_a_page_never_outgrows_its_limit_and_says_what_it_left_out(
    tmp_path: Path, check: Check
) -> None:
    recorder = Recorder(tmp_path / "run", settings={"words": "x" * 3_000_000})
    rng = np.random.default_rng(0)
    for place in range(60):
        recorder.array(f"mask-{place:03d}", rng.random((3, 60, 60)), ("a", "b", "c"))
    findings = [
        Finding("A", "a", Verdict.FAIL, f"{place} " + "m" * 20_000, "f", site=str(place))
        for place in range(400)
    ]
    recorder.close(Judgement(tuple(findings)))
    report = render(tmp_path / "run")
    seen = check(report, limit=LARGEST)
    assert "150 of 400 findings stand here" in seen.text
    assert "of 60 figures are drawn, the worst, the first and the last among them" in seen.text
    assert "(3000000 characters)" in seen.text


def test_what_is_kept_is_the_worst_the_first_and_the_last() -> None:
    from markupsafe import Markup

    from reports.figures.figure import Figure, Table

    def figure(place: int, **changes: Any) -> Figure:
        empty = Table((), ())
        return Figure(str(place), "t", "a", Markup("x" * 100), empty, **changes)

    figures = [figure(place, badness=float(place == 4)) for place in range(9)]
    assert [each.id for each in fitting(figures, 0)] == ["0", "4", "8"]
    assert [each.id for each in fitting(figures, 4 * figures[0].size + 50)] == ["0", "1", "4", "8"]
    assert len(fitting(figures, 10_000)) == 9
    assert fitting([], 0) == ()
