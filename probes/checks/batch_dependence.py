"""MSK002: a sample's output depends on its neighbours in the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from probes.batch import take
from probes.checks.joined_graphs import JoinedGraphs
from probes.compare import Comparison, Look
from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.line import line
from probes.masking.by_place import ByPlace, by_place
from probes.masking.owners import Owners, owners
from probes.place import Place, place
from probes.reading.time_first import TimeFirst, carries_on, time_first
from probes.scoring.in_turn import Unturned, is_alike, unturned, visible
from probes.subject import Batch


@dataclass(frozen=True, slots=True)
class BatchDependence:
    """In evaluation mode, a sample's output changes with the samples beside it.

    Samples are mixed where a reshape stands for a transpose, where a softmax or a mean runs over
    the batch, where the recurrence runs over the wrong axis. One sample keeps its place while
    all others become copies of it; then the batch is turned by one, and the outputs must turn
    with it; where they do not, what is joined to a sample by its place alone is named. Batch norm
    without running statistics does it by design, and is a note. An output that has no sample axis,
    or two (similarities within the batch), is not judged. Where keys differ in length, as in a
    batch of graphs, and one says which rows are whose, as `batch` does, or a table of (graph,
    source, target), what the others hold is exchanged among them instead, and no edge; graphs that
    are labelled by twos are not judged, and edges between graphs are left to IDX008. Where all keys
    begin with the same two axes and the first is read in order, as time is, it is the second axis
    whose entries must not depend on each other; if they do not, it is a note.

    Sick: `nn.LSTM(8, 16)` fed with (sample, time, feature).
    Healthy: `nn.LSTM(8, 16, batch_first=True)`.
    """

    tried: int = 8  # samples, of which so many at most keep their place in turn
    enough: int = 3

    code: ClassVar[str] = "MSK002"
    rule: ClassVar[str] = "batch-dependence"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Two samples, an output with their axis, and no graph over them."""
        if owners(experiment) is not None:
            return None
        if experiment.size < 2:
            return "the batch cannot be cut into two samples or more"
        declared = experiment.declared.axes.values()
        if declared and not any("sample" in axes for axes in declared):
            return "axes are declared, and none of them is the sample's"
        size = experiment.size
        told = {key for key, axes in experiment.declared.axes.items() if "sample" in axes}
        unclear = [t for key, t in experiment.tensors.items() if key not in told]
        if any(list(t.shape).count(size) > 1 for t in unclear):
            return f"a key of the batch has two axes of {size}: which is the sample's is unclear"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        owned = owners(experiment)
        if owned is not None:
            yield from self._exchanged(experiment, owned)
            return
        if not experiment.sample_axis:
            raise ExperimentError(
                "no output has an axis that grows with the batch: give `Subject.predict`"
            )
        done = 0
        for i in range(min(self.tried, experiment.size)):
            copies = take(experiment.batch, [i] * experiment.size, experiment.layout)
            try:
                ran = experiment.evaluate(copies)
            except ExperimentError:
                continue  # such as labels of another length than the outputs
            if not is_alike(experiment, ran):
                continue  # the longest sample is gone, and the shapes with it
            done += 1
            look = _Row(experiment, i)
            found = experiment.parted(f"neighbours of sample {i}", ran, look)
            differ = [each for each in found.outputs if each.site in experiment.sample_axis]
            if differ:
                other = time_first(experiment)
                if other is not None:
                    yield self._of_time_first(experiment, i, found, other)
                else:
                    finding = self._dependent(experiment, i, found, experiment.samples_guessed)
                    yield replace(finding, source=_line(experiment, copies, found, look))
                return
            if done == self.enough:
                break
        if not experiment.is_random:
            with suppress(ExperimentError):  # such as lengths that are to be sorted
                yield from self._turned(experiment)
        if not done:
            raise ExperimentError("copies of one sample give outputs of other shapes, or an error")

    def _of_time_first(
        self, experiment: Experiment, i: int, found: Comparison, other: TimeFirst
    ) -> Finding:
        """Where the first axis is read in order: what the second mixes, if that may be samples."""
        if other.mixed is None:
            return _meant(self._dependent(experiment, i, found, experiment.samples_guessed))
        return self._on_second(experiment, other, other.mixed)

    def _on_second(self, experiment: Experiment, other: TimeFirst, mixed: Comparison) -> Finding:
        finding = self._dependent(experiment, other.sample, mixed, ())
        return replace(
            finding,
            verdict=min(finding.verdict, Verdict.WARN, key=lambda verdict: verdict.rank),
            message=finding.message.replace("neighbours", "neighbours on the second axis", 1)
            + " The first axis is read in order, as time is."
            + (f" With one entry less on the second, {other.refused}." if other.refused else ""),
            fix="Look there for what is broadcast over, or taken along, another axis that happens "
            "to be as long as the second one: `mask.unsqueeze(-1)`. That samples stand on the "
            "second axis is a guess, since the first is read in order.",
        )

    def _exchanged(self, experiment: Experiment, owned: Owners) -> Iterator[Finding]:
        """Of a batch that cannot be cut: what others hold is exchanged among them."""
        looked = False
        for i in range(min(self.tried, owned.size)):
            batch = owned.exchanged(experiment, i)
            if batch is None:
                continue
            ran = experiment.evaluate(batch)
            look = _Owned(owned, i)
            found = experiment.parted(f"neighbours of sample {i}", ran, look)
            looked = looked or bool(found.measured)
            if found.outputs:
                at = _line(experiment, batch, found, look)
                yield self._crossing(experiment, owned, i, found, at)
                return
        if not looked:
            raise ExperimentError(f"no output has the rows or the samples of `{owned.told}`")

    def _crossing(
        self, experiment: Experiment, owned: Owners, i: int, found: Comparison, at: str | None
    ) -> Finding:
        finding = replace(self._dependent(experiment, i, found, ()), source=at)
        if finding.verdict is Verdict.NOTE:
            return finding
        edges = JoinedGraphs()
        if edges.lacks(experiment) is None and any(edges.judge(experiment)):
            return replace(
                finding,
                verdict=Verdict.NOTE,
                fix=f"Mend the edges first, which lead from graph to graph ({edges.code}).",
            )
        return replace(
            finding,
            verdict=Verdict.WARN,
            fix="Look there for a softmax or a mean over all samples' rows, in place of each one's "
            "own, or an index whose offset is not the number of rows before its sample. "
            f"That `{owned.told}` says which sample a row is of is a guess.",
        )

    def _dependent(
        self, experiment: Experiment, i: int, found: Comparison, guessed: Sequence[str]
    ) -> Finding:
        where = place(found, experiment.subject.model)
        worst = max(found.outputs, key=lambda each: each.relative)
        norm = _is_batch_norm(experiment, where)
        meant = norm or (bool(guessed) and _runs_over_first(experiment, where))
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.NOTE if meant else Verdict.FAIL,
            message=f"sample {i}'s `{worst.site}` depends on its neighbours, {where.words}: with "
            f"others beside it, it changes by {100 * worst.relative:.2g}%"
            + (", since batch norm without running statistics mixes the batch." if norm else "."),
            fix="Nothing, if that is meant; `track_running_stats=True` does not mix in evaluation."
            if norm
            else "Look there for a reshape where a transpose was meant, a softmax or mean over the "
            "sample axis, a recurrence over samples (`batch_first`).",
            site=where.site,
            phase="forward",
            samples=(i,),
            where=dict(worst.where),
            evidence=(Evidence(f"largest change of `{worst.site}`", worst.largest, worst.limit),),
        )
        return resting_on(finding, [] if norm else guessed)

    def _turned(self, experiment: Experiment) -> Iterator[Finding]:
        found = unturned(experiment)
        if found is None:
            return
        other = time_first(experiment)
        if other is not None and not carries_on(experiment):
            other = None
        if other is not None and other.mixed is not None:
            yield self._on_second(experiment, other, other.mixed)
            return
        finding = self._not_turned(found, by_place(experiment))
        finding = resting_on(finding, experiment.samples_guessed)
        yield finding if other is None else _meant(finding)

    def _not_turned(self, found: Unturned, joined: ByPlace | None) -> Finding:
        told = "." if joined is None else f": {_joined(joined)}"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"turning the batch by one sample does not turn `{found.name}`: "
            f"sample {found.sample}'s output depends on its place in the batch{told}",
            fix="Look for something that is indexed by the place in the batch, or sorted and not "
            "put back."
            if joined is None
            else "Index it by the axis that it is meant for, such as the token's, `x.size(1)` for "
            "`x.size(0)` of (sample, token, feature).",
            site="model" if joined is None else joined.site,
            op=None if joined is None else joined.op,
            source=None if joined is None else joined.source,
            phase="forward",
            samples=(found.sample,),
            evidence=(Evidence(f"largest change of `{found.name}`", found.largest, found.limit),),
        )


