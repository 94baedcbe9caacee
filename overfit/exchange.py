"""Inputs exchanged between the samples of a suite, while the targets stay where they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overfit.targets import Target
from probes.batch import leaves, map_leaves, sample_axes, sample_count
from probes.guess import LABELS, complete
from probes.layout import Layout, Mask
from probes.subject import Batch

ALIKE = 0.9  # of the labels that a key must repeat to hold their prefix


def input_keys(batch: Batch, targets: Sequence[Target], layout: Layout) -> tuple[str, ...]:
    """The keys that belong to no target: neither its labels, nor their prefix, nor their masks.

    Beside a prefix, none that only numbers the places, or holds one number throughout. None at all
    where the labels may be any of them.
    """
    axes = sample_axes(batch, layout)
    own = {target.key for target in targets}
    if None in own:  # the loss makes its labels of something; only a name tells of what
        told = _likely_labels(batch, layout)
        if not told:
            return ()
        own |= told
    masks = complete(batch, layout).layout.masks
    prefixes = {each for target in targets for each in prefix_keys(batch, target, layout)}
    found = {k: leaf for k, leaf in leaves(batch).items() if isinstance(leaf, Tensor) and k in axes}
    plain = {key for key, leaf in found.items() if prefixes and _says_nothing(leaf, axes[key])}
    hide = {mask.key for mask in masks if _hides(mask, own | prefixes | plain, batch)}
    hide |= {mask.key for mask in masks if own.intersection(mask.hides)}
    named = {each for labels in layout.labels for each in (labels.key, labels.mask)}
    kept = own | hide | named | prefixes | plain
    return tuple(key for key in found if key not in kept)


def _hides(mask: Mask, keys: set[str | None], batch: Batch) -> bool:
    """Whether it hides these keys, or some of them, and no others."""
    hidden = leaves(batch).keys() & {*mask.hides}
    return bool(hidden) and hidden <= keys


def _says_nothing(leaf: Tensor, axis: int) -> bool:
    """Whether every sample holds the same numbers, which are all one, or count."""
    if leaf.is_floating_point() or not bool((leaf == leaf.narrow(axis, 0, 1)).all()):
        return False
    return bool(leaf.long().diff().unique().numel() <= 1)


def _likely_labels(batch: Batch, layout: Layout) -> set[str]:
    """The keys called labels, targets or y; else the last of a batch that is a tuple."""
    found = leaves(batch)
    named = {key for key in found if LABELS.search(key.rpartition(".")[2])}
    in_order = [str(place) for place in range(len(found))]
    if not named and len(found) > 1 and list(found) == in_order:
        named = {in_order[-1]}
    return named | {labels.key for labels in layout.labels}


def prefix_keys(batch: Batch, target: Target, layout: Layout) -> tuple[str, ...]:
    """The keys that hold a target's labels one position later, as a decoder is fed them."""
    found = leaves(batch)
    labels = found.get(target.key or "")
    declared = {each.of for each in layout.reads if each.rule in ("causal", "before")}
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim < 2:
        return tuple(declared & found.keys())
    kept = [
        key
        for key, leaf in found.items()
        if isinstance(leaf, Tensor) and key != target.key and _follows(leaf, labels)
    ]
    return tuple(dict.fromkeys([*(declared & found.keys()), *kept]))


def _follows(leaf: Tensor, labels: Tensor) -> bool:
    """Whether it repeats the labels, at their place or one later."""
    if leaf.shape[:-1] != labels.shape[:-1] or leaf.is_floating_point() or leaf.dtype is torch.bool:
        return False
    length = min(leaf.shape[-1] - 1, labels.shape[-1])
    real = labels[..., :length] >= 0
    if length < 1 or not bool(real.any()) or len(torch.unique(labels)) < 3:
        return False
    late = (leaf[..., 1 : length + 1] == labels[..., :length])[real].double().mean()
    here = (leaf[..., :length] == labels[..., :length])[real].double().mean()
    return bool(late >= ALIKE) or bool(here >= ALIKE)


def exchanged(
    batch: Batch, keys: Sequence[str], order: Sequence[int], layout: Layout | None = None
) -> Batch:
    """The batch whose sample i has the inputs of sample `order[i]`; of one sample, it itself."""
    axes = sample_axes(batch, layout)

    def moved(path: str, leaf: object) -> object:
        if path not in keys or path not in axes or not isinstance(leaf, Tensor):
            return leaf
        return leaf.index_select(axes[path], torch.tensor(order, device=leaf.device))

    return map_leaves(batch, moved)


def fullest(batches: Sequence[Batch], layout: Layout | None = None) -> Batch:
    """The first batch with the most samples, which shows best what lies along them."""
    return max(batches, key=lambda each: sample_count(each, layout) or 0)


def rolled(batch: Batch, keys: Sequence[str], layout: Layout | None = None) -> Batch | None:
    """The batch whose sample i has the inputs of the one before; None of a single sample."""
    count = sample_count(batch, layout)
    if count is None or count < 2 or not keys:
        return None
    return exchanged(batch, keys, [(i - 1) % count for i in range(count)], layout)


def levelled(batch: Batch, keys: Sequence[str], layout: Layout | None = None) -> Batch | None:
    """The batch whose samples all have the inputs of the first; None of a single sample.

    Where a batch holds nothing but inputs, exchanging them is no more than another order of the
    samples.
    """
    count = sample_count(batch, layout)
    if count is None or count < 2 or not keys:
        return None
    return exchanged(batch, keys, [0] * count, layout)
