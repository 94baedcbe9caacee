"""Layers of weights through which the input fades: each gives less of it than it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from statistics import median

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from probes.bus import Kind
from probes.experiment import Experiment
from probes.modules import every_module

SHRINKS = 0.5  # what differs between samples, from what a layer is given to what the next is
FEWEST = 3  # layers in a row
FADED = 1e-3  # what is left of it behind them all
HIDDEN = 1e-5  # the same, where nothing comes through for all that can be seen

FIX = (
    "Draw larger weights for these layers (`kaiming_normal_` where a ReLU follows, "
    "`xavier_normal_` where a tanh does), or normalise between them."
)


@dataclass(frozen=True, slots=True)
class Fading:
    """site: the first layer. layers: how many there are. left: what is left behind them.

    factor: of one of them. deviation: of their weights, and kept: what would keep the input.
    """

    site: str
    layers: int
    left: float
    factor: float
    deviation: float
    kept: float

    @property
    def hides(self) -> bool:
        """Whether it may be all that keeps the input from having an effect."""
        return self.left <= HIDDEN

    @property
    def words(self) -> str:
        """That, in a sentence."""
        return (
            f"the input fades: from `{self.site}` on {self.layers} layers leave "
            f"{self.factor:.2g} of what differs between the samples each, {self.left:.1g} in all; "
            f"their weights begin with a standard deviation of {self.deviation:.2g}, and about "
            f"{self.kept:.2g} would keep it"
        )


def faded(given: Iterable[tuple[str, Tensor, bool]], model: nn.Module) -> Fading | None:
    """Of the tensors that modules are given, and give (true), in their order; None of no fading."""
    layers = {n: m for n, m in every_module(model) if isinstance(m, (nn.Linear, _ConvNd))}
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for site, tensor, gives in given:
        name = site.partition("[")[0]
        if name in layers and tensor.ndim > 1:
            (after if gives else before).setdefault(name, spread(tensor))
    names = [name for name in before if name in after]
    reached = [before[name] for name in names[1:]] + [after[name] for name in names[-1:]]
    pairs = zip(names, reached, strict=True)
    factors = {name: now / before[name] if before[name] > 0 else 0.0 for name, now in pairs}
    sizes = {name: float(layers[name].weight.detach().double().std()) for name in names}
    return _row(factors, sizes)


def _row(factors: Mapping[str, float], sizes: Mapping[str, float]) -> Fading | None:
    """The first row of layers behind which next to nothing is left."""
    row: list[str] = []
    for name in (*factors, None):
        if name is not None and 0 < factors[name] < SHRINKS:
            row.append(name)
            continue
        left = prod(factors[each] for each in row)
        if len(row) >= FEWEST and left <= FADED:
            kept = median(sizes[each] / factors[each] for each in row)
            factor = left ** (1 / len(row))
            return Fading(row[0], len(row), left, factor, median(sizes[n] for n in row), kept)
        row = []
    return None


def spread(tensor: Tensor) -> float:
    """How far the rows of a tensor are from their mean, as the root of the mean square."""
    rows = tensor.detach().double()
    return float((rows - rows.mean(0)).square().mean().sqrt())


def fading(experiment: Experiment) -> Fading | None:
    """Of the untrained model, in evaluation mode."""
    events = experiment.evaluated.ran.events
    given = [
        (each.module, each.value, each.kind is Kind.OUTPUT)
        for each in events
        if each.value is not None and each.kind in (Kind.INPUT, Kind.OUTPUT)
    ]
    return faded(given, experiment.subject.model)
