"""Turns a first sight into a name: the finding of a refused step, told by its replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nan_watch.case.first import first_place, history
from nan_watch.case.material import Case
from nan_watch.origin.find import Origin
from nan_watch.origin.sources import in_words
from probes.finding import Cause, Evidence, Finding, Verdict

LINES = 6  # of the story that are kept as evidence
HISTORY = 8  # steps before that are shown


def sight(rule: Cause[Case], case: Case) -> Finding:
    """The finding as the watch itself saw it: the first place that is not finite."""
    place = first_place(case.symptom)
    return Finding(
        code=rule.code,
        rule=rule.rule,
        verdict=Verdict.FAIL,
        message=place.message,
        fix=place.fix,
        site=place.site,
        phase=place.phase,
        step=place.step,
        where=place.where,
        evidence=(*place.evidence, *history(case.symptom, place, HISTORY)),
    )


def shown(finding: Finding, origin: Origin | None) -> Finding:
    """The finding with operator, line and place of what its replay showed, in its own words."""
    if origin is None:
        return finding
    of_update = origin.phase == "update" or origin.within is not None
    by_update = finding.phase == "update" and not of_update  # what reads it is only the victim
    return replace(
        finding,
        op=None if by_update else origin.op,
        node=None if by_update else origin.node,
        source=None if by_update else origin.source,
        where=dict(origin.where) or finding.where,
        samples=origin.samples,
        evidence=(*_evidence(origin), *finding.evidence),
    )


def named(finding: Finding, origin: Origin) -> Finding:
    """The finding with what the replay of its step showed.

    What was there before the step keeps its own words and gains who read it first.
    """
    told = shown(finding, origin)
    if origin.given in ("parameter", "buffer"):
        return told
    return replace(
        told,
        message=_message(finding, origin),
        fix=_fix(finding, origin),
        site="<data>" if origin.given == "batch" else origin.site or "<loss>",
        phase=origin.phase,
    )


def told(rule: Cause[Case], case: Case, what: str, fix: str, *evidence: Evidence) -> Finding:
    """The finding of a cause whose step was replayed.

    what: what the operator did, after its name and line: `takes the log of 0`.
    """
    origin, step, place = case.origin, case.symptom.step, first_place(case.symptom)
    assert origin is not None
    place = first_place(case.symptom)
    call = None if origin.culprit.place.custom else case.call
    op, source, library = (each := call or origin).op, each.source, each.library
    at = in_words(source, library) or f" in `{origin.site}`"
    node = f" ({origin.node})" if origin.node else ""
    return Finding(
        code=rule.code,
        rule=rule.rule,
        verdict=Verdict.FAIL,
        message=f"`{op}`{at} {what}: {origin.held}{_where(origin)} in the {_pass(origin)}"
        f"{node} of step {step}.",
        fix=fix,
        site="<data>" if origin.given == "batch" else origin.site or "<loss>",
        op=origin.op,
        node=origin.node,
        phase=origin.phase,
        step=step,
        source=origin.source,
        samples=origin.samples,
        where=dict(origin.where),
        evidence=(
            *evidence,
            *([Evidence("the operator whose derivative it is", op)] if op != origin.op else []),
            *_evidence(origin),
            *place.evidence,
            *history(case.symptom, place, HISTORY),
        ),
    )


def statement(finding: Finding, origin: Origin) -> str:
    """What the operator did, of a message: `aten.log` at train.py:3 takes the log of 0."""
    said, found, _ = finding.message.partition(f": {origin.held}")
    return said if found else finding.message.removesuffix(".")


WHENCE = {
    False: "from inputs without",
    True: "from an input that holds an infinity that was meant, as a mask's is",
}


def _message(finding: Finding, origin: Origin) -> str:
    amount = str(origin.held)
    at = in_words(origin.source, origin.library)
    if origin.given == "batch":
        what = f"`{origin.name}` of the batch" if origin.name else "the batch"
        return (
            f"{what} holds {amount}{_where(origin)} and `{origin.op}`{at} is the first to read it, "
            f"in step {finding.step}."
        )
    if origin.given is not None:
        return (
            f"{origin.given} memory holds {amount}; `{origin.op}`{at} is the first to read it, in "
            f"step {finding.step}."
        )
    node = f" in {origin.node}" if origin.node else ""
    return (
        f"`{origin.op}`{node}{at} gives {amount}{_where(origin)} in the {_pass(origin)} of "
        f"step {finding.step}, {WHENCE[origin.hands_on]}."
    )


def _pass(origin: Origin) -> str:
    if origin.within is not None:
        return origin.within
    return "update" if origin.phase == "update" else f"{origin.phase} pass"


def _where(origin: Origin) -> str:
    places = ", ".join(f"{axis} {place}" for axis, place in origin.where.items())
    token = f", token {origin.token or origin.token_id}" if origin.token_id is not None else ""
    return f", first at {places}{token}," if places else ""


def _fix(finding: Finding, origin: Origin) -> str:
    if origin.given == "batch":
        return "Clean or leave out these entries of the data, or mask them before they are read."
    if origin.source is None:
        return finding.fix
    what = "the derivative of what" if origin.phase == "backward" else "what"
    return (
        f"Look{in_words(origin.source, origin.library)}: {what} stands there is not finite at "
        "these inputs; keep them off its edge."
    )


def _evidence(origin: Origin) -> Iterator[Evidence]:
    yield Evidence(f"not finite, of {origin.total} numbers", origin.count, 0)
    if origin.largest_finite_input is not None:
        yield Evidence("largest finite input of the operator", origin.largest_finite_input)
    yield Evidence("the replay repeats the step", origin.repeats)
    if origin.kernels == "unfused":
        yield Evidence("named with", "unfused kernels, in a second replay")
    for line in origin.story()[:LINES]:
        yield Evidence("story", line)
