"""LBL002: labels are scored against outputs of other samples or places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch

from probes.experiment import Experiment, with_leaf
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.layout import Labels
from probes.scoring.anchors import Anchors, anchors
from probes.scoring.answers import Answer, Place, at_the_loss, keys, scores
from probes.scoring.by_columns import Cells, by_columns
from probes.scoring.crosswise import Crossed, crossed
from probes.scoring.cut_labels import Cut, cut_labels
from probes.scoring.meeting import meetings
from probes.scoring.misasked_head import MisaskedHead, misasked_head
from probes.scoring.turned import turned
from probes.vary import vary


@dataclass(frozen=True, slots=True)
class LabelPlace:
    """The output that answers to a label does not stand where the label stands.

    One label is changed at a time: the output whose gradient changes is the one that is scored
    against it. Flattened in another order than its output, a label is scored against another
    sample's, or another step's; given another shape where axes were to be exchanged, against
    numbers of several places at once. Within a sample, as of a label map that is turned against
    its image, it is wrong where an input moves the output most at its own place, which then answers
    to another's label; and where an image's cells are laid out by columns among the outputs, though
    the labels, told by what cells look like, are by rows; or outputs of several kinds a cell, as of
    anchors, kind by kind, and labels cell by cell. Where a model gives fewer places than
    there are labels, and the loss cuts the labels, the later ones are never scored, though outputs
    are spread over all. A shift along time of a model that reads both ways, which has no next token
    to predict, is a fault too, and so are two heads each of which is scored against the labels that
    the other is called by, and one that is scored against its twin's, while nobody reads those that
    it is called by; shifts of causal models are LBL001's.

    Sick: `cross_entropy(logits.transpose(0, 1).flatten(0, 1), labels.flatten())`.
    Healthy: `cross_entropy(logits.flatten(0, 1), labels.flatten())`.
    """

    code: ClassVar[str] = "LBL002"
    rule: ClassVar[str] = "label-place"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A loss, and labels of classes."""
        if experiment.lacks_loss is not None:
            return experiment.lacks_loss
        few = not any(True for _ in keys(experiment)) and len(experiment.targets) < 2
        if few and _misasked(experiment) is None:
            return "no key of class labels is known: declare it by `Layout(labels=(Labels(...),))`"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of labels, and one for two heads."""
        yield from (at_the_loss(experiment, each) for each in self._judge(experiment))

    def _judge(self, experiment: Experiment) -> Iterator[Finding]:
        with suppress(ExperimentError):
            if (heads := crossed(experiment)) is not None:
                yield self._crossed(experiment, heads)
        if (head := _misasked(experiment)) is not None:
            yield self._misasked(head)
        why = None
        for labels in keys(experiment):
            cut = cut_labels(experiment, labels)
            if cut is not None:
                yield self._cut(experiment, labels, cut)
                continue
            try:
                found = scores(experiment, labels)
            except ExperimentError as error:
                why = why or error
                continue
            shape = tuple(experiment.tensors[labels.key].shape)
            known = [each for each in found.answers if each.outputs]
            words, away = _scattered(known), _elsewhere(known, shape)
            if words is None and away is not None and meetings(experiment)[1].mixed:
                words = away  # else inputs were sorted as well
            if words is None:
                words = turned(experiment, found, shape)
            if words is None and (cells := by_columns(experiment, found, labels.key)):
                yield self._mirrored(experiment, labels, cells)
                continue
            if words is None and (several := anchors(experiment, found, labels.key)):
                yield self._anchors(experiment, labels, several)
                continue
            if words is not None:
                yield self._finding(experiment, labels, known, words, Verdict.FAIL)
                continue
            shifted = found.shift and len(shape) > 1 and not experiment.declared.labels
            if shifted and _reads_both_ways(experiment, shape):
                yield self._finding(experiment, labels, known, _by(found.shift), Verdict.WARN)
        if why is not None:
            raise why

    def _crossed(self, experiment: Experiment, heads: Crossed) -> Finding:
        (one, two), (first, second) = heads.keys, heads.outputs
        declared = {each.key for each in experiment.declared.labels}
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if {one, two} <= declared else Verdict.WARN,
            message=f"two heads are scored against each other's labels: `{first}` against "
            f"`{one}`, and `{second}` against `{two}`.",
            fix=f"Score `{first}` against `{two}`, and `{second}` against `{one}`.",
            site="<loss>",
            phase="forward",
            evidence=(Evidence("heads scored against another's labels", 2, 0),),
        )

    def _misasked(self, found: MisaskedHead) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{found.head}` is scored against `{found.key}`, as its twin `{found.twin}` "
            f"is, and nobody reads `{found.unread}`, which is of the same kind.",
            fix=f"Score `{found.head}` against `{found.unread}`.",
            site="<loss>",
            phase="forward",
            source=found.source,
            evidence=(Evidence("heads scored against another's labels", 1, 0),),
        )

    def _cut(self, experiment: Experiment, labels: Labels, cut: Cut) -> Finding:
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{labels.key}` is cut and not thinned out: `{cut.output}` has {cut.outputs} "
            f"places for {cut.labels} labels and reads all of `{cut.key}`, but is scored against "
            f"the first {cut.outputs} labels; the later ones are never scored.",
            fix=f"Take the label that each output stands for, such as every "
            f"{cut.labels / cut.outputs:.2g}th, not the first ones.",
            site="<loss>",
            phase="forward",
            where={"sample": 0, "token": cut.outputs},
            evidence=(Evidence("labels that are never scored", cut.labels - cut.outputs, 0),),
        )
        declared = any(each.key == labels.key for each in experiment.declared.labels)
        return resting_on(finding, [] if declared else [f"labels=({labels!r},)"])

    def _mirrored(self, experiment: Experiment, labels: Labels, cells: Cells) -> Finding:
        size = f"{cells.side} x {cells.side}"
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"outputs are scored against labels of other places: outputs are laid out by "
            f"columns of the {size} cells of `{cells.key}`, and `{labels.key}` by rows, so that "
            "each cell answers to the label of the one mirrored at the diagonal.",
            fix="Permute the map of outputs to (sample, row, column, ...), before it is flattened.",
            site="<loss>",
            phase="forward",
            where={"row": 0, "column": cells.side - 1},
            evidence=(Evidence("cells along a side", cells.side),),
        )
        declared = any(each.key == labels.key for each in experiment.declared.labels)
        return resting_on(finding, [] if declared else [f"labels=({labels!r},)"])

    def _anchors(self, experiment: Experiment, labels: Labels, found: Anchors) -> Finding:
        cells = found.cells
        ways = ["kind by kind, with all cells of each", "cell by cell, with all kinds of each"]
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"outputs are scored against labels of other places: `{labels.key}` lies "
            f"{ways[cells.together]}, of {cells.side} x {cells.side} cells of `{cells.key}` with "
            f"{cells.each} kinds, and outputs lie {ways[not cells.together]}.",
            fix="Permute the map of outputs to (sample, row, column, kind, class), as labels lie, "
            "before it is flattened."
            if cells.together
            else "Permute the map of outputs to (sample, kind, row, column, class), as labels lie, "
            "before it is flattened.",
            site="<loss>",
            phase="forward",
            evidence=(Evidence("labels for each cell", cells.each),),
        )
        declared = any(each.key == labels.key for each in experiment.declared.labels)
        return resting_on(finding, [] if declared else [f"labels=({labels!r},)"])

    def _finding(
        self,
        experiment: Experiment,
        labels: Labels,
        answers: Sequence[Answer],
        words: str,
        verdict: Verdict,
    ) -> Finding:
        worst = next((a for a in answers if a.outputs[0] != a.label), answers[0])
        names = ("sample", *experiment.layout.axes.get(labels.key, ())[1:])
        names = names if len(names) == len(worst.label) else _plain(len(worst.label))
        where = dict(zip(names, worst.label, strict=True))
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=verdict,
            message=f"outputs are scored against labels of other places: {words}; "
            f"`{labels.key}` at {_said(names, worst.label)} is scored against the output at "
            f"{', '.join(_said(names, each) for each in worst.outputs[:2])}.",
            fix=_fix(worst),
            site="<loss>",
            phase="forward",
            samples=(worst.label[0],),
            where=where,
            evidence=(
                Evidence(
                    "labels scored elsewhere",
                    sum(set(a.outputs) != {a.label} for a in answers),
                    0,
                    f"of {len(answers)}",
                ),
            ),
        )
        declared = any(each.key == labels.key for each in experiment.declared.labels)
        return resting_on(finding, [] if declared else [f"labels=({labels!r},)"])


def _fix(answer: Answer) -> str:
    if len(answer.label) == 1:  # one label a sample has no axes to exchange
        return (
            "Keep outputs and labels in one order: look for a shuffle, a sort, an index or a "
            "`roll` that only one of them goes through."
        )
    return (
        "Flatten outputs and labels in the same order; exchange axes by `transpose`, not by "
        "`view`; shift neither or both."
    )


def _by(shift: int | None) -> str:
    by = shift or 0
    side = "after" if by > 0 else "before"
    return f"each against the label {abs(by)} {side} its own, though the model reads both ways"


def _plain(count: int) -> tuple[str, ...]:
    return ("sample", "turn", "time")[:count] if count == 3 else ("sample", "token")[:count]


def _misasked(experiment: Experiment) -> MisaskedHead | None:
    """The head that is scored against its twin's labels; None where the loss cannot be had."""
    try:
        return misasked_head(experiment)
    except ExperimentError:
        return None


