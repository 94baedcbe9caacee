"""IDX001: a unit's vector reads other tokens than those of its span."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.batch import map_leaves
from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.layout import Reads
from probes.reading.alive import Alive, alive, last_pick, place_at, site_of
from probes.reading.cut import Read
from probes.reading.measured import measured, unlike
from probes.reading.offsets import MOST, Misread, Pairs, first, last, misread
from probes.reading.put_in_front import InFront, is_pointed, put_in_front
from probes.reading.separators import Drift, drift, reads_on
from probes.reading.spans import Spans, spans
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class IndexAlignment:
    """The tokens that a unit's vector depends on are not those that its span names.

    What an encoder gives depends on all that it reads, so the question is asked at a cut: the
    last tensor that still has a row for each token. The gradient of a unit's vector with respect
    to it is not zero where the unit reads. Spans are declared by `Reads(rule="span")` or `"at"`,
    or taken from index tensors (`starts` and `ends`, `spans`, `positions`) that are found to steer
    what is read, or from a mask (sample, unit, token) of spans that do not overlap; then the
    offset that a special token in front explains is none; but not where a first unit, said to read
    the first token, reads what the model itself has put before it. The pattern is named: constant,
    growing by one a unit, a jump, the next unit, another sample.

    Where units read what their spans name, the ids may tell that these are wrong: one id stands
    just once between each two units, in nearly all samples, and spans that are as long as what
    lies between lie beside it, by as many tokens all of them or by one more from unit to unit.
    Spans that hold the separator, or leave out a part of their own, are healthy, and so are those
    of a causal model that all lie before, where the answer is given. Where a key of lengths counts
    what stands between separators, or adds up to all the ids but the same few around them, units
    are those, and what code makes of the lengths is read off what they read: to read beside one's
    own by as much as all others, or by more and more, is told.

    Whatever a key is called: where code reads rows at its numbers, moved by one number or not, and
    the model has put a `[CLS]`, prompts or the like before the tokens, it is told that the places
    do not count these, where code takes tokens alone by the same places; where samples begin with a
    unit that reads what is in front, labelled as others are, and no last token is read, though many
    name one; or where places drawn by chance name each but the last. Causal models are not judged.

    Sick: `vectors[rows, starts + 1]` where the starts count `[CLS]` already.
    Healthy: `vectors[rows, starts]`.
    """

    units: int = 3  # which must be wrong where nothing is declared

    code: ClassVar[str] = "IDX001"
    rule: ClassVar[str] = "index-alignment"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Spans or places, declared or told by their names."""
        same = any(each.rule == "same" for each in experiment.declared.reads)
        if not same and not any(True for _ in spans(experiment)) and not is_pointed(experiment):
            return (
                "no key is declared or called as positions of tokens are, or used so where the "
                "model puts something in front of them: declare it by "
                "`Layout(reads=(Reads('units', of='ids', rule='span', keys=('starts', 'ends')),))`"
            )
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding for each declared reading."""
        seen, kept, why, said = alive(experiment), 0, "", set[str]()
        for each in (*spans(experiment), *_same(experiment)):
            found = measured(experiment, seen, each)
            if found is None:
                why = why or _absent(each)
                continue
            pairs = _pairs(each, found)
            if len(pairs.places) == 0 or (each.guessed and not _steers(experiment, each, found)):
                continue
            _keep(experiment, each, found, kept)
            kept += 1
            told = list(self._judge(experiment, seen, each, found, pairs))
            yield from told
            said |= {*each.reads.keys} if told else set()
            if not told and (drifted := _drifted(experiment, each, pairs)) is not None:
                yield self._beside(each, drifted)
        for use in put_in_front(experiment):
            if (use.use.key or use.use.pick.line) not in said:
                said.add(use.use.key or str(use.use.pick.line))
                yield self._in_front(experiment, use)
        if why and not kept and not is_pointed(experiment):
            raise ExperimentError(why)

    def _judge(
        self, experiment: Experiment, seen: Alive, each: Spans, found: Read, pairs: Pairs
    ) -> Iterator[Finding]:
        strangers = [i for i, others in enumerate(found.foreign) if others]
        missing = ~found.tokens.flatten(1).any(1)
        if strangers and bool(missing[strangers].any()):
            yield self._foreign(experiment, seen, each, found, strangers)
            return
        wrong = misread(pairs, "token" if each.reads.keys else "unit")
        if wrong is None or (each.guessed and not self._sure(experiment, each, found, wrong)):
            return
        yield self._finding(experiment, seen, each, found, pairs, wrong)

    def _beside(self, each: Spans, found: Drift) -> Finding:
        side = "before" if min(found.by, found.grows) < 0 else "after"
        words = (
            f"grows by one token a unit, {side} its own: "
            + ("a separator that is not counted" if found.grows < 0 else "one counted twice")
            if found.grows
            else f"is {abs(found.by)} {side} each of its own, at both ends"
        )
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"what {_keys(each.reads)} name lies beside the units: id {found.separator} "
            f"stands between each two of them in `{each.reads.of}`, and the distance of spans from "
            f"it {words}.",
            fix="Count what is put before and between the units, such as `[CLS]` and separators, "
            "when spans are placed.",
            site="<data>",
            phase="data",
            evidence=(
                Evidence("starts and ends that lie so", found.count, None, f"of {found.of}"),
                Evidence("tokens from the first unit's end to its span's", found.by, 0),
                Evidence("tokens by which that grows from unit to unit", found.grows, 0),
            ),
        )
        return resting_on(finding, [each.guessed] if each.guessed else [])

    def _sure(self, experiment: Experiment, each: Spans, found: Read, wrong: Misread) -> bool:
        """Whether a reading that nobody declared can be called wrong."""
        if len(wrong.wrong) < min(self.units, wrong.looked) or wrong.pattern.startswith("by no"):
            return False
        if each.beside is not None:
            return _is_drift(experiment, each, wrong)
        if each.counted and not reads_on(experiment, each.reads.of):
            return False  # what comes next is told one place before, or with a delay
        if wrong.by is None:
            return "and" not in wrong.pattern and "all units" not in wrong.pattern
        fits = "every unit reads" in wrong.pattern
        if found.before is not None and not _reads_front(each, found):
            return False  # places may count what the model puts in front
        return fits and wrong.by != _special(experiment, each)

    def _finding(
        self,
        experiment: Experiment,
        seen: Alive,
        each: Spans,
        found: Read,
        pairs: Pairs,
        wrong: Misread,
    ) -> Finding:
        row = int(wrong.wrong[0])
        at = pairs.places[row].tolist()
        declared, actual = pairs.declared[row], pairs.read[row]
        pick = last_pick(seen.picks, found.unit, found.cut.order)
        where = place_at(experiment, found.unit)
        names = _lead(experiment, each)
        verb = "counts" if each.counted else "name"
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"units do not read what {_keys(each.reads)} {verb}, {where.words}: "
            f"{wrong.pattern}; {_said(names, at)} is to read {_range(declared)} and reads "
            f"{_range(actual)}.",
            fix="Let positions and vectors count the same tokens, `[CLS]` and separators "
            "included, at that index; or put right what is declared.",
            site=where.site,
            op=None if pick is None else pick.op,
            phase="forward",
            source=_summed(experiment, seen, each, found) if pick is None else pick.line,
            samples=(int(at[0]),),
            where=dict(zip(names, map(int, at), strict=True)),
            evidence=(
                Evidence("units that read other tokens", len(wrong.wrong), 0, f"of {wrong.looked}"),
                Evidence("first token read", int(first(actual)), int(first(declared))),
                Evidence("last token read", int(last(actual)), int(last(declared))),
            ),
        )
        return resting_on(finding, [each.guessed] if each.guessed else [])

    def _in_front(self, experiment: Experiment, found: InFront) -> Finding:
        pick, front = found.use.pick, found.use.front
        names = "what places name" if found.use.key is None else f"what `{found.use.key}` names"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"units do not read {names}: the model puts {_rows_of(front)} before the "
            f"{found.use.width} of tokens, which the places do not count, and every unit reads "
            f"{_rows_of(found.by)} before its own; {found.hits} of {found.count} read what is in "
            f"front, {found.why}, and {found.last} the last token of a sample, which "
            f"{found.near} name.",
            fix=f"Add {found.by} to the places where rows are read, or leave out what is in front "
            f"by `[:, {front}:]` before.",
            site=site_of(experiment, alive(experiment), pick.order),
            op=pick.op,
            phase="forward",
            source=pick.line,
            evidence=(
                Evidence("units that read what is in front", found.hits, 0, f"of {found.count}"),
                Evidence("units that read the last token of a sample", found.last),
                Evidence("units whose places name it", found.near, None),
            ),
        )

    def _foreign(
        self, experiment: Experiment, seen: Alive, each: Spans, found: Read, strangers: list[int]
    ) -> Finding:
        where = place_at(experiment, found.unit)
        pick = last_pick(seen.picks, found.unit, found.cut.order)
        sample, others = strangers[0], found.foreign[strangers[0]]
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"units read the tokens of another sample, {where.words}: those of sample "
            f"{sample} read sample {', '.join(map(str, others))} and not their own.",
            fix="Index along the token axis within each sample, or add where each sample begins.",
            site=where.site,
            op=None if pick is None else pick.op,
            phase="forward",
            source=None if pick is None else pick.line,
            samples=(sample,),
            where={"sample": sample},
            evidence=(Evidence("samples whose units read another", len(strangers), 0),),
        )
        return resting_on(finding, [each.guessed] if each.guessed else [])


def _is_drift(experiment: Experiment, each: Spans, wrong: Misread) -> bool:
    """Whether whole units are read beside themselves: by as many tokens all, or by more and more.

    One token of each may well be a separator's, and what comes next is told one place before.
    """
    if wrong.by is None:
        return "grows" in wrong.pattern
    is_whole = wrong.pattern.endswith(": a shift") or "special token" in wrong.pattern
    return is_whole and (wrong.by > 0 or reads_on(experiment, each.reads.of))


def _reads_front(each: Spans, found: Read) -> bool:
    """Whether the first units, said to read the first token, read what stands before it."""
    assert found.before is not None
    firsts = each.tokens.flatten(1, -2)[:, 0, 0]  # of each sample's first unit, the first token
    read = found.before.flatten(1)[:, 0]
    return bool(firsts.any()) and float(read[firsts].float().mean()) >= MOST


def _summed(experiment: Experiment, seen: Alive, each: Spans, found: Read) -> str | None:
    """The line that last sums up the very lengths by which units are counted, before one is had."""
    lengths = [experiment.tensors[key] for key in each.reads.keys if each.counted]
    same = [
        one.line
        for one in seen.summed
        if one.order < found.unit.order
        and any(one.of[one.of > 0].tolist() == own[own > 0].tolist() for own in lengths)
    ]
    return same[-1] if same else None


def _drifted(experiment: Experiment, each: Spans, pairs: Pairs) -> Drift | None:
    """How spans that are read as they say lie beside the separators of the ids."""
    of = experiment.tensors.get(each.reads.of)
    keys = [experiment.tensors[key] for key in each.reads.keys]
    is_read = float(((pairs.low == 0) & (pairs.high == 0)).float().mean()) >= MOST
    if of is None or of.is_floating_point() or of.ndim != 2 or not is_read:
        return None
    if len(keys) == 1 and keys[0].ndim == 3 and keys[0].shape[-1] == 2:
        ends = keys[0][..., 1]
    elif len(keys) == 2 and keys[1].dtype is not torch.bool:
        ends = keys[1]
    else:
        return None
    if ends.ndim != 2 or pairs.places.shape[1] != 2:
        return None
    with_end = last(pairs.declared) == ends[tuple(pairs.places.T)]
    found = drift(experiment, each.reads, float(with_end.float().mean()) >= MOST)
    if found is not None and not found.grows and found.by < 0:
        # a model of what comes next has its answer one place before
        return found if reads_on(experiment, each.reads.of) else None
    return found


def _same(experiment: Experiment) -> Iterator[Spans]:
    """What is declared to read the same place of a site: every unit a span of its own."""
    for each in experiment.declared.reads:
        axes = experiment.layout.axes.get(each.output, ())
        if each.rule != "same" or each.of in experiment.tensors or not axes[1:-1]:
            continue
        for seen in experiment.evaluated.ran.events:
            if seen.site == each.of and seen.value is not None and seen.value.ndim == len(axes):
                lead = seen.value.shape[: len(axes) - 1]
                own = torch.eye(lead[-1], dtype=torch.bool, device=seen.value.device)
                yield Spans(each, len(lead) - 1, own.expand(*lead, lead[-1]))
                break


def _absent(each: Spans) -> str:
    return (
        f"no tensor of `{each.reads.output}` with the units' axes {each.lead} was seen to depend "
        f"on one with a row for each token of `{each.reads.of}`"
    )


def _pairs(each: Spans, found: Read) -> Pairs:
    """The units that have a span and read anything; ends as they fit best where unsaid."""
    declared = each.tokens
    if each.other is not None and unlike(each.other, found) < unlike(declared, found):
        declared = each.other
    keep = declared.any(-1) & found.tokens.any(-1) & found.asked
    return Pairs(keep.nonzero(), declared[keep], found.tokens[keep])


def _steers(experiment: Experiment, each: Spans, found: Read) -> bool:
    """Whether what is read changes when units exchange their positions."""
    keys = set(each.reads.keys)

    def turned(path: str, leaf: object) -> object:
        if path not in keys or not isinstance(leaf, Tensor):
            return leaf
        return leaf.flip(1) if leaf.ndim > 1 and len(each.lead) > 1 else leaf.roll(1, 0)

    batch: Batch = map_leaves(experiment.batch, turned)
    try:
        again = measured(experiment, alive(experiment, batch), each)
    except ExperimentError:
        return False
    return again is not None and not torch.equal(again.tokens, found.tokens)


def _special(experiment: Experiment, each: Spans) -> int:
    """1 where positions leave out a special token that every sample begins with."""
    tokens = experiment.tensors[each.reads.of]
    if tokens.is_floating_point() or tokens.ndim != 2:
        return 0
    same = bool((tokens[:, 0] == tokens[0, 0]).all()) and len(tokens) > 1
    return int(same and bool(each.tokens[..., 0].any()))


def _keep(experiment: Experiment, each: Spans, found: Read, number: int) -> None:
    """Arrays (lead, 2): first and last token, -1 where there is none."""
    names = _lead(experiment, each)
    suffix = f"-{number + 1}" if number else ""
    for what, tokens in (("declared", each.tokens), ("read", found.tokens)):
        ends = torch.stack([first(tokens), last(tokens)], -1)
        ends = ends.masked_fill(~tokens.any(-1, keepdim=True), -1)
        experiment.keep(
            f"index-alignment-{what}{suffix}",
            ends,
            (*names, "end"),
            {"end": ["first", "last"]},
            of=each.reads.of,
            keys=list(each.reads.keys),
            unit=found.unit.site,
            cut=found.cut.site,
        )


def _lead(experiment: Experiment, each: Spans) -> list[str]:
    key = each.reads.keys[0] if each.reads.keys else each.reads.output
    axes = list(experiment.declared.axes.get(key, ()))[: len(each.lead)]
    plain = ["sample", "turn", "unit"] if len(each.lead) == 3 else ["sample", "unit"]
    return axes if len(axes) == len(each.lead) else plain[: len(each.lead)]


def _keys(reads: Reads) -> str:
    return " and ".join(f"`{key}`" for key in reads.keys) or f"their own places in `{reads.of}`"


def _rows_of(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _said(names: list[str], at: list[int]) -> str:
    return ", ".join(f"{name} {place}" for name, place in zip(names, at, strict=True))


def _range(tokens: Tensor) -> str:
    low, high = int(first(tokens)), int(last(tokens))
    return f"{low}" if low == high else f"{low} to {high}"
