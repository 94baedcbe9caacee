"""Where every mask lets see, and what of the hidden can be seen there all the same."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from probes.compare import Comparison, Look, gap, scale
from probes.execution import Ran
from probes.experiment import LOSS, Experiment, with_leaf
from probes.masking.as_marked import as_marked, is_marked
from probes.masking.hidden import Hidden
from probes.subject import Batch
from probes.vary import vary


def leaks(experiment: Experiment) -> list[tuple[Hidden, Comparison]]:
    """Every mask and key, with what other content at the hidden positions moves where visible.

    Where one value stands at all of them and nowhere else, a mask may be taken from the key itself:
    then comparisons come out as they did, since other ids alone would be taken for visible ones.
    Raises ExperimentError where the subject raises on the changed batch.
    """
    if "leaks" not in experiment.memo:
        looked = () if _is_tight(experiment) else masked(experiment)
        found = ((each, _moved(experiment, each)) for each in looked)
        experiment.memo["leaks"] = [(each, to) for each, to in found if to and to.outputs]
    leaking: list[tuple[Hidden, Comparison]] = experiment.memo["leaks"]
    return leaking


def _moved(experiment: Experiment, each: Hidden) -> Comparison | None:
    """What other content where it hides comes to; None where there is no other."""
    batch = changed(experiment, [each])
    if batch is None:
        return None
    ran, look = experiment.evaluate(batch), Visible(experiment, each)
    what = f"{each.key} under {each.mask.key}"
    parted = experiment.parted(what, ran, look)
    if parted.outputs and is_marked(experiment, each):
        parted = experiment.parted(what, as_marked(experiment, batch), look)
    return parted


def seen_as_marked(experiment: Experiment, each: Hidden) -> bool:
    """Whether other ids where it hides change an output, while the code takes them for padding.

    The loss alone does not count, which may ask for the ids.
    """
    batch = changed(experiment, [each])
    if batch is None:
        return False
    what = f"{each.key} where it is padding"
    found = experiment.parted(what, as_marked(experiment, batch), Visible(experiment, each))
    return any(one.site != LOSS for one in found.outputs)


def changed(experiment: Experiment, masks: list[Hidden]) -> Batch | None:
    """The batch with other content wherever one of these masks hides; None without any."""
    batch, keys = experiment.batch, {each.key for each in masks}
    for key in sorted(keys):
        tensor, own = experiment.tensors[key], [each for each in masks if each.key == key]
        hides = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
        for each in own:
            hides |= ~each.keep.reshape([*each.keep.shape, *[1] * (tensor.ndim - each.keep.ndim)])
        other = vary(tensor, hides, tensor[~hides])
        if other is None:
            keys.discard(key)
        else:
            batch = with_leaf(batch, key, other)
    return batch if keys else None


def masked(experiment: Experiment) -> list[Hidden]:
    """All masks and keys, but for those under which the content is a mask, or is not read."""
    others = {each.key for each in experiment.layout.labels}
    others |= {each.key for each in experiment.layout.masks}
    return [each for each in experiment.masks if each.mask.means != "id" and each.key not in others]


def _is_tight(experiment: Experiment) -> bool:
    """Whether nothing visible moves with all that is hidden."""
    masks = masked(experiment)
    batch = changed(experiment, masks)
    if batch is None:
        return True
    ran = experiment.evaluate(batch)
    return not any(
        experiment.parted(f"{each.key} under all masks, seen by {each.mask.key}", ran, look).outputs
        for each, look in ((each, Visible(experiment, each)) for each in masks)
    )


def seen(experiment: Experiment) -> Look:
    """Looks where every mask that can be laid over lets see, and everywhere where none can."""

    def look(site: str, value: Tensor) -> Tensor:
        where = torch.ones((), dtype=torch.bool, device=value.device)
        for each in experiment.masks:
            own = each.over(tuple(value.shape), experiment.layout.axes.get(site))
            where = where if own is None else where & own
        return where

    return look


class Visible:
    """Looks where all masks let see; where the mask in question cannot be laid over, nowhere.

    channels: values of modules that have channels before places, as convolutions do, are looked
    at too. There what is under a mask may well reach over the border of what is visible.
    """

    def __init__(self, experiment: Experiment, each: Hidden, channels: bool = False) -> None:
        self._layout = experiment.layout
        self._each = each
        self._channels = channels
        self._others = [
            one for one in experiment.masks if one.mask.key != each.mask.key and one.keep.ndim > 1
        ]
        self._unscored = dict(_unscored(experiment))

    def __call__(self, site: str, value: Tensor) -> Tensor | None:
        """True where to compare; None where that cannot be told."""
        shape = tuple(value.shape)
        axes = self._layout.axes.get(site)
        look = self._each.over(shape, axes)
        if look is None:
            return self._each.behind_channels(shape) if self._channels else None
        for one in self._others:
            seen = one.over(shape, axes)
            look = look if seen is None else look & seen
        scored = self._unscored.get(shape[:-1])
        return look if scored is None else look & scored[..., None]


def _unscored(experiment: Experiment) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """By the labels' shape: true where the label is not ignored."""
    for labels in experiment.layout.labels:
        values = experiment.tensors.get(labels.key)
        if values is None or labels.shift or labels.ignore is None:
            continue
        if values.ndim > 1 and not values.is_floating_point():
            yield tuple(values.shape), torch.ne(values, labels.ignore)


def differ(before: Ran, after: Ran, look: Look, noise: float) -> bool:
    """Whether an output differs where visible; also where it is not finite."""
    rounding = max(before.rounding, after.rounding)
    for name, value in before.outputs.items():
        other = after.outputs.get(name)
        seen = look(name, value)
        if other is None or seen is None or other.shape != value.shape:
            continue
        limit = max(noise, rounding * scale(value, seen))
        if not gap(value, other, seen.expand(value.shape))[0] <= limit:
            return True
    return False
