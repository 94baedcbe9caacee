"""The verdict over one suite: exactly one finding leads, and the others stand below it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from overfit.curves import Curves
from overfit.faster import Faster
from overfit.rules import RULES
from overfit.rules.memorised import Memorised
from probes.finding import Evidence, Finding, Judgement, Verdict, judge
from probes.stepping.fading import FIX

UNEXPLAINED = ("FIT002", "FIT004", "FIT007", "FIT009", "FIT013")
"""The verdicts that what is frozen may explain."""

READ_AND_STUCK = ("FIT002", "FIT007")
"""The verdicts that an affine model may explain."""


FADED = ("FIT002", "FIT004", "FIT007", "FIT009", "FIT013", "FIT015")
"""The verdicts that an input may explain that fades on its way."""

HIDDEN = ("FIT007", "FIT015")
"""Those of them over an input of which nothing is left."""

PROVEN = ("FIT011",)
"""Those that lead where an experiment of the suite's own has confirmed them."""

BY_RATE = ("FIT004", "FIT009")
"""Those of them that a larger rate may mend."""

READ = 0.1  # of the loss: what exchanging the inputs does to it where they count
LOWER = 0.1  # of what there was to learn: by how much more a larger rate learns


def outcome(curves: Curves) -> Judgement:
    """What the verdict rules say: the first that fails leads, the others are warnings at most.

    A finding is confirmed where an intervention that would cure it did, alone or with others where
    none did alone, and the control did not.
    """
    found = judge(RULES, curves)
    return Judgement(tuple(_led(found.findings, curves)), found.not_judged, found.passed)


def _led(findings: tuple[Finding, ...], curves: Curves) -> Iterator[Finding]:
    failed = [each for each in findings if each.verdict is Verdict.FAIL]
    proven = [each for each in failed if each.code in PROVEN and each.confirmed]
    lead = next(iter([*proven, *failed]), None)
    for each in findings:
        told = _confirmed(each, curves)
        if each is lead:
            yield _with_seeds(_explained(told, curves), curves)
        elif each.verdict is Verdict.FAIL:
            yield replace(told, verdict=Verdict.WARN)
        else:
            yield told


def _confirmed(finding: Finding, curves: Curves) -> Finding:
    cures = {rule.code: getattr(rule, "cures", ()) for rule in RULES}[finding.code]
    tried = [names for names in curves.tries if set(cures) & set(names)]
    control = curves.control
    if not tried or control is None or finding.confirmed is not None:
        return finding
    known = Memorised()
    cured = [names for names in tried if known.holds(curves.tries[names])]
    cured = [names for names in cured if len(names) == min(map(len, cured))]
    named = ", ".join(map(" and ".join, cured))
    named = named or "none of " + ", ".join(map(" and ".join, tried))
    evidence = (*finding.evidence, Evidence("cured by", named))
    good = bool(cured) and not known.holds(control)
    return replace(finding, confirmed=good, evidence=evidence)


def _explained(finding: Finding, curves: Curves) -> Finding:
    """With what may be why it is so."""
    for explain in (_with_frozen, _with_affine, _with_fading):
        finding = explain(finding, curves)
    return finding


def _with_fading(finding: Finding, curves: Curves) -> Finding:
    """With the layers through which the input fades, where it hardly counts from the start.

    Where it counts in the end, it came through them; where a larger rate alone learns more from
    the same start, they hold nothing back, and the rate is what is told.
    """
    fading = None if curves.look is None else curves.look.fading
    if fading is None or finding.code not in FADED or _comes_through(curves):
        return finding
    if finding.code in HIDDEN and not fading.hides:  # it is lost elsewhere
        return finding
    if (told := _faster(curves)) is not None:
        return _with_rate(finding, told) if finding.code in BY_RATE else finding
    return replace(
        finding,
        site=fading.site,
        source=None,
        message=f"{finding.message.removesuffix('.')}; the likely cause: {fading.words}.",
        fix=FIX,
        evidence=(*finding.evidence, Evidence("what is left of the input", fading.left)),
    )


def _comes_through(curves: Curves) -> bool:
    """Whether the trained model reads the input."""
    reading = None if curves.look is None else curves.look.reading
    return reading is not None and reading >= READ


def _faster(curves: Curves) -> Faster | None:
    """What a larger rate comes to from the start, if it is lower by a part of what there was."""
    found = None if curves.look is None else curves.look.trials.faster
    room = max(curves.unread - curves.least, 0.0) if curves.losses else 0.0
    return found if found is not None and found.loss < curves.end - LOWER * room else None


def _with_rate(finding: Finding, told: Faster) -> Finding:
    """With what a larger rate comes to."""
    return replace(
        finding,
        message=f"{finding.message.removesuffix('.')}; {told.words}.",
        evidence=(
            *finding.evidence,
            Evidence(f"loss at {told.factor:g} times the rate", told.loss),
        ),
    )


def _with_frozen(finding: Finding, curves: Curves) -> Finding:
    """With what is frozen, where that may be why no more was learned."""
    look = curves.look
    frozen = None if look is None else look.frozen
    if frozen is None or not frozen.names or finding.code not in UNEXPLAINED:
        return finding
    share, more = frozen.share, len(frozen.names) - 1
    first = f"`{frozen.names[0]}`" + (f" and {more} more" if more else "")
    said = f"{first} {'are' if more else 'is'} frozen, and {share:.2g} of all numbers train"
    return replace(
        finding,
        site=finding.site or frozen.partly,
        message=f"{finding.message.removesuffix('.')}; {said}.",
        fix=f"Look whether {first} {'are' if more else 'is'} to be frozen (`requires_grad` is "
        f"False). {finding.fix}",
        evidence=(*finding.evidence, Evidence("share of all numbers that train", share)),
    )


def _with_affine(finding: Finding, curves: Curves) -> Finding:
    """With what an affine model has too little room for, where no more is known."""
    affine = None if curves.look is None else curves.look.bound
    narrow = None if curves.look is None else curves.look.held_up
    if affine is None and narrow is not None and finding.code in READ_AND_STUCK:
        return replace(
            finding,
            site=finding.site or narrow.site,
            source=finding.source or narrow.source,
            message=f"{finding.message.removesuffix('.')}; {narrow.words}.",
            fix=f"{narrow.fix} {finding.fix}",
        )
    if affine is None or finding.code not in READ_AND_STUCK or curves.gone:
        return finding
    return replace(
        finding,
        site=finding.site or affine.layers[0],
        source=finding.source or affine.source,
        message=f"{finding.message.removesuffix('.')}; {affine.words}.",
        fix=f"{affine.fix} {finding.fix}",
    )


def _with_seeds(finding: Finding, curves: Curves) -> Finding:
    """With what the same suite came to under other seeds."""
    if not curves.others:
        return finding
    known = Memorised()
    said = ", ".join(
        f"seed {each.seed}: {'memorised' if known.holds(each) else each.told or f'{each.end:.4g}'}"
        for each in curves.others
    )
    return replace(finding, evidence=(*finding.evidence, Evidence("other seeds", said)))
