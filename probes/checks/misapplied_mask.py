"""MSK006: a mask is read, but the wrong way round, along the wrong axis, or of another row."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.bus import Kind
from probes.compare import NOISES, Comparison
from probes.experiment import Experiment, with_leaf
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.masking.displaced import displaced
from probes.masking.hidden import Hidden
from probes.masking.image_mask import Crossed, crossed, image_masks
from probes.masking.marked_ids import marked_at_either_end, padding_of
from probes.masking.of_another import OfAnother, of_another
from probes.masking.pattern import INVERTED, pattern
from probes.masking.share import true_leaks
from probes.masking.trailing import at_either_end
from probes.masking.turned import Turned, turned
from probes.masking.visible import Visible, changed, differ, leaks, seen_as_marked
from probes.modules import every_module
from probes.place import place
from probes.softmaxes.attended import attended
from probes.vary import vary

STRONG = re.compile(r"(attention_mask|padding_mask|pad_mask|_keep)$")  # names that say which way


@dataclass(frozen=True, slots=True)
class MisappliedMask:
    """What a mask hides is visible because the mask is inverted, turned, shifted or mixed up.

    Where hidden content leaks (MSK001), the keys that every attention blocks are laid beside those
    that the mask hides: inverted, on the axis of the queries, broadcast over the wrong axis,
    shifted by one, repeated in the wrong order over heads, taken from another sample's row. Only
    an exact fit counts. Elsewhere the mask itself is turned round: if then nothing leaks, and what
    was visible still counts, it is inverted. A mask of an image that is flattened by columns, at an
    attention whose places go by rows, is told as well; so is an attention that blocks all but the
    runs of one id in which rows of ids end or begin, though no mask is among the keys. Where the
    code asks which ids are those, as `ids != 0` does, its own mask is looked at in the same way if
    other ids there change an output. Where an attention has a few more keys than there are tokens,
    such as one for a summary, the mask is to be extended on the same side: an id is changed to see
    where it stands. A mask that hides everything is a warning where showing it all changes an
    output; a key that is read just as far as the lengths of another key say, one as well.

    Sick: `attention(x, x, x, key_padding_mask=mask)`, where True means that a token is there.
    Healthy: `attention(x, x, x, key_padding_mask=~mask)`.
    """

    code: ClassVar[str] = "MSK006"
    rule: ClassVar[str] = "misapplied-mask"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A mask, or ids that end in padding."""
        padded = any(at_either_end(each) is not None for each in experiment.tensors.values())
        if not experiment.layout.masks and not padded and not any(image_masks(experiment)):
            return "no padding mask is declared and none was recognised"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a mask."""
        yield from self._everything(experiment)
        yield from (self._crossed(each) for each in crossed(experiment))
        yield from (self._of_another(experiment, each) for each in of_another(experiment))
        done = set[str]()
        for each, made in self._all(experiment, done):
            if made is not None and each.mask.key not in done:
                done.add(each.mask.key)
                yield resting_on(made, [each.guessed] if each.guessed else [])

    def _all(
        self, experiment: Experiment, done: Container[str]
    ) -> Iterator[tuple[Hidden, Finding | None]]:
        """By what an attention blocks first; where that tells nothing, by turning the mask."""
        for each in (*experiment.masks, *_of_ids(experiment)):
            own = replace(each, guessed=None) if each.mask.key == each.key else each
            yield own, self._in_attention(experiment, own, {INVERTED})
        for each, _ in leaks(experiment):
            yield each, self._in_attention(experiment, each)
        for each in (*experiment.masks, *_of_ids(experiment)):
            yield each, self._displaced(experiment, each)
        for each in marked_at_either_end(experiment):
            made = self._in_attention(experiment, each)
            yield each, made if made and seen_as_marked(experiment, each) else None
        for each, found in true_leaks(experiment):
            if each.mask.key not in done:
                yield each, self._turned(experiment, each, found)
            if each.mask.key not in done and (made_by := turned(experiment, each)) is not None:
                own = replace(each, guessed=None) if made_by.blind else each
                yield own, self._compared(experiment, own, found, made_by)

    def _of_another(self, experiment: Experiment, found: OfAnother) -> Finding:
        key, own = found.each.key, found.each.mask.key
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{key}` is read as far as `{found.other}` says, and not as far as its own "
            f"lengths `{own}`: sample {found.row} up to place {found.read}, and what stands beyond "
            "moves nothing.",
            fix=f"Give what reads `{key}` its own lengths, `{own}`.",
            site=next(every_module(experiment.subject.model))[0],
            phase="forward",
            samples=(found.row,),
            where={"sample": found.row, "token": found.read},
            evidence=(Evidence("visible places that nobody reads", found.cut, 0),),
        )

    def _crossed(self, each: Crossed) -> Finding:
        sample, row, column = (int(i) for i in each.cells.nonzero()[0])
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.mask}` is flattened by columns, in `{each.site}`, whose places go by "
            f"rows: {int(each.cells.sum())} cells are hidden that it shows, or seen that it hides.",
            fix=f"Flatten `{each.mask}` in the order of the features: transpose neither or both.",
            site=each.site,
            phase="forward",
            samples=(sample,),
            where={"sample": sample, "row": row, "column": column},
            evidence=(Evidence("cells that are masked wrongly", int(each.cells.sum()), 0),),
        )

    def _in_attention(
        self, experiment: Experiment, each: Hidden, only: Container[str] | None = None
    ) -> Finding | None:
        for one in attended(experiment):
            words = pattern(each, one)
            if words is not None and (only is None or words in only):
                said = f"{_named(each)} {words}, in `{one.site}`"
                return replace(self._finding(each, said, one.site), source=one.source)
        return None

    def _displaced(self, experiment: Experiment, each: Hidden) -> Finding | None:
        for one in attended(experiment):
            found = displaced(experiment, each, one)
            if found is None or not (found.lost or seen_as_marked(experiment, each)):
                continue
            off = found.masked - found.held
            words = f"{_named(each)} is {off:+d} off along its keys, in `{one.site}`, which holds "
            words += f"the first of `{each.key}` at place {found.held}"
            fix = f"Extend {_named(each)} on the side on which there are more keys than it has: "
            fix += "it is to start with what stands in front, as what is attended to does."
            made = self._finding(each, words, one.site)
            does = "hides what it should show" if found.lost else "shows padding"
            message = f"{words}: it {does}."
            return replace(made, source=one.source, fix=fix, message=message)
        return None

    def _turned(self, experiment: Experiment, each: Hidden, found: Comparison) -> Finding | None:
        """Where the mask, turned round, hides what it is to hide."""
        other = _inverse(each, experiment.tensors[each.mask.key])
        varied = changed(experiment, [each])
        shown = vary(experiment.tensors[each.key], each.keep)
        if other is None or varied is None or shown is None:
            return None
        key = each.mask.key
        try:
            before = experiment.evaluate(with_leaf(experiment.batch, key, other))
            hidden = experiment.evaluate(with_leaf(varied, key, other))
            batch = with_leaf(experiment.batch, each.key, shown)
            visible = experiment.evaluate(with_leaf(batch, key, other))
        except ExperimentError:
            return None
        look = Visible(experiment, each)
        limit = NOISES * experiment.evaluated.noise
        if differ(before, hidden, look, limit) or not differ(before, visible, look, limit):
            return None
        where = place(found, experiment.subject.model)
        words = f"`{key}` is inverted {where.words}: turned round, it lets nothing hidden through"
        return self._finding(each, words, where.site)

    def _compared(
        self, experiment: Experiment, each: Hidden, found: Comparison, by: Turned
    ) -> Finding:
        """Of a comparison that gives the opposite of what it should."""
        line = f" at {by.source}" if by.source else ""
        words = f"the mask that the code makes of `{each.mask.key}`{line} is inverted: turned round"
        words += " there, it lets nothing hidden through"
        if by.blind:
            words += ", and as it is nothing visible is read"
        where = place(found, experiment.subject.model)
        made = self._finding(each, words, where.site)
        fix = (
            f"Turn the comparison{line} round, or what reads it: it lets see what is to be hidden."
        )
        return replace(made, source=by.source, fix=fix)

    def _finding(self, each: Hidden, words: str, site: str) -> Finding:
        first = [int(i) for i in (~each.keep).nonzero()[0]]
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"{words}; what it is to hide of `{each.key}` is read.",
            fix=f"Turn {_named(each)} there into what is expected: True may mean to keep or to "
            "hide, and its last axis must be that of the keys.",
            site=site,
            phase="forward",
            samples=(first[0],),
            where=dict(zip(each.axes or ("sample",), first, strict=False)),
            evidence=(Evidence("hidden positions", int((~each.keep).sum()), None, each.mask.key),),
        )

    def _everything(self, experiment: Experiment) -> Iterator[Finding]:
        """Of masks that hide every position of the batch, where showing them changes something."""
        declared = {mask.key for mask in experiment.declared.masks}
        for mask in experiment.layout.masks:
            values = experiment.tensors.get(mask.key)
            plain = mask.key in declared or STRONG.search(mask.key)
            if values is None or mask.means == "id" or mask.may_be_empty or not plain:
                continue
            hides = values != 0 if mask.means == "hide" else values == 0
            if not bool(hides.all()) or not values.numel():
                continue
            shown = torch.full_like(values, int(mask.means != "hide"))
            ran = experiment.evaluate(with_leaf(experiment.batch, mask.key, shown))
            found = experiment.parted(f"{mask.key} shown everywhere", ran)
            found = found.only(lambda site: site.kind is Kind.OUTPUT)
            if mask.means != "length" and found.outputs:
                guessed = [] if mask.key in declared else [f"masks=({mask!r},)"]
                yield resting_on(self._hides_all(experiment, mask.key, found), guessed)

    def _hides_all(self, experiment: Experiment, key: str, found: Comparison) -> Finding:
        where = place(found, experiment.subject.model)
        worst = max(found.outputs, key=lambda one: one.relative)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{key}` hides every position of the batch, and is read {where.words}: with "
            f"all of them shown, `{worst.site}` changes by {100 * worst.relative:.2g}%.",
            fix=f"Let `{key}` be true where it should be, or say `means='hide'`.",
            site=where.site,
            phase="data",
            evidence=(Evidence(f"largest change of `{worst.site}`", worst.largest, worst.limit),),
        )


def _named(each: Hidden) -> str:
    own = f"the mask that the code makes of `{each.key}`"
    return own if each.mask.key == each.key else f"`{each.mask.key}`"


def _of_ids(experiment: Experiment) -> Iterator[Hidden]:
    """Ids that no mask hides, whose rows end, or begin, in runs of one id that a model may see."""
    masked = {each.key for each in experiment.masks}
    for key, tensor in experiment.tensors.items():
        runs = at_either_end(tensor) if key not in masked else None
        if runs is not None:
            yield padding_of(key, tensor, runs)


def _inverse(each: Hidden, values: Tensor) -> Tensor | None:
    if each.mask.means not in ("keep", "hide"):
        return None
    return ~values if values.dtype is torch.bool else (values == 0).to(values.dtype)
