"""LBL006: equal inputs have different labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.batch import leaves
from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict, resting_on
from probes.guess import LABELS
from probes.reading.effects import is_unread
from probes.reading.looked_up import is_looked_up
from probes.reading.rows import classes, is_read, looked, reader
from probes.scoring.asked_for import is_turned_down
from probes.states.life import Life, later_goes_on

Row = tuple[bytes, ...]
OFTEN = (
    "Nothing, where a category goes with several labels, as a user does with items; else look "
    "where inputs and labels are put together."
)


@dataclass(frozen=True, slots=True)
class Contradicting:
    """Samples whose inputs are equal to the bit have different labels.

    Of such samples only those with the commonest label can be right. Compared are the keys that an
    output changes with, over the first batches. Labels that contradict now and then are noise, and
    a note; where much of what was looked at cannot be right, inputs were repeated, cut or cleared
    while labels went on; or what tells the samples apart is left out: a key of the batch with which
    they would hardly contradict each other, and that neither the loss nor an output changes with,
    is named, unless it numbers the samples or answers by itself. Where all that is read is one
    category a sample, which has several labels by its nature, it is a note, and nothing is said
    where a batch goes on from the batch before. What the layer that reads an
    input reads as well, such as a negative sample, is no label, nor what is looked up in a table
    that learns and is scored against nothing, such as an item beside its user; nor a class of
    which the loss wants less in some samples, such as the action that a value is taken of.

    Sick: `rows.append(rows[0])` while `labels.append(label)`.
    Healthy: `rows.append(row)`.
    """

    share: float = 0.8  # of all samples that can be right at most
    least: int = 4  # samples that cannot be
    left: float = 0.1  # of these, at most, that a key that tells them apart leaves

    code: ClassVar[str] = "LBL006"
    rule: ClassVar[str] = "contradicting-labels"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """One class a sample, and inputs of which all are tensors."""
        if not any(True for _ in classes(experiment)):
            return "no key is known to hold one class a sample"
        if any(not isinstance(leaf, Tensor) for leaf in leaves(experiment.batch).values()):
            return "the batch holds more than tensors"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of labels."""
        labels = list(classes(experiment))
        keys = [
            key
            for key, tensor in experiment.tensors.items()
            if key not in experiment.targets and tensor.ndim and is_read(experiment, key)
        ]
        if not keys or any(len(experiment.tensors[k]) != experiment.size for k in keys):
            return
        for label in [each for each in labels if not is_turned_down(experiment, each)]:
            groups = _groups(experiment, keys, label)
            several = [group for group in groups.values() if len(group) > 1]
            count = sum(sum(group.values()) for group in groups.values())
            wrong = _wrong(groups)
            if wrong and not _is_input(experiment, label, keys) and not _goes_on(experiment):
                finding = self._finding(experiment, keys, label, several, count, wrong)
                apart = self._apart(experiment, keys, label, wrong)
                if apart is not None:
                    yield _with_key(finding, apart, wrong)
                elif all(_is_category(experiment, key) for key in keys):
                    yield replace(finding, verdict=Verdict.NOTE, fix=OFTEN)
                else:
                    yield finding

    def _apart(
        self, experiment: Experiment, keys: list[str], label: str, wrong: int
    ) -> tuple[str, int] | None:
        """The unread key that tells most of the samples apart, and how many it leaves."""
        found = {
            key: _wrong(_groups(experiment, [*keys, key], label))
            for key, tensor in experiment.tensors.items()
            if key not in (*keys, *experiment.targets)
            and tensor.ndim
            and len(tensor) == experiment.size
            and not _numbers(experiment, key)
            and not _answers(experiment, key, label)
            and is_unread(experiment, key)
        }
        best = min(found, key=found.__getitem__, default=None)
        return None if best is None or found[best] > self.left * wrong else (best, found[best])

    def _finding(
        self,
        experiment: Experiment,
        keys: list[str],
        label: str,
        several: list[Counter[float]],
        count: int,
        wrong: int,
    ) -> Finding:
        share = 1 - wrong / count
        worst = max(several, key=lambda group: sum(group.values()))
        is_much = share < self.share and wrong >= self.least
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN if is_much else Verdict.NOTE,
            message=f"equal inputs have different `{label}`: of {count} samples looked at, at most "
            f"{100 * share:.0f}% can be right; {sum(worst.values())} samples of the same "
            f"{', '.join(f'`{key}`' for key in keys)} have {len(worst)} different labels.",
            fix="Look where inputs and labels are put together: a row that is appended again and "
            "again, a text that is cut or cleared, a join that repeats rows.",
            site="<data>",
            phase="data",
            evidence=(
                Evidence("share of samples that can be right", share, self.share),
                Evidence("samples that cannot be", wrong, self.least, f"of {count}"),
            ),
        )
        declared = any(each.key == label for each in experiment.declared.labels)
        line = f"labels=(Labels({label!r}, output='output'),)"
        return resting_on(finding, [] if declared else [line])


