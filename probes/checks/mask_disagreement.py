"""MSK010: a mask of the loss scores positions that another mask hides from the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.compare import NOISES
from probes.experiment import LOSS, Experiment, with_leaf
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.masking.hidden import Hidden

NAMED = re.compile(r"(loss|label|target|response|completion|answer)s?_mask$")


@dataclass(frozen=True, slots=True)
class MaskDisagreement:
    """The mask of the loss is true at positions that the padding mask hides, and the loss reads it.

    A mask of the loss is one that `Labels(mask=)` declares, or a key called `loss_mask`,
    `label_mask`, `target_mask` and the like, over the same rows as a padding mask. One position
    beside the visible ones may be scored, since the last token may have its end as label. The
    loss must change when the hidden positions are left out of it. Visible positions that are
    never scored, such as those of a prompt, are none of its business.

    Sick: `loss_mask = torch.ones_like(ids)`, whose rows are padded.
    Healthy: `loss_mask = attention_mask & ~prompt`.
    """

    beside: int = 1  # hidden positions next to the visible ones that may be scored

    code: ClassVar[str] = "MSK010"
    rule: ClassVar[str] = "masks-disagree"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A mask of the loss beside a mask of padding."""
        if not any(True for _ in _pairs(experiment)):
            return "there is no mask of the loss beside one of padding"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a mask of the loss."""
        done = set()
        for key, each in _pairs(experiment):
            scored = experiment.tensors[key] != 0
            wrong = scored & ~_grown(each.keep, self.beside)
            if key in done or not bool(wrong.any()):
                continue
            done.add(key)
            change = _change(experiment, key, wrong)
            if change is not None:
                yield self._finding(experiment, key, each, wrong, change)

    def _finding(
        self, experiment: Experiment, key: str, each: Hidden, wrong: Tensor, change: Evidence
    ) -> Finding:
        sample, place = (int(i) for i in wrong.nonzero()[0])
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{key}` scores {int(wrong.sum())} positions that `{each.mask.key}` hides "
            "from the model, and the loss depends on them.",
            fix=f"Let `{key}` be false wherever `{each.mask.key}` hides.",
            site="<loss>",
            phase="forward",
            samples=(sample,),
            where={"sample": sample, "token": place},
            evidence=(Evidence("positions scored though hidden", int(wrong.sum()), 0), change),
        )
        declared = {labels.mask for labels in experiment.declared.labels}
        return resting_on(finding, [each.guessed] if each.guessed and key not in declared else [])


def _pairs(experiment: Experiment) -> Iterator[tuple[str, Hidden]]:
    """Every mask of the loss with a padding mask of its shape."""
    declared = {labels.mask for labels in experiment.declared.labels}
    for key, tensor in experiment.tensors.items():
        if key not in declared and not NAMED.search(key.rpartition(".")[2]):
            continue
        for each in experiment.masks:
            own = each.mask.key != key and key not in each.mask.hides
            if own and tensor.ndim == 2 and tuple(each.keep.shape) == tuple(tensor.shape):
                yield key, each


def _grown(keep: Tensor, by: int) -> Tensor:
    """True also so many positions beside what is visible."""
    wide = keep.clone()
    for _ in range(by):
        before = wide.clone()
        wide[:, 1:] |= before[:, :-1]
        wide[:, :-1] |= before[:, 1:]
    return wide


def _change(experiment: Experiment, key: str, wrong: Tensor) -> Evidence | None:
    """How much the loss changes once these positions are left out; None where it does not."""
    before = experiment.evaluated.ran.outputs.get(LOSS)
    values = experiment.tensors[key].masked_fill(wrong, 0)
    after = experiment.evaluate(with_leaf(experiment.batch, key, values)).outputs.get(LOSS)
    if before is None or after is None:
        return None
    limit = max(NOISES * experiment.evaluated.noise, 1e-6 * float(before.abs()))
    change = float(torch.abs(before - after))
    return Evidence("change of the loss without them", change, limit) if change > limit else None
