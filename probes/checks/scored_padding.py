"""LBL003: outputs at padding are scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment, with_leaf
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.layout import Labels, Mask
from probes.masking.hidden import Hidden, hidden
from probes.masking.trailing import trailing
from probes.reading.alive import alive
from probes.scoring.answers import Scores, keys, lines_of, scores
from probes.scoring.ignored_places import counted
from probes.scoring.wanted import wanted
from probes.vary import vary

LEAST = 8  # classes of labels whose ends are taken for padding without a mask


@dataclass(frozen=True, slots=True)
class ScoredPadding:
    """The loss scores outputs at places that a mask hides: their labels count, padding or not.

    Where the loss has a gradient is compared with what masks of the same axes hide: a label of
    padding that is not the ignored one (a pad id, 0), labels shifted past the end of their text,
    a loss mask that covers what the attention mask hides. That the output's places are those of
    the masked key is found by changing one token each. A text padded on the left may be scored
    from the padding just before its start, where its first token is predicted. Without a mask
    of their axes, runs of one label that rows end in, and that stands nowhere else, are padding.
    A second term of the loss may count places that the first one ignores: there the loss has a
    gradient that hangs on labels, though the label there is the ignored one.

    Sick: `labels=ids` with padding in them.
    Healthy: `labels=ids.masked_fill(mask == 0, -100)`.
    """

    code: ClassVar[str] = "LBL003"
    rule: ClassVar[str] = "scored-padding"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Labels by place, and a mask that hides some of them."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if not any(
            _masks(experiment, each) or _by_place(experiment, each) for each in keys(experiment)
        ):
            return "no mask that hides anything has the axes of labels of classes"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of labels."""
        for labels in keys(experiment):
            if _by_place(experiment, labels):
                yield from self._counted(experiment, labels)
            masks = _masks(experiment, labels)
            if not masks or experiment.tensors[labels.key].ndim < 2:
                continue
            found = scores(experiment, labels)
            if found.shift is None and not _is_asked(experiment, labels):
                continue  # whose labels they are is LBL002's
            for mask in masks:
                wrong = _scored(found, mask)
                is_all = mask.mask.means != "id" or bool((found.scored | mask.keep).all())
                if bool(wrong.any()) and is_all and _is_its_own(experiment, found, mask, labels):
                    yield self._finding(experiment, labels, found, mask, wrong)
                    break

    def _counted(self, experiment: Experiment, labels: Labels) -> Iterator[Finding]:
        try:
            found = counted(experiment, labels)
        except ExperimentError:
            return
        if found is None:
            return
        count, ignored = int(found.places.sum()), experiment.tensors[labels.key] == found.ignore
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"a term of the loss counts {count} of the {int(ignored.sum())} places whose "
            f"`{labels.key}` is {found.ignore}, which is ignored elsewhere: with other labels at "
            f"other places the gradient there changes by {100 * found.change:.2g}%.",
            fix=f"Leave places of {found.ignore} out of every term: multiply outputs and labels by "
            f"`{labels.key} != {found.ignore}` before they are summed.",
            site="<loss>",
            phase="forward",
            samples=tuple(sorted({int(row[0]) for row in found.places.nonzero()})),
            evidence=(
                Evidence("ignored places that are scored", count, 0),
                Evidence("change of the gradient there", found.change),
            ),
        )
        declared = any(each.key == labels.key for each in experiment.declared.labels)
        yield resting_on(finding, [] if declared else [f"labels=({labels!r},)"])

    def _finding(
        self,
        experiment: Experiment,
        labels: Labels,
        found: Scores,
        mask: Hidden,
        wrong: Tensor,
    ) -> Finding:
        at = [int(i) for i in wrong.nonzero()[0]]
        values = experiment.tensors[labels.key]
        place = tuple(at)
        kinds = torch.unique(values.roll(-(found.shift or 0), -1)[wrong]).tolist()
        names = list(mask.axes or ()) or ["sample", "token"]
        names = names if len(names) == len(at) else [f"axis {i}" for i in range(len(at))]
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"the loss scores {int(wrong.sum())} of the {int((~mask.keep).sum())} places "
            f"that `{mask.mask.key}` hides: `{labels.key}` there is "
            f"{', '.join(map(str, kinds[:3]))}{' and others' if len(kinds) > 3 else ''}, which is "
            "not ignored.",
            fix=f"Give padding the ignored label, such as {labels.ignore or -100}, or multiply "
            f"the loss by `{mask.mask.key}`.",
            site="<loss>",
            phase="forward",
            samples=tuple(sorted({int(row[0]) for row in wrong.nonzero()})),
            where=dict(zip(names, place, strict=True)),
            evidence=(
                Evidence("hidden places that are scored", int(wrong.sum()), 0),
                Evidence("visible places that are scored", int((found.scored & mask.keep).sum())),
            ),
        )
        declared = any(each.key == labels.key for each in experiment.declared.labels)
        lines = [] if declared else [f"labels=({labels!r},)"]
        return resting_on(finding, lines + ([mask.guessed] if mask.guessed else []))


