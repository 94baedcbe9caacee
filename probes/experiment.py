"""A subject with one batch and what is known of it: the material of the active checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from probes.batch import leaves, map_leaves, sample_axes, sample_count, take
from probes.compare import Baseline, Comparison, Difference, Look
from probes.execution import Ran, named
from probes.finding import ExperimentError
from probes.first_step import first_batch
from probes.given_again import given_again
from probes.guess import complete
from probes.layout import Layout
from probes.masking.hidden import Hidden, hidden
from probes.masking.trailing import hidden_by_row
from probes.operators.step import Operated, operated
from probes.raised import said, source_of
from probes.replay import RandomState
from probes.run import NamedArray
from probes.scoring.targets import targets
from probes.seeding import seed_everything
from probes.softmaxes.formed import Use
from probes.states.attributes import changed, contents
from probes.states.recurrence import Recurrent
from probes.stepping.aim import is_the_loss
from probes.stepping.one_step import Stepped, one_step
from probes.stepping.order_of_step import Order, order_of_step
from probes.stepping.walk import Walked, walk
from probes.subject import Batch, Subject

LOSS = "<loss>"
EFFECT = ("largest", "noise", "limit")
SIZES = (7, 5, 8, 6, 4, 3)  # samples that are experimented with: first what few axes are long
LOOKED = 4  # batches, among which one with padding is chosen


@dataclass(frozen=True)
class Experiment:
    """A subject, the batch that is experimented with, and what its tensors mean.

    layout: declared and guessed. declared: as the user wrote it. arrays: what the checks measured
    and the run folder is to keep, by name, each name a check's slug and what it is. memo: what
    several checks want to know, by name. effects: what every change came to that was compared, by
    what was changed. repeats: two runs are known to be the same to the bit. uncut: the batch with
    all its samples, where the experiments are made with few of them.
    Nothing of the subject is changed by an experiment; what its code counts up outside of the
    model is not known.
    """

    subject: Subject
    batch: Batch
    layout: Layout
    declared: Layout
    arrays: dict[str, NamedArray] = field(default_factory=dict, compare=False)
    memo: dict[str, Any] = field(default_factory=dict, compare=False)
    effects: dict[str, tuple[Difference, ...]] = field(default_factory=dict, compare=False)
    repeats: bool = False
    uncut: Batch | None = field(default=None, compare=False)

    @classmethod
    def of(cls, subject: Subject) -> Experiment:
        """With the first batch that has padding among the first few, else with the first.

        Raises RequestError where there is no batch.
        """
        first = cls._with(subject, first_batch(subject))
        batches = (cls._with(subject, batch) for batch in islice(subject.batches, LOOKED))
        chosen = next((each for each in batches if each._hidden_by_row().any()), first)
        return chosen._cut()

    def of_batch(self, batch: Batch) -> Experiment:
        """The same subject and layout with another batch, of which nothing is known yet."""
        repeats = self.repeats or self.evaluated.noise == 0
        return replace(
            self, batch=batch, arrays={}, memo={}, effects={}, repeats=repeats, uncut=None
        )

    @classmethod
    def _with(cls, subject: Subject, batch: Batch) -> Experiment:
        declared = subject.layout or Layout()
        return cls(subject, batch, complete(batch, declared).layout, declared)

    def _hidden_by_row(self) -> Tensor:
        """How many positions all masks hide of each sample, and runs of one id that rows end in."""
        masked = {each.key for each in self.masks} | {each.key for each in self.layout.labels}
        ids = (tensor for key, tensor in self.tensors.items() if key not in masked)
        return hidden_by_row(self.size, self.masks, ids)

    def _cut(self) -> Experiment:
        """With few samples, more padded and less, so many as no other axis is long; or as it is."""
        lengths = {n for t in self.tensors.values() for n in t.shape[1:]}
        fit = [n for n in SIZES if n <= self.size and n not in lengths]
        if not fit or fit[0] == self.size:
            return self
        order = self._hidden_by_row().argsort(descending=True, stable=True).tolist()
        rows = sorted([*order[: fit[0] // 2], *order[::-1][: fit[0] - fit[0] // 2]])
        fewer = self._with(self.subject, take(self.batch, rows, self.layout))
        fewer = replace(fewer, uncut=self.batch)
        try:
            _ = fewer.evaluated, fewer._stepped_cut
        except ExperimentError:
            return self  # the model knows how large its batches are
        return fewer

    def keep(
        self,
        name: str,
        values: Tensor,
        axes: Sequence[str],
        labels: Mapping[str, Sequence[str]] | None = None,
        **about: Any,
    ) -> None:
        """What was measured lies in the run folder as `arrays/NAME.npy` and `NAME.json`.

        axes: names of the values' axes. labels: axis name to how its entries are called. about:
        strict JSON, whatever else is to be known.
        """
        held = values.detach().cpu()
        wide = held.float() if held.dtype in (torch.bfloat16, torch.float16) else held
        self.arrays[name] = NamedArray(wide.numpy(), tuple(axes), dict(labels or {}), about)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the batch by path."""
        return {path: leaf for path, leaf in leaves(self.batch).items() if isinstance(leaf, Tensor)}

    @cached_property
    def masks(self) -> tuple[Hidden, ...]:
        """What every mask hides of every key that is there."""
        return tuple(hidden(self.layout, self.declared, self.tensors))

    @cached_property
    def size(self) -> int:
        """How many samples the batch holds; 0 where it cannot be cut."""
        return sample_count(self.batch, self.layout) or 0

    @cached_property
    def evaluated(self) -> Baseline:
        """The batch in evaluation mode: outputs by name, and the loss as `<loss>`."""
        own = self.subject.predict is None
        return Baseline(self._once, self.batch, self.subject.model, own, self.repeats)

    def _once(self, batch: Batch) -> Mapping[str, Tensor]:
        """As `once`; a model that is called leaves no trace computes what it is given but once."""
        model = self.subject.model
        if "traceless" not in self.memo:
            before, drawn = contents(model), RandomState.take()
            found = self.once(batch)
            same = not changed(before, contents(model)) and drawn.same(RandomState.take())
            self.memo["traceless"] = same and self.subject.predict is not None
            return found
        if not self.memo["traceless"]:
            return self.once(batch)
        with given_again(model) as spared:
            try:
                return self.once(batch)
            except ExperimentError:
                if not spared.count:
                    raise
        return self.once(batch)  # what the model gave is not to be used twice

    @property
    def lacks_loss(self) -> str | None:
        """Why the batch has no loss in evaluation mode; None where it has one."""
        known = LOSS in self.evaluated.ran.outputs
        return None if known else "the loss could not be had: `Subject.loss` raises"

    def evaluate(self, batch: Batch, under: Sequence[AbstractContextManager[Any]] = ()) -> Ran:
        """The same of another batch, from the same state. Raises ExperimentError if it raises."""
        return self.evaluated.run(batch, under=under)

    def parted(self, what: str, ran: Ran, look: Look | None = None) -> Comparison:
        """Where the run parts from the unchanged one; its effect on every output is kept.

        what: was changed, as `ids after 3`.
        """
        found = self.evaluated.against(ran, look, self.axes)
        self.effects[what] = found.measured
        return found

    def keep_effects(self, name: str) -> None:
        """All effects since the last time lie in an array of this name: (change, output, number).

        The largest difference, what two unchanged runs differ by there, and the limit up to which
        it is noise or rounding; NaN where an output was not looked at.
        """
        outputs = list(dict.fromkeys(one.site for each in self.effects.values() for one in each))
        if not outputs:
            self.effects.clear()
            return
        values = torch.full((len(self.effects), len(outputs), len(EFFECT)), torch.nan, device="cpu")
        for row, each in zip(values, self.effects.values(), strict=True):
            for one in each:
                row[outputs.index(one.site)] = torch.tensor(
                    [one.largest, one.noise, one.limit], device="cpu"
                )
        labels = {"change": list(self.effects), "output": outputs, "number": EFFECT}
        self.keep(name, values, tuple(labels), labels)
        self.effects.clear()

    def once(self, batch: Batch) -> Mapping[str, Tensor]:
        """What the model gives in evaluation mode as it is now; nothing is put back.

        But for the random state, after a prediction: what the loss draws does not hang on that.
        """
        model, fresh = self.subject.model.eval(), copied(batch)
        found: dict[str, Tensor] = {}
        if self.subject.predict is not None:
            state = RandomState.take()
            with attempted("`Subject.predict`, on a changed batch in evaluation mode,"):
                found |= named(self.subject.predict(model, fresh))
            state.restore()
            fresh = copied(batch)
        if self.subject.train_step is not None and self.subject.predict is not None:
            return found | self._loss_in_use(fresh)
        with attempted("`Subject.loss`, on a changed batch in evaluation mode,"):
            return found | {LOSS: self.subject.loss(model, fresh)}

    def _loss_in_use(self, batch: Batch) -> dict[str, Tensor]:
        """The loss; nothing where it raises, since with a `train_step` it may be out of use."""
        try:
            return {LOSS: self.subject.loss(self.subject.model, batch)}
        except Exception:
            return {}

    @cached_property
    def trained(self) -> Baseline:
        """The batch in the subject's own mode: what the model gives, and the loss as `<loss>`."""
        return Baseline(self._loss, self.batch, self.subject.model, own=True, repeats=self.repeats)

    def _loss(self, batch: Batch) -> Mapping[str, Tensor]:
        with attempted("`Subject.loss`, on a changed batch in training mode,"):
            return {LOSS: self.subject.loss(self.subject.model, copied(batch))}

    @cached_property
    def minimises_loss(self) -> bool:
        """Whether the step minimises `Subject.loss`, and not other losses than that."""
        return is_the_loss(self.subject, self.batch)

    @cached_property
    def order(self) -> Order:
        """In which order a few calls of the step run backward and the optimizer."""
        return order_of_step(self.subject, self.step_batch)

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        """What the batch gives in evaluation mode, but for the loss."""
        ran = self.evaluated.ran
        return {name: value for name, value in ran.outputs.items() if name != LOSS}

    @cached_property
    def sample_axis(self) -> dict[str, int]:
        """The sample axis of each output: the one axis that shrinks with the batch."""
        if self.size < 2:
            return {}
        fewer = self.evaluate(take(self.batch, range(self.size - 1), self.layout)).outputs
        found = {}
        for name, value in self.outputs.items():
            axes = _shrunk(value, fewer.get(name), self.size)
            if len(axes) == 1:
                found[name] = axes[0]
        return found

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The keys that hold what the outputs should be."""
        return tuple(targets(self))

    @property
    def lengths(self) -> Tensor | None:
        """(sample,) how many positions the first mask leaves of each; None without a mask."""
        for each in self.masks:
            if len(each.keep) == self.size:
                return each.keep.flatten(1).sum(1)
        return None

    @cached_property
    def is_random(self) -> bool:
        """Whether outputs hang on the random state in evaluation mode."""
        baseline = self.evaluated
        return bool(baseline.against(self.reseeded).outputs)

    @cached_property
    def reseeded(self) -> Ran:
        """The batch in evaluation mode, from another random state."""
        return self.evaluated.run(self.batch, before=lambda: seed_everything(987_654_321))

    @property
    def samples_guessed(self) -> tuple[str, ...]:
        """The line that would declare the sample axis; nothing where one is declared."""
        if any("sample" in axes for axes in self.declared.axes.values()):
            return ()
        known = sample_axes(self.batch, self.layout)
        key = next((path for path in self.tensors if path in known), "")
        return (f"axes={{{key!r}: {self.layout.axes.get(key, ('sample',))!r}}}",)

    @cached_property
    def recurrent(self) -> list[Recurrent]:
        """The calls of recurrent modules in a training forward pass of a copy of the model."""
        from probes.states.life import Life

        return Life(self).recurrent(self.batch)

    @cached_property
    def stepped(self) -> Stepped:
        """One training step of the subject's own, from its own mode, on `step_batch`."""
        return self._stepped_cut if self.step_batch is self.batch else self._stepped_whole

    @cached_property
    def _stepped_cut(self) -> Stepped:
        return one_step(self.subject, self.batch)

    @cached_property
    def _stepped_whole(self) -> Stepped:
        return one_step(self.subject, self.uncut)

    @cached_property
    def step_batch(self) -> Batch:
        """What a whole step is looked at with: few samples, where it does with them what it does.

        A step of the subject's own that cuts its batch into parts has fewer of them, or none, with
        fewer samples; then it is given all.
        """
        if self.uncut is None or self.subject.train_step is None:
            return self.batch
        try:
            same = self._stepped_whole.passes == self._stepped_cut.passes
        except ExperimentError:
            return self.batch
        return self.batch if same else self.uncut

    @cached_property
    def walked(self) -> Walked:
        """A few training steps on `step_batch`, looked at and undone."""
        return walk(self.subject, self.step_batch)

    @cached_property
    def operated(self) -> Operated:
        """What single operators of a training step did."""
        return operated(self.subject, self.batch, self.size)

    @property
    def formed(self) -> tuple[Use, ...]:
        """What a training step does with softmaxes and sigmoids, where that reaches the loss."""
        return self.operated.uses

    def axes(self, site: str, shape: tuple[int, ...]) -> list[str]:
        """How the axes of a site or output are called, where the layout or the masks say."""
        declared = self.layout.axes.get(site) or self.layout.axes.get(site.partition("[")[0])
        if declared is not None and len(declared) == len(shape):
            return list(declared)
        rest = [f"axis {i}" for i in range(len(shape))]
        if shape and shape[0] == self.size:
            rest[0] = "sample"
        for mask in self.masks:
            if len(mask.keep.shape) == 2 and shape[:2] == tuple(mask.keep.shape):
                rest[:2] = ["sample", "token"]
        return [*rest[:-1], "feature"] if len(shape) > 2 else rest


def _shrunk(value: Tensor, fewer: Tensor | None, size: int) -> list[int]:
    if fewer is None or fewer.ndim != value.ndim:
        return []
    pairs = list(zip(value.shape, fewer.shape, strict=True))
    axes = [i for i, (one, two) in enumerate(pairs) if (one, two) == (size, size - 1)]
    return axes if all(one == two for i, (one, two) in enumerate(pairs) if i not in axes) else []


def copied(batch: Batch) -> Batch:
    """The batch with tensors of its own, since the user's code may write into them."""
    return map_leaves(batch, lambda _, leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf)


def with_leaf(batch: Batch, path: str, leaf: Any) -> Batch:
    """The batch with another leaf at this path."""
    return map_leaves(batch, lambda at, old: leaf if at == path else old)


@contextmanager
def attempted(what: str) -> Iterator[None]:
    """What the user's code raises inside becomes ExperimentError, which says what, and where."""
    try:
        yield
    except ExperimentError:
        raise
    except Exception as error:
        place = source_of(error)
        at = f" at {place}" if place else ""
        raise ExperimentError(f"{what} raised {said(error)}{at}") from error
