"""The experiment log, and the planted bugs one by one, as notebooks.

Every run of `experiments.toml` is an experiment here: one interaction a step, as the log had it,
on 5 and on 20 interactions. Where `DATA` in the environment names a folder that holds SParC, the
runs whose remark speaks of the full data are trained on it as well, in a second leg.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from model import subject as specimen
from model.collate import Batch, Collate
from model.config import Config
from model.experiments import Experiment, experiments
from model.faults import Faults
from model.metrics import METRICS
from model.network import build
from model.order import batches as epoch
from model.order import cut, split
from model.parser import Parser
from model.read import Interaction, embedded, read
from overfit.notebook import Bug, Course, Entry, Notebook, Value
from probes import Subject

SUITES: Mapping[int, int] = {5: 200, 20: 300}
"""Interactions of a suite -> its steps, of one interaction each."""

SEEDS = 3
FEW = 8  # interactions at once for the checks and the hunt
LEG = 250  # steps on the full data
FULL = (*map(str, range(1, 11)), "21", "22", "23")
"""Entries whose remark speaks of the full data, or which ran on it."""

LAST: Mapping[str, str] = {
    "softmax_then_log": "Oct30_02-25-59",
    "unit_index_offset": "Oct30_12-58-25",
    "padded_rows_averaged": "Oct30_19-26-11",
    "misaligned": "weighted-loss",
    "wrong_state": "weighted-loss",
    "state_mask": "Oct30_19-26-11",
}
"""The last run that has each bug of the log; one of them is a setting, which is off till then."""

WHAT: Mapping[str, str] = {
    "softmax_then_log": "the log is taken of the softmax: a probability that underflows, or a "
    "padded unit's, gives a NaN gradient",
    "unit_index_offset": "unit j of the merged units is read at index j + 1",
    "padded_rows_averaged": "a row of attention that is masked throughout gives the average of "
    "its padding, not zeros",
    "misaligned": "every unit reads the word pieces one further on",
    "wrong_state": "every step of the SQL RNN starts from the initial state of its turn",
    "state_mask": "the initial state of the SQL RNN is taken over the utterance's padding as well",
}

CODES: Mapping[str, tuple[str, ...]] = {
    "softmax_then_log": ("NAN001", "WIR012"),
    "unit_index_offset": ("IDX001",),
    "padded_rows_averaged": ("MSK005",),
    "misaligned": ("IDX001",),
    "wrong_state": ("STA002",),
    "state_mask": ("MSK001",),
}
"""The codes that name each bug."""

NOTES = (
    "One interaction is a step, as in the log, so nothing is padded from one interaction to the "
    f"next; the checks and the hunt look at {FEW} interactions at once, since many of them ask "
    "about that padding. The model is the specimen with its small encoder, in the log's place of "
    "BERT.",
    "The log says when each bug was found. That all of them were there from the first run on is "
    "inferred, and so is every setting that no entry states.",
)


def log() -> Notebook:
    """Every run of the log, in its order."""
    data = os.environ.get("DATA")
    entries, earlier = [], dict[object, str]()
    for before, experiment in zip((None, *experiments()), experiments(), strict=False):
        same = earlier.setdefault(what_runs(experiment), experiment.name)
        second = experiment.entry in FULL
        entries.append(
            Entry(
                name=experiment.name,
                subject=partial(one_at_a_time, experiment),
                settings=_set(experiment, before),
                remark=experiment.remark,
                notes=tuple(_notes(experiment, second and not data)),
                together=partial(together, experiment),
                suites=SUITES,
                seeds=SEEDS,
                course=_course(experiment, Path(data)) if data and second else None,
                # a second leg of its own is to be run, whatever the first leg is the same as
                same_as=None if same == experiment.name or (data and second) else same,
            )
        )
    return Notebook(tuple(entries), "The experiment log of 2020, replayed", NOTES, tuple(_bugs()))


def faults() -> Notebook:
    """The specimen as it should be, and with each of its planted bugs."""
    none = Faults()
    every = [none, *(replace(none, **{each.name: _on(each.default)}) for each in fields(none))]
    return Notebook(
        tuple(
            Entry(
                name="+".join(planted.planted) or "none",
                subject=partial(_planted, planted),
                together=partial(_planted, planted, FEW),
                suites={5: 200},
                seeds=1,
            )
            for planted in every
        ),
        "The planted bugs of the specimen, one by one",
        ("The first row is the specimen without any.",),
        reference="none",
    )


def _on(default: object) -> Any:
    return True if isinstance(default, bool) else 1


def _planted(planted: Faults, at_once: int = specimen.AT_ONCE) -> Subject:
    corpus = embedded()
    model = build(Config(), corpus, planted)
    return specimen.around(model, specimen.batches(model.collate, corpus.interactions, at_once))


def one_at_a_time(experiment: Experiment) -> Subject:
    """The run's model on the embedded corpus, one interaction a batch."""
    corpus = embedded()
    model = build(experiment.config, corpus, experiment.faults)
    short = cut(experiment.config, corpus.interactions)
    return _measured(model, Singly(model.collate, tuple(short)))


