"""Whether ids under a mask are one id that does no more than end a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from probes.batch import leaves, map_leaves
from probes.bus import Kind
from probes.compare import NOISES, gap, scale
from probes.execution import Ran
from probes.experiment import LOSS, Experiment
from probes.finding import ExperimentError
from probes.masking.hidden import Hidden, hidden
from probes.masking.longer import Longer
from probes.masking.visible import Visible
from probes.reading.rows import looked
from probes.subject import Batch


def is_one_blank(experiment: Experiment, each: Hidden) -> bool:
    """Whether all that the mask ever hides is one id, and every table has zeros for it to stay."""
    tensor = experiment.tensors[each.key]
    if each.keep.ndim != 2 or tensor.shape != each.keep.shape or not bool((~each.keep).any()):
        return False
    blank = tensor[~each.keep][0]
    everywhere = all(bool((ids == blank).all()) for ids in _hidden_ids(experiment, each))
    return everywhere and _is_zero(experiment, each, int(blank))


def _hidden_ids(experiment: Experiment, each: Hidden) -> Iterator[Tensor]:
    """Of this batch and the next ones."""
    yield experiment.tensors[each.key][~each.keep]
    for tensors in looked(experiment):
        for one in hidden(experiment.layout, experiment.declared, tensors):
            if (one.mask.key, one.key) == (each.mask.key, each.key):
                yield tensors[one.key][~one.keep]


def _is_zero(experiment: Experiment, each: Hidden, blank: int) -> bool:
    """Whether tables look the key up, and for the blank all give zeros that do not learn."""
    modules = dict(experiment.subject.model.named_modules())
    read = False
    for event in experiment.evaluated.ran.events:
        table = modules.get(event.module)
        if event.kind is not Kind.INPUT or not isinstance(table, nn.Embedding):
            continue
        if event.value is not None and _holds(event.value, each, blank):
            read, row = True, table.weight[blank]
            kept = table.padding_idx == blank or not table.weight.requires_grad
            if not kept or bool(row.any()):
                return False
    return read


def _holds(ids: Tensor, each: Hidden, blank: int) -> bool:
    """Whether ids in the order of the key, or turned, are the blank wherever it is hidden."""
    for keep in (each.keep, each.keep.T):
        if ids.numel() == keep.numel() and bool((ids.reshape(keep.shape)[~keep] == blank).all()):
            return True
    return False


def needs_no_padding(experiment: Experiment, made: Longer) -> bool:
    """Whether rows give what they gave, where the batch is cut to their length.

    Of a few lengths, each with the rows that are no longer than that; what others give is cut
    short, and is not looked at. False where nothing can be compared.
    """
    keep = made.each.keep
    known = sorted({n for n in keep.sum(1).tolist() if 0 < n < keep.shape[1]})
    if not known:
        return False
    few = sorted({known[0], known[len(known) // 2], known[-1]})
    try:
        found = [_agrees(experiment, made, length) for length in few]
    except ExperimentError:
        return False
    return False not in found and True in found


def _agrees(experiment: Experiment, made: Longer, length: int) -> bool | None:
    """Whether rows no longer than that give the same without what follows; None if none shows."""
    lengths, baseline = made.each.keep.sum(1), experiment.evaluated
    ran = experiment.evaluate(_shorter(experiment, made, length))
    pairs = list(_pairs(experiment, made, ran, (lengths <= length) & (lengths > 0)))
    for before, after, seen in pairs:
        limit = max(NOISES * baseline.noise, baseline.ran.rounding * scale(before, seen))
        if not gap(before, after, seen)[0] <= limit:
            return False
    return True if pairs else None


def _shorter(experiment: Experiment, made: Longer, length: int) -> Batch:
    """The batch, cut to that length, as are the lengths that masks of it hold."""
    axes, held = _axes(experiment, made), _lengths(experiment, made)

    def cut(path: str, leaf: object) -> object:
        if isinstance(leaf, Tensor) and path in axes:
            for axis in axes[path]:
                start = leaf.shape[axis] - length if made.left else 0
                leaf = leaf.narrow(axis, start, length)
            return leaf
        return leaf.clamp(max=length) if isinstance(leaf, Tensor) and path in held else leaf

    return map_leaves(experiment.batch, cut)


def _axes(experiment: Experiment, made: Longer) -> Mapping[str, list[int]]:
    """The axes along which the longer batch is longer."""
    new = leaves(made.batch)
    pairs = {key: (experiment.tensors[key].shape, new[key].shape) for key in made.keys}
    return {
        key: [i for i, n in enumerate(old) if n != more[i]] for key, (old, more) in pairs.items()
    }


def _lengths(experiment: Experiment, made: Longer) -> set[str]:
    """The keys that hold lengths of what is cut."""
    masks = experiment.layout.masks
    return {one.key for one in masks if one.means == "length" and set(one.hides) & set(made.keys)}


def _pairs(
    experiment: Experiment, made: Longer, ran: Ran, rows: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Each output before and after, in one shape, and where both can be seen in those rows."""
    look = Visible(experiment, made.each)
    for name, value in experiment.evaluated.ran.outputs.items():
        after = ran.outputs.get(name)
        if name == LOSS or not value.ndim or len(value) != len(rows) or after is None:
            continue
        seen = look(name, value)
        if seen is None or after.ndim != value.ndim:
            continue
        where = seen.expand(value.shape) & rows.reshape(-1, *[1] * (value.ndim - 1))
        there = _cut_to(after.shape, value.shape, made)
        if there is not None:
            yield value[there], after, where[there]


def _cut_to(
    short: tuple[int, ...], long: tuple[int, ...], made: Longer
) -> tuple[slice, ...] | None:
    """What is left of the long shape in the short one; None where it is no cut of one axis."""
    cut = [(n, m) for n, m in zip(short, long, strict=True) if n != m]
    if len(cut) > 1 or any(n > m for n, m in cut):
        return None
    pairs = zip(short, long, strict=True)
    return tuple(slice(m - n, None) if made.left else slice(n) for n, m in pairs)