def _by_place(experiment: Experiment, labels: Labels) -> bool:
    return experiment.tensors[labels.key].ndim > 1


def _masks(experiment: Experiment, labels: Labels) -> list[Hidden]:
    """Masks of the labels' axes, also those that hide more than padding; else runs at their ends.

    The runs are of one label that stands nowhere else.
    """
    values = experiment.tensors[labels.key]
    shape = tuple(values.shape)
    found = [m for m in experiment.masks if tuple(m.keep.shape) == shape]
    known = {each.mask.key for each in found}
    found += [
        m
        for m in hidden(experiment.layout, experiment.layout, experiment.tensors)
        if tuple(m.keep.shape) == shape
        and m.mask.key not in known
        and m.mask.key.rpartition(".")[2].endswith("attention_mask")
        and bool(((m.keep[:, 1:] != m.keep[:, :-1]).sum(1) <= 1).all())
    ]
    runs = trailing(values) if not found else None
    if runs is not None and int(values.max()) >= LEAST:
        mask = Mask(labels.key, (labels.key,), means="id")
        found = [Hidden(mask, labels.key, ~runs, None, f"labels=({labels!r},)")]
    return [m for m in found if not bool(m.keep.all())]


def _is_asked(experiment: Experiment, labels: Labels) -> bool:
    """Whether outputs are asked for the labels at their own places, fed to a decoder as well."""
    return any(each.key == labels.key and each.ahead == 0 for each in wanted(experiment))


def _scored(found: Scores, mask: Hidden) -> Tensor:
    """Hidden places that the loss looks at, but for those just before a visible one."""
    start = torch.zeros_like(mask.keep)
    start[..., :-1] = mask.keep[..., 1:]
    return found.scored & ~mask.keep & ~start


def _is_its_own(experiment: Experiment, found: Scores, mask: Hidden, labels: Labels) -> bool:
    """Whether output places are those of the masked key: a token moves the output where it is."""
    if mask.key == labels.key:
        return True
    tensor = experiment.tensors[mask.key]
    only, at = torch.zeros_like(mask.keep), {}
    for row in range(len(tensor)):
        places = mask.keep[row].nonzero().tolist()
        if places:
            place = tuple(places[(row + 1) * len(places) // (len(tensor) + 1)])
            only[(row, *place)], at[row] = True, place
    other = vary(tensor, only)
    if other is None:
        return False
    try:
        after = alive(experiment, with_leaf(experiment.batch, mask.key, other))
    except ExperimentError:
        return False
    shape = tuple(mask.keep.shape)
    if len(after.shown) <= found.index:
        return False
    lines = (
        lines_of(found.shown.tensor, shape, found.first),
        lines_of(after.shown[found.index].tensor, shape, found.first),
    )
    if lines[0] is None or lines[1] is None or lines[0].shape != lines[1].shape:
        return False
    apart = (lines[1] - lines[0]).detach().abs().nan_to_num().sum(-1)
    most = [
        tuple(int(i) for i in torch.unravel_index(apart[row].argmax(), apart[row].shape))
        for row in at
    ]
    hits = sum(one == at[row] for one, row in zip(most, at, strict=True))
    return hits * 3 >= len(at) * 2
