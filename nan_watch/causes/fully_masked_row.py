"""NAN003: a row of scores is masked whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from nan_watch.case.arguments import dims, maker, only_minus_inf, opened
from nan_watch.case.material import Case
from nan_watch.case.naming import told
from nan_watch.case.trial import Patch
from nan_watch.origin.closeup import Call
from probes.finding import Finding
from probes.patch import Arguments, Edit, argument

SOFTMAX = ("aten._softmax", "aten._log_softmax", "aten.softmax", "aten.log_softmax")
LARGEST = ("aten.amax", "aten.max", "aten.logsumexp")


@dataclass(frozen=True, slots=True)
class FullyMaskedRow:
    """A softmax runs over a row of which nothing but -inf is left.

    exp(-inf) is 0 for every entry, so that their sum is 0 and each is 0 / 0; with the largest
    score taken off first it is -inf - (-inf). `-inf` in a row that keeps one finite entry is a
    healthy mask.

    Sick:    `scores.masked_fill(mask, -inf).softmax(-1)` where a sample has no key at all.
    Healthy: the same, with rows without a key opened, or left out of the loss before that.
    """

    code: ClassVar[str] = "NAN003"
    rule: ClassVar[str] = "fully-masked-row"
    family: ClassVar[Literal["cause"]] = "cause"

    def lacks(self, case: Case) -> str | None:
        """The origin."""
        return case.lacks_origin

    def judge(self, case: Case) -> Iterator[Finding]:
        """The softmax, and the first row."""
        call = case.call
        rows = 0 if call is None else _empty_rows(case, call)
        if rows:
            yield told(
                self,
                case,
                f"runs over {rows} {'row' if rows == 1 else 'rows'} of which the mask leaves "
                "nothing but -inf",
                "Leave one entry of every row open, or give such rows zeros after the softmax "
                "and keep them out of the loss; look whether the mask is inverted.",
            )

    def patches(self, case: Case) -> Iterator[Patch]:
        """The same step with these rows opened."""
        call, trial = case.call, case.trial
        if call is None or trial is None:
            return
        edit: Edit = _less_largest
        if case.op in SOFTMAX:
            dim = dims(call.arg(1), call.args[0].ndim)
            edit = argument(0, lambda scores: opened(scores, dim))
        yield trial.edit("with the masked rows opened", call, edit)


def _empty_rows(case: Case, call: Call) -> int:
    """How many rows hold -inf alone."""
    scores = call.values(0)
    if scores is None:
        return 0
    if case.op in SOFTMAX:
        return int(only_minus_inf(scores, dims(call.arg(1), scores.ndim)).sum())
    largest = maker(call, 1)
    if case.op != "aten.sub" or largest is None or largest.op not in LARGEST:
        return 0
    one, two = case.at_bad(0), case.at_bad(1)
    both = one is not None and two is not None and bool((one.isneginf() & two.isneginf()).all())
    bad = call.bad()
    return int(bad.any(-1).sum()) if both and bad is not None and bad.ndim else 0


def _less_largest(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """Scores and the largest of each row, both 0 in a row whose largest is -inf."""
    scores, largest, *rest = args
    empty = largest.isneginf()
    return [torch.where(empty, 0.0, scores), torch.where(empty, 0.0, largest), *rest], kwargs
