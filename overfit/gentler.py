"""What smaller steps come to from the start, of a model that training has made blind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from overfit.interventions import RATES, at_rate
from overfit.settled import kept, trained
from probes.subject import Batch, Subject

FOLLOWED = 1e-5  # of the loss: what exchanging the inputs does to it of a model that reads them
BLIND = 1e-6


@dataclass(frozen=True, slots=True)
class Gentler:
    """So many steps at `factor` times the rate: the mean loss over the last half of them.

    reading: by how much of itself the loss moves afterwards when the inputs are exchanged; None
    where they cannot be.
    """

    factor: float
    steps: int
    loss: float
    reading: float | None = None


def gentler(
    subject: Subject,
    batches: Sequence[Batch],
    began: Mapping[str, Tensor],
    steps: int,
    read: tuple[float | None, float | None],
    reading: Callable[[], float | None],
) -> tuple[Gentler, ...]:
    """What a tenth and a hundredth of the rate come to from the weights that it began with.

    read: what exchanging the inputs did to the loss before training, and does now; nothing is tried
    where training took nothing of that away, nor of a subject that steps by itself. reading: takes
    it again. Without a schedule; all is as it was afterwards.
    """
    before, after = read
    if before is None or after is None or before < FOLLOWED or after > BLIND:
        return ()
    if subject.train_step is not None or not steps:
        return ()
    model, now, found = subject.model, kept(subject), []
    try:
        for factor in (RATES[0], RATES[0] ** 2):
            model.load_state_dict(dict(began))
            loss, _ = trained(replace(at_rate(subject, factor), schedule=None), batches, steps)
            found.append(Gentler(factor, steps, loss, reading()))
    finally:
        model.load_state_dict(now)
        model.zero_grad(set_to_none=True)
    return tuple(found)
