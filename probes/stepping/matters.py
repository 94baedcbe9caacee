"""Whether anything hangs on a parameter."""

from __future__ import annotations

import torch
from torch import nn

from probes.compare import NOISES, gap, scale
from probes.experiment import LOSS, Experiment


def matters(experiment: Experiment, *parameters: nn.Parameter) -> bool:
    """Whether the loss, or without one an output, moves when the parameters are changed."""
    baseline = experiment.evaluated

    def change() -> None:
        for parameter in parameters:
            noise = torch.linspace(0.5, 1.5, parameter.numel(), device=parameter.device)
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
