"""LBL003: outputs at padding are scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.layout import Labels
from probes.scoring.answers import at_the_loss, keys
from probes.scoring.hidden_scores import HiddenScores, hidden_scores, label_masks
from probes.scoring.ignored_places import counted


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
    gradient that hangs on labels, though the label there is the ignored one. Labels that are
    matched to outputs as a set, or aligned to them, have no places there, and none is padding.

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
            label_masks(experiment, each) or _by_place(experiment, each)
            for each in keys(experiment)
        ):
            return "no mask that hides anything has the axes of labels of classes"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of labels."""
        for labels in keys(experiment):
            if _by_place(experiment, labels):
                yield from self._counted(experiment, labels)
            if experiment.tensors[labels.key].ndim < 2:
                continue
            each = hidden_scores(experiment, labels)
            if each is not None:
                yield at_the_loss(experiment, self._finding(experiment, labels, each))

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
        scored: HiddenScores,
    ) -> Finding:
        found, mask, wrong = scored.found, scored.mask, scored.wrong
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
        guessed = [] if declared else [f"labels=({labels!r},)"]
        return resting_on(finding, guessed + ([mask.guessed] if mask.guessed else []))


def _by_place(experiment: Experiment, labels: Labels) -> bool:
    return experiment.tensors[labels.key].ndim > 1
