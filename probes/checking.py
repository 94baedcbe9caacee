"""The active checks of a subject: each judged by its own experiments, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from probes.advice import meant
from probes.errors import RequestError
from probes.experiment import Experiment
from probes.finding import Check, Judgement, judge_one, limits
from probes.first_step import check_first_step
from probes.in_range import as_on_the_processor
from probes.record import Recorder, new_folder
from probes.subject import Subject

Say = Callable[[int, int, str], None]
"""Is told before every check, and at the end: checks done, checks in all, the one at work."""


def known_checks() -> list[Check[Experiment]]:
    """Every check that any package lists, ours first."""
    from probes.command import gather

    return [rule for rule in gather("whynan.rules") if rule.family == "check"]


def chosen(
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    known: Sequence[Check[Experiment]] = (),
    quick: bool = False,
) -> list[Check[Experiment]]:
    """The checks of these codes or slugs, but for those to be skipped, and when quick the slow.

    Raises RequestError where a code is no check's.
    """
    checks = list(known) or known_checks()
    wanted, left = set(map(str.upper, only)), set(map(str.upper, skip))
    names = [name for check in checks for name in (check.code, check.rule)]
    for name in sorted((wanted | left).difference(map(str.upper, names))):
        raise RequestError(
            f"`{name}` is no check's code or name.{meant(name, names)} "
            "`whynan check --list` tells them all."
        )
    return [
        check
        for check in checks
        if (not wanted or wanted & {check.code, check.rule.upper()})
        and not left & {check.code, check.rule.upper()}
        and not (quick and getattr(check, "slow", False))
    ]


def check(
    subject: Subject,
    checks: Sequence[Check[Experiment]] | None = None,
    say: Say | None = None,
    recorder: Recorder | None = None,
) -> Judgement:
    """What the checks, all by default, say of the subject, which is as it was afterwards.

    recorder: takes what was found after every check, so that Ctrl-C loses nothing of it, and the
    arrays that were measured. Raises RequestError where the subject has no batch.
    """
    every = chosen() if checks is None else checks
    with as_on_the_processor(subject.model):
        return _judged(Experiment.of(subject), every, say, recorder)


def _judged(
    experiment: Experiment,
    every: Sequence[Check[Experiment]],
    say: Say | None,
    recorder: Recorder | None,
) -> Judgement:
    judgement = Judgement()
    for done, each in enumerate(every):
        if say is not None:
            say(done, len(every), each.rule)
        judgement += judge_one(each, experiment)
        experiment.keep_effects(f"{each.rule}-effects")
        if recorder is not None:
            _write(recorder, judgement, experiment)
    if say is not None:
        say(len(every), len(every), "")
    return judgement


def _write(recorder: Recorder, judgement: Judgement, experiment: Experiment) -> None:
    """All that was found, and what was measured since the last time."""
    recorder.findings(judgement)
    for name in list(experiment.arrays):
        kept = experiment.arrays.pop(name)
        recorder.array(name, kept.values, kept.axes, kept.labels, **kept.about)


def settings(address: str | None, checks: Sequence[Check[Experiment]]) -> dict[str, Any]:
    """What the record of the checks says of them."""
    return {"part": "check", "subject": address, "checks": [each.code for each in checks]}


def record(
    address: str,
    checks: Sequence[Check[Experiment]],
    out: Path | None = None,
    seed: int = 0,
    device: str | None = None,
) -> tuple[Path, Judgement]:
    """The subject at the address was checked; the run folder holds what was found.

    Raises RequestError where the subject, its first step or the folder will not do.
    """
    from probes.command import prepare
    from probes.progress import progress

    subject = prepare(address, seed, device)
    check_first_step(subject)
    recorder = Recorder(
        new_folder(out),
        seed=seed,
        device=next((str(p.device) for p in subject.model.parameters()), "cpu"),
        settings=settings(address, checks),
        limits=limits(checks),
    )
    with progress() as shown, recorder.unless_refused():
        bar = shown.add_task("checks", total=len(checks), said="")

        def say(done: int, total: int, said: str) -> None:
            shown.update(bar, completed=done, total=total, said=said)

        judgement = check(subject, checks, say, recorder)
    recorder.close(judgement)
    return recorder.folder, judgement
