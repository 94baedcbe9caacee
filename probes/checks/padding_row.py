"""IDX006: the row of a table that is kept for padding is the row of a token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from probes.bus import Kind
from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict, resting_on
from probes.masking.hidden import Hidden


@dataclass(frozen=True, slots=True)
class PaddingRow:
    """An embedding's `padding_idx` is the id of visible tokens, and padding has another id.

    The vector at `padding_idx` begins as zeros and gets no gradient: a token that stands there is
    never learned, while the vector of padding is. It is looked at what every embedding with a
    `padding_idx` is given, where a mask says which ids are padding.

    Sick: `nn.Embedding(50, 8, padding_idx=1)`, where 0 is padding and 1 a word.
    Healthy: `nn.Embedding(50, 8, padding_idx=0)`.
    """

    code: ClassVar[str] = "IDX006"
    rule: ClassVar[str] = "padding-row"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """An embedding that has one, and a mask."""
        if not any(True for _ in _tables(experiment)):
            return "no embedding that learns has a `padding_idx`"
        if not _masks(experiment):
            return "no mask beside the ids themselves says which of them are padding"
        return None

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding a table."""
        done = set[str]()
        for name, table in _tables(experiment):
            for mask in _masks(experiment):
                ids = experiment.tensors[mask.key]
                finding = self._of(name, table, mask, ids)
                if finding is not None and name not in done and _reads(experiment, name, ids):
                    done.add(name)
                    yield resting_on(finding, [mask.guessed] if mask.guessed else [])

    def _of(self, name: str, table: nn.Embedding, mask: Hidden, ids: Tensor) -> Finding | None:
        padding = torch.unique(ids[~mask.keep])
        taken = int(((ids == table.padding_idx) & mask.keep).sum())
        if len(padding) != 1 or int(padding) == table.padding_idx or not taken:
            return None
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"`{name}` keeps row {table.padding_idx} for padding, but that is the id of "
            f"{taken} visible tokens of `{mask.key}`, and padding is {int(padding)}: the token's "
            "vector stays zero, and padding's learns.",
            fix=f"Give `{name}` `padding_idx={int(padding)}`, or pad `{mask.key}` with "
            f"{table.padding_idx} and move its tokens.",
            site=name,
            phase="forward",
            evidence=(Evidence(f"visible tokens at row {table.padding_idx}", taken, 0),),
        )


def _tables(experiment: Experiment) -> Iterator[tuple[str, nn.Embedding]]:
    for name, module in experiment.subject.model.named_modules():
        kept = isinstance(module, nn.Embedding) and module.padding_idx is not None
        if kept and module.weight.requires_grad:
            yield name, module


def _reads(experiment: Experiment, name: str, ids: Tensor) -> bool:
    """Whether the table is given these ids."""
    return any(
        each.module == name
        and each.kind is Kind.INPUT
        and each.value is not None
        and torch.equal(each.value.flatten(), ids.flatten())
        for each in experiment.evaluated.ran.events
    )


def _masks(experiment: Experiment) -> list[Hidden]:
    """Those of whole numbers that hide something, and are not the ids themselves."""
    return [
        each
        for each in experiment.masks
        if each.mask.means != "id"
        and each.keep.shape == experiment.tensors[each.key].shape
        and not experiment.tensors[each.key].is_floating_point()
        and bool((~each.keep).any())
    ]
