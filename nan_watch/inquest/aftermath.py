"""What a poisoned step that was let through did to the next one: lines of its story."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch.optim import Optimizer

from nan_watch.case.symptom import Symptom
from nan_watch.state import Poisoned
from probes.finding import Evidence

NAMED = 3  # parameters that are named


def aftermath(symptom: Symptom, optimizer: Optimizer) -> Iterator[Evidence]:
    """What the optimizer wrote before the symptom's step, and its first victim in it."""
    written = [each for each in symptom.state if each.name not in symptom.loaded]
    if not written:
        return
    yield Evidence("story", left(written, optimizer), step=symptom.step - 1)
    victim = next((each for each in symptom.outputs if not each.finite), None)
    if victim is not None:
        yield Evidence(
            "story",
            f"the first victim is `{victim.site}`, whose output holds {victim.kind}",
            step=symptom.step,
        )
    elif symptom.loss is not None and not math.isfinite(symptom.loss):
        yield Evidence("story", f"the loss is {symptom.loss}", step=symptom.step)


def left(written: list[Poisoned], optimizer: Optimizer) -> str:
    """`Adam left 7 tensors that are not finite: ...`."""
    named = ", ".join(f"`{each.name}`" for each in written[:NAMED])
    more = f" and {len(written) - NAMED} more" if len(written) > NAMED else ""
    tensors = "a tensor that is" if len(written) == 1 else f"{len(written)} tensors that are"
    return f"{type(optimizer).__name__} left {tensors} not finite: {named}{more}"