def _joined(found: ByPlace) -> str:
    rows = f"the rows of `{found.name}`" if found.name else "rows"
    return (
        f"{rows}, one for each place in the batch and computed from no input, meet it there by "
        f"`{found.op}`."
    )


def _meant(finding: Finding) -> Finding:
    """As it is where the first axis is read in order, and nothing mixes on the second."""
    fix = "Nothing, if the first axis is time and the second the samples'; else "
    return replace(finding, verdict=Verdict.NOTE, fix=fix + _lower(finding.fix))


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _is_batch_norm(experiment: Experiment, where: Place) -> bool:
    modules = dict(experiment.subject.model.named_modules())
    module = modules.get(where.site)
    return isinstance(module, _BatchNorm) or "BatchNorm" in type(module).__name__


def _runs_over_first(experiment: Experiment, where: Place) -> bool:
    """Whether it is a recurrence over the first axis, and no key says that samples stand there.

    Then the first axis is as likely time: (time, sample) is what torch's recurrent layers take.
    """
    module = dict(experiment.subject.model.named_modules()).get(where.site)
    by_sample = (t.ndim == 1 and len(t) == experiment.size for t in experiment.tensors.values())
    return isinstance(module, nn.RNNBase) and not module.batch_first and not any(by_sample)


class _Owned:
    """Looks at what is one sample's own, of outputs and of sites, by their first axis."""

    def __init__(self, owned: Owners, sample: int) -> None:
        self._owned = owned
        self._sample = sample

    def __call__(self, _: str, value: Tensor) -> Tensor | None:
        return self._owned.row(self._sample, value)


def _line(experiment: Experiment, copies: Batch, found: Comparison, look: Look) -> str | None:
    """The user's line at which others come to the sample that stays in its place."""
    return line(
        experiment.subject.model,
        found,
        look,
        lambda mode: experiment.evaluate(experiment.batch, (mode,)),
        lambda mode: experiment.evaluate(copies, (mode,)),
    )


class _Row:
    """Looks at one sample's visible places, of outputs and of sites that begin with samples."""

    def __init__(self, experiment: Experiment, row: int) -> None:
        self._experiment = experiment
        self._row = row

    def __call__(self, site: str, value: Tensor) -> Tensor | None:
        experiment = self._experiment
        axis = experiment.sample_axis.get(site)
        if axis is None:
            known = value.ndim > 0 and list(value.shape).count(experiment.size) == 1
            if site in experiment.outputs or not known or value.shape[0] != experiment.size:
                return None
            axis = 0
        look = torch.zeros(
            [n if i == axis else 1 for i, n in enumerate(value.shape)],
            dtype=torch.bool,
            device=value.device,
        )
        look.select(axis, self._row).fill_(True)
        seen = visible(experiment, site, value, range(experiment.size))
        return look if seen is None else look & seen
