"""What a report says of a run, as plain data; `figures/` draws it, `templates/` lay it out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probes.finding import Judgement, Verdict
from probes.run import Run
from probes.source import SourceLine
from reports.figures.alignment import Alignment
from reports.figures.attention import Attention
from reports.figures.attribution import Attribution, Conductance
from reports.figures.clipping import Ledger
from reports.figures.curves import Course
from reports.figures.figure import number
from reports.figures.graph import Graph
from reports.figures.measured import Measured
from reports.figures.memory import Memory
from reports.reading.attention import read_attention
from reports.reading.attributions import read_attributions, read_conductance
from reports.reading.cards import Card, read_cards
from reports.reading.courses import read_course
from reports.reading.graphs import read_graphs
from reports.reading.kept import read_kept
from reports.reading.memory import read_memory
from reports.reading.norms import Norms, read_clipping, read_gradients, read_updates
from reports.reading.standing import Standing, standing
from reports.reading.stretches import UNREADABLE, Stretch, each, settings, stretches, torn

WORDS = {
    Verdict.OK: "Nothing found",
    Verdict.NOTE: "No fault found",
    Verdict.WARN: "Warning",
    Verdict.FAIL: "Failing",
    Verdict.BROKEN: "A rule is broken",
}
UNJUDGED = "Not judged"
ATTENTION = "Attention maps"
LOOKED_FOR = (
    "no softmax ran whose result weighs something (as in nn.MultiheadAttention, transformers, "
    "scaled_dot_product_attention, or by hand); a fused kernel of its own shows none"
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what it is."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that a report says.

    verdict: None where nothing was judged. whole: false where attention was all that was asked
    for. complete: whether the run came to its end. asked: whether maps were asked for by layer or
    head. banners: what must be known before anything else. missing: what could not be read or was
    never recorded.
    """

    run: str
    verdict: Verdict | None
    word: str
    headline: str
    whole: bool
    complete: bool
    asked: bool
    banners: tuple[str, ...]
    cards: tuple[Card, ...]
    passed: tuple[str, ...]
    not_judged: tuple[Fact, ...]
    courses: tuple[Course, ...]
    gradients: tuple[Norms, ...]
    updates: tuple[Norms, ...]
    clipping: tuple[Ledger, ...]
    kept: tuple[Measured | Alignment, ...]
    attention: tuple[Attention, ...]
    attributions: tuple[Attribution, ...]
    conductance: tuple[Conductance, ...]
    graphs: tuple[Graph, ...]
    memory: tuple[Memory, ...]
    facts: tuple[Fact, ...]
    parts: tuple[tuple[str, tuple[Fact, ...]], ...]
    environment: tuple[Fact, ...]
    limits: tuple[Fact, ...]
    command: str
    missing: tuple[str, ...]


def read_page(run: Run) -> Page:
    """What there is to say of the run; what cannot be read is said, never raised.

    The record alone is read.
    """
    missing: list[str] = []
    judgement, judged = _judgement(run, missing)
    every = stretches(run, missing)
    missing += torn(every)
    return Page(
        run=str(run.facts.get("run", run.folder.name)),
        verdict=judgement.verdict if judged else None,
        word=_word(run, judgement, judged),
        headline=_headline(run, judgement, judged),
        whole=not only_attention(run),
        complete=run.complete,
        asked=any(settings(run).get(what) for what in ("layers", "heads")),
        banners=tuple(_banners(run, every, judgement, judged)),
        cards=tuple(read_cards(judgement.findings, _sources(run, missing))),
        passed=judgement.passed,
        not_judged=tuple(Fact(each.code, each.why) for each in judgement.not_judged),
        courses=tuple(each(read_course, every, "readings", missing)),
        gradients=tuple(each(read_gradients, every, "gradient norms", missing)),
        updates=tuple(each(read_updates, every, "update ratios", missing)),
        clipping=tuple(each(read_clipping, every, "clip factors", missing)),
        kept=tuple(read_kept(every, missing)),
        attention=tuple(read_attention(every, missing)),
        attributions=tuple(read_attributions(every, missing)),
        conductance=tuple(read_conductance(every, missing)),
        graphs=tuple(read_graphs(every, missing)),
        memory=tuple(each(read_memory, every, "memory", missing)),
        facts=tuple(_facts(run)),
        parts=tuple((name, tuple(flat(settings(part)))) for name, part in every[1:]),
        environment=tuple(_environment(run)),
        limits=tuple(flat(mapping(run.facts.get("limits")))),
        command=command_of(run),
        missing=tuple(missing),
    )


def level(verdict: Verdict) -> str:
    """The verdict as a card calls it: what is bad as the page's own word does."""
    bad = verdict in (Verdict.WARN, Verdict.FAIL)
    return WORDS[verdict].lower() if bad else verdict.value


