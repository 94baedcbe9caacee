"""STA013: a step writes into its own batch, and the next pass over it reads what is left there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from probes.batch import leaves
from probes.experiment import Experiment, attempted, copied
from probes.finding import Evidence, Finding, Verdict
from probes.operators.writes import Write, Writes, memory
from probes.replay import Snapshot, replay
from probes.reread import Reread
from probes.seeding import kept_random_state, seed_everything
from probes.stepping.one_step import keep_strangers, made
from probes.subject import Batch

SEEDS = 11, 12


@dataclass(frozen=True, slots=True)
class WrittenBatch:
    """What a pass is given, it changes in place, so that a later pass is given something else.

    A training step runs on a copy of a batch, and then on what it left of that: with the same
    random numbers its loss must be the same as on the batch itself. Where it is not, the data are
    others from epoch to epoch: normalised again and again, masked in more and more places. Where
    each pass over the data makes its tensors anew, as a DataLoader that collates them does, nobody
    reads what is left, and it is a note. What changes nothing when it is done again, as
    `labels[labels == pad] = -100`, and what no loss reads, is silence.

    Sick: `x.sub_(mean).div_(std)` in `forward`.
    Healthy: `(x - mean) / std`.
    """

    same: float = 1e-4  # of the loss

    code: ClassVar[str] = "STA013"
    rule: ClassVar[str] = "batch-written"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Nothing."""
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding."""
        batch = experiment.step_batch
        _, left, writes = _ran(experiment, batch, SEEDS[0])
        keys = _changed(batch, left)
        if not keys:
            return
        before, after = _ran(experiment, batch, SEEDS[1])[0], _ran(experiment, left, SEEDS[1])[0]
        if abs(before - after) > self.same * max(abs(before), abs(after)):
            first = next((each for each in writes if each.name == keys[0]), None)
            kept = _is_kept(experiment.subject.batches, keys)
            yield self._said(keys, first, before, after, kept)

    def _said(
        self, keys: list[str], first: Write | None, before: float, after: float, kept: bool
    ) -> Finding:
        named = ", ".join(f"`{key}`" if key else "the batch" for key in keys)
        how = f" by `{first.op}`" if first is not None else ""
        where = "the loss code" if first is None or first.site == "<loss>" else f"`{first.site}`"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL if kept else Verdict.NOTE,
            message=f"{where} writes into its batch in place{how}: {named} is not what it was "
            f"after a pass, and another pass over the same batch has a loss of {after:.4g} in "
            f"place of {before:.4g}"
            + (
                ", epoch after epoch."
                if kept
                else "; each pass over the data makes its tensors anew, so that none does."
            ),
            fix="Compute a new tensor instead of writing into the one that is given: `x.sub(mean)`"
            " for `x.sub_(mean)`, `x = x.clone()` before a write.",
            site="<loss>" if first is None else first.site,
            op=None if first is None else first.op,
            phase="forward",
            source=None if first is None else first.source,
            evidence=(
                Evidence("loss on the batch", before),
                Evidence("loss on what a pass left of it, from the same random state", after),
            ),
        )


def _ran(experiment: Experiment, batch: Batch, seed: int) -> tuple[float, Batch, list[Write]]:
    """The loss of a step on a copy of the batch, what it left of that, and what it wrote."""
    subject, model, own = experiment.subject, experiment.subject.model, copied(batch)
    writes = Writes(model, _tensors(own))

    def step() -> Tensor:
        seed_everything(seed)
        loop = made(subject) if subject.train_step is not None else None
        with writes, attempted("a training step"):
            return subject.loss(model, own) if loop is None else loop.step(own)

    with ExitStack() as outside:
        if subject.train_step is not None:
            keep_strangers(subject, outside)
        loss = replay(step, model, Snapshot.take(model, parameters=True)).loss
    return float(loss), own, writes.found


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {path: leaf for path, leaf in leaves(batch).items() if isinstance(leaf, Tensor)}


def _changed(before: Batch, after: Batch) -> list[str]:
    """The keys whose values are others; all of them are there still."""
    was, now = _tensors(before), _tensors(after)
    return [key for key, tensor in was.items() if key in now and not _is_same(tensor, now[key])]


def _is_same(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape or one.dtype != two.dtype:
        return True  # it was replaced, and not written into
    return bool(((one == two) | ((one != one) & (two != two))).all())


def _is_kept(batches: Iterable[Any], keys: list[str]) -> bool:
    """Whether two passes over the data give the very same memory."""
    if isinstance(batches, Reread):  # of what comes once nothing comes again
        return False
    with kept_random_state():
        one, two = (_tensors(next(iter(batches))) for _ in range(2))
    return any(
        key in one and key in two and memory(one[key]) == memory(two[key]) is not None
        for key in keys
    )
