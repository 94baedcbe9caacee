"""What ten times the learning rate does from the start, where something else may be to blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from overfit.interventions import RATES, at_rate
from overfit.settled import kept, trained
from probes.subject import Batch, Subject

STEPS = 100


@dataclass(frozen=True, slots=True)
class Faster:
    """So many steps at `factor` times the rate, and the mean loss over the last half of them."""

    steps: int
    factor: float
    loss: float

    @property
    def words(self) -> str:
        """What it came to, as part of a sentence."""
        return (
            f"{self.factor:g} times the rate, from the start and without a schedule, comes to "
            f"{self.loss:.4g} in {self.steps} steps"
        )


def faster(
    subject: Subject, batches: Sequence[Batch], began: Mapping[str, Tensor]
) -> Faster | None:
    """What it comes to from the weights it began with; None of a subject that steps by itself.

    By the subject's own optimizer and without a schedule; all is as it was afterwards.
    """
    if subject.train_step is not None:
        return None
    model, now, factor = subject.model, kept(subject), RATES[1]
    try:
        model.load_state_dict(dict(began))
        quick = replace(at_rate(subject, factor), schedule=None)
        loss, _ = trained(quick, batches, STEPS)
    finally:
        model.load_state_dict(now)
        model.zero_grad(set_to_none=True)
    return Faster(STEPS, factor, loss)
