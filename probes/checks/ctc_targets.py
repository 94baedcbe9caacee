"""LBL009: targets that the loss of CTC cannot say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.reading.alive import alive
from probes.reading.rows import looked
from probes.scoring.alignments import Aligned, within
from probes.scoring.meeting import Meeting


@dataclass(frozen=True, slots=True)
class CtcTargets:
    """The loss of CTC is given targets that no alignment spells.

    The blank stands between letters and is taken out of what is said, so that a target which holds
    it, within its length, asks for what is never heard: a letter has the blank's number, or the
    lengths count padding. All batches are looked at where a key of the batch holds the targets. A
    target needs a frame for each letter, and one more between two that are the same; where the
    loss counts those without an alignment as zero, as it is told to, a few of them are no fault.
    Where there are as many frames as samples, the axis of samples must be the second.

    Sick: letters from 0 on with `ctc_loss(..., blank=0)`.
    Healthy: letters from 1 on, or `blank=len(letters)`.
    """

    share: float = 0.25  # of targets without an alignment, where they count as zero on purpose

    code: ClassVar[str] = "LBL009"
    rule: ClassVar[str] = "ctc-targets"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A call of the loss of CTC."""
        return None if alive(experiment).aligned else "no call of `ctc_loss` was seen"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a call."""
        for call in alive(experiment).aligned:
            texts = _texts(experiment, call)
            blank = [i for i, text in enumerate(texts) if bool((text == call.blank).any())]
            if blank:
                yield self._blank(call, texts, blank)
            elif not call.lenient or len(_short(call)) > self.share * len(call.texts):
                yield from self._short(call)
            if _is_turned(experiment, call):
                yield self._turned(call)

    def _blank(self, call: Aligned, texts: list[Tensor], blank: list[int]) -> Finding:
        said, classes = torch.cat(texts), call.log_probs.shape[-1]
        free = sorted({*range(classes)} - set(said.unique().tolist()))
        unused = f"; no target holds class {free[0]}" if len(free) == 1 else ""
        fix = (
            "Let the lengths of the targets count no padding."
            if len(blank) > 1 and all(_ends(texts[i], call.blank) for i in blank)
            else "Number the letters so that none is the blank, and give `blank` the class that is "
            "left" + (f", {free[0]}." if len(free) == 1 else ".")
        )
        return self._said(
            call,
            f"{int((said == call.blank).sum())} of {len(said)} letters in the targets are the "
            f"blank, {call.blank}, which is taken out of all that is said{unused}",
            fix,
            Evidence("targets that hold the blank", len(blank), 0, f"of {len(texts)}"),
        )

    def _short(self, call: Aligned) -> Iterator[Finding]:
        found = _short(call)
        if not found:
            return
        first, need = found[0]
        frames = int(call.input_lengths.reshape(-1)[first])
        yield self._said(
            call,
            f"{len(found)} of {len(call.texts)} targets have no alignment: that of sample {first} "
            f"needs {need} frames, a letter each and one between two that are the same, and has "
            f"{frames}",
            "Give the lengths of what the model gives, in frames, and thin the frames out less.",
            Evidence("targets without an alignment", len(found), 0, f"of {len(call.texts)}"),
        )

    def _turned(self, call: Aligned) -> Finding:
        return self._said(
            call,
            "scores stand as (sample, time, class), of which the loss takes the first axis for "
            "time: it goes through the samples as if they were frames",
            "Give it `log_probs.transpose(0, 1)`.",
            Evidence("axis of the samples", 0, 1),
        )

    def _said(self, call: Aligned, words: str, fix: str, evidence: Evidence) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`ctc_loss` is given what it cannot align: {words}.",
            fix=fix,
            site="<loss>",
            op="ctc_loss",
            phase="forward",
            source=call.line,
            evidence=(evidence,),
        )


def _texts(experiment: Experiment, call: Aligned) -> list[Tensor]:
    """The targets of all batches where keys of the batch hold them and their lengths."""
    keys = [
        next((key for key, own in experiment.tensors.items() if _is(own, held)), None)
        for held in (call.targets, call.target_lengths)
    ]
    found = call.texts if None in keys else []
    for batch in looked(experiment) if None not in keys else ():
        targets, lengths = (batch.get(key or "") for key in keys)
        if targets is not None and lengths is not None:
            found += within(targets, lengths)
    return [text for text in found if len(text)]


def _is(own: Tensor, held: Tensor) -> bool:
    return own.shape == held.shape and bool((own.cpu() == held).all())


def _ends(text: Tensor, blank: int) -> bool:
    """Whether the blank stands at the end alone."""
    there = text == blank
    return bool((there[1:] >= there[:-1]).all())


def _short(call: Aligned) -> list[tuple[int, int]]:
    """The samples with too few frames, and how many they need."""
    frames = call.input_lengths.reshape(-1).tolist()
    needs = [len(text) + int((text[1:] == text[:-1]).sum()) for text in call.texts]
    pairs = zip(needs, frames, strict=False)
    return [(i, need) for i, (need, given) in enumerate(pairs) if need > given]


def _is_turned(experiment: Experiment, call: Aligned) -> bool:
    """Whether one sample's input moves one first place of the scores, as many as samples."""
    n = experiment.size
    if n < 3 or tuple(call.log_probs.shape[:2]) != (n, n):
        return False
    moved = alive(experiment, Meeting(experiment).batch([1]), picks=True).aligned
    if len(moved) != 1 or moved[0].log_probs.shape != call.log_probs.shape:
        return False
    change = (moved[0].log_probs - call.log_probs).detach().abs().amax(-1) > 0
    return bool(change[1].any()) and not bool(change[[i for i in range(n) if i != 1]].any())
