"""IDX003: a label that no output can produce."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import LOSS, Experiment, resting_on
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.layout import Labels
from probes.scoring.answers import keys, lines_of
from probes.scoring.handed_labels import is_scored
from probes.scoring.tied import filled, kept, redraw


@dataclass(frozen=True, slots=True)
class UnreachableLabel:
    """What is to be learned is not among the outputs.

    Three forms: a step that the labels' own mask counts, and whose label is the ignored one,
    because what stands there has no output (it is only told where `Labels(mask=...)` declares the
    mask); a class beyond the last output, which the loss silently leaves out, unless it is one id
    far beyond, such as 255, which is ignored on purpose; a label whose score is masked away, so
    that the loss is huge and never falls, or so that no weights move it and it is the same as
    that of others in its row. Which output a key of labels is scored against is told by the loss
    that takes its integers, or by the gradient that one of them moves; without either, nothing is
    said.

    Sick: `labels = vocabulary.get(token, -100)` for tokens that the decoder cannot say.
    Healthy: every token is among the outputs, or stands for `_UNK`, which is.
    """

    least: float = 1e4  # so far below the best score a label's is masked away

    code: ClassVar[str] = "IDX003"
    rule: ClassVar[str] = "unreachable-label"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Labels of classes."""
        if not any(True for _ in keys(experiment)):
            return "no key of class labels is known: declare it by `Layout(labels=(Labels(...),))`"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a form and key of labels."""
        for labels in keys(experiment):
            values = experiment.tensors[labels.key]
            yield from self._lost(experiment, labels, values)
            scored = _scored(experiment, labels)
            if scored is not None:
                yield from self._of(experiment, labels, values, *scored)

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
