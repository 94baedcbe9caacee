"""MSK001: what a mask hides changes what is visible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from probes.compare import Comparison, Difference
from probes.experiment import LOSS, Experiment, with_leaf
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.line import Parting, parting
from probes.masking.as_marked import as_marked, is_marked
from probes.masking.hidden import Hidden
from probes.masking.in_training import normed_leaks
from probes.masking.remedy import remedy
from probes.masking.share import own_leaks, true_leaks
from probes.masking.visible import Visible, changed
from probes.place import place
from probes.scoring.hidden_scores import comes_of_hidden_scores
from probes.vary import vary


@dataclass(frozen=True, slots=True)
class PadLeak:
    """Other content at hidden positions changes the loss, or the output at visible positions.

    The hidden ids or numbers are replaced by others that the key holds elsewhere, at equal
    shapes, in evaluation mode; every site is compared at its visible positions, and the first one
    that differs is named: attention without its mask, a pooling over the padded length, a
    normalisation over padding, a final state read after the padding, a loss that counts it. What
    comes of attention rows that see nothing alone is left to MSK005, and what the loss takes from
    nothing but scores of hidden places to LBL003. Where one value marks what is
    hidden, and stands nowhere else, a model may take its mask from there: then comparisons come
    out as before, what a cross entropy or a bag of embeddings leaves out for that value stays out,
    and only what is looked up or computed is other. Where nothing leaks so, the same is done in
    training mode, from the same random state, if the model keeps running statistics: what leaks
    there, and no more once those are used, is a norm that takes its statistics over padding.
    Zeros that do no more than end a row leak nothing, as a convolution would put them there itself;
    nor does one id whose vector is zeros and stays so, if rows give the same with more of it and
    without it.

    Sick: `encoder(ids).mean(1)`, where `lengths` says that the rows are padded.
    Healthy: `(encoder(ids) * mask).sum(1) / mask.sum(1)`.
    """

    code: ClassVar[str] = "MSK001"
    rule: ClassVar[str] = "pad-leak"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A mask, and something under it."""
        if not experiment.masks:
            return (
                "no padding mask is declared and none was recognised: declare one, such as "
                "`Layout(masks=(Mask('mask', hides=('ids',)),))`"
            )
        if not any(bool((~each.keep).any()) for each in experiment.masks):
            return "no mask of the batches looked at hides anything"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a mask and key."""
        self._keep(experiment)
        for each, found in own_leaks(experiment):
            yield from self._of(experiment, each, found)
        for each, found in normed_leaks(experiment):
            yield from self._of(experiment, each, found, in_training=True)

    def _keep(self, experiment: Experiment) -> None:
        """By mask and key, the largest relative change of an output; 0 where none is told."""
        effects = {f"{each.mask.key} of {each.key}": 0.0 for each in experiment.masks}
        for each, found in [*true_leaks(experiment), *normed_leaks(experiment)]:
            effects[f"{each.mask.key} of {each.key}"] = max(o.relative for o in found.outputs)
        values = torch.tensor(list(effects.values()), device="cpu")
        what = "How much other content under a mask changes an output, over the output's own size"
        labels = {"mask": list(effects)}
        experiment.keep("pad-leak-effect", values, ("mask",), labels, what=what)

    def _of(
        self,
        experiment: Experiment,
        each: Hidden,
        found: Comparison,
        in_training: bool = False,
    ) -> Iterator[Finding]:
        if not found.outputs or (each.guessed and _is_target(experiment, each.key, found)):
            return
        if not in_training and comes_of_hidden_scores(experiment, each, found):
            return
        worst = max(found.outputs, key=lambda one: one.relative)
        finding = self._finding(experiment, each, found, worst)
        if in_training:
            finding = _only_in_training(finding, each.mask.key)
        else:
            finding = _told_where(experiment, each, found, finding)
        if each.guessed and (
            _is_start(experiment, each, found) or _is_end(experiment, each, found)
        ):
            finding = replace(finding, verdict=Verdict.NOTE)
        yield resting_on(finding, [each.guessed] if each.guessed else [])

    def _finding(
        self, experiment: Experiment, each: Hidden, found: Comparison, worst: Difference
    ) -> Finding:
        where = place(found, experiment.subject.model)
        what = "the loss" if worst.site == LOSS else f"`{worst.site}` at visible positions"
        first = (found.start or worst).where
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{each.key}` leaks through its mask `{each.mask.key}` {where.words}: other "
            f"content at hidden positions changes {what} by {100 * worst.relative:.2g}%.",
            fix=f"Apply `{each.mask.key}` there: mask the attention, the pooling, the "
            "normalisation or the loss, or read a recurrent state at the true end.",
            site=where.site,
            phase="forward",
            samples=(first["sample"],) if "sample" in first else None,
            where=dict(first),
            evidence=(
                Evidence(f"largest change of {what}", worst.largest, worst.limit),
                Evidence("noise of an unchanged run", found.noise),
                Evidence("hidden positions", int((~each.keep).sum()), None, each.mask.key),
            ),
        )


def _told_where(
    experiment: Experiment, each: Hidden, found: Comparison, finding: Finding
) -> Finding:
    """With the line, and how the mask is applied there."""
    parted = _parting(experiment, each, found)
    told = remedy(experiment, found, Visible(experiment, each), parted, each.mask.key)
    source = None if parted is None else parted.source
    return replace(finding, source=source, fix=told or finding.fix)


def _parting(experiment: Experiment, each: Hidden, found: Comparison) -> Parting | None:
    """The operator, and the user's line, at which what is hidden comes to what is visible."""
    batch = changed(experiment, [each])
    if batch is None:
        return None
    marked = is_marked(experiment, each)
    return parting(
        experiment.subject.model,
        found,
        Visible(experiment, each),
        lambda mode: experiment.evaluate(experiment.batch, (mode,)),
        lambda mode: (
            as_marked(experiment, batch, (mode,)) if marked else experiment.evaluate(batch, (mode,))
        ),
    )


