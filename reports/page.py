"""What a report says of a run, as plain data; `figures/` draws it, `templates/` lay it out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from probes.finding import Evidence, Finding, Judgement, Verdict
from probes.run import Matrix, Run
from reports.figures.attention import Attention
from reports.figures.curves import Course, Curve
from reports.figures.figure import identifier, number
from reports.source import SourceLine, source_lines

WORDS = {
    Verdict.OK: "Nothing found",
    Verdict.NOTE: "Nothing worse than a note",
    Verdict.WARN: "Warning",
    Verdict.FAIL: "Failing",
    Verdict.BROKEN: "A rule is broken",
}
UNJUDGED = "Not judged"
ATTENTION = "Attention maps"


@dataclass(frozen=True, slots=True)
class Measured:
    """Evidence as a row; what was read step after step shares one."""

    what: str
    value: str
    limit: str
    step: str
    anchor: str | None


@dataclass(frozen=True, slots=True)
class Card:
    """One finding with its address in the page and the user's lines around the culprit."""

    id: str
    finding: Finding
    evidence: tuple[Measured, ...]
    where: str
    source: tuple[SourceLine, ...]


@dataclass(frozen=True, slots=True)
class Gradients:
    """The gradient norms of one part, with at least one reading."""

    part: str
    stat: str
    matrix: Matrix


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what it is."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that a report says.

    verdict: None where nothing was judged. whole: false where attention was all that was asked
    for. banners: what must be known before anything else.
    missing: what could not be read or was never recorded.
    """

    run: str
    verdict: Verdict | None
    word: str
    headline: str
    whole: bool
    banners: tuple[str, ...]
    cards: tuple[Card, ...]
    passed: tuple[str, ...]
    not_judged: tuple[Fact, ...]
    courses: tuple[Course, ...]
    gradients: tuple[Gradients, ...]
    attention: tuple[Attention, ...]
    facts: tuple[Fact, ...]
    parts: tuple[tuple[str, tuple[Fact, ...]], ...]
    environment: tuple[Fact, ...]
    limits: tuple[Fact, ...]
    command: str
    missing: tuple[str, ...]


def read_page(run: Run) -> Page:
    """What there is to say of the run; what cannot be read is said, never raised.

    The record alone is read, and the lines of the user's files that findings name.
    """
    missing: list[str] = []
    judgement, judged = _judgement(run, missing)
    parts = sorted(run.parts, key=_reading_order)
    stretches = [("run", run), *parts]
    cards = tuple(_cards(judgement.findings))
    return Page(
        run=str(run.facts.get("run", run.folder.name)),
        verdict=judgement.verdict if judged else None,
        word=_word(run, judgement, judged),
        headline=_headline(run, judgement, judged),
        whole=not only_attention(run),
        banners=tuple(_banners(run, judgement, judged)),
        cards=cards,
        passed=judgement.passed,
        not_judged=tuple(Fact(each.code, each.why) for each in judgement.not_judged),
        courses=tuple(_each(_course, stretches, missing)),
        gradients=tuple(_each(_gradients, stretches, missing)),
        attention=tuple(_attention(stretches, missing)),
        facts=tuple(_facts(run)),
        parts=tuple((name, tuple(_settings(part))) for name, part in parts),
        environment=tuple(_environment(run)),
        limits=tuple(_flat(run.facts.get("limits", {}))),
        command=" ".join(str(word) for word in run.facts.get("command", [])),
        missing=tuple(missing),
    )


def only_attention(run: Run) -> bool:
    """Whether attention maps are all that the run was made for."""
    return bool(run.facts.get("settings", {}).get("part") == "attention")


def _word(run: Run, judgement: Judgement, judged: bool) -> str:
    if judged:
        return WORDS[judgement.verdict]
    return ATTENTION if only_attention(run) else UNJUDGED


def _headline(run: Run, judgement: Judgement, judged: bool) -> str:
    if judgement.findings:
        return judgement.findings[0].message
    if judged:
        return "No rule found anything in this run."
    if only_attention(run):
        return f"What `{run.facts['settings'].get('subject')}` attends to"
    return "This run was not judged."


def _reading_order(named: tuple[str, Run]) -> tuple[int, str]:
    """Suites by their size, after what has none, such as the hunt."""
    name, part = named
    size = part.facts.get("settings", {}).get("size", 0)
    return size if isinstance(size, int) else 0, name


def _judgement(run: Run, missing: list[str]) -> tuple[Judgement, bool]:
    try:
        return run.judgement, (run.folder / "findings.json").is_file()
    except (ValueError, KeyError, TypeError) as error:
        missing.append(f"findings.json cannot be read ({type(error).__name__}: {error})")
        return Judgement(), False


def _banners(run: Run, judgement: Judgement, judged: bool) -> Iterator[str]:
    steps = run.steps
    if not run.complete:
        reach = f"to step {steps[-1]}" if len(steps) else "before any step of its own was recorded"
        stopped = run.facts.get("settings", {}).get("interrupted")
        how = "was interrupted and is incomplete" if stopped else "is incomplete"
        yield f"This run {how}: its record reaches {reach}, and what follows rests on that."
    cut = [name for name, part in run.parts if not part.complete]
    if cut:
        yield f"Cut off before they were done: {', '.join(cut)}."
    broken = [each.code for each in judgement.findings if each.verdict is Verdict.BROKEN]
    if broken:
        yield f"A rule raised an exception and was not judged: {', '.join(broken)}."
    if not judged and not only_attention(run):
        yield "This run holds no findings: nothing was judged. That is not to say that all is well."


def _cards(findings: Sequence[Finding]) -> Iterator[Card]:
    taken: dict[str, int] = {}
    for finding in findings:
        anchor = identifier(finding.anchor)
        taken[anchor] = taken.get(anchor, 0) + 1
        yield Card(
            id=anchor if taken[anchor] == 1 else f"{anchor}-{taken[anchor]}",
            finding=finding,
            evidence=tuple(_measured(finding.evidence)),
            where=", ".join(f"{axis} {place}" for axis, place in finding.where.items()),
            source=source_lines(finding.source),
        )


def _measured(evidence: Sequence[Evidence]) -> Iterator[Measured]:
    for _, group in groupby(evidence, lambda each: (each.what, each.limit, each.unit)):
        same = list(group)
        steps = [each.step for each in same if each.step is not None]
        values = ", ".join(number(each.value) for each in same)
        yield Measured(
            what=same[0].what,
            value=f"{values} {same[0].unit}" if same[0].unit else values,
            limit=number(same[0].limit),
            step=f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else number(same[0].step),
            anchor=next((each.anchor for each in same if each.anchor), None),
        )


def _each(read: Any, stretches: Sequence[tuple[str, Run]], missing: list[str]) -> Iterator[Any]:
    for name, run in stretches:
        try:
            found = read(name, run)
        except (OSError, ValueError, KeyError, TypeError) as error:
            missing.append(f"readings of {name} cannot be read ({type(error).__name__}: {error})")
            continue
        if found is not None:
            yield found


def _course(name: str, run: Run) -> Course | None:
    losses = run.matrix("loss", "value")
    order = sorted(losses.sites, key=lambda site: site != "<loss>")
    lines = [_curve(losses, site, "loss" if site == "<loss>" else site) for site in order]
    evaluated = run.matrix("loss", "evaluated")
    lines += [_curve(evaluated, site, f"{site}, evaluated") for site in evaluated.sites]
    drawn = tuple(line for line in lines if line.steps)
    accuracies = tuple(_accuracies(run))
    if not drawn and not accuracies:
        return None
    return Course(name, _title(name, run), drawn, accuracies, _ended(run))


def _curve(matrix: Matrix, site: str, name: str) -> Curve:
    column = matrix.sites.index(site)
    rows = matrix.seen[:, column]
    values = matrix.values[rows, column].astype(float)
    return Curve(name, tuple(matrix.steps[rows].tolist()), tuple(values.tolist()))


def _accuracies(run: Run) -> Iterator[Curve]:
    hits, counts = run.matrix("metric", "hits"), run.matrix("metric", "count")
    for site in counts.sites:
        right, asked = _curve(hits, site, site), _curve(counts, site, site)
        shared = sorted(set(right.steps) & set(asked.steps))
        hit = dict(zip(right.steps, right.values, strict=True))
        count = dict(zip(asked.steps, asked.values, strict=True))
        if shared and all(count[step] > 0 for step in shared):
            yield Curve(
                site,
                tuple(shared),
                tuple(hit[step] / count[step] for step in shared),
                tuple(hit[step] for step in shared),
                tuple(count[step] for step in shared),
            )


def _title(name: str, run: Run) -> str:
    asked = run.facts.get("settings", {})
    if asked.get("part") == "suite" and "size" in asked:
        unit = asked.get("unit", "samples")
        return f"Overfitting {asked['size']} {unit}, seed {asked.get('seed', '?')}"
    return "Hunt for what is not finite" if asked.get("part") == "hunt" else f"Training, {name}"


def _ended(run: Run) -> str | None:
    ended = run.facts.get("settings", {}).get("ended")
    known = {
        "memorised": "It ended early: memorised.",
        "steps": "It ended after its last step.",
        "refused": "It ended at a step that the watch refused.",
        "died": "It ended by an exception.",
    }
    return known.get(str(ended), f"It ended: {ended}.") if ended else None


def _gradients(name: str, run: Run) -> Gradients | None:
    for stat in ("norm", "norm_before_clip"):
        matrix = run.matrix("param_grad", stat)
        if matrix.seen.any():
            return Gradients(name, stat, matrix)
    return None


def _attention(stretches: Sequence[tuple[str, Run]], missing: list[str]) -> Iterator[Attention]:
    for part, run in stretches:
        for name in run.arrays:
            if not name.startswith("attention"):
                continue
            try:
                yield _map(part, name, run)
            except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
                missing.append(
                    f"array {name} of {part} cannot be read ({type(error).__name__}: {error})"
                )


def _map(part: str, name: str, run: Run) -> Attention:
    array = run.array(name)
    about = array.about
    weights = np.asarray(array.values, np.float64)
    heads, queries, keys = weights.shape
    if 0 in weights.shape:
        raise ValueError(f"its shape is {weights.shape}")
    sample = about.get("sample")
    called = about.get("sample_name")
    return Attention(
        name=f"{part}-{name}" if part != "run" else name,
        site=str(about["site"]),
        layer=int(about["layer"]),
        sample=(f"sample {sample}" if sample is not None else "the batch")
        + (f": {called}" if called else ""),
        row=about.get("row"),
        heads=tuple(array.labels.get("head") or map(str, range(heads))),
        weights=weights,
        query_axis=array.axes[1],
        key_axis=array.axes[2],
        queries=_named(about.get("queries"), queries),
        keys=_named(about.get("keys"), keys),
        query_padding=_marked(about.get("query_padding"), queries),
        key_padding=_marked(about.get("padding"), keys),
        hidden=_marked(about.get("hidden"), keys),
        masked=_marked(about.get("masked_rows"), queries),
        named=about.get("queries") is not None and about.get("keys") is not None,
    )


def _named(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is not None and len(names) == count:
        return tuple(str(name) for name in names)
    return tuple(map(str, range(count)))


def _marked(marks: Sequence[bool] | None, count: int) -> Any:
    if marks is not None and len(marks) == count:
        return np.array(marks, bool)
    return np.zeros(count, bool)


def _facts(run: Run) -> Iterator[Fact]:
    steps = run.steps
    yield Fact("seed", number(run.facts.get("seed")))
    yield Fact("device", number(run.facts.get("device")))
    if len(steps):
        yield Fact("steps", f"{steps[0]} to {steps[-1]}")
    yield Fact("complete", "yes" if run.complete else "no")
    yield from _settings(run)


def _settings(run: Run) -> Iterator[Fact]:
    yield from _flat(run.facts.get("settings", {}))


def _environment(run: Run) -> Iterator[Fact]:
    yield from _flat(run.facts.get("versions", {}))
    cuda = run.facts.get("CUDA_VISIBLE_DEVICES")
    yield Fact("CUDA_VISIBLE_DEVICES", "not set" if cuda is None else str(cuda))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[Fact]:
    """Nested settings by dotted name."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ()):
            yield Fact(f"{prefix}{name}", _words(value))


def _words(value: Any) -> str:
    if isinstance(value, list):
        plain = all(isinstance(item, (str, int, float)) for item in value)
        return ", ".join(map(str, value)) if plain else json.dumps(value)
    return ("yes" if value else "no") if isinstance(value, bool) else number(value)
