"""The least squared error behind a layer of few numbers that only affine maps follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.raised import source_here
from probes.scoring.calls import Call, Scoring
from probes.subject import Batch, Subject
from probes.undisturbed import undisturbed

SHARES = (0.5, -2.0, 3.0)  # of the next sample's numbers, some of them far beyond both
CLOSE = 1e-4  # of the largest output: what rounding makes of it


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A layer of `width` numbers a sample, of which `wide` predicted ones are affine functions.

    site, source: the layer, and the user's line that calls it. least: the mean squared error of the
    best affine space of so many dimensions, by the singular values of the labels. now: what it is.
    """

    site: str
    source: str | None
    width: int
    wide: int
    least: float
    now: float

    @property
    def share(self) -> float:
        """What no training takes away, of the error that is left."""
        return self.least / self.now if self.now > 0 else 0.0

    @property
    def words(self) -> str:
        """What follows from it, as part of a sentence."""
        line = f" ({self.source})" if self.source else ""
        return (
            f"nothing but affine maps stands behind `{self.site}`{line}, whose {self.width} "
            f"numbers are all that {self.wide} predicted ones are made of: no weights bring the "
            f"mean squared error below {self.least:.3g}, and it is {self.now:.3g}"
        )

    @property
    def fix(self) -> str:
        """What mends it."""
        return (
            f"Give `{self.site}` as many outputs as what is predicted has independent numbers, or "
            "put a nonlinearity behind it."
        )


def bottleneck(subject: Subject, batches: Sequence[Batch]) -> Bottleneck | None:
    """The layer that keeps the squared error highest; None where none keeps it above zero.

    A layer's outputs are mixed with those of the next sample, within the two and beyond: where the
    predictions are the same mixture, one affine map, which all samples share, leads from there to
    them. Of losses that are `mse_loss` of whole batches, one call a batch.
    """
    runs = [_run(subject, batch) for batch in batches]
    if any(run is None for run in runs) or not runs:
        return None
    known = [run for run in runs if run is not None]
    given, labels = (torch.cat([part(run[1]) for run in known]) for part in (_given, _labels))
    now, found = float((given - labels).square().mean()), None
    for at, layer in enumerate(known[0][0]):
        wide = labels.shape[1]
        if layer.width >= min(wide, len(labels) - 1):
            continue
        least = _least(labels, layer.width)
        if found is not None and least <= found.least:
            continue
        if all(_is_affine(subject, *each, at) for each in zip(batches, known, strict=True)):
            found = Bottleneck(layer.name, layer.source, layer.width, wide, least, now)
    return found


def _least(labels: Tensor, width: int) -> float:
    """The mean square of what the best affine space of so many dimensions leaves of the labels."""
    values = torch.linalg.svdvals(labels - labels.mean(0))
    return float(values[width:].square().sum() / labels.numel())


def _is_affine(subject: Subject, batch: Batch, run: tuple[list[_Layer], Call], at: int) -> bool:
    given = _given(run[1])
    if len(given) < 2:
        return True
    for share in SHARES:
        mixed = _run(subject, batch, at, share)
        if mixed is None:
            return False
        wanted, got = share * given.roll(1, 0) + (1 - share) * given, _given(mixed[1])
        size = max(float(wanted.abs().max()), float(got.abs().max()))
        if got.shape != wanted.shape or not float((got - wanted).abs().max()) <= CLOSE * size:
            return False
    return True


def _given(call: Call) -> Tensor:
    """(sample, number) what is predicted."""
    return call.scores.double().reshape(len(call.scores), -1)


def _labels(call: Call) -> Tensor:
    return call.labels.double().reshape(len(call.labels), -1)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A call of an operator with a parameter. width: how many numbers it gives of each sample."""

    name: str
    source: str | None
    width: int


def _run(
    subject: Subject, batch: Batch, at: int | None = None, share: float = 0.0
) -> tuple[list[_Layer], Call] | None:
    """The layers, and the one call of `mse_loss`; None where there is another number of calls."""
    layers = _Layers(subject.model, at, share)
    with undisturbed(subject.model), torch.no_grad(), Scoring() as scoring, layers:
        subject.loss(subject.model, batch)
    calls = [each for each in scoring.calls if each.kind == "value"]
    if len(calls) != 1 or calls[0].loss != "mse_loss" or calls[0].value is None:
        return None
    rows = len(calls[0].scores) if calls[0].scores.ndim else 0
    kept = [
        _Layer(name, source, out.numel() // rows if rows and len(out) == rows else out.numel())
        for name, source, out in layers.kept
    ]
    return (kept, calls[0]) if rows else None


class _Layers(TorchFunctionMode):
    """Keeps what operators with a parameter give; that of the call `at` is mixed with the next's.

    share: of the next sample's.
    """

    def __init__(self, model: nn.Module, at: int | None, share: float) -> None:
        super().__init__()
        self.kept: list[tuple[str, str | None, Tensor]] = []
        self._names = {id(p): n.rpartition(".")[0] for n, p in model.named_parameters()}
        self._at, self._share = at, share

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The function has run; its output is mixed where that was asked for."""
        out = func(*args, **(kwargs or {}))
        given = (*args, *(kwargs or {}).values())
        name = next((self._names[id(each)] for each in given if id(each) in self._names), None)
        if name is None or not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        if not out.ndim or any(out is each for each in given):
            return out
        self.kept.append((name or "model", source_here(), out))
        if self._at == len(self.kept) - 1:
            return self._share * out.roll(1, 0) + (1 - self._share) * out
        return out
