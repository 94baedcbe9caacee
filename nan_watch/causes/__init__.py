"""Causes (NAN...): one a file, judged on what is known of a poisoned step, in reading order."""

from __future__ import annotations

from nan_watch.case import Case
from nan_watch.causes.unknown_origin import UnknownOrigin
from probes.finding import Cause, Finding, judge_one

RULES: tuple[Cause[Case], ...] = (UnknownOrigin(),)


def name_cause(case: Case) -> Finding:
    """What the first cause says that finds anything; the last one, `unknown`, always does.

    A cause that raises is BROKEN, and leads.
    """
    found = (judge_one(rule, case).findings for rule in RULES)
    return next(findings[0] for findings in found if findings)
