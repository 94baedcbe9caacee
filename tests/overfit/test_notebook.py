from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overfit.differences import compared
from overfit.experiment import Tried, run_entry
from overfit.notebook import Bug, Course, Entry, Notebook, load_notebook
from overfit.results import Reached, Result, Said, read_found, read_results
from overfit.run_notebook import to_run
from probes import Ratio, Subject, Verdict
from probes.errors import RequestError
from probes.finding import Finding, Judgement
from probes.record import Recorder
from probes.run import Run


def right(model: nn.Module, batch: dict[str, Tensor]) -> Ratio:
    return Ratio((model(batch["x"]).argmax(-1) == batch["y"]).sum(), len(batch["y"]))


def build(lr: float, rows: int = 24) -> Callable[[], Subject]:
    def made() -> Subject:
        x, y = torch.randn(rows, 8), torch.randint(0, 3, (rows,))
        return Subject(
            nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)),
            [{"x": x[i : i + 8], "y": y[i : i + 8]} for i in range(0, rows, 8)],
            lambda model, batch: nn.functional.cross_entropy(model(batch["x"]), batch["y"]),
            lambda model: torch.optim.Adam(model.parameters(), lr=lr),
            metrics={"class": right},
        )

    return made


def run(entry: Entry, folder: Path) -> None:
    began = time.monotonic()
    tried = Tried(quick=True, seed=0, clock=lambda: time.monotonic() - began)
    run_entry(entry, tried, folder / "parts" / entry.name, lambda step, words: None)


def test_what_an_experiment_came_to_is_read_from_its_record(tmp_path: Path) -> None:
    idle = Entry("idle", build(0.0), {"lr": 0.0}, suites={5: 20}, seeds=2)
    learns = Entry(
        "learns",
        build(0.05),
        suites={5: 60, 8: 20},
        seeds=2,
        course=Course(build(0.05), 12, 3, "all"),
    )
    again, more = (Entry(name, build(0.05), same_as="learns") for name in ("again", "more"))
    left = Entry("left", build(0.05))
    run(idle, tmp_path)
    run(learns, tmp_path)
    bugs = (
        Bug("idle rate", "", "2 days", "idle", ("WIR008",)),
        Bug("never there", "", "1 day", "learns", ("IDX001",)),
        Bug("not run", "", "1 day", "left", ("STA001",)),
    )
    notebook = Notebook((idle, learns, again, more, left), bugs=bugs)
    results = read_results(notebook, tmp_path)
    assert [(each.state, each.verdict) for each in results] == [
        ("complete", "fail"),
        *[("complete", "note")] * 3,
        ("not run", None),
    ]
    lead = results[0].said[0]
    assert (lead.finding.code, lead.by) == ("WIR008", "check")
    assert results[0].seconds is not None
    assert lead.seconds is not None
    assert 0 < lead.seconds < results[0].seconds
    assert [(each.size, each.seed) for each in results[1].reached] == [(5, 0), (5, 1), (8, 0)]
    assert [each.heads["class"] for each in results[1].reached[:2]] == [(5, 5), (5, 5)]
    went = results[1].course
    assert went is not None
    assert (went.what, went.steps, went.ended) == ("all", 12, "steps")
    assert went.heads["class"].last[1] == 8
    assert results[1].compared is not None
    assert results[1].compared.startswith("Differs from `idle` by more than the spread of 2 seeds")
    same = "Nothing that runs here differs from `learns`: it was not run again."
    assert [each.compared for each in results[2:]] == [same, same, None]
    found = read_found(notebook, results)
    assert [each.why for each in found] == [None, "not named", "not run"]
    assert found[0].said == lead
    json.dumps([each.as_json() for each in results])