def command_of(run: Run) -> str:
    """The command that made the run, to be pasted; empty where the record has none."""
    found = run.facts.get("command")
    return shlex.join(map(str, found)) if isinstance(found, list) else ""


def is_judged(run: Run, found: Judgement) -> bool:
    """Whether any rule could say anything: where none had what it needs, nothing is known."""
    there = (run.folder / "findings.json").is_file()
    return there and bool(found.findings or found.passed)


def only_attention(run: Run) -> bool:
    """Whether attention maps are all that the run was made for."""
    return settings(run).get("part") == "attention"


def mapping(found: Any) -> Mapping[str, Any]:
    """What was found where it is a mapping; an empty one where not."""
    return found if isinstance(found, Mapping) else {}


def _word(run: Run, judgement: Judgement, judged: bool) -> str:
    if judged:
        so_far = not run.complete and judgement.verdict.rank <= Verdict.NOTE.rank
        return WORDS[judgement.verdict] + (" so far" if so_far else "")
    return ATTENTION if only_attention(run) else UNJUDGED


def _headline(run: Run, judgement: Judgement, judged: bool) -> str:
    if judgement.findings:
        return judgement.findings[0].message
    if judged:
        return "No rule found anything in this run."
    if only_attention(run):
        subject = settings(run).get("subject")
        if not any((run.folder / "arrays").glob("attention-*.npy")):
            return f"No attention was found in `{subject}`: {LOOKED_FOR}."
        return f"What `{subject}` attends to"
    lacking = len(judgement.not_judged)
    if lacking:
        needs = "it needs" if lacking == 1 else "they need"
        return f"No rule could be judged: {lacking} lacked what {needs}."
    return "This run was not judged."


def _judgement(run: Run, missing: list[str]) -> tuple[Judgement, bool]:
    try:
        found = run.judgement
        return found, is_judged(run, found)
    except UNREADABLE as error:
        missing.append(f"findings.json cannot be read ({error})")
        return Judgement(), False


def _sources(run: Run, missing: list[str]) -> Mapping[str, tuple[SourceLine, ...]]:
    try:
        return run.sources
    except UNREADABLE as error:
        missing.append(f"sources.json cannot be read ({type(error).__name__}: {error})")
        return {}


def _banners(
    run: Run, every: Sequence[Stretch], judgement: Judgement, judged: bool
) -> Iterator[str]:
    told = standing(run, list(every))
    if not run.complete:
        yield _incomplete(run, told)
        yield from told.words
    elif told.cut:
        yield f"Cut off before they were done: {', '.join(told.cut)}."
    broken = [found.code for found in judgement.findings if found.verdict is Verdict.BROKEN]
    if broken:
        yield f"A rule raised an exception and was not judged: {', '.join(broken)}."
    why = settings(run).get("no_attribution")
    if why:
        yield f"No decision was attributed: {why}."
    if not judged and not only_attention(run):
        yield "This run holds no findings: nothing was judged. That is not to say that all is well."


def _incomplete(run: Run, told: Standing) -> str:
    steps, asked = run.steps, settings(run)
    stopped = asked.get("interrupted") or asked.get("ended_by") == "KeyboardInterrupt"
    how = "was interrupted and is incomplete" if stopped else "is incomplete"
    if len(steps):
        return f"This run {how}: its record reaches to step {steps[-1]}, and no further."
    rests = "what follows rests on what was finished" if told.finished else "nothing was finished"
    return f"This run {how}: {rests}."


def _facts(run: Run) -> Iterator[Fact]:
    steps = run.steps
    yield Fact("seed", number(run.facts.get("seed")))
    yield Fact("device", number(run.facts.get("device")))
    if len(steps):
        yield Fact("steps", f"{steps[0]} to {steps[-1]}")
    yield Fact("complete", "yes" if run.complete else "no")
    yield from flat(settings(run))


def _environment(run: Run) -> Iterator[Fact]:
    yield from flat(mapping(run.facts.get("versions")))
    cuda = run.facts.get("CUDA_VISIBLE_DEVICES")
    yield Fact("CUDA_VISIBLE_DEVICES", "not set" if cuda is None else str(cuda))


def flat(found: Mapping[str, Any], prefix: str = "") -> Iterator[Fact]:
    """Nested settings by dotted name."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ()):
            yield Fact(f"{prefix}{name}", _words(value))


def _words(value: Any) -> str:
    if isinstance(value, list):
        plain = all(isinstance(item, (str, int, float)) for item in value)
        return ", ".join(map(str, value)) if plain else json.dumps(value)
    return ("yes" if value else "no") if isinstance(value, bool) else number(value)
