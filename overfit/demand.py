"""For a test suite: what a subject must do, with the finding as the failure's message."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from overfit.asked import STEPS, Asked
from overfit.diagnose import examine
from overfit.plan import check_sizes
from probes.finding import Finding, Verdict
from probes.run import Run
from probes.subject import Subject


def assert_memorises(
    subject: Subject | str, sizes: tuple[int, ...] = (5, 20), *, steps: int = STEPS, seed: int = 0
) -> None:
    """The subject memorises each of the sizes; AssertionError with the findings where not."""
    sizes = check_sizes(tuple(sizes), f"sizes={sizes}")
    _demand(subject, Asked(sizes, steps, seed, hunted=False))


def assert_healthy(
    subject: Subject | str, sizes: tuple[int, ...] = (5,), *, steps: int = STEPS, seed: int = 0
) -> None:
    """The whole quick diagnosis finds nothing worse than a note; AssertionError where it does."""
    sizes = check_sizes(tuple(sizes), f"sizes={sizes}")
    _demand(subject, Asked(sizes, steps, seed, quick=True))


def _demand(subject: Subject | str, asked: Asked) -> None:
    with TemporaryDirectory() as folder:
        run = examine(subject, asked, Path(folder) / "run")
        findings = [each for each in run.judgement.findings if each.verdict is not Verdict.NOTE]
        unjudged = _unjudged(run, asked)
    if findings or unjudged:
        raise AssertionError("\n".join([*map(_words, findings), *unjudged]))


def _unjudged(run: Run, asked: Asked) -> list[str]:
    """Why a suite was not judged: what could not be judged was not shown to be well."""
    if len(run.judgement.findings) >= len(asked.sizes):
        return []
    return [f"{each.code} not judged: {each.why}" for each in run.judgement.not_judged]


def _words(finding: Finding) -> str:
    from probes.terminal import describe

    lines = [f"{finding.code} {finding.rule}: {finding.message}"]
    lines += [f"  - {describe(evidence)}" for evidence in finding.evidence]
    return "\n".join([*lines, f"  fix: {finding.fix}"])
