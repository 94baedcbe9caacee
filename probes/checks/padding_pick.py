"""IDX004: what is picked by index is padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.masking.hidden import Hidden
from probes.reading.alive import Alive, alive, site_of
from probes.reading.indexing import Pick


@dataclass(frozen=True, slots=True)
class PaddingPick:
    """A vector is picked at a place that the mask hides, and the loss depends on it.

    `hidden[rows, lengths]` is one past the end, `out[:, -1]` is the padding's wherever a text is
    shorter than the longest. What a packed RNN gives there are zeros, which no experiment on the
    padding's content moves; so picks are looked at one by one: `gather`, `index_select`,
    `take_along_dim`, and subscripts. Picks that reach no loss, such as those of padded units, and
    steps taken one after the other from one tensor, as in a hand-made recurrence, are left out.

    Sick: `out[rows, lengths]`; `out[:, -1]` of texts padded on the right.
    Healthy: `out[rows, lengths - 1]`.
    """

    code: ClassVar[str] = "IDX004"
    rule: ClassVar[str] = "padding-pick"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss, and a mask of samples by tokens that hides something."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if not _masks(experiment):
            return "no mask of samples by tokens hides anything"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a line of code."""
        seen, said = alive(experiment), set()
        steps = Counter(id(p.source) for p in seen.picks if p.op == "aten.select")
        for pick in seen.picks:
            single = pick.op != "aten.select" or steps[id(pick.source)] == 1
            if not single or pick.line in said or not pick.out.requires_grad:
                continue
            for mask in _masks(experiment):
                hits = _hits(seen, pick, mask.keep)
                if hits is not None and bool(hits.any()):
                    said.add(pick.line)
                    yield self._finding(experiment, seen, pick, mask, hits)
                    break

    def _finding(
        self, experiment: Experiment, seen: Alive, pick: Pick, mask: Hidden, hits: Tensor
    ) -> Finding:
        site = site_of(experiment, seen, pick.order)
        rows = sorted({int(row[0]) for row in hits.nonzero()})
        lengths = mask.keep.sum(1)
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{pick.op}` at {pick.line or 'a line that is not the subject`s own'} picks "
            f"padding: {int(hits.sum())} of {hits.numel()} vectors that the loss depends on stand "
            f"where `{mask.mask.key}` hides, such as sample {rows[0]}'s, which has "
            f"{int(lengths[rows[0]])} tokens.",
            fix="Pick the last visible place, such as `lengths - 1`, or mask what was picked.",
            site=site,
            op=pick.op,
            phase="forward",
            source=pick.line,
            samples=tuple(rows),
            where={"sample": rows[0]},
            evidence=(Evidence("picked vectors at padding", int(hits.sum()), 0),),
        )
        return resting_on(finding, [mask.guessed] if mask.guessed else [])


def _masks(experiment: Experiment) -> list[Hidden]:
    return [m for m in experiment.masks if m.keep.ndim == 2 and not bool(m.keep.all())]


def _hits(seen: Alive, pick: Pick, keep: Tensor) -> Tensor | None:
    """(sample, ...) whether a picked vector stands at padding and reaches the loss."""
    shape, n = tuple(pick.source.shape), keep.shape[0]
    if pick.axis != 1 or shape[:2] != tuple(keep.shape) or len(shape) < 3:
        return None
    at = pick.index.long()
    if pick.op == "aten.gather":
        rows = at.reshape(*at.shape[:2], -1)
        if at.shape[0] != n or bool((rows != rows[..., :1]).any()):
            return None
        hidden = ~keep.gather(1, rows[..., 0])
    elif pick.rows:
        hidden = ~keep[pick.rows[0].long(), at]
    else:
        hidden = ~keep[:, at]
    if tuple(pick.out.shape[: hidden.ndim]) != tuple(hidden.shape) or not bool(hidden.any()):
        return None
    grad = seen.of_loss([pick.out])[0]
    if grad is None:
        return None
    return hidden & (grad.reshape(*hidden.shape, -1) != 0).any(-1)
