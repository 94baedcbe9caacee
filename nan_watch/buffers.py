"""Buffers that become sick: seen in the step that writes them, and blamed once they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

import torch
from torch import Tensor, nn

from nan_watch.flags import MEASURED, Doubles, read
from probes.finding import Evidence, Finding, Verdict
from probes.modules import STATISTICS


class Buffers:
    """Looks at the buffers that a step wrote, known by their versions.

    An infinity has a meaning, as in a mask or a running minimum; but running statistics never come
    back from one. `before` names those that were sick when the step at work began. each_step:
    whether steps are looked at; else only what was there at the start.
    """

    def __init__(self, model: nn.Module, *, each_step: bool) -> None:
        self._places = [
            (f"{name}.{key}" if name else key, module._buffers, key)
            for name, module in model.named_modules()
            for key, buffer in module._buffers.items()
            if buffer is not None and buffer.dtype in MEASURED and not buffer.is_complex()
        ]
        self._looked_at = self._places
        self._seen: dict[str, tuple[int, int]] = {}
        self._asked: list[str] = []
        self._now: set[str] = set()
        self._remarks: dict[str, Finding] = {}
        self.before: set[str] = set()
        self.take(read([self.waiting()])[0])
        self.before = set(self._now)
        self._looked_at = self._places if each_step else []

    @torch.no_grad()
    def waiting(self) -> list[Tensor]:
        """What is to be read: the largest number of each that was written since."""
        self._asked, found = [], []
        for name, owner, key in self._looked_at:
            buffer = owner[key]
            if buffer is None or buffer.numel() == 0 or buffer.layout is not torch.strided:
                continue
            mark = (id(buffer), _version(buffer) + _batches(owner, key))
            if self._seen.get(name) != mark:
                self._seen[name] = mark
                self._asked.append(name)
                found.append(buffer.amax())
        return found

    def take(self, numbers: Doubles) -> Sequence[str]:
        """The names of those that are sick and were not before, from what was read."""
        self.before = set(self._now)
        for name, number in zip(self._asked, numbers.tolist(), strict=True):
            if number != number or (name.endswith(STATISTICS) and not isfinite(number)):
                self._now.add(name)
            else:
                self._now.discard(name)
        return [name for name in self._asked if name in self._now - self.before]

    def named(self, names: Sequence[str] | set[str]) -> Mapping[str, Tensor]:
        """The buffers of these names."""
        found = {name: owner[key] for name, owner, key in self._places if name in names}
        return {name: buffer for name, buffer in found.items() if buffer is not None}

    def remark(self, finding: Finding, names: Sequence[str]) -> Finding:
        """The finding as it is said while the loss is finite: a warning where evaluation reads it.

        It is kept, for the step in which the buffer is read and poisons the loss.
        """
        read_by_evaluation = any(name.endswith(STATISTICS) for name in names)
        verdict = Verdict.WARN if read_by_evaluation else Verdict.NOTE
        listed = _listed(names)
        said = Evidence(f"buffers that are not finite now ({listed})", len(names), 0)
        evidence = finding.evidence if said in finding.evidence else (said, *finding.evidence)
        told = replace(finding, verdict=verdict, evidence=evidence)
        self._remarks |= dict.fromkeys(names, told)
        if not read_by_evaluation or finding.op is None:
            return told
        return replace(
            told, message=f"{told.message[:-1]}; evaluation reads it in {_listed(names)}."
        )

    def culprit(self, told: Finding) -> Finding:
        """What made the buffer what it is, where the finding blames one that was remarked on."""
        made = self._remarks.get(told.site or "") if told.code == "NAN017" else None
        if made is None:
            return told
        victim = f"`{told.op}` at {told.source}" if told.source else f"`{told.op}`"
        said = Evidence("poisons the loss", f"read by {victim}", step=told.step)
        return replace(
            made,
            verdict=Verdict.FAIL,
            message=f"{made.message[:-1]}; `{told.site}` keeps it and poisons the loss later.",
            evidence=(said, *made.evidence),
        )


def _version(buffer: Tensor) -> int:
    return 0 if buffer.is_inference() else buffer._version


def _batches(owner: Mapping[str, Tensor | None], key: str) -> int:
    """How often a batch norm counted a batch: it writes its statistics past their versions.

    Its mean is not finite only where its variance is not.
    """
    count = owner.get("num_batches_tracked") if key == STATISTICS[1] else None
    return 0 if count is None else _version(count)


def _listed(names: Sequence[str]) -> str:
    """The first three, and how many there are besides."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
