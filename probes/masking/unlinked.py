"""Padding of graphs that no key marks: nodes at the end of which a table of pairs knows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from torch import Tensor

from probes.batch import leaves
from probes.experiment import LOOKED, Experiment
from probes.layout import Mask
from probes.masking.hidden import Hidden
from probes.masking.longer import pair_ends
from probes.masking.trailing import trailing


def unlinked(experiment: Experiment) -> list[Hidden]:
    """The keys of nodes that end in padding, where every batch is padded to a length of its own.

    One value stands there and nowhere else, and in a table of pairs of nodes, as of edges, another
    wherever they are one of the pair. Where the batches are all of one length, so much padding may
    be part of the design.
    """
    if "unlinked" not in experiment.memo:
        experiment.memo["unlinked"] = list(_unlinked(experiment))
    known: list[Hidden] = experiment.memo["unlinked"]
    return known


def _unlinked(experiment: Experiment) -> Iterator[Hidden]:
    masked = {each.key for each in experiment.masks}
    free = {key: tensor for key, tensor in experiment.tensors.items() if key not in masked}
    for pairs, table in free.items():
        size = table.shape[1] if table.ndim > 2 else 0
        if size < 2 or size != table.shape[2]:
            continue
        for key, tensor in free.items():
            ends = None if tensor is table else _ends(tensor)
            if ends is None or pair_ends(table, ~ends, 1) is None:
                continue
            if _varies(experiment, pairs):
                mask = Mask("mask", (key, pairs))
                yield Hidden(mask, key, ~ends, None, f"masks=({mask!r},)")
            break


def _ends(nodes: Tensor) -> Tensor | None:
    """(sample, node) true in the runs of one id, or of zeros, that samples end in."""
    if nodes.is_floating_point():
        return trailing((nodes == 0).all(-1).long()) if nodes.ndim == 3 else None
    return trailing(nodes)


def _varies(experiment: Experiment, pairs: str) -> bool:
    """Whether the table is of another length in another of the first batches."""
    every = (leaves(batch).get(pairs) for batch in islice(experiment.subject.batches, LOOKED))
    return len({each.shape[1] for each in every if isinstance(each, Tensor)}) > 1
