from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from probes import Verdict, strict_json
from probes.errors import RequestError
from probes.finding import Finding
from probes.record import Recorder
from reports import render

FINDING = Finding("IDX001", "index", Verdict.FAIL, "unit <b>2</b> reads `tokens`", "Mend it.", "m")
SAID = {"finding": FINDING.as_json(), "by": "check", "seconds": 4.25}


def row(name: str, **more: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": name,
        "set": {},
        "remark": "",
        "notes": [],
        "same_as": None,
        "state": "complete",
        "why": None,
        "verdict": "ok",
        "said": [],
        "reached": [],
        "course": None,
        "compared": None,
        "seconds": 61.0,
    }
    return fields | more


def notebook(folder: Path, *rows: dict[str, Any], complete: bool = True) -> str:
    recorder = Recorder(folder, settings={"part": "notebook", "notebook": "log.py:log"})
    bug = {
        "name": "off by one",
        "what": "reads j + 1",
        "cost": "1.1 days",
        "last": "a",
        "codes": [],
    }
    found = {"bug": bug, "entry": "a", "said": SAID, "why": None}
    unnamed = found | {"said": None, "why": "not named"}
    results = {"title": "", "notes": ["is inferred"], "bugs": [found, unnamed], "results": rows}
    strict_json.write(folder / "results.json", results)
    recorder.close(complete=complete)
    return render(folder).read_text(encoding="utf-8")


SUITE = {
    "size": 5,
    "seed": 0,
    "unit": "samples",
    "ended": "steps",
    "steps": 300,
    "loss": float("nan"),
    "heads": {"key": [3.0, 4.0]},
}
SWING = {"first": [1, 4], "last": [3, 4], "swing": 0.21, "chance": 0.2}
WENT = {"what": "on all", "steps": 9, "asked": 9, "ended": "steps", "said": None}


def test_the_page_tells_each_bug_and_each_experiment(tmp_path: Path) -> None:
    sick = row(
        "a",
        set={"lr": 1e-3, "clip": True},
        remark="db <i>swings</i>",
        notes=["not reproduced here"],
        verdict="fail",
        said=[SAID, SAID],
        reached=[SUITE],
        course=WENT | {"heads": {"db": SWING}},
        compared="Differs from `z`.",
    )
    text = notebook(tmp_path / "run", sick, row("b"), row("c", state="not run", verdict=None))
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "1.1 days 4.2 s IDX001 index in m , by check in a : unit" in words
    assert "not named ( a )" in words
    assert "3 experiments: 1 fail, 1 ok, 1 not run. Their processes took 3.0 minutes" in words
    assert "1 of 3 experiments were not run; --out with --resume runs them." in words
    assert "Not run: c ." in words
    assert 'id="c"' not in text
    assert "lr = 0.001" in words
    assert "clip = yes" in words
    assert "5 samples, seed 0 after its last step 300 NaN 0.75 (3 of 4)" in words
    assert "`db`" not in words
    assert "it swings by 0.21, where counting alone gives 0.20" in words
    assert "not reproduced here" in words
    assert "1 more finding" in words
    assert "&lt;i&gt;swings&lt;/i&gt;" in text
    assert "<b>2</b>" not in text
    assert not re.search(r"(?:src|href)=\"(?!#)", text)  # it needs no other file
    assert "prefers-color-scheme: dark" in text
    assert text.count('class="scroll wide"') == text.count('class="scroll wide" tabindex="0"') > 3
    assert text == render(tmp_path / "run").read_text(encoding="utf-8")


def test_hostile_names_and_numbers_that_are_none_have_a_page(
    tmp_path: Path, hostile: str, read: Any
) -> None:
    odd = {**SUITE, "heads": {hostile: [float("nan"), 0.0], "key": [float("inf"), 4.0]}}
    finding = Finding(
        hostile, hostile, Verdict.FAIL, hostile, hostile, site=hostile, source=hostile
    )
    said = {**SAID, "finding": finding.as_json(), "by": hostile}
    sick = row(
        hostile,
        set={hostile: hostile},
        remark=hostile,
        notes=[hostile],
        verdict="fail",
        said=[said, said],
        reached=[odd],
    )
    rows = (sick, row("table"), row("a b"), row("a-b"))  # a name of a section, two of one address
    seen = read(notebook(tmp_path / "run", *rows))
    assert [name for name, count in seen.ids.items() if count > 1] == []
    assert {link[1:] for link in seen.links} <= set(seen.ids)
    assert (seen.tags["img"], seen.tags["script"], seen.handlers) == (0, 1, [])
    assert seen.text.count(hostile) > 8
    assert "nan of 0 inf (inf of 4)" in seen.text


def test_results_that_cannot_be_read_are_a_sentence(tmp_path: Path) -> None:
    notebook(tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text("[]")
    with pytest.raises(RequestError, match=r"results.json` cannot be read .*--resume"):
        render(tmp_path / "run")


def test_what_is_not_complete_is_said_above_all(tmp_path: Path) -> None:
    killed = row("a", state="incomplete", verdict=None, why="its process was killed", seconds=None)
    text = notebook(tmp_path / "run", killed, row("b"), complete=False)
    assert "1 of 2 experiments of this notebook are not complete." in text
    assert "Not complete: its process was killed" in text


def test_a_notebook_that_was_killed_before_its_results_is_told(tmp_path: Path) -> None:
    Recorder(tmp_path / "run", settings={"part": "notebook"}).close()
    with pytest.raises(RequestError, match=r"holds no `results.json`.*--resume"):
        render(tmp_path / "run")
