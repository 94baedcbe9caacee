"""IDX003: a label that no output can produce."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import LOSS, Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.layout import Labels
from probes.reading.alive import alive
from probes.scoring.answers import keys, lines_of
from probes.scoring.handed_labels import is_scored
from probes.scoring.hidden_golds import NATS, HiddenGold, hidden_golds
from probes.scoring.named_classes import named
from probes.scoring.tied import filled, kept, redraw

FEW = 4  # classes that are named


@dataclass(frozen=True, slots=True)
class UnreachableLabel:
    """What is to be learned is not among the outputs.

    Three forms: a step that the labels' own mask counts, and whose label is the ignored one,
    because what stands there has no output (it is only told where `Labels(mask=...)` declares the
    mask); a class beyond the last output, which the loss silently leaves out, unless it is one id
    far beyond, such as 255, which is ignored on purpose; a label whose score is masked away, so
    that the loss is huge and never falls, or so that no weights move it and it is the same as
    that of others in its row. Where the loss makes other classes of a key that it is not handed as
    it is, as of one that counts from 1, labels stand for those. Which output a key of labels is
    scored against is told by the loss that takes its integers, or by the gradient that one of them
    moves; without either, only what losses of torch are handed tells, whatever key it is made of:
    a class that is wanted, at places that are scored, and whose score is one number far below the
    best that no weight moves.

    Sick: `labels = vocabulary.get(token, -100)` for tokens that the decoder cannot say.
    Healthy: every token is among the outputs, or stands for `_UNK`, which is.
    """

    least: float = 1e4  # so far below the best score a label's is masked away

    code: ClassVar[str] = "IDX003"
    rule: ClassVar[str] = "unreachable-label"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Labels of classes, or a loss of torch that is handed some."""
        if any(True for _ in keys(experiment)) or alive(experiment).classed:
            return None
        return "no key of class labels is known: declare it by `Layout(labels=(Labels(...),))`"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a form and key of labels; without any, one a call of a loss."""
        found = [one for labels in keys(experiment) for one in self._of_key(experiment, labels)]
        yield from found
        if not found:
            yield from (self._hidden(each) for each in hidden_golds(experiment))

    def _of_key(self, experiment: Experiment, labels: Labels) -> Iterator[Finding]:
        values = experiment.tensors[labels.key]
        yield from self._lost(experiment, labels, values)
        scored = _scored(experiment, labels)
        classes = None if scored is None else named(experiment, labels)
        if scored is not None and classes is not None:
            yield from self._of(experiment, labels, classes, *scored)

    def _lost(self, experiment: Experiment, labels: Labels, values: Tensor) -> Iterator[Finding]:
        mask = experiment.tensors.get(labels.mask or "")
        if mask is None or mask.shape != values.shape or labels.ignore is None:
            return
        there = mask != 0
        for each in experiment.masks:  # a turn that is padding hides all steps in it
            if each.key == labels.key and each.keep.shape == values.shape[: each.keep.ndim]:
                there = there & each.keep.view(
                    *each.keep.shape, *[1] * (values.ndim - each.keep.ndim)
                )
        lost = there & (values == labels.ignore)
        if bool(lost.any()):
            yield self._finding(
                experiment,
                labels,
                lost,
                f"{int(lost.sum())} of {int(there.sum())} steps that `{labels.mask}` counts have "
                f"no label in `{labels.key}`: what stands there is not among the outputs, and no "
                "loss asks for it",
                [],
                int(there.sum()),
            )

    def _of(
        self, experiment: Experiment, labels: Labels, values: Tensor, name: str, rows: Tensor
    ) -> Iterator[Finding]:
        declared = any(each.key == labels.key for each in experiment.declared.labels)
        lines = [] if declared else [f"labels=({labels!r},)"]
        valid = _valid(labels, values)
        classes, count = rows.shape[-1], int(valid.sum())
        beyond = valid & (values >= classes)
        if _is_ignored(values[beyond], classes):
            valid, beyond = valid & ~beyond, torch.zeros_like(beyond)
        if bool(beyond.any()):
            yield self._finding(
                experiment,
                labels,
                beyond,
                f"{int(beyond.sum())} of {count} labels in `{labels.key}` are {classes} or more, "
                f"and `{name}` has outputs 0 to {classes - 1}, so that none is theirs",
                lines,
                count,
            )
            return
        if labels.shift:
            return
        if not self._is_huge(experiment):
            yield from self._filled(experiment, labels, values, name, rows, valid, lines)
            return
        gold = rows.gather(-1, values.clamp(0, classes - 1).long()[..., None])[..., 0].double()
        best = rows.double().amax(-1)
        hidden = valid & ((best - gold) >= self.least) & best.isfinite() & ~gold.isnan()
        if bool(hidden.any()):
            yield self._finding(
                experiment,
                labels,
                hidden,
                f"{int(hidden.sum())} of {count} labels in `{labels.key}` name an output of "
                f"`{name}` that is masked away: its score lies {self.least:.0e} or more below the "
                "best",
                lines,
                count,
            )

    def _filled(
        self,
        experiment: Experiment,
        labels: Labels,
        values: Tensor,
        name: str,
        rows: Tensor,
        valid: Tensor,
        lines: list[str],
    ) -> Iterator[Finding]:
        """Of labels whose score is what a mask writes, be it ever so small."""
        others = filled(rows, values, lambda draw: _redrawn(experiment, labels, name, draw))
        hidden = valid & others.any(-1)
        if bool(hidden.any()):
            first = tuple(hidden.nonzero()[0].tolist())
            score = float(rows[first][int(values[first])])
            yield self._finding(
                experiment,
                labels,
                hidden,
                f"{int(hidden.sum())} of {int(valid.sum())} labels in `{labels.key}` name an "
                f"output of `{name}` that is masked away: no weights move its score, {score:.4g}, "
                "and others of its row have the same",
                lines,
                int(valid.sum()),
            )

    def _hidden(self, found: HiddenGold) -> Finding:
        several = len(found.classes) > 1
        what = f"{'classes' if several else 'class'} {', '.join(map(str, found.classes[:FEW]))}"
        why = "no weights move" if found.constant else "a mask must have been added to"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if found.constant else Verdict.WARN,
            message=f"gold labels cannot be produced: {found.count} of {found.of} that "
            f"`{found.op}` is handed are {what}{', ...' if len(found.classes) > FEW else ''}, "
            f"masked away there: {why} {'their scores' if several else 'its score'}, "
            f"{found.score:.4g}, and the best of each row lies {found.gap:.3g} or more above.",
            fix="Leave what is to be learned out of the mask, or out of the loss.",
            site=LOSS,
            op=found.op,
            phase="forward",
            source=found.line,
            evidence=(
                Evidence("golds that are masked away", found.count, 0, f"of {found.of}"),
                Evidence("how far the best score is above, at least", found.gap, NATS),
            ),
        )

    def _is_huge(self, experiment: Experiment) -> bool:
        """Whether the loss is so large, or infinite, as a masked label makes it."""
        value = experiment.evaluated.ran.outputs.get(LOSS)
        return value is not None and not float(value.abs().max()) < 0.01 * self.least

    def _finding(
        self,
        experiment: Experiment,
        labels: Labels,
        wrong: Tensor,
        words: str,
        lines: list[str],
        count: int,
    ) -> Finding:
        axes = experiment.layout.axes.get(labels.key, ())
        names = axes if len(axes) == wrong.ndim else [f"axis {i}" for i in range(wrong.ndim)]
        at = [int(i) for i in wrong.nonzero()[0]]
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"gold labels cannot be produced: {words}.",
            fix="Give what is to be said an output, or an output that stands for the unknown; "
            "look at what the candidates of those samples leave out.",
            site="<data>",
            phase="data",
            samples=tuple(sorted(set(torch.nonzero(wrong)[:, 0].tolist()))),
            where=dict(zip(names, at, strict=True)),
            evidence=(
                Evidence("labels that no output can produce", int(wrong.sum()), 0, f"of {count}"),
            ),
        )
        return resting_on(finding, lines)


def _redrawn(experiment: Experiment, labels: Labels, name: str, draw: int) -> Tensor | None:
    """The output under other weights, its classes last."""
    model, shape = experiment.subject.model, tuple(experiment.tensors[labels.key].shape)
    try:
        with kept(model):
            baseline = experiment.evaluated
            ran = baseline.run(experiment.batch, before=lambda: redraw(model, draw))
    except ExperimentError:
        return None
    return None if name not in ran.outputs else lines_of(ran.outputs[name], shape)


def _valid(labels: Labels, values: Tensor) -> Tensor:
    return values >= 0 if labels.ignore is None else (values >= 0) & (values != labels.ignore)


def _is_ignored(beyond: Tensor, classes: int) -> bool:
    """Whether it is one id that no class follows on, such as 255: what is not to be scored."""
    return len(beyond.unique()) == 1 and int(beyond[0]) > classes


def _scored(experiment: Experiment, labels: Labels) -> tuple[str, Tensor] | None:
    """The output that these labels score, most likely, with its classes last.

    The one of the labels' name; else, of all that have a score for every label, the one with the
    fewest classes; else the one with the most. What is guessed must be seen to be scored.
    """
    values = experiment.tensors[labels.key]
    found = {
        name: rows
        for name, output in experiment.outputs.items()
        if output.is_floating_point()
        and (rows := lines_of(output, tuple(values.shape))) is not None
        and rows.shape[-1] > 1
        and (labels in experiment.declared.labels or is_scored(experiment, labels, name, rows))
    }
    if not found:
        return None
    named = [name for name in (labels.output, labels.key) if name in found]
    known = values[_valid(labels, values)]
    wide = [name for name, rows in found.items() if bool((known < rows.shape[-1]).all())]
    by_width = {name: rows.shape[-1] for name, rows in found.items()}
    name = next(iter(named), None) or (
        min(wide, key=by_width.__getitem__) if wide else max(by_width, key=by_width.__getitem__)
    )
    return name, found[name]