def _with_key(finding: Finding, apart: tuple[str, int], wrong: int) -> Finding:
    """The same, with the key that tells the samples apart."""
    key, left = apart
    return replace(
        finding,
        message=f"{finding.message[:-1]}; nobody reads `{key}`, with which only {left} would be "
        f"left of the {wrong} that contradict."
        if left
        else f"{finding.message[:-1]}; nobody reads `{key}`, which tells all of them apart.",
        fix=f"Let the model read `{key}`; or, where it is not meant to, l{finding.fix[1:]}",
        evidence=(*finding.evidence, Evidence(f"contradicting samples with `{key}`", left)),
    )


def _wrong(groups: dict[Row, Counter[float]]) -> int:
    """How many samples have another label than most with their inputs."""
    return sum(sum(group.values()) - max(group.values()) for group in groups.values())


def _numbers(experiment: Experiment, key: str) -> bool:
    """Whether it only numbers the samples: one integer each, none of which comes twice."""
    known = [batch[key] for batch in looked(experiment) if key in batch]
    values = torch.cat([each.flatten() for each in known])
    whole = not values.is_floating_point() and len(values) == sum(map(len, known))
    return whole and len(values.unique()) == len(values)


def _answers(experiment: Experiment, key: str, label: str) -> bool:
    """Whether it is a label itself, by its name or since it tells this one without any input."""
    groups = _groups(experiment, [key], label)
    often = any(sum(group.values()) > 1 for group in groups.values())
    return bool(LABELS.search(key.rpartition(".")[2])) or (often and not _wrong(groups))


def _goes_on(experiment: Experiment) -> bool:
    """Whether batches read what those before them left: no input tells all then."""
    try:
        return later_goes_on(experiment, Life.evaluate)
    except ExperimentError:
        return False


def _is_category(experiment: Experiment, key: str) -> bool:
    """Whether it is one whole number a sample, which comes again by its nature."""
    tensor = experiment.tensors[key]
    return tensor.numel() == experiment.size and not tensor.is_floating_point()


def _is_input(experiment: Experiment, label: str, keys: list[str]) -> bool:
    """Whether the layer that reads one of the keys first reads it, too, or a table does."""
    first = reader(experiment, label)
    return (
        first is not None and any(reader(experiment, key) == first for key in keys)
    ) or is_looked_up(experiment, label)


def _groups(experiment: Experiment, keys: list[str], label: str) -> dict[Row, Counter[float]]:
    """How often each label stands beside each input."""
    found: dict[Row, Counter[float]] = defaultdict(Counter)
    for batch in looked(experiment):
        if label not in batch or any(key not in batch for key in keys):
            continue
        inputs = [batch[key].detach().cpu() for key in keys]
        for i, wanted in enumerate(batch[label].flatten().tolist()):
            row = tuple(_bytes(each[i]) for each in inputs)
            if wanted >= 0:
                found[row][wanted] += 1
    return found


def _bytes(value: Tensor) -> bytes:
    return value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
