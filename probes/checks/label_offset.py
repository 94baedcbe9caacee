"""LBL010: labels that belong to the token beside their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from probes.experiment import Experiment, with_leaf
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.layout import Labels
from probes.reading.rows import looked
from probes.scoring.answer_segments import Relative, relative
from probes.scoring.answer_spans import Ahead, ahead
from probes.scoring.answers import keys, lines_of, scores
from probes.scoring.told_by import REACH, Told, told
from probes.vary import vary


@dataclass(frozen=True, slots=True)
class LabelOffset:
    """The token beside it tells a label far better than the token that the label stands at.

    Over the first batches a label is guessed from the token at its own place, as other places with
    that token have it, and from the tokens up to two places before and after. Two things together
    are told: one of these guesses far better, sample by sample, and labels of several classes
    stand at a token that is one and the same in every sample, as that of the start or the first
    of the padding, which can have none. What is its own place is what the loss scores it against.
    A label that hangs on its neighbours too is better told by its own token; a model that reads
    nothing of what comes later may be asked for just that.

    Answers between two places of one sequence are told by keys that count within a passage: where
    that stands further on than what the loss adds to the keys, several answers begin at what is
    before the passage, such as a separator, and end within it. Where there is no answer, both of
    its ends stand there.

    So they are where a row holds two texts, told apart by types of the tokens or by a separator:
    all answers fit the second text counted from its own first place and come close to its end, and
    as they are scored some lie in the first text, some in the second, and some begin in the one and
    end in the other (a single place: at the separator).

    Sick: `labels[start] = tag`, where starts were counted before `[CLS]` was put in front.
    Healthy: `labels[start + 1] = tag`.
    """

    least: int = 60  # labels
    least_told: float = 0.4  # of what chance does not tell, by the token beside
    better: float = 0.6  # of that, at most, by its own token
    sure: float = 5.0  # standard errors over samples
    fewest: int = 2  # answers that begin before their passage

    code: ClassVar[str] = "LBL010"
    rule: ClassVar[str] = "label-offset"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A key of class labels by place, and a key of ids by the same places."""
        if not any(True for _ in _pairs(experiment)) and not _answered(experiment):
            return "there are no class labels by the places of a key of ids"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of labels."""
        said = set()
        answers = _ahead(experiment)
        if answers is not None and answers.count >= self.fewest:
            yield self._answers(answers)
        moved = _relative(experiment) if answers is None else None
        if moved is not None:
            yield self._relative(moved)
        for labels, key in _pairs(experiment):
            if labels.key in said:
                continue
            found = _told(experiment, labels, key)
            if found is None or not bool(found.odd.any()) or int(found.valid.sum()) < self.least:
                continue
            try:
                shift = scores(experiment, labels).shift
            except ExperimentError:
                continue
            by = None if shift is None else self._beside(found, -shift)
            if by is not None and shift is not None and _reads_on(experiment, key):
                said.add(labels.key)
                yield self._finding(experiment, labels, key, found, -shift, by)

    def _beside(self, found: Told, own: int) -> int | None:
        """How many places on the token stands that tells the labels far better than their own."""
        plain = found.valid & ~found.odd
        count = int(plain.sum())
        if count < self.least:
            return None
        kinds = found.labels[plain].unique(return_counts=True)[1]
        chance, right = float(kinds.max()) / count, (found.hits(own) * plain).sum(1)
        for by in sorted(set(range(own - REACH, own + REACH + 1)) - {own}, key=abs):
            other = (found.hits(by) * plain).sum(1)
            more = other - right
            sure = float(more.sum()) > self.sure * float(more.square().sum().sqrt())
            tells, own_tells = (
                (float(hits.sum()) / count - chance) / max(1 - chance, 1e-6)
                for hits in (other, right)
            )
            if sure and tells >= self.least_told and own_tells <= self.better * tells:
                return by
        return None

    def _answers(self, found: Ahead) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"answers are scored {found.by} before their places: `{found.start}` and "
            f"`{found.end}` are moved by {found.moved}, and `{found.passage}` begins at place "
            f"{found.begins} of what the model reads; {found.count} of {found.of} answers would "
            "begin before it and end in it.",
            fix=f"Add {found.begins}: count all that stands before the passage, such as `[CLS]`, "
            "the question and each `[SEP]`.",
            site="<loss>",
            phase="forward",
            source=found.line,
            evidence=(
                Evidence("what is added to the places", found.moved, found.begins),
                Evidence("answers that begin before their passage", found.count, 0),
            ),
        )

    def _relative(self, found: Relative) -> Finding:
        one = found.start == found.end
        keys = f"`{found.start}`" if one else f"`{found.start}` and `{found.end}`"
        across = (
            "stand at what parts the texts" if one else "begin in the first and end in the next"
        )
        wrong = found.before + found.across
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{keys} count from the first place of a row's second text, and are scored as "
            f"places of the row, where that text begins at {found.least} to {found.most} (by "
            f"`{found.told_by}`): {found.before} of {found.of} answers lie in the first text, "
            f"{found.across} {across}, {found.within} lie in the second; with what "
            "stands before it added, all do.",
            fix="Add to each sample's places what stands before its passage: `[CLS]`, the question "
            "and each `[SEP]`.",
            site="<data>",
            phase="data",
            evidence=(Evidence("answers that are not in the second text", wrong, 0),),
        )

    def _finding(
        self, experiment: Experiment, labels: Labels, key: str, found: Told, own: int, by: int
    ) -> Finding:
        plain = found.valid & ~found.odd
        count = int(plain.sum())
        shares = [float((found.hits(at) * plain).sum()) / count for at in (own, by)]
        side = "after" if by > own else "before"
        odd = int(found.odd.sum())
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{labels.key}` stands beside the tokens that it belongs to: the token of "
            f"`{key}` {abs(by - own)} {side} tells {100 * shares[1]:.0f}% of {count} labels, and "
            f"the one at their own place {100 * shares[0]:.0f}%; {odd} labels of several classes "
            "stand at a token that is the same in every sample.",
            fix="Count what was put before the tokens, such as `[CLS]`, when labels are placed.",
            site="<data>",
            phase="data",
            evidence=(
                Evidence("share of labels that their own token tells", shares[0]),
                Evidence(f"share that the token {abs(by - own)} {side} tells", shares[1]),
                Evidence("labels at a token that is the same in every sample", odd, 0),
            ),
        )
        declared = any(each.key == labels.key for each in experiment.declared.labels)
        return resting_on(finding, [] if declared else [f"labels=({labels!r},)"])


def _ahead(experiment: Experiment) -> Ahead | None:
    if "answers ahead" not in experiment.memo:
        try:
            experiment.memo["answers ahead"] = ahead(experiment)
        except ExperimentError:  # the loss may be out of use
            experiment.memo["answers ahead"] = None
    found: Ahead | None = experiment.memo["answers ahead"]
    return found


def _relative(experiment: Experiment) -> Relative | None:
    if "answers relative" not in experiment.memo:
        try:
            experiment.memo["answers relative"] = relative(experiment)
        except ExperimentError:  # the loss may be out of use
            experiment.memo["answers relative"] = None
    found: Relative | None = experiment.memo["answers relative"]
    return found


def _answered(experiment: Experiment) -> bool:
    return _ahead(experiment) is not None or _relative(experiment) is not None


def _pairs(experiment: Experiment) -> Iterator[tuple[Labels, str]]:
    for labels in keys(experiment):
        shape = tuple(experiment.tensors[labels.key].shape)
        for key, ids in experiment.tensors.items():
            if len(shape) != 2 or tuple(ids.shape) != shape or shape[1] <= 2 * REACH:
                continue
            plain = not ids.is_floating_point() and ids.dtype is not torch.bool
            if plain and key not in experiment.targets and int(ids.max()) > 1:
                yield labels, key


def _told(experiment: Experiment, labels: Labels, key: str) -> Told | None:
    batches = [
        (batch[labels.key], batch[key])
        for batch in looked(experiment)
        if labels.key in batch and key in batch and batch[labels.key].shape == batch[key].shape
    ]
    return told(batches, labels.ignore) if batches else None


def _reads_on(experiment: Experiment, key: str) -> bool:
    """Whether outputs move with a token that stands after them."""
    ids = experiment.tensors[key]
    only = torch.zeros_like(ids, dtype=torch.bool)
    middle = ids.shape[1] // 3
    only[:, middle] = True
    other = vary(ids, only)
    if other is None:
        return False
    ran = experiment.evaluate(with_leaf(experiment.batch, key, other)).outputs
    for name, value in experiment.outputs.items():
        before = lines_of(value, tuple(ids.shape)) if value.ndim > 1 else None
        after = lines_of(ran[name], tuple(ids.shape)) if name in ran else None
        if before is None or after is None or before.shape != after.shape:
            continue
        moved = (after - before).abs().amax(-1)[:, :middle]
        if float(moved.max()) > 1e-5 * float(before.nan_to_num(0, 0, 0).abs().max()):
            return True
    return False
