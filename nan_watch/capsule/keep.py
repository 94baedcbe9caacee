"""Leaves a capsule of a refused step in the run folder, of three steps at most."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nan_watch.capsule.content import Capsule, ModelCall
from nan_watch.capsule.folder import save
from nan_watch.capsule.start import Start
from nan_watch.case.symptom import Symptom
from nan_watch.inquest.captured import Call
from probes.finding import Evidence, Finding
from probes.record import Recorder
from probes.replay import Snapshot
from probes.subject import Batch
from probes.wrapped import is_sharded

MOST = 3  # capsules of a run
SPARE = 0.5  # of the disk's free space that a capsule may take


class Keeper:
    """Writes `capsule/`, `capsule-2/` and `capsule-3/` of one run.

    most: how many at most. Weights must still be as they were before the step.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, most: int = MOST) -> None:
        self.model = model
        self.optimizer = optimizer
        self.left = most
        self._kept = 0

    def keep(
        self,
        recorder: Recorder,
        symptom: Symptom,
        finding: Finding,
        batch: Batch,
        snapshot: Snapshot | None,
        calls: Sequence[Call],
    ) -> Finding:
        """The finding, with where its capsule is among its evidence, or why there is none.

        batch, snapshot: of a step that was handed over. calls: of a plain loop's.
        """
        if self.left < 1 or (snapshot is None and not calls):
            return finding
        self.left -= 1
        name = "capsule" if not self._kept else f"capsule-{self._kept + 1}"
        start = snapshot if snapshot is not None else calls[0].snapshot
        try:
            self._demand_whole()
            self._check_space(recorder.folder)
            made = self._made(recorder, symptom, finding, batch, start, calls)
            left_out = save(made, recorder.folder / name)
        except Exception as error:  # the refusal itself must not be lost
            what = f"{type(error).__name__}: {error}"
            return replace(finding, evidence=(*finding.evidence, Evidence("no capsule", what)))
        self._kept += 1
        told = [Evidence("capsule", str(recorder.folder / name))]
        told += [Evidence("left out of the capsule", each) for each in left_out[:1]]
        return replace(finding, evidence=(*finding.evidence, *told))

    def _made(
        self,
        recorder: Recorder,
        symptom: Symptom,
        finding: Finding,
        batch: Batch,
        start: Snapshot,
        calls: Sequence[Call],
    ) -> Capsule:
        facts: Mapping[str, Any] = recorder.facts
        return Capsule(
            start=Start.of(self.model, self.optimizer, start, symptom.step),
            finding=finding,
            subject=facts["settings"].get("subject"),
            folder=str(Path.cwd()),
            seed=facts["seed"],
            device=facts["device"],
            loss=symptom.loss,
            loaded=symptom.loaded,
            batch=batch,
            calls=tuple(ModelCall.of(self.model, call) for call in calls),
            versions=facts["versions"],
        )

    def _demand_whole(self) -> None:
        held = (each for group in self.optimizer.param_groups for each in group["params"])
        if any(is_sharded(each) for each in held):
            raise OSError("parameters and the optimizer's state lie in parts on several processes")

    def _check_space(self, folder: Path) -> None:
        slots = [v for each in self.optimizer.state.values() for v in each.values()]
        tensors = [*self.model.parameters(), *(v for v in slots if hasattr(v, "element_size"))]
        size = sum(each.numel() * each.element_size() for each in tensors)
        free = shutil.disk_usage(folder).free
        if size > SPARE * free:
            raise OSError(
                f"{size:,} bytes would be taken, and {free:,} are free in `{folder}`: make room, "
                "or let the run folder lie elsewhere by `--out`"
            )
