"""MSK011: lengths count padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.layout import Mask
from probes.masking.trailing import trailing
from probes.reading.rows import is_read


@dataclass(frozen=True, slots=True)
class FullLengths:
    """All lengths are the padded length, while rows end in runs of one id that stands nowhere else.

    Such lengths were taken after the padding: nothing is hidden, and padding is read as text. The
    runs must be of several lengths, and the output must change with the key whose rows they end.

    Sick: `lengths = [len(row) for row in pad_sequence(rows, batch_first=True)]`.
    Healthy: `lengths = [len(row) for row in rows]`.
    """

    code: ClassVar[str] = "MSK011"
    rule: ClassVar[str] = "full-lengths"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Lengths of a key of ids."""
        if not any(True for _ in _lengths(experiment)):
            return "no key holds lengths of a key of ids"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of lengths."""
        done = set()
        for mask, key, ids in _lengths(experiment):
            full = bool((experiment.tensors[mask.key] == ids.shape[1]).all())
            runs = trailing(ids) if full and mask.key not in done else None
            if runs is not None and is_read(experiment, key, runs):
                done.add(mask.key)
                yield self._finding(mask, key, ids, runs)

    def _finding(self, mask: Mask, key: str, ids: Tensor, runs: Tensor) -> Finding:
        rows = int(runs.any(1).sum())
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"all {len(ids)} lengths of `{mask.key}` are {ids.shape[1]}, the width of "
            f"`{key}`, though {rows} of its rows end in up to {int(runs.sum(1).max())} times the "
            f"id {int(ids[runs][0])}, which stands nowhere else: padding is read.",
            fix="Take the lengths before the rows are padded.",
            site="<data>",
            phase="data",
            evidence=(Evidence("places of padding that no length hides", int(runs.sum()), 0),),
        )
        return resting_on(finding, [f"masks=({mask!r},)"])


def _lengths(experiment: Experiment) -> Iterator[tuple[Mask, str, Tensor]]:
    """Every mask of lengths with the keys of ids whose ends it hides."""
    for mask in experiment.layout.masks:
        for key in mask.hides if mask.means == "length" and mask.side == "right" else ():
            ids = experiment.tensors.get(key)
            if mask.key not in experiment.tensors or ids is None:
                continue
            if ids.ndim == 2 and not ids.is_floating_point():
                yield mask, key, ids