def _only_in_training(finding: Finding, mask: str) -> Finding:
    """The same, said of the statistics of training mode."""
    return replace(
        finding,
        message=finding.message.replace(": other", ", in training mode alone: other")
        + " With running statistics it does not.",
        fix=f"Take the statistics over what `{mask}` lets see alone: `h[keep] = norm(h[keep])`.",
    )


def _is_start(experiment: Experiment, each: Hidden, found: Comparison) -> bool:
    """Whether only the loss moves, of rows padded on the left: the last pad may stand for a start.

    A language model that is scored on its first token predicts it there.
    """
    scalar = all(not experiment.evaluated.ran.outputs[one.site].ndim for one in found.outputs)
    return scalar and each.keep.ndim > 1 and bool((~each.keep[..., 0]).any())


def _is_end(experiment: Experiment, each: Hidden, found: Comparison) -> bool:
    """Whether only the loss moves, and by the first hidden place of each row alone.

    A text may end with the id that it is padded with, and be asked for that end.
    """
    if any(one.site != LOSS for one in found.outputs) or each.keep.ndim != 2:
        return False
    later = ~each.keep
    later[:, 1:] &= ~each.keep[:, :-1]
    tensor = experiment.tensors[each.key]
    other = vary(tensor, later, tensor[each.keep]) if bool(later.any()) else None
    if other is None or torch.equal(later, ~each.keep):
        return False
    batch = with_leaf(experiment.batch, each.key, other)
    marked = is_marked(experiment, each)
    ran = as_marked(experiment, batch) if marked else experiment.evaluate(batch)
    return not experiment.evaluated.against(ran, Visible(experiment, each)).outputs


def _is_target(experiment: Experiment, key: str, found: Comparison) -> bool:
    """Whether the key only tells the loss what is right: no output depends on it."""
    if any(one.site != LOSS for one in found.outputs):
        return False
    tensor = experiment.tensors[key]
    other = vary(tensor, torch.ones_like(tensor, dtype=torch.bool))
    if other is None:
        return True
    ran = experiment.evaluate(with_leaf(experiment.batch, key, other))
    moved = experiment.evaluated.against(ran).outputs
    return all(one.site == LOSS or not experiment.outputs[one.site].ndim for one in moved)
