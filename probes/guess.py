"""What a layout leaves out, guessed from names, shapes and dtypes, each guess with its line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from probes.batch import leaves, sample_axes
from probes.layout import Labels, Layout, Mask
from probes.subject import Batch

KEEP = re.compile(r"(attention_mask|(^|_)mask|_keep)$")
HIDE = re.compile(r"(key_padding_mask|padding_mask|pad_mask|ignore_mask)$")
LENGTH = re.compile(r"((^|_)(lengths?|lens?|sizes))$")
COUNT = re.compile(r"(^|_)(n|num|counts?|frames|steps|tokens|words)(_|$)")

LABELS = re.compile(r"((^|_)(labels?|targets?|y))$")
SEVERAL = 3  # lengths of rows that all end where they say


@dataclass(frozen=True, slots=True)
class Guessed:
    """The layout with what was guessed filled in, and the line that would declare each guess."""

    layout: Layout
    lines: tuple[str, ...]


def complete(batch: Batch, layout: Layout | None = None) -> Guessed:
    """What is declared stands; axes, masks and labels that are not are guessed from the batch."""
    declared = layout or Layout()
    tensors = {path: leaf for path, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}
    axes = _axes(tensors, sample_axes(batch, declared), declared)
    known = {mask.key for mask in declared.masks}
    masks = [_mask(key, tensors) for key in tensors if key not in known]
    found = tuple(mask for mask in masks if mask is not None and mask.hides)
    labels = () if declared.labels else _labels(tensors)
    lines = (
        *(f"axes={{{key!r}: {names!r}}}" for key, names in axes.items()),
        *(f"masks=({mask!r},)" for mask in found),
        *(f"labels=({label!r},)" for label in labels),
    )
    full = replace(
        declared,
        axes={**axes, **declared.axes},
        masks=declared.masks + found,
        labels=declared.labels + labels,
    )
    return Guessed(full, lines)


def is_named(key: str) -> bool:
    """Whether a key is called a mask, or lengths."""
    return any(kind.search(key.rpartition(".")[2]) for kind in (KEEP, HIDE, LENGTH))


def _axes(
    tensors: Mapping[str, Tensor], samples: Mapping[str, int], declared: Layout
) -> dict[str, tuple[str, ...]]:
    """Samples first, then tokens of an id or steps of a vector, then features."""
    found = {}
    for path, tensor in tensors.items():
        if path in declared.axes or samples.get(path) != 0 or tensor.ndim > 3:
            continue
        inner = ("time", "feature") if tensor.is_floating_point() else ("token", "feature")
        flat = tensor.is_floating_point() and tensor.ndim == 2  # (sample, feature), most likely
        found[path] = ("sample", *(("feature",) if flat else inner[: tensor.ndim - 1]))
    return found


def _mask(key: str, tensors: Mapping[str, Tensor]) -> Mask | None:
    tensor, name = tensors[key], key.rpartition(".")[2]
    if tensor.ndim == 1 and not tensor.is_floating_point() and tensor.dtype is not torch.bool:
        named = bool(LENGTH.search(name))
        under = _of_rows(key, len(tensor), tensors) if named else _ended(key, tensors)
        return Mask(key, under, axis=1, means="length")
    if tensor.ndim < 2 or not _is_binary(tensor):
        return None
    hides = bool(HIDE.search(name))
    if not hides and not KEEP.search(name):
        return _told_by_content(key, tensors)
    under, ones = _of_shape(key, tensors), tensor != 0
    held = [tensors[path] for path in under]
    if _is_end(~ones if hides else ones, held) and not _is_end(ones if hides else ~ones, held):
        hides = not hides  # what stands there says more than the name
    side: Literal["right", "left"] = "left" if _is_left(ones != hides) else "right"
    means: Literal["hide", "keep"] = "hide" if hides else "keep"
    return Mask(key, under, axis=tensor.ndim - 1, means=means, side=side)


def _told_by_content(key: str, tensors: Mapping[str, Tensor]) -> Mask | None:
    """Of any name: it marks the end of each row where other keys hold one value, as nowhere else.

    Such as `present`, beside features that are zeros where nothing is.
    """
    ones = tensors[key] != 0
    turns = (ones[..., 1:] != ones[..., :-1]).sum(-1)
    if bool((turns > 1).any()) or len(ones.sum(-1).unique()) < 2 or _is_other(key):
        return None
    others = [path for path in _of_shape(key, tensors) if path != key]
    means: Literal["hide", "keep"]
    for hidden, means in ((~ones, "keep"), (ones, "hide")):
        under = tuple(path for path in others if _is_blank(tensors[path], hidden))
        if under:
            side: Literal["right", "left"] = "left" if _is_left(~hidden) else "right"
            return Mask(key, under, axis=ones.ndim - 1, means=means, side=side)
    return None


def _is_blank(tensor: Tensor, hidden: Tensor) -> bool:
    """Whether one value, or one vector, stands at all hidden places and nowhere else."""
    there, elsewhere = (tensor[where].reshape(int(where.sum()), -1) for where in (hidden, ~hidden))
    if not len(there) or not len(elsewhere) or not bool((there == there[0]).all()):
        return False
    return not bool((elsewhere == there[0]).all(1).any())


def _is_end(hidden: Tensor, of: Sequence[Tensor]) -> bool:
    """Whether one end of each row is marked, with the same id or vector there, others elsewhere."""
    ends = (hidden[..., 1:] != hidden[..., :-1]).sum(-1) <= 1
    if not bool(ends.all()) or not bool(hidden.any()) or bool(hidden.all()):
        return False
    if any(each.is_floating_point() and _is_blank(each, hidden) for each in of):
        return True
    ids = [each for each in of if each.shape == hidden.shape and not each.is_floating_point()]
    if not ids:
        return False
    there, elsewhere = ids[0][hidden], ids[0][~hidden]
    return bool((there == there[0]).all()) and bool((elsewhere != there[0]).any())


def _is_left(keep: Tensor) -> bool:
    return bool((~keep[..., 0] & keep[..., -1]).any())


def _is_binary(tensor: Tensor) -> bool:
    return bool(((tensor == 0) | (tensor == 1)).all())


def _of_shape(key: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The other keys whose first axes are the mask's, but for masks and labels."""
    shape = tensors[key].shape
    return tuple(
        path
        for path, tensor in tensors.items()
        if tensor.shape[: len(shape)] == shape and not _is_other(path)
    )


