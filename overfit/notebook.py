"""A notebook: a list of named experiments, each with what was remarked of it at the time.

    # log.py
    from overfit.notebook import Entry
    notebook = [
        Entry("first", first, {"lr": 1e-3}, "the loss swings"),
        Entry("second", second, {"lr": 1e-4}, "it swings less"),
    ]

`whynan notebook log.py:notebook` runs it, and writes one page.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from probes.errors import RequestError
from probes.subject import Subject, load

Value = str | int | float | bool | None
Build = Callable[[], Subject]
SUITES: Mapping[int, int] = {5: 400, 20: 400}
SEEDS = 3


@dataclass(frozen=True, slots=True)
class Course:
    """A training over a subject's own batches, in their order, that is looked at on the way.

    subject: builds it. steps: optimizer steps. every: steps from one look at the batch that
    comes next to the following one. what: what it is, as `over SParC`.
    """

    subject: Build
    steps: int
    every: int = 5
    what: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One experiment of a notebook.

    name: what it is called, and its folder. subject: builds what is trained, afresh for every
    seed. settings: what was set, as it is to be read. remark: what was remarked at the time.
    notes: what else is to be said of it. together: builds what checks and hunt look at, where
    that is not `subject`, such as the same with more samples in a batch.
    suites: samples of a suite -> its optimizer steps at most. seeds: how many the smallest suite
    is run with, the others with the first; None for 3, and for one when quick. course: a second
    leg, on more data.
    same_as: an earlier entry that differs in nothing that is run here; it is not run again.
    """

    name: str
    subject: Build
    settings: Mapping[str, Value] = field(default_factory=dict)
    remark: str = ""
    notes: tuple[str, ...] = ()
    together: Build | None = None
    suites: Mapping[int, int] = field(default_factory=lambda: dict(SUITES))
    seeds: int | None = None
    course: Course | None = None
    same_as: str | None = None

    def seeds_of(self, quick: bool) -> int:
        """How many seeds its smallest suite is run with."""
        return self.seeds or (1 if quick else SEEDS)


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug that is known by now, told of in a page's first table.

    name: what it is called. what: what it does. cost: what it took at the time, as `1.1 days`.
    last: the last entry that has it; every entry before has it too. codes: of the findings that
    name it, where the entry after that one says them no more.
    """

    name: str
    what: str
    cost: str
    last: str
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Notebook:
    """Experiments in their order, what is to be said above them all, and the bugs known by now.

    reference: the entry that the others are held against: of the notes of another, those that are
    none of its own come first.
    """

    entries: tuple[Entry, ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    bugs: tuple[Bug, ...] = ()
    reference: str | None = None

    def entry(self, name: str) -> Entry:
        """The entry of this name. Raises RequestError that lists the closest where there is none.

        The closest are told, since names such as dates are easily mistyped.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        names = [entry.name for entry in self.entries]
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
        raise RequestError(
            f"`{name}` is none of the notebook's {len(names)} experiments: closest are "
            f"{', '.join(close)}; correct the name."
        )


def load_notebook(address: str) -> Notebook:
    """The notebook at the address: a `Notebook`, a list of `Entry`, or a function of either.

    Raises RequestError where there is none, or where a name is twice or can be no folder's.
    """
    found = load(address)
    if callable(found) and not isinstance(found, Notebook):
        from probes.raised import asked_of_user

        with asked_of_user(f"`{address}`, called without arguments,"):
            found = found()
    if isinstance(found, Sequence) and all(isinstance(each, Entry) for each in found):
        found = Notebook(tuple(found))
    if not isinstance(found, Notebook) or not found.entries:
        raise RequestError(
            f"`{address}` is {_kind(found)}, but a notebook, that is a list of at least one "
            "`overfit.notebook.Entry`, or a function that returns one, was expected: write "
            '`notebook = [Entry("first", subject)]`.'
        )
    _check(found, address)
    return found


def _kind(found: object) -> str:
    if isinstance(found, (Notebook, list, tuple)):
        entries = found.entries if isinstance(found, Notebook) else found
        odd = [each for each in entries if not isinstance(each, Entry)]
        return f"a list that holds a {type(odd[0]).__name__}" if odd else "empty"
    return f"a {type(found).__name__}"


def _check(notebook: Notebook, address: str) -> None:
    earlier: list[str] = []
    for entry in notebook.entries:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", entry.name):
            raise RequestError(
                f"`{entry.name}` in `{address}` can be no folder's name: letters, digits and "
                "`_.+-` were expected; rename the experiment."
            )
        if entry.name in earlier:
            raise RequestError(
                f"two experiments of `{address}` are called `{entry.name}`: rename one of them."
            )
        if entry.same_as is not None and entry.same_as not in earlier:
            raise RequestError(
                f"`{entry.name}` in `{address}` is the same as `{entry.same_as}`, which does not "
                "come before it: name an earlier experiment."
            )
        earlier.append(entry.name)
    for bug in notebook.bugs:
        notebook.entry(bug.last)
    if notebook.reference is not None:
        notebook.entry(notebook.reference)
