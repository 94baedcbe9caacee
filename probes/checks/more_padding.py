"""MSK004: more padding changes what is visible."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import signature
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from probes.bus import Kind
from probes.compare import Comparison, Look
from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.line import Parting, parting
from probes.masking.grown import BY, compared
from probes.masking.hidden import Hidden
from probes.masking.in_training import normed_longer
from probes.masking.longer import Longer, everywhere_longer, longer
from probes.masking.marked_ids import marked_ids
from probes.masking.remedy import remedy
from probes.masking.share import takes_only_its_share, true_leaks
from probes.masking.unlinked import unlinked
from probes.masking.visible import Visible
from probes.place import place
from probes.reading.rows import looked
from probes.scoring.terms import grown, terms
from probes.softmaxes.over_queries import comes_of_queries

SOMEWHERE = (
    "Look there for a mean, normalisation or softmax over the padded length, a position counted "
    "from the padded end, a state read after the padding, an attention without a mask, a loss that "
    "is divided by all positions."
)
FROM_THE_FIRST = (
    "Give `position_ids` that start at the first visible token, "
    "`(mask.cumsum(-1) - 1).clamp(min=0)`: counted from the padded end they hang on the longest "
    "row of the batch."
)
POINTWISE = (nn.Embedding, nn.Dropout, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True, slots=True)
class MorePadding:
    """A batch padded to a greater length has another loss, or another output where visible.

    Every key along the masked axis, or a table of pairs along two, grows by some positions like
    those of a padded row, on the side where the padding stands, in evaluation mode. What must not
    change: a mean that is taken over the padded length, a normalisation over it, zeros that take
    their share of a softmax, a position counted from the padded end, a loss divided by all
    positions. A batch that the model cannot take any longer is not judged. Ids without a mask count
    as padded where their rows end in one id that the subject's code asks for, as `ids.eq(0)` does;
    so do nodes of graphs, padded to the largest of each batch, that end in zeros or one id, and
    that no edge leads to. Of two keys that happen to be as long, each has its own padding. Rows
    padded on the left move the positions of a model that counts them from the left end: a note
    where all batches are as long, as a history cut to a length is, and a warning where they are
    not, or where a module takes `position_ids` that would say otherwise. Where nothing
    changes so, the modules that keep running statistics are put into training mode: what changes
    then is a norm that takes its statistics over padding, be it zeros, which is a warning.

    Sick: `(out * mask).sum(1) / out.shape[1]`.
    Healthy: `(out * mask).sum(1) / mask.sum(1)`.
    """

    by: int = BY  # positions that are added

    code: ClassVar[str] = "MSK004"
    rule: ClassVar[str] = "more-padding"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A padded batch whose keys can grow."""
        marked = [*marked_ids(experiment), *unlinked(experiment)]
        if not experiment.masks and not marked:
            return "no padding mask is declared and none was recognised"
        if not any(True for _ in longer(experiment, self.by, marked)):
            return "no mask hides an end of a row, or it cannot be told which axes would grow"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding an axis that is padded."""
        effects: dict[str, float] = {}
        marked = [*marked_ids(experiment), *unlinked(experiment)]
        if marked or not self._all_at_once(experiment):
            yield from self._evaluated(experiment, marked, effects)
        told = [mask for mask, effect in effects.items() if effect]
        for each, found in normed_longer(experiment, self.by, told):
            mask, finding = each.each, self._finding(experiment, each, found)
            finding = _only_in_training(finding, mask.mask.key)
            yield resting_on(finding, [mask.guessed] if mask.guessed else [])

    def _evaluated(
        self, experiment: Experiment, marked: list[Hidden], effects: dict[str, float]
    ) -> Iterator[Finding]:
        """What changes in evaluation mode; how much each mask's does is added to the effects."""
        why, done = "", 0
        for each in longer(experiment, self.by, marked):
            try:
                found = compared(experiment, each)
            except ExperimentError as error:
                why = str(error)
                continue
            done += 1
            effects[each.each.mask.key] = max((o.relative for o in found.outputs), default=0.0)
            if found.outputs and not _is_known(experiment, each, found):
                yield self._finding(experiment, each, found)
        experiment.keep(
            "more-padding-effect",
            torch.tensor(list(effects.values()), device="cpu"),
            ("mask",),
            {"mask": list(effects)},
            what="How much more padding changes an output where it is visible, over its own size",
        )
        if not done:
            raise ExperimentError(f"no batch with more padding can be run: {why}")

    def _all_at_once(self, experiment: Experiment) -> bool:
        """Whether nothing changes with more of all padding, which settles it."""
        each = everywhere_longer(experiment, self.by)
        try:
            return each is not None and not compared(experiment, each).outputs
        except ExperimentError:
            return False

    def _finding(self, experiment: Experiment, each: Longer, found: Comparison) -> Finding:
        where = place(found, experiment.subject.model)
        parted, look = _parting(experiment, each, found), Visible(experiment, each.each)
        worst = max(found.outputs, key=lambda one: one.relative)
        what = "the loss" if worst.site == LOSS else f"`{worst.site}` at visible positions"
        mask = each.each
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"{each.by} more positions of padding in "
            f"{' and '.join(f'`{key}`' for key in each.keys)} change {what} by "
            f"{100 * worst.relative:.2g}%; the change begins {where.words}.",
            fix=remedy(experiment, found, look, parted, mask.mask.key) or SOMEWHERE,
            site=where.site,
            phase="forward",
            source=None if parted is None else parted.source,
            where=dict(worst.where),
            evidence=(
                Evidence(f"largest change of {what}", worst.largest, worst.limit),
                Evidence("noise of an unchanged run", found.noise),
                Evidence("positions added", each.by, None, mask.mask.key),
            ),
        )
        if each.left and _counts_places(experiment, found):
            asks, varies = _takes_positions(experiment), _varies(experiment, each)
            finding = replace(
                finding,
                verdict=Verdict.WARN if asks or varies else Verdict.NOTE,
                fix=FROM_THE_FIRST
                if asks or varies
                else "Nothing, if positions are meant to count the padding on the left; else give "
                "position ids that start at the first visible token.",
            )
        return resting_on(finding, [mask.guessed] if mask.guessed else [])


