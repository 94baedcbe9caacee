"""IDX026: inputs stand in one order and their labels in another, in the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from probes.experiment import Experiment
from probes.finding import Evidence, ExperimentError, Finding, Verdict
from probes.guess import LENGTH
from probes.scoring.other_order import OtherOrder, other_order


@dataclass(frozen=True, slots=True)
class LabelOrder:
    """Labels go with their inputs in a known order other than that in which they stand.

    Over all samples, in the order of the data set: of each the most similar other sample is looked
    up, by the numbers of its input alone, and it is counted how often both have the same label (of
    values: how their ranks go together). Told is where that is no more than chance as labels stand,
    and far beyond chance once they are laid down as names of files are sorted (1, 10, 11, 2), or
    the other way about, in reverse, or, of images, a few samples or a batch on. Samples alike to
    their neighbours, with labels alike to theirs, tell as much in any order moved on by some
    places, and are silence; so are labels that nothing tells in any order, and data of more
    samples than a few thousand.

    Sick: `zip(sorted(folder.glob("*.png")), table["label"])` of files `1.png` to `200.png`.
    Healthy: `[(folder / row.name, row.label) for row in table.itertuples()]`.
    """

    code: ClassVar[str] = "IDX026"
    rule: ClassVar[str] = "label-order"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Labels of one number a sample."""
        if not any(True for _ in _single(experiment)):
            return "no key is known to hold one label a sample"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of labels. Raises ExperimentError of too many samples."""
        why = None
        for label in _single(experiment):
            try:
                found = other_order(experiment, label)
            except ExperimentError as error:
                why = error
                continue
            if found is not None:
                yield self._finding(found)
        if why is not None:
            raise why

    def _finding(self, found: OtherOrder) -> Finding:
        told = (
            "samples whose `{}` are most alike have the same label {:.0%} of the time as they "
            "stand (chance {:.0%}), and {:.0%} in that order"
            if found.classes
            else "labels of samples whose `{}` are most alike correlate by {:.2f} as they stand "
            "(chance {:.2f}), and by {:.2f} in that order"
        ).format(found.key, found.given, found.chance, found.share)
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{found.label}` stands in another order than `{found.key}`, so that samples "
            f"have labels of others: {found.order.words}; of {found.count} samples, {told}.",
            fix=found.order.fix,
            site="<data>",
            phase="data",
            evidence=(
                Evidence("labels told by the most similar sample", found.given, found.chance),
                Evidence("the same in the other order", found.share, found.chance),
            ),
        )


def _single(experiment: Experiment) -> Iterator[str]:
    """Keys of one label a sample."""
    for key in experiment.targets:
        tensor = experiment.tensors[key]
        one = tensor.ndim > 0 and tensor.numel() == len(tensor) == experiment.size
        if one and not tensor.is_complex() and not LENGTH.search(key):
            yield key
