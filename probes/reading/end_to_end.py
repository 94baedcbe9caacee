"""Units that lie end to end among ids, as words of pieces do: a key of lengths adds up to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.reading.separators import LEAST, SHARE

Row = tuple[list[int], list[int]]  # ids, and the lengths of its units
AROUND = 2  # tokens that may stand before the first unit, and after the last
TOTALS = 3  # different sums of lengths: of fewer they may fit by chance


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """front: tokens before the first unit, the same in all rows, such as `[CLS]`."""

    front: int

    def laid(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """(sample, unit, token) boolean: each unit's own tokens."""
        ends = (lengths.cumsum(1) + self.front)[..., None]
        at = torch.arange(ids.shape[1], device=ids.device)
        return (at >= ends - lengths[..., None]) & (at < ends)


def end_to_end(rows: Sequence[Row]) -> EndToEnd | None:
    """How nearly all rows are made of their units, what is the same around them, and padding."""
    if len(rows) < LEAST or len({sum(lengths) for _, lengths in rows}) < TOTALS:
        return None
    if len({one for _, lengths in rows for one in lengths}) < 2:
        return None  # of units that are all as long, a sum tells their number alone
    for pad in (None, *sorted({ids[-1] for ids, _ in rows})):
        fronts = list(_fronts(rows, pad))
        if len(fronts) == 1:
            return EndToEnd(fronts[0])
    return None


def _fronts(rows: Sequence[Row], pad: int | None) -> Iterator[int]:
    """How many tokens may stand in front, where ids of `pad` at the end are none."""
    kept = [(_stripped(ids, pad), lengths) for ids, lengths in rows]
    around = len(kept[0][0]) - sum(kept[0][1])
    fits = [ids for ids, lengths in kept if len(ids) - sum(lengths) == around]
    if not 0 <= around <= 2 * AROUND or len(fits) < SHARE * len(rows):
        return
    for front in range(min(around, AROUND) + 1):
        tail = around - front
        heads, tails = {tuple(ids[:front]) for ids in fits}, {tuple(ids[-tail:]) for ids in fits}
        if tail <= AROUND and len(heads) == 1 and (not tail or len(tails) == 1):
            yield front


def _stripped(ids: list[int], pad: int | None) -> list[int]:
    end = len(ids)
    while pad is not None and end and ids[end - 1] == pad:
        end -= 1
    return ids[:end]
