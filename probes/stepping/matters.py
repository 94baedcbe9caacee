"""Whether anything hangs on a parameter."""

from __future__ import annotations

import torch
from torch import nn

from probes.compare import NOISES, gap, scale
from probes.experiment import LOSS, Experiment

GOLDEN = 0.6180339887498949  # whose multiples, of which the whole is left out, spread evenly


def matters(experiment: Experiment, *parameters: nn.Parameter) -> bool:
    """Whether the loss, or without one an output, moves when the parameters are changed.

    Each number by another amount, in no order along any axis: what is the same for all units, or
    a ramp over them, a softmax or a normalisation may take no notice of.
    """
    baseline = experiment.evaluated

    def change() -> None:
        for parameter in parameters:
            places = torch.arange(parameter.numel(), dtype=torch.double, device="cpu")
            noise = (0.5 + (places * GOLDEN) % 1).to(parameter)
            size = 1 + parameter.detach().abs().max()
            parameter.data.add_((noise.view_as(parameter) * size).to(parameter.dtype))

    before, ran = baseline.ran.outputs, baseline.run(experiment.batch, before=change)
    after, rounding = ran.outputs, max(baseline.ran.rounding, ran.rounding)
    looked = [LOSS] if LOSS in before else list(experiment.outputs)
    return any(
        gap(before[n], after[n])[0] > max(NOISES * baseline.noise, rounding * scale(before[n]))
        for n in looked
        if n in after
    )
