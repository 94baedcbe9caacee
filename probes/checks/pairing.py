"""IDX002: an input is scored against another sample's label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from probes.batch import take
from probes.bus import Kind
from probes.compare import Comparison, Difference
from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.masking.owners import Owners, owners
from probes.masking.packed import few
from probes.place import CODE, Place, came_about, place
from probes.reading.alive import alive, site_of
from probes.reading.indexing import Pick, reordering
from probes.scoring.in_batch import in_batch
from probes.scoring.in_turn import turned_by_one, unturned
from probes.scoring.meeting import Meeting, Meetings, meetings
from probes.scoring.mixtures import Mixed, mixed_apart
from probes.scoring.out_of_order import OutOfOrder, out_of_order
from probes.scoring.positives import Strangers, strangers
from probes.scoring.repeated import Repeated, repeated_apart


@dataclass(frozen=True, slots=True)
class Pairing:
    """The output for one sample's input is scored against the label of another.

    One sample's input is changed, then the labels, then both: what both do together beyond what
    each does alone shows which input meets which label, whatever stands between. A sample whose
    input meets no label but others' was sorted and not put back, shifted along the wrong axis,
    or laid out anew across samples. The order in which inputs meet labels is told. Where outputs do
    not turn with the batch, the turned batch is asked as well: an order may be its own inverse.
    Where the loss mixes samples by chance, as mixup does, the rows that a sample is mixed into must
    be those that are scored against its label; where it pairs views of samples and there are no
    classes, the view that it picks must be of the same sample. Where rows of scores move with one
    key and columns with another, and the columns that are wanted are counted up, they must be of
    the row's sample. Where the batch holds every input several times, equal to the bit and in one
    of the orders of `repeat` and `repeat_interleave`, labels that are in the other one are told.
    Of a batch whose samples are as many rows as they like, as graphs, all rows of one are changed.
    Where code sorts samples, no two alike, and the loss moves as samples are exchanged whole while
    outputs go with them, told is what meets what was put in that order and goes by the batch's.

    Sick: `pack_padded_sequence` of rows sorted by length, and labels in the order of the batch.
    Healthy: the same with `hidden[order.argsort()]`, or with `labels[order]`.
    """

    code: ClassVar[str] = "IDX002"
    rule: ClassVar[str] = "pairing"
    family: ClassVar[Literal["check"]] = "check"
    slow: ClassVar[bool] = True

    def lacks(self, experiment: Experiment) -> str | None:
        """Samples, a loss and labels."""
        packed = owners(experiment) is not None
        if experiment.size < 3 and not packed:
            return "the batch cannot be cut into three samples or more"
        if experiment.lacks_loss is not None or packed:
            return experiment.lacks_loss
        known = experiment.targets or _strangers(experiment) or _in_batch(experiment)
        if not known and out_of_order(experiment) is None:
            return "no key is known to hold labels: declare it by `Layout(labels=(Labels(...),))`"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        if (owned := owners(experiment)) is not None:
            yield from self._of_rows(experiment, owned)
            return
        found = list(self._judge(experiment))
        yield from found
        if not found and (left := out_of_order(experiment)) is not None:
            yield self._left(experiment, left)

    def _judge(self, experiment: Experiment) -> Iterator[Finding]:
        pair = _strangers(experiment)
        if pair is not None:
            yield self._strangers(pair)
        elif (pair := _in_batch(experiment)) is not None:
            yield self._in_batch(pair)
        if pair is not None or not experiment.targets:
            return
        if (again := repeated_apart(experiment)) is not None:
            yield self._repeated(experiment, again)
            return
        asked, order, (meeting, found) = _asked(experiment)
        experiment.keep(
            "pairing-effect",
            torch.stack([found.own, found.others], 1)[torch.tensor(order, device="cpu").argsort()],
            ("sample", "label"),
            {"label": ["own", "others"]},
            what="How far the effects of inputs and of labels on the loss hang together",
            changed=list(meeting.inputs),
            against=list(meeting.labels),
            limit=found.limit,
        )
        if partners := _partners(meeting, found):
            yield self._finding(asked, order, meeting, found, partners)
        elif (apart := mixed_apart(experiment, meeting)) is not None:
            yield self._mixed(experiment, meeting, apart)

    def _of_rows(self, experiment: Experiment, owned: Owners) -> Iterator[Finding]:
        """Of a batch that cannot be cut as others are."""
        asked = few(experiment, owned)
        if asked is None:
            raise ExperimentError("it is unclear how to cut the batch, which holds many samples")
        meeting = Meeting(asked.experiment, owned=asked.owned)
        found = meeting.all()
        if partners := _partners(meeting, found):
            finding = self._finding(asked.experiment, asked.samples, meeting, found, partners)
            yield replace(
                finding,
                verdict=Verdict.WARN,
                fix=f"{finding.fix} That `{owned.told}` says which sample a row is of is a guess.",
            )

    def _strangers(self, pair: Strangers) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message="the loss pulls together views of different samples: row "
            f"{pair.row}, of sample {pair.sample}, is to match a view of sample {pair.partner}; "
            f"so it is in {pair.count} rows.",
            fix="Take the positives in the order in which the views were put together: "
            "concatenated, row i belongs to row i + n; interleaved, to its neighbour.",
            site="<loss>",
            phase="forward",
            source=pair.source,
            samples=(pair.sample, pair.partner),
            evidence=(Evidence("rows that are to match another sample's", pair.count, 0),),
        )

    def _repeated(self, experiment: Experiment, again: Repeated) -> Finding:
        whole, single = "all in a row and then again", "each right after itself"
        inputs, labels = (whole, single) if again.whole else (single, whole)
        one, two = again.rows
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"samples are repeated {again.times} times in one order and their labels in "
            f"another: {', '.join(f'`{key}`' for key in again.keys)} {inputs}, `{again.label}` "
            f"{labels}, so that rows {one} and {two} are equal and have different labels.",
            fix="Repeat both alike: `repeat` or `cat` with `repeat`, `repeat_interleave` with "
            "`repeat_interleave`.",
            site="<data>",
            phase="data",
            where={"sample": two},
            evidence=(Evidence("rows that have the label of another", again.wrong, 0),),
        )
        return resting_on(finding, experiment.samples_guessed)

    def _in_batch(self, pair: Strangers) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the loss asks for another sample's column: row {pair.row}, of sample "
            f"{pair.sample}, is to score highest what stands in the batch with sample "
            f"{pair.partner}; so it is in {pair.count} rows.",
            fix="Ask row i for the column of its own sample: where each brings m columns, one "
            "after the other, that is i * m. Keep the order of both sides: put back what was "
            "sorted.",
            site="<loss>",
            phase="forward",
            source=pair.source,
            samples=(pair.sample, pair.partner),
            evidence=(Evidence("rows that ask for another sample's column", pair.count, 0),),
        )

    def _left(self, experiment: Experiment, left: OutOfOrder) -> Finding:
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"samples are sorted by {left.key} at {left.sorted_at}, and {left.ordered} is "
            f"put in that order, but {left.other}, which meets it, stands as the batch does: with "
            f"whole samples exchanged the loss is {left.moved:.6g} and not {left.loss:.6g}.",
            fix="Index by the order all that goes with what was sorted, or put that back by "
            "`order.argsort()`.",
            site="<loss>",
            phase="forward",
            source=left.source,
            evidence=(Evidence("loss once samples are exchanged", left.moved, left.loss),),
        )
        return resting_on(finding, experiment.samples_guessed)

    def _mixed(self, experiment: Experiment, meeting: Meeting, apart: Mixed) -> Finding:
        key, label = next(iter(meeting.inputs)), next(iter(meeting.labels))
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"samples are mixed in one order and their labels in another: `{key}` of "
            f"sample {apart.sample} is mixed into row {apart.read}, and its `{label}` is scored at "
            f"row {apart.scored}.",
            fix="Draw the order of the partners once, and use it for inputs and labels.",
            site="<loss>",
            phase="forward",
            samples=apart.samples,
            where={"sample": apart.sample},
            evidence=(Evidence("samples whose label goes elsewhere", len(apart.samples), 0),),
        )
        return resting_on(finding, experiment.samples_guessed)

    def _finding(
        self,
        experiment: Experiment,
        order: Sequence[int],
        meeting: Meeting,
        found: Meetings,
        partners: Mapping[int, int | None],
    ) -> Finding:
        first = next(iter(partners))
        where = _place(experiment, meeting, first)
        pick = _pick(experiment, where, meeting.size) if where.site != CODE else None
        key, label = next(iter(meeting.inputs)), next(iter(meeting.labels))
        against = partners[first]
        other = "other samples" if against is None else f"sample {order[against]}"
        turned = "" if order[0] < order[-1] else "once the batch is turned by one sample, "
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"inputs and labels do not belong together, {where.words}: {turned}`{key}` of "
            f"sample {order[first]} is scored against `{label}` of {other}"
            f"{_pattern(meeting, partners)}.",
            fix="Put rows back in the order of the batch before they are scored, or sort the "
            "labels along with them; shift along time, not along samples.",
            site=where.site,
            op=None if pick is None else pick.op,
            phase="forward",
            source=None if pick is None else pick.line,
            samples=tuple(sorted(order[i] for i in found.apart)),
            where={"sample": order[first]},
            evidence=(
                Evidence("effect of input and own label together", float(found.own[first])),
                Evidence(
                    "effect of input and others' labels together",
                    float(found.others[first]),
                    found.limit,
                ),
                Evidence("samples scored against others", len(found.apart), 0),
            ),
        )
        return resting_on(finding, experiment.samples_guessed)


def _strangers(experiment: Experiment) -> Strangers | None:
    """Asked only where no key is known to hold classes."""
    if any(not experiment.tensors[key].is_floating_point() for key in experiment.targets):
        return None
    if "strangers" not in experiment.memo:
        experiment.memo["strangers"] = strangers(experiment)
    found: Strangers | None = experiment.memo["strangers"]
    return found


def _in_batch(experiment: Experiment) -> Strangers | None:
    if "in batch" not in experiment.memo:
        experiment.memo["in batch"] = in_batch(experiment)
    found: Strangers | None = experiment.memo["in batch"]
    return found


def _asked(
    experiment: Experiment,
) -> tuple[Experiment, Sequence[int], tuple[Meeting, Meetings]]:
    """What meets in the batch, or in the batch turned by one where only that tells.

    And which sample stands where. An order that is its own inverse puts back what it sorted: the
    batch as it is may hide what outputs tell that do not turn with it.
    """
    plain = range(experiment.size)
    own = experiment, plain, meetings(experiment)
    if own[2][1].apart or experiment.is_random or not experiment.sample_axis:
        return own
    order = turned_by_one(experiment.size)
    with suppress(ExperimentError):  # such as lengths that are to be sorted
        if unturned(experiment) is not None:
            other = experiment.of_batch(take(experiment.batch, order, experiment.layout))
            found = meetings(other)
            return (other, order, found) if found[1].apart else own
    return own


def _pick(experiment: Experiment, where: Place, size: int) -> Pick | None:
    """What puts samples in another order, in the code of that module if there it is."""
    seen = alive(experiment)
    here = [each for each in seen.picks if site_of(experiment, seen, each.order) == where.site]
    found = reordering(here, size)
    return reordering(seen.picks, size) if found is None else found


def _partners(meeting: Meeting, found: Meetings) -> dict[int, int | None]:
    """Of a few samples whose input meets others' labels alone, whose it meets."""
    partners = {i: _partner(meeting, found, i) for i in found.apart[:4]}
    if 2 * len(found.apart) < meeting.size and set(partners.values()) <= {None}:
        return {}  # the others meet their own, and these several: a loss over pairs
    return partners


