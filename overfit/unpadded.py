"""What each sample holds without the padding at its end, which goes by the others of its batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from probes.batch import leaves
from probes.guess import complete
from probes.layout import Layout
from probes.masking.hidden import Hidden, hidden
from probes.subject import Batch

Spans = Mapping[str, tuple[slice, ...]]


def unpadded(batch: Batch, layout: Layout) -> Spans:
    """Key -> for each sample the places that are no padding; of keys that a mask hides, and of it.

    What a mask hides is padding where it ends (or begins) each row and is one value throughout.
    """
    tensors = {key: leaf for key, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
    found: dict[str, tuple[slice, ...]] = {}
    for each in hidden(complete(batch, layout).layout, layout, tensors):
        if each.keep.ndim != 2 or not _is_one(tensors[each.key][~_within(each)]):
            continue
        found.setdefault(each.key, tuple(_spans(each)))
        if tensors[each.mask.key].ndim == 2:
            found.setdefault(each.mask.key, found[each.key])
    return found


def _within(each: Hidden) -> Tensor:
    """True from each row's beginning to its last place that is visible, or from the first on."""
    shown = each.keep.flip(1) if each.mask.side == "right" else each.keep
    begun = shown.long().cumsum(1) > 0
    return begun.flip(1) if each.mask.side == "right" else begun


def _spans(each: Hidden) -> list[slice]:
    wide, right = each.keep.shape[1], each.mask.side == "right"
    counts = _within(each).sum(1).tolist()
    return [slice(0, n) if right else slice(wide - n, wide) for n in counts]


def _is_one(values: Tensor) -> bool:
    return not len(values) or bool(torch.eq(values, values[:1]).all())