def test_model_and_batches_are_moved_to_the_device_that_is_asked_for(tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()

    def loss(model: Any, batch: Any) -> Tensor:
        seen.add((model.weight.device.type, batch["x"].device.type))
        return model(batch["x"]).square().mean()

    def made() -> Subject:
        batches = [{"x": torch.randn(8, 4)}]
        return Subject(nn.Linear(4, 1), batches, loss, lambda m: torch.optim.SGD(m.parameters()))

    tried = Tried(quick=True, seed=0, clock=time.monotonic, device="meta")
    with pytest.raises(RequestError, match="cannot compute there"):  # it was moved, and is checked
        run_entry(Entry("moved", made), tried, tmp_path / "moved", lambda step, words: None)
    run_entry(
        Entry("stays", made, suites={5: 3}),
        Tried(quick=True, seed=0, clock=time.monotonic, device="cpu"),
        tmp_path / "stays",
        lambda step, words: None,
    )
    assert seen == {("cpu", "cpu")}


def test_an_experiment_that_cannot_be_built_says_so_in_its_record(tmp_path: Path) -> None:
    def broken() -> Subject:
        raise ValueError("no data")

    entry = Entry("broken", broken)
    with pytest.raises(
        RequestError, match="`subject` of the experiment `broken` raised ValueError"
    ):
        run(entry, tmp_path)
    (result,) = read_results(Notebook((entry,)), tmp_path)
    assert (result.state, result.verdict) == ("incomplete", None)
    assert result.why is not None
    assert "no data" in result.why
    assert not Run(tmp_path / "parts" / "broken").complete


def reached(*accuracies: float) -> list[Reached]:
    return [
        Reached(5, seed, "samples", "steps", 10, 1.0, {"key": (100 * share, 100.0)})
        for seed, share in enumerate(accuracies)
    ]


def test_means_that_lie_closer_than_seeds_do_are_called_the_same() -> None:
    (close,) = compared("one", reached(0.5, 0.6, 0.7), reached(0.6, 0.65, 0.7))
    assert close == (
        "Differs from `one` by less than the spread of 3 seeds: "
        "`key` at 5 0.65 after 0.60 (spread 0.20)."
    )
    (apart,) = compared("one", reached(0.5, 0.6), reached(0.8, 0.9))
    assert apart.startswith("Differs from `one` by more than the spread of 2 seeds: `key` at 5")
    (one,) = compared("one", reached(0.5), reached(0.9))
    assert one.startswith("One seed alone")
    assert compared("one", [], reached(0.5)) == []


def finding(code: str, site: str = "model") -> Said:
    return Said(Finding(code, "slug", Verdict.FAIL, "message", "fix", site=site), "check", 3.0)


def test_what_is_said_of_the_experiment_without_the_bug_does_not_name_it() -> None:
    first, second = Entry("first", build(1.0)), Entry("second", build(1.0))
    bug = Bug("bug", "", "1 day", "first", ("IDX001",))
    notebook = Notebook((first, second), bugs=(bug,))
    sick = Result(first, "complete", said=(finding("IDX001"), finding("IDX001", "other")))
    still = Result(second, "complete", said=(finding("IDX001"),))
    (found,) = read_found(notebook, (sick, still))
    assert found.said is not None
    assert found.said.finding.site == "other"
    (found,) = read_found(notebook, (replace(sick, said=sick.said[:1]), still))
    assert found.said is None
    assert found.why == "not named: `second`, which is without it, says the same"
    other = replace(bug, last="second")
    (found,) = read_found(replace(notebook, bugs=(other,)), (sick, replace(still, said=())))
    assert found.entry == "first"  # the last that says it of those that have it


def test_notes_that_the_reference_says_too_come_last(tmp_path: Path) -> None:
    def noted(code: str) -> Finding:
        return Finding(code, code.lower(), Verdict.NOTE, "So it is.", "Nothing.", site="model")

    for name, codes in {"none": ["FIT001"], "masks": ["FIT001", "MSK007"]}.items():
        folder = tmp_path / "parts" / name
        folder.mkdir(parents=True)
        Recorder(folder).close(Judgement(tuple(map(noted, codes))))
    entries = tuple(Entry(name, build(1.0)) for name in ("none", "masks"))
    plain, held = (
        read_results(Notebook(entries, reference=each), tmp_path)[1].said for each in (None, "none")
    )
    assert [each.finding.code for each in plain] == ["FIT001", "MSK007"]
    assert [each.finding.code for each in held] == ["MSK007", "FIT001"]


def test_what_is_the_same_waits_for_the_first_where_that_is_run(tmp_path: Path) -> None:
    first, again = Entry("first", build(1.0)), Entry("again", build(1.0), same_as="first")
    notebook = Notebook((first, again))
    assert to_run(notebook, notebook.entries, tmp_path) == [first]
    assert to_run(notebook, (again,), tmp_path) == [again]
    (tmp_path / "parts" / "first").mkdir(parents=True)
    assert to_run(notebook, (again,), tmp_path) == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("notebook = 3", "is a int, but a notebook"),
        ("notebook = []", "is empty, but a notebook"),
        ("notebook = [Entry('a', None), 4]", "is a list that holds a int, but a notebook"),
        ("notebook = [Entry('a/b', None)]", "`a/b` in .* can be no folder's name"),
        ("notebook = [Entry('a', None), Entry('a', None)]", "two experiments of .* are called `a`"),
        ("notebook = [Entry('a', None, same_as='b')]", "same as `b`, which does not come before"),
        ("def notebook(): raise KeyError('x')", "called without arguments, raised KeyError"),
    ],
)
def test_what_is_no_notebook_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").write_text(f"from overfit.notebook import Entry\n{source}\n")
    with pytest.raises(RequestError, match=said):
        load_notebook("theirs.py:notebook")


def test_an_unknown_name_gets_a_sentence_with_the_closest() -> None:
    with pytest.raises(
        RequestError, match=r"`frist` is none of the notebook's 1 .* closest are first"
    ):
        Notebook((Entry("first", build(1.0)),)).entry("frist")