def _partner(meeting: Meeting, found: Meetings, i: int) -> int | None:
    """The one sample whose label this input meets; None where it is not one."""
    met = [
        j
        for j in range(meeting.size)
        if j != i and meeting.of([i], [j]) > max(found.limit, 0.1 * float(found.others[i]))
    ]
    return met[0] if len(met) == 1 else None


def _pattern(meeting: Meeting, partners: Mapping[int, int | None]) -> str:
    pairs = [(i, j) for i, j in partners.items() if j is not None]
    if len(pairs) < 2:
        return ""
    n = meeting.size
    if len({(j - i) % n for i, j in pairs}) == 1:
        return f", every sample against the one {(pairs[0][1] - pairs[0][0]) % n} further on"
    if all(i + j == n - 1 for i, j in pairs):
        return ", as if one of both were reversed"
    owned = meeting.owned
    lengths = meeting.experiment.lengths if owned is None else owned.of.long().bincount()
    for name, down in (("longest first", True), ("shortest first", False)):
        if lengths is None:
            break
        order = lengths.argsort(descending=down, stable=True)
        back = order.argsort()
        if all(int(back[i]) == j or int(order[i]) == j for i, j in pairs):
            return f", as if sorted by length, {name}, and not put back"
    return ", by no order that is known"


