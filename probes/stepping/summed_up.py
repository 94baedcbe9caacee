"""Biases whose gradient is a sum that comes to nothing, though the outputs are taught."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from probes.bus import Bus, Kind, See
from probes.experiment import Experiment
from probes.modules import every_module
from probes.stepping.one_step import step_under

ADDING = (nn.Linear, _ConvNd, _NormBase, nn.LayerNorm, nn.GroupNorm)


def summed_up(experiment: Experiment, names: Iterable[str]) -> set[str]:
    """Those of these parameters that are added to what their module gives, which has a gradient.

    Over all places it adds up to zero, as where one score is pushed up and another down.
    """
    modules = dict(every_module(experiment.subject.model))
    few = {n for n in names if n.endswith(".bias") and isinstance(modules.get(n[:-5]), ADDING)}
    if not few:
        return set()
    heard = _Taught()
    with Bus(experiment.subject.model, [heard], whole=True) as heard.bus:
        step_under(experiment.subject, experiment.batch)
    return {name for name in few if name[:-5] in heard.taught}


class _Taught:
    """Notes the modules whose outputs get a gradient that is not zero."""

    def __init__(self) -> None:
        self.taught: set[str] = set()
        self.sees: Mapping[Kind, See] = {Kind.OUTPUT_GRAD: self.see}
        self.bus: Bus | None = None

    def see(self, number: int, grad: Tensor) -> None:
        assert self.bus is not None
        if bool((grad != 0).any()):
            self.taught.add(self.bus.sites[number].name.partition("[")[0])