def _scattered(answers: Sequence[Answer]) -> str | None:
    """Whether the few numbers that a label moves lie at several places: a view for a transpose."""
    several = [a for a in answers if len(a.outputs) > 1]
    if len(several) < max(2, len(answers) * 2 // 3) or any(a.numbers > 3 for a in several):
        return None
    return "one label's class scores are taken from several places, as by a view for a transpose"


def _elsewhere(answers: Sequence[Answer], shape: tuple[int, ...]) -> str | None:
    """Whether labels answer to outputs of other samples, or in another order."""
    if len(answers) < 2 or any(len(a.outputs) != 1 for a in answers):
        return None
    pairs = [(a.label, a.outputs[0]) for a in answers]
    away = [(one, two) for one, two in pairs if one[:-1] != two[:-1]] if len(shape) > 1 else []
    if len(shape) == 1:
        away = [(one, two) for one, two in pairs if one != two]
    if not away:
        return None
    steps = {_flat(two, shape) - _flat(one, shape) for one, two in pairs}
    rows = {two[0] - one[0] for one, two in pairs}
    rest = {tuple(b - a for a, b in zip(o[1:], t[1:], strict=True)) for o, t in pairs}
    if len(shape) > 1 and all(_exchanged(one, two, shape) for one, two in pairs):
        return "samples and places are laid out in exchanged order"
    if len(rows) == 1 and len(rest) == 1 and rest <= {(0,) * (len(shape) - 1)}:
        return f"every sample's labels go to the sample {rows.pop():+d}"
    if len(steps) == 1:
        return f"all are {steps.pop():+d} places away, once both are laid out flat"
    return f"{len(away)} of {len(pairs)} go to another sample"


def _flat(place: Place, shape: tuple[int, ...]) -> int:
    found = 0
    for at, size in zip(place, shape, strict=True):
        found = found * size + at
    return found


def _exchanged(label: Place, output: Place, shape: tuple[int, ...]) -> bool:
    """Whether the output is where the label would lie, were the first two axes exchanged."""
    rest = prod(shape[2:])
    flat = _flat(label, shape) // rest
    back = _flat(output, shape) // rest
    return flat == output[1] * shape[0] + output[0] or back == label[1] * shape[0] + label[0]


def _reads_both_ways(experiment: Experiment, shape: tuple[int, ...]) -> bool:
    """Whether an output moves at a place before the token that was changed, and after it."""
    for key, tensor in experiment.tensors.items():
        if key in experiment.targets or tuple(tensor.shape[: len(shape)]) != shape:
            continue
        for place, seen in ((shape[-1] - 1, slice(0, 1)), (0, slice(shape[-1] // 2, None))):
            only = torch.zeros(shape, dtype=torch.bool, device=tensor.device)
            only[..., place] = True
            other = vary(tensor, only)
            if other is None or not _moves(experiment, key, other, shape, seen):
                break
        else:
            return True
    return False


def _moves(
    experiment: Experiment, key: str, other: torch.Tensor, shape: tuple[int, ...], seen: slice
) -> bool:
    ran = experiment.evaluate(with_leaf(experiment.batch, key, other)).outputs
    for name, before in experiment.outputs.items():
        after = ran.get(name)
        if after is None or after.shape != before.shape or tuple(before.shape[:-1]) != shape:
            continue
        moved = (after - before).abs().amax(-1)[..., seen]
        if float(moved.max()) > 1e-5 * float(before.nan_to_num(0, 0, 0).abs().max()):
            return True
    return False


def _said(names: Sequence[str], place: Place) -> str:
    return ", ".join(f"{name} {at}" for name, at in zip(names, place, strict=True))
