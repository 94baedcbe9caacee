"""The autograd graph of a refused step, with the way from its origin to the loss marked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nan_watch.inquest.hold import Repeatable
from nan_watch.origin.find import Origin
from nan_watch.origin.kernels import kernels
from nan_watch.origin.sources import here, module_names
from probes.finding import Finding
from probes.graph import Graph, Where, blamed, cut, traced
from probes.record import Recorder
from probes.replay import replay

MOST = 3  # graphs of a run


def chart(
    model: nn.Module, step: Repeatable, origin: Origin, optimizers: Sequence[Optimizer]
) -> Graph | None:
    """The graph of the step, cut to the way and its neighbours; None where nothing is minimised.

    The step runs once more; nothing outside is changed.
    """
    names = module_names(model)

    def place() -> Where:
        found = here(names)
        return found.site, found.source

    def run(under: Sequence[AbstractContextManager[Any]]) -> None:
        how = [kernels(unfused=origin.kernels == "unfused"), *under]
        replay(step.run, model, step.snapshot, under=how, optimizers=optimizers)

    graph = traced(run, model, place)
    if graph is None:
        return None
    steps = [each.sequence - origin.begin for each in origin.path if each.sequence is not None]
    named = origin.name if origin.given == "parameter" else None
    return cut(blamed(graph, steps, named))


def write_chart(recorder: Recorder, finding: Finding, graph: Graph) -> None:
    """The graph lies in the run folder, unless it holds as many as it may."""
    folder = recorder.folder / "graphs"
    number = len(list(folder.glob("*.json"))) if folder.is_dir() else 0
    if number < MOST:
        about = {"finding": finding.anchor, "code": finding.code, "step": finding.step}
        recorder.graph(f"graph-{number:03d}", {**about, **graph.as_json()})