def together(experiment: Experiment) -> Subject:
    """The run's model on the embedded corpus, a few interactions a batch."""
    corpus = embedded()
    model = build(experiment.config, corpus, experiment.faults)
    short = cut(experiment.config, corpus.interactions)
    return _measured(model, specimen.batches(model.collate, short, FEW))


def _measured(model: Parser, batches: Iterable[Batch]) -> Subject:
    """With the accuracies that the log speaks of, and of one database where it says so."""
    return replace(
        specimen.around(model, batches),
        parts={},
        metrics={name: METRICS[name] for name in ("key", "db", "string")},
        group="database" if model.config.same_database else None,
    )


@dataclass(frozen=True, slots=True)
class Singly:
    """One interaction a batch, collated as it is read; `place` keeps batches from being joined."""

    collate: Collate
    interactions: tuple[Interaction, ...]

    def __len__(self) -> int:
        return len(self.interactions)

    def __iter__(self) -> Iterator[Batch]:
        for place, interaction in enumerate(self.interactions):
            yield specimen.named(self.collate([interaction])) | {"place": place}


def _course(experiment: Experiment, data: Path) -> Course:
    return Course(partial(_on_sparc, experiment, data), LEG, what="on SParC's training set")


def _on_sparc(experiment: Experiment, data: Path) -> Subject:
    """The run's model on the data that it was trained on, one interaction a step, in its order."""
    config, corpus = experiment.config, read(data)
    model = build(config, corpus, experiment.faults)
    steps = epoch(config, split(config, corpus.interactions).training, epoch=0)
    return _measured(model, Singly(model.collate, tuple(each for step in steps for each in step)))


def what_runs(experiment: Experiment) -> object:
    """Equal for two runs that differ in nothing that their suites, checks and hunt would show."""
    config = replace(
        experiment.config, tiny_dataset=False, validation=0, shuffle=False, steps=1, seed=0
    )
    if config.model == "seq2seq":
        config = replace(config, pre_turn=False, fusion="two_way", attend_utterance=False)
    else:
        config = replace(config, attend_units=False, residual=False)
    return config, experiment.faults


def _set(experiment: Experiment, before: Experiment | None) -> dict[str, Value]:
    """What the entry says that it set, and what else is not as in the run before.

    The first run says nothing: of it is told what a later one sets.
    """
    config = experiment.config
    if before is None:
        later = {name for each in experiments() for name, m in each.marks.items() if m == "stated"}
        return {f.name: getattr(config, f.name) for f in fields(Config) if f.name in later}
    found: dict[str, Value] = {}
    for name, mark in experiment.marks.items():
        value = getattr(config, name)
        if mark == "stated":
            found[name] = value
        elif value != getattr(before.config, name):
            found[name] = f"{value}, {mark}"
    return found


def _notes(experiment: Experiment, without_data: bool) -> Iterator[str]:
    planted = ", ".join(f"`{name}`" for name in experiment.faults.planted)
    yield f"Planted: {planted}." if planted else "No bug is planted."
    if not experiment.config.state_mask:
        yield f"Its own setting: {WHAT['state_mask']}."
    if without_data:
        yield (
            "Not reproduced here: it ran on the full data; `make log DATA=FOLDER` runs a second "
            "leg where the folder holds SParC."
        )


def _bugs() -> Iterator[Bug]:
    runs = [each.name for each in experiments()]
    for name, last in LAST.items():
        found = runs[runs.index(last) + 1]
        yield Bug(name, WHAT[name], _took(runs[0], found), last, CODES[name])


def _took(first: str, found: str) -> str:
    """Days from the first run to the one without the bug; the last ones have a date alone."""
    try:
        days = (_when(found) - _when(first)).total_seconds() / 86400
    except ValueError:
        return "5 days"
    return f"{days:.1f} days"


def _when(run: str) -> datetime:
    return datetime.strptime(f"2020 {run}", "%Y %b%d_%H-%M-%S")