def _place(experiment: Experiment, meeting: Meeting, row: int) -> Place:
    """Where the sample first moves another row than its own; the loss where none does."""
    ran = experiment.evaluate(meeting.batch([row]))

    def others(site: str, value: Tensor) -> Tensor | None:
        if meeting.owned is not None:
            own = None if site == LOSS else meeting.owned.row(row, value)
            return None if own is None else ~own
        axes = [i for i, n in enumerate(value.shape) if n == experiment.size]
        axis = experiment.sample_axis.get(site, axes[0] if axes else None)
        if axis is None or site == LOSS:
            return None
        look = torch.ones(value.shape[axis], dtype=torch.bool, device=value.device)
        look[row] = False
        return look.view([-1 if i == axis else 1 for i in range(value.ndim)])

    found: Comparison = experiment.parted("labels of one sample", ran, others)
    if not any(one.site in experiment.outputs for one in found.outputs):
        return Place(CODE, "in the loss")
    model = experiment.subject.model
    first = found.first
    packed = first is not None and isinstance(model.get_submodule(_name(first)), nn.RNNBase)
    if first is not None and packed:  # what it was given had no axis of samples
        return came_about(Kind.INPUT, first.module, model)
    return place(found, model)


def _name(first: Difference) -> str:
    return "" if first.module in ("model", "<model>") else first.module
