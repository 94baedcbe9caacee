"""Records of runs that never ran, as real ones look."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from probes.finding import Evidence, Finding, Judgement, NotJudged, Verdict
from probes.record import Recorder
from reports import render

STEPS, PARAMETERS = 200, 60
HOSTILE = (
    "</script><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\"'&$"
)
VOID = {"meta", "img", "br", "link", "input", "hr"}
CELLS = ("td", "th")  # their ends, and that of a row, may be left out
IMPLIED = {"td": CELLS, "th": CELLS, "tr": (*CELLS, "tr"), "tbody": (*CELLS, "tr")}


class Seen(HTMLParser):
    """The elements of a page, and whether every one was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.labels: list[str] = []
        self.tags: Counter[str] = Counter()
        self.handlers: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags["data" if given.get("type") == "application/json" else tag] += 1
        self._end(tag)
        if tag not in VOID:
            self._open.append(tag)
        if "id" in given:
            self.ids[given["id"]] += 1
        self.handlers += [name for name in given if name.startswith("on")]
        self.labels += given.get("aria-labelledby", "").split()
        if tag == "a":
            self.links.append(given["href"])
        else:
            self.sources += [given[name] for name in ("src", "href") if name in given]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag == "tbody":
            self._end(tag)
        assert self._open.pop() == tag

    def _end(self, tag: str) -> None:
        """What the tag ends without a word is ended."""
        while self._open and self._open[-1] in IMPLIED.get(tag, ()):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _check(report: Path, limit: int = 2**20) -> Seen:
    """What holds for any report."""
    text = report.read_text(encoding="utf-8")
    assert len(text.encode()) <= limit
    seen = Seen(text)
    assert [name for name, count in seen.ids.items() if count > 1] == []
    inside = [link for link in seen.links if link.startswith("#")]
    assert inside == seen.links
    assert {link[1:] for link in inside} <= set(seen.ids)
    assert set(seen.labels) <= set(seen.ids)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in seen.sources)
    assert seen.handlers == []
    assert seen.tags["script"] == 1
    assert seen.tags["h1"] == 1
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\((?!#)", text)
    return seen


@pytest.fixture
def check() -> Callable[..., Seen]:
    """Looks at a report, of which all must hold that holds for any, and returns what it saw."""
    return _check


@pytest.fixture
def read() -> Callable[[str], Seen]:
    """What a page holds, of which every element must be closed."""
    return Seen


@pytest.fixture
def hostile() -> str:
    """Text that is no markup, wherever it comes from."""
    return HOSTILE


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diagnosis with suites of 5 and 20, 200 steps, 60 parameters, and attention, rendered."""
    recorder = Recorder(
        tmp_path_factory.mktemp("main") / "run",
        seed=0,
        device="cpu",
        settings={"part": "diagnosis"},
    )
    for size in (20, 5):
        part = suite(recorder, size)
        if size == 20:
            for place in range(40):
                write_map(part, place)
        part.close()
    evidence = Evidence("loss", float("nan"), 1.0, "nats", 151, anchor="overfit-20-seed0")
    findings = (
        Finding(
            code="NAN000",
            rule="unknown-origin",
            verdict=Verdict.FAIL,
            message="`decoder.sql_cell` gave NaN first, at step 151.",
            fix="Run `whynan replay` on the capsule.",
            site="decoder.sql_cell[0]",
            step=151,
            where={"turn": 1},
            evidence=(evidence, Evidence("elsewhere", 1, anchor="nowhere")),
        ),
        Finding("FIT001", "memorised", Verdict.NOTE, "5 samples memorised.", "Go on."),
        Finding("FIT001", "memorised", Verdict.NOTE, "20 samples memorised.", "Go on."),
    )
    recorder.close(Judgement(findings, (NotJudged("FIT003", "no loss"),), ("FIT004",)))
    render(recorder.folder)
    return recorder.folder


def suite(recorder: Recorder, size: int, steps: int = STEPS) -> Recorder:
    """A suite's part, left open."""
    rng = np.random.default_rng(size)
    settings = {"part": "suite", "size": size, "seed": 0, "steps": steps, "unit": "samples"}
    part = recorder.part(f"overfit-{size}-seed0", settings=settings)
    for place in range(PARAMETERS):
        part.column("param_grad", f"encoder.layer.{place}.attention.self.query.weight")
    for site in ("<loss>", "key", "db"):
        part.column("loss", site)
    for step in range(steps):
        norms = 10 ** rng.normal(-2, 1, PARAMETERS)
        norms[1] = 0
        if size == 20 and step > 150:
            norms[30:35] = np.nan
        loss = 5 * np.exp(-step / 40)
        part.write(
            step, {("param_grad", "norm"): norms, ("loss", "value"): [loss, loss / 2, loss / 3]}
        )
        if step % 10 == 0:
            right = min(size, size * step // 100)
            part.values(step, "metric", "hits", {"string": right, "token": right * 9})
            part.values(step, "metric", "count", {"string": size, "token": size * 9})
    return part


@pytest.fixture(scope="session")
def attention() -> Callable[..., None]:
    """Writes a map into a record."""
    return write_map


def write_map(part: Recorder, place: int, **changes: object) -> None:
    """A map of 4 heads, 16 steps and 30 units, the last two of them padding."""
    rng = np.random.default_rng(place)
    weights = rng.random((4, 16, 30)).astype(np.float32) ** 6
    weights[:, :, 28:] = 0
    weights /= weights.sum(-1, keepdims=True)
    about: dict[str, object] = {
        "kind": "attention",
        "site": "decoder.attend_units",
        "layer": 0,
        "call": 0,
        "sample": place // 4,
        "sample_name": f"interaction {place // 4}",
        "row": f"turn {place % 4}",
        "queries": [f"step{step}" for step in range(16)],
        "keys": [f"table.column{unit}" for unit in range(30)],
        "padding": [False] * 28 + [True] * 2,
        "hidden": [False] * 28 + [True] * 2,
        "masked_rows": [False] * 16,
    }
    part.array(
        f"attention-{place:03d}",
        changes.pop("weights", weights),  # type: ignore[arg-type]
        ("head", "time", "unit"),
        {"head": list("0123")},
        **(about | changes),
    )
