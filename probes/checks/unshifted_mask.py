"""MSK013: a mask of the loss was not shifted with its labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.masking.trailing import trailing
from probes.scoring.wanted import Wanted, wanted


@dataclass(frozen=True, slots=True)
class UnshiftedMask:
    """The loss scores the label after each id that its mask marks, and not the id that is marked.

    Where outputs are asked for the next id, by the loss's gradient, the places that are scored are
    laid beside every key of zeros and ones over the same ids. If they are just those whose own id
    is marked, the mask was cut like the outputs, and the labels were not. A mask that was made for
    outputs looks the same, so the ids must tell: that the last id marked in each row is one and
    the same, with padding after it, which is scored; or that the id before the first one marked is,
    as a separator, and the first is not. The first id of each answer is then never trained.

    Sick: `(nll(logits[:, :-1], ids[:, 1:]) * mask[:, :-1]).sum()`.
    Healthy: `(nll(logits[:, :-1], ids[:, 1:]) * mask[:, 1:]).sum()`.
    """

    rows: int = 3  # that must agree

    code: ClassVar[str] = "MSK013"
    rule: ClassVar[str] = "unshifted-mask"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """An output that is asked for the next id, and a key of zeros and ones over the ids."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if not any(_masks(experiment, each) for each in wanted(experiment) if each.ahead == 1):
            return "no output is asked for the next of ids that a key of zeros and ones lies over"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a mask."""
        said = set[str]()
        for each in wanted(experiment):
            for key in _masks(experiment, each) if each.ahead == 1 else ():
                marked = experiment.tensors[key] != 0
                if key not in said and _is_unshifted(each, marked):
                    why = self._told(each, marked, _padding(experiment, each))
                    if why is not None:
                        said.add(key)
                        yield self._said(each, key, marked, why)

    def _told(self, each: Wanted, marked: Tensor, padding: Tensor) -> str | None:
        """How the ids tell that the mask marks ids, and not outputs; None where they do not."""
        ids, places = each.ids, torch.arange(marked.shape[1], device=marked.device)
        some = marked.any(1)
        first = torch.where(marked, places, marked.shape[1]).amin(1)
        last = torch.where(marked, places, -1).amax(1)
        ends = some & (last < marked.shape[1] - 1)
        begins = some & (first > 0) & ~_runs_up_to(ids, first)
        end, after = _at(ids, last, ends), _at(ids, last + 1, ends)
        pads = _at(padding, last + 1, ends)
        if len(end) >= self.rows and _is_one(end) and bool(pads.all()):
            return (
                f"the last id that it marks is {int(end[0])} in all of {len(end)} rows, and the "
                f"padding after it ({int(after[0])}) is scored"
            )
        before, begin = _at(ids, first - 1, begins), _at(ids, first, begins)
        if len(begin) >= self.rows and _is_one(before) and not _is_one(begin):
            return f"the id before the first that it marks is {int(before[0])} in every row"
        return None

    def _said(self, each: Wanted, key: str, marked: Tensor, why: str) -> Finding:
        begins = marked[:, 1:] & ~marked[:, :-1]
        sample, place = (int(i) for i in begins.nonzero()[0])
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{key}` was not shifted with the labels: an output, which is asked for the "
            f"next of `{each.key}`, is scored where its own place is marked, so that the first of "
            f"{int(begins.sum())} marked spans is never trained, and the one after their end is; "
            f"{why}.",
            fix=f"Cut it like the labels: `{key}[:, 1:]` with `{each.key}[:, 1:]`. If `{key}` is "
            "meant for outputs, nothing.",
            site="<loss>",
            phase="forward",
            samples=(sample,),
            where={"sample": sample, "token": place + 1},
            evidence=(
                Evidence("first marked ids that are not scored", int(begins.sum()), 0),
                Evidence("outputs scored", int(each.scored.sum())),
            ),
        )


def _masks(experiment: Experiment, each: Wanted) -> list[str]:
    """Keys of zeros and ones over the ids, of which some are inner."""
    return [
        key
        for key, tensor in experiment.tensors.items()
        if tensor.shape == each.ids.shape
        and bool(((tensor == 0) | (tensor == 1)).all())
        and bool((tensor[:, 1:] != tensor[:, :-1]).any())
    ]


def _is_unshifted(each: Wanted, marked: Tensor) -> bool:
    """Whether just the outputs at marked places are scored, and those before them are not."""
    width = marked.shape[1] - 1
    scored = each.scored[:, :width]
    begins = bool((marked[:, 1:] & ~marked[:, :-1]).any())
    return begins and torch.equal(scored, marked[:, :width])


def _padding(experiment: Experiment, each: Wanted) -> Tensor:
    """(sample, place) true at what masks hide of the ids, or in the runs that rows end in."""
    found = torch.zeros(each.ids.shape, dtype=torch.bool, device=each.ids.device)
    for mask in experiment.masks:
        if mask.key == each.key and mask.keep.shape == found.shape:
            found |= ~mask.keep
    runs = trailing(each.ids)
    return found if runs is None else found | runs


def _runs_up_to(ids: Tensor, first: Tensor) -> Tensor:
    """(row,) whether nothing but one id stands before that place, as padding on the left does."""
    before = torch.arange(ids.shape[1], device=ids.device) < first[:, None]
    return ((ids == ids[:, :1]) | ~before).all(1)


def _at(values: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    """(row,) of some rows what stands at each one's place."""
    return values[rows].gather(1, places[rows, None]).squeeze(1)


def _is_one(values: Tensor) -> bool:
    return bool((values == values[:1]).all())
