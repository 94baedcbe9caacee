"""Parameters that a pass makes by itself, with weights drawn anew in every pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from probes.experiment import LOSS, Experiment
from probes.raised import source_here
from probes.running import names_of, running
from probes.seeding import seed_everything


@dataclass(frozen=True, slots=True, eq=False)
class Born:
    """A parameter that was registered while a batch ran.

    site: the module whose code was at work, or `<loss>`. kind: the class of what it was made for.
    source: the line of the user's own code.
    """

    site: str
    kind: str
    parameter: Tensor
    source: str | None


def made_anew(experiment: Experiment) -> list[Born]:
    """Parameters that two passes in evaluation mode make, each with other weights drawn."""
    with _births(experiment) as first:
        experiment.evaluated.run(experiment.batch)
    if not first:
        return []
    with _births(experiment) as second:
        experiment.evaluated.run(experiment.batch, before=lambda: seed_everything(987_654_321))
    return [one for one, two in zip(first, second, strict=False) if _is_drawn(one, two)]


def _is_drawn(one: Born, two: Born) -> bool:
    a, b = one.parameter, two.parameter
    learns = a.requires_grad and a.shape == b.shape and one.source == two.source
    return learns and a.ndim > 1 and not torch.equal(a, b)


@contextmanager
def _births(experiment: Experiment) -> Iterator[list[Born]]:
    """Holds every parameter that any module is given meanwhile."""
    names = names_of(experiment.subject.model)
    found: list[Born] = []

    def see(module: nn.Module, _: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            site, kind = running(names) or LOSS, type(module).__name__
            found.append(Born(site, kind, parameter, source_here()))

    hook = register_module_parameter_registration_hook(see)
    try:
        yield found
    finally:
        hook.remove()
