"""Where what is evaluated parts from what the loss runs: a module that is given other numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from overfit.heads import Heads
from probes.bus import Bus, Kind, See
from probes.modules import every_module
from probes.raised import source_here
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

APART = 1e-3  # of the size of what the loss gives it
KEPT = 2**28  # bytes that are held on to


@dataclass(frozen=True, slots=True)
class Parting:
    """The first module that the loss gives other numbers than any accuracy does.

    apart: their largest difference, of the largest number of the loss's. source: the user's line
    at which the loss calls it. whole: whether it is the model itself.
    """

    site: str
    apart: float
    source: str | None
    whole: bool


@dataclass(slots=True)
class _Given:
    """Keeps what the modules are given, in the order of their calls."""

    kept: list[tuple[int, Tensor, str | None]] = field(default_factory=list)
    bytes: int = 0

    @property
    def sees(self) -> Mapping[Kind, See]:
        return {Kind.INPUT: self.see}

    def see(self, number: int, tensor: Tensor) -> None:
        if self.bytes < KEPT and tensor.layout is torch.strided and not tensor.is_complex():
            self.bytes += tensor.numel() * tensor.element_size()
            self.kept.append((number, tensor.detach().clone(), source_here()))


def where_parted(subject: Subject, batch: Batch) -> Parting | None:
    """The first module that evaluation gives other numbers than the loss does, at equal shapes.

    None where there is none, and where nothing is counted but by the loss's own calls. Both run
    in evaluation mode and from the same random state; if they do not part, the loss runs in the
    modes of training, and what the model itself is given is compared.
    """
    found = _parted(subject, batch, training=False)
    if found is None:
        found = _parted(subject, batch, training=True)
        return found if found is not None and found.whole else None
    return found


def _parted(subject: Subject, batch: Batch, training: bool) -> Parting | None:
    model, counted = subject.model, Heads(subject, [batch]).accuracies
    if not counted:
        return None
    given = _Given()
    with Bus(model, [given], whole=True) as bus:
        of_loss = _run(given, partial(subject.loss, model, batch), subject, training)
        runs = [_run(given, partial(each, model, batch), subject) for each in counted.values()]
    evaluated: dict[int, list[Tensor]] = {}
    for number, tensor, _ in (each for run in runs for each in run):
        evaluated.setdefault(number, []).append(tensor)
    modules = [name for name, _ in every_module(model)]
    for number, tensor, source in of_loss:
        others = [each for each in evaluated.get(number, ()) if each.shape == tensor.shape]
        apart = min((_apart(tensor, each) for each in others), default=0.0)
        if apart > APART:
            site = _module(bus.sites[number].name, modules)
            return Parting(site, apart, source, site == modules[0])
    return None


def _module(part: str, modules: Sequence[str]) -> str:
    """The module whose argument it is: `cell` of `cell[0]`."""
    own = [name for name in modules if part == name or part.startswith((f"{name}.", f"{name}["))]
    return max(own, key=len)


def _run(
    given: _Given, call: Callable[[], object], subject: Subject, training: bool = False
) -> Sequence[tuple[int, Tensor, str | None]]:
    given.kept = []
    with undisturbed(subject.model, training), torch.no_grad():
        call()
    return given.kept


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, of the largest number of the first; 0 of nothing."""
    if not one.numel():
        return 0.0
    size = max(float(one.double().abs().max()), 1e-12)
    return float((one.double() - other.double()).abs().max()) / size
