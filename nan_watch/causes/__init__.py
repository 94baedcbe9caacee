"""Causes (NAN...): one a file, judged on what is known of a poisoned step, in reading order.

A cause may have `patches(case)`, which yields the fixes that can be tried on the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nan_watch.case.material import Case
from nan_watch.case.trial import Patch
from nan_watch.causes.angle_at_origin import AngleAtOrigin
from nan_watch.causes.constant_normalised import ConstantNormalised
from nan_watch.causes.ctc_without_alignment import CtcWithoutAlignment
from nan_watch.causes.custom_function import CustomFunction
from nan_watch.causes.degenerate_decomposition import DegenerateDecomposition
from nan_watch.causes.division_by_nothing import DivisionByNothing
from nan_watch.causes.exploding_recurrence import ExplodingRecurrence
from nan_watch.causes.fully_masked_row import FullyMaskedRow
from nan_watch.causes.half_range import HalfRange
from nan_watch.causes.hidden_branch import HiddenBranch
from nan_watch.causes.hidden_entry_picked import HiddenEntryPicked
from nan_watch.causes.inverse_at_edge import InverseAtEdge
from nan_watch.causes.log_of_zero import LogOfZero
from nan_watch.causes.logsumexp_of_nothing import LogsumexpOfNothing
from nan_watch.causes.loss_scale_overflow import LossScaleOverflow
from nan_watch.causes.non_finite_data import NonFiniteData
from nan_watch.causes.non_finite_setting import NonFiniteSetting
from nan_watch.causes.optimizer_underflow import OptimizerUnderflow
from nan_watch.causes.outside_domain import OutsideDomain
from nan_watch.causes.overflow import Overflow
from nan_watch.causes.poisoned_parameter import PoisonedParameter
from nan_watch.causes.power_of_negative import PowerOfNegative
from nan_watch.causes.root_at_zero import RootAtZero
from nan_watch.causes.step_too_large import StepTooLarge
from nan_watch.causes.uninitialised_memory import UninitialisedMemory
from nan_watch.causes.unknown_origin import UnknownOrigin
from nan_watch.causes.variance_of_one import VarianceOfOne
from nan_watch.causes.zero_times_infinity import ZeroTimesInfinity
from probes.finding import Cause, Evidence, Finding, Verdict, judge_one

RULES: tuple[Cause[Case], ...] = (
    NonFiniteData(),
    NonFiniteSetting(),
    OptimizerUnderflow(),
    PoisonedParameter(),
    UninitialisedMemory(),
    CustomFunction(),
    FullyMaskedRow(),
    LogsumexpOfNothing(),
    HiddenEntryPicked(),
    ZeroTimesInfinity(),
    LossScaleOverflow(),
    HalfRange(),
    HiddenBranch(),
    LogOfZero(),
    OutsideDomain(),
    ConstantNormalised(),
    RootAtZero(),
    PowerOfNegative(),
    InverseAtEdge(),
    AngleAtOrigin(),
    DegenerateDecomposition(),
    VarianceOfOne(),
    DivisionByNothing(),
    CtcWithoutAlignment(),
    StepTooLarge(),
    ExplodingRecurrence(),
    Overflow(),
    UnknownOrigin(),
)


def name_cause(case: Case) -> Finding:
    """What the first cause says whose patch cures the step, or that has none to try.

    Failing that, the first that finds anything; the last one, `unknown`, always does. A cause
    that says so (`only_confirmed`) is not heard unless its patch cures. One that raises is BROKEN,
    and leads.
    """
    doubted: Finding | None = None
    for rule in RULES:
        for finding in judge_one(rule, case).findings[:1]:
            tried = _tried(rule, case, finding)
            if tried.confirmed or (tried.confirmed is None and doubted is None):
                return tried
            if not getattr(rule, "only_confirmed", False):
                doubted = doubted or tried
    assert doubted is not None
    return doubted


def _tried(rule: Any, case: Case, finding: Finding) -> Finding:
    """The finding, confirmed or not by the cause's patches."""
    if finding.verdict is Verdict.BROKEN:
        return replace(finding, step=case.symptom.step)
    if case.trial is None:
        return finding
    said: list[Evidence] = []
    for patch in _patches(rule, case):
        confirmed = case.trial.confirms(patch)
        said += _said(patch, confirmed)
        if confirmed:
            break
    if not said:
        return finding
    return replace(finding, confirmed=confirmed, evidence=(*said, *finding.evidence))


def patches_of(code: str, case: Case) -> list[Patch]:
    """The fixes that the cause of the code would try on the case."""
    return [patch for rule in RULES if rule.code == code for patch in _patches(rule, case)]


def _patches(rule: Any, case: Case) -> Iterator[Patch]:
    yield from rule.patches(case) if hasattr(rule, "patches") else ()


def _said(patch: Patch, confirmed: bool) -> list[Evidence]:
    cured = "finite, and with the same elsewhere it is not" if confirmed else "not cured"
    return [Evidence(f"the step replayed, {patch.words}", cured)]
