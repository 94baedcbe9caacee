from __future__ import annotations

from pathlib import Path

import pytest

from model import log
from model.experiments import experiment, experiments
from model.subject import faults
from overfit.notebook import Entry, load_notebook
from overfit.samples import draw


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> dict[str, Entry]:
    monkeypatch.delenv("DATA", raising=False)
    return {entry.name: entry for entry in load_notebook("model.subject:log").entries}


def test_every_run_of_the_log_is_an_experiment(entries: dict[str, Entry]) -> None:
    assert list(entries) == [run.name for run in experiments()]
    first, fewer, last = (entries[n] for n in ("Oct29_15-59-28", "Oct30_01-22-06", "30c"))
    assert first.settings["softmax"] == "softmax_log"
    assert fewer.settings == {"transformer_layers": "4, inferred"}
    assert last.settings == {"attention_mask": False}
    assert "`softmax_then_log`, `unit_index_offset`" in first.notes[0]
    assert last.notes == ("No bug is planted.",)
    assert first.notes[1].startswith("Its own setting: the initial state of the SQL RNN")
    assert entries["Nov02_17-51-49"].notes[1].startswith("Not reproduced here")


def test_a_run_that_differs_in_nothing_that_is_run_is_the_same_as_the_first_of_its_kind(
    entries: dict[str, Entry],
) -> None:
    assert {name: each.same_as for name, each in entries.items() if each.same_as} == {
        "Oct29_22-10-05": "Oct29_20-12-27",  # rolled back to it
        "Oct30_00-34-47": "Oct30_00-18-44",  # shuffled, which no suite is
        "Oct30_02-11-18": "Oct30_01-22-06",
        "Oct30_02-25-59": "Oct30_01-22-06",
        "Nov02_18-23-30": "Nov02_18-14-32",  # the small sample, which a suite is anyway
    }


def test_each_bug_of_the_log_has_its_last_run_and_its_days() -> None:
    bugs = {bug.name: bug for bug in log.log().bugs}
    assert {name: bug.cost for name, bug in bugs.items()} == {
        "softmax_then_log": "0.8 days",
        "unit_index_offset": "1.1 days",
        "padded_rows_averaged": "1.2 days",
        "misaligned": "5 days",
        "wrong_state": "5 days",
        "state_mask": "1.2 days",
    }
    runs = list(experiments())
    for name, bug in bugs.items():
        with_it = [
            run.name
            for run in runs
            if (not run.config.state_mask if name == "state_mask" else name in run.faults.planted)
        ]
        assert with_it[-1] == bug.last


def test_a_step_is_one_interaction(entries: dict[str, Entry]) -> None:
    subject = entries["Nov02_13-24-37"].subject()
    samples = draw(subject, (5, 8), seed=0)
    assert [len(batch["database"]) for batch in samples[5].batches] == [1] * 5
    assert len({batch["database"][0] for batch in samples[8].batches}) == 1  # one database
    assert list(subject.metrics) == ["key", "db", "string"]
    together = log.together(experiment("Nov02_13-24-37"))
    assert len(next(iter(together.batches))["database"]) == log.FEW


def test_with_sparc_the_runs_on_full_data_have_a_second_leg(
    sparc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", str(sparc))
    notebook = log.log()
    legs = [entry for entry in notebook.entries if entry.course is not None]
    assert len(legs) == 13
    assert not [note for entry in notebook.entries for note in entry.notes if "Not repro" in note]
    assert all(entry.same_as is None for entry in legs)
    assert legs[0].course is not None
    subject = legs[0].course.subject()
    assert len(subject.batches) == 3024 - 20  # type: ignore[arg-type]  # those held out
    assert len(next(iter(subject.batches))["database"]) == 1


def test_each_planted_bug_is_an_experiment_beside_the_one_without() -> None:
    notebook = faults()
    assert len(notebook.entries) == 12
    assert [entry.name for entry in notebook.entries][:4] == [
        *("none", "softmax_then_log", "unit_index_offset", "misaligned")
    ]
    assert notebook.entries[3].subject().model.faults.misaligned == 1  # type: ignore[union-attr]
