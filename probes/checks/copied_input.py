"""LBL007: an output is asked for the very id that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.layout import Labels
from probes.reading.causal import seen_causal
from probes.scoring.beside_mark import BesideMark, beside_marks
from probes.scoring.fed_target import Fed, by_place, fed_targets
from probes.scoring.shifted_inside import shifted_inside
from probes.scoring.wanted import SHARE, Wanted, wanted


@dataclass(frozen=True, slots=True)
class CopiedInput:
    """The loss asks each output for the id that stands at its own place of the input.

    Which id a place is asked for is told by the loss's gradient. Two models have nothing to gain
    from it: a causal one, found so by changing one token, whose labels were not shifted; and one
    that fills in masked tokens, whose ids differ from the labels by one id alone, which is no
    label, and which is scored where nothing is masked, more often than not, in the same call, with
    no smaller a weight. So has a decoder that reads something else as well, be it of ids or of
    numbers, and is fed its target without a shift: within the loss the target's gradient that does
    not come by way of the output is the output's own, turned round, and the output at a place reads
    the target up to there, though `predict` does not read it. An autoencoder, asked for all it
    reads, is none of them; of one that is fed the ids a place later, behind a start, and reads on,
    MSK003 says so.

    Sick: `cross_entropy(logits.flatten(0, 1), ids.flatten())` of a causal model.
    Healthy: `cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())`.
    """

    least: float = 0.5  # share of scored places that are copied, of a model that fills in

    code: ClassVar[str] = "LBL007"
    rule: ClassVar[str] = "copied-input"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss of ids by place, or of numbers by place."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        if not any(True for _ in wanted(experiment)) and not any(by_place(experiment)):
            return "the loss asks for no ids, and no key holds numbers, by place"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key."""
        known = {each.key for each in experiment.layout.labels if each.key in experiment.tensors}
        said, moved = set[str](), {each.key for each in shifted_inside(experiment)}
        for each in wanted(experiment):
            if each.key in known | moved or each.ids.shape != each.asked.shape:
                continue
            share = each.agreement(0)
            if share >= SHARE and each.ahead == 0:
                labels = Labels(each.key, each.output)
                separate = any(
                    experiment.tensors[key].shape == each.ids.shape for key in known
                )  # LBL001 holds these against their labels
                if not separate and any(True for _ in seen_causal(experiment, labels, each.key)):
                    said.add(each.key)
                    yield self._finding(each, share, "a causal model that has read it")
        for mark in beside_marks(experiment):
            if mark.share >= self.least and mark.key not in known | moved | said:
                said.add(mark.key)
                yield self._unmasked(mark)
        yield from (self._fed(each) for each in fed_targets(experiment) if each.key not in said)

    def _fed(self, each: Fed) -> Finding:
        other = (
            f"beside `{each.beside}`, which it is to tell it from"
            if each.beside is not None
            else "though `predict` does without"
        )
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"what `{each.site}` gives at a place is scored against `{each.key}` at the "
            f"same place, and has read it there, {other}: a decoder that is fed what it is asked "
            "for need only copy.",
            fix=f"Feed it `{each.key}` one place later, behind a start: "
            f"`torch.cat([start, {each.key}[:, :-1]], 1)`.",
            site=each.site,
            phase="forward",
            evidence=(
                Evidence("places between what is read last and what is asked for", 0, 1),
                Evidence("what it is to be told from", each.beside or "what `predict` reads"),
            ),
        )

    def _unmasked(self, each: BesideMark) -> Finding:
        count = each.copied + each.masked
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.output}` is asked for the very id of `{each.key}` that it reads at "
            f"its own place at {100 * each.share:.0f}% of the {count} places that are scored; "
            f"masked (by the id {each.mark}) are {each.masked} alone: copying what is not "
            "masked is most of what the loss is made of.",
            fix=f"Ignore the labels where the model does not read {each.mark}: "
            "`labels.masked_fill(~masked, -100)`, or the loss's own `ignore_index` there.",
            site="<loss>",
            phase="forward",
            source=each.line,
            evidence=(
                Evidence("share of scored places that are copied", each.share, None, f"of {count}"),
                Evidence("share of scored places that are masked", 1 - each.share, None),
            ),
        )
        return resting_on(finding, [f"labels=(Labels({each.key!r}, {each.output!r}),)"])

    def _finding(self, each: Wanted, share: float, what: str) -> Finding:
        count = int(each.scored.sum())
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.output}` is asked for the very id of `{each.key}` at its own place at "
            f"{100 * share:.0f}% of the {count} places that are scored, {what}: copying its input "
            "is nearly all there is to learn.",
            fix="Shift the labels by one place to the left, or ignore (-100) the labels of what is "
            "not masked.",
            site="<loss>",
            phase="forward",
            evidence=(
                Evidence("share of scored places that are copied", share, None, f"of {count}"),
            ),
        )
        line = f"labels=(Labels({each.key!r}, {each.output!r}),)"
        return resting_on(finding, [line])
