"""Whether the input faded on its way through the model before it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from probes.bus import Bus, Kind, See
from probes.stepping.fading import Fading, faded
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

BARELY = 1e-3  # of the loss: what exchanging the inputs does to it where they hardly count


@dataclass(slots=True)
class _Given:
    """Keeps what the modules are given, and what they give."""

    kept: list[tuple[int, Tensor]] = field(default_factory=list)

    @property
    def sees(self) -> Mapping[Kind, See]:
        return {Kind.INPUT: self.see, Kind.OUTPUT: self.see}

    def see(self, number: int, tensor: Tensor) -> None:
        if tensor.layout is torch.strided and tensor.is_floating_point():
            self.kept.append((number, tensor.detach().clone()))


def fade(
    subject: Subject, batch: Batch, began: Mapping[str, Tensor], reading: float | None
) -> Fading | None:
    """Through which layers it faded; None where the untrained loss read the input, or they do not.

    reading: by how much of itself that moved with the inputs exchanged. In evaluation mode; the
    weights are as they were afterwards.
    """
    if reading is None or reading > BARELY:
        return None
    model, given = subject.model, _Given()
    ended = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        model.load_state_dict(dict(began))
        with (
            Bus(model, [given], whole=True) as bus,
            undisturbed(model),
            torch.no_grad(),
        ):
            subject.loss(model, batch)
        rows = [
            (bus.sites[number].name, tensor, bus.sites[number].kind is Kind.OUTPUT)
            for number, tensor in given.kept
        ]
        return faded(rows, model)
    finally:
        model.load_state_dict(ended)
