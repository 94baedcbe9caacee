"""MSK011: lengths count padding, or are those of other rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from probes.batch import leaves
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
    Lengths that are just those of the rows, but of other rows, were taken before the rows were
    sorted, or after: then some are cut, and padding of others is read.

    Sick: `lengths = [len(row) for row in pad_sequence(rows, batch_first=True)]`.
    Healthy: `lengths = [len(row) for row in rows]`.
    """

    code: ClassVar[str] = "MSK011"
    rule: ClassVar[str] = "full-lengths"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """Lengths of a key of ids."""
        if not any(True for _ in (*_lengths(experiment), *_misplaced(experiment))):
            return "no key holds lengths of a key of ids"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a key of lengths."""
        done = set()
        for mask, key, rows in _misplaced(experiment):
            if mask.key not in done and is_read(experiment, mask.key):
                done.add(mask.key)
                yield self._of_others(mask, key, rows)
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

    def _of_others(self, mask: Mask, key: str, rows: list[int]) -> Finding:
        finding = Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.FAIL,
            message=f"`{mask.key}` holds the lengths of the rows of `{key}`, but of {len(rows)} of "
            "them another row's: lengths and rows are in different orders.",
            fix="Sort lengths and rows together, or take the lengths once the rows are sorted.",
            site="<data>",
            phase="data",
            samples=tuple(rows[:8]),
            evidence=(Evidence("rows with the length of another", len(rows), 0),),
        )
        return resting_on(finding, [f"masks=({mask!r},)"])


def _misplaced(experiment: Experiment) -> Iterator[tuple[Mask, str, list[int]]]:
    """Lengths that are, all together, those of the rows of a key, and not one by one."""
    whole = experiment.batch if experiment.uncut is None else experiment.uncut
    found = {path: leaf for path, leaf in leaves(whole).items() if isinstance(leaf, Tensor)}
    for mask in experiment.layout.masks:
        for key in mask.hides if mask.means == "length" and mask.side == "right" else ():
            said, rows = found.get(mask.key), found.get(key)
            held = None if rows is None else _held(rows)
            if said is None or held is None or said.shape != held.shape:
                continue
            away = (said.to(held.device) != held).nonzero().flatten().tolist()
            same = torch.equal(said.sort().values.to(held), held.sort().values)
            if away and same and not any(_orders(p, said, held) for p in found.values()):
                yield mask, key, away


def _orders(order: Tensor, said: Tensor, held: Tensor) -> bool:
    """Whether it is the order of rows that the lengths stand in, as a model sorts them itself."""
    if order.is_floating_point() or order.shape != held.shape or order.dtype is torch.bool:
        return False
    counted = torch.equal(
        order.sort().values.to(held), torch.arange(len(held), device="cpu").to(held)
    )
    return counted and torch.equal(said.to(held), held[order.to(held.device).long()])


def _held(rows: Tensor) -> Tensor | None:
    """(row,) how many places stand before the run, of one id or of zeros, that it ends in."""
    if rows.is_floating_point() and rows.ndim == 3:
        blank = (rows == 0).all(2).long()
        return rows.shape[1] - blank.flip(1).cumprod(1).sum(1)
    runs = trailing(rows)
    return None if runs is None else rows.shape[1] - runs.sum(1)


def _lengths(experiment: Experiment) -> Iterator[tuple[Mask, str, Tensor]]:
    """Every mask of lengths with the keys of ids whose ends it hides."""
    for mask in experiment.layout.masks:
        for key in mask.hides if mask.means == "length" and mask.side == "right" else ():
            ids = experiment.tensors.get(key)
            if mask.key not in experiment.tensors or ids is None:
                continue
            if ids.ndim == 2 and not ids.is_floating_point():
                yield mask, key, ids
