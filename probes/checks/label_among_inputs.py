"""LBL004: a label is among the inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lgamma, log
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.reading.held_number import Held, held, numbers
from probes.reading.overlap import Overlap, overlaps, windows
from probes.reading.rows import classes, is_read, looked


@dataclass(frozen=True, slots=True)
class LabelAmongInputs:
    """A column of the inputs tells the label: it has one value for each class, and no other.

    Looked at are the columns of float keys by sample, of integer keys whose columns do not share
    their values as tokens do, and keys of one number a sample, over the first batches. That it is
    so by chance must be less likely than one in a hundred thousand, and the output must change
    with the column. Of numbers along time, the target's first values, but not all, are the input's
    last ones in every sample, the loss scores them, and the output there reads them: the windows
    overlap. One number a sample, of many values, is a column of its own input in every sample, to
    the bit; of inputs along time with features, only the last place is looked at, since to recall
    an earlier one may be the task. An autoencoder, asked for all it reads, is none of them.

    Sick: `features = table.values` with the label among the columns; `series[:, :12]` and
    `series[:, 11:15]`; `window[:, 1:]` and `window[:, -1]`.
    Healthy: `features = table.drop(columns="churned").values`; `series[:, 12:16]`;
    `window[:, :-1]` and `window[:, -1]`.
    """

    least: float = 5.0  # decimal places of the odds against chance

    code: ClassVar[str] = "LBL004"
    rule: ClassVar[str] = "label-among-inputs"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A key of one class or number a sample, or of numbers along time."""
        known = (*classes(experiment), *windows(experiment), *numbers(experiment))
        if not any(True for _ in known):
            return "no key is known to hold one class or number a sample, or numbers along time"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of labels."""
        batches = list(looked(experiment))
        for label in windows(experiment):
            yield from (
                self._overlap(experiment, each) for each in overlaps(experiment, batches, label)
            )
        yield from (self._held(experiment, each) for each in held(experiment, batches))
        for label in classes(experiment):
            for key in experiment.tensors:
                pair = None if key in experiment.targets else _joined(batches, key, label)
                floats = experiment.tensors[key].is_floating_point()
                column = None if pair is None else self._column(*pair, floats)
                if pair is not None and column is not None:
                    where = torch.zeros_like(experiment.tensors[key], dtype=torch.bool)
                    where.view(len(where), -1)[:, column] = True
                    if is_read(experiment, key, where):
                        yield self._finding(experiment, label, key, column, len(pair[1]))
                        break

    def _column(self, table: Tensor, labels: Tensor, floats: bool) -> int | None:
        """The first column that tells the labels, and is told by them."""
        kinds = labels.unique(return_inverse=True)[1]
        if int(kinds.max()) == 0 or _odds(kinds) - log(table.shape[1]) / log(10) < self.least:
            return None
        for i, column in enumerate(table.T):
            own = column.unique(return_inverse=True)[1]
            if int(own.max()) != int(kinds.max()):
                continue
            pairs = set(zip(own.tolist(), kinds.tolist(), strict=True))
            if len(pairs) == int(kinds.max()) + 1 and (floats or _is_apart(table, i)):
                return i
        return None

    def _finding(
        self, experiment: Experiment, label: str, key: str, column: int, count: int
    ) -> Finding:
        flat = experiment.tensors[key].ndim == 1
        what = f"`{key}`" if flat else f"column {column} of `{key}`"
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"{what} tells the label: over {count} samples it has one value for each "
            f"class of `{label}`, and the output changes with it.",
            fix="Leave the column out of the inputs, unless it is known when the model is used.",
            site="<data>",
            phase="data",
            where={} if flat else {"feature": column},
            evidence=(Evidence("share of samples whose label it tells", 1.0, None, f"of {count}"),),
        )
        return _as_declared(experiment, finding, label)

    def _held(self, experiment: Experiment, each: Held) -> Finding:
        place = " at its last place" if each.last else ""
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{each.key}` holds the very number that is to be given: in all of "
            f"{each.samples} samples its column {each.column}{place} is `{each.label}` to the bit, "
            "so that it need only be copied.",
            fix=f"Leave it out of `{each.key}`, or take the number after it as `{each.label}`, "
            "unless to copy it is the task.",
            site="<data>",
            phase="data",
            where={"feature": each.column},
            evidence=(Evidence("samples whose label it is", each.samples, 0),),
        )
        return _as_declared(experiment, finding, each.label, ", kind='value'")

    def _overlap(self, experiment: Experiment, each: Overlap) -> Finding:
        width = experiment.tensors[each.label].shape[1]
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the windows of `{each.key}` and `{each.label}` overlap: over {each.samples} "
            f"samples the first {each.by} of the {width} places of `{each.label}` are the last of "
            f"`{each.key}`, so that they need only be copied.",
            fix=f"Begin `{each.label}` {each.by} later, just after `{each.key}` ends.",
            site="<data>",
            phase="data",
            where={"time": 0},
            evidence=(Evidence("places that stand in the input", each.by, 0, f"of {width}"),),
        )
        return _as_declared(experiment, finding, each.label, ", kind='value'")


def _as_declared(experiment: Experiment, finding: Finding, label: str, kind: str = "") -> Finding:
    """It rests on a guess where the label is not declared."""
    declared = any(each.key == label for each in experiment.declared.labels)
    line = f"labels=(Labels({label!r}, output='output'{kind}),)"
    return resting_on(finding, [] if declared else [line])


def _joined(
    batches: Sequence[Mapping[str, Tensor]], key: str, label: str
) -> tuple[Tensor, Tensor] | None:
    """(row, column) of the key and (row,) of the labels, over batches; None where not columns."""
    tables, labels = [], []
    for batch in batches:
        table, wanted = batch.get(key), batch.get(label)
        if table is None or wanted is None or table.ndim not in (1, 2):
            return None
        if len(table) != wanted.numel() or table.is_complex():
            return None
        tables.append(table.detach().double().reshape(len(table), -1))
        labels.append(wanted.flatten())
    widths = {table.shape[1] for table in tables}
    return (torch.cat(tables), torch.cat(labels)) if len(widths) == 1 else None


def _odds(kinds: Tensor) -> float:
    """Decimal places of how many ways there are to hand these classes to the samples."""
    counts = Counter(kinds.tolist()).values()
    ways = lgamma(sum(counts) + 1) - sum(lgamma(n + 1) for n in counts)
    return (ways - lgamma(len(counts) + 1)) / log(10)


def _is_apart(table: Tensor, column: int) -> bool:
    """Whether the other columns hold other values, unlike tokens, which share a vocabulary."""
    if table.shape[1] == 1:
        return True
    own = set(table[:, column].unique().tolist())
    rest = torch.cat([table[:, :column], table[:, column + 1 :]], 1)
    if 2 * (max(own) - min(own)) > float(rest.max() - rest.min()) and min(own) <= float(rest.max()):
        return False  # it is drawn from where the others are
    return any(set(each.unique().tolist()) - own for each in rest.T) and len(own) * 2 <= len(
        set(rest.unique().tolist())
    )
