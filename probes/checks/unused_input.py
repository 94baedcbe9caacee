"""WIR007: an input that nothing depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.compare import NOISES, gap
from probes.experiment import Experiment, with_leaf
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.layout import Mask
from probes.subject import Batch
from probes.vary import vary


@dataclass(frozen=True, slots=True)
class UnusedInput:
    """A key of the batch is changed, and neither the loss nor any output moves.

    Each tensor gets other values out of its own; a mask hides one more position. That no key
    at all has an effect is a fault; that declared labels, or what an output is declared to read,
    have none is a warning. Any other unread key is a note, a mask as well, since batches carry
    what no model reads; whether a mask is missed, MSK001 says. A key that holds one value only
    cannot be changed and is left out.

    Sick: `model(batch["x"] * 0)`.
    Healthy: `model(batch["x"])`.
    """

    code: ClassVar[str] = "WIR007"
    rule: ClassVar[str] = "unused-input"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Tensors in the batch."""
        return None if experiment.tensors else "the batch holds no tensor"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """One finding a key that is not read, or one for them all."""
        read = {}
        for key in experiment.tensors:
            batch = _changed(experiment, key)
            if batch is not None:
                read[key] = _has_effect(experiment, batch)
        labels = {each.key for each in experiment.layout.labels}
        inputs = [key for key in read if key not in labels]
        if inputs and not any(read[key] for key in inputs):
            yield self._nothing(inputs)
            return
        for key in [key for key, is_read in read.items() if not is_read]:
            yield self._unread(experiment, key)

    def _nothing(self, keys: list[str]) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message="no input has any effect: loss and outputs are the same whatever "
            f"{', '.join(f'`{key}`' for key in keys)} hold.",
            fix="Look where the input gets lost: a constant in its place, a multiplication by "
            "zero, another batch that the code reads.",
            site="<data>",
            phase="forward",
            evidence=(Evidence("keys with an effect", 0, 1, f"of {len(keys)}"),),
        )

    def _unread(self, experiment: Experiment, key: str) -> Finding:
        declared = experiment.declared
        meant = {each.key for each in declared.labels} | {each.of for each in declared.reads}
        padded = _padded(experiment, key)
        told = f", a mask that hides {padded} positions" if padded else ""
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if key in meant else Verdict.NOTE,
            message=f"nobody reads `{key}`{told}: with other values in it, loss and outputs are "
            "the same.",
            fix=f"Hand `{key}` to what should read it."
            if key in meant
            else "Nothing, if the model is not meant to read it.",
            site="<data>",
            phase="forward",
            evidence=(Evidence(f"largest effect of changing `{key}`", 0.0),),
        )


def _changed(experiment: Experiment, key: str) -> Batch | None:
    """The batch with other values under the key; None where there are no others."""
    tensor = experiment.tensors[key]
    mask = next((m for m in experiment.layout.masks if m.key == key and m.means != "id"), None)
    if mask is not None:
        other = _hides_more(mask, tensor)
    else:
        keeps = [each.keep for each in experiment.masks if each.key == key]
        where = torch.ones((), dtype=torch.bool, device=tensor.device)
        other = vary(tensor, _visible(keeps, where, tensor))
    return None if other is None else with_leaf(experiment.batch, key, other)


def _visible(keeps: list[Tensor], where: Tensor, tensor: Tensor) -> Tensor:
    for keep in keeps:
        seen = keep.reshape(*keep.shape, *[1] * (tensor.ndim - keep.ndim))
        where = where & seen
    return where.expand(tensor.shape)


def _hides_more(mask: Mask, tensor: Tensor) -> Tensor | None:
    """The mask with the outermost visible position of each row hidden; at least one stays."""
    if mask.means == "length":
        return torch.where(tensor > 1, tensor - 1, tensor) if bool((tensor > 1).any()) else None
    keep = (tensor != 0) == (mask.means == "keep")
    flat = keep.reshape(-1, keep.shape[-1])
    order = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    at = (flat * (order if mask.side == "right" else order.flip(0))).argmax(1)
    rows = flat.sum(1) > 1
    if not bool(rows.any()):
        return None
    out = tensor.clone().reshape(-1, keep.shape[-1])
    out[rows.nonzero().flatten(), at[rows]] = 0 if mask.means == "keep" else 1
    return out.view(tensor.shape)


def _has_effect(experiment: Experiment, batch: Batch) -> bool:
    """Whether loss or outputs move; an input that makes the code raise is read, too."""
    try:
        ran = experiment.evaluate(batch)
    except ExperimentError:
        return True
    before = experiment.evaluated.ran.outputs
    if any(v.shape != before[n].shape for n, v in ran.outputs.items() if n in before):
        return True
    limit = NOISES * experiment.evaluated.noise
    return any(_moves(value, ran.outputs.get(name), limit) for name, value in before.items())


def _moves(before: Tensor, after: Tensor | None, limit: float) -> bool:
    return after is None or gap(before, after)[0] > limit


def _padded(experiment: Experiment, key: str) -> int:
    """How many positions it hides, where it is a mask."""
    counts = [int((~each.keep).sum()) for each in experiment.masks if each.mask.key == key]
    return max(counts, default=0)