def _parting(experiment: Experiment, each: Longer, found: Comparison) -> Parting | None:
    """The operator, and the user's line, where more padding comes to what is visible."""
    return parting(
        experiment.subject.model,
        found,
        _by_row(Visible(experiment, each.each, channels=True), each.each.keep),
        lambda mode: experiment.evaluate(experiment.batch, (mode,)),
        lambda mode: experiment.evaluate(each.batch, (mode,)),
        each.cut,
    )


def _by_row(look: Look, keep: Tensor) -> Look:
    """As the look does; and at the visible rows of pairs of places, such as scores of each head.

    What there is of the hidden is the same as before, until the new places come to it.
    """

    def seen(site: str, value: Tensor) -> Tensor | None:
        known, shape = look(site, value), tuple(value.shape)
        pairs = keep.ndim == 2 and shape[:1] == keep.shape[:1]
        if known is None and pairs and len(shape) > 3 and shape[-2:] == (keep.shape[1],) * 2:
            return keep.reshape(len(keep), *[1] * (len(shape) - 3), -1, 1)
        return known

    return seen


def _only_in_training(finding: Finding, mask: str) -> Finding:
    """The same, said of the statistics of training mode: a warning, since training may bear it."""
    return replace(
        finding,
        verdict=min(finding.verdict, Verdict.WARN, key=lambda verdict: verdict.rank),
        message=f"in training mode, {finding.message} With running statistics it does not.",
        source=None,
        fix=f"Take the statistics over what `{mask}` lets see alone: `h[keep] = norm(h[keep])`.",
    )


def _is_known(experiment: Experiment, each: Longer, found: Comparison) -> bool:
    """Whether MSK001 says already that the same mask leaks there, MSK007 that zeros share.

    Or WIR015 that a term drowns, which is divided by that padding; or WIR014 that weights sum to
    one over queries, and with them the padding. Or whether it may be meant.
    """
    model = experiment.subject.model
    if _drowns(experiment, each, found) or _is_reproduced(experiment, each, found):
        return True
    if comes_of_queries(experiment, each.batch, Visible(experiment, each.each), each.aligned):
        return True
    if takes_only_its_share(experiment, each.batch, Visible(experiment, each.each), each.aligned):
        return True
    with suppress(ExperimentError):
        return any(
            one.mask.key == each.each.mask.key and place(leak, model) == place(found, model)
            for one, leak in true_leaks(experiment)
        )
    return False


def _is_reproduced(experiment: Experiment, each: Longer, found: Comparison) -> bool:
    """Whether only the loss moves, which may ask for pairs of nodes, those that are padding too."""
    by_loss = all(one.site == LOSS for one in found.outputs)
    return by_loss and any(each.each is one for one in unlinked(experiment))


def _drowns(experiment: Experiment, each: Longer, found: Comparison) -> bool:
    """Whether nothing but the loss moves, by a term that is too small for being divided so."""
    if len(experiment.subject.parts) < 2 or any(one.site != LOSS for one in found.outputs):
        return False
    with suppress(ExperimentError):
        drowned = terms(experiment)
        times = grown(experiment, drowned.small, each) if drowned.wanted else None
        return times is not None and times < 1
    return False


def _takes_positions(experiment: Experiment) -> bool:
    """Whether the model, or what it is made of, can be told where its tokens stand."""
    return any(
        "position_ids" in signature(module.forward).parameters
        for module in experiment.subject.model.modules()
        if callable(getattr(module, "forward", None))
    )


def _varies(experiment: Experiment, each: Longer) -> bool:
    """Whether batches are padded to other lengths, so that a row's places hang on its neighbours.

    Where all are padded to one length, as histories often are, places count from its end.
    """
    axis = each.each.keep.ndim - 1
    lengths = {
        rows[each.each.key].shape[axis]
        for rows in looked(experiment)
        if each.each.key in rows and rows[each.each.key].ndim > axis
    }
    return len(lengths) > 1


def _counts_places(experiment: Experiment, found: Comparison) -> bool:
    """Whether nothing but tables, norms and dropouts was at work before the first difference."""
    modules = dict(experiment.subject.model.named_modules())
    first = found.start
    for event in experiment.evaluated.ran.events:
        module = modules.get(event.module)
        if first is not None and (event.site, event.kind) == (first.site, first.kind):
            return event.kind is Kind.INPUT or isinstance(module, POINTWISE)
        leaf = module is not None and not any(True for _ in module.children())
        if leaf and not isinstance(module, POINTWISE):
            return False
    return True
