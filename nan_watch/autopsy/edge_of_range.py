"""NAN050: stored numbers lie at the edge of what their dtype can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from nan_watch.autopsy.facts import Examined, TensorFacts
from nan_watch.autopsy.poisoned_checkpoint import Series
from probes.finding import Evidence, Finding, Verdict


@dataclass(frozen=True, slots=True)
class EdgeOfRange:
    """Finite numbers are near overflow, or half-precision ones have lost their digits.

    A number above the largest of its dtype over `headroom` is infinite at its next doubling.
    Below its smallest normal number a dtype holds fewer and fewer digits, until zero: in 16 bits
    and less that happens to real weights and moments, so a tensor is told of where more than
    `share` of its numbers are there. In 32 bits such numbers are harmless and left alone.

    Sick: `exp_avg_sq` kept in float16, where the square of a gradient of 1e-4 is 1e-8, of which
        float16 holds one bit.
    Healthy: the same in float32 or bfloat16.
    """

    code: ClassVar[str] = "NAN050"
    rule: ClassVar[str] = "edge-of-range"
    family: ClassVar[Literal["cause"]] = "cause"

    headroom: float = 2.0
    share: float = 0.5

    def lacks(self, series: Series) -> str | None:
        """Nothing: every tensor has a range."""
        return None

    def judge(self, series: Series) -> Iterator[Finding]:
        """One note about the first checkpoint in which there are such tensors."""
        for each in series:
            evidence = tuple(self._evidence(each))
            if evidence:
                yield Finding(
                    code=self.code,
                    rule=self.rule,
                    verdict=Verdict.NOTE,
                    message=f"`{each.name}` holds numbers at the edge of their dtype's range in "
                    f"{len(evidence)} of {len(each.tensors)} tensors.",
                    fix="Keep these tensors in float32, or bfloat16 where range matters more "
                    "than digits.",
                    evidence=evidence,
                )
                return

    def _evidence(self, examined: Examined) -> Iterator[Evidence]:
        for each in examined.tensors:
            if not each.dtype.is_floating_point:
                continue
            limit = torch.finfo(each.dtype).max / self.headroom
            if each.abs_max > limit and not self._eight_bit(each):
                yield Evidence(f"`{each.name}` largest number ({each.dtype})", each.abs_max, limit)
            elif each.dtype.itemsize == 2 and each.subnormal > self.share * each.count:
                what = f"`{each.name}` numbers below the normal range ({each.dtype})"
                yield Evidence(what, each.subnormal, int(self.share * each.count))

    @staticmethod
    def _eight_bit(each: TensorFacts) -> bool:
        """8-bit weights are scaled to fill their range."""
        return each.dtype.itemsize == 1
