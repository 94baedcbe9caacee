"""MSK005: an attention row sees nothing, and what it gives is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.compare import Comparison
from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.masking.emptied import emptied, may_be_empty, opened
from probes.masking.meeting import Meeting, meeting
from probes.masking.share import own_leaks, true_leaks
from probes.masking.visible import seen
from probes.place import Place, place
from probes.softmaxes.attended import Attended, attended, refilled


@dataclass(frozen=True, slots=True)
class EmptyRow:
    """Every key of a query is masked away, and the loss or a visible output hangs on the result.

    No NaN need come of it: a mask of `finfo.min` gives the average of all that is hidden, torch's
    own kernels give zeros. The rows are looked for at every attention of the batch; their weights
    are replaced, and what moves is what reads them. Where nothing moves, or the values are zeroed
    too, or the mask is declared `may_be_empty`, it is a note. Rows that are nothing but padding, as
    of turns that are not there, may see nothing: then it is said where others read them. Masks so
    declared are tried: every second row is made to hide everything, and other content there must
    change nothing.

    Sick: `scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) @ values`, where a
    memory may be empty.
    Healthy: the same, with `values * mask[..., None]`, and `may_be_empty=True`.
    """

    code: ClassVar[str] = "MSK005"
    rule: ClassVar[str] = "empty-row"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing; attention is looked for at work."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """The first module whose rows are used, and one finding a mask that may be empty."""
        seeing = attended(experiment)
        empty = [each for each in seeing if bool(each.empty.any())]
        experiment.keep(
            "empty-row-count",
            torch.tensor([int(each.empty.sum()) for each in seeing], device="cpu"),
            ("site",),
            {"site": [each.site for each in seeing]},
            what="How many rows of attention see nothing, by call",
        )
        met = list(self._met(experiment, empty)) if empty else []
        yield from met
        masks = may_be_empty(experiment)
        if masks:
            told = {each.site for each in met if each.verdict is not Verdict.NOTE}
            yield from (each for each in self._tried(experiment) if each.site not in told)
        elif not seeing:
            raise ExperimentError("no attention was seen, and no mask is declared `may_be_empty`")

    def _met(self, experiment: Experiment, empty: list[Attended]) -> Iterator[Finding]:
        reached = _moves(experiment, None)
        meant = _meant(experiment) if reached.outputs else set[str]()
        for site in dict.fromkeys(each.site for each in empty):
            rows = [each for each in empty if each.site == site]
            if site in meant:
                yield self._note(rows, "as a mask that is declared `may_be_empty` says")
                continue
            found = _moves(experiment, site) if reached.outputs else reached
            if not found.outputs:
                yield self._note(rows, "and nothing visible depends on what they give")
            elif _is_start(experiment, found):
                yield self._note(rows, "and of them only a start before the first token is scored")
            else:
                more = len({each.site for each in empty} - meant) - 1
                yield self._used(experiment, rows, found, more)
                return

    def _used(
        self, experiment: Experiment, rows: list[Attended], found: Comparison, more: int
    ) -> Finding:
        count, where = _count(rows), _where(experiment, rows[0])
        gives, verdict = _gives(rows[0])
        worst = max(found.outputs, key=lambda one: one.relative)
        what = "the loss" if worst.site == LOSS else f"`{worst.site}`"
        met = meeting(experiment, rows)
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"the attention of `{rows[0].site}` has {count} rows that see nothing: every "
            f"key is masked away, each gives {gives}, and {what} depends on it: other weights "
            f"there change it by {100 * worst.relative:.2g}%"
            + (f"; {more} more modules have such rows." if more > 0 else "."),
            fix="Look there for a mask that is inverted, or hides too much; let the row see "
            "something, or zero what it gives and declare the mask `may_be_empty=True`.",
            site=rows[0].site,
            phase="forward",
            source=rows[0].source,
            samples=(int(where["sample"]),) if "sample" in where else None,
            where=where,
            evidence=(
                Evidence("rows that see nothing", count, 0),
                Evidence(f"largest change of {what}", worst.largest, worst.limit),
            ),
        )
        return finding if met is None else _where_met(finding, met)

    def _note(self, rows: list[Attended], why: str) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE,
            message=f"the attention of `{rows[0].site}` has {_count(rows)} rows that see nothing, "
            f"{why}.",
            fix="Nothing, if these rows are meant to see nothing.",
            site=rows[0].site,
            phase="forward",
            source=rows[0].source,
            evidence=(Evidence("rows that see nothing", _count(rows), 0),),
        )

    def _tried(self, experiment: Experiment) -> Iterator[Finding]:
        masks = may_be_empty(experiment)
        keys = {mask.key for mask in masks}
        known = {each.mask.key for each, _ in own_leaks(experiment)}
        changed = emptied(experiment, masks)
        for each, found in true_leaks(changed):
            if each.mask.key not in keys - known:
                continue
            known.add(each.mask.key)
            where = _attention(changed) or place(found, experiment.subject.model)
            worst = max(found.outputs, key=lambda one: one.relative)
            change = Evidence(f"largest change of `{worst.site}`", worst.largest, worst.limit)
            yield Finding(
                code=self.code,
                rule=self.rule,
                verdict=Verdict.FAIL,
                message=f"a row that `{each.mask.key}` hides altogether is read all the same "
                f"{where.words}: there other `{each.key}` change `{worst.site}` by "
                f"{100 * worst.relative:.2g}%.",
                fix="Zero the values at masked positions, so that a row of nothing gives zeros "
                "and not the average of its padding.",
                site=where.site,
                phase="forward",
                where=dict((found.start or worst).where),
                evidence=(change,),
            )


def _where_met(finding: Finding, met: Meeting) -> Finding:
    """The same of rows that are nothing but padding: harmless, but for where others read them."""
    return replace(
        finding,
        message=f"rows that are nothing but padding of `{met.key}` are read with the others "
        f"{met.words}: " + finding.message,
        fix=f"Mask those rows there, by `({met.key} != padding).any(-1)`, in attention, mean or "
        "state; what they give themselves then counts for nothing.",
        site=met.site,
        source=met.source or finding.source,
    )


def _meant(experiment: Experiment) -> set[str]:
    """The sites whose rows see something once the masks that may be empty are not."""
    masks = may_be_empty(experiment)
    if not masks:
        return set()
    with suppress(ExperimentError):
        after = attended(experiment, opened(experiment, masks))
        empty = {(each.site, each.call) for each in after if bool(each.empty.any())}
        return {each.site for each in after if (each.site, each.call) not in empty}
    return set()


def _moves(experiment: Experiment, site: str | None) -> Comparison:
    look = seen(experiment)
    what = f"rows that see nothing of {'every module' if site is None else site}"
    return experiment.parted(what, refilled(experiment, site), look)


def _attention(changed: Experiment) -> Place | None:
    """The first attention whose rows that see nothing are used; None where none is."""
    for site in dict.fromkeys(each.site for each in attended(changed) if bool(each.empty.any())):
        if _moves(changed, site).outputs:
            return Place(site, f"in the attention of `{site}`")
    return None


def _is_start(experiment: Experiment, found: Comparison) -> bool:
    """Whether only the loss moves, of rows padded on the left."""
    left = any(bool((~each.keep[..., 0]).any()) for each in experiment.masks if each.keep.ndim > 1)
    return left and all(
        not experiment.evaluated.ran.outputs[one.site].ndim for one in found.outputs
    )


def _count(rows: list[Attended]) -> int:
    return sum(int(each.empty.all(1).sum()) or int(each.empty.sum()) for each in rows)


def _where(experiment: Experiment, one: Attended) -> dict[str, int | str]:
    row, head, query = (int(i) for i in one.empty.nonzero()[0])
    name = "sample" if len(one.empty) == experiment.size else "row"
    return {name: row, "head": head, "token": query}


def _gives(one: Attended) -> tuple[str, Verdict]:
    weights: Tensor = one.weights[one.empty]
    if bool(torch.isnan(weights).any()):
        return "NaN", Verdict.FAIL
    if not bool(weights.any()):
        return "zeros", Verdict.WARN
    return f"the average of {weights.shape[-1]} hidden positions", Verdict.FAIL
