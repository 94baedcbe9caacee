"""A second cause: what the step meets once the first one is patched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nan_watch.case.material import Case
from nan_watch.case.naming import statement
from nan_watch.case.trial import Patch
from nan_watch.causes import name_cause, patches_of
from nan_watch.origin.find import Origin, Under
from probes.finding import Evidence, Finding


def with_second(told: Finding, case: Case, born: Callable[[Under], Origin | None]) -> Finding:
    """The finding, and where its patch does not cure, what is born next in the patched step.

    Where the patches of both cure the step, and neither does with the other one's elsewhere, both
    are confirmed together. born: the origin of the step that is run under a patch; what the step
    was given is no cause beside the first, whose consequence it may be, come back from elsewhere,
    as from another stage of a pipeline.
    """
    if told.confirmed is not False or case.trial is None:
        return told
    for patch in patches_of(told.code, case):
        origin = born(patch.cure)
        if origin is None or case.origin is None or origin.culprit.given is not None:
            continue
        if _place(origin) == _place(case.origin):
            continue
        unfused = case.trial.unfused or origin.kernels == "unfused"
        trial = replace(case.trial, along=patch.cure, unfused=unfused)
        second = replace(case, origin=origin, trial=trial)
        return _both(told, name_cause(second), case, second, patch)
    return told


def _both(told: Finding, next_: Finding, case: Case, second: Case, patch: Patch) -> Finding:
    assert second.origin is not None
    said = statement(next_, second.origin)
    first = told.message.removesuffix(".")
    other = next(
        (p for p in patches_of(next_.code, second) if _cures(p, case, second, patch)), None
    )
    if other is None:
        what = Evidence("not finite, once that is patched", said)
        message = f"{first}; it is not the only cause: with that patched, {said}."
        return replace(
            told, message=message, evidence=(*told.evidence[:1], what, *told.evidence[1:])
        )
    cured = "finite, and with either of the two elsewhere it is not"
    proof = Evidence(f"the step replayed, {patch.words} and {other.words}", cured)
    return replace(
        told,
        confirmed=True,
        message=f"{first}; it is one of two causes: {said}.",
        fix=_fix(told, next_),
        evidence=(proof, *told.evidence),
    )


def _cures(other: Patch, case: Case, second: Case, patch: Patch) -> bool:
    """Whether the step needs both: it is finite with both alone."""
    assert case.trial is not None
    assert second.trial is not None
    beside = replace(case.trial, along=other.cure, unfused=second.trial.unfused)
    return second.trial.confirms(other) and not beside.is_finite(patch.control)


def _fix(told: Finding, next_: Finding) -> str:
    if told.fix == next_.fix:
        return told.fix
    at = f"at {next_.source}" if next_.source else f"in `{next_.site}`"
    return f"{told.fix.removesuffix('.')}; and {at}: {next_.fix}"


def _place(origin: Origin) -> tuple[str | None, ...]:
    call = None if origin.closeup is None else origin.closeup.written
    if call is None:
        return origin.op, origin.source, origin.name
    return call.op, call.innermost, call.site
