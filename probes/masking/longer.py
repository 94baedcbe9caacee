"""A batch with more padding: positions appended on the side where a mask's padding stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from probes.batch import leaves, map_leaves
from probes.execution import Event, Ran
from probes.experiment import Experiment
from probes.masking.hidden import Hidden
from probes.subject import Batch

PLACES = ("sample", "turn")  # axes before the masked one that flattening may join with it


@dataclass(frozen=True)
class Longer:
    """A batch that is `by` positions of padding longer along what `each` masks.

    keys: those that were lengthened. left: whether the padding stands before the rest.
    """

    each: Hidden
    batch: Batch
    keys: tuple[str, ...]
    by: int
    left: bool

    def cut(self, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """The value without what is new, in the shape that it had; None where that is not clear.

        Rows may be joined, as in (sample * token, feature).
        """
        if value.ndim != len(shape):
            return None
        if (joined := self._joined(value, shape)) is not None:
            return joined
        for axis, (now, before) in enumerate(zip(value.shape, shape, strict=True)):
            if now == before:
                continue
            if now < before or (now - before) % self.by:
                return None
            value = value.narrow(axis, now - before if self.left else 0, before)
        return value

    def _joined(self, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        *rows, long = self.each.keep.shape
        count = prod(rows)
        if count < 2 or shape[:1] != (count * long,) or len(value) != count * (long + self.by):
            return None
        by_row: Tensor = value.unflatten(0, (count, long + self.by))
        return by_row.narrow(1, self.by if self.left else 0, long).flatten(0, 1)

    def with_old(self, keys: Iterable[str], batch: Batch) -> Batch:
        """The longer batch, these keys as they were."""
        old = leaves(batch)
        return map_leaves(self.batch, lambda path, leaf: old[path] if path in keys else leaf)

    def aligned(self, ran: Ran, before: Ran) -> Ran:
        """What the run of the longer batch showed, in the order and shapes of the one before."""
        cuts = {
            name: self.cut(ran.outputs[name], tuple(value.shape))
            for name, value in before.outputs.items()
            if name in ran.outputs
        }
        outputs = {name: value for name, value in cuts.items() if value is not None}
        return Ran(outputs, ran.rounding, lambda: tuple(self._events(ran, before)))

    def _events(self, ran: Ran, before: Ran) -> Iterator[Event]:
        shown = {(each.site, each.kind, each.call): each.value for each in ran.events}
        for each in before.events:
            value = shown.get((each.site, each.kind, each.call))
            if value is not None and each.value is not None:
                value = self.cut(value, tuple(each.value.shape))
            yield replace(each, value=value)


def longer(experiment: Experiment, by: int, also: Iterable[Hidden] = ()) -> Iterator[Longer]:
    """For every mask, the batch with more of what it hides; not where none hides an end.

    also: what is hidden beside that.
    """
    done, known = set(), (*experiment.masks, *also)
    for each in known:
        for one in (each, *_of_rows(each)):
            made = _of(experiment, one, by, known)
            place = None if made is None else (made.keys, one.keep.ndim)
            if made is not None and place not in done:
                done.add(place)
                yield made


def _of_rows(each: Hidden) -> Iterator[Hidden]:
    """Of a mask of rows in rows the rows that hide everything, such as padded sentences."""
    keep = each.keep
    while keep.ndim > 2:
        keep = keep.any(-1)
        axes = None if each.axes is None else each.axes[: keep.ndim]
        if not bool(keep.all()):
            yield replace(each, keep=keep, axes=axes)


def everywhere_longer(experiment: Experiment, by: int) -> Longer | None:
    """The batch with more of what any mask hides, on the right; None where one hides the left."""
    made, keys, now = None, set(), experiment
    for i in range(len(experiment.masks)):
        each = _of(now, now.masks[i], by, now.masks)
        if each is None or each.keys in keys:
            continue
        if each.left:
            return None
        made, now = each, replace(now, batch=each.batch, memo={})
        keys.add(each.keys)
    return made


def _of(
    experiment: Experiment, each: Hidden, by: int, known: Sequence[Hidden] = ()
) -> Longer | None:
    left = each.mask.side == "left"
    donor = _donor(each, left)
    axes = _axes(experiment, each, known)
    if donor is None or not axes or not _is_flat(experiment, each):
        return None
    lengthened = {
        path: _lengthened(tensor, axes[path][0], each, donor, by, left)
        if len(axes[path]) == 1
        else _wider(tensor, axes[path][0], each, by, left)
        for path, tensor in experiment.tensors.items()
        if path in axes
    }
    batch = map_leaves(experiment.batch, lambda path, leaf: lengthened.get(path, leaf))
    return Longer(each, batch, tuple(sorted(axes)), by, left)


def _donor(each: Hidden, left: bool) -> tuple[int, ...] | None:
    """Where a row has padding at that end, such as (sample,) or (sample, turn)."""
    rows = (~each.keep[..., 0 if left else -1]).nonzero()
    return tuple(rows[0].tolist()) if len(rows) else None


def _axes(
    experiment: Experiment, each: Hidden, known: Sequence[Hidden]
) -> Mapping[str, tuple[int, ...]]:
    """The keys that run along the masked axis, and which of their axes does, or which two do.

    known: all that is hidden, be it by masks or by ids that mark it. Empty where a key has two axes
    of that length and is no table of pairs that ends with the rows.
    """
    place, length = each.keep.ndim - 1, each.keep.shape[-1]
    declared = experiment.declared.axes
    name = declared[each.key][place] if each.key in declared else None
    found, apart = dict[str, tuple[int, ...]](), _apart(known, each)
    for path, tensor in experiment.tensors.items():
        if path in apart:
            continue
        names = declared.get(path)
        if name is not None and names is not None:
            axes = [i for i, own in enumerate(names) if own == name and tensor.shape[i] == length]
        else:
            axes = [i for i, n in enumerate(tensor.shape) if i and n == length]
        if len(axes) == 2 and pair_ends(tensor, each.keep, axes[0]) is not None:
            found[path] = (axes[0], axes[1])
            continue
        if path == each.key and _is_by_place(tensor, place):
            axes = [place]
        if len(axes) > 1:
            return {}
        if axes and axes[0] != place and names is None and not _is_padded(tensor, axes[0], each):
            continue  # of another kind, that happens to be as long
        if axes and names is None and path != each.key and _goes_on(tensor, axes[0], each):
            continue  # ids of something else, that happens to be as long
        if axes and tensor.shape[:1] == each.keep.shape[:1]:
            found[path] = (axes[0],)
    return found if each.key in found else {}


def _is_padded(tensor: Tensor, axis: int, each: Hidden) -> bool:
    """Whether one value stands along the axis wherever the mask hides, of each sample."""
    lead = each.keep.ndim - 1
    if tensor.shape[:lead] != each.keep.shape[:-1] or axis < lead:
        return False
    there = tensor.movedim(axis, lead)[~each.keep]
    return bool((there == there.flatten()[:1]).all())


def pair_ends(tensor: Tensor, keep: Tensor, axis: int) -> tuple[Tensor, Tensor] | None:
    """What stands at all pairs with a hidden place, and at a hidden place with itself.

    Such as 0 in a table of edges, and 0 or 1 on its diagonal. None where it is not one and the
    same, or where the axis and the next one are no pairs of the places. keep: (sample, place).
    """
    if keep.ndim != 2 or keep.shape[1] < 2 or tensor.shape[axis : axis + 2] != (keep.shape[1],) * 2:
        return None
    if len(tensor) != len(keep) or not bool((~keep).any()):
        return None
    table = tensor.movedim((axis, axis + 1), (1, 2))
    pairs = ~keep[:, :, None] | ~keep[:, None]
    same = torch.eye(keep.shape[1], dtype=torch.bool, device=keep.device)
    apart, alone = table[pairs & ~same], table[pairs & same]
    if not bool((apart == apart[:1]).all()) or not bool((alone == alone[:1]).all()):
        return None
    return apart[0], alone[0]


def _is_by_place(tensor: Tensor, place: int) -> bool:
    """Whether the masked axis holds vectors that happen to be as long, and not pairs of places."""
    if tensor.ndim != place + 2 or not tensor.is_floating_point():
        return False
    return not torch.equal(tensor, tensor.transpose(place, place + 1))


def _goes_on(tensor: Tensor, axis: int, each: Hidden) -> bool:
    """Whether whole numbers go on where the mask hides, neither all one nor counted, in a row."""
    if tensor.is_floating_point() or axis != 1 or each.keep.ndim != 2 or tensor.ndim != 2:
        return False
    if tensor.shape != each.keep.shape or tensor.dtype is torch.bool:
        return False
    hidden = (row[~keep] for row, keep in zip(tensor, each.keep, strict=True))
    return any(len(ids) > 1 and len(ids.diff().unique()) > 1 for ids in hidden)


def _apart(known: Sequence[Hidden], each: Hidden) -> set[str]:
    """Keys of another sequence, that happens to be as long: what other masks alone hide."""
    own = {one.key for one in known if one.mask.key == each.mask.key}
    others = [
        one
        for one in known
        if one.key not in own
        and one.mask.key not in own
        and tuple(one.keep.shape) == tuple(each.keep.shape)
        and not torch.equal(one.keep, each.keep)
    ]
    return {name for one in others for name in (one.key, one.mask.key)} - {each.mask.key}


def _is_flat(experiment: Experiment, each: Hidden) -> bool:
    """Whether no index into several joined rows would point elsewhere afterwards."""
    names = experiment.declared.axes.get(each.key, ())
    inner = list(zip(names, each.keep.shape, strict=False))[:-1]
    return all(name in PLACES or size == 1 for name, size in inner)


def _lengthened(
    tensor: Tensor, axis: int, each: Hidden, donor: tuple[int, ...], by: int, left: bool
) -> Tensor:
    """With what stands in the padding of the donor's row, so many times more."""
    lead = len(donor)
    end = 0 if left else tensor.shape[axis] - 1
    if axis >= lead and tensor.shape[:lead] == each.keep.shape[:-1]:
        slot = tensor[donor].select(axis - lead, end)
    else:
        slot = tensor[donor[0]].select(axis - 1, end)
    shape = [by if i == axis else n for i, n in enumerate(tensor.shape)]
    more = slot.unsqueeze(axis - tensor.ndim).expand(shape)
    return torch.cat([more, tensor] if left else [tensor, more], axis)


def _wider(tensor: Tensor, axis: int, each: Hidden, by: int, left: bool) -> Tensor:
    """With so many more rows and columns of what stands at the pairs with a hidden place."""
    ends = pair_ends(tensor, each.keep, axis)
    assert ends is not None
    table = tensor.movedim((axis, axis + 1), (1, 2))
    size, wide = table.shape[1], table.shape[1] + by
    made = ends[0].expand(len(table), wide, wide, *table.shape[3:]).clone()
    new = torch.arange(by, device=tensor.device) + (0 if left else size)
    made[:, new, new] = ends[1]
    old = slice(by, None) if left else slice(size)
    made[:, old, old] = table
    return made.movedim((1, 2), (axis, axis + 1))
