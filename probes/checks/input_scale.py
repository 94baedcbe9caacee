"""WIR021: inputs of a size that the first layer was not made for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from probes.bus import Kind
from probes.experiment import Experiment
from probes.finding import Evidence, Finding, Verdict
from probes.modules import every_module

WEIGHTS = (nn.Linear, _ConvNd, nn.RNNBase, nn.RNNCellBase)


@dataclass(frozen=True, slots=True)
class InputScale:
    """A layer of weights is given numbers of the batch as they are, far from the size of one.

    Weights are drawn for numbers around one: pixels from 0 to 255, or the same divided by 255
    twice, make the first outputs far too large or lost beside the bias. Looked at is what the
    first layers are given, if it is a key of the batch or that scaled; it is silence where a layer
    that normalises comes later. So is one feature that is `apart` times as large as the median of
    the others: the layer sees nothing else.

    Sick: `conv(image.float())` of pixels from 0 to 255.
    Healthy: `conv(image / 255)`; `nn.BatchNorm1d(4)` before the first layer.
    """

    large: float = 30.0  # root of the mean square
    small: float = 0.01  # largest magnitude
    apart: float = 100.0  # root of the mean square of one feature by the median of all

    code: ClassVar[str] = "WIR021"
    rule: ClassVar[str] = "input-scale"
    family: ClassVar[Literal["check"]] = "check"

    def lacks(self, experiment: Experiment) -> str | None:
        """A model whose layers are known."""
        modules = experiment.subject.model.modules()
        return None if any(isinstance(m, WEIGHTS) for m in modules) else "no layer is of torch's"

    def judge(self, experiment: Experiment) -> Iterator[Finding]:
        """At most one finding, of the first layer of which it is so."""
        modules = dict(every_module(experiment.subject.model))
        if any("norm" in type(module).__name__.lower() for module in modules.values()):
            return
        keys = {k: t for k, t in experiment.tensors.items() if t.numel() > 1}
        for event in experiment.evaluated.ran.events:
            layer, value = modules[event.module], event.value
            if event.kind is not Kind.INPUT or not isinstance(layer, WEIGHTS) or value is None:
                continue
            if not value.is_floating_point() or event.site.endswith("[1]"):
                continue
            key = next((k for k, t in keys.items() if _is_scaled(t, value)), None)
            if key is not None and (found := self._one(value, layer)) is not None:
                yield self._feature(event.module, key, *found)
                return
            if key is not None and (size := self._far(value)) is not None:
                yield self._said(event.module, key, *size)
                return

    def _one(self, value: Tensor, layer: nn.Module) -> tuple[int, float, float] | None:
        """The largest feature, its size and that of the others, where they are far apart."""
        axis = 1 if isinstance(layer, _ConvNd) and value.ndim > 2 else -1
        if value.shape[axis] < 3:
            return None
        sizes = value.double().movedim(axis, -1).flatten(0, -2).square().mean(0).sqrt()
        at, others = int(sizes.argmax()), float(sizes.median())
        large = float(sizes[at])
        apart = others > 0 and large > self.apart * others and large > self.large
        return (at, large, others) if apart else None

    def _feature(self, site: str, key: str, at: int, size: float, others: float) -> Finding:
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"feature {at} of `{key}` that `{site}` is given is of size {size:.3g}, the "
            f"others of size {others:.3g}, and nothing normalises them.",
            fix=f"Subtract the mean of feature {at} and divide by its standard deviation, as of "
            "the others.",
            site=site,
            phase="data",
            where={"feature": at},
            evidence=(Evidence("root of the mean square", size, self.apart * others),),
        )

    def _far(self, value: Tensor) -> tuple[float, float] | None:
        """The size and the limit that it is past; None where it is within."""
        wide = value.double()
        mean, largest = float(wide.square().mean().sqrt()), float(wide.abs().max())
        if mean > self.large:
            return mean, self.large
        return (largest, self.small) if 0 < largest < self.small else None

    def _said(self, site: str, key: str, size: float, limit: float) -> Finding:
        large = size > limit
        what = "are of size" if large else "are all below"
        return Finding(
            code=self.code,
            rule=self.rule,
            verdict=Verdict.WARN,
            message=f"the numbers of `{key}` that `{site}` is given {what} {size:.3g}, and nothing "
            "normalises them: its weights are drawn for numbers around one.",
            fix="Subtract the mean and divide by the standard deviation, once, or begin with a "
            "layer that normalises.",
            site=site,
            phase="data",
            evidence=(
                Evidence("root of the mean square" if large else "largest magnitude", size, limit),
            ),
        )


def _is_scaled(key: Tensor, value: Tensor) -> bool:
    """Whether the value is the key's numbers, perhaps transposed, or scaled and shifted."""
    if key.numel() != value.numel() or key.dtype is torch.bool:
        return False
    one, two = key.double().flatten(), value.double().flatten()
    if torch.equal(one.sort().values, two.sort().values):
        return True
    one, two = one - one.mean(), two - two.mean()
    size = float(one.norm() * two.norm())
    return size > 0 and abs(float(one @ two)) > 0.9999 * size
