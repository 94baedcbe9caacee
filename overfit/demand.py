"""For a test suite: what a subject must do, with the finding as the failure's message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from overfit.asked import STEPS, Asked
from overfit.diagnose import examine
from overfit.plan import check_sizes
from overfit.rules import RULES
from probes.checking import check, chosen
from probes.errors import RequestError
from probes.experiment import Experiment
from probes.finding import Check, Finding, Judgement, Verdict
from probes.run import Run
from probes.seeding import kept_random_state, seed_everything
from probes.subject import Subject


def assert_memorises(
    subject: Subject | str,
    sizes: Sequence[int] = (5, 20),
    *,
    steps: int = STEPS,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """The subject memorises each of the sizes; AssertionError with the findings where not.

    out: where run and report are kept; nowhere by default. Random states are left as found.
    Raises RequestError where the subject or a size will not do.
    """
    __tracebackhide__ = True
    _demand(subject, _asked(sizes, steps, seed, hunted=False), (), out)


def assert_healthy(
    subject: Subject | str,
    checks: Iterable[str] | None = None,
    *,
    sizes: Sequence[int] = (5,),
    steps: int = STEPS,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Nothing worse than a note is found; AssertionError with the findings where there is.

    checks: codes or slugs of active checks, such as `MSK001` or `pad-leak`: these alone are
    made, without any training, and one that cannot be judged is a failure too. By default the
    whole quick diagnosis: every check but the slow, a hunt of 20 steps, a suite of each size.
    out, errors: as `assert_memorises`.
    """
    __tracebackhide__ = True
    asked = _asked(sizes, steps, seed, hunted=True) if checks is None else None
    named = None if checks is None else tuple(checks)
    if named == ():
        raise RequestError(
            "`checks` names no check: codes or slugs were expected, such as "
            '`checks=("MSK001",)`; leave it out for the whole quick diagnosis.'
        )
    _demand(subject, asked, chosen(named or (), quick=named is None), out, seed)


def _asked(sizes: Sequence[int], steps: int, seed: int, *, hunted: bool) -> Asked:
    checked = check_sizes(tuple(sizes), f"sizes={sizes}")
    return Asked(checked, steps, seed, hunted=hunted, quick=hunted)


def _demand(
    subject: Subject | str,
    asked: Asked | None,
    checks: Sequence[Check[Experiment]],
    out: Path | None,
    seed: int = 0,
) -> None:
    __tracebackhide__ = True
    with kept_random_state(), nullcontext(None) if out else TemporaryDirectory() as folder:
        judgement, unjudged, report = Judgement(), [], []
        if asked is None:
            judgement = check(_loaded(subject, seed), checks)
            unjudged = _lines(judgement, {each.code for each in checks})
        else:
            run = examine(subject, asked, out or Path(str(folder)) / "run")
            judgement, unjudged = run.judgement, _unjudged(run.judgement, asked)
            report = [f"report: {_rendered(run)}"] if out else []
            left = [each for each in checks if not _judged(each.code, judgement)]
            if left:
                judgement += check(_loaded(subject, seed), left)
    findings = [each for each in judgement.findings if each.verdict is not Verdict.NOTE]
    if findings or unjudged:
        raise AssertionError("\n".join([*map(_words, findings), *unjudged, *report]))


def _rendered(run: Run) -> Path:
    from reports import render

    return render(run.folder)


def _loaded(subject: Subject | str, seed: int) -> Subject:
    from probes.command import prepare

    seed_everything(seed)
    return prepare(subject, seed, None) if isinstance(subject, str) else subject


def _judged(code: str, judgement: Judgement) -> bool:
    """Whether the diagnosis has looked at it already."""
    return (
        code in judgement.passed
        or any(each.code == code for each in judgement.findings)
        or any(each.code == code for each in judgement.not_judged)
    )


def _unjudged(judgement: Judgement, asked: Asked) -> list[str]:
    """Why a suite was not judged: what could not be judged was not shown to be well."""
    verdicts = {rule.code for rule in RULES}
    if sum(each.code in verdicts for each in judgement.findings) >= len(asked.sizes):
        return []
    return _lines(judgement, verdicts)


def _lines(judgement: Judgement, codes: Set[str]) -> list[str]:
    return [
        f"{each.code} not judged: {each.why}" for each in judgement.not_judged if each.code in codes
    ]


def _words(finding: Finding) -> str:
    from probes.terminal import describe

    lines = [f"{finding.code} {finding.rule}: {finding.message}"]
    lines += [f"  at {finding.source}"] if finding.source else []
    lines += [f"  - {describe(evidence)}" for evidence in finding.evidence]
    return "\n".join([*lines, f"  fix: {finding.fix}"])