def _of_rows(key: str, rows: int, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The other keys with as many samples as there are lengths, and room for the longest.

    Where several keys of lengths have room in one, it belongs to the one that fits it best. Where
    labels end where they say, as those of CTC do, a key that they neither fill nor end is none.
    """
    of_labels = any(
        LABELS.search(path.rpartition(".")[2]) and _is_ended(tensor, tensors[key], several=1)
        for path, tensor in tensors.items()
    )
    others = [
        path
        for path, tensor in tensors.items()
        if path != key
        and tensor.ndim == 1
        and len(tensor) == rows
        and not tensor.is_floating_point()
        and LENGTH.search(path.rpartition(".")[2])
    ]
    found = []
    for path, tensor in tensors.items():
        if tensor.ndim < 2 or len(tensor) != rows or _is_other(path):
            continue
        fit = _fit(key, path, tensors)
        if of_labels and fit is not None and not any(fit[:2]):
            fit = fit if _is_ended(tensor, tensors[key]) else None
        if fit is not None and all(fit >= (_fit(each, path, tensors) or fit) for each in others):
            found.append((fit[:2], path))
    best = max((any(fit) for fit, _ in found), default=False)
    return tuple(path for fit, path in found if any(fit) == best)


def _ended(key: str, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The keys that hold one value from where the integers say on, and others just before.

    The name of the integers must say that they count, unless they have none, as in a tuple.
    """
    name = key.rpartition(".")[2]
    return tuple(
        path
        for path, tensor in tensors.items()
        if (COUNT.search(name) or name.isdigit())
        and path != key
        and not _is_other(path)
        and _is_ended(tensor, tensors[key])
    )


def _is_ended(tensor: Tensor, lengths: Tensor, several: int = SEVERAL) -> bool:
    """Whether rows of several lengths end there, the longest with the tensor if they are few.

    A row of length zero is blank altogether.
    """
    if tensor.ndim not in (2, 3) or len(tensor) != len(lengths) or tensor.dtype is torch.bool:
        return False
    width, longest = tensor.shape[1], int(lengths.max()) if len(lengths) else 0
    if int(lengths.min()) < 0 or int(lengths.min()) >= width or longest > width or width < 3:
        return False
    if longest < width and len(lengths[lengths > 0].unique()) < several:
        return False
    hidden = torch.arange(width, device=tensor.device) >= lengths.to(tensor.device)[:, None]
    there, begun = tensor[hidden], (lengths > 0).to(tensor.device)
    last = tensor[begun, (lengths.to(tensor.device) - 1)[begun]]
    pad = there[0]
    ends = (last != pad).flatten(1).any(1) if last.ndim > 1 else last != pad
    return bool((there == pad).all()) and bool(ends.all())


def _fit(lengths: str, path: str, tensors: Mapping[str, Tensor]) -> tuple[bool, bool, int] | None:
    """How well lengths fit a key: called after it, its width, how much; None without room."""
    longest = int(tensors[lengths].max()) if len(tensors[lengths]) else 0
    width = tensors[path].shape[1]
    stem = LENGTH.sub("", lengths.rpartition(".")[2])
    named = bool(stem) and path.rpartition(".")[2].startswith(stem)
    return None if longest > width else (named, longest == width, longest)


def _is_other(path: str) -> bool:
    return is_named(path) or bool(LABELS.search(path.rpartition(".")[2]))


def _labels(tensors: Mapping[str, Any]) -> tuple[Labels, ...]:
    """One key called labels, targets or y: classes where it holds integers, values where not."""
    named = [path for path in tensors if LABELS.search(path.rpartition(".")[2])]
    if len(named) != 1:
        return ()
    if tensors[named[0]].is_floating_point():
        return (Labels(named[0], output="output", kind="value"),)
    return (Labels(named[0], output="output"),)
